"""A draft to RFC 5322 bytes, built once, at acceptance (delivery.md §5).

Joined from prepared parts, since the standard library's generator costs a hundred times as
much; in the tests its parser is the oracle.  What comes out is the same for the same arguments:
7 bits (but for addresses that need SMTPUTF8), CRLF only, no line over 998 octets, no Bcc.

Text is taken as lines: every line ending becomes CRLF, and the last line gets one too.
"""

import binascii
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import quote

from emailerctl.models.message import Attachment, Draft, Mailbox

_FOLD_AT = 76  # RFC 2047 2 for encoded words; RFC 5322 2.1.1 would prefer 78
_MAX_LINE = 998  # RFC 5322 2.1.1
_LONG_WORD = 900  # leaves room for any header name

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())  # noqa: SIM905

_PLAIN_OCTETS = bytes([*b"\t\r\n", *range(0x20, 0x7F)])
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORDS = re.compile(r"[!-~]+(?: [!-~]+)*")
_PRINTABLE = re.compile(r"[ -~]*")
_QUOTES = re.compile(r'(["\\])')
_FROM_LINE = re.compile(rb"(?m)^From [^\r\n]*")
# Beyond what RFC 2047 5 (3) lets stand in a phrase; a space becomes an underscore.
_Q_UNSAFE = re.compile(rb"[^ A-Za-z0-9!*+/-]")
_Q_CONTINUATIONS = ("=8", "=9", "=A", "=B")  # of an octet that does not begin a character
_ATTRIBUTE_SAFE = "!#$&+^`|"  # RFC 2231 attribute-char beyond letters, digits and _.-~

# Room for text in an encoded word (RFC 2047 2): the first fits beside "Reply-To: ".  After
# a longer name there is less, but always enough for one character.
_ENCODED_CHARACTERS = 52
_FEWEST_ENCODED = 16
_ENCODED_FRAME = len("=?utf-8?b??=")
_SECTION_CHARACTERS = 60


def build_raw(draft: Draft, *, message_id_header: str, date_ms: int) -> bytes:
    """Return the bytes of *draft*; each attempt sends exactly them.

    Args:
        draft: validated; names, subject and header values hold no control characters.
        message_id_header: `<public id@From's domain>`, whole.
        date_ms: for the Date field; the fraction of a second is dropped.
    """
    head = [f"Date: {_date(date_ms // 1000)}"]
    head.append(_address_field("From", (draft.header_from,)))
    if draft.to:
        head.append(_address_field("To", draft.to))
    if draft.cc:
        head.append(_address_field("Cc", draft.cc))
    if draft.reply_to:
        head.append(_address_field("Reply-To", draft.reply_to))
    if draft.subject:
        head.append(_text_field("Subject", draft.subject))
    head.append(f"Message-ID: {message_id_header}")
    head += [_text_field(name, value) for name, value in draft.headers.items()]
    if draft.list_unsubscribe:
        # RFC 2369, RFC 8058: a structured field, never encoded, on one line that nobody folds
        head.append(f"List-Unsubscribe: <{draft.list_unsubscribe}>")
        head.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    head.append("MIME-Version: 1.0\r\n")
    return "\r\n".join(head).encode() + _build_content(draft, message_id_header)


# Structure


def _build_content(draft: Draft, seed: str) -> bytes:
    """Return the body with its own header fields: one part, or a tree of them."""
    text = None if draft.text is None else _text_part(b"plain", draft.text)
    html = None if draft.html is None else _text_part(b"html", draft.html)
    if text is None and html is None:
        text = _text_part(b"plain", "")
    if not draft.attachments and (text is None or html is None):
        return text or html or b""
    mark = _choose_mark(seed, [part for part in (text, html) if part])
    related = [file for file in draft.attachments if file.content_id and html]
    mixed = [file for file in draft.attachments if file not in related]
    if related and html:
        html = _multipart(b"related", mark, [html, *map(_file_part, related)])
    body = _multipart(b"alternative", mark, [text, html]) if text and html else text or html
    if mixed and body:
        body = _multipart(b"mixed", mark, [body, *map(_file_part, mixed)])
    return body or b""


def _choose_mark(seed: str, parts: Sequence[bytes]) -> bytes:
    """Return what makes the boundaries unique: it depends on *seed*, and occurs in no part.

    Only parts as written could hold it: neither base64 nor quoted-printable can have `=_`.
    """
    salt = 0
    while True:
        mark = blake2b(f"{salt}{seed}".encode(), digest_size=12).hexdigest().encode()
        if not any(mark in part for part in parts):
            return mark
        salt += 1


def _multipart(subtype: bytes, mark: bytes, parts: Iterable[bytes]) -> bytes:
    boundary = b"=_%c_%b" % (subtype[0], mark)  # the letter: a tree has each subtype once
    between = b"\r\n--%b\r\n" % boundary
    return b'Content-Type: multipart/%b;\r\n boundary="%b"\r\n%b%b\r\n--%b--\r\n' % (
        subtype,
        boundary,
        between,
        between.join(parts),
        boundary,
    )


# Parts


def _text_part(subtype: bytes, text: str) -> bytes:
    encoding, body = _encode_text(text)
    return (
        b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n%b'
        % (subtype, encoding, body)
    )


def _encode_text(text: str) -> tuple[bytes, bytes]:
    """Return the transfer encoding and *text* in it: the one that leaves most as it is."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    octets = text.replace("\n", "\r\n").encode()
    strange = len(octets.translate(None, _PLAIN_OCTETS))
    if not strange and _is_sendable(octets):
        return b"7bit", octets
    if strange * 6 > len(octets):  # quoted-printable would be the longer one
        return b"base64", _wrap_base64(octets)
    quoted = binascii.b2a_qp(octets, istext=True)
    if b"From " in quoted:
        quoted = _FROM_LINE.sub(_shield, quoted)
    return b"quoted-printable", quoted


def _is_sendable(octets: bytes) -> bool:
    """Tell whether plain ASCII survives as it is: no overlong line, none that begins "From ".

    Mailbox files are split at such lines; what writes them puts a > before, which breaks
    signatures.
    """
    if octets.startswith(b"From ") or b"\nFrom " in octets:
        return False
    return len(octets) <= _MAX_LINE or max(map(len, octets.split(b"\r\n"))) <= _MAX_LINE


def _shield(found: re.Match[bytes]) -> bytes:
    """Hide "From " at the start of a quoted-printable line, which stays within 76."""
    line = b"=46" + found[0][1:]
    if len(line) <= _FOLD_AT:
        return line
    cut = _FOLD_AT - 6
    while b"=" in line[cut - 2 : cut] or line.startswith(b"From ", cut):
        cut -= 1
    return line[:cut] + b"=\r\n" + line[cut:]


def _file_part(file: Attachment) -> bytes:
    disposition = "inline" if file.is_inline else "attachment"
    head = [
        _fold("Content-Type", file.content_type.split(" ")),
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: {disposition};\r\n {_filename(file.filename)}",
    ]
    if file.content_id:
        head.append(f"Content-ID: <{file.content_id}>")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + _wrap_base64(file.content)


def _filename(name: str) -> str:
    """Return the parameter: a quoted string, or RFC 2231, in sections if long.

    Mailers disagree about backslashes in quoted strings, and decode what looks encoded.
    """
    if _PRINTABLE.fullmatch(name) and "=?" not in name and '"' not in name and "\\" not in name:
        return f'filename="{name}"'
    encoded = quote(name, safe=_ATTRIBUTE_SAFE)
    if len(encoded) <= _SECTION_CHARACTERS:
        return f"filename*=utf-8''{encoded}"
    sections: list[str] = []
    while encoded:
        cut = _SECTION_CHARACTERS
        while "%" in encoded[cut - 2 : cut] and len(encoded) > cut:
            cut -= 1
        start = "" if sections else "utf-8''"
        sections.append(f"filename*{len(sections)}*={start}{encoded[:cut]}")
        encoded = encoded[cut:]
    return ";\r\n ".join(sections)


def _wrap_base64(octets: bytes) -> bytes:
    encoded = binascii.b2a_base64(octets, newline=False)
    lines = [encoded[at : at + _FOLD_AT] for at in range(0, len(encoded), _FOLD_AT)]
    return b"\r\n".join([*lines, b""])


# Header fields


def build_date_field(date_ms: int) -> bytes:
    """Return the Date field, which is the first of every message that `build_raw` makes."""
    return f"Date: {_date(date_ms // 1000)}\r\n".encode()


@lru_cache(maxsize=64)
def _date(seconds: int) -> str:
    """Return RFC 5322 3.3 in UTC, in English whatever the locale."""
    at = time.gmtime(seconds)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04d} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    )


def _address_field(name: str, mailboxes: Sequence[Mailbox]) -> str:
    words: list[str] = []
    for mailbox in mailboxes:
        words += _mailbox_words(mailbox)
        words[-1] += ","
    words[-1] = words[-1][:-1]
    return _fold(name, words)


@lru_cache(maxsize=4096)
def _mailbox_words(mailbox: Mailbox) -> tuple[str, ...]:
    """Return name and address as what may be folded between: RFC 5322 3.4."""
    name, address = mailbox.name, mailbox.address
    if not name:
        return (address,)
    if _PRINTABLE.fullmatch(name) and "=?" not in name:
        shown = [name] if _ATOMS.fullmatch(name) else [f'"{_escape(name)}"']
    else:
        shown = _encoded_words(name)
    return (*shown, f"<{address}>")


def _text_field(name: str, value: str) -> str:
    """Return an unstructured field: as it is, or in encoded words where it must be.

    Also where it would read as encoded, or where folding could change the spaces in it.
    """
    if _WORDS.fullmatch(value) and "=?" not in value:
        line = f"{name}: {value}"
        if len(line) <= _FOLD_AT:
            return line
        words = value.split(" ")
        if len(max(words, key=len)) <= _LONG_WORD:
            return _fold(name, words)
    beside_name = _FOLD_AT - len(f"{name}: ") - _ENCODED_FRAME
    room = max(_FEWEST_ENCODED, min(_ENCODED_CHARACTERS, beside_name))
    return _fold(name, _encoded_words(value, room))


def _fold(name: str, words: Sequence[str]) -> str:
    """Return the field on lines of 76 where its words allow that (RFC 5322 2.2.3)."""
    line = f"{name}: {' '.join(words)}"
    if len(line) <= _FOLD_AT:
        return line
    lines = []
    line = f"{name}: {words[0]}"
    for word in words[1:]:
        if len(line) + 1 + len(word) <= _FOLD_AT:
            line += f" {word}"
        else:
            lines.append(line)
            line = f" {word}"
    return "\r\n".join([*lines, line])


def _encoded_words(text: str, room: int = _ENCODED_CHARACTERS) -> list[str]:
    """Return RFC 2047 encoded words, none cutting a character; Q or B, whichever is shorter."""
    octets = text.encode()
    if len(_Q_UNSAFE.findall(octets)) * 6 <= len(octets):
        return [f"=?utf-8?q?{chunk}?=" for chunk in _split_q(octets, room)]
    words = []
    while octets:
        end = room // 4 * 3
        while octets[end : end + 1] and octets[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        chunk = binascii.b2a_base64(octets[:end], newline=False).decode()
        words.append(f"=?utf-8?b?{chunk}?=")
        octets = octets[end:]
    return words


def _split_q(octets: bytes, room: int) -> Iterator[str]:
    """Yield *octets* in the Q encoding of RFC 2047 4.2, cut between characters."""
    quoted = _Q_UNSAFE.sub(lambda found: b"=%02X" % found[0][0], octets)
    rest = quoted.replace(b" ", b"_").decode()
    while len(rest) > room:
        end = room
        while "=" in rest[end - 2 : end] or rest.startswith(_Q_CONTINUATIONS, end):
            end -= 1  # within an escape, or within a character
        yield rest[:end]
        rest = rest[end:]
    yield rest


def _escape(text: str) -> str:
    return _QUOTES.sub(r"\\\1", text)
