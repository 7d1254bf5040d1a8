"""The disk fails or is full in the middle of a commit: nothing that was acknowledged is lost.

The system calls of a process that commits are made to fail, one after the other, so that every
call of a commit was hit.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from emailerctl.store import migrations, schema
from tests.desk import open_desk
from tests.fakes import FakeClock
from tests.scenarios.inject import ENDED, UNUSABLE, key_hash
from tests.scenarios.processes import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="needs strace (the package of that name)"
    ),
]

MOST_CALLS = 200  # of one kind, by one thread; more than a few commits make


@dataclass(frozen=True, slots=True)
class Told:
    """What the process said: which keys were acknowledged, which not, which nobody knows."""

    exit_code: int
    acked: frozenset[int]
    full: frozenset[int]
    unknown: frozenset[int]
    is_fatal: bool
    was_hit: bool


def run(path: Path, groups: int, messages: int, inject: str) -> Told:
    """Run `inject.py` with system calls that fail as *inject* says (strace's own words)."""
    trace = path.with_name("trace")
    calls = inject.partition(":")[0]
    done = subprocess.run(
        [
            *("strace", "-f", "--seccomp-bpf", "-qq", "-o", str(trace)),
            *("-e", f"trace={calls}", "-e", f"inject={inject}"),
            *(sys.executable, "-m", "tests.scenarios.inject"),
            *(str(path), str(groups), str(messages)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode in (0, ENDED, UNUSABLE), done.stderr
    words = [line.split() for line in done.stdout.splitlines()]

    def keys(what: str) -> frozenset[int]:
        return frozenset(int(word[1]) for word in words if word[0] == what)

    return Told(
        exit_code=done.returncode,
        acked=keys("acked"),
        full=keys("full"),
        unknown=keys("unknown"),
        is_fatal=["fatal"] in words,
        was_hit="(INJECTED)" in trace.read_text(),
    )


async def find_stored(path: Path, count: int) -> set[int]:
    """Restart, and return the keys of what is stored; no invariant may be broken."""
    schema.require_current(path)
    async with open_desk(path, FakeClock(), Random(1)) as desk:
        assert await desk.audit() == []
        found = {
            key
            for key in range(count)
            if await desk.store.find_by_key(key_hash(key)) is not None
        }
        assert len(desk.rows("SELECT id FROM messages")) == len(found)
        assert desk.rows("PRAGMA integrity_check") == [("ok",)]
    return found


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
async def test_a_sync_that_fails_ends_the_process_and_the_key_tells_the_truth(
    tmp_path: Path, error: str
) -> None:
    """F-IN-06, for each sync of some commits; a new log and its folder are synced too."""
    groups, messages = 3, 4
    count = groups * messages
    ended = 0
    for n in range(1, MOST_CALLS):
        path = tmp_path / str(n) / "emailer.db"
        migrations.migrate(path)
        told = run(path, groups, messages, f"fsync,fdatasync:error={error}:when={n}")
        stored = await find_stored(path, count)
        if not told.was_hit:
            assert told.acked == stored == set(range(count))
            break
        assert told.acked <= stored
        assert not told.full & stored
        if told.exit_code == ENDED:
            ended += 1
            assert told.is_fatal
            assert told.unknown
            # Everybody of the group hears the same, and nobody is left without an answer.
            answered = len(told.acked | told.full | told.unknown)
            assert answered % messages == 0
            assert stored <= told.acked | told.unknown
        else:
            assert not told.unknown
    assert n < MOST_CALLS - 1
    assert ended >= groups  # each commit has at least one sync whose failure is fatal


@pytest.mark.parametrize("call", ["pwrite64"])
async def test_a_full_disk_acknowledges_nothing_and_the_next_works(
    tmp_path: Path, call: str
) -> None:
    """F-IN-05: the disk is full for one system call after the other."""
    full = 0
    for n in range(1, MOST_CALLS):
        path = tmp_path / str(n) / "emailer.db"
        migrations.migrate(path)
        told = run(path, 2, 2, f"{call}:error=ENOSPC:when={n}")
        stored = await find_stored(path, 4)
        assert told.acked <= stored
        assert not told.full & stored
        if not told.was_hit:
            assert told.acked == {0, 1, 2, 3}
            break
        full += bool(told.full)
        if told.exit_code == 0 and told.full and max(told.full) < 2:
            assert {2, 3} <= told.acked  # space is back: the next group is stored
    assert n < MOST_CALLS - 1
    assert full > 5


async def test_a_disk_that_fills_up_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """F-IN-05: the failing call wanders through many commits of one process."""
    for step in (101, 173, 251):
        path = tmp_path / str(step) / "emailer.db"
        migrations.migrate(path)
        told = run(path, 30, 4, f"pwrite64:error=ENOSPC:when=120+{step}")
        stored = await find_stored(path, 120)

        assert told.acked <= stored
        assert not told.full & stored
        if told.exit_code == 0:
            assert told.acked | told.full == set(range(120))
            assert told.full
            assert told.acked


async def test_a_write_that_fails_is_never_taken_for_done(tmp_path: Path) -> None:
    """F-IN-06: an error of the device while the log is written."""
    for n in (5, 9, 14, 23, 38):
        path = tmp_path / str(n) / "emailer.db"
        migrations.migrate(path)
        told = run(path, 3, 3, f"pwrite64:error=EIO:when={n}")
        stored = await find_stored(path, 9)

        assert told.acked <= stored
        assert stored <= told.acked | told.unknown
        assert (told.exit_code == ENDED) == bool(told.unknown)
