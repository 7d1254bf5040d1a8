"""Text from outside: what a line of a header may hold, and how a bad value is shown."""

import json
import re
from collections.abc import Mapping, Sequence

_SHOWN = 60

# Control characters (C0, DEL, C1), line and paragraph separators, bidirectional embeddings,
# overrides and isolates (they make one text look like another), halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shorten(value: object) -> str:
    """Return *value* as an error message may show it: at most 60 characters, one safe line.

    Text comes in double quotes, with everything that could deceive a reader or disturb a
    terminal escaped; of a list or an object only its kind is said.
    """
    if isinstance(value, str):
        return f'"{_escape(value)}"'
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "a huge number"
    return json.dumps(value, default=lambda value: type(value).__name__)[:_SHOWN]


def find_unsafe(text: str) -> str:
    """Say which character keeps *text* out of a header line; an empty string if none does."""
    if text.isprintable():
        return ""
    found = _UNSAFE.search(text)
    if found is None:
        return ""
    character = found[0]
    number = f"U+{ord(character):04X}"
    if character in "\r\n\u2028\u2029\x85":
        return f"a line break ({number})"
    if "\u202a" <= character <= "\u2069":
        return f"a bidirectional override ({number})"
    if "\ud800" <= character <= "\udfff":
        return f"half of a surrogate pair ({number})"
    return f"a control character ({number})"


def parse_text(value: object) -> str:
    """Return *value* if it is text.

    Raises:
        ValueError: it is of another type.
    """
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not text")  # noqa: TRY004  (all faults are one kind)
    return value


def parse_line(value: object) -> str:
    """Return *value* if it is text that may stand in a header line.

    Raises:
        ValueError: another type, or a character that `find_unsafe` names.
    """
    line = parse_text(value)
    unsafe = find_unsafe(line)
    if unsafe:
        raise ValueError(f"{shorten(line)} contains {unsafe}; remove it")
    return line


def bound(text: str, most: int) -> str:
    """Return text that every store can hold: no endless one, no NUL, no half of a pair."""
    return text[:most].replace("\0", "").encode(errors="replace").decode()


def find_unencodable(text: str) -> str:
    """Say which character keeps *text* out of a body; an empty string if none does."""
    if "\0" in text:
        return "a NUL character (U+0000)"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"half of a surrogate pair (U+{ord(text[error.start]):04X})"
    return ""


def _escape(text: str) -> str:
    """Return the beginning of *text*, so that 60 characters hold it and its quotes."""
    room = _SHOWN - 2
    shown = [_escape_character(character) for character in text[: room + 1]]
    if sum(map(len, shown)) <= room:
        return "".join(shown)
    while sum(map(len, shown)) >= room:  # the ellipsis takes one
        shown.pop()
    return "".join(shown) + "…"


def _escape_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
