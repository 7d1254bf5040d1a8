"""SQLite driver: one writer thread with group commit, readers of their own.

WAL, `synchronous=FULL` on every connection: a commit that returned is on disk.  Work that
queues while the last commit runs becomes the next group, without any artificial wait; each
piece runs under its own savepoint, so that a bad one is refused and the rest are accepted
(F-IN-04), and every waiter is answered after the one sync.

pysqlite3 carries SQLite 3.53: before 3.51.3 two connections of one WAL file could lose
committed data (the WAL-reset bug), and several connections are what we have.
"""

import asyncio
import contextlib
import logging
import sqlite3 as stdlib_sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emailerctl.errors import (
    EmailerError,
    OutcomeUnknown,
    StorageFull,
    StoreBusy,
    StoreUnusable,
    Unavailable,
)
from emailerctl.models.event import Event
from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import RecipientKind
from emailerctl.models.outcome import Kind, Phase
from emailerctl.store.driver import NotAlike, Params, Tx

if TYPE_CHECKING:
    sqlite3 = stdlib_sqlite3
else:
    try:
        import pysqlite3.dbapi2 as sqlite3
    except ImportError:  # no wheel for this machine: `check_library` warns
        sqlite3 = stdlib_sqlite3

T = TypeVar("T")

APPLICATION_ID = 0x454D4C52  # "EMLR": PRAGMA application_id of our stores
SAFE_VERSION = (3, 51, 3)
_RETRY_S = 0.0003  # our own wait for the write lock; SQLite's handler sleeps far longer
_READERS = 2
_TOGETHER = 2  # fewer pieces of one kind share nothing
_NO_PARAMS: Params = {}

_log = logging.getLogger(__name__)

# Without an adapter of its own, each value of these goes the long way through a protocol.
for _kind in (State, Reason, WaitingFor, OnUnknown, RecipientKind, Kind, Phase):
    sqlite3.register_adapter(_kind, attrgetter("value"))


def library_version() -> tuple[int, ...]:
    """Return the version of the SQLite library in use."""
    return tuple(int(part) for part in sqlite3.sqlite_version.split("."))


def is_library_safe() -> bool:
    """Return whether the library is free of the WAL-reset bug (fixed in 3.51.3)."""
    return library_version() >= SAFE_VERSION


def connect(path: Path, *, is_reader: bool = False) -> Any:
    """Open an existing store with the house's pragmas; never create one.

    Raises:
        StoreUnusable: missing, not a database, or another program's.
    """
    if not path.is_file():
        raise StoreUnusable(
            f"there is no store at {path}",
            hint="create it with: emailerctl store migrate (or correct [store] url)",
        )
    with contextlib.ExitStack() as stack:
        try:
            connection = sqlite3.connect(
                f"file:{_quote(path)}?mode=rw",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            stack.callback(connection.close)
            application_id = connection.execute("PRAGMA application_id").fetchone()[0]
            # A reader may meet a moment of recovery; the writer waits in its own short steps.
            connection.execute(f"PRAGMA busy_timeout={5000 if is_reader else 0}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA cache_size=-65536")
            connection.execute("PRAGMA wal_autocheckpoint=2000")
            if is_reader:
                connection.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            raise StoreUnusable(
                f"the store at {path} can't be opened: {error}",
                hint="check its permissions; if it is damaged restore a backup, then: "
                "emailerctl store check",
            ) from error
        if application_id != APPLICATION_ID:
            raise StoreUnusable(
                f"{path} is a database of another program (application id {application_id})",
                hint="correct [store] url",
            )
        stack.pop_all()
    return connection


def find_damage(path: Path) -> list[str]:
    """Return what SQLite's own check finds wrong with the file, a line each.

    Raises:
        StoreUnusable: it can't be opened at all.
    """
    connection = connect(path, is_reader=True)
    try:
        rows = connection.execute("PRAGMA quick_check").fetchall()
    except sqlite3.Error as error:
        return [str(error)]
    finally:
        connection.close()
    return [line for (line,) in rows if line != "ok"]


def _quote(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


class SqliteTx:
    """A transaction on one connection."""

    def __init__(self, connection: Any) -> None:
        """Wrap *connection*, which is inside a transaction or reads a snapshot."""
        self._execute = connection.execute
        self._execute_many = connection.executemany
        self.memo: dict[str, object] = {}
        self.events: list[Event] = []
        self.has_new_work = False

    def all(self, sql: str, params: Params = _NO_PARAMS) -> list[tuple[object, ...]]:
        """Run *sql* and return every row."""
        rows: list[tuple[object, ...]] = self._execute(sql, params).fetchall()
        return rows

    def one(self, sql: str, params: Params = _NO_PARAMS) -> tuple[object, ...] | None:
        """Run *sql* and return its first row, or None."""
        rows = self._execute(sql, params).fetchall()
        return rows[0] if rows else None

    def run(self, sql: str, params: Params = _NO_PARAMS) -> int:
        """Run *sql* and return how many rows it touched."""
        count: int = self._execute(sql, params).rowcount
        return count

    def many(self, sql: str, rows: Sequence[Params]) -> int:
        """Run *sql* once for each of *rows*, and return how many rows that touched in all."""
        count: int = self._execute_many(sql, rows).rowcount
        return count

    def insert(self, sql: str, params: Params) -> int:
        """Run an INSERT and return the integer key that the row was given."""
        key: int = self._execute(sql, params).lastrowid
        return key


@dataclass(slots=True)
class _Unit:
    """One piece of work, who waits for it, and what came of it."""

    work: Callable[[Tx], Any]
    future: "asyncio.Future[Any]"
    result: object = None
    error: BaseException | None = None


@dataclass(slots=True)
class GroupSizes:
    """How well commits are shared: for metrics."""

    commits: int = 0
    units: int = 0
    last_sync_s: float = field(default=0.0)


def _nothing(_events: Sequence[Event], _has_new_work: bool) -> None:  # noqa: FBT001
    """Be the publisher of a store that nobody listens to."""


class SqliteDriver:
    """One store file: a writer thread and a few readers.

    Args:
        path: an existing, migrated store.
        busy_timeout_s: how long the writer waits for another process's lock.
        publish: called in the writer thread after each commit with the group's events and
            whether it made work; must not block.
        on_fatal: called in the writer thread when a sync failed: nobody knows what is on disk,
            so the process must end (F-IN-06).  The waiters have been answered by then.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_s: float = 5.0,
        publish: Callable[[Sequence[Event], bool], None] = _nothing,
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Open the connections and start the threads."""
        self.path = path
        self.sizes = GroupSizes()
        self._busy_timeout_s = busy_timeout_s
        self._publish = publish
        self._on_fatal = on_fatal
        self._waiting: list[_Unit] = []
        self._wakeup = threading.Condition()
        self._is_closing = False
        self._broken: BaseException | None = None
        self._connection = connect(path)
        self._local = threading.local()
        self._reader_connections: list[Any] = []
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._writer = threading.Thread(
            target=self._write_groups, name="store-writer", daemon=True
        )
        self._writer.start()

    def write(self, work: Callable[[Tx], T]) -> "asyncio.Future[T]":
        """Run *work* in the next group; the future has its result after the sync."""
        return self.write_all((work,))[0]

    def write_all(self, works: Sequence[Callable[[Tx], T]]) -> "list[asyncio.Future[T]]":
        """Run all of *works* in the next group."""
        loop = asyncio.get_running_loop()
        units = [_Unit(work, loop.create_future()) for work in works]
        with self._wakeup:
            if self._is_closing or self._broken is not None:
                raise StoreUnusable("the store is closed")
            was_idle = not self._waiting
            self._waiting += units
            if was_idle:
                self._wakeup.notify()
        return [unit.future for unit in units]

    @property
    def is_broken(self) -> bool:
        """Return whether a commit failed of which nobody knows what is on disk."""
        return self._broken is not None

    @property
    def backlog(self) -> int:
        """Return how many pieces of work wait for the next group."""
        return len(self._waiting)

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on a reader's connection, in one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[Tx], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self.path, is_reader=True)
            self._reader_connections.append(connection)
        try:
            connection.execute("BEGIN")
            try:
                return work(SqliteTx(connection))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _translate_read(error) from error

    async def close(self) -> None:
        """Finish what was begun, stop the threads and close the connections."""
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        await asyncio.get_running_loop().run_in_executor(None, self._writer.join)
        self._readers.shutdown(wait=True)
        for connection in (self._connection, *self._reader_connections):
            connection.close()

    # the writer thread

    def _write_groups(self) -> None:
        while True:
            with self._wakeup:
                while not self._waiting and not self._is_closing:
                    self._wakeup.wait()
                group, self._waiting = self._waiting, []
            if not group:
                return
            try:
                self._write_group(group)
            except Exception as error:  # noqa: BLE001  (a thread that dies leaves all waiting)
                self._fail(group, error)
                if self._broken is not None:
                    return

    def _write_group(self, group: list[_Unit]) -> None:
        execute = self._connection.execute
        self._begin()
        tx = SqliteTx(self._connection)
        alike: list[_Unit] = []
        for unit in group:
            if hasattr(unit.work, "run_together"):
                alike.append(unit)
                continue
            self._run_alike(tx, alike)  # in the order in which they were asked for
            alike = []
            self._run_alone(tx, unit)
        self._run_alike(tx, alike)
        began = time.perf_counter()
        execute("COMMIT")
        self.sizes.last_sync_s = time.perf_counter() - began
        self.sizes.commits += 1
        self.sizes.units += len(group)
        self._answer(group)
        if tx.events or tx.has_new_work:
            try:
                self._publish(tx.events, tx.has_new_work)
            except Exception:  # noqa: BLE001  (what is committed is committed; the thread goes on)
                _log.exception("store: what was committed could not be published")

    def _run_alone(self, tx: SqliteTx, unit: _Unit) -> None:
        execute = self._connection.execute
        kept = len(tx.events)
        execute("SAVEPOINT unit")
        try:
            unit.result = unit.work(tx)
        except Exception as error:
            if _is_about_store(error) or not self._connection.in_transaction:
                raise  # the disk, not this piece of work: the whole group fails
            unit.error = error
            execute("ROLLBACK TO unit")
            del tx.events[kept:]
            tx.memo.clear()
        execute("RELEASE unit")

    def _run_alike(self, tx: SqliteTx, units: list[_Unit]) -> None:
        """Run together what is of one kind; alone where it can't share statements after all."""
        kinds: dict[type, list[_Unit]] = {}
        for unit in units:
            kinds.setdefault(type(unit.work), []).append(unit)
        for kind, same in kinds.items():
            if len(same) < _TOGETHER or not self._run_together(tx, kind, same):
                for unit in same:
                    self._run_alone(tx, unit)

    def _run_together(self, tx: SqliteTx, kind: Any, units: list[_Unit]) -> bool:
        execute = self._connection.execute
        kept, had_new_work = len(tx.events), tx.has_new_work
        execute("SAVEPOINT together")
        try:
            results = kind.run_together(tx, [unit.work for unit in units])
        except Exception as error:
            if _is_about_store(error) or not self._connection.in_transaction:
                raise
            if not isinstance(error, NotAlike):  # a bug, or a piece that is refused: see who
                _log.debug("store: pieces of work run by themselves: %r", error)
            execute("ROLLBACK TO together")
            execute("RELEASE together")
            del tx.events[kept:]
            tx.has_new_work = had_new_work
            tx.memo.clear()
            return False
        execute("RELEASE together")
        for unit, result in zip(units, results, strict=True):
            unit.result = result
        return True

    def _begin(self) -> None:
        give_up = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > give_up:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _fail(self, group: list[_Unit], error: Exception) -> None:
        """Answer every waiter of a group that was not committed, or of which nobody knows."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if isinstance(_translate_write(error), OutcomeUnknown):
            self._broken = error
            with self._wakeup:
                group += self._waiting
                self._waiting = []
        for unit in group:
            unit.error = _translate_write(error)  # each its own: some add what they know
        self._answer(group)
        _log.error("store: a commit failed: %s", error)
        if self._broken is not None and self._on_fatal is not None:
            self._on_fatal(error)

    @staticmethod
    def _answer(group: list[_Unit]) -> None:
        """Resolve the futures of *group*: one wake-up for each event loop in it."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Unit]] = {}
        for unit in group:
            by_loop.setdefault(unit.future.get_loop(), []).append(unit)
        for loop, units in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_resolve, units)


def _resolve(units: Sequence[_Unit]) -> None:
    for unit in units:
        if unit.future.done():
            continue  # the waiter was cancelled: stored all the same (F-IN-15)
        if unit.error is None:
            unit.future.set_result(unit.result)
        else:
            unit.future.set_exception(unit.error)


# A statement that is wrong, and no word about the disk.
_ABOUT_STATEMENT = frozenset(
    {
        0,  # of Python's own: wrong parameters
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_RANGE,
    }
)


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_about_store(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) not in _ABOUT_STATEMENT


def _translate_write(error: Exception) -> EmailerError:
    """Return what a failed commit means: not stored, or nobody knows (the process must end)."""
    if _code(error) == sqlite3.SQLITE_BUSY:
        return StoreBusy(
            "another process held the store's write lock for too long; nothing was stored",
            retry_after_s=1,
        )
    if _code(error) == sqlite3.SQLITE_FULL:
        return StorageFull(
            "the disk of the store is full; nothing was stored", retry_after_s=60
        )
    return OutcomeUnknown(
        f"writing to the store failed ({error}); whether this was stored is not known",
        retry_after_s=5,
    )


def _translate_read(error: sqlite3.Error) -> Exception:
    """Return what a failed read means: damage, a disk that fails, or a mistake of ours."""
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreUnusable(
            f"the store is damaged: {error}",
            hint="stop both daemons, restore a backup, then: emailerctl store check",
        )
    if _is_about_store(error):
        return Unavailable(f"the store can't be read now: {error}", retry_after_s=1)
    return error
