"""Request bytes to a JSON object, strictly (RFC 8259 with the limits of T-12).

The standard library's parser does the work, with its leniencies taken away: UTF-8 only and no
byte order mark, no duplicate keys, no NaN or Infinity, no number beyond what a double holds, no
NUL, no halves of surrogate pairs, bounded depth and numbers of keys and values.  The size of
the body is the caller's limit.
"""

import json
import math
import re
from typing import NoReturn

from emailerctl.errors import MalformedJson
from emailerctl.models.text import find_unencodable, shorten

MAX_DEPTH = 32
MAX_KEYS = 1_000  # of one object
MAX_VALUES = 100_000
_NUMBER_CHARACTERS = 400  # more than any double needs, less than makes int() refuse

# Strings (also one that never ends) and the marks of structure.  The possessive quantifiers
# keep it linear whatever it meets.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)


def load_object(body: bytes, *, most_values: int = MAX_VALUES) -> dict[str, object]:
    """Return the one JSON object that *body* is, with at most *most_values* values.

    Raises:
        MalformedJson: it is not JSON, not strict enough, or not an object; says where and why.
    """
    brackets = body.count(b"{") + body.count(b"[")
    if (
        brackets + body.count(b",") > most_values
    ):  # mostly text that is full of them: look closer
        _check_structure(body, most_values)
    try:
        value = _decode(body.decode())
    except UnicodeDecodeError as error:
        raise MalformedJson(_explain_encoding(body, error)) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(_explain_syntax(body, error)) from None
    except RecursionError:
        raise MalformedJson(_TOO_DEEP) from None
    if not isinstance(value, dict):
        raise MalformedJson(f"valid JSON, but not an object: the body is {shorten(value)}")
    if brackets > MAX_DEPTH:
        _check_depth(value, 1)
    if b"\\u" in body:  # only an escape can bring a NUL or half of a pair
        _check_text(value, "")
    return value


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MAX_KEYS:
        raise MalformedJson(f"an object has {len(pairs)} keys; send at most {MAX_KEYS}")
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    keys = [key for key, _ in pairs]
    key = next(key for at, key in enumerate(keys) if key in keys[:at])
    raise MalformedJson(f"the key {shorten(key)} appears twice in one object")


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    if len(text) <= _NUMBER_CHARACTERS:
        number = float(text)
        if math.isfinite(number):
            return number
    raise MalformedJson(f"the number {shorten(text)} is too big")


def _parse_int(text: str) -> int:
    if len(text) > _NUMBER_CHARACTERS:
        raise MalformedJson(f"the number {shorten(text)} is too big")
    return int(text)


_decode = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_refuse_constant,
    parse_float=_parse_float,
    parse_int=_parse_int,
).decode


def _check_structure(body: bytes, most_values: int) -> None:
    """Count what the parser would have to build, and stop at the limit."""
    values = 0
    for found in _STRUCTURE.finditer(body):
        if found[0] in b"[{,":
            values += 1
            if values > most_values:
                raise MalformedJson(
                    f"more than {most_values} values (byte {found.start()}); send less at once"
                )


def _check_depth(value: dict[str, object] | list[object], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedJson(_TOO_DEEP)
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _check_depth(item, depth + 1)


def _check_text(value: object, pointer: str) -> None:
    if isinstance(value, str):
        unsafe = find_unencodable(value)
        if unsafe:
            raise MalformedJson(f"{unsafe} in the text at {shorten(pointer)}")
    elif isinstance(value, dict):
        for key, item in value.items():
            unsafe = find_unencodable(key)
            if unsafe:
                raise MalformedJson(
                    f"{unsafe} in a key of the object at {shorten(pointer or '/')}"
                )
            _check_text(item, f"{pointer}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, f"{pointer}/{index}")


def _explain_encoding(body: bytes, error: UnicodeDecodeError) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "the body is UTF-16; send UTF-8"
    return f"not UTF-8 at byte {error.start}: {error.reason}"


def _explain_syntax(body: bytes, error: json.JSONDecodeError) -> str:
    if body.startswith(b"\xef\xbb\xbf"):
        return "the body begins with a byte order mark; leave it out (RFC 8259 8.1)"
    if not body.strip():
        return "the body is empty"
    if b"\0" in body[:4]:
        return "the body is UTF-16 or UTF-32; send UTF-8"
    reason = (error.msg[0].lower() + error.msg[1:]).removesuffix(" at")
    return f"{reason} at line {error.lineno}, column {error.colno}"
