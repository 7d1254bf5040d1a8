"""Mail that comes back: what each mailer's shape is read as, and that nothing makes it fail."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.core.dissect import dissect, read_blocks
from emailerctl.core.returned import Sort, read_returned
from emailerctl.models.verp import Signer, build_return_path, find_ids
from emailerctl.providers.base import RejectReason, ReportKind
from tests.returned_mail import NAMES, fill

BOUNCED, DEFERRED = ReportKind.BOUNCED, ReportKind.DEFERRED

WORDS = {
    "postfix-failed": (BOUNCED, "5.1.1", True),
    "postfix-delayed": (DEFERRED, "4.4.1", False),
    "postfix-delivered": (ReportKind.DELIVERED, "2.0.0", False),
    "postfix-relayed": (ReportKind.SENT, "2.0.0", False),
    "exim-words": (BOUNCED, "", True),
    "exim-report": (BOUNCED, "5.1.1", True),
    "exim-delayed": (DEFERRED, "4.2.1", False),
    "m365-failed": (BOUNCED, "5.1.10", True),
    "gmail-failed": (BOUNCED, "5.1.1", True),
    "gmail-full": (BOUNCED, "5.2.2", False),
    "qmail-words": (BOUNCED, "5.1.1", True),
    "sendmail-words": (BOUNCED, "5.1.1", True),
    "sendmail-report": (BOUNCED, "5.7.1", False),
    "yahoo-complaint": (ReportKind.COMPLAINED, "", False),
    "fraud-complaint": (ReportKind.COMPLAINED, "", False),
    "not-spam": (ReportKind.UNKNOWN, "", False),
}
SORTS = {
    "vacation": Sort.AUTO_REPLY,
    "exchange-away": Sort.AUTO_REPLY,
    "receipt": Sort.RECEIPT,
    "person": Sort.OTHER,
}
COMPLAINTS = {"yahoo-complaint", "comcast-complaint", "fraud-complaint", "not-spam"}


@pytest.mark.parametrize("name", WORDS)
def test_each_shape_says_what_became_of_whom(name: str) -> None:
    (word,) = read_returned(fill(name)).words

    assert (word.kind, word.status, word.is_hard) == WORDS[name]
    assert word.addresses == ("ann@example.org",)
    assert "\n" not in word.reply


@pytest.mark.parametrize("name", NAMES)
def test_each_shape_is_sorted(name: str) -> None:
    expected = Sort.COMPLAINT if name in COMPLAINTS else SORTS.get(name, Sort.BOUNCE)

    assert read_returned(fill(name)).sort is expected
    if name in SORTS:
        assert read_returned(fill(name)).words == ()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SORTS])
def test_what_it_is_about_is_found(name: str) -> None:
    """The id of the return path, where the shape has it, and the Message-ID."""
    text = Signer(b"key").sign(4711, n=1, attempt=2)
    raw = fill(
        name,
        path=build_return_path("bounces@example.org", text),
        message_id="msg_1@example.com",
    )

    returned = read_returned(raw)

    ids = [found for clue in returned.clues for found in find_ids(clue)]
    assert set(ids) == ({text} if name != "comcast-complaint" else set())
    assert returned.message_ids == (("msg_1@example.com",) if name != "exim-delayed" else ())


def test_several_recipients_have_a_word_each() -> None:
    words = read_returned(fill("postfix-two")).words

    assert [(word.addresses, word.is_hard, word.reason) for word in words] == [
        (("ann@example.org",), True, RejectReason.INVALID),
        (("bob@example.org",), False, RejectReason.BOUNCED),
    ]


def test_who_complains_may_be_kept_back() -> None:
    (word,) = read_returned(fill("comcast-complaint")).words

    assert (word.kind, word.addresses, word.reason) == (
        ReportKind.COMPLAINED,
        (),
        RejectReason.SPAM,
    )


def test_the_envelope_id_is_a_clue() -> None:
    assert "x" * 31 in read_returned(fill("postfix-failed", envelope_id="x" * 31)).clues


def test_a_report_inside_a_list_s_message_is_found() -> None:
    """Some gateways add a part of their own; a forwarded one is a person's and stays whole."""
    inner = fill("postfix-failed")
    wrapped = (
        b"From: list@example.net\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n"
        b"--outer\r\n%b\r\n--outer\r\nContent-Type: text/plain\r\n\r\nfooter\r\n--outer--\r\n"
    )
    forwarded = (
        b"From: ann@example.net\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n"
        b"--outer\r\nContent-Type: message/rfc822\r\n\r\n%b\r\n--outer--\r\n"
    )

    assert len(read_returned(wrapped % inner).words) == 1
    assert read_returned(forwarded % inner).sort is Sort.OTHER


@pytest.mark.parametrize(
    ("block", "kind", "addresses"),
    [
        ("Final-Recipient: rfc822;a@b.example\nStatus: 5.0.0", BOUNCED, ("a@b.example",)),
        ("Final-Recipient: rfc822;a@b.example\nStatus: 4.4.1 (no)", DEFERRED, ("a@b.example",)),
        ("Final-Recipient: a@b.example\nAction: FAILED (really)", BOUNCED, ("a@b.example",)),
        ("Action: failed", BOUNCED, ()),
        ("Action: vanished", ReportKind.UNKNOWN, ()),
        ("Action: expanded", ReportKind.SENT, ()),
        (
            "Original-Recipient: rfc822;<A@b.example>\nFinal-Recipient: utf-8; ä@b.example",
            ReportKind.UNKNOWN,
            ("A@b.example", "ä@b.example"),
        ),
    ],
)
def test_blocks_that_are_not_as_they_should_be(
    block: str, kind: ReportKind, addresses: tuple[str, ...]
) -> None:
    raw = (
        "Content-Type: multipart/report; boundary=b\n\n--b\n"
        f"Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n{block}\n"
    )  # and cut off

    (word,) = read_returned(raw.encode()).words

    assert (word.kind, word.addresses) == (kind, addresses)


def test_an_encoded_report_is_decoded() -> None:
    raw = (
        b'Content-Type: MULTIPART/Report; boundary="a \\" b"\n\n--a " b\n'
        b"Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: BASE64\n\n"
        b"QWN0aW9uOiBmYWlsZWQKU3RhdHVzOiA1LjEuMQpGaW5hbC1SZWNpcGllbnQ6IHJmYzgyMjsgYUBiLmV4\nYW1wbGUK"
        b'\n--a " b--\n'
    )

    (word,) = read_returned(raw).words

    assert (word.addresses, word.is_hard) == (("a@b.example",), True)


def test_a_mailer_that_says_nothing_useful_says_nothing() -> None:
    returned = read_returned(b"From: MAILER-DAEMON\n\nSomething went wrong.\n")

    assert (returned.sort, returned.words) == (Sort.BOUNCE, ())


def test_an_address_without_a_verdict_is_left_open() -> None:
    raw = (
        b"From: postmaster@example.net\n\nYour mail to\n\n<ann@example.org>\n\nis somewhere.\n"
    )

    (word,) = read_returned(raw).words

    assert (word.kind, word.addresses) == (ReportKind.UNKNOWN, ("ann@example.org",))


_PIECES = st.sampled_from(
    [
        b"Content-Type: multipart/report; boundary=b\r\n",
        b"Content-Type: message/delivery-status\n",
        b"Content-Type: message/feedback-report\n",
        b"Content-Type: message/rfc822\n",
        b"Content-Transfer-Encoding: base64\n",
        b"Content-Transfer-Encoding: quoted-printable\n",
        b"Content-Type: multipart/mixed; boundary*" + b"9" * 5000 + b"*=x\n",
        b"X-Failed-Recipients: a@b.example\n",
        b"From: MAILER-DAEMON\n",
        b"\r\n--b\r\n",
        b"--b--",
        b"\n\n",
        b" ",
        b"Final-Recipient: rfc822; a@b.example\n",
        b"Action: failed\n",
        b"Status: 5.1.1\n",
        b"Diagnostic-Code: smtp; 550 ",
        b"Hi. This is the\n\n<a@b.example>:\n",
        b"--- Below this line is a copy\n",
        b"Message-ID: <x@y.example>\n",
        b"\xff\xfe\x00",
    ]
)


@given(st.binary(max_size=2000) | st.lists(_PIECES | st.binary(max_size=20)).map(b"".join))
@settings(max_examples=400)
def test_arbitrary_bytes_never_raise(raw: bytes) -> None:
    returned = read_returned(raw)

    assert isinstance(returned.sort, Sort)
    assert dissect(raw)
    assert all("\n" not in value for block in read_blocks(raw) for _, value in block)


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: multipart/x; boundary=b\n\n" + b"--b\n" * 200_000,
        b"".join(
            b"Content-Type: multipart/x; boundary=b%d\n\n--b%d\n" % (n, n)
            for n in range(20_000)
        ),
        b"Content-Type: x" + b';x="\\"' * 150_000,
        b"From: mailer-daemon\n\n" + b"<a@b.example>:\n" * 60_000,
        b"From: mailer-daemon\n\n" + b"user " * 200_000,
        b"From: mailer-daemon\n\n" + b"- " * 500_000,
        b"X: " + b"<" * 1_000_000,
        b"\n" * 1_000_000,
        b"a" * 1_000_000,
        b"Content-Type: message/delivery-status\n\n" + b"x\n" * 500_000,
        b"Content-Type: message/delivery-status\n\n" + b"A: b\n\n" * 160_000,
    ],
    ids=range(11),
)
@pytest.mark.timeout(10)
def test_hostile_megabytes_cost_no_more_than_their_size(raw: bytes) -> None:
    read_returned(raw)
