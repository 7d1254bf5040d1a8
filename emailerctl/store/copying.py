"""Whole stores as files: an online backup, and putting one in the place of another.

A backup is one snapshot, taken while daemons write.  A restored store is made whole beside its
place and moved there at the end: at no moment is there half of one.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emailerctl.errors import Conflict, StoreUnusable, UsageError
from emailerctl.store import sqlite

_CHUNK = 4 * 1024 * 1024
_LOOK_EVERY_S = 0.1

Progress = Callable[[int, int], None]  # octets so far, octets in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was made, or looked at.

    Attributes:
        at_ms: of the newest event in it; None where there is none.
        last_seq: the newest event's number.
    """

    path: Path
    size_bytes: int
    messages: int
    last_seq: int
    at_ms: int | None


def back_up(source: Path, target: Path, *, progress: Progress) -> Backup:
    """Copy the store at *source*, as it is at this moment, to the new file *target*.

    Raises:
        UsageError: *target* exists, or can't be written.
        StoreUnusable: *source* can't be opened, or the copy is not sound.
    """
    _refuse_existing(target)
    fresh = target.with_name(f".{target.name}.unfinished")
    with _removing(fresh), _reporting(target):
        _make_private(fresh)
        connection = sqlite.connect(source, is_reader=True)
        size = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()[0]
        copy = sqlite.sqlite3.connect(fresh, isolation_level=None, check_same_thread=False)
        try:
            with _watching(fresh, size, progress):
                connection.backup(copy)  # one step: one snapshot, whoever writes meanwhile
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        except sqlite.sqlite3.Error as error:
            raise StoreUnusable(
                f"the store at {source} can't be copied: {error}",
                hint="see: emailerctl store check",
            ) from error
        finally:
            copy.close()
            connection.close()
        _sync(fresh)
        seen = examine(fresh)
        _refuse_existing(target)
        fresh.rename(target)
        _sync(target.parent)
    progress(size, size)
    return Backup(
        path=target,
        size_bytes=seen.size_bytes,
        messages=seen.messages,
        last_seq=seen.last_seq,
        at_ms=seen.at_ms,
    )


def examine(path: Path) -> Backup:
    """Look whether *path* is a sound store, and what is in it.

    Raises:
        StoreUnusable: it is none, another program's, or damaged.
    """
    damage = sqlite.find_damage(path)
    if damage:
        raise StoreUnusable(f"{path} is damaged: {damage[0]}", hint="take an older backup")
    connection = sqlite.connect(path, is_reader=True)
    try:
        messages = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
        last = connection.execute(
            "SELECT seq, at FROM events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
    except sqlite.sqlite3.Error as error:
        raise StoreUnusable(f"{path} is no whole store: {error}") from error
    finally:
        connection.close()
    return Backup(
        path=path,
        size_bytes=path.stat().st_size,
        messages=messages,
        last_seq=last[0] if last else 0,
        at_ms=last[1] if last else None,
    )


@contextlib.contextmanager
def placing(backup: Path, place: Path, *, aside: Path, progress: Progress) -> Iterator[Path]:
    """Copy *backup* beside *place* for the body to work on; then move it there.

    What was at *place* is kept as *aside*.  If the body raises nothing has changed.

    Raises:
        Conflict: a daemon or another program has the store open.
        UsageError: a file can't be written.
    """
    fresh = place.with_name(f".{place.name}.unfinished")
    with _removing(fresh), _reporting(place):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.exists():
            _require_alone(place)
        _copy(backup, fresh, progress)
        _set_journal(fresh, "WAL")
        yield fresh
        _set_journal(fresh, "DELETE")  # nothing is left beside it
        _set_journal(fresh, "WAL")
        _give_to_owner(fresh, place)
        _sync(fresh)
        if place.exists():
            _require_alone(place)
            place.rename(aside)
        fresh.rename(place)
        _sync(place.parent)


def _require_alone(path: Path) -> None:
    """Refuse a store that somebody has open; afterwards the file alone is the whole store.

    SQLite leaves WAL mode only for the one process that has the file open.
    """
    try:
        _set_journal(path, "DELETE")
    except sqlite.sqlite3.OperationalError as error:
        raise Conflict(
            f"the store at {path} is in use ({error})",
            hint="stop emailerctl serve and emailerctl consume first",
        ) from error
    except sqlite.sqlite3.DatabaseError:
        return  # damaged beyond that: which is why it is being replaced


def _set_journal(path: Path, mode: str) -> None:
    connection = sqlite.sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout=1000")
        connection.execute(f"PRAGMA journal_mode={mode}")
    finally:
        connection.close()


def _copy(source: Path, target: Path, progress: Progress) -> None:
    _make_private(target)
    size = source.stat().st_size
    done = 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while octets := reading.read(_CHUNK):
            writing.write(octets)
            done += len(octets)
            progress(done, size)


def _make_private(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _give_to_owner(fresh: Path, place: Path) -> None:
    """Let the daemons' user have what root restores."""
    if os.geteuid() == 0:
        owner = (place if place.exists() else place.parent).stat()
        os.chown(fresh, owner.st_uid, owner.st_gid)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UsageError(
            f"there is already something at {target}",
            hint="name a new file: backups are never overwritten",
        )


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise UsageError(
            f"can't write {path}: {error.strerror} ({free // 1024 // 1024} MiB free there)",
            hint="name a folder that exists, is writable and has room",
        ) from error


@contextlib.contextmanager
def _removing(path: Path) -> Iterator[None]:
    """Leave nothing unfinished behind, whatever happens."""
    try:
        yield
    finally:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _watching(path: Path, size: int, progress: Progress) -> Iterator[None]:
    """Tell how far the copy at *path* has grown while the body runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_EVERY_S):
            progress(min(path.stat().st_size, size), size)

    watcher = threading.Thread(target=watch, name="backup-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
