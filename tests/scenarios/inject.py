"""A process that commits messages while its system calls fail, and tells what it was told.

    python -m tests.scenarios.inject STORE GROUPS MESSAGES

Commits GROUPS groups of MESSAGES messages with the keys 0, 1, 2 …, one line of standard output
each: `acked KEY`, `full KEY` (the disk is full, not stored) or `unknown KEY`; `fatal` when the
driver says that the process must end, as a daemon does then.  Exit codes: 0 went through to the
end · 70 ended as it was told · 78 the store could not be opened.
"""

import asyncio
import sys
from pathlib import Path
from random import Random

from emailerctl.errors import OutcomeUnknown, StorageFull, StoreUnusable
from emailerctl.models.clock import SystemClock
from emailerctl.store.sqlite import SqliteDriver
from emailerctl.store.sqlstore import SqlStore
from tests.desk import Desk

ENDED, UNUSABLE = 70, 78


def key_hash(key: int) -> bytes:
    return key.to_bytes(16, "big")


def tell(what: str, key: int | None = None) -> None:
    sys.stdout.write(f"{what}\n" if key is None else f"{what} {key}\n")
    sys.stdout.flush()


async def add(desk: Desk, key: int) -> None:
    message = desk.build(f"user{key}@example.org", key_hash=key_hash(key), raw=b"x" * 2_000)
    try:
        await desk.store.add(message, now_ms=desk.clock.now_ms())
    except StorageFull:
        tell("full", key)
    except OutcomeUnknown:
        tell("unknown", key)
    else:
        tell("acked", key)


async def commit(path: Path, groups: int, messages: int) -> int:
    told: list[BaseException] = []

    def on_fatal(error: BaseException) -> None:
        tell("fatal")
        told.append(error)

    try:
        driver = SqliteDriver(path, on_fatal=on_fatal)
    except StoreUnusable:
        return UNUSABLE
    store = SqlStore(driver, rng=Random(1))
    desk = Desk(store, path, SystemClock(), Random(2))  # type: ignore[arg-type]
    for group in range(groups):
        await asyncio.gather(*(add(desk, group * messages + n) for n in range(messages)))
        if told or driver.is_broken:
            break
    await store.close()
    return ENDED if told else 0


if __name__ == "__main__":
    store_path, group_count, message_count = sys.argv[1:]
    sys.exit(asyncio.run(commit(Path(store_path), int(group_count), int(message_count))))
