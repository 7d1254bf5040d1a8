"""Group commit: who is answered when, and what shares a fate; opening and closing."""

import asyncio
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from emailerctl.errors import (
    OutcomeUnknown,
    StorageFull,
    StoreBusy,
    StoreUnusable,
    Unavailable,
)
from emailerctl.models.event import Event
from emailerctl.store import migrations, schema, sqlite
from emailerctl.store.driver import Tx
from emailerctl.store.sqlite import SqliteDriver, find_damage, sqlite3
from tests.desk import Desk, connect, open_desk, until
from tests.fakes import FakeClock

LEAVE = "INSERT INTO meta (key, value) VALUES (:key, 'x')"
COUNT = "SELECT count(*) FROM meta"


def leave(key: str) -> object:
    """Return a piece of work that leaves a note and returns its name."""

    def work(tx: Tx) -> str:
        tx.run(LEAVE, {"key": key})
        return key

    return work


def fail(code: int) -> object:
    """Return a piece of work that meets an error of SQLite's."""

    def work(_tx: Tx) -> None:
        error = sqlite3.OperationalError("as if")
        error.sqlite_errorcode = code
        raise error

    return work


class Gate:
    """Holds the writer inside a piece of work, so that a group gathers behind it."""

    def __init__(self) -> None:
        self.is_held = threading.Event()
        self._opened = threading.Event()

    def __call__(self, _tx: Tx) -> None:
        self.is_held.set()
        assert self._opened.wait(10)

    def open(self) -> None:
        self._opened.set()


async def gather_behind(driver: SqliteDriver, *works: object) -> list[object]:
    """Run *works* as one group: they wait together while a gate is held."""
    gate = Gate()
    held = asyncio.ensure_future(driver.write(gate))
    await asyncio.to_thread(gate.is_held.wait, 10)
    tasks = [asyncio.ensure_future(driver.write(work)) for work in works]  # type: ignore[arg-type]
    await until(lambda: driver.backlog == len(works))
    gate.open()
    await held
    return list(await asyncio.gather(*tasks, return_exceptions=True))


# answers


async def test_nobody_is_answered_before_the_commit(desk: Desk) -> None:
    """A 202 is on disk: at the moment of the answer another process sees the message."""

    async def add_and_look() -> bool:
        message_id = await desk.add()
        return desk.rows("SELECT 1 FROM messages WHERE id = ?", message_id) == [(1,)]

    assert all(await asyncio.gather(*(add_and_look() for _ in range(50))))


async def test_what_waits_for_a_commit_shares_the_next_one(desk: Desk) -> None:
    commits = desk.driver.sizes.commits

    results = await gather_behind(desk.driver, *(leave(f"note {n}") for n in range(40)))

    assert results == [f"note {n}" for n in range(40)]
    assert desk.driver.sizes.commits == commits + 2  # the gate's and theirs
    assert desk.driver.sizes.units >= 41


async def test_a_crash_in_the_middle_of_a_group_leaves_nothing_of_it(
    desk: Desk, tmp_path: Path
) -> None:
    """F-IN-03: the files as they are while the group runs are what a restart would find."""
    before = await desk.add()

    def crash(_tx: Tx) -> None:
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{desk.path}{suffix}", tmp_path / f"crashed.db{suffix}")

    await asyncio.gather(
        desk.add(key_hash=b"a" * 16), desk.driver.write(crash), desk.add(key_hash=b"b" * 16)
    )

    async with open_desk(tmp_path / "crashed.db", desk.clock, Random(3)) as restarted:
        assert restarted.rows("SELECT id FROM messages") == [(before,)]
        assert await restarted.store.find_by_key(b"a" * 16) is None
        assert await restarted.audit() == []
    assert len(desk.rows("SELECT id FROM messages")) == 3


async def test_a_bad_piece_of_work_is_refused_and_the_others_are_stored(desk: Desk) -> None:
    """F-IN-04."""

    def spoil(tx: Tx) -> None:
        tx.run(LEAVE, {"key": "spoilt"})
        tx.memo["has_suppressions"] = True
        raise LookupError("bad")

    results = await gather_behind(
        desk.driver, leave("first"), spoil, leave("first"), leave("last")
    )

    assert results[0] == "first"
    assert isinstance(results[1], LookupError)
    assert isinstance(results[2], sqlite3.IntegrityError)
    assert results[3] == "last"
    assert desk.rows("SELECT key FROM meta ORDER BY key") == [("first",), ("last",)]


async def test_a_piece_of_work_that_failed_leaves_no_events_and_no_memory(
    store_path: Path, clock: FakeClock
) -> None:
    published: list[Event] = []

    def publish(events: Sequence[Event], _has_new_work: bool) -> None:
        published.extend(events)

    async with open_desk(store_path, clock, Random(1), publish=publish) as desk:
        message = desk.build()
        results = await asyncio.gather(
            *(desk.store.add(message, now_ms=1) for _ in range(3)), return_exceptions=True
        )

    assert sum(isinstance(result, BaseException) for result in results) == 2
    assert [event.type for event in published] == ["message.accepted", "recipient.accepted"]
    assert [event.seq for event in published] == [1, 2]


async def test_a_waiter_that_went_away_is_stored_all_the_same(desk: Desk) -> None:
    """F-IN-15: stored if and only if committed."""
    gate = Gate()
    held = asyncio.ensure_future(desk.driver.write(gate))
    await asyncio.to_thread(gate.is_held.wait, 10)
    leaving = asyncio.ensure_future(desk.add(key_hash=b"k" * 16))
    await until(lambda: desk.driver.backlog == 1)
    leaving.cancel()
    gate.open()
    await held

    await desk.driver.write(leave("after"))

    assert leaving.cancelled()
    receipt = await desk.store.find_by_key(b"k" * 16)
    assert receipt is not None


async def test_works_of_two_event_loops_share_the_writer(desk: Desk) -> None:
    found: list[str] = []

    def run_elsewhere() -> None:
        async def run() -> None:
            found.extend(
                await asyncio.gather(*(desk.driver.write(leave(f"b{n}")) for n in range(30)))  # type: ignore[arg-type]
            )

        asyncio.run(run())

    elsewhere = asyncio.to_thread(run_elsewhere)
    here = asyncio.gather(*(desk.driver.write(leave(f"a{n}")) for n in range(30)))  # type: ignore[arg-type]
    _, ours = await asyncio.gather(elsewhere, here)

    assert len(found) == len(ours) == 30
    assert desk.rows(COUNT) == [(60,)]


async def test_a_loop_that_was_closed_meanwhile_is_no_hindrance(desk: Desk) -> None:
    gate = Gate()
    held = asyncio.ensure_future(desk.driver.write(gate))
    await asyncio.to_thread(gate.is_held.wait, 10)

    async def leave_and_go() -> None:
        desk.driver.write(leave("gone"))  # type: ignore[arg-type]

    def run_elsewhere() -> None:
        asyncio.run(leave_and_go())

    await asyncio.to_thread(run_elsewhere)
    gate.open()
    await held

    assert await desk.driver.write(leave("after")) == "after"  # type: ignore[arg-type]
    assert desk.rows("SELECT key FROM meta ORDER BY key") == [("after",), ("gone",)]


# publishing


async def test_what_is_published_is_committed(store_path: Path, clock: FakeClock) -> None:
    seen: list[tuple[int, int, bool]] = []

    def publish(events: Sequence[Event], has_new_work: bool) -> None:
        with connect(store_path) as connection:
            (last,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        seen.append((events[-1].seq if events else 0, last, has_new_work))

    async with open_desk(store_path, clock, Random(1), publish=publish) as desk:
        message_id = await desk.add()
        await desk.store.record("x", now_ms=1, message_id=message_id)
        await desk.store.leave_note("quiet", "")

    assert seen == [(2, 2, True), (3, 3, False)]


async def test_a_publisher_that_fails_does_not_stop_the_writer(
    store_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def publish(_events: Sequence[Event], _has_new_work: bool) -> None:
        raise OSError("too many open files")

    with caplog.at_level(logging.ERROR):
        async with open_desk(store_path, clock, Random(1), publish=publish) as desk:
            for _ in range(3):
                await desk.add()
            assert len(await desk.events()) == 6

    assert "could not be published" in caplog.text


# a disk or a lock that refuses


async def test_a_lock_held_for_too_long_stores_nothing(
    store_path: Path, clock: FakeClock
) -> None:
    """F-IN-07."""
    async with open_desk(store_path, clock, Random(1), busy_timeout_s=0.05) as desk:
        with connect(store_path) as another:
            another.execute("BEGIN IMMEDIATE")
            results = await asyncio.gather(
                *(desk.receive(key_hash=bytes([n]) * 16) for n in range(3)),
                return_exceptions=True,
            )
            another.execute("ROLLBACK")

        assert {type(result) for result in results} == {StoreBusy}
        assert isinstance(results[0], StoreBusy)
        assert results[0].retry_after_s == 1
        assert desk.rows("SELECT count(*) FROM messages") == [(0,)]
        assert not (await desk.receive(key_hash=b"\x00" * 16)).is_replay


async def test_a_lock_that_is_freed_in_time_is_waited_for(desk: Desk) -> None:
    with connect(desk.path) as another:
        another.execute("BEGIN IMMEDIATE")
        adding = asyncio.ensure_future(desk.add())
        await asyncio.sleep(0)
        await until(lambda: not desk.driver.backlog)  # the writer has taken it up
        assert not adding.done()
        another.execute("COMMIT")
        await adding


async def test_a_full_disk_fails_the_group_and_not_the_next(desk: Desk) -> None:
    """F-IN-05: whatever piece of work met it, nothing of the group is acknowledged."""
    results = await gather_behind(
        desk.driver, leave("first"), fail(sqlite3.SQLITE_FULL), leave("last")
    )

    assert {type(result) for result in results} == {StorageFull}
    assert desk.rows(COUNT) == [(0,)]
    assert await desk.driver.write(leave("next")) == "next"  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT])
async def test_a_disk_that_fails_ends_the_process(
    store_path: Path, clock: FakeClock, code: int
) -> None:
    """F-IN-06: everybody hears that nobody knows, then the daemon is told to exit."""
    fatal: list[BaseException] = []
    async with open_desk(store_path, clock, Random(1), on_fatal=fatal.append) as desk:
        results = await gather_behind(desk.driver, leave("first"), fail(code), leave("last"))

        assert {type(result) for result in results} == {OutcomeUnknown}
        await until(lambda: fatal)  # told after the waiters were
        assert len(fatal) == 1
        with pytest.raises(StoreUnusable, match="closed"):
            await desk.driver.write(leave("next"))  # type: ignore[arg-type]
        assert await desk.driver.read(lambda tx: tx.one(COUNT)) == (0,)


async def test_a_read_that_fails_says_so_in_its_own_words(desk: Desk) -> None:
    with pytest.raises(StoreUnusable, match="damaged"):
        await desk.driver.read(fail(sqlite3.SQLITE_CORRUPT))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="can't be read now"):
        await desk.driver.read(fail(sqlite3.SQLITE_IOERR))  # type: ignore[arg-type]
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await desk.driver.read(lambda tx: tx.one("SELECT 1 FROM nowhere"))
    assert await desk.driver.read(lambda tx: tx.one("SELECT 1")) == (1,)


async def test_readers_do_not_write(desk: Desk) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        await desk.driver.read(leave("x"))  # type: ignore[arg-type]

    assert desk.rows(COUNT) == [(0,)]


async def test_a_reader_sees_one_snapshot(desk: Desk) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def look_twice(tx: Tx) -> tuple[object, object]:
        before = tx.one(COUNT)
        reading.set()
        assert go_on.wait(10)
        return before, tx.one(COUNT)

    looking = asyncio.ensure_future(desk.driver.read(look_twice))
    await asyncio.to_thread(reading.wait, 10)
    await desk.driver.write(leave("meanwhile"))  # type: ignore[arg-type]
    go_on.set()

    assert await looking == ((0,), (0,))
    assert await desk.driver.read(lambda tx: tx.one(COUNT)) == (1,)


# closing


async def test_closing_finishes_what_was_begun(store_path: Path, clock: FakeClock) -> None:
    async with open_desk(store_path, clock, Random(1)) as desk:
        adding = [asyncio.ensure_future(desk.add()) for _ in range(30)]
        await asyncio.sleep(0)
        await desk.store.close()
        assert len(await asyncio.gather(*adding)) == 30
        with pytest.raises(StoreUnusable, match="the store is closed"):
            await desk.add()

    async with open_desk(store_path, clock, Random(1)) as again:
        assert again.rows("SELECT count(*) FROM messages") == [(30,)]


async def test_every_connection_syncs_fully_and_uses_the_log(desk: Desk) -> None:
    for run in (desk.driver.write, desk.driver.read):
        assert await run(lambda tx: tx.one("PRAGMA synchronous")) == (2,)
        assert await run(lambda tx: tx.one("PRAGMA journal_mode")) == ("wal",)


def test_the_library_is_free_of_the_wal_reset_bug() -> None:
    assert sqlite.is_library_safe() == (sqlite.library_version() >= (3, 51, 3))


# opening


def snapshot(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """F-IN-08: never an empty one in its place."""
    path = tmp_path / "emailer.db"

    for open_it in (schema.require_current, SqliteDriver, migrations.list_steps):
        with pytest.raises(StoreUnusable, match="there is no store at") as refusal:
            open_it(path)
        assert "store migrate" in refusal.value.cure

    assert snapshot(tmp_path) == set()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="there is no store at"):
        schema.require_current(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be read" * 50])
def test_a_file_that_is_no_store_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    """F-IN-08."""
    path = tmp_path / "emailer.db"
    path.write_bytes(content)

    for open_it in (schema.require_current, SqliteDriver, migrations.migrate):
        with pytest.raises(StoreUnusable):
            open_it(path)

    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """F-IN-08."""
    path = tmp_path / "other.db"
    with connect(path) as connection:
        connection.execute("PRAGMA application_id=42")
        connection.execute("CREATE TABLE mine (x)")

    for open_it in (schema.require_current, SqliteDriver, migrations.migrate):
        with pytest.raises(StoreUnusable, match=r"another program.*42") as refusal:
            open_it(path)
        assert refusal.value.cure == "correct [store] url"


def test_a_damaged_store_is_refused(store_path: Path) -> None:
    """F-IN-08."""
    content = bytearray(store_path.read_bytes())
    content[100:4096] = os.urandom(3996)  # the schema
    store_path.write_bytes(content)

    with pytest.raises(StoreUnusable, match=r"damaged|can't be opened") as refusal:
        schema.require_current(store_path)
    assert "restore a backup" in refusal.value.cure
    with pytest.raises(StoreUnusable):
        migrations.migrate(store_path)


async def test_damage_in_the_depth_is_found_by_the_check(desk: Desk) -> None:
    await desk.add(raw=b"x" * 200_000)
    assert find_damage(desk.path) == []
    await desk.store.close()
    content = bytearray(desk.path.read_bytes())
    content[-9_000:-5_000] = b"\xff" * 4_000
    broken = desk.path.with_name("broken.db")
    broken.write_bytes(content)

    assert find_damage(broken) != []
    desk.store.driver = SqliteDriver(desk.path)


def add_future_step(store_path: Path, name: str) -> None:
    with connect(store_path) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('emailerctl', ?, '')",
            [name],
        )


def test_a_store_of_a_newer_version_is_refused(store_path: Path) -> None:
    """F-IN-08."""
    add_future_step(store_path, "9999_from_the_future_breaking")

    for open_it in (schema.require_current, migrations.migrate):
        with pytest.raises(StoreUnusable, match=r"newer version.*9999_from_the_future"):
            open_it(store_path)


def test_an_upgrade_can_be_taken_back_after_an_additive_step(store_path: Path) -> None:
    add_future_step(store_path, "9999_one_more_column")

    schema.require_current(store_path)
    assert all(step.is_applied for step in migrations.migrate(store_path))


def test_a_store_that_lacks_a_step_is_refused_until_it_is_migrated(store_path: Path) -> None:
    """F-IN-08."""
    with connect(store_path) as connection:
        (name,) = connection.execute("SELECT name FROM _sqlite_migrations").fetchone()
        connection.execute("DELETE FROM _sqlite_migrations")

    with pytest.raises(StoreUnusable, match=f"lacks the schema steps {name}") as refusal:
        schema.require_current(store_path)
    assert refusal.value.cure == "run: emailerctl store migrate"
    assert not any(step.is_applied for step in migrations.list_steps(store_path))


def test_migrating_makes_a_private_store_with_every_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "emailer.db"

    steps = migrations.migrate(path)
    again = migrations.migrate(path)

    assert steps == again == migrations.list_steps(path)
    assert all(step.is_applied and step.sentence.endswith(".") for step in steps)
    schema.require_current(path)
    assert path.stat().st_mode & 0o077 == 0
    assert snapshot(path.parent) == {"emailer.db"}


def test_two_that_migrate_at_once_make_one_store(tmp_path: Path) -> None:
    path = tmp_path / "emailer.db"
    errors: list[BaseException] = []

    def migrate() -> None:
        try:
            migrations.migrate(path)
        except StoreUnusable as error:
            errors.append(error)  # the other one has the lock: it says so

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    migrations.migrate(path)
    schema.require_current(path)
    assert len(errors) < 4
    assert find_damage(path) == []


def test_a_step_that_fails_is_taken_back(store_path: Path, tmp_path: Path) -> None:
    with connect(store_path) as connection:
        connection.execute("DELETE FROM _sqlite_migrations")
        before = connection.execute("SELECT sql FROM sqlite_schema").fetchall()

    with pytest.raises(StoreUnusable, match="the step was taken back"):
        migrations.migrate(store_path)  # its tables are there already

    with connect(store_path) as connection:
        assert connection.execute("SELECT sql FROM sqlite_schema").fetchall() == before


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnusable, match="can't be created"):
        migrations.migrate(tmp_path / "file" / "emailer.db")


@pytest.mark.parametrize("name", ["a?b#c%d.db", "mit leerzeichen.db", "größe.db"])
async def test_a_store_may_have_any_name(tmp_path: Path, clock: FakeClock, name: str) -> None:
    path = tmp_path / name
    migrations.migrate(path)

    async with open_desk(path, clock, Random(1)) as desk:
        await desk.add()
        assert len(await desk.events()) == 2
    assert snapshot(tmp_path) == {name}
