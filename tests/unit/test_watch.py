"""The background of both daemons, on a clock that we move, with a real store and a real URL."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from email import policy
from email.parser import BytesParser
from pathlib import Path
from random import Random

import pytest

from daemons.alerting import Alerting
from daemons.watch import Watch, build_sweep, recall_clock, watch_api
from emailerctl import wiring
from emailerctl.core.clockwatch import CALM_MS
from emailerctl.errors import StoreBusy
from emailerctl.models.lifecycle import Cause, State, WaitingFor
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.models.page import MessageFilter
from emailerctl.store import migrations, sqlite
from emailerctl.store.base import HopState, NextHop, Pause, Verb
from emailerctl.wiring import App
from tests.conftest import build_settings
from tests.desk import Desk, until
from tests.fakes import FakeClock
from tests.pager import TAKEN, Pager
from tests.scripted import ScriptedProvider

DAY_MS = 86_400_000
LATER = Outcome(kind=Kind.TRANSIENT, party=Party.NEXT_HOP, phase=Phase.CONNECT, reply="421 no")
REFUSED = Outcome(kind=Kind.PERMANENT, phase=Phase.ENVELOPE, reply="550 no such operator")

Open = Callable[..., Awaitable["Process"]]


class Process:
    """One of the processes that watch: its own store connection, its own memory."""

    def __init__(self, app: App, watch: Watch, mailer: ScriptedProvider) -> None:
        self.app = app
        self.watch = watch
        self.mailer = mailer
        path = app.settings.store.path
        clock = app.clock
        assert isinstance(clock, FakeClock)
        self.desk = Desk(app.store, path, clock, Random(3))

    @property
    def alerting(self) -> Alerting:
        return self.watch.alerting

    async def look(self) -> None:
        """Do once what the daemon does every few seconds about alerts."""
        await self.watch.look_at_clock()
        await self.alerting.raise_alerts()
        await self.alerting.tell()

    async def raised(self) -> set[str]:
        return {alert.name for alert in await self.app.store.list_alerts()}


@pytest.fixture
async def pager() -> AsyncIterator[Pager]:
    pager = Pager()
    yield pager
    await pager.close()


@pytest.fixture
async def open_process(tmp_path: Path, clock: FakeClock, pager: Pager) -> AsyncIterator[Open]:
    """Open the same store as one process more."""
    async with AsyncExitStack() as stack:

        async def open_process(**overrides: str) -> Process:
            settings = build_settings(
                tmp_path, **({"alerts__url": pager.url, "alerts__mail_to": ""} | overrides)
            )
            if not settings.store.path.exists():
                migrations.migrate(settings.store.path)
            app = await stack.enter_async_context(
                wiring.open_app(settings, clock=clock, rng=Random(1))
            )
            clock_watch = await recall_clock(app)
            mailer = ScriptedProvider()
            watch = Watch(
                app,
                sweep=build_sweep(app, app.build_hops(), clock_watch, own_id=None),
                clock_watch=clock_watch,
                alerter=mailer,
            )
            return Process(app, watch, mailer)

        yield open_process


@pytest.fixture
async def process(open_process: Open) -> Process:
    """A process in a quiet world: a consumer lives, nothing is wrong."""
    process = await open_process()
    await process.desk.register(1)
    await process.look()
    await beat(process)
    await process.look()
    assert await process.raised() == set()
    return process


async def beat(process: Process, *, after_s: int = 5) -> None:
    """Let the consumer give a sign of life a moment later."""
    clock = process.desk.clock
    clock.advance(s=after_s)
    assert await process.app.store.renew(
        1, now_ms=clock.now_ms(), lease_until_ms=clock.boot_ms() + 60_000, in_flight=0
    )


async def pass_time(*processes: Process, s: int) -> None:
    """Let time pass, the consumer's heart beating and every process looking."""
    while s:
        step_s = min(s, 25)
        s -= step_s
        await beat(processes[0], after_s=step_s)
        for process in processes:
            await process.look()


async def end_pause_of_telling(process: Process) -> None:
    """Let the time pass after which a process tries again to tell."""
    await pass_time(process, s=300)


# what raises, and who tells


async def test_a_doubt_is_told_after_a_minute_and_its_end_too(
    process: Process, pager: Pager
) -> None:
    message_id = await process.desk.add()
    await process.desk.deliver(message_id, Cause.UNANSWERED)
    since = process.desk.clock.now_ms()
    await pass_time(process, s=60)
    assert pager.posted == []
    await pass_time(process, s=5)

    (posted,) = pager.posted
    runbook = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    documented = json.loads(runbook.partition("```json")[2].partition("```")[0])
    assert posted.keys() == documented.keys() == {"alert", "state", "detail", "at", "host"}
    assert (posted["alert"], posted["state"]) == ("unknown", "raised")
    assert "emailerctl unknown list" in posted["detail"]
    assert posted["at"] == "2026-11-24T10:01:10.000Z"
    (alert,) = await process.app.store.list_alerts()
    assert alert.notified_ms == alert.since_ms == since + 65_000

    await process.desk.report(message_id, Cause.RESOLVED_SENT)
    await pass_time(process, s=5)

    assert pager.told == [("unknown", "raised"), ("unknown", "cleared")]
    assert (
        "it is over; since 2026-11-24T10:01:10.000Z: 1 recipients"
        in (pager.posted[-1]["detail"])
    )
    assert await process.raised() == set()


async def test_whatever_is_wrong_is_told_once_though_several_processes_watch(
    process: Process, open_process: Open, pager: Pager
) -> None:
    other = await open_process()
    now_ms = process.desk.clock.now_ms()
    await process.desk.deliver(await process.desk.add(), Cause.UNANSWERED)
    paused = NextHop(name="relay", state=HopState.PAUSED, reason="credentials: 535 5.7.8 no")
    await process.app.store.set_next_hop(paused)
    await process.app.store.pause(Pause(since_ms=now_ms, until_ms=None, actor="e", reason=""))

    await pass_time(other, process, s=900)
    assert sorted(pager.told) == [
        ("chain_shut", "raised"),
        ("credentials_refused", "raised"),
        ("unknown", "raised"),
    ]
    await pass_time(process, other, s=5)
    assert pager.told[3:] == [("queue_paused", "raised")]

    await process.app.store.resume(actor="e", now_ms=process.desk.clock.now_ms())
    await process.app.store.set_next_hop(NextHop(name="relay", state=HopState.OPEN))
    await pass_time(other, process, s=60)
    assert sorted(pager.told[4:]) == [
        ("chain_shut", "cleared"),
        ("credentials_refused", "cleared"),
        ("queue_paused", "cleared"),
    ]


async def test_a_message_that_is_due_for_long_is_told(process: Process, pager: Pager) -> None:
    message_id = await process.desk.add()
    await pass_time(process, s=120)
    assert pager.posted == []

    await pass_time(process, s=5)
    await process.desk.deliver(message_id)
    await pass_time(process, s=5)

    assert pager.told == [("queue_late", "raised"), ("queue_late", "cleared")]


async def test_a_next_hop_that_left_the_settings_alarms_nobody(process: Process) -> None:
    gone = NextHop(name="old", state=HopState.PAUSED, reason="credentials: 535 5.7.8 no")
    await process.app.store.set_next_hop(gone)

    await process.look()

    assert await process.raised() == set()


async def test_a_full_disk_is_told(open_process: Open, pager: Pager) -> None:
    process = await open_process(store__low_water_bytes=str(2**62))

    await process.look()

    assert pager.told == [("disk_low", "raised")]


async def test_a_dead_consumer_is_noticed_by_whoever_lives(
    process: Process, pager: Pager
) -> None:
    process.desk.clock.advance(s=30)
    await process.look()
    assert pager.posted == []

    process.desk.clock.advance(ms=1)
    await process.look()
    assert pager.told == [("no_consumer", "raised")]
    assert "emailerctl consume" in pager.posted[0]["detail"]

    await beat(process)
    await process.look()
    assert pager.told[1:] == [("no_consumer", "cleared")]


async def test_a_process_that_starts_does_not_take_silence_for_life(
    process: Process, open_process: Open, pager: Pager
) -> None:
    """The API is restarted while no consumer runs: nothing is cleared, nothing told again."""
    process.desk.clock.advance(s=31)
    await process.look()
    assert await process.raised() == {"no_consumer"}

    other = await open_process()
    for _ in range(8):
        await other.look()
        await process.look()
        process.desk.clock.advance(s=5)

    assert pager.told == [("no_consumer", "raised")]


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS])
async def test_a_jump_of_the_wall_clock_neither_kills_nor_revives_a_consumer(
    process: Process, jump_ms: int
) -> None:
    """F-CL-01."""
    process.desk.clock.jump(jump_ms)
    await process.look()
    assert await process.raised() == {"clock_jumped"}

    process.desk.clock.advance(s=31)
    await process.look()
    assert await process.raised() == {"clock_jumped", "no_consumer"}


# telling, when that is hard


async def test_a_url_that_fails_is_tried_until_it_works(process: Process, pager: Pager) -> None:
    pager.status = 500
    await process.desk.deliver(await process.desk.add(), Cause.UNANSWERED)
    await pass_time(process, s=600)
    asked = pager.asked

    assert 3 <= asked < 12  # now and then: it does not hammer on who is in trouble
    (alert,) = await process.app.store.list_alerts()
    assert alert.notified_ms is None

    pager.status = TAKEN
    await end_pause_of_telling(process)
    await end_pause_of_telling(process)

    assert pager.told == [("unknown", "raised")]
    assert pager.asked == asked + 1


async def test_what_ended_before_it_could_be_told_is_told_as_over(
    process: Process, pager: Pager
) -> None:
    pager.status = 503
    message_id = await process.desk.add()
    await process.desk.deliver(message_id, Cause.UNANSWERED)
    await pass_time(process, s=65)
    await process.desk.report(message_id, Cause.RESOLVED_SENT)
    await process.look()
    pager.status = TAKEN

    await end_pause_of_telling(process)

    assert pager.told == [("unknown", "cleared")]


async def test_another_process_tells_what_the_one_that_died_could_not(
    process: Process, open_process: Open, pager: Pager
) -> None:
    pager.status = 503
    await process.desk.deliver(await process.desk.add(), Cause.UNANSWERED)
    await pass_time(process, s=65)
    pager.status = TAKEN
    other = await open_process()  # and the first is gone

    await other.look()
    assert pager.posted == []
    await pass_time(other, s=65)

    assert pager.told == [("unknown", "raised")]


async def test_who_comes_late_does_not_tell_what_is_told_or_over(
    process: Process, open_process: Open, pager: Pager
) -> None:
    pager.status = 503
    message_id = await process.desk.add()
    await process.desk.deliver(message_id, Cause.UNANSWERED)
    await pass_time(process, s=300)
    other = await open_process()
    third = await open_process()
    await third.look()  # takes it over too, and is as unlucky
    pager.status = TAKEN
    await other.look()
    assert pager.told == [("unknown", "raised")]

    await end_pause_of_telling(process)
    assert pager.told == [("unknown", "raised")]

    await other.desk.report(message_id, Cause.RESOLVED_SENT)
    await other.look()
    await end_pause_of_telling(third)
    assert pager.told == [("unknown", "raised"), ("unknown", "cleared")]


async def test_a_url_that_fails_holds_up_no_mail_and_none_goes_twice(
    open_process: Open, pager: Pager
) -> None:
    process = await open_process(
        alerts__mail_to="Ops <ops@example.org>",
        defaults__from="Shop <shop@example.com>",
        store__low_water_bytes=str(2**62),
    )
    await process.desk.register(1)
    pager.status = 503
    await pass_time(process, s=60)
    assert pager.asked > 1

    (outgoing,) = process.mailer.asked
    mail = BytesParser(policy=policy.default).parsebytes(outgoing.raw)
    assert mail.defects == []
    assert mail["Subject"] == "[emailerctl] disk_low raised"
    assert (mail["From"], mail["To"]) == ("Shop <shop@example.com>", "Ops <ops@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "low-water mark" in mail.get_content()
    assert [recipient.address for recipient in outgoing.recipients] == ["ops@example.org"]
    assert outgoing.envelope_sender == "shop@example.com"


async def test_a_mail_that_fails_does_not_repeat_the_post(
    open_process: Open, pager: Pager
) -> None:
    process = await open_process(
        alerts__mail_to="ops@example.org", store__low_water_bytes=str(2**62)
    )
    await process.desk.register(1)
    process.mailer.default = LATER
    await pass_time(process, s=60)
    tries = len(process.mailer.asked)
    process.mailer.default = REFUSED  # for good: that is the end of it

    await end_pause_of_telling(process)
    await end_pause_of_telling(process)

    assert pager.told == [("disk_low", "raised")]
    assert tries > 1
    assert len(process.mailer.asked) == tries + 1
    (alert,) = await process.app.store.list_alerts()
    assert alert.notified_ms is not None


async def test_an_alert_that_cannot_be_written_is_told_all_the_same(
    open_process: Open, pager: Pager
) -> None:
    process = await open_process(store__low_water_bytes=str(2**62), store__busy_timeout="10ms")
    with sqlite_lock(process):
        for _ in range(3):
            await process.look()
        assert pager.told == [("disk_low", "raised")]
        assert await process.raised() == set()
    process.desk.clock.advance(s=5)
    await process.look()

    assert pager.told == [("disk_low", "raised")]
    (alert,) = await process.app.store.list_alerts()
    assert (alert.name, alert.notified_ms) == ("disk_low", alert.since_ms)


class sqlite_lock:  # noqa: N801  (a context manager, used like a function)
    """Be another process, or a disk, that lets nobody write."""

    def __init__(self, process: Process) -> None:
        self._connection = sqlite.connect(process.app.settings.store.path)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_error: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


# the clock


async def test_a_jump_back_mends_waits_and_is_calm_for_ten_minutes(
    process: Process, open_process: Open, pager: Pager
) -> None:
    """F-CL-01: what was due soon is not due in a day; nothing expires; nothing is removed."""
    desk = process.desk
    waiting = await desk.add()
    await desk.deliver(waiting, Cause.DEFERRED)
    done = await desk.add()
    await desk.deliver(done)
    held = await desk.add(expires_ms=desk.clock.now_ms() + 60_000)
    await desk.order(Verb.HOLD, held)
    desk.clock.jump(-DAY_MS)
    assert desk.rows("SELECT waiting_for FROM work") == [(WaitingFor.RETRY,)]
    assert await desk.due() == ()

    await process.look()
    assert await desk.due() == (waiting,)
    await desk.deliver(waiting)
    assert pager.told == [("clock_jumped", "raised")]
    assert "jumped by -86400 s" in pager.posted[0]["detail"]

    desk.clock.jump(400 * DAY_MS)
    await process.watch.retain()
    await process.watch.fire_timers()
    assert await desk.state(held) is State.HELD
    assert (await desk.load(done)).has_content

    other = await open_process()  # a process of the same boot believes it no sooner
    await other.watch.retain()
    await other.watch.fire_timers()
    assert await desk.state(held) is State.HELD
    assert (await desk.load(done)).has_content

    await pass_time(process, other, s=CALM_MS // 1_000)
    await pass_time(other, process, s=5)
    assert pager.told == [("clock_jumped", "raised"), ("clock_jumped", "cleared")]
    await other.watch.retain()
    await other.watch.fire_timers()
    assert await desk.state(held) is State.FAILED
    assert await process.app.store.find_message(done) is None


async def test_a_jump_while_nothing_ran_is_seen_and_mended_at_the_start(
    process: Process, open_process: Open, pager: Pager
) -> None:
    """F-CL-01."""
    desk = process.desk
    waiting = await desk.add()
    await desk.deliver(waiting, Cause.DEFERRED)
    desk.clock.jump(-DAY_MS)

    other = await open_process()

    assert await desk.due() == (waiting,)
    await other.look()
    assert pager.told == [("clock_jumped", "raised")]
    assert "jumped by -86400 s" in pager.posted[0]["detail"]


async def test_small_corrections_are_remembered_before_they_look_like_a_jump(
    process: Process, open_process: Open
) -> None:
    for _ in range(10):
        process.desk.clock.jump(20_000)
        await process.watch.look_at_clock()

    other = await open_process()
    await other.look()

    assert await process.raised() == set()


async def test_a_jump_that_could_not_be_mended_yet_is_mended_later(
    process: Process, open_process: Open
) -> None:
    other = await open_process(store__busy_timeout="10ms")
    waiting = await process.desk.add()
    await process.desk.deliver(waiting, Cause.DEFERRED)
    process.desk.clock.jump(-DAY_MS)
    with sqlite_lock(other), pytest.raises(StoreBusy):
        await other.watch.look_at_clock()

    await other.watch.look_at_clock()

    assert await process.desk.due() == (waiting,)


async def test_the_watch_of_the_api_starts_also_when_the_store_is_busy_then(
    open_process: Open, pager: Pager, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody starts it again: without it a dead consumer would go unnoticed for ever."""
    process = await open_process(store__low_water_bytes=str(2**62), store__busy_timeout="10ms")
    with sqlite_lock(process):
        watching = asyncio.create_task(watch_api(process.app))
        await until(lambda: "the watch can't start yet" in caplog.text)
    try:
        await until(lambda: pager.posted)
    finally:
        watching.cancel()
        await asyncio.wait([watching])

    assert pager.told == [("disk_low", "raised")]


# keeping house


async def test_content_goes_before_messages_and_both_after_their_time(process: Process) -> None:
    desk = process.desk
    message_id = await desk.add(key_hash=b"k" * 16)
    await desk.deliver(message_id)
    desk.clock.advance(h=24 * 7)
    await process.watch.retain()
    assert (await desk.load(message_id)).has_content

    desk.clock.advance(ms=1)
    await process.watch.retain()
    assert not (await desk.load(message_id)).has_content

    desk.clock.advance(h=24 * 83)
    await process.watch.retain()
    assert await process.app.store.find_message(message_id) is None
    assert await process.app.store.find_by_key(b"k" * 16) is None


async def test_a_key_is_kept_for_thirty_days_whatever_the_settings_say(
    open_process: Open,
) -> None:
    process = await open_process(retention__messages="1d", retention__content="1d")
    desk = process.desk
    await desk.register(1)
    keyed, other = await desk.add(key_hash=b"k" * 16), await desk.add()
    for message_id in (keyed, other):
        await desk.deliver(message_id)
    desk.clock.advance(h=24 * 30)

    await process.watch.retain()
    assert await process.app.store.find_message(other) is None
    assert not (await desk.load(keyed)).has_content
    assert await process.app.store.find_by_key(b"k" * 16) is not None

    desk.clock.advance(ms=1)
    await process.watch.retain()
    assert await process.app.store.find_by_key(b"k" * 16) is None


async def test_retention_takes_everything_in_portions(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        await process.desk.deliver(await process.desk.add(f"a{n}@example.org"))
    process.desk.clock.advance(h=24 * 91)
    monkeypatch.setattr("daemons.watch._RETAIN_AT_ONCE", 5)
    monkeypatch.setattr("daemons.watch._TICK_S", 0)

    await process.watch.retain()

    assert process.desk.rows("SELECT count(*) FROM messages") == [(0,)]
    assert process.desk.rows("SELECT count(*) FROM events") == [(1,)]


async def test_the_search_tables_are_filled_in_a_calm_moment(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = process.desk
    monkeypatch.setattr("daemons.watch._CALM_UNITS", 10)
    await process.watch.index()
    for n in range(10):
        await desk.add(f"a{n}@example.org")

    await process.watch.index()  # ten pieces of work since the last look: not now
    assert desk.rows("SELECT count(*) FROM terms") == [(0,)]

    await process.watch.index()
    assert desk.rows("SELECT count(*) FROM terms") != [(0,)]
    page = await process.app.store.list_messages(MessageFilter(q="a7@"), cursor=None, limit=9)
    assert [view.recipients[0].address for view in page.data] == ["a7@example.org"]
    units = process.app.driver.sizes.units
    await process.watch.index()
    assert process.app.driver.sizes.units == units


async def test_the_search_tables_do_not_wait_for_calm_for_ever(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.watch._CALM_UNITS", 0)
    monkeypatch.setattr("daemons.watch._INDEX_BEHIND", 3)
    await process.desk.add()
    await process.watch.index()
    assert process.desk.rows("SELECT count(*) FROM terms") == [(0,)]

    await process.desk.add()
    await process.watch.index()
    assert process.desk.rows("SELECT count(*) FROM terms") != [(0,)]
