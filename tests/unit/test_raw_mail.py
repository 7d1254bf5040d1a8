"""Mail as programs hand it to sendmail, in fields: nothing mangled, no fault whatever comes."""

from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.core.raw_mail import Envelope, read_mail
from emailerctl.errors import BadRequest

ENVELOPE = Envelope(
    recipients=(), reads_headers=True, domain="example.org", aliases={"root": "ops@example.net"}
)
CRON = b"""From: root (Cron Daemon)
To: root
Cc: ann, Bob <bob@example.com>
Subject: Cron <root@host> =?utf-8?q?t=C3=A4glich?=
X-Cron-Env: <SHELL=/bin/sh>
Received: from nowhere
Date: Mon, 1 Jan 2024 00:00:00 +0000

first line
"""


def args(*recipients: str, reads_headers: bool = False) -> Envelope:
    return Envelope(
        recipients=recipients,
        reads_headers=reads_headers,
        sender="www",
        full_name="The Web",
        domain="example.org",
        aliases={"root": "ops@example.net"},
    )


def addresses(fields: dict[str, object], kind: str) -> list[str]:
    return [one["email"] for one in fields.get(kind, [])]  # type: ignore[attr-defined]


def test_what_cron_writes() -> None:
    mail = read_mail(CRON, ENVELOPE)

    assert mail.key is None  # two equal reports are two
    assert mail.fields == {
        "from": {"email": "ops@example.net", "name": "Cron Daemon"},
        "to": [{"email": "ops@example.net"}],
        "cc": [{"email": "ann@example.org"}, {"email": "bob@example.com", "name": "Bob"}],
        "subject": "Cron <root@host> täglich",
        "headers": {"X-Cron-Env": "<SHELL=/bin/sh>"},
        "text": "first line\n",
    }


def test_arguments_and_header_fields_as_recipients() -> None:
    alone = read_mail(CRON, args("bob@example.com", "eve@example.com")).fields
    assert addresses(alone, "to") == []
    assert addresses(alone, "cc") == ["bob@example.com"]
    assert addresses(alone, "bcc") == ["eve@example.com"]
    both = read_mail(CRON, args("eve", reads_headers=True)).fields
    assert addresses(both, "to") == ["ops@example.net"]
    assert addresses(both, "bcc") == ["eve@example.org"]
    nameless = read_mail(b"Subject: x\n\nx", args("root")).fields
    assert nameless["from"] == {"email": "www@example.org", "name": "The Web"}


def test_the_same_mail_to_the_same_people_has_the_same_key() -> None:
    with_id = b"Message-ID: <a@b>\n" + CRON
    key = read_mail(with_id, args("a", "b")).key

    assert key == read_mail(with_id, args("b", "a")).key
    assert key != read_mail(with_id, args("a")).key
    assert key != read_mail(with_id.replace(b"a@b", b"c@d"), args("a", "b")).key
    outright = read_mail(b"X-Emailer-Key: order-1\nX-Emailer-Tags: a, b\n" + CRON, args("a"))
    assert (outright.key, outright.fields["tags"]) == ("order-1", ["a", "b"])


def test_parts_become_text_html_and_attachments() -> None:
    made = EmailMessage()
    made["Subject"] = "Grüße"
    made.set_content("Grüße\n", charset="iso-8859-1")
    made.add_alternative("<p>ü<img src=cid:x></p>", subtype="html")
    made.get_payload()[1].add_related(b"GIF", "image", "gif", cid="<x>")  # type: ignore[index,union-attr]
    made.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="ä.pdf")
    inner = EmailMessage()
    inner.set_content("inside")
    made.add_attachment(inner)

    fields = read_mail(made.as_bytes(), args("a")).fields

    assert (fields["text"], fields["html"]) == ("Grüße\n", "<p>ü<img src=cid:x></p>\n")
    image, pdf, mail = fields["attachments"]  # type: ignore[misc]
    assert (image["content_id"], image["content_type"]) == ("x", "image/gif")
    assert (pdf["filename"], pdf["content_type"]) == ("ä.pdf", "application/pdf")
    assert mail["filename"] == "message.eml"


@pytest.mark.parametrize(
    "kind", ["multipart/signed", "multipart/encrypted", "application/pkcs7-mime"]
)
def test_what_would_be_mangled_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest, match="would not survive"):
        read_mail(f"Content-Type: {kind}; boundary=x\n\n--x\n\nx\n--x--\n".encode(), args("a"))


@given(
    st.binary(max_size=400), st.sampled_from([b"", CRON[:90], b"Content-Type: multipart/x;"])
)
def test_whatever_comes_is_a_mail_or_refused(octets: bytes, before: bytes) -> None:
    try:
        mail = read_mail(before + octets, ENVELOPE)
    except BadRequest:
        return
    assert set(mail.fields) <= {
        "from", "to", "cc", "bcc", "reply_to", "subject", "headers", "tags", "text", "html",
        "attachments",
    }  # fmt: skip
