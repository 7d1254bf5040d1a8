"""Doubts are asked about: side by side, told to the operator, and never for a second copy."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from emailerctl.core.deliver import Hop
from emailerctl.core.outlook import Patience
from emailerctl.core.standing import Standing
from emailerctl.core.unknown import Resolver
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.providers.base import Abilities, Finding, Idempotency, LookUp
from emailerctl.store.base import Consumer, HopState, NextHop, Unknown
from tests.desk import BOOT, FINAL_REPLY_MS, LEASE_MS, Desk
from tests.scripted import ScriptedProvider

MINUTE, HOUR = 60_000, 3_600_000
LAG = 30 * MINUTE
SETTLING = Patience().settling_ms
SEEN = Abilities(look_up_lag_ms=LAG, look_up_kept_ms=24 * HOUR)
KEYED = Abilities(idempotency=Idempotency(field="key", window_ms=24 * HOUR))
BOTH = Abilities(
    idempotency=Idempotency(field="key", window_ms=15 * MINUTE), look_up_lag_ms=24 * HOUR
)
ASKS = "SELECT 1 FROM timers WHERE what = 'ask' AND message_id = ?"
NOT_THERE = Finding(is_there=False, detail="no event names it")
THERE = Finding(is_there=True, detail="event accepted", provider_message_id="mg-1")
KNOWN_KEY = Outcome(kind=Kind.UNKNOWN, party=Party.NEXT_HOP, code=400, reply="400 duplicate")


class Asked(ScriptedProvider):
    """A next hop with a look-up; it hangs while `hangs`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.finding: Finding | None = NOT_THERE
        self.hangs = False
        self.questions: list[LookUp] = []

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Say what a test wants to be said."""
        self.questions.append(wanted)
        if self.hangs:
            await asyncio.Event().wait()
        return {} if self.finding is None else {r.n: self.finding for r in wanted.recipients}


class Bureau:
    """A resolver with two next hops, and who sends through them."""

    def __init__(self, desk: Desk, abilities: Mapping[str, Abilities]) -> None:
        self.desk = desk
        self.hops = {name: Asked(name) for name in abilities}
        self.standing = Standing(desk.store, settings_hashes={}, clock=desk.clock)
        self.resolver = Resolver(
            desk.store,
            {
                name: Hop(
                    provider,
                    deadline_ms=30_000,
                    final_reply_ms=FINAL_REPLY_MS,
                    concurrency=16,
                    abilities=abilities[name],
                )
                for name, provider in self.hops.items()
            },
            accounts=dict.fromkeys(abilities, "ours"),
            standing=self.standing,
            clock=desk.clock,
            boot_id=BOOT,
            may_expire=lambda: True,
        )

    async def register(self) -> None:
        await self.desk.store.register(
            Consumer(
                consumer_id=1,
                host="host",
                pid=1,
                boot_id=BOOT,
                version="0",
                started_ms=self.desk.clock.now_ms(),
                heartbeat_ms=self.desk.clock.now_ms(),
                lease_until_ms=self.desk.clock.boot_ms() + LEASE_MS,
                accounts=dict.fromkeys(self.hops, "ours"),
            )
        )

    async def bring_doubt(self, provider: str, *addresses: str, **fields: Any) -> int:
        """Have a message go to a next hop that never answers."""
        message_id = await self.desk.add(*addresses, **fields)
        claim = await self.desk.claim(message_id)
        assert await self.desk.mark(claim, provider=provider)
        assert await self.desk.settle(claim, Cause.UNANSWERED, provider=provider, can_ask=True)
        return message_id

    async def resolve(self) -> None:
        """Ask about what is due, and wait for the answers."""
        await self.resolver.resolve()
        await self.resolver.settle()
        assert await self.desk.audit() == []

    async def resolve_until(self, condition: Callable[[], object]) -> None:
        """Ask as a consumer does, again and again, until *condition* holds."""
        give_up = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < give_up, "it did not happen in time"
            await self.resolver.resolve()
            await asyncio.sleep(0.001)

    async def find(self, message_id: int) -> Unknown:
        now_ms = self.desk.clock.now_ms()
        found = await self.desk.store.list_unknown(now_ms=now_ms, service=None, limit=10)
        return next(one for one in found if one.message_id == message_id)


@pytest.fixture
async def create(desk: Desk) -> Any:
    bureaus = []

    async def create(**abilities: Abilities) -> Bureau:
        bureau = Bureau(desk, abilities)
        bureaus.append(bureau)
        await bureau.register()
        return bureau

    yield create
    for bureau in bureaus:
        await bureau.resolver.close()


async def test_a_next_hop_that_hangs_delays_no_other(create: Any, desk: Desk) -> None:
    bureau = await create(slow=SEEN, quick=SEEN)
    bureau.hops["slow"].hangs = True
    bureau.hops["quick"].finding = THERE
    stuck = [await bureau.bring_doubt("slow") for _ in range(20)]
    await bureau.resolver.resolve()
    message_id = await bureau.bring_doubt("quick")

    await bureau.resolver.resolve()

    await bureau.resolve_until(
        lambda: desk.rows("SELECT 1 FROM recipients WHERE state = 'sent'")
    )
    assert await desk.state(message_id) is State.SENT
    assert len(bureau.hops["slow"].questions) == 4  # nor does it take all connections
    assert {await desk.state(one) for one in stuck} == {State.UNKNOWN}


async def test_an_answer_that_decides_nothing_is_told_once_and_kept(
    create: Any, desk: Desk
) -> None:
    """Who was asked, what was said, and when again: the operator sees it."""
    bureau = await create(mg=SEEN)
    message_id = await bureau.bring_doubt("mg")
    asked_ms = desk.clock.now_ms()
    await bureau.resolve()
    first = await bureau.find(message_id)
    desk.clock.advance(s=5)
    await bureau.resolve()
    bureau.hops["mg"].finding = None
    desk.clock.advance(s=5)
    await bureau.resolve()

    assert first.asked_ms == asked_ms
    assert (first.asks, first.asked, first.ask_at_ms) == ("mg", 1, asked_ms + 5_000)
    text = "no event names it; that does not count: it may take so long to show"
    assert first.answer == text
    events = [e for e in await desk.events(message_id) if e.type == "recipient.asked"]
    assert [(e.provider, e.data["by"], e.data["answer"]) for e in events] == [
        ("mg", "look-up", text),
        ("mg", "look-up", "no answer that says anything"),
    ]
    assert {(e.from_state, e.to_state) for e in events} == {(State.UNKNOWN, State.UNKNOWN)}
    assert (await bureau.find(message_id)).asked == 3


async def test_a_no_after_the_lag_queues_it_again(create: Any, desk: Desk) -> None:
    """delivery.md §4.3."""
    bureau = await create(mg=SEEN)
    message_id = await bureau.bring_doubt("mg")
    desk.clock.advance(ms=LAG + SETTLING - 1)
    await bureau.resolve()
    assert await desk.state(message_id) is State.UNKNOWN

    desk.clock.advance(ms=1)
    await bureau.resolve()

    assert await desk.state(message_id) is State.QUEUED
    event = (await desk.events(message_id))[-1]
    assert (event.type, event.data["detail"]) == (
        "recipient.resolved_not_sent",
        "no event names it",
    )
    assert (await desk.claim(message_id)).attempt == 2


async def test_a_request_is_repeated_once_it_has_settled_and_its_answer_told(
    create: Any, desk: Desk
) -> None:
    bureau = await create(rs=KEYED)
    message_id = await bureau.bring_doubt("rs")
    await bureau.resolve()
    waiting = await bureau.find(message_id)
    assert (waiting.asked, waiting.asked_ms) == (0, None)
    assert waiting.answer == "not asked: its request may still be under way"
    assert waiting.ask_at_ms == waiting.since_ms + SETTLING
    bureau.hops["rs"].default = Outcome(kind=Kind.TRANSIENT, code=429, reply="429 slowly")

    desk.clock.advance(ms=SETTLING)
    await bureau.resolve()
    bureau.hops["rs"].default = Outcome(kind=Kind.ACCEPTED, code=200, reply="200")
    desk.clock.advance(ms=2 * SETTLING)
    await bureau.resolve()

    assert await desk.state(message_id) is State.SENT
    assert [o.attempt for o in bureau.hops["rs"].asked] == [1, 1]
    assert await desk.causes(message_id) == [
        "accepted",
        "marked",
        "unanswered",
        "replayed",
        "asked",
        "replayed",
        "resolved_sent",
    ]


async def test_a_shut_next_hop_is_not_given_a_repetition(create: Any, desk: Desk) -> None:
    bureau = await create(rs=KEYED)
    message_id = await bureau.bring_doubt("rs")
    hop = NextHop(name="rs", state=HopState.DISABLED, changed_ms=0, actor="eve")
    await desk.store.set_next_hop(hop)
    await bureau.standing.refresh()
    desk.clock.advance(ms=SETTLING)

    await bureau.resolve()

    assert bureau.hops["rs"].asked == []
    one = await bureau.find(message_id)
    assert one.ask_at_ms == desk.clock.now_ms() + SETTLING
    assert "disabled" in one.answer


async def test_a_known_key_that_says_no_more_ends_by_look_up(create: Any, desk: Desk) -> None:
    """Brevo: `duplicate_parameter` may be about the first request or about a repetition."""
    bureau = await create(brevo=BOTH)
    hop = bureau.hops["brevo"]
    hop.default = KNOWN_KEY
    message_id = await bureau.bring_doubt("brevo")
    for _ in range(3):
        desk.clock.advance(ms=SETTLING)
        await bureau.resolve()
    assert len(hop.asked) == 1
    assert await desk.state(message_id) is State.UNKNOWN
    # A day after the first request is not a day after the second.
    desk.clock.advance(ms=24 * HOUR - SETTLING - 1)
    await bureau.resolve()
    assert await desk.state(message_id) is State.UNKNOWN

    desk.clock.advance(ms=1)
    await bureau.resolve()

    assert await desk.state(message_id) is State.QUEUED


async def test_policy_sends_again_after_a_last_question_or_when_nobody_asks(
    create: Any, desk: Desk
) -> None:
    """delivery.md §4.5: first asked, then sent again; one that hangs does not stop it."""
    bureau = await create(mg=SEEN, slow=SEEN)
    bureau.hops["slow"].hangs = True
    asked = await bureau.bring_doubt("mg", on_unknown=OnUnknown.RESEND)
    queue = [await bureau.bring_doubt("slow", on_unknown=OnUnknown.RESEND) for _ in range(5)]
    resend_ms = desk.clock.now_ms() + 20_000
    desk.change("UPDATE timers SET at = ? WHERE what = 'resend'", resend_ms)
    await bureau.resolver.resolve()
    await bureau.resolver._asking["mg"]
    await bureau.resolve_until(lambda: len(bureau.hops["slow"].questions) == 4)
    desk.clock.advance(s=20)

    await desk.sweep()
    before = await desk.state(asked)
    await bureau.resolve_until(lambda: not desk.rows(ASKS, asked))
    await desk.sweep()

    assert (before, await desk.state(asked)) == (State.UNKNOWN, State.QUEUED)
    assert len(bureau.hops["mg"].questions) == 2
    assert {await desk.state(one) for one in queue} == {State.UNKNOWN}
    desk.clock.advance(s=10)  # four are being asked, one has waited for its turn for long
    await desk.sweep()
    assert (
        sorted([await desk.state(one) for one in queue]) == [State.QUEUED] + [State.UNKNOWN] * 4
    )


async def restore(desk: Desk) -> None:
    """Fence what is open, as `store restore` does."""
    now_ms = desk.clock.now_ms()
    await desk.store.fence(after_id=0, limit=100, data={}, now_ms=now_ms)
    await desk.store.seal(data={}, now_ms=now_ms)


async def test_after_a_restore_all_are_asked_and_only_a_copy_counts(
    create: Any, desk: Desk
) -> None:
    """F-CO-02: what was attempted since the backup is known to next hops alone."""
    bureau = await create(mg=SEEN, pm=SEEN, rs=KEYED)
    waiting = await desk.add()
    doubtful = await bureau.bring_doubt("mg")
    keyed = await bureau.bring_doubt("rs")
    await restore(desk)
    everyone = (waiting, doubtful, keyed)

    for _ in range(8):
        desk.clock.advance(h=6)
        await bureau.resolve()
    assert {await desk.state(one) for one in everyone} == {State.UNKNOWN}
    assert bureau.hops["rs"].asked == []  # nothing is repeated either
    one = await bureau.find(waiting)
    assert one.answer.startswith("mg: no event names it; pm: no event names it; the store was")
    assert one.ask_at_ms is None


@pytest.mark.parametrize(("attempt", "state"), [(2, State.SENT), (1, State.UNKNOWN)])
async def test_a_copy_that_a_restored_store_does_not_know_is_found(
    create: Any, desk: Desk, attempt: int, state: State
) -> None:
    """One that it knows is no news: it was deferred, or bounced and was retried."""
    bureau = await create(mg=SEEN, pm=SEEN)
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.DEFERRED)
    await restore(desk)
    bureau.hops["pm"].finding = Finding(is_there=True, attempt=attempt)

    await bureau.resolve()

    assert await desk.state(message_id) is state
    assert {question.attempt for question in bureau.hops["pm"].questions} == {4}
    if state is State.SENT:
        event = (await desk.events(message_id))[-1]
        assert (event.provider, event.attempt) == ("pm", 2)


async def test_a_report_about_an_attempt_after_the_backup_counts(
    create: Any, desk: Desk
) -> None:
    await create(mg=SEEN)
    message_id = await desk.add()
    await desk.report(message_id, Cause.RESOLVED_SENT, attempt=1)
    assert await desk.state(message_id) is State.QUEUED  # of no attempt of ours
    await restore(desk)

    await desk.report(message_id, Cause.RESOLVED_SENT, attempt=1)

    assert await desk.state(message_id) is State.SENT
