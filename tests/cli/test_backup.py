"""`store backup` and `store restore`: what was open in a backup may have gone out since."""

import json
import stat
from pathlib import Path

import pytest

from emailerctl.store import sqlite
from tests.cli.world import Kind, World


@pytest.fixture
def saved(world: World) -> Path:
    """A backup: one message sent, one queued, one held, one that policy sends again."""
    sent = world.submit("sent@example.org")
    world.attempt(sent, Kind.ACCEPTED, "250 ok")
    world.submit("queued@example.org", expires_in="1h")
    held = world.submit("held@example.org")
    world.ok("messages", "hold", held)
    doubtful = world.submit("doubtful@example.org", on_unknown="resend")
    world.attempt(doubtful, Kind.UNKNOWN)
    path = world.folder / "saved.db"
    world.ok("store", "backup", str(path))
    return path


def states(world: World) -> dict[str, str]:
    """Return the state of each recipient by the beginning of its address."""
    found = world.ok("messages", "list", "-o", "json").json["data"]
    return {
        recipient["address"].partition("@")[0]: recipient["state"]
        for message in found
        for recipient in message["recipients"]
    }


def test_a_backup_is_a_whole_store(world: World, saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert {path.name for path in world.folder.glob("*saved*")} == {"saved.db"}

    made = world.ok("store", "backup", "again.db", "-o", "json").json

    assert (made["path"], made["messages"]) == (str(world.folder / "again.db"), 4)
    assert made["size_bytes"] == (world.folder / "again.db").stat().st_size
    assert sqlite.find_damage(saved) == []


def test_a_backup_overwrites_nothing(world: World, saved: Path) -> None:
    before = saved.read_bytes()

    refused = world.run("store", "backup", str(saved))

    assert refused.code == 2
    assert "already something" in refused.err
    assert "name a new file" in refused.err
    assert saved.read_bytes() == before
    assert "MiB free" in world.run("store", "backup", "/proc/nowhere/b.db").err


def test_what_was_open_is_in_doubt_after_a_restore(world: World, saved: Path) -> None:
    world.submit("after@example.org")

    told = world.ok("--yes", "store", "restore", str(saved), "-o", "json").json

    assert told["fenced"] == 2
    assert states(world) == {
        "sent": "sent",
        "queued": "unknown",
        "held": "unknown",
        "doubtful": "unknown",
    }
    assert world.ok("store", "audit", "-o", "json").json["data"] == []
    assert world.ok("queue", "stats", "-o", "json").json["ready"] == 0
    kept = Path(told["replaced"])
    assert sqlite.find_damage(kept) == []
    [line] = world.ok("logs", "-n", "1", "-o", "jsonl").lines
    event = json.loads(line)
    assert (event["type"], event["data"]["backup"]) == ("operator.restore", "saved.db")


def test_no_event_gets_a_number_that_followers_have_seen(world: World, saved: Path) -> None:
    world.submit("after@example.org")
    seen = json.loads(world.ok("logs", "-n", "1", "-o", "jsonl").lines[-1])["seq"]

    world.ok("--yes", "store", "restore", str(saved))
    world.submit("new@example.org")

    numbers = [json.loads(line)["seq"] for line in world.ok("logs", "-o", "jsonl").lines]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > seen


def test_without_a_fence_all_is_as_it_was(world: World, saved: Path) -> None:
    told = world.ok("--yes", "store", "restore", "--no-fence", str(saved))

    assert "will be sent again" in told.err
    assert {"queued", "held"} <= set(states(world).values())


def test_a_store_in_use_is_not_replaced(world: World, saved: Path) -> None:
    store = world.folder / "emailer.db"
    user = sqlite.connect(store)
    try:
        user.execute("SELECT count(*) FROM messages").fetchone()
        refused = world.run("--yes", "store", "restore", str(saved))
    finally:
        user.close()

    assert refused.code == 65
    assert "is in use" in refused.err
    assert "stop emailerctl serve" in refused.err
    assert not list(world.folder.glob("*replaced*"))
    assert not list(world.folder.glob("*unfinished*"))
    assert world.ok("store", "audit", "-o", "json").json["data"] == []


def test_what_is_no_backup_is_refused(world: World, saved: Path) -> None:
    text = world.folder / "letter.txt"
    text.write_text("Dear Ann")
    damaged = world.folder / "damaged.db"
    octets = bytearray(saved.read_bytes())
    octets[8192:12288] = bytes(4096)
    damaged.write_bytes(octets)

    for path in (text, damaged, world.folder / "nothing.db"):
        refused = world.run("--yes", "store", "restore", str(path))
        assert refused.code == 78, refused.err
        assert path.name in refused.err
        assert "Traceback" not in refused.err
    assert states(world)["queued"] == "queued"


def test_a_damaged_store_is_replaced_too(world: World, saved: Path) -> None:
    store = world.folder / "emailer.db"
    store.write_bytes(b"\0" * 100_000)

    world.ok("--yes", "store", "restore", str(saved))

    assert states(world)["sent"] == "sent"


def test_a_replacement_is_asked_for(world: World, saved: Path) -> None:
    refused = world.run("store", "restore", str(saved))
    assert refused.code == 2
    assert "--yes" in refused.err

    told = world.run_on_terminal(
        "store", "restore", str(saved), answers={"Put it in the place of": "y"}
    )

    assert told.code == 0
    assert "2 recipients are in doubt" in told.out
