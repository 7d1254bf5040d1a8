"""RFC 5322 bytes: what the standard library's parser reads back is what was asked for."""

import re
from dataclasses import dataclass, replace
from email import message_from_bytes, message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses, parsedate_to_datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emailerctl.core.mime import build_raw
from emailerctl.models.message import Attachment, Draft, Mailbox
from emailerctl.models.text import find_unencodable, find_unsafe
from tests import corpora

ID = "<msg_1C6K9Q2M7XW4T@example.org>"
DATE_MS = 1_795_514_400_123


@dataclass(frozen=True)
class ReadBack:
    """What the oracle understands."""

    message: EmailMessage
    text: str | None
    html: str | None
    files: list[tuple[str, str, str, bytes, str]]


def build(draft: Draft) -> bytes:
    raw = build_raw(draft, message_id_header=ID, date_ms=DATE_MS)
    check_wire(raw)
    assert raw == build_raw(draft, message_id_header=ID, date_ms=DATE_MS)
    return raw


def check_wire(raw: bytes, *, is_ascii: bool = True) -> None:
    assert raw.isascii() or not is_ascii
    assert b"\0" not in raw
    assert raw.endswith(b"\r\n")
    lines = raw.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    assert max(map(len, lines)) <= 998
    assert not any(line.startswith(b"From ") for line in lines)
    head = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert all(line.strip() for line in head)
    for line in head:
        if b"=?utf-8?" in line and not line.startswith(b"X-nnn"):
            assert len(line) <= 76
    assert len(re.findall(rb"=\?utf-8\?[qb]\?[^?\s]{65,}\?=", raw)) == 0


def read(raw: bytes) -> ReadBack:
    if raw.isascii():
        message = message_from_bytes(raw, policy=policy.default)
    else:
        message = message_from_string(raw.decode(), policy=policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
    bodies: dict[str, str] = {}
    files = []
    for part in message.walk():
        if part.is_multipart():
            continue
        if part.get_content_disposition() is None:
            bodies[part.get_content_subtype()] = part.get_content()
            if part["content-transfer-encoding"] == "quoted-printable":
                assert max(map(len, part.get_payload().split("\r\n"))) <= 76
        else:
            files.append(
                (
                    part["content-disposition"].params["filename"],
                    part.get_content_type(),
                    str(part.get_content_disposition()),
                    part.get_payload(decode=True),
                    str(part["content-id"] or ""),
                )
            )
    return ReadBack(message, bodies.get("plain"), bodies.get("html"), files)


def lines_of(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (text if text.endswith("\n") else f"{text}\n").replace("\n", "\r\n")


def mailboxes(message: EmailMessage, name: str) -> list[Mailbox]:
    """Return what two parsers agree on.

    Names are the older one's: the newer one keeps the space between two encoded words of a
    phrase in some versions of Python, against RFC 2047 6.2 (gh-92081).
    """
    lines = [value for key, value in message.raw_items() if key == name]
    unfolded = [re.sub(r"\r\n(?= )", "", value) for value in lines]
    found = [
        Mailbox(spec, str(make_header(decode_header(shown))))
        for shown, spec in getaddresses(unfolded)
    ]
    specs = [each.addr_spec for field in message.get_all(name, []) for each in field.addresses]
    assert specs == [mailbox.address for mailbox in found]
    return found


def assert_reads_back(draft: Draft) -> None:
    back = read(build(draft))
    message = back.message
    assert mailboxes(message, "From") == [draft.header_from]
    assert mailboxes(message, "To") == list(draft.to)
    assert mailboxes(message, "Cc") == list(draft.cc)
    assert mailboxes(message, "Reply-To") == list(draft.reply_to)
    assert message["bcc"] is None
    assert (message["subject"] or "") == draft.subject
    for name, value in draft.headers.items():
        assert message.get_all(name) == [value]
    assert message["message-id"] == ID
    assert parsedate_to_datetime(message["date"]).timestamp() == DATE_MS // 1000
    assert back.text == (None if draft.text is None else lines_of(draft.text))
    assert back.html == (None if draft.html is None else lines_of(draft.html))
    inline_first = sorted(
        draft.attachments, key=lambda f: not f.content_id or draft.html is None
    )
    assert back.files == [
        (
            file.filename,
            file.content_type,
            "inline" if file.is_inline else "attachment",
            file.content,
            f"<{file.content_id}>" if file.content_id else "",
        )
        for file in inline_first
    ]


def is_safe(text: str) -> bool:
    return not find_unsafe(text)


def is_name(text: str) -> bool:
    return is_safe(text) and text == text.strip()


odd_words = st.sampled_from(
    [
        *'_="\\<>,():;@. ',
        *("=?utf-8?q?x?=", "=?", "?=", "  ", "x" * 90),
        *("ü", "ß ", "日本語", "😀", "é", "\xa0", "\u200f"),
    ]
)
odd = st.lists(st.one_of(odd_words, st.text(max_size=8)), max_size=12).map("".join)
header_text = st.one_of(odd, st.text(max_size=120)).filter(is_safe)
names = header_text.map(str.strip).filter(is_name).map(lambda name: name[:256].strip())
addresses = st.sampled_from(
    ["ann@example.org", "o'neil+x@xn--bcher-kva.example", "a" * 64 + "@" + "b" * 60 + ".org"]
)
a_mailbox = st.builds(Mailbox, addresses, names)
some_mailboxes = st.lists(a_mailbox, max_size=6).map(tuple)
body_words = st.sampled_from(
    [
        *("\n", "\r\n", "\r", " \n", "\t\n", "\n.\n", "\n..", "\nFrom ", "From ", "\n>From "),
        *("--", "=", "=20", " ", "x" * 75, "x" * 76, "x" * 999, "--=_a_", "-- \n", "a. "),
        *("ü", "日本語", "\x0c", "\x1b", "\u2028", "\x85"),
    ]
)
bodies = st.lists(
    st.one_of(body_words, st.text(max_size=20)).filter(lambda text: not find_unencodable(text)),
    max_size=20,
).map("".join)
header_names = st.sampled_from(["X-A", "References", "X-" + "n" * 74, "Auto-Submitted"])
header_values = header_text.map(str.strip).filter(bool)
file_names = st.one_of(
    st.sampled_from(
        ["a.pdf", 'q"uo\\te.pdf', "=?utf-8?q?x?=.pdf", "x" * 200 + ".pdf", "a b;c=d"]
    ),
    st.sampled_from(["Grüße.pdf", "日本語" * 20 + ".pdf", "ü" * 120, "100%'*.pdf", "a.ü"]),
    st.text(min_size=1, max_size=60).filter(is_name),
)
files = st.builds(
    Attachment,
    filename=file_names,
    content_type=st.sampled_from(["application/pdf", "image/png", "text/plain"]),
    content=st.one_of(st.binary(max_size=300), st.just(b"x" * 57), st.just(b"From \r\n.\r\n")),
    content_id=st.sampled_from(["", "logo", "logo@example.org"]),
    is_inline=st.booleans(),
)
drafts = st.builds(
    Draft,
    header_from=a_mailbox,
    to=some_mailboxes,
    cc=some_mailboxes,
    reply_to=some_mailboxes,
    subject=header_text,
    text=st.none() | bodies,
    html=st.none() | bodies,
    headers=st.dictionaries(header_names, header_values, max_size=3),
    attachments=st.lists(files, max_size=3).map(tuple),
).filter(lambda draft: draft.text is not None or draft.html is not None)

PLAIN = Draft(header_from=Mailbox("a@example.org"), to=(Mailbox("b@example.org"),), text="Hi")


@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(drafts)
@example(replace(PLAIN, text=""))
@example(replace(PLAIN, text="From " + "ü" + "x" * 70 + "\nFrom From From ü" + "From " * 40))
@example(replace(PLAIN, subject="x" * 998))
@example(replace(PLAIN, subject=" a  b "))
@example(replace(PLAIN, subject="a" + "日本語" * 30))
@example(replace(PLAIN, subject="ab c" * 9 + "üü" + "ab c" * 12 + "日"))
def test_what_is_read_back_is_what_was_asked_for(draft: Draft) -> None:
    assert_reads_back(draft)


@settings(max_examples=60)
@given(st.one_of(bodies, st.text(max_size=300)).filter(lambda text: not find_unencodable(text)))
def test_any_body_survives_alone_and_beside_another(text: str) -> None:
    assert_reads_back(replace(PLAIN, text=text))
    assert_reads_back(replace(PLAIN, text=text, html=text))


def test_the_whole_of_a_usual_message() -> None:
    """The bytes are stored and their hash recorded: a change of them is a decision."""
    draft = Draft(
        header_from=Mailbox("no-reply@example.org", "Example, Inc."),
        to=(Mailbox("ann@example.org", "Ann Example"), Mailbox("jo@example.org", "Jörg")),
        subject="Grüße",
        text="Hi Ann,\nvielen Dank für die Bestellung\n",
        html="<p>Hi Ann</p>",
        headers={"Auto-Submitted": "auto-generated"},
    )

    assert build(draft).decode().replace("\r\n", "\n") == (
        """\
Date: Tue, 24 Nov 2026 10:00:00 +0000
From: "Example, Inc." <no-reply@example.org>
To: Ann Example <ann@example.org>, =?utf-8?b?SsO2cmc=?= <jo@example.org>
Subject: =?utf-8?b?R3LDvMOfZQ==?=
Message-ID: <msg_1C6K9Q2M7XW4T@example.org>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/alternative;
 boundary="=_a_c653ffadcbfa6aed4b0db2cf"

--=_a_c653ffadcbfa6aed4b0db2cf
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

Hi Ann,
vielen Dank f=C3=BCr die Bestellung

--=_a_c653ffadcbfa6aed4b0db2cf
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: 7bit

<p>Hi Ann</p>

--=_a_c653ffadcbfa6aed4b0db2cf--
"""
    )


def structure(message: EmailMessage) -> object:
    if message.is_multipart():
        return (
            message.get_content_subtype(),
            [structure(part) for part in message.iter_parts()],
        )
    return message.get_content_type()


PDF = Attachment(filename="a.pdf", content_type="application/pdf", content=b"%PDF")
LOGO = Attachment(
    filename="l.png", content_type="image/png", content=b"PNG", content_id="l", is_inline=True
)


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (PLAIN, "text/plain"),
        (replace(PLAIN, text=None, html="x"), "text/html"),
        (replace(PLAIN, html="x"), ("alternative", ["text/plain", "text/html"])),
        (replace(PLAIN, attachments=(PDF,)), ("mixed", ["text/plain", "application/pdf"])),
        (replace(PLAIN, attachments=(LOGO,)), ("mixed", ["text/plain", "image/png"])),
        (
            replace(PLAIN, text=None, html="x", attachments=(LOGO,)),
            ("related", ["text/html", "image/png"]),
        ),
        (
            replace(PLAIN, html="x", attachments=(PDF, LOGO)),
            (
                "mixed",
                [
                    (
                        "alternative",
                        ["text/plain", ("related", ["text/html", "image/png"])],
                    ),
                    "application/pdf",
                ],
            ),
        ),
        (replace(PLAIN, text=None), "text/plain"),
    ],
)
def test_the_tree_is_as_deep_as_it_must_be(draft: Draft, expected: object) -> None:
    assert structure(read(build(draft)).message) == expected


def test_a_boundary_occurs_in_no_part() -> None:
    """A caller who guessed the mark of this very message gets another one."""
    html = build(replace(PLAIN, html="x"))
    mark = re.search(rb'boundary="=_a_(\w+)"', html)
    assert mark is not None
    draft = replace(PLAIN, html=f"x\n--=_a_{mark[1].decode()}--\ny")

    assert_reads_back(draft)
    assert html.count(mark[1]) == 4
    assert build(draft).count(mark[1]) == 1


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain\n" * 100, "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("From here", "quoted-printable"),
        ("a\nFrom here", "quoted-printable"),
        ("Vielen Dank für Ihre Bestellung", "quoted-printable"),
        ("\x1b[31m" + "red" * 10, "quoted-printable"),
        ("日本語の本文", "base64"),
    ],
)
def test_the_encoding_is_the_one_that_leaves_most_readable(text: str, encoding: str) -> None:
    message = read(build(replace(PLAIN, text=text))).message

    assert message["content-transfer-encoding"] == encoding


def test_a_from_line_is_hidden_wherever_its_quoted_line_must_break() -> None:
    for n in range(40, 80):
        for tail in ("üüüüüüüü", "From From From From " * 3 + "ü"):
            assert_reads_back(replace(PLAIN, text=f"From {'x' * n}{tail}"))


def test_addresses_that_need_smtputf8_are_utf8_and_nothing_else_is() -> None:
    draft = replace(
        PLAIN,
        header_from=Mailbox("jörg@example.org", "Jörg"),
        to=(Mailbox("用户@xn--bcher-kva.example"),),
        subject="Grüße",
        text="Grüße",
    )
    raw = build_raw(draft, message_id_header=ID, date_ms=DATE_MS)
    check_wire(raw, is_ascii=False)
    back = read(raw)

    assert mailboxes(back.message, "From") == [draft.header_from]
    assert mailboxes(back.message, "To") == list(draft.to)
    assert [line for line in raw.split(b"\r\n") if not line.isascii()] == [
        "From: =?utf-8?b?SsO2cmc=?= <jörg@example.org>".encode(),
        "To: 用户@xn--bcher-kva.example".encode(),
    ]


def test_fifty_recipients_fold_between_addresses() -> None:
    to = tuple(Mailbox(f"recipient{n}@example.org", f"Recipient No. {n}") for n in range(50))
    raw = build(replace(PLAIN, to=to))

    assert mailboxes(read(raw).message, "To") == list(to)
    assert max(map(len, raw.split(b"\r\n"))) <= 78


def test_a_long_ascii_header_keeps_its_spaces_and_words() -> None:
    references = " ".join(f"<{n:040}@example.org>" for n in range(30))
    url = "<https://example.org/" + "x" * 800 + ">"
    draft = replace(PLAIN, headers={"References": references, "List-Unsubscribe": url})
    raw = build(draft)

    assert read(raw).message["references"] == references
    assert f"List-Unsubscribe: {url}\r\n".encode() in raw


@pytest.mark.parametrize("date_ms", [0, 951_782_400_000, 4_102_444_800_999])
def test_the_date_is_english_utc(date_ms: int) -> None:
    raw = build_raw(PLAIN, message_id_header=ID, date_ms=date_ms)
    date = message_from_bytes(raw, policy=policy.default)["date"]

    assert str(date).endswith(" +0000")
    assert parsedate_to_datetime(date).timestamp() == date_ms // 1000


def test_naughty_strings_survive_everywhere() -> None:
    count = 0
    for text in corpora.naughty_strings():
        line = text.strip() if not find_unsafe(text) else ""
        count += bool(line)
        assert_reads_back(
            replace(
                PLAIN,
                header_from=Mailbox("a@example.org", line[:256].strip()),
                subject=line,
                text=text,
                headers={"X-Naughty": line} if line else {},
                attachments=(replace(PDF, filename=line[:200].strip() or "a.pdf"),),
            )
        )

    assert count > 400
