"""What people and programs see: the only file that prints.

Data goes to standard output, everything else to standard error.  On a terminal a listing is a
table for people; on a pipe it is tab-separated with a header and nothing is cut.  Every text
that came from outside passes `safe` on its way out (T-19); in JSON the same characters are
escaped.  Rich is imported when a table is drawn on a terminal, and never before.
"""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import NoReturn, TextIO, TypeVar

from emailerctl.errors import UsageError
from emailerctl.models.clock import to_text
from emailerctl.models.lifecycle import State

Item = TypeVar("Item")


class Form(StrEnum):
    """How data is written (`-o`)."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    ID = "id"


@dataclass(frozen=True, slots=True)
class _Manner:
    """How this run speaks."""

    form: Form = Form.TABLE
    is_quiet: bool = False
    has_colour: bool | None = None  # None: as the surroundings say
    answers_yes: bool = False
    shows_traces: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in a table: "3m ago" on a terminal, RFC 3339 on a pipe."""

    at_ms: int | None
    now_ms: int


Cell = str | int | bool | Moment | None

COLOURS: Mapping[str, str] = {
    State.UNKNOWN: "bold magenta",
    State.SENDING: "cyan",
    State.QUEUED: "blue",
    State.HELD: "yellow",
    State.FAILED: "bold red",
    State.BOUNCED: "red",
    State.SENT: "green",
    State.DELIVERED: "bold green",
    State.CANCELLED: "dim",
}

# Of the same names: what a line of `logs` needs without Rich.
_ANSI = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

# C0 and C1 controls; line and paragraph separators; what sets or overrides the direction of
# text; what is invisible and hides in a word (not the joiners of Persian and of emoji); halves
# of surrogate pairs; annotation and tag characters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPACE = frozenset("\t\n\v\f\r\x85\u2028\u2029")
_STANDS_IN = "\ufffd"
_SHORT = 20  # characters of a column that is never wrapped: ids, states, numbers

_manner = _Manner()


def setup(
    *,
    form: Form | None = None,
    is_quiet: bool = False,
    has_colour: bool | None = None,
    answers_yes: bool = False,
    shows_traces: bool = False,
) -> None:
    """Choose how this run speaks; what is not given stays as it was."""
    global _manner
    _manner = replace(
        _manner,
        form=form or _manner.form,
        is_quiet=is_quiet or _manner.is_quiet,
        has_colour=_manner.has_colour if has_colour is None else has_colour,
        answers_yes=answers_yes or _manner.answers_yes,
        shows_traces=shows_traces or _manner.shows_traces,
    )
    for stream in (sys.stdout, sys.stderr):  # a locale that lacks a character is no crash
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


# Making text safe


def safe(text: object) -> str:
    """Return *text* as one line without anything that could act on a terminal or deceive.

    Space of any kind becomes one space, whatever else is unsafe a replacement character.
    """
    return _UNSAFE.sub(lambda found: " " if found[0] in _SPACE else _STANDS_IN, str(text))


def safe_lines(text: str) -> str:
    """Return *text* made safe line by line."""
    return "\n".join(safe(line) for line in text.replace("\r\n", "\n").split("\n"))


# Data, on standard output


def form() -> Form:
    """Return the form that was asked for."""
    return _manner.form


def result(text: str, shape: object) -> None:
    """Write one thing: *text* for people, *shape* as JSON, or its id."""
    if _manner.form is Form.ID:
        found = shape.get("id") if isinstance(shape, Mapping) else None
        write_text(str(found or text))
    elif _manner.form is Form.TABLE:
        write_text(text)
    else:
        write_json(shape, is_line=_manner.form is Form.JSONL)


def listing(
    title: str,
    columns: Sequence[str],
    items: Iterable[Item],
    *,
    shape: Callable[[Item], Mapping[str, object]],
    row: Callable[[Item], Sequence[Cell]],
    next_cursor: str | None = None,
    name: str = "id",
) -> None:
    """Write a listing in the form that was asked for; `-o id` prints the member *name*."""
    if _manner.form is Form.TABLE:
        table(title, columns, [row(item) for item in items])
        if next_cursor:
            note(f"there is more: --cursor {next_cursor}")
        return
    shapes = [shape(item) for item in items]
    if _manner.form is Form.JSON:
        write_json({"data": shapes, "next_cursor": next_cursor})
    for one in shapes if _manner.form is not Form.JSON else ():
        if _manner.form is Form.JSONL:
            write_json(one, is_line=True)
        else:
            write_text(str(one[name]))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table: for people on a terminal, tab-separated and whole on a pipe."""
    if not is_terminal():
        write_row(columns)
        for row in rows:
            write_row(row)
    elif not rows:
        write_text(f"{title}: none")
    else:
        _draw(title, columns, rows)


def write_row(cells: Sequence[Cell]) -> None:
    """Write a tab-separated row, for programs; no cell has a tab in it."""
    _write(sys.stdout, "\t".join(map(_to_text, cells)))


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    cells = [[_to_text(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        is_short = max(len(row[index]) for row in cells) <= _SHORT
        drawn.add_column(Text(column), overflow="fold", no_wrap=is_short)
    for row in cells:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    has_colour = is_coloured(sys.stdout)
    console = Console(
        file=sys.stdout,
        force_terminal=has_colour,
        no_color=not has_colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with _Pipe():
        console.print(drawn)


def _to_text(cell: Cell) -> str:
    if isinstance(cell, Moment):
        return show_moment(cell)
    if isinstance(cell, bool):
        return "yes" if cell else ""
    return "" if cell is None else safe(cell)


def show_moment(moment: Moment) -> str:
    """Return a moment as a table shows it; nothing where there is none."""
    if moment.at_ms is None:
        return ""
    return ago(moment.at_ms, moment.now_ms) if is_terminal() else to_text(moment.at_ms)


def write_json(value: object, *, is_line: bool = False) -> None:
    """Write JSON: on one line for programs, indented for people unless *is_line*."""
    indent = 2 if is_terminal() and not is_line else None
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    _write(sys.stdout, re.sub(r"[^\n\x20-\x7e]", _escape_unsafe, text))


def _escape_unsafe(found: re.Match[str]) -> str:
    character = found[0]
    if not _UNSAFE.match(character):
        return character
    octets = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{octets[at : at + 4]}" for at in range(0, len(octets), 4))


def write_text(text: str) -> None:
    """Write lines of text, made safe."""
    _write(sys.stdout, safe_lines(text))


def write_painted(pieces: Iterable[tuple[str, str]]) -> None:
    """Write one line made of (text, style) pieces, made safe; colours where they are wanted."""
    has_colour = is_coloured(sys.stdout)
    _write(sys.stdout, "".join(_paint(safe(t), s, has_colour=has_colour) for t, s in pieces))


def write_raw(octets: bytes) -> None:
    """Write *octets* as they are into a file or a pipe; a terminal gets them made safe."""
    if is_terminal():
        write_text(octets.decode(errors="replace"))
        return
    with _Pipe():
        sys.stdout.flush()
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()


# Everything else, on standard error


def note(text: str) -> None:
    """Say something that is not data, unless `--quiet`."""
    if not _manner.is_quiet:
        _write(sys.stderr, safe_lines(text))


def warn(text: str) -> None:
    """Say that something is not as it should be."""
    _say("warning", "yellow", text)


def error(text: str, *, hint: str = "") -> None:
    """Say what is wrong, and what to do about it."""
    _say("error", "bold red", text)
    if hint:
        _say("hint", "cyan", hint)


def show_trace(error_: BaseException) -> None:
    """Show where *error_* comes from."""
    _write(sys.stderr, safe_lines("".join(traceback.format_exception(error_)).rstrip()))


def _say(word: str, style: str, text: str) -> None:
    painted = _paint(f"{word}:", style, has_colour=is_coloured(sys.stderr))
    _write(sys.stderr, f"{painted} {safe_lines(text)}")


def report_bug(
    kind: type[BaseException], error_: BaseException, trace: TracebackType | None
) -> None:
    """Show the traceback of what should not have happened (`sys.excepthook`)."""
    if issubclass(kind, KeyboardInterrupt):
        return
    show_trace(error_.with_traceback(trace))
    error("this is a bug in emailerctl", hint="report it with the lines above")


@contextlib.contextmanager
def progress(title: str, *, has_octets: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how far long work has come, where a person watches: call it with done and total."""
    if _manner.is_quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if has_octets else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    console = Console(stderr=True, no_color=not is_coloured(sys.stderr))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def ask(question: str) -> None:
    """Let the operator confirm; return only after a yes.

    Raises:
        UsageError: there is nobody to ask; names what to pass.
    """
    if _manner.answers_yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{question} There is no terminal to answer on; nothing was done",
            hint="pass --yes to say so beforehand",
        )
    sys.stderr.write(f"{safe_lines(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        note("nothing was done")
        raise SystemExit(130)


# Terminals and colours


def is_terminal() -> bool:
    """Return whether standard output is read by a person."""
    return sys.stdout.isatty()


def is_coloured(stream: TextIO) -> bool:
    """Return whether *stream* gets colours.

    `--no-color` and NO_COLOR (https://no-color.org) win, then FORCE_COLOR, then CLICOLOR=0 and
    TERM=dumb, then whether it is a terminal.
    """
    if _manner.has_colour is not None:
        return _manner.has_colour
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    if os.environ.get("CLICOLOR") == "0" or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def ago(moment_ms: int, now_ms: int) -> str:
    """Return how far *moment_ms* is from now: "3m ago", "in 2h"."""
    distance_s = abs(now_ms - moment_ms) / 1000
    for unit, length_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if distance_s >= 2 * length_s:
            text = f"{distance_s // length_s:.0f}{unit}"
            break
    else:
        text = f"{distance_s:.0f}s"
    if text == "0s":
        return "now"
    return f"{text} ago" if moment_ms <= now_ms else f"in {text}"


def show_time(moment_ms: int, layout: str) -> str:
    """Return a moment in local time, for people; *layout* is strftime's."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).astimezone().strftime(layout)


def _paint(text: str, style: str, *, has_colour: bool) -> str:
    if not (has_colour and style and text.strip()):
        return text
    codes = ";".join(_ANSI[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


def shows_traces() -> bool:
    """Return whether deliberate errors come with their traceback (`--debug`)."""
    return _manner.shows_traces


# The streams


class _Pipe:
    """Where nobody may read any more: then the program ends, silently."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error_: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error_, BrokenPipeError):
            end_silently()


def _write(stream: TextIO, text: str) -> None:
    with _Pipe():
        stream.write(f"{text}\n")
        stream.flush()


def end_silently() -> NoReturn:
    """End because nobody reads any more; the interpreter's own last flush must not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    raise SystemExit(0)
