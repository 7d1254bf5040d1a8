"""Leases that end: nothing is sent twice, nothing is stuck, and doubt is said aloud."""

import pytest

from emailerctl.models.lifecycle import Cause, OnUnknown, State, WaitingFor, advance
from emailerctl.models.outcome import Kind
from emailerctl.store.base import LOST_ALONE_LIMIT, Resolution, Verb
from tests.desk import FINAL_REPLY_MS, OPEN_MS, RETRY_MS, Desk

ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture(autouse=True)
async def _consumers(desk: Desk) -> None:
    await desk.register(1)
    await desk.register(2)


# a consumer that died


async def test_a_lease_that_ends_before_the_mark_is_void(desk: Desk) -> None:
    """F-CO-01: due again at once, not unknown, no attempt charged."""
    message_id = await desk.add()
    await desk.claim(message_id)

    assert await desk.void(1) == 1

    assert await desk.state(message_id) is State.QUEUED
    assert await desk.due(is_idle=True) == (message_id,)
    again = await desk.claim(message_id, 2)
    assert (again.attempt, again.schedule_step) == (1, 0)
    assert (await desk.load(message_id)).attempts == ()


async def test_a_lease_that_ends_after_the_mark_leaves_doubt_and_no_work(desk: Desk) -> None:
    """F-CO-02…04: nobody knows, so nobody sends it again."""
    message_id = await desk.add()
    await desk.start(message_id)
    desk.clock.advance(s=5)

    assert await desk.void(1) == 1

    view = await desk.load(message_id)
    assert view.state is State.UNKNOWN
    assert await desk.causes(message_id) == ["accepted", "marked", "interrupted"]
    (attempt,) = view.attempts
    assert (attempt.n, attempt.outcome, attempt.ended_ms) == (1, Kind.UNKNOWN, None)
    assert (attempt.provider, attempt.recipients) == ("relay", (1,))
    assert attempt.open_until_ms == view.created_ms + OPEN_MS
    assert await desk.due(is_idle=True) == ()
    assert await desk.find_claims(message_id, consumer_id=2) == []


async def test_only_the_marked_of_a_message_are_in_doubt(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    await desk.start(message_id, [1])

    await desk.void(1)

    assert await desk.states(message_id) == [State.UNKNOWN, State.QUEUED]
    again = await desk.claim(message_id, 2)
    assert [recipient.address for recipient in again.recipients] == [BOB]
    assert again.attempt == 2
    assert await desk.mark(again)
    assert await desk.settle(again, Cause.HANDED_OVER)
    assert await desk.states(message_id) == [State.UNKNOWN, State.SENT]


async def test_the_next_hop_that_had_it_is_named_not_the_one_that_was_meant(
    desk: Desk,
) -> None:
    """A claim that was not routed, or whose first hop was shut, goes to another one."""
    message_id = await desk.add(next_hop="")
    claim = await desk.claim(message_id)
    assert await desk.mark(claim, provider="backup")

    await desk.void(1)

    view = await desk.load(message_id)
    assert (view.attempts[0].provider, view.recipients[0].provider) == ("backup", "backup")
    assert (await desk.events(message_id))[-1].provider == "backup"


async def test_a_dead_consumer_loses_every_lease_and_no_neighbours(desk: Desk) -> None:
    mine = [await desk.add() for _ in range(3)]
    theirs = await desk.add()
    await desk.find_claims(*mine)
    claim = await desk.claim(theirs, 2)

    assert await desk.void(1) == 3
    assert await desk.void(1) == 0

    assert await desk.mark(claim)
    assert await desk.settle(claim, Cause.HANDED_OVER)
    assert [c.consumer_id for c in await desk.store.list_consumers()] == [2]


# a consumer whose right ran out


async def test_a_lapsed_consumer_keeps_what_it_marked_until_its_own_time_ends(
    desk: Desk,
) -> None:
    marked, unmarked = await desk.add(), await desk.add()
    await desk.start(marked)
    await desk.claim(unmarked)

    assert await desk.void(1, is_dead=False) == 1
    assert await desk.state(marked) is State.SENDING
    assert await desk.due(is_idle=True) == (unmarked,)

    desk.clock.advance(ms=OPEN_MS - 1)
    assert await desk.void(1, is_dead=False) == 0
    desk.clock.advance(ms=1)
    assert await desk.void(1, is_dead=False) == 1
    assert await desk.state(marked) is State.UNKNOWN


async def test_a_consumer_that_is_well_loses_only_the_marked_whose_time_ended(
    desk: Desk,
) -> None:
    """An attempt that never ends must not be `sending` for ever."""
    marked, unmarked = await desk.add(), await desk.add()
    hanging = await desk.start(marked)
    claim = await desk.claim(unmarked)
    desk.clock.advance(ms=OPEN_MS)

    assert await desk.void(1, is_dead=False, is_lapsed=False) == 1

    assert await desk.state(marked) is State.UNKNOWN
    assert await desk.mark(claim)
    assert await desk.settle(claim, Cause.HANDED_OVER)
    assert not await desk.settle(hanging, Cause.HANDED_OVER)
    await desk.testify(hanging, Cause.HANDED_OVER)
    assert await desk.state(marked) is State.SENT


async def test_the_wall_clock_has_no_say_in_leases(desk: Desk) -> None:
    """F-CL-01."""
    message_id = await desk.add()
    claim = await desk.start(message_id)
    desk.clock.jump(30 * 86_400_000)

    assert await desk.void(1, is_dead=False) == 0
    assert await desk.settle(claim, Cause.HANDED_OVER)


async def test_a_lapsed_consumer_that_comes_back_may_claim_again(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.claim(message_id)
    await desk.void(1, is_dead=False)

    now_ms = desk.clock.now_ms()
    assert await desk.store.renew(1, now_ms=now_ms, lease_until_ms=2**40, in_flight=3)

    assert len(await desk.find_claims(message_id)) == 1
    (consumer, _) = await desk.store.list_consumers()
    assert (consumer.in_flight, consumer.lease_until_ms) == (3, 2**40)


# suspects


async def test_after_a_lost_lease_a_message_is_claimed_alone(desk: Desk) -> None:
    """F-CL-07: its neighbours do not suffer."""
    suspect = await desk.add()
    await desk.claim(suspect)
    await desk.void(1)
    innocent = await desk.add()

    assert await desk.due(is_idle=False) == (innocent,)
    due = await desk.store.find_due({"relay": 9}, now_ms=desk.clock.now_ms(), is_idle=False)
    assert due.has_suspects
    assert await desk.due(is_idle=True) == (suspect,)
    assert (await desk.claim(suspect, 2)).is_alone


async def test_a_suspect_that_waits_says_when(desk: Desk) -> None:
    suspect = await desk.add()
    await desk.claim(suspect)
    await desk.void(1)
    claim = await desk.claim(suspect, 2)
    later_ms = desk.clock.now_ms() + 7_000
    await desk.store.give_back(
        claim,
        due_ms=later_ms,
        waiting_for=WaitingFor.NEXT_HOP,
        next_hop="relay",
        chain_index=0,
    )

    due = await desk.store.find_due({"relay": 9}, now_ms=desk.clock.now_ms(), is_idle=True)

    assert (due.message_ids, due.has_suspects, due.next_ms) == ((), False, later_ms)


async def test_a_message_that_kills_its_consumer_is_held_with_the_reason(desk: Desk) -> None:
    """F-CL-07: after three leases lost alone; the first, in company, does not count."""
    message_id = await desk.add(ANN, BOB, expires_ms=desk.clock.now_ms() + 60_000)
    for consumer_id in range(10, 10 + LOST_ALONE_LIMIT + 1):
        assert await desk.states(message_id) == [State.QUEUED, State.QUEUED]
        await desk.register(consumer_id)
        await desk.claim(message_id, consumer_id)
        await desk.void(consumer_id)

    assert await desk.states(message_id) == [State.HELD, State.HELD]
    held = (await desk.events(message_id))[-1]
    assert "died 3 times while alone" in str(held.data["reason"])
    assert await desk.due(is_idle=True) == ()

    await desk.order(Verb.RELEASE, message_id)
    assert await desk.due() == (message_id,)  # innocent until it does it again
    await desk.order(Verb.HOLD, message_id)
    desk.clock.advance(s=60)
    await desk.sweep()
    assert await desk.states(message_id) == [State.FAILED, State.FAILED]


async def test_a_suspect_that_is_settled_is_no_suspect_any_more(desk: Desk) -> None:
    message_id = await desk.add()
    for consumer_id in (10, 11, 12):
        await desk.register(consumer_id)
        await desk.claim(message_id, consumer_id)
        await desk.void(consumer_id)
    claim = await desk.claim(message_id, 2)
    assert await desk.settle(claim, Cause.DEFERRED)
    desk.clock.advance(ms=RETRY_MS)

    assert await desk.due(is_idle=False) == (message_id,)
    claim = await desk.claim(message_id, 2)
    assert not claim.is_alone
    await desk.void(2)
    assert await desk.state(message_id) is State.QUEUED


# testify


@pytest.mark.parametrize(
    ("cause", "state", "event"),
    [
        (Cause.HANDED_OVER, State.SENT, "resolved_sent"),
        (Cause.DEFERRED, State.QUEUED, "resolved_not_sent"),
        (Cause.REFUSED, State.BOUNCED, "refused"),
        (Cause.ABANDONED, State.FAILED, "abandoned"),
        (Cause.UNANSWERED, State.UNKNOWN, None),
    ],
)
async def test_a_late_answer_to_a_lost_lease_testifies(
    desk: Desk, cause: Cause, state: State, event: str | None
) -> None:
    """F-CL-04."""
    message_id = await desk.add()
    claim = await desk.start(message_id)
    await desk.void(1)

    assert not await desk.settle(claim, cause, marked=[1])
    await desk.testify(claim, cause)

    assert await desk.state(message_id) is state
    told = ["accepted", "marked", "interrupted", *([event] if event else [])]
    assert await desk.causes(message_id) == told
    (attempt,) = (await desk.load(message_id)).attempts
    assert attempt.ended_ms == desk.clock.now_ms()
    assert attempt.dialogue == "> EHLO"


async def test_a_late_no_is_due_when_its_wait_is_over_and_keeps_its_age(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.start(message_id)
    created_ms = desk.clock.now_ms()
    await desk.void(1)
    desk.clock.advance(s=60)

    await desk.testify(claim, Cause.DEFERRED)

    assert await desk.due() == ()
    desk.clock.advance(ms=RETRY_MS)
    again = await desk.claim(message_id, 2)
    assert (again.attempt, again.age_from_ms) == (2, created_ms)


async def test_an_unmarked_recipient_of_a_late_answer_has_nothing_to_say(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.start(message_id, [1])
    await desk.void(1)

    await desk.testify(claim, {1: Cause.HANDED_OVER, 2: Cause.REFUSED}, marked=[1])

    assert await desk.states(message_id) == [State.SENT, State.QUEUED]


@pytest.mark.parametrize("second", ["queued", "sending", "unknown", "sent"])
async def test_a_late_no_about_an_earlier_attempt_is_no_word_about_the_newest(
    desk: Desk, second: str
) -> None:
    message_id = await desk.add()
    first = await desk.start(message_id)
    await desk.void(1)
    await desk.order(
        Verb.RESOLVE,
        message_id,
        Resolution.RESEND,
        is_forced=True,
        reason="we need it",
    )
    if second != "queued":
        claim = await desk.start(message_id, consumer_id=2)
        assert claim.attempt == 2
        if second == "unknown":
            await desk.settle(claim, Cause.UNANSWERED)
        elif second == "sent":
            await desk.settle(claim, Cause.HANDED_OVER)

    for cause in (Cause.DEFERRED, Cause.REFUSED):
        await desk.testify(first, cause)

    if second == "queued":  # the first is still the newest marked: its 5yz is a word about it
        assert await desk.state(message_id) is State.BOUNCED
    else:
        assert await desk.state(message_id) is State(second)
        last = (await desk.events(message_id))[-1]
        assert (last.from_state, last.to_state) == (State(second), State(second))
        assert last.data["note"] == "about an earlier attempt"


async def test_a_late_yes_about_any_attempt_stops_the_next_copy(desk: Desk) -> None:
    message_id = await desk.add()
    first = await desk.start(message_id)
    await desk.void(1)
    await desk.order(
        Verb.RESOLVE,
        message_id,
        Resolution.RESEND,
        is_forced=True,
        reason="we need it",
    )
    claim = await desk.claim(message_id, 2)

    await desk.testify(first, Cause.HANDED_OVER)

    assert await desk.state(message_id) is State.SENT
    assert not await desk.mark(claim)
    assert await desk.due(is_idle=True) == ()


async def test_what_an_attempt_has_decided_no_later_silence_takes_back(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.start(message_id)
    assert await desk.settle(claim, Cause.HANDED_OVER)

    await desk.testify(claim, Cause.UNANSWERED)

    view = await desk.load(message_id)
    assert (view.state, view.attempts[0].outcome) == (State.SENT, Kind.ACCEPTED)


async def test_a_number_of_an_attempt_is_never_given_twice(desk: Desk) -> None:
    """Evidence is keyed by it: a no about the first is no word about the second."""
    message_id = await desk.add()
    first = await desk.start(message_id)
    await desk.report(message_id, Cause.BOUNCE_REPORTED)
    await desk.order(Verb.RETRY, message_id)

    second = await desk.claim(message_id, 2)
    assert second.attempt == 2
    assert await desk.mark(second)
    await desk.void(2)
    assert await desk.state(message_id) is State.UNKNOWN

    assert not await desk.settle(first, Cause.DEFERRED, marked=[1])
    await desk.testify(first, Cause.DEFERRED)

    assert await desk.state(message_id) is State.UNKNOWN
    assert [a.n for a in (await desk.load(message_id)).attempts] == [1, 2]


async def test_a_marked_attempt_has_its_row_even_if_nobody_is_sending_any_more(
    desk: Desk,
) -> None:
    message_id = await desk.add(ANN, BOB)
    await desk.start(message_id, [1])
    await desk.report(message_id, Cause.DELIVERY_REPORTED)

    await desk.void(1)

    assert await desk.states(message_id) == [State.DELIVERED, State.QUEUED]
    (attempt,) = (await desk.load(message_id)).attempts
    assert (attempt.n, attempt.recipients, attempt.provider) == (1, (1,), "relay")
    assert (await desk.claim(message_id, 2)).attempt == 2


# reports


REPORTED = [
    (cause, state)
    for cause in (Cause.DELIVERY_REPORTED, Cause.BOUNCE_REPORTED)
    for state in (
        *(State.SENDING, State.UNKNOWN, State.SENT),
        *(State.BOUNCED, State.FAILED, State.DELIVERED),
    )
]


@pytest.mark.parametrize(("cause", "state"), REPORTED)
async def test_a_report_steps_as_the_table_allows_and_is_always_an_event(
    desk: Desk, cause: Cause, state: State
) -> None:
    message_id = await desk.add()
    await desk.bring(message_id, state)

    after = await desk.report(message_id, cause)

    assert after is advance(state, cause) is await desk.state(message_id)
    last = (await desk.events(message_id))[-1]
    assert (last.type, last.from_state, last.to_state) == (f"recipient.{cause}", state, after)


async def test_a_report_before_our_own_settlement_is_evidence(desk: Desk) -> None:
    """F-WI-02: the report steps; the attempt is written all the same."""
    message_id = await desk.add()
    claim = await desk.start(message_id)
    assert await desk.report(message_id, Cause.DELIVERY_REPORTED) is State.DELIVERED

    assert not await desk.settle(claim, Cause.HANDED_OVER)
    await desk.testify(claim, Cause.HANDED_OVER)

    view = await desk.load(message_id)
    assert (view.state, view.attempts[0].outcome) == (State.DELIVERED, Kind.ACCEPTED)


async def test_a_report_for_one_of_two_leaves_the_lease_to_the_other(desk: Desk) -> None:
    """F-WI-02."""
    message_id = await desk.add(ANN, BOB)
    claim = await desk.start(message_id)
    await desk.report(message_id, Cause.BOUNCE_REPORTED, 2)

    assert await desk.settle(claim, Cause.HANDED_OVER)

    assert await desk.states(message_id) == [State.SENT, State.BOUNCED]


async def test_reports_in_any_order_end_in_the_same_place(desk: Desk) -> None:
    """F-WI-02: a bounce after a delivery counts, a delivery after a bounce does not."""
    ends = []
    for order in (
        [Cause.DELIVERY_REPORTED, Cause.BOUNCE_REPORTED],
        [Cause.BOUNCE_REPORTED, Cause.DELIVERY_REPORTED],
        [Cause.BOUNCE_REPORTED, Cause.BOUNCE_REPORTED],
    ):
        message_id = await desk.add()
        await desk.deliver(message_id)
        for cause in order:
            await desk.report(message_id, cause)
        ends.append(await desk.state(message_id))

    assert ends == [State.BOUNCED] * 3


@pytest.mark.parametrize("attempt", [0, 2, 4711])
async def test_a_report_about_an_attempt_that_was_never_marked_is_no_evidence(
    desk: Desk, attempt: int
) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id)

    assert await desk.report(message_id, Cause.DELIVERY_REPORTED, attempt=attempt) is State.SENT
    assert await desk.report(message_id, Cause.BOUNCE_REPORTED, attempt=attempt) is State.SENT
    assert (await desk.events(message_id))[-1].data["note"] == "about no attempt of ours"


async def test_a_report_about_what_never_left_is_no_evidence(desk: Desk) -> None:
    message_id = await desk.add()

    assert await desk.report(message_id, Cause.DELIVERY_REPORTED) is State.QUEUED


async def test_a_bounce_of_an_earlier_attempt_does_not_stop_the_newest(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.DEFERRED)
    desk.clock.advance(ms=RETRY_MS)
    await desk.deliver(message_id)

    assert await desk.report(message_id, Cause.BOUNCE_REPORTED, attempt=1) is State.SENT
    assert await desk.report(message_id, Cause.BOUNCE_REPORTED, attempt=2) is State.BOUNCED


async def test_a_report_about_nobody_is_told_so(desk: Desk) -> None:
    message_id = await desk.add()

    assert await desk.report(message_id, Cause.DELIVERY_REPORTED, n=9) is None
    assert await desk.report(4711, Cause.DELIVERY_REPORTED) is None


# what happens to a doubt by itself


async def test_under_ask_a_doubt_stays(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.bring(message_id, State.UNKNOWN)
    desk.clock.advance(h=24 * 30)

    assert await desk.sweep() == 0
    assert await desk.state(message_id) is State.UNKNOWN


async def test_under_resend_a_doubt_waits_for_the_answer_and_goes_out_again(
    desk: Desk,
) -> None:
    message_id = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.start(message_id)
    await desk.void(1)

    desk.clock.advance(ms=FINAL_REPLY_MS - 1)
    assert await desk.sweep() == 0
    desk.clock.advance(ms=1)
    assert await desk.sweep() == 1

    assert await desk.due() == (message_id,)
    assert (await desk.causes(message_id))[-1] == "resent"
    assert (await desk.events(message_id))[-1].data == {"actor": "policy"}
    claim = await desk.start(message_id, consumer_id=2)
    assert claim.attempt == 2
    await desk.settle(claim, Cause.HANDED_OVER)


async def test_an_expiry_makes_the_wait_for_a_second_copy_shorter(desk: Desk) -> None:
    message_id = await desk.add(
        on_unknown=OnUnknown.RESEND, expires_ms=desk.clock.now_ms() + 900_000
    )
    await desk.start(message_id)
    await desk.void(1)
    (unknown,) = await desk.store.list_unknown(now_ms=desk.clock.now_ms())

    assert unknown.resend_at_ms == desk.clock.now_ms() + 225_000


@pytest.mark.parametrize("end", ["expiry", "age", "content"])
async def test_policy_resend_ends_and_the_doubt_stays(desk: Desk, end: str) -> None:
    now_ms = desk.clock.now_ms()
    expires_ms = now_ms + 900_000 if end == "expiry" else None
    message_id = await desk.add(on_unknown=OnUnknown.RESEND, expires_ms=expires_ms)
    await desk.start(message_id)
    await desk.void(1)
    if end == "content":
        desk.change("DELETE FROM contents")
    desk.clock.advance(h=24 * 3 if end == "age" else 1)

    await desk.sweep()

    assert await desk.state(message_id) is State.UNKNOWN
    assert await desk.due(is_idle=True) == ()
    assert await desk.sweep() == 0


async def test_the_age_of_a_scheduled_message_counts_from_its_time(desk: Desk) -> None:
    week_ms = 7 * 86_400_000
    message_id = await desk.add(
        on_unknown=OnUnknown.RESEND, due_ms=desk.clock.now_ms() + week_ms
    )
    desk.clock.advance(ms=week_ms)
    await desk.start(message_id)
    await desk.void(1)
    desk.clock.advance(ms=FINAL_REPLY_MS)

    await desk.sweep()

    assert await desk.due() == (message_id,)
    assert (await desk.claim(message_id, 2)).age_from_ms == desk.clock.now_ms() - FINAL_REPLY_MS


async def test_the_age_of_a_message_that_was_retried_starts_afresh(desk: Desk) -> None:
    message_id = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.bring(message_id, State.FAILED)
    desk.clock.advance(h=24 * 10)
    await desk.order(Verb.RETRY, message_id)
    await desk.start(message_id)
    await desk.void(1)
    desk.clock.advance(ms=FINAL_REPLY_MS)

    await desk.sweep()

    assert await desk.due() == (message_id,)


async def test_a_doubt_that_was_resolved_is_not_sent_again(desk: Desk) -> None:
    message_id = await desk.add(on_unknown=OnUnknown.RESEND)
    claim = await desk.start(message_id)
    await desk.void(1)
    await desk.testify(claim, Cause.HANDED_OVER)
    desk.clock.advance(h=24)

    await desk.sweep()

    assert await desk.state(message_id) is State.SENT
    assert await desk.due(is_idle=True) == ()


async def test_an_expired_doubt_is_an_event_and_leaves_the_gauge_not_the_list(
    desk: Desk,
) -> None:
    message_id = await desk.add(expires_ms=desk.clock.now_ms() + 60_000)
    await desk.bring(message_id, State.UNKNOWN)
    stats = await desk.store.queue_stats(now_ms=desk.clock.now_ms())
    assert (stats.unknown, stats.oldest_unknown_ms) == (1, desk.clock.now_ms())
    desk.clock.advance(s=60)

    assert await desk.sweep() == 1

    last = (await desk.events(message_id))[-1]
    assert (last.type, last.from_state, last.to_state) == (
        "recipient.expired",
        State.UNKNOWN,
        State.UNKNOWN,
    )
    (unknown,) = await desk.store.list_unknown(now_ms=desk.clock.now_ms())
    assert unknown.is_expired
    stats = await desk.store.queue_stats(now_ms=desk.clock.now_ms())
    assert (stats.unknown, stats.oldest_unknown_ms) == (1, None)


async def test_a_held_message_expires(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB, expires_ms=desk.clock.now_ms() + 60_000)
    await desk.order(Verb.HOLD, message_id)
    desk.clock.advance(s=60)

    assert await desk.sweep(may_expire=False) == 0
    assert await desk.states(message_id) == [State.HELD, State.HELD]
    assert await desk.sweep() == 2

    view = await desk.load(message_id)
    assert view.state is State.FAILED
    assert {str(r.reason) for r in view.recipients} == {"expired"}


async def test_more_time_for_a_message_is_more_time_for_all_its_recipients(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    message_id = await desk.add(ANN, BOB, expires_ms=now_ms + 60_000)
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])
    await desk.order(Verb.RETRY, message_id, addresses=[ANN], expires_ms=now_ms + 3_600_000)
    desk.clock.advance(s=61)

    await desk.sweep()
    assert await desk.states(message_id) == [State.QUEUED, State.HELD]

    desk.clock.advance(h=1)
    await desk.sweep()
    assert await desk.states(message_id) == [State.QUEUED, State.FAILED]


async def test_expiries_that_are_not_believed_do_not_hold_up_the_others(desk: Desk) -> None:
    """F-CL-01: however many wait."""
    resent = await desk.add(on_unknown=OnUnknown.RESEND)
    for n in range(30):
        held = await desk.add(
            *(f"user{i}@example.org" for i in range(20)),
            expires_ms=desk.clock.now_ms() + 1_000 + n,
        )
        await desk.order(Verb.HOLD, held)
    await desk.bring(resent, State.UNKNOWN)
    desk.clock.advance(h=1)

    assert await desk.sweep(may_expire=False) == 1
    assert await desk.state(resent) is State.QUEUED


async def test_timers_of_a_message_that_is_gone_do_nothing(desk: Desk) -> None:
    desk.change("INSERT INTO timers (message_id, n, what, at) VALUES (1, 1, 'resend', 0)")

    assert await desk.sweep() == 1
    assert await desk.sweep() == 0
