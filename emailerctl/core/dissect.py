"""Bytes of a message to its fields and parts: bounded, in one pass, and never a fault.

What comes back by mail is written by anybody.  The standard library's parser raises on some of
it (RFC 2231 numbers of 5,000 digits, nesting of a thousand levels); this one reads the little
that bounces need, and takes what makes no sense as text.
"""

import binascii
import quopri
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

LARGEST = 1024 * 1024  # octets: what is told stands in front of what was returned
_MOST_PARTS = 50
_DEEPEST = 4  # a list may have put the report into a message of its own
_MOST_FIELDS = 500
_LONGEST_VALUE = 4000  # characters; the pattern below takes their square
_FIELD = re.compile(rb"([!-9;-~]{1,200})[ \t]*:(.*)", re.DOTALL)
_PARAMETER = re.compile(
    r";\s*([A-Za-z0-9!#$&^_.+-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))"
)
_QUOTED_FROM = re.compile(rb">+From ")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


class Fields(tuple[tuple[str, str], ...]):
    """Header fields in order: names in lower case, values on one line."""

    __slots__ = ()

    def find(self, name: str) -> str:
        """Return the first value of *name*; empty where there is none."""
        return next(self.find_all(name), "")

    def find_all(self, name: str) -> Iterator[str]:
        """Yield every value of *name*."""
        return (value for known, value in self if known == name)


class Part(NamedTuple):
    """One part of a message, the message itself being the first.

    Attributes:
        kind: the content type, in lower case: `text/plain`.
        body: its transfer encoding undone; of a multipart what it was given as.
    """

    fields: Fields
    kind: str
    body: bytes


def dissect(raw: bytes) -> list[Part]:
    """Return the message and its parts in order; a message inside it stays whole."""
    parts: list[Part] = []
    waiting = [(raw[:LARGEST], 0)]
    while waiting and len(parts) < _MOST_PARTS:
        content, depth = waiting.pop()
        fields, body = read_fields(content)
        kind, boundary = _read_content_type(fields.find("content-type"))
        if kind.startswith("multipart/") and boundary and depth < _DEEPEST:
            inner = _split(body, boundary.encode("utf-8", "surrogateescape"))
            waiting += [(part, depth + 1) for part in reversed(inner)]
        else:
            body = _decode(body, fields.find("content-transfer-encoding"))
        parts.append(Part(fields, kind, body))
    return parts


def read_fields(block: bytes) -> tuple[Fields, bytes]:
    """Return the header fields that *block* begins with, and what follows the blank line.

    A line that is no field ends them too: it is then the first of the body.
    """
    at = 0
    if block.startswith((b"From ", b">From ")):  # an mbox's, or what a mailer left of it
        at = _end_of_line(block, 0)
    fields, at = _scan(block, at)
    if block[at : at + 2] == b"\r\n" or block[at : at + 1] == b"\n":
        at = _end_of_line(block, at)
    return fields, block[at:]


def read_blocks(body: bytes) -> list[Fields]:
    """Return the blocks of fields of a report (RFC 3464 2.1), which other lines part."""
    blocks: list[Fields] = []
    at = 0
    while at < len(body) and len(blocks) < _MOST_FIELDS:
        fields, end = _scan(body, at)
        if fields:
            blocks.append(fields)
        at = end if end > at else _end_of_line(body, at)
    return blocks


def _scan(octets: bytes, at: int) -> tuple[Fields, int]:
    """Return the fields that begin at *at*, and where the first line stands that is none."""
    found: list[tuple[bytes, list[bytes]]] = []
    while at < len(octets) and len(found) < _MOST_FIELDS:
        after = _end_of_line(octets, at)
        line = octets[at:after].rstrip(b"\r\n")
        if line[:1] in (b" ", b"\t") and found:
            found[-1][1].append(line)
        else:
            match = _FIELD.fullmatch(line)
            if match is None:
                break
            found.append((match[1], [match[2]]))
        at = after
    return Fields((name.decode().lower(), _join(lines)) for name, lines in found), at


def split_mbox(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the messages of a mailbox file (RFC 4155), each cut off at `LARGEST`.

    A line `From ` after an empty one begins a message.  Lines may come in pieces.
    """
    message: bytearray | None = None
    begins_line, is_after_blank = True, True
    for line in lines:
        if begins_line and is_after_blank and line.startswith(b"From "):
            if message is not None:
                yield bytes(message)
            message = bytearray()
        elif message is not None and len(message) < LARGEST:
            message += line[1:] if begins_line and _QUOTED_FROM.match(line) else line
        is_after_blank = begins_line and line in (b"\n", b"\r\n")
        begins_line = line.endswith(b"\n")
    if message is not None:
        yield bytes(message)


def to_text(octets: bytes) -> str:
    """Return text: UTF-8 where it is that, else as if each octet were a character."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _join(lines: Sequence[bytes]) -> str:
    """Return a value on one line."""
    text = to_text(b" ".join(line.strip() for line in lines))
    return text[:_LONGEST_VALUE].strip()


def _end_of_line(octets: bytes, at: int) -> int:
    """Return where the line after the one at *at* begins."""
    return octets.find(b"\n", at) + 1 or len(octets)


def _read_content_type(value: str) -> tuple[str, str]:
    """Return the type, `text/plain` where none is said, and the boundary."""
    kind = value.partition(";")[0].strip().lower() or "text/plain"
    for match in _PARAMETER.finditer(value):
        if match[1].lower() == "boundary":
            quoted = match[2]
            return kind, match[3] or re.sub(r"\\(.)", r"\1", quoted or "")
    return kind, ""


def _split(body: bytes, boundary: bytes) -> list[bytes]:
    """Return what stands between the lines of *boundary*."""
    delimiter = b"--" + boundary
    parts: list[bytes] = []
    start = -1
    at = 0
    while at < len(body) and len(parts) < _MOST_PARTS:
        after = _end_of_line(body, at)
        line = body[at:after].rstrip()
        if line in (delimiter, delimiter + b"--"):
            if start >= 0:
                parts.append(body[start:at].removesuffix(b"\n").removesuffix(b"\r"))
            start = after
            if line != delimiter:
                return parts
        at = after
    if 0 <= start < len(body) and len(parts) < _MOST_PARTS:  # cut off
        parts.append(body[start:])
    return parts


def _decode(body: bytes, encoding: str) -> bytes:
    """Undo a transfer encoding; what is not in it stays as it is."""
    match encoding.lower():
        case "base64":
            digits = _NOT_BASE64.sub(b"", body)
            try:
                return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))
            except binascii.Error:
                return body
        case "quoted-printable":
            return quopri.decodestring(body)
    return body
