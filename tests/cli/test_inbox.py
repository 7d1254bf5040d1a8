"""`inbox list|show|retry|rm`: no API and no consumer is needed."""

import json
import time
from typing import Any

from emailerctl.models.event import Event
from emailerctl.models.ids import INBOX, to_public
from emailerctl.models.job import Key, build_envelope
from emailerctl.models.page import EventFilter
from emailerctl.store.base import InboxFilter, InboxJob
from emailerctl.wiring import App
from tests.cli.world import World, strip_styles
from tests.corpora import naughty_strings

SHOP = Key("shop", "0123456789abcdef0123456789abcdef")
GOOD = {"to": "ann@example.org", "subject": "Hello", "text": "It works."}
_NUMBERS = iter(range(1, 1000))


def envelope(
    fields: dict[str, Any] = GOOD, key: Key | None = SHOP, job_id: str = "j-1"
) -> bytes:
    built = build_envelope(
        fields, topic="email.job", job_id=job_id, at_s=int(time.time()), key=key
    )
    return json.dumps(built).encode()


def keep(world: World, *raws: bytes) -> list[str]:
    """Let jobs come and be looked at, as a consumer does; return their inbox ids."""

    async def task(app: App) -> list[str]:
        ids = []
        for raw in raws:
            now_ms = app.clock.now_ms()
            job = InboxJob(
                inbox_id=next(_NUMBERS) << 40,
                topic="email.job",
                raw=raw,
                received_ms=now_ms,
                due_ms=now_ms,
                changed_ms=now_ms,
            )
            await app.store.add_job(job)
            await app.ingest.process(job)
            ids.append(to_public(INBOX, job.inbox_id))
        return ids

    return world.work(task)


def add_key(world: World) -> None:
    with world.file.open("a") as file:
        file.write(f'[ingest.forestmq.keys]\nshop = "{SHOP.secret}"\n')
    world.file.chmod(0o600)


def find_inbox(world: World) -> list[str]:
    async def task(app: App) -> list[str]:
        page = await app.store.list_jobs(InboxFilter(), cursor=None, limit=200)
        return [to_public(INBOX, job.inbox_id) for job in page.data]

    return world.work(task)


def find_events(world: World) -> list[Event]:
    async def task(app: App) -> list[Event]:
        return await app.store.list_events(EventFilter(), after_seq=0, limit=200)

    return world.work(task)


def test_nothing_is_said_of_nothing(world: World) -> None:
    assert world.ok("inbox", "list").lines == [
        "id\treceived\ttopic\tservice\tjob\treason\tdetail"
    ]


def test_a_rejected_job_is_listed_and_shown_with_its_reasons(world: World) -> None:
    raw = envelope()
    [first, second] = keep(world, raw, envelope(key=None, job_id="j-2"))

    listed = world.ok("inbox", "list", "-o", "json").json["data"]
    assert [(job["id"], job["code"], job["key_id"]) for job in listed] == [
        (second, "unsigned", None),
        (first, "unknown_key", "shop"),
    ]
    assert world.ok("inbox", "list", "--code", "unsigned", "-o", "id").lines == [second]
    of_shop = world.ok("inbox", "list", "--key-id", "shop", "--state", "rejected").lines
    assert len(of_shop) == 2
    assert "shop?" in of_shop[1]  # it says so, and nobody knows
    shown = world.ok("inbox", "show", first[:12]).out
    for said in ("unknown_key", "/kid", "(not known), key id shop", '"subject":"Hello"'):
        assert said in shown
    assert world.ok("inbox", "show", first, "-o", "json").json["raw"] == raw.decode()
    assert "2 jobs rejected" in world.ok("status").out
    assert world.run("inbox", "show", "inb_9").code == 66


def test_after_a_key_was_added_a_retry_makes_it_a_message(world: World) -> None:
    [good, bad] = keep(world, envelope(), envelope({**GOOD, "to": "nobody"}, job_id="j-2"))
    assert world.run("inbox", "retry", good).code == 65
    add_key(world)

    retried = world.run("inbox", "retry", "-", stdin=world.ok("inbox", "list", "-o", "id").out)

    assert retried.code == 65
    assert f"{bad} is rejected again (invalid): /to: " in retried.out
    assert f"{good} is msg_" in retried.out
    assert find_inbox(world) == [bad]
    events = find_events(world)
    [accepted] = [one for one in events if one.type == "message.accepted"]
    assert accepted.service == "shop"
    audited = [one.data for one in events if one.type == "operator.inbox_retry"]
    assert [(one["inbox_id"], one["state"]) for one in audited] == [
        (good, "rejected"),
        (bad, "rejected"),
        (good, "accepted"),
    ]
    assert all(one["actor"] for one in audited)


def test_removing_asks_and_is_audited(world: World) -> None:
    [first, second] = keep(world, envelope(), envelope(job_id="j-2"))

    assert world.run("inbox", "rm", first).code == 2
    assert world.ok("inbox", "rm", first, "--dry-run").out == f"would remove {first}\n"
    no = world.run_on_terminal("inbox", "rm", first, answers={"for good? [y/N]": "n"})
    assert no.code == 130
    assert len(find_inbox(world)) == 2
    removed = world.ok("inbox", "rm", first, second, "--yes").out
    assert removed == f"removed {first}\nremoved {second}\n"
    assert find_inbox(world) == []
    assert [one.type for one in find_events(world)] == ["operator.inbox_rm"] * 2


def test_hostile_text_is_harmless(world: World) -> None:
    """T-19: in a table on a terminal, on a pipe, in JSON, and shown."""
    raws = [
        json.dumps({"topic": "email.job", text[:50]: text}).encode()
        for text in naughty_strings()
        if not text.isprintable()
    ]
    raws += [b"\x1b[2J\x07\xff\x00", "‮\x9b31m[red]".encode()]
    ids = keep(world, *raws)

    outputs = [
        strip_styles(world.run_on_terminal("inbox", "list", "--limit", "200").out),
        world.ok("inbox", "list", "--limit", "200", "-o", "json").out,
        world.ok("inbox", "show", ids[-1]).out,
    ]
    for out in outputs:
        assert not {"\x1b", "\x07", "\x00", "\x9b", "‮"} & set(out)
