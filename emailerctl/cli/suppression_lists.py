"""Importing and exporting suppression lists: files of any size and encoding, read line by line.

Apart from the commands, since other commands need nothing of it.
"""

import codecs
import csv
import io
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from emailerctl.cli import output
from emailerctl.core.suppression_files import (
    COLUMNS,
    LONGEST_LINE,
    REASONS,
    BadLine,
    Reading,
    read_suppressions,
    write_suppression,
)
from emailerctl.errors import BadRequest, Invalid, NotFound, UsageError
from emailerctl.store.base import Suppression

if TYPE_CHECKING:
    from emailerctl.wiring import App

__all__ = ["Reading", "export_list", "import_list"]

_AT_ONCE = 1_000  # lines of one transaction, or of one page

# What spreadsheets write; without a mark it is UTF-8, and what is none shows as U+FFFD.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _ListFile:
    """An open file, and how far it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        """Take a file that can be read again from its start."""
        self._file = file
        file.seek(0, io.SEEK_END)
        self.size = file.tell()

    @property
    def read_bytes(self) -> int:
        """How much of it is read."""
        return self._file.tell()

    def lines(self) -> Iterator[str]:
        """Yield its lines from the start, their ends kept; of a long one only the beginning."""
        self._file.seek(0)
        start = self._file.read(4)
        self._file.seek(0)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        text = io.TextIOWrapper(self._file, encoding, errors="replace", newline="")
        try:
            while line := text.readline(LONGEST_LINE):
                rest = line
                while len(rest) == LONGEST_LINE and not rest.endswith("\n"):
                    rest = text.readline(LONGEST_LINE)
                yield line
        finally:
            with suppress(ValueError):  # it may have been closed before
                text.detach()


async def import_list(
    opened: "App", path: Path, reading: Reading, *, is_rehearsal: bool, may_skip: bool
) -> tuple[str, dict[str, object]]:
    """Import a list; return what was done, in words and as JSON.

    Raises:
        Invalid: it is none, or has bad lines that may not be skipped; nothing was imported.
        NotFound, BadRequest: it is not there, or can't be read.
    """
    if reading.reason and reading.reason not in REASONS:
        raise UsageError(f"--reason is one of {', '.join(REASONS)}")
    with _open_list(path) as source:
        counts = _check_list(source, reading, may_skip=may_skip)
        if is_rehearsal:
            said = f"{counts['good']} would be imported; nothing was changed"
            return said, {**counts, "added": 0, "dry_run": True}
        added = await _import_list(opened, source, reading)
    said = f"added {added} of {counts['good']}"
    if added != counts["good"]:
        said += "; the others were there already"
    return said, {**counts, "added": added, "dry_run": False}


def _check_list(source: _ListFile, reading: Reading, *, may_skip: bool) -> dict[str, object]:
    """Read all of a list, name what is bad, and return how much is good.

    Raises:
        Invalid: there are bad lines, and they may not be skipped.
    """
    good: Counter[str] = Counter()
    bad = 0
    with output.progress("checking", has_octets=True) as show:
        for one in read_suppressions(source.lines(), reading):
            if isinstance(one, BadLine):
                bad += 1
                output.warn(f"line {one.number}: {one.detail}")
            else:
                good[one.reason] += 1
            if (good.total() + bad) % _AT_ONCE == 0:
                show(source.read_bytes, source.size)
    if bad and not may_skip:
        raise Invalid([], f"{bad} of {bad + good.total()} lines are bad; nothing was imported")
    return {"good": good.total(), "bad": bad, "reasons": dict(good)}


async def _import_list(opened: "App", source: _ListFile, reading: Reading) -> int:
    """Enter a list that was read once, in some transactions; return how many were new."""
    added = 0
    lines = read_suppressions(source.lines(), reading)
    good = (one for one in lines if isinstance(one, Suppression))
    with output.progress("importing", has_octets=True) as show:
        while piece := list(islice(good, _AT_ONCE)):
            added += await opened.store.import_suppressions(piece)
            show(source.read_bytes, source.size)
    return added


async def export_list(opened: "App", service: str | None) -> None:
    """Write the list as CSV to standard output, a page at a time."""
    output.write_raw(_to_csv([COLUMNS]))
    cursor: str | None = None
    while True:
        page = await opened.store.list_suppressions(
            service=service, address="", cursor=cursor, limit=_AT_ONCE
        )
        output.write_raw(_to_csv(map(write_suppression, page.data)))
        cursor = page.next_cursor
        if cursor is None:
            return


def _to_csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # RFC 4180
    return text.getvalue().encode()


@contextmanager
def _open_list(path: Path) -> Iterator[_ListFile]:
    """Open *path*; of a pipe, or `-`, standard input, a private copy.

    Raises:
        NotFound, BadRequest: it is not there, or can't be read.
    """
    try:
        with ExitStack() as stack:
            file: IO[bytes] = sys.stdin.buffer
            if str(path) != "-":
                file = stack.enter_context(path.open("rb"))
            if str(path) == "-" or not file.seekable():
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, copy)
                file = copy
            yield _ListFile(file)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error
