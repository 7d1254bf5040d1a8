"""One attempt, with a real store and a next hop that is told what to do."""

import asyncio
import contextlib
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from emailerctl.core.deliver import Attempt, Delivery, Hop
from emailerctl.core.retry import RetryPolicy
from emailerctl.core.route import Routing
from emailerctl.core.standing import Bounds, Standing
from emailerctl.errors import StoreBusy, Unavailable
from emailerctl.models.lifecycle import Cause, Reason, State, WaitingFor
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.models.rate import Rate
from emailerctl.store.base import Verb
from emailerctl.store.sqlstore import SqlStore
from tests.contract.test_store_acceptance import suppression
from tests.desk import FINAL_REPLY_MS, GREYLISTED, NO_SUCH_USER, NOT_WANTED, SILENCE, Desk
from tests.scripted import ACCEPTED, ScriptedProvider

ANN, BOB = "ann@example.org", "bob@example.org"
DAY_MS = 86_400_000
HOP_DOWN = Outcome(kind=Kind.TRANSIENT, party=Party.NEXT_HOP, phase=Phase.CONNECT, reply="down")
NO_ENTRY = replace(
    HOP_DOWN, phase=Phase.AUTH, reply="535 no", alarm=Alarm.CREDENTIALS, is_charged=False
)


class TroubledStore(SqlStore):
    """A store that a few times has no time for some of its verbs."""

    def trouble(self, verb: str, times: int = 1) -> None:
        """Refuse *verb* as a store does whose lock is held."""
        real = getattr(self, verb)
        left = iter(range(times))

        async def refuse(*arguments: Any, **fields: Any) -> Any:
            if next(left, None) is None:
                return await real(*arguments, **fields)
            raise StoreBusy("busy")

        setattr(self, verb, refuse)


class Office:
    """A delivery with two next hops, and everything that it tells."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store = TroubledStore(desk.driver, rng=desk.rng)
        self.relay = ScriptedProvider("relay")
        self.backup = ScriptedProvider("backup")
        self.sandbox = ScriptedProvider("sandbox")
        self.standing = Standing(self.store, settings_hashes={}, clock=desk.clock)
        self.alarms: list[tuple[str, Alarm, str]] = []
        self.unwritten: list[Unavailable] = []
        self.believes_clock = True
        self.delivery = self.build(("relay",))

    def build(self, chain: tuple[str, ...]) -> Delivery:
        hops = {
            provider.name: Hop(
                provider, deadline_ms=30_000, final_reply_ms=FINAL_REPLY_MS, concurrency=4
            )
            for provider in (self.relay, self.backup, self.sandbox)
        }

        async def keep(error: Unavailable) -> None:
            self.unwritten.append(error)

        self.delivery = Delivery(
            self.store,
            hops,
            routing=Routing(chain, frozenset(hops)),
            policy=RetryPolicy((10_000, 60_000), max_age_ms=3 * DAY_MS, jitter=0),
            standing=self.standing,
            clock=self.desk.clock,
            rng=Random(1),
            may_expire=lambda: self.believes_clock,
            on_alarm=lambda *alarm: self.alarms.append(alarm),
            on_unwritten=keep,
        )
        return self.delivery

    async def begin(self, message_id: int) -> Attempt:
        claim = await self.desk.claim(message_id)
        return Attempt(claim, started_ms=self.desk.clock.now_ms())

    async def deliver(self, message_id: int) -> None:
        await self.delivery.deliver(await self.begin(message_id))


@pytest.fixture
async def office(desk: Desk) -> Office:
    await desk.register(1)
    return Office(desk)


# every kind of outcome


@pytest.mark.parametrize(
    ("outcome", "state", "causes", "copies"),
    [
        (ACCEPTED, State.SENT, ["marked", "handed_over"], 1),
        (SILENCE, State.UNKNOWN, ["marked", "unanswered"], 1),
        (replace(GREYLISTED, phase=Phase.ANSWER), State.QUEUED, ["marked", "deferred"], 1),
        (replace(NOT_WANTED, phase=Phase.ANSWER), State.FAILED, ["marked", "abandoned"], 1),
        (GREYLISTED, State.QUEUED, ["deferred"], 0),
        (NO_SUCH_USER, State.BOUNCED, ["refused"], 0),
        (HOP_DOWN, State.QUEUED, ["deferred"], 0),
    ],
)
async def test_each_outcome_is_written(
    office: Office, outcome: Outcome, state: State, causes: list[str], copies: int
) -> None:
    message_id = await office.desk.add()
    office.relay.default = outcome

    await office.deliver(message_id)

    view = await office.desk.load(message_id)
    assert view.state is state
    assert await office.desk.causes(message_id) == ["accepted", *causes]
    (attempt,) = view.attempts
    assert (attempt.provider, attempt.phase, attempt.outcome) == (
        "relay",
        outcome.phase,
        outcome.kind,
    )
    assert len(office.relay.copies) == copies


async def test_the_next_hop_is_given_what_was_stored(office: Office) -> None:
    message_id = await office.desk.add(
        ANN, BOB, tags=("a",), metadata={"k": "v"}, needs_smtputf8=True, raw=b"r" * 300_000
    )

    await office.deliver(message_id)

    (outgoing,) = office.relay.asked
    assert (outgoing.raw, outgoing.attempt) == (b"r" * 300_000, 1)
    assert [r.address for r in outgoing.recipients] == [ANN, BOB]
    assert (outgoing.tags, outgoing.metadata, outgoing.needs_smtputf8) == (
        ("a",),
        {"k": "v"},
        True,
    )
    assert outgoing.envelope_sender == "shop@example.com"
    assert outgoing.deadline_boot_ms == office.desk.clock.boot_ms() + 30_000
    assert outgoing.public_id.startswith("msg_")


async def test_each_recipient_has_its_own_outcome(office: Office) -> None:
    message_id = await office.desk.add(ANN, BOB, "cid@example.org")
    office.relay.outcomes = {BOB: NO_SUCH_USER, "cid@example.org": GREYLISTED}

    await office.deliver(message_id)

    assert await office.desk.states(message_id) == [
        State.SENT,
        State.BOUNCED,
        State.QUEUED,
    ]
    assert office.relay.copies == [(message_id, ANN)]


# the mark


@pytest.mark.parametrize("how", ["cancelled", "suppressed", "lease lost"])
async def test_nothing_leaves_without_the_mark(office: Office, how: str) -> None:
    """F-CO-10, F-CL-03."""
    message_id = await office.desk.add()
    attempt = await office.begin(message_id)
    if how == "cancelled":
        await office.desk.order(Verb.CANCEL, message_id)
    elif how == "suppressed":
        await office.desk.store.suppress(suppression(ANN))
    else:
        await office.desk.void(1, is_dead=False)

    await office.delivery.deliver(attempt)

    assert office.relay.copies == []
    view = await office.desk.load(message_id)
    assert view.attempts == ()
    assert (view.state is State.QUEUED) == (how == "lease lost")


async def test_a_mark_that_cannot_be_written_sends_nothing_and_comes_back(
    office: Office,
) -> None:
    """The store had no time: nothing has left, nothing is charged."""
    message_id = await office.desk.add()
    office.store.trouble("mark")

    await office.deliver(message_id)

    assert office.relay.copies == []
    assert len(office.unwritten) == 1
    assert await office.desk.due() == (message_id,)
    assert (await office.desk.load(message_id)).attempts == ()
    await office.deliver(message_id)
    assert await office.desk.state(message_id) is State.SENT


# outcomes that can't be written


async def test_an_outcome_that_cannot_be_written_is_kept_and_written_later(
    office: Office,
) -> None:
    """F-CO-05."""
    message_id = await office.desk.add()
    office.store.trouble("settle", 3)

    await office.deliver(message_id)

    assert len(office.unwritten) == 3
    assert await office.desk.state(message_id) is State.SENT
    assert len(office.relay.copies) == 1


async def test_a_late_answer_that_cannot_be_written_is_kept_too(office: Office) -> None:
    """F-CL-04, F-CO-05."""
    message_id = await office.desk.add()
    office.store.trouble("testify", 2)
    office.relay.after_mark = True
    delivering = asyncio.create_task(office.deliver(message_id))
    await office.relay.reached.wait()
    await office.desk.void(1)
    assert await office.desk.state(message_id) is State.UNKNOWN

    office.relay.go_on.set()
    await delivering

    assert len(office.unwritten) == 2
    assert await office.desk.causes(message_id) == [
        "accepted",
        "marked",
        "interrupted",
        "resolved_sent",
    ]


async def test_a_lost_lease_before_the_mark_has_nothing_to_testify(office: Office) -> None:
    message_id = await office.desk.add()
    office.relay.default = GREYLISTED
    office.relay.before_mark = True
    delivering = asyncio.create_task(office.deliver(message_id))
    await office.relay.reached.wait()
    await office.desk.void(1, is_dead=False)

    office.relay.go_on.set()
    await delivering

    assert await office.desk.causes(message_id) == ["accepted"]


# when the daemon drains


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_cancelled_before_the_mark_it_is_given_back(office: Office) -> None:
    """F-CL-06."""
    message_id = await office.desk.add()
    office.relay.before_mark = True
    delivering = asyncio.create_task(office.deliver(message_id))
    await office.relay.reached.wait()

    await cancel(delivering)

    assert await office.desk.due() == (message_id,)
    assert office.relay.copies == []
    assert (await office.desk.claim(message_id)).attempt == 1


async def test_cancelled_after_the_mark_it_is_settled_as_unanswered(office: Office) -> None:
    """F-CL-06."""
    message_id = await office.desk.add()
    office.relay.after_mark = True
    delivering = asyncio.create_task(office.deliver(message_id))
    await office.relay.reached.wait()

    await cancel(delivering)

    assert await office.desk.causes(message_id) == ["accepted", "marked", "unanswered"]
    assert await office.desk.due() == ()


async def test_cancelled_while_the_mark_is_written_there_is_no_doubt(office: Office) -> None:
    """The mark is committed, the last byte was not written: definitely not accepted."""
    message_id = await office.desk.add()
    asked, go_on = asyncio.Event(), asyncio.Event()
    real = office.store.mark

    async def mark(*arguments: Any, **fields: Any) -> bool:
        asked.set()
        await go_on.wait()
        return await real(*arguments, **fields)

    office.store.mark = mark  # type: ignore[method-assign]
    delivering = asyncio.create_task(office.deliver(message_id))
    await asked.wait()
    delivering.cancel()
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await delivering

    assert office.relay.copies == []
    assert await office.desk.state(message_id) is State.QUEUED
    office.desk.clock.advance(s=10)
    assert await office.desk.due() == (message_id,)


# the chain


async def test_the_next_in_the_chain_takes_what_the_first_did_not_accept(
    office: Office,
) -> None:
    office.build(("relay", "backup"))
    message_id = await office.desk.add()
    office.relay.default = HOP_DOWN

    await office.deliver(message_id)
    assert await office.desk.due(backup=9) == (message_id,)
    await office.deliver(message_id)

    assert office.backup.copies == [(message_id, ANN)]
    assert [a.provider for a in (await office.desk.load(message_id)).attempts] == [
        "relay",
        "backup",
    ]


async def test_nothing_is_failed_over_after_an_unknown(office: Office) -> None:
    """Two next hops share no identity."""
    office.build(("relay", "backup"))
    message_id = await office.desk.add()
    office.relay.default = SILENCE

    await office.deliver(message_id)
    office.desk.clock.advance(h=24 * 30)
    await office.desk.sweep()

    assert await office.desk.due(relay=9, backup=9, **{"": 9}) == ()
    assert office.backup.asked == []


async def test_a_next_hop_that_is_shut_is_passed_over_without_an_attempt(
    office: Office,
) -> None:
    office.build(("relay", "backup"))
    message_id = await office.desk.add()
    await office.standing.pause("relay", Alarm.CREDENTIALS, "535 no")

    await office.deliver(message_id)

    assert office.relay.asked == []
    (attempt,) = (await office.desk.load(message_id)).attempts
    assert attempt.provider == "backup"


async def test_a_message_whose_whole_chain_is_shut_waits_for_a_next_hop(office: Office) -> None:
    message_id = await office.desk.add()
    await office.standing.pause("relay", Alarm.CREDENTIALS, "535 no")

    await office.deliver(message_id)

    view = await office.desk.load(message_id)
    (recipient,) = view.recipients
    assert (recipient.state, recipient.waiting_for) == (State.QUEUED, WaitingFor.NEXT_HOP)
    assert view.attempts == ()
    assert recipient.due_ms is not None
    wait_ms = recipient.due_ms - office.desk.clock.now_ms()
    assert 30_000 <= wait_ms <= 60_000


async def test_a_breaker_opens_and_the_next_takes_over_without_an_attempt(
    office: Office,
) -> None:
    """F-CO-07: five failures in a row, and the sixth message does not even ask."""
    office.build(("relay", "backup"))
    message_ids = [await office.desk.add() for _ in range(6)]
    office.relay.default = HOP_DOWN
    for message_id in message_ids[:5]:
        await office.deliver(message_id)

    await office.deliver(message_ids[5])

    assert len(office.relay.asked) == 5
    (attempt,) = (await office.desk.load(message_ids[5])).attempts
    assert attempt.provider == "backup"


async def test_what_waits_for_a_breaker_is_due_after_its_pause_and_not_all_at_once(
    office: Office,
) -> None:
    """F-CO-07: no attempt is charged, and what it costs to look again is spread."""
    message_ids = [await office.desk.add() for _ in range(25)]
    office.relay.default = HOP_DOWN
    for message_id in message_ids:
        await office.deliver(message_id)

    _, (breaker,) = await office.store.load_standing()
    parked = [await office.desk.load(message_id) for message_id in message_ids[5:]]
    assert [view.attempts for view in parked] == [()] * 20
    waits = [(view.recipients[0].due_ms or 0) - breaker.until_ms for view in parked]
    assert min(waits) >= 2_000
    assert max(waits) <= 32_000
    assert len({wait // 1_000 for wait in waits}) > 5


async def test_a_probe_whose_mark_is_refused_leaves_its_place_to_another(
    office: Office,
) -> None:
    message_ids = [await office.desk.add() for _ in range(7)]
    office.relay.default = HOP_DOWN
    for message_id in message_ids[:5]:
        await office.deliver(message_id)
    office.relay.default = ACCEPTED
    office.desk.clock.advance(s=40)
    attempt = await office.begin(message_ids[5])
    await office.desk.order(Verb.CANCEL, message_ids[5])
    await office.delivery.deliver(attempt)
    assert office.relay.copies == []

    await office.deliver(message_ids[6])

    assert office.relay.copies == [(message_ids[6], ANN)]


async def test_over_a_rate_it_is_put_aside_until_its_turn(office: Office) -> None:
    """It is not shut: the next of the chain has nothing to do with it."""
    bounds = {"relay": Bounds(rate=Rate(1, 60_000))}
    office.standing = Standing(
        office.store, settings_hashes={}, clock=office.desk.clock, bounds=bounds
    )
    office.build(("relay", "backup"))
    first, second = [await office.desk.add() for _ in range(2)]
    attempts = [await office.begin(message_id) for message_id in (first, second)]
    assert office.delivery.find_wait_ms(attempts[0].claim) == 1
    await office.delivery.renew()
    assert office.delivery.find_wait_ms(attempts[0].claim) == 0
    await office.delivery.deliver(attempts[0])
    office.delivery.find_wait_ms(attempts[1].claim)
    await office.delivery.renew()
    assert office.delivery.find_wait_ms(attempts[1].claim) == 60_000

    await office.delivery.deliver(attempts[1])

    view = await office.desk.load(second)
    assert (view.attempts, view.recipients[0].waiting_for) == ((), WaitingFor.NEXT_HOP)
    assert view.recipients[0].due_ms == office.desk.clock.now_ms() + 60_000
    assert (len(office.relay.asked), office.backup.asked) == (1, [])


async def test_when_the_rest_of_the_chain_is_shut_it_begins_anew(office: Office) -> None:
    office.build(("relay", "backup"))
    message_id = await office.desk.add()
    office.relay.default = HOP_DOWN
    await office.deliver(message_id)
    await office.standing.pause("backup", Alarm.CREDENTIALS, "535 no")
    office.relay.default = ACCEPTED

    await office.deliver(message_id)

    assert office.relay.copies == [(message_id, ANN)]


async def test_a_message_that_waits_for_a_next_hop_for_too_long_is_given_up(
    office: Office,
) -> None:
    message_id = await office.desk.add()
    await office.standing.pause("relay", Alarm.CREDENTIALS, "535 no")
    office.desk.clock.advance(ms=3 * DAY_MS)

    office.believes_clock = False
    await office.deliver(message_id)
    assert await office.desk.state(message_id) is State.QUEUED
    office.believes_clock = True
    office.desk.clock.advance(s=60)
    await office.deliver(message_id)

    (recipient,) = (await office.desk.load(message_id)).recipients
    assert (recipient.state, recipient.reason) == (State.FAILED, Reason.EXHAUSTED)


async def test_nothing_waits_for_a_next_hop_past_its_expiry(office: Office) -> None:
    expires_ms = office.desk.clock.now_ms() + 5_000
    message_id = await office.desk.add(expires_ms=expires_ms)
    await office.standing.pause("relay", Alarm.CREDENTIALS, "535 no")

    await office.deliver(message_id)

    assert (await office.desk.load(message_id)).recipients[0].due_ms == expires_ms


async def test_a_message_whose_next_hops_left_the_settings_waits(office: Office) -> None:
    message_id = await office.desk.add(provider="gone", next_hop="")

    await office.deliver(message_id)

    (recipient,) = (await office.desk.load(message_id)).recipients
    assert recipient.waiting_for is WaitingFor.NEXT_HOP


async def test_refused_credentials_pause_the_next_hop_and_charge_nobody(
    office: Office,
) -> None:
    """F-SM-05: and the chain goes on."""
    office.build(("relay", "backup"))
    message_id = await office.desk.add()
    office.relay.default = NO_ENTRY

    await office.deliver(message_id)

    assert office.alarms == [("relay", Alarm.CREDENTIALS, "535 no")]
    assert not office.standing.is_open("relay")
    claim = await office.desk.claim(message_id)
    assert (claim.schedule_step, claim.chain_index, claim.next_hop) == (0, 1, "backup")
    await office.delivery.give_back(claim)
    assert await office.desk.due(backup=9) == (message_id,)


async def test_another_alarm_warns_and_pauses_nothing(office: Office) -> None:
    message_id = await office.desk.add()
    office.relay.default = replace(HOP_DOWN, alarm=Alarm.TLS, reply="certificate")

    await office.deliver(message_id)

    assert office.alarms == [("relay", Alarm.TLS, "certificate")]
    assert office.standing.is_open("relay")


# what is over before it begins


async def test_what_expired_is_given_up_and_nobody_is_asked(office: Office) -> None:
    message_id = await office.desk.add(expires_ms=office.desk.clock.now_ms() + 1_000)
    office.desk.clock.advance(s=1)

    await office.deliver(message_id)

    (recipient,) = (await office.desk.load(message_id)).recipients
    assert (recipient.state, recipient.reason) == (State.FAILED, Reason.EXPIRED)
    assert office.relay.asked == []


async def test_after_a_jump_of_the_clock_an_expiry_is_not_believed(office: Office) -> None:
    """F-CL-01."""
    message_id = await office.desk.add(expires_ms=office.desk.clock.now_ms() + 1_000)
    office.desk.clock.jump(DAY_MS)
    office.believes_clock = False

    await office.deliver(message_id)

    assert await office.desk.state(message_id) is State.SENT


@pytest.mark.parametrize("size", [100, 300_000])
async def test_what_has_no_content_any_more_is_given_up(office: Office, size: int) -> None:
    message_id = await office.desk.add(raw=b"x" * size)
    office.desk.change("DELETE FROM contents")

    await office.deliver(message_id)

    assert await office.desk.state(message_id) is State.FAILED
    assert office.relay.asked == []


async def test_a_message_of_a_test_token_never_leaves_the_host(office: Office) -> None:
    message_id = await office.desk.add(is_test=True, provider="relay")

    await office.deliver(message_id)

    assert office.sandbox.copies == [(message_id, ANN)]
    assert office.relay.asked == []


# bugs


@pytest.mark.parametrize("is_marked", [True, False])
async def test_a_bug_of_ours_is_unknown_if_marked_and_later_if_not(
    office: Office, is_marked: bool
) -> None:
    message_id = await office.desk.add()
    attempt = await office.begin(message_id)
    error = ZeroDivisionError("a bug")
    if is_marked:
        assert await office.desk.mark(attempt.claim)
        attempt.marked = frozenset({1})
    else:
        office.relay.default = error
        with pytest.raises(ZeroDivisionError):
            await office.delivery.deliver(attempt)

    await office.delivery.fail(attempt, error)

    assert await office.desk.state(message_id) is (State.UNKNOWN if is_marked else State.QUEUED)
    (recorded,) = (await office.desk.load(message_id)).attempts
    assert recorded.reply == "internal error: ZeroDivisionError"


# what the next hop already says


@pytest.mark.parametrize(
    ("said", "state", "type_"),
    [
        (Cause.DELIVERY_REPORTED, State.DELIVERED, "recipient.delivery_reported"),
        (Cause.BOUNCE_REPORTED, State.BOUNCED, "recipient.bounce_reported"),
        ("complaint.reported", State.SENT, "complaint.reported"),
    ],
)
async def test_a_word_beyond_the_acceptance_is_written_after_it(
    office: Office, said: Cause | str, state: State, type_: str
) -> None:
    message_id = await office.desk.add()
    office.relay.reported = {1: said}

    await office.deliver(message_id)

    assert await office.desk.state(message_id) is state
    last = (await office.desk.events(message_id))[-1]
    assert (last.type, last.provider, last.recipient) == (type_, "relay", ANN)


# the store has no time for what is written beside the outcome


async def test_credentials_refused_while_the_store_is_busy_charge_nobody(
    office: Office,
) -> None:
    """F-SM-05 and F-CO-05: the pause of the next hop must not cost the outcome."""
    message_id = await office.desk.add()
    office.relay.default = NO_ENTRY
    office.store.trouble("set_next_hop")

    await office.deliver(message_id)

    assert not office.standing.is_open("relay")
    (attempt,) = (await office.desk.load(message_id)).attempts
    assert attempt.reply == "535 no"


async def test_a_word_of_the_next_hop_is_kept_while_the_store_is_busy(office: Office) -> None:
    """F-CO-05."""
    message_id = await office.desk.add()
    office.relay.reported = {1: Cause.DELIVERY_REPORTED}
    office.store.trouble("report")

    await office.deliver(message_id)

    assert await office.desk.state(message_id) is State.DELIVERED


async def test_bytes_that_cannot_be_read_now_charge_nobody(office: Office) -> None:
    message_id = await office.desk.add(raw=b"x" * 300_000)
    office.store.trouble("load_raw")

    await office.deliver(message_id)

    assert (await office.desk.load(message_id)).attempts == ()
    assert await office.desk.due() == (message_id,)


async def test_after_a_jump_of_the_clock_a_shut_chain_is_looked_at_now_and_then(
    office: Office,
) -> None:
    """F-CL-01: expired by the clock that is not believed, and parked all the same."""
    message_id = await office.desk.add(expires_ms=office.desk.clock.now_ms() + 1_000)
    await office.standing.pause("relay", Alarm.CREDENTIALS, "535 no")
    office.desk.clock.jump(DAY_MS)
    office.believes_clock = False

    await office.deliver(message_id)

    assert await office.desk.due() == ()
