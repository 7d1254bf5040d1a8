"""Delivery: what is due, who may have it, the point of no return, and what comes of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from emailerctl.models.clock import to_text
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import Priority
from emailerctl.store.base import HopState, NextHop, Pause, Verb
from tests.contract.test_store_acceptance import suppression
from tests.desk import (
    ACCEPTED,
    GRACE_MS,
    LEASE_MS,
    NO_SUCH_USER,
    OPEN_MS,
    RETRY_MS,
    SETTLEMENTS,
    SILENCE,
    Desk,
)

ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture(autouse=True)
async def _consumer(desk: Desk) -> None:
    await desk.register(1)


# due


async def test_what_is_due_is_found_and_what_is_later_says_when(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    later = await desk.add(due_ms=now_ms + 5_000)
    await desk.add(due_ms=now_ms + 9_000)

    due = await desk.store.find_due({"relay": 10}, now_ms=now_ms, is_idle=True)
    assert (due.message_ids, due.next_ms) == ((), now_ms + 5_000)

    desk.clock.advance(s=5)
    due = await desk.store.find_due({"relay": 10}, now_ms=desk.clock.now_ms(), is_idle=True)
    assert due.message_ids == (later,)


async def test_nothing_later_means_no_moment_to_look_again(desk: Desk) -> None:
    due = await desk.store.find_due({"relay": 10}, now_ms=desk.clock.now_ms(), is_idle=True)

    assert (due.message_ids, due.next_ms, due.has_suspects, due.is_paused) == (
        (),
        None,
        False,
        False,
    )


async def test_each_next_hop_has_its_own_room(desk: Desk) -> None:
    slow, fast = [], []
    for _ in range(3):
        slow.append(await desk.add(next_hop="slow"))
        fast.append(await desk.add(next_hop="fast"))
        desk.clock.advance(ms=1)

    assert await desk.due(slow=1, fast=9) == (slow[0], *fast)
    assert await desk.due(slow=0, fast=2) == tuple(fast[:2])
    assert await desk.due(other=9) == ()


async def test_a_next_hop_is_probed_with_what_would_bear_a_second_copy(desk: Desk) -> None:
    """F-CO-07: policy `resend` first, whatever its age and priority."""
    ask = [await desk.add() for _ in range(2)]
    ask.sort()
    desk.clock.advance(s=1)
    resend = await desk.add(on_unknown=OnUnknown.RESEND, priority=Priority.LOW)
    elsewhere = await desk.add(next_hop="backup")

    async def probe(**rooms: int) -> tuple[int, ...]:
        now_ms = desk.clock.now_ms()
        due = await desk.store.find_due(rooms, now_ms=now_ms, is_idle=True, probing=["relay"])
        return due.message_ids

    assert await probe(relay=1, backup=9) == (resend, elsewhere)
    assert await probe(relay=9) == (resend, *ask)
    assert await probe(relay=0) == ()


async def test_a_bulk_run_never_delays_a_password_reset(desk: Desk) -> None:
    low = [await desk.add(priority=Priority.LOW) for _ in range(3)]
    low.sort()
    desk.clock.advance(s=1)
    normal = await desk.add()
    desk.clock.advance(s=1)
    high = await desk.add(priority=Priority.HIGH)

    assert await desk.due(relay=9) == (high, normal, *low)


async def test_within_a_lane_the_oldest_is_first(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    second = await desk.add(due_ms=now_ms - 1_000)
    first = await desk.add(due_ms=now_ms - 2_000)

    assert await desk.due(relay=1) == (first,)
    assert await desk.due() == (first, second)


async def test_what_is_leased_is_not_due(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.claim(message_id)

    assert await desk.due() == ()


async def test_during_a_pause_nothing_is_due_and_nothing_is_claimed(desk: Desk) -> None:
    message_id = await desk.add()
    now_ms = desk.clock.now_ms()
    await desk.store.pause(Pause(since_ms=now_ms, until_ms=None, actor="eve", reason="test"))

    due = await desk.store.find_due({"relay": 9}, now_ms=now_ms, is_idle=True)
    assert (due.message_ids, due.is_paused) == ((), True)
    assert await desk.find_claims(message_id) == []

    assert await desk.store.resume(actor="eve", now_ms=now_ms)
    assert await desk.due() == (message_id,)
    assert len(await desk.find_claims(message_id)) == 1


async def test_a_pause_ends_by_itself(desk: Desk) -> None:
    message_id = await desk.add()
    now_ms = desk.clock.now_ms()
    pause = Pause(since_ms=now_ms, until_ms=now_ms + 1_000, actor="eve", reason="")
    await desk.store.pause(pause)
    assert await desk.store.find_pause(now_ms=now_ms) == pause

    desk.clock.advance(s=1)

    assert await desk.store.find_pause(now_ms=desk.clock.now_ms()) is None
    assert await desk.due() == (message_id,)
    assert not await desk.store.resume(actor="eve", now_ms=desk.clock.now_ms())


# claim


async def test_a_claim_has_all_that_an_attempt_needs(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    message = desk.build(
        ANN,
        BOB,
        expires_ms=now_ms + 60_000,
        priority=Priority.HIGH,
        on_unknown=OnUnknown.RESEND,
        provider="relay",
        is_test=True,
        tags=("a",),
        metadata={"k": "v"},
        needs_smtputf8=True,
        template="welcome",
    )
    await desk.store.add(message, now_ms=now_ms)

    claim = await desk.claim(message.message_id)

    for name in (
        *(
            "message_id",
            "service",
            "next_hop",
            "due_ms",
            "created_ms",
            "expires_ms",
            "priority",
        ),
        *("on_unknown", "provider", "is_test", "envelope_sender", "header_from"),
        *("needs_smtputf8", "tags", "metadata", "template", "content_hash", "raw"),
    ):
        assert getattr(claim, name) == getattr(message, name), name
    assert [(r.n, r.address) for r in claim.recipients] == [(1, ANN), (2, BOB)]
    assert (claim.attempt, claim.chain_index, claim.schedule_step) == (1, 0, 0)
    assert (claim.is_whole, claim.is_alone, claim.age_from_ms) == (True, False, now_ms)
    assert claim.size_bytes == len(message.raw)
    assert claim.lease_token


async def test_large_bytes_are_left_behind_until_their_turn_comes(desk: Desk) -> None:
    raw = b"x" * 300_000
    claim = await desk.claim(await desk.add(raw=raw))

    assert (claim.raw, claim.size_bytes) == (None, 300_000)
    assert await desk.store.load_raw(claim.message_id) == raw


async def test_only_what_is_due_and_free_is_claimed(desk: Desk) -> None:
    """F-BR-02, F-BR-03: tickets that come twice, too early, or for nobody do nothing."""
    due = await desk.add()
    later = await desk.add(due_ms=desk.clock.now_ms() + 1)
    sent = await desk.add()
    await desk.deliver(sent)

    claims = await desk.find_claims(due, later, sent, 4711, due)

    assert [claim.message_id for claim in claims] == [due]
    assert await desk.find_claims(due) == []


async def test_two_consumers_race_for_rows_and_each_row_is_claimed_once(
    desk: Desk, other: Desk
) -> None:
    """F-BR-09: through two drivers, as two processes do."""
    await desk.register(2)
    message_ids = [await desk.add() for _ in range(60)]

    racing = []
    for start in range(0, 60, 3):
        batch = message_ids[start:] + message_ids[:start]
        racing += [
            desk.find_claims(*batch, consumer_id=1),
            other.find_claims(*batch, consumer_id=2),
        ]
    claims = [claim for claims in await asyncio.gather(*racing) for claim in claims]

    assert sorted(claim.message_id for claim in claims) == sorted(message_ids)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_consumer_that_was_declared_dead_gets_nothing(
    desk: Desk, is_known: bool
) -> None:
    message_id = await desk.add()
    if is_known:
        await desk.void(1)
        assert not await desk.store.renew(
            1, now_ms=desk.clock.now_ms(), lease_until_ms=2**40, in_flight=0
        )

    assert await desk.find_claims(message_id, consumer_id=1 if is_known else 99) == []
    assert await desk.due() == (message_id,)


async def test_a_claim_covers_the_queued_recipients(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB, "cid@example.org")
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])

    claim = await desk.claim(message_id)

    assert [recipient.n for recipient in claim.recipients] == [1, 3]
    assert not claim.is_whole


# mark


async def test_the_mark_is_the_point_of_no_return(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.claim(message_id)

    assert await desk.mark(claim, [2])

    assert await desk.states(message_id) == [State.QUEUED, State.SENDING]
    first, second = (await desk.load(message_id)).recipients
    assert (first.attempt, second.attempt, second.provider) == (0, 1, "relay")
    ((until, open_until),) = desk.rows("SELECT lease_until, open_until_at FROM work")
    assert until == desk.clock.boot_ms() + OPEN_MS
    assert open_until == desk.clock.now_ms() + OPEN_MS
    await desk.settle(claim, {1: Cause.DEFERRED, 2: Cause.HANDED_OVER})


async def test_a_lost_lease_marks_nothing(desk: Desk) -> None:
    """F-CL-03: the consumer that was paused past its lease wakes up too late."""
    message_id = await desk.add()
    late = await desk.claim(message_id)
    await desk.register(2)
    await desk.void(1, is_dead=False)
    fresh = await desk.claim(message_id, 2)

    assert not await desk.mark(late)
    assert await desk.mark(fresh)

    assert await desk.causes(message_id) == ["accepted", "marked"]
    assert not await desk.settle(late, Cause.HANDED_OVER)
    assert await desk.settle(fresh, Cause.HANDED_OVER)


async def test_a_lease_that_was_lost_and_not_taken_marks_nothing(desk: Desk) -> None:
    claim = await desk.claim(await desk.add())
    await desk.void(1, is_dead=False)

    assert not await desk.mark(claim)
    assert await desk.state(claim.message_id) is State.QUEUED


BARRED = {
    "cancelled": (State.CANCELLED, None),
    "held": (State.HELD, None),
    "suppressed": (State.FAILED, Reason.SUPPRESSED),
}


@pytest.mark.parametrize("how", BARRED)
async def test_what_barred_a_recipient_meanwhile_is_seen_at_the_mark(
    desk: Desk, how: str
) -> None:
    """F-CO-10: nobody is marked, the rest is due now and no attempt is charged."""
    message_id = await desk.add(ANN, BOB)
    claim = await desk.claim(message_id)
    if how == "suppressed":
        await desk.store.suppress(suppression(BOB))
    else:
        verb = Verb.CANCEL if how == "cancelled" else Verb.HOLD
        await desk.order(verb, message_id, addresses=[BOB])

    assert not await desk.mark(claim)

    first, second = (await desk.load(message_id)).recipients
    assert first.state is State.QUEUED
    assert (second.state, second.reason) == BARRED[how]
    assert await desk.due() == (message_id,)
    again = await desk.claim(message_id)
    assert (again.attempt, again.schedule_step, again.is_alone) == (1, 0, False)
    assert [recipient.address for recipient in again.recipients] == [ANN]
    assert not await desk.settle(claim, Cause.HANDED_OVER)
    assert await desk.mark(again)
    await desk.settle(again, Cause.HANDED_OVER)


@pytest.mark.parametrize("how", BARRED)
async def test_nobody_left_to_send_to_is_the_end_of_the_work(desk: Desk, how: str) -> None:
    """F-CO-10 for a message with one recipient."""
    message_id = await desk.add(ANN)
    claim = await desk.claim(message_id)
    if how == "suppressed":
        await desk.store.suppress(suppression(ANN))
    else:
        await desk.order(Verb.CANCEL if how == "cancelled" else Verb.HOLD, message_id)

    assert not await desk.mark(claim)

    assert await desk.state(message_id) is BARRED[how][0]
    assert await desk.due() == ()


async def test_what_expired_while_leased_is_given_up_at_the_mark(desk: Desk) -> None:
    """F-CO-10."""
    message_id = await desk.add(ANN, BOB, expires_ms=desk.clock.now_ms() + 1_000)
    claim = await desk.claim(message_id)
    desk.clock.advance(s=1)

    assert not await desk.mark(claim)

    view = await desk.load(message_id)
    assert {(r.state, r.reason) for r in view.recipients} == {(State.FAILED, Reason.EXPIRED)}
    assert view.attempts == ()


async def test_an_expiry_is_not_believed_after_the_clock_jumped(desk: Desk) -> None:
    """F-CL-01."""
    claim = await desk.claim(await desk.add(expires_ms=desk.clock.now_ms() + 1_000))
    desk.clock.jump(86_400_000)

    assert await desk.mark(claim, may_expire=False)
    await desk.settle(claim, Cause.HANDED_OVER)


async def test_more_time_given_by_an_operator_counts_at_the_mark(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    message_id = await desk.add(expires_ms=now_ms + 1_000)
    claim = await desk.claim(message_id)
    await desk.order(Verb.RETRY, message_id, expires_ms=now_ms + 60_000)
    desk.clock.advance(s=2)

    assert await desk.mark(claim)
    await desk.settle(claim, Cause.HANDED_OVER)


async def test_a_refused_recipient_does_not_hinder_the_mark_of_the_others(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.claim(message_id)
    await desk.order(Verb.HOLD, message_id, addresses=[ANN])

    assert await desk.mark(claim, [2])
    assert await desk.settle(claim, {1: Cause.REFUSED, 2: Cause.HANDED_OVER})

    assert await desk.states(message_id) == [State.HELD, State.SENT]
    assert await desk.causes(message_id, 1) == ["accepted", "held", "refused"]


# settle

OUTCOMES: Mapping[Cause, State] = {
    Cause.HANDED_OVER: State.SENT,
    Cause.UNANSWERED: State.UNKNOWN,
    Cause.DEFERRED: State.QUEUED,
    Cause.REFUSED: State.BOUNCED,
    Cause.ABANDONED: State.FAILED,
}


@pytest.mark.parametrize("cause", OUTCOMES)
async def test_every_outcome_after_the_mark_is_written(desk: Desk, cause: Cause) -> None:
    message_id = await desk.add()

    await desk.deliver(message_id, cause)

    view = await desk.load(message_id)
    (recipient,) = view.recipients
    assert (view.state, recipient.state) == (OUTCOMES[cause], OUTCOMES[cause])
    assert await desk.causes(message_id) == ["accepted", "marked", str(cause)]
    (attempt,) = view.attempts
    assert (attempt.n, attempt.provider, attempt.recipients) == (1, "relay", (1,))
    assert attempt.content_hash == view.content_hash
    assert attempt.open_until_ms == desk.clock.now_ms() + OPEN_MS
    assert attempt.dialogue == "> EHLO"
    assert recipient.reply == attempt.reply


@pytest.mark.parametrize("cause", [Cause.DEFERRED, Cause.REFUSED, Cause.ABANDONED])
async def test_every_outcome_before_the_mark_is_written(desk: Desk, cause: Cause) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)

    assert await desk.settle(claim, cause)

    assert await desk.state(message_id) is OUTCOMES[cause]
    (attempt,) = (await desk.load(message_id)).attempts
    assert attempt.open_until_ms is None


async def test_what_is_deferred_waits_for_its_time(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.DEFERRED)

    (recipient,) = (await desk.load(message_id)).recipients
    assert (recipient.waiting_for, recipient.due_ms) == (
        WaitingFor.RETRY,
        desk.clock.now_ms() + RETRY_MS,
    )
    assert await desk.due() == ()
    deferred = (await desk.events(message_id))[-1]
    assert deferred.data == {"due_at": to_text(recipient.due_ms), "waiting_for": "retry"}

    desk.clock.advance(ms=RETRY_MS)
    claim = await desk.claim(message_id)
    assert (claim.attempt, claim.schedule_step) == (2, 1)


async def test_each_recipient_has_its_own_outcome(desk: Desk) -> None:
    message_id = await desk.add(*(f"user{n}@example.org" for n in range(5)))
    claim = await desk.start(message_id, [1, 2])

    assert await desk.settle(claim, dict(enumerate(OUTCOMES, 1)), marked=[1, 2])

    assert await desk.states(message_id) == list(OUTCOMES.values())
    view = await desk.load(message_id)
    assert view.state is State.UNKNOWN
    (attempt,) = view.attempts
    assert (attempt.outcome, attempt.recipients) == (ACCEPTED.kind, (1, 2, 3, 4, 5))
    desk.clock.advance(ms=RETRY_MS)
    again = await desk.claim(message_id)
    assert [recipient.n for recipient in again.recipients] == [3]


async def test_the_reply_and_its_status_are_kept(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.REFUSED)

    event = (await desk.events(message_id))[-1]
    assert (event.reply, event.attempt, event.provider) == (NO_SUCH_USER.reply, 1, "relay")
    assert event.data == {"enhanced_status": "5.1.1"}


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_test", [False, True])
async def test_an_address_that_is_said_to_be_dead_is_suppressed(
    desk: Desk, *, is_late: bool, is_test: bool
) -> None:
    """At once or by a late answer; for all services; by nothing that a test token sends."""
    message_id = await desk.add(ANN, BOB, is_test=is_test)
    claim = await desk.start(message_id)
    dead = SETTLEMENTS[Cause.REFUSED]._replace(is_hard=True)
    fields: dict[str, Any] = {
        "settlements": {1: SETTLEMENTS[Cause.REFUSED], 2: dead},
        "marked": frozenset({1, 2}),
    }

    if is_late:
        await desk.void(1)
        await desk.testify(claim, {}, **fields)
    else:
        assert await desk.settle(claim, {}, **fields)

    page = await desk.store.list_suppressions(service=None, address="", cursor=None, limit=9)
    found = [(s.address, s.service, s.reason, s.message_id, s.provider) for s in page.data]
    assert found == ([] if is_test else [(BOB, "", "bounce", message_id, "relay")])
    told = {
        e.recipient: e.data.get("suppressed")
        for e in await desk.events()
        if "refused" in e.type
    }
    assert told == {ANN: None, BOB: None if is_test else "bounce"}


async def test_a_lease_that_is_not_ours_settles_nothing(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)
    await desk.void(1, is_dead=False)

    assert not await desk.settle(claim, Cause.REFUSED)

    assert await desk.causes(message_id) == ["accepted"]
    assert (await desk.load(message_id)).attempts == ()


async def test_a_result_is_written_once(desk: Desk) -> None:
    claim = await desk.start(await desk.add())

    assert await desk.settle(claim, Cause.HANDED_OVER)
    assert not await desk.settle(claim, Cause.HANDED_OVER)

    assert len(await desk.causes(claim.message_id)) == 3


async def test_what_was_decided_about_a_recipient_meanwhile_stays(desk: Desk) -> None:
    """A late outcome of an unmarked recipient is an event, and not even its reason is lost."""
    message_id = await desk.add(ANN, BOB)
    claim = await desk.claim(message_id)
    await desk.order(Verb.CANCEL, message_id, addresses=[ANN])
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])

    assert await desk.settle(claim, Cause.DEFERRED) is False  # no work, so no lease either

    assert await desk.states(message_id) == [State.CANCELLED, State.HELD]


async def test_an_outcome_for_a_failed_recipient_leaves_the_reason(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.claim(message_id)
    desk.change("UPDATE recipients SET state = 'failed', reason = 'suppressed' WHERE n = 1")
    desk.change(
        "INSERT INTO events (type, at, message_id, n, from_state, to_state)"
        " VALUES ('recipient.abandoned', 0, ?, 1, 'queued', 'failed')",
        message_id,
    )

    assert await desk.settle(claim, Cause.DEFERRED)

    first, second = (await desk.load(message_id)).recipients
    assert (first.state, first.reason, first.reply) == (State.FAILED, Reason.SUPPRESSED, "")
    assert second.state is State.QUEUED


async def test_a_recipient_that_was_released_meanwhile_is_due_now(desk: Desk) -> None:
    """What the others wait for is not its business."""
    message_id = await desk.add(ANN, BOB)
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])
    claim = await desk.claim(message_id)
    await desk.order(Verb.RELEASE, message_id, addresses=[BOB])

    assert await desk.settle(claim, Cause.DEFERRED)

    assert await desk.due() == (message_id,)


async def test_a_recipient_without_an_outcome_is_due_again(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.start(message_id, [1])

    assert await desk.settle(claim, {1: Cause.HANDED_OVER})

    assert await desk.states(message_id) == [State.SENT, State.QUEUED]
    assert await desk.due() == (message_id,)


async def test_a_part_of_a_message_is_settled_and_the_held_rest_stays(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])

    await desk.deliver(message_id)

    assert await desk.states(message_id) == [State.SENT, State.HELD]
    assert (await desk.load(message_id)).state is State.HELD


async def test_a_deferred_part_of_a_message_waits(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])

    await desk.deliver(message_id, Cause.DEFERRED)

    assert await desk.due() == ()
    desk.clock.advance(ms=RETRY_MS)
    assert await desk.due() == (message_id,)


async def test_a_gate_that_refuses_leaves_no_attempt(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)

    assert await desk.settle(claim, Cause.ABANDONED, is_recorded=False, provider="")

    view = await desk.load(message_id)
    assert (view.state, view.attempts) == (State.FAILED, ())
    assert (await desk.events(message_id))[-1].attempt is None


async def test_the_next_in_the_chain_has_the_message(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)
    await desk.settle(
        claim, Cause.DEFERRED, next_hop="backup", chain_index=1, due_ms=desk.clock.now_ms()
    )

    assert await desk.due(relay=9) == ()
    assert await desk.due(backup=9) == (message_id,)
    assert (await desk.claim(message_id)).chain_index == 1


async def test_the_telling_outcome_stands_for_the_attempt(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.start(message_id, [2])
    await desk.settle(claim, {1: Cause.REFUSED, 2: Cause.UNANSWERED})

    (attempt,) = (await desk.load(message_id)).attempts
    assert (attempt.outcome, attempt.reply) == (SILENCE.kind, SILENCE.reply)


# give back


async def test_a_claim_is_given_back_without_an_attempt(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)

    assert await desk.store.give_back(
        claim,
        due_ms=desk.clock.now_ms() + 1_000,
        waiting_for=WaitingFor.NEXT_HOP,
        next_hop="backup",
        chain_index=1,
    )

    (recipient,) = (await desk.load(message_id)).recipients
    assert (recipient.state, recipient.waiting_for) == (State.QUEUED, WaitingFor.NEXT_HOP)
    assert not await desk.mark(claim)
    desk.clock.advance(s=1)
    again = await desk.claim(message_id)
    assert (again.next_hop, again.chain_index, again.attempt) == ("backup", 1, 1)


@pytest.mark.parametrize("is_marked", [True, False])
async def test_only_an_unmarked_claim_of_ours_is_given_back(
    desk: Desk, is_marked: bool
) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)
    if is_marked:
        assert await desk.mark(claim)
    else:
        await desk.void(1, is_dead=False)

    assert not await desk.store.give_back(
        claim, due_ms=0, waiting_for=WaitingFor.READY, next_hop="relay", chain_index=0
    )

    assert await desk.state(message_id) is (State.SENDING if is_marked else State.QUEUED)


# next hops


async def test_opening_a_next_hop_wakes_what_waits_for_one(desk: Desk) -> None:
    parked = await desk.add()
    retrying = await desk.add()
    await desk.deliver(retrying, Cause.DEFERRED)
    await desk.store.give_back(
        await desk.claim(parked),
        due_ms=desk.clock.now_ms() + 30_000,
        waiting_for=WaitingFor.NEXT_HOP,
        next_hop="relay",
        chain_index=0,
    )
    hop = NextHop(name="relay", state=HopState.DISABLED, changed_ms=desk.clock.now_ms())
    await desk.store.set_next_hop(hop)
    assert await desk.due() == ()

    await desk.store.set_next_hop(
        NextHop(name="relay", state=HopState.OPEN, changed_ms=desk.clock.now_ms())
    )

    assert await desk.due() == (parked,)
    assert [hop.state for hop in await desk.store.list_next_hops()] == [HopState.OPEN]


async def test_the_work_of_a_next_hop_that_is_gone_is_routed_anew(desk: Desk) -> None:
    gone = await desk.add(next_hop="old")
    stays = await desk.add(next_hop="relay")
    leased = await desk.add(next_hop="old")
    claim = await desk.claim(leased)

    assert await desk.sweep(hops=["relay"]) == 1

    assert await desk.due(**{"": 9}) == (gone,)
    assert await desk.due(relay=9) == (stays,)
    assert (await desk.claim(gone)).chain_index == 0
    assert await desk.settle(claim, Cause.REFUSED)


def test_the_times_of_the_desk_are_those_of_the_store() -> None:
    assert OPEN_MS - GRACE_MS == 600_000
    assert LEASE_MS == GRACE_MS


async def test_waits_cut_from_a_clock_that_went_back_are_shortened(desk: Desk) -> None:
    """F-CL-01: send_at is the sender's, the waits are ours."""
    now_ms = desk.clock.now_ms()
    scheduled = await desk.add(due_ms=now_ms + 5 * 86_400_000)
    fresh = await desk.add()
    retrying = await desk.add()
    await desk.deliver(retrying, Cause.DEFERRED)
    desk.clock.jump(-2 * 86_400_000)
    soon = await desk.add()
    await desk.deliver(soon, Cause.DEFERRED)
    assert await desk.due() == ()

    shortened = await desk.store.shorten_waits(now_ms=desk.clock.now_ms(), longest_ms=3_600_000)

    assert shortened == 2
    assert set(await desk.due()) == {fresh, retrying}
    assert (await desk.load(scheduled)).recipients[0].due_ms == now_ms + 5 * 86_400_000
    assert (await desk.load(soon)).recipients[0].due_ms == desk.clock.now_ms() + RETRY_MS
