"""ForestMQ's JSON and its misuse of printf, byte for byte as they were observed.

`parse` refuses what jansson 2.14 refuses, `dump` writes what it writes, and `misprint` does to
a reply what `vsnprintf(reply)` without arguments does on x86-64 with glibc.
"""

import json
import math
import re
import sys
from typing import Any

MOST_NESTED = 2047
_MOST_PRINTED = 5 * 1024 * 1024  # the real one goes to 150 MB; the point is made earlier
_ADDRESS = 94353039180880  # what lies on the stack: some address
_TINY = 6.95e-310
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"}
_ESCAPES["\t"] = "\\t"
_CONTROLS = re.compile(r'[\x00-\x1f"\\]')
_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_CONVERSION = re.compile(
    r"%(?P<position>\d+\$)?(?P<flags>[-+ #0']*)(?P<width>\*|\d+)?(?P<precision>\.(?:\*|\d*))?"
    r"(?P<length>hh|ll|[hlqLjzZt])?(?P<letter>.)?",
    re.DOTALL,
)

# Deep objects are legal there: our own recursion must be able to follow.
sys.setrecursionlimit(40_000)


class Dies(Exception):
    """The real server's process ends here."""


def parse(body: bytes) -> Any:
    """Read a request's body as jansson does.

    Raises:
        ValueError: jansson refuses it.
    """
    depth = deepest = 0
    for byte in _OUTSIDE_STRINGS.sub(b"", body):
        depth += (byte in b"{[") - (byte in b"}]")
        deepest = max(deepest, depth)
    if deepest > MOST_NESTED:
        raise ValueError("nested too deeply")
    text = body.decode("utf-8")
    found = json.loads(text, parse_float=_real, parse_int=_whole, parse_constant=_none)
    if "\\u" in text:
        _refuse_bad_text(found)
    return found


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("too large")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError("too large")
    return value


def _none(text: str) -> float:
    raise ValueError(text)


def _refuse_bad_text(value: Any) -> None:
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises
        if "\0" in value:
            raise ValueError("NUL")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_bad_text(key)
            _refuse_bad_text(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_bad_text(inner)


def dump(value: Any, *, indent: int = 0, depth: int = 0) -> str:
    """Write *value* as jansson does: compact, or *indent* spaces a level."""
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [
            dump(key) + colon + dump(inner, indent=indent, depth=depth + 1)
            for key, inner in value.items()
        ]
        return _bracket("{", parts, "}", indent, depth)
    if isinstance(value, list):
        parts = [dump(inner, indent=indent, depth=depth + 1) for inner in value]
        return _bracket("[", parts, "]", indent, depth)
    if isinstance(value, str):
        return f'"{_CONTROLS.sub(_escape, value)}"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if isinstance(value, int) else _dump_real(value)


def _bracket(left: str, parts: list[str], right: str, indent: int, depth: int) -> str:
    if not parts:
        return left + right
    if not indent:
        return f"{left}{','.join(parts)}{right}"
    outer, inner = " " * (indent * depth), " " * (indent * (depth + 1))
    joined = f",\n{inner}".join(parts)
    return f"{left}\n{inner}{joined}\n{outer}{right}"


def _escape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04X}"


def _dump_real(value: float) -> str:
    text = f"{value:.17g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}e{int(exponent)}"
    return text if "." in text else f"{text}.0"


def misprint(reply: str) -> str:
    """Return *reply* after its trip through printf as a format without arguments.

    Raises:
        Dies: a conversion ends the process.
    """
    printed: list[str] = []
    at = strings = 0
    while (percent := reply.find("%", at)) >= 0:
        printed.append(reply[at:percent])
        found = _CONVERSION.match(reply, percent)
        assert found is not None
        letter = found["letter"] or ""
        if letter == "s":
            strings += 1
            if strings > 1 or found["position"]:
                raise Dies("%s")
            printed.append("".join(printed))
            at = found.end()
        elif letter in {"C", "S"}:
            return ""
        else:
            text, at = _convert(found, letter)
            printed.append(text)
    printed.append(reply[at:])
    return "".join(printed)


def _convert(found: re.Match[str], letter: str) -> tuple[str, int]:
    """Return what one conversion prints, and where the format goes on."""
    if letter == "n":
        raise Dies("%n")
    if letter and letter in "%m":
        return {"%": "%", "m": "Resource temporarily unavailable"}[letter], found.end()
    if not letter or letter not in "bdiouxXcpeEfFgGaA":
        if found["length"]:
            return "%", found.end("length")
        return "%", found.start() + 1  # left as it is
    if "*" in (found["width"] or "") + (found["precision"] or ""):
        return " " * _MOST_PRINTED, found.end()
    return _print_junk(found, letter), found.end()


def _print_junk(found: re.Match[str], letter: str) -> str:
    width = min(int(found["width"] or 0), _MOST_PRINTED)
    flags = found["flags"].replace("'", "")
    size = f"{flags}{width or ''}"
    if letter == "c":
        return f"%{size}c" % "P"
    if letter in "aA":
        text = f"%{size}s" % _TINY.hex()
        return text.upper() if letter == "A" else text
    if letter == "b":  # C23, glibc 2.35
        return f"%{size.replace('#', '')}s" % f"{_ADDRESS:b}"
    if letter == "p":
        return f"%{size.replace('#', '')}s" % hex(_ADDRESS)
    precision = (found["precision"] or "")[:4]
    if letter in "eEfFgG":
        return f"%{size}{precision}{letter}" % _TINY
    return f"%{size}{precision}{letter}" % _ADDRESS
