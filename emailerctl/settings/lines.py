"""On which line of a TOML document each key stands: `tomllib` does not tell."""

import re
import tomllib

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_PART = re.compile(
    r"""[ \t]*(?:"(?P<basic>(?:\\.|[^"\\])*)"|'(?P<literal>[^']*)'|(?P<bare>[\w-]+))"""
)
_DOT = re.compile(r"[ \t]*\.")
_STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_OPEN, _CLOSE = "[{", "]}"

Path = tuple[str, ...]


def find_lines(text: str) -> dict[Path, int]:
    """Return the line (from 1) of each table header and key in *text*, which is valid TOML.

    A table of a list, `[[routing.rules]]`, has its number as a further part: the first is "1".
    Keys inside an inline table are not looked for: the line where the table starts says enough.
    """
    lines: dict[Path, int] = {}
    count: dict[Path, int] = {}
    table: Path = ()
    at = _skip(_BLANK, text, 0)
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        if text[at] == "[":
            is_listed = text.startswith("[[", at)
            table, at = _read_key(text, at + (2 if is_listed else 1))
            lines.setdefault(table, line)
            if is_listed:
                count[table] = count.get(table, 0) + 1
                table = (*table, str(count[table]))
                lines[table] = line
            at = _end_of_line(text, at)
        else:
            key, at = _read_key(text, at)
            for depth in range(len(table) + 1, len(table) + len(key) + 1):
                lines.setdefault((table + key)[:depth], line)
            at = _skip_value(text, text.index("=", at) + 1)
        at = _skip(_BLANK, text, at)
    return lines


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _read_key(text: str, at: int) -> tuple[Path, int]:
    """Return the parts of a dotted key, and where it ends."""
    parts: list[str] = []
    while match := _PART.match(text, at):
        at = match.end()
        if match["basic"] is not None:  # with escapes: let the parser read it
            parts.append(next(iter(tomllib.loads(f'"{match["basic"]}" = 0'))))
        else:
            parts.append(match["bare"] or match["literal"])
        dot = _DOT.match(text, at)
        if not dot:
            break
        at = dot.end()
    return tuple(parts), at


def _skip_value(text: str, at: int) -> int:
    """Return where the value that starts at *at* ends: a line end outside of all brackets."""
    depth = 0
    while at < len(text):
        string = _STRINGS.match(text, at)
        if string:
            at = string.end()
            continue
        character = text[at]
        if character == "#":
            at = _end_of_line(text, at)
            continue
        if character == "\n" and depth == 0:
            break
        depth += (character in _OPEN) - (character in _CLOSE)
        at += 1
    return at
