"""`logs`: the past, and what comes, without gap or repeat."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli.world import Kind, Terminal, World, build_environment, strip_styles

EVENT = "seq type at message_id recipient from to attempt provider service reply data"


@contextmanager
def followed(world: World, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `logs --follow` until the block ends."""
    with subprocess.Popen(
        world.command("logs", "--follow", "-o", "jsonl", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=world.folder,
        env=build_environment(),
    ) as following:
        try:
            yield following
        finally:
            following.kill()


def read_events(following: subprocess.Popen[str], count: int) -> list[dict[str, object]]:
    assert following.stdout is not None
    return [json.loads(following.stdout.readline()) for _ in range(count)]


def all_events(world: World) -> list[dict[str, object]]:
    return world.ok("logs", "-n", "100000", "-o", "json").json["data"]


def test_events_have_their_public_shape(world: World) -> None:
    public = world.submit()

    events = [json.loads(line) for line in world.ok("logs", "-o", "jsonl").lines]

    assert [event["type"] for event in events] == ["message.accepted", "recipient.accepted"]
    assert set(events[0]) == set(EVENT.split())
    assert world.ok("logs", "-o", "json").json == {"data": events, "next_cursor": None}
    assert world.ok("logs", "-o", "id").lines == [public, public]


def test_the_last_ones_and_those_that_fit(world: World) -> None:
    first, second = world.submit("ann@example.org"), world.submit("bob@example.org")
    world.attempt(first, Kind.ACCEPTED, "250 ok")

    def types(*words: str) -> list[str]:
        return [
            event["type"].split(".")[1]
            for event in world.ok("logs", "-o", "json", *words).json["data"]
        ]

    assert types() == ["accepted"] * 4 + ["marked", "handed_over"]
    assert types("-n", "1") == ["handed_over"]
    assert types("-n", "0") == []
    assert types("--message", second) == ["accepted", "accepted"]
    assert types("--state", "sent") == ["handed_over"]
    assert types("--to", "BOB@example.org") == ["accepted"]
    assert types("--provider", "relay") == ["marked", "handed_over"]
    assert types("--service", "other") == []
    assert types("--since", "1h") == types()
    assert types("--since", "1h", "-n", "2") == ["marked", "handed_over"]
    assert types("--since", "2100-01-01T00:00:00Z") == []
    assert world.run("logs", "--since", "yesterday").code == 2


def test_a_rare_event_is_found_far_back(world: World) -> None:
    world.submit("rare@example.org")
    world.work(lambda app: _write_many(app, 3_000))

    [found] = world.ok("logs", "--to", "rare@example.org", "-o", "jsonl").lines

    assert json.loads(found)["seq"] == 2


async def _write_many(app: object, count: int) -> None:
    import asyncio

    store, now_ms = app.store, app.clock.now_ms()  # type: ignore[attr-defined]
    await asyncio.gather(*(store.record("test.noise", now_ms=now_ms) for _ in range(count)))


def test_follow_shows_what_other_processes_do(world: World) -> None:
    """Each event once and in order, also those of the moment when following begins."""
    world.submit()
    with followed(world) as following:
        seen = read_events(following, 2)
        for _ in range(5):
            world.work(lambda app: _write_many(app, 700))
        public = world.submit()
        world.attempt(public, Kind.ACCEPTED, "250 ok")
        world.ok("queue", "pause")
        expected = all_events(world)
        seen += read_events(following, len(expected) - 2)

    assert seen == expected
    assert [event["seq"] for event in seen] == sorted({event["seq"] for event in seen})


def test_follow_narrows_what_comes(world: World) -> None:
    world.attempt(world.submit(), Kind.ACCEPTED, "250 first")
    with followed(world, "--state", "sent") as following:
        assert read_events(following, 1)[0]["reply"] == "250 first"
        public = world.submit()
        world.attempt(public, Kind.ACCEPTED, "250 ok")
        [event] = read_events(following, 1)

    assert (event["message_id"], event["type"]) == (public, "recipient.handed_over")


def test_what_retention_removed_is_named(world: World) -> None:
    with world.file.open("a") as file:
        file.write('[retention]\nevents = "1ms"\n')
    for _ in range(3):
        world.submit()
    world.work(_remove_events)
    world.submit()

    data = world.ok("logs", "--since", "1h", "-o", "json").json["data"]
    text = strip_styles(world.run_on_terminal("logs", "--since", "1h").out)

    assert (data[0]["type"], data[0]["data"]) == ("gap", {"from_seq": 1, "to_seq": 5})
    assert [event["seq"] for event in data[1:]] == [6, 7, 8]  # the newest one is kept
    assert "events 1 to 5 were removed by retention" in text
    assert len(world.ok("logs", "-o", "jsonl").lines) == 3


async def _remove_events(app: object) -> None:
    store, clock = app.store, app.clock  # type: ignore[attr-defined]
    kept_ms = 10**13
    while await store.retain(
        content_ms=kept_ms, messages_ms=kept_ms, events_ms=-1, now_ms=clock.now_ms(), limit=1000
    ):
        pass


def test_ctrl_c_ends_it_quietly(world: World) -> None:
    world.submit()
    with Terminal(
        world.command("logs", "-f"), cwd=world.folder, environment=build_environment()
    ) as terminal:
        terminal.read_until("ann@example.org")
        terminal.type("\x03")
        result = terminal.finish()

    assert result.code == 130
    assert "Traceback" not in result.out
    assert "rror" not in result.out


def test_a_closed_pipe_ends_it_silently(world: World) -> None:
    for _ in range(3):
        world.submit()
    command = " ".join(world.command("logs", "-o", "jsonl"))

    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({command}; {command}) | head -n 1"],
        capture_output=True,
        text=True,
        cwd=world.folder,
        env=build_environment(),
        check=False,
    )

    assert done.stderr == ""
    assert json.loads(done.stdout)["seq"] == 1


def test_follow_ends_when_its_reader_is_gone(world: World) -> None:
    world.submit()
    with followed(world) as following:
        read_events(following, 2)
        assert following.stdout is not None
        following.stdout.close()
        world.submit()

        assert following.wait(timeout=30) == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""


def test_a_line_for_people_has_colours_and_stays_aligned(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.PERMANENT, "550 5.1.1 nobody")

    shown = world.run_on_terminal("logs").out
    plain = world.run_on_terminal("logs", NO_COLOR="1").out

    assert "\x1b[31mbounced" in shown
    assert "\x1b" not in plain
    rows = [line for line in plain.splitlines() if "ann@example.org" in line]
    assert len({line.index("ann@example.org") for line in rows}) == 1
    assert "550 5.1.1 nobody" in rows[-1]


def test_following_survives_being_stopped_and_continued(world: World) -> None:
    first = world.submit()
    with followed(world) as following:
        seen = read_events(following, 2)
        os.kill(following.pid, signal.SIGSTOP)
        second = world.submit()
        os.kill(following.pid, signal.SIGCONT)
        seen += read_events(following, 2)

    assert [event["message_id"] for event in seen] == [first, first, second, second]
