"""Which header fields a caller may set, and what may stand in them (T-05; RFC 5322 3.6)."""

import re

from emailerctl.models.text import parse_line, shorten

_NAME = re.compile(r"[!-9;-~]{1,76}")  # ftext, RFC 5322 3.6.8: printable ASCII but the colon

# A word can't be folded; with the longest name it stays below the 998 octets of a line.
WORD_OCTETS = 900

_HAS_A_FIELD = {
    "from": "from",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "subject": "subject",
}
# Structure and identity, which we write, and trace, which the hosts on the way write.
_REFUSED = frozenset(
    {
        "apparently-to",
        "authentication-results",
        "bimi-selector",
        "date",
        "delivered-to",
        "dkim-signature",
        "domainkey-signature",
        "envelope-to",
        "errors-to",
        "message-id",
        "mime-version",
        "original-recipient",
        "return-path",
        "sender",
        "x-original-to",
    }
)
_REFUSED_FAMILIES = ("arc-", "content-", "received", "resent-", "x-emailer-", "x-received")


def parse_header_name(name: str) -> str:
    """Return *name* if a caller may set the header field of that name.

    Raises:
        ValueError: not a field name, or one that is not the caller's; the sentence says why.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{shorten(name)} is not a header name; take 1 to 76 printable ASCII characters "
            "without space and colon (RFC 5322 2.2)"
        )
    lower = name.lower()
    if lower in _HAS_A_FIELD:
        raise ValueError(
            f'{shorten(name)} can\'t be set here; use the field "{_HAS_A_FIELD[lower]}"'
        )
    if lower in _REFUSED or lower.startswith(_REFUSED_FAMILIES):
        raise ValueError(
            f"{shorten(name)} is written by us or on the way, never by the sender; remove it"
        )
    return name


def parse_header_value(value: object, *, max_octets: int) -> str:
    """Return *value*, without space around it, if it can be a header field's.

    Raises:
        ValueError: it can't; the sentence says why.
    """
    text = parse_line(value).strip()
    if not text:
        raise ValueError("is empty; leave the header out")
    octets = len(text.encode())
    if octets > max_octets:
        raise ValueError(
            f"{shorten(text)} has {octets} octets; a header has at most {max_octets}"
        )
    if octets > WORD_OCTETS and max(map(len, text.split(" "))) > WORD_OCTETS:
        raise ValueError(
            f"{shorten(text)} has more than {WORD_OCTETS} characters without a space"
        )
    return text
