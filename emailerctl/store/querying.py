"""Reading the store with SQL of one's own: nothing can be written, whatever is asked.

Three things see to it: the file is opened read-only, `query_only` is on, and an authorizer lets
nothing pass but reading (no ATTACH, no VACUUM INTO, no PRAGMA that sets something).
"""

import sqlite3 as codes  # the numbers of actions are the same in every build
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from emailerctl.errors import BadRequest, StoreUnusable, TimedOut
from emailerctl.store import sqlite

_READING = frozenset(
    {codes.SQLITE_SELECT, codes.SQLITE_READ, codes.SQLITE_FUNCTION, codes.SQLITE_RECURSIVE}
)
_SHOWING = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info"})
_FORBIDDEN = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})
_STEPS = 10_000  # of SQLite's machine, between two looks at the clock

Value = str | int | float | bytes | None
_Rows = Generator[Sequence[Value], None, None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found; *rows* may be read once, while the store is open."""

    columns: Sequence[str]
    rows: Iterator[Sequence[Value]]


class Reading:
    """An open store that can't be written to."""

    def __init__(self, path: Path, *, within_s: float) -> None:
        """Open the store at *path*; a query is stopped after *within_s*.

        Raises:
            StoreUnusable: there is none, or it can't be read.
        """
        self._within_s = within_s
        connection = sqlite.connect(path, is_reader=True, is_read_only=True)
        self._ends = time.monotonic() + within_s
        self._rows: _Rows | None = None
        self._db = Database(connection, execute_plugins=False)  # before the locks: it sets one
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(self._is_over, _STEPS)

    def ask(self, statement: str) -> Answer:
        """Run *statement*.

        Raises:
            BadRequest: it is wrong, or would do more than read.
            TimedOut: it took too long.
        """
        self._ends = time.monotonic() + self._within_s
        try:
            cursor = self._db.execute(statement)
        except sqlite.sqlite3.Warning as error:
            raise BadRequest(f"the query is refused: {error}", hint=_HINT) from error
        except sqlite.sqlite3.Error as error:
            raise self._translate(error) from error
        if cursor.description is None:
            return Answer((), iter(()))
        columns = [name for name, *_rest in cursor.description]
        self._rows = self._read(cursor)
        return Answer(columns, self._rows)

    def _read(self, cursor: Iterator[Sequence[Value]]) -> _Rows:
        try:
            yield from cursor
        except sqlite.sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> BadRequest | TimedOut | StoreUnusable:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == codes.SQLITE_INTERRUPT:
            return TimedOut(
                f"the query took longer than {self._within_s:g} s",
                hint="narrow it, or give it more time: --timeout 5m",
            )
        if code in (codes.SQLITE_CORRUPT, codes.SQLITE_NOTADB, codes.SQLITE_IOERR):
            return StoreUnusable(
                f"the store is damaged: {error}", hint="emailerctl store check"
            )
        return BadRequest(f"the query is refused: {error}", hint=_HINT)

    def _is_over(self) -> int:
        return int(time.monotonic() > self._ends)

    def close(self) -> None:
        """Close the store; what was not read, is read no more."""
        if self._rows is not None:
            self._rows.close()
        self._db.close()


_HINT = (
    "one SELECT; the views messages_readable, events_readable, work_readable, "
    "reports_readable and deeds_readable have readable times"
)


def _authorize(
    action: int, first: str | None, second: str | None, _database: str | None, _of: str | None
) -> int:
    if action == codes.SQLITE_PRAGMA:
        is_fine = (first or "").lower() in _SHOWING
    elif action == codes.SQLITE_FUNCTION:
        is_fine = (second or "").lower() not in _FORBIDDEN
    else:
        is_fine = action in _READING
    return codes.SQLITE_OK if is_fine else codes.SQLITE_DENY
