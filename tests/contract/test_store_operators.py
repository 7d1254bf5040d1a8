"""The operator's verbs: each in every state, and what they refuse."""

import itertools

import pytest

from emailerctl.errors import Conflict, ContentGone, Invalid, NotFound, TooEarly
from emailerctl.models.lifecycle import Cause, State, WaitingFor, advance, sources
from emailerctl.store.base import Resolution, Verb
from tests.desk import OPEN_MS, RETRY_MS, Desk

ANN, BOB = "ann@example.org", "bob@example.org"

ORDERS: dict[tuple[Verb, Resolution | None], tuple[Cause, frozenset[State]]] = {
    (Verb.CANCEL, None): (Cause.CANCELLED, sources(Cause.CANCELLED)),
    (Verb.HOLD, None): (Cause.HELD, sources(Cause.HELD)),
    (Verb.RELEASE, None): (Cause.RELEASED, sources(Cause.RELEASED)),
    (Verb.RETRY, None): (Cause.RETRIED, sources(Cause.RETRIED)),
    # Resolving ends a doubt; where there is none there is nothing to resolve.
    (Verb.RESOLVE, Resolution.SENT): (Cause.RESOLVED_SENT, frozenset({State.UNKNOWN})),
    (Verb.RESOLVE, Resolution.NOT_SENT): (Cause.RESOLVED_NOT_SENT, frozenset({State.UNKNOWN})),
    (Verb.RESOLVE, Resolution.RESEND): (Cause.RESENT, frozenset({State.UNKNOWN})),
}


@pytest.fixture(autouse=True)
async def _consumers(desk: Desk) -> None:
    await desk.register(1)
    await desk.register(2)


@pytest.mark.parametrize(("order", "state"), list(itertools.product(ORDERS, State)))
async def test_every_verb_in_every_state(
    desk: Desk, order: tuple[Verb, Resolution | None], state: State
) -> None:
    cause, fitting = ORDERS[order]
    message_id = await desk.add()
    await desk.bring(message_id, state)
    desk.clock.advance(ms=OPEN_MS)
    seen = len(await desk.events(message_id))

    if state not in fitting:
        with pytest.raises(Conflict) as refusal:
            await desk.order(order[0], message_id, order[1])
        assert refusal.value.members["recipients"] == [{"address": ANN, "state": state}]
        assert await desk.state(message_id) is state
        assert len(await desk.events(message_id)) == seen
    else:
        result = await desk.order(order[0], message_id, order[1], reason="asked to")
        after = advance(state, cause)
        assert (result.state, result.changed) == (after, (1,))
        assert [r.state for r in result.recipients] == [after]
        assert await desk.state(message_id) is after
        step, audit = (await desk.events(message_id))[seen:]
        assert (step.type, step.from_state, step.to_state) == (
            f"recipient.{cause}",
            state,
            after,
        )
        assert step.data == {"actor": "eve", "reason": "asked to"}
        assert audit.type == f"operator.{order[0]}"
        assert audit.data["actor"] == "eve"
        assert audit.data["recipients"] == [1]
        assert (message_id in await desk.due(is_idle=True)) == (after is State.QUEUED)


async def test_what_is_queued_again_starts_afresh(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.DEFERRED)
    desk.clock.advance(ms=RETRY_MS)
    claim = await desk.claim(message_id)
    await desk.settle(claim, Cause.ABANDONED, next_hop="backup", chain_index=1)
    desk.clock.advance(h=100)

    await desk.order(Verb.RETRY, message_id)

    again = await desk.claim(message_id)
    assert (again.schedule_step, again.chain_index, again.next_hop) == (0, 0, "")
    assert (again.age_from_ms, again.due_ms) == (desk.clock.now_ms(), desk.clock.now_ms())
    assert again.attempt == 3


async def test_retry_of_what_waits_makes_it_due_now(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id, Cause.DEFERRED)
    assert await desk.due() == ()

    result = await desk.order(Verb.RETRY, message_id)

    (recipient,) = result.recipients
    assert (recipient.waiting_for, recipient.due_ms) == (
        WaitingFor.READY,
        desk.clock.now_ms(),
    )
    assert await desk.due() == (message_id,)


async def test_retry_of_what_waits_for_the_second_in_the_chain_begins_with_the_first(
    desk: Desk,
) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)
    await desk.settle(claim, Cause.DEFERRED, next_hop="backup", chain_index=1)

    await desk.order(Verb.RETRY, message_id)

    again = await desk.claim(message_id)
    assert (again.next_hop, again.chain_index, again.schedule_step) == ("", 0, 0)


async def test_a_release_does_not_bring_forward_or_put_off_the_others(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB, due_ms=desk.clock.now_ms() - 1_000)
    await desk.order(Verb.HOLD, message_id, addresses=[BOB])

    await desk.order(Verb.RELEASE, message_id)

    assert (await desk.claim(message_id)).due_ms == desk.clock.now_ms() - 1_000


async def test_an_order_for_named_recipients_is_for_them(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB, "cid@example.org")

    result = await desk.order(Verb.HOLD, message_id, addresses=["BOB@example.org"])

    assert result.changed == (2,)
    assert [r.state for r in result.recipients] == [State.QUEUED, State.HELD, State.QUEUED]


async def test_an_order_applies_to_all_that_it_fits(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)
    claim = await desk.start(message_id, [1])
    await desk.settle(claim, {1: Cause.HANDED_OVER, 2: Cause.REFUSED})

    result = await desk.order(Verb.RETRY, message_id)

    assert result.changed == (2,)
    assert [r.state for r in result.recipients] == [State.SENT, State.QUEUED]
    again = await desk.claim(message_id)
    assert [recipient.address for recipient in again.recipients] == [BOB]


async def test_strangers_are_named(desk: Desk) -> None:
    message_id = await desk.add(ANN)

    with pytest.raises(Invalid) as refusal:
        await desk.order(Verb.HOLD, message_id, addresses=[ANN, "Zoe@example.org"])

    (fault,) = refusal.value.faults
    assert fault.pointer == "/recipients"
    assert "'Zoe@example.org' is not a recipient" in fault.detail
    assert await desk.state(message_id) is State.QUEUED


async def test_a_message_of_another_service_is_not_there(desk: Desk) -> None:
    message_id = await desk.add(service="blog")

    with pytest.raises(NotFound):
        await desk.order(Verb.HOLD, message_id, service="shop")
    with pytest.raises(NotFound):
        await desk.order(Verb.HOLD, 4711)
    assert (await desk.order(Verb.HOLD, message_id, service="blog")).changed == (1,)


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (State.UNKNOWN, "unknown resend"),
        (State.SENT, "send --like"),
        (State.DELIVERED, "--like"),
    ],
)
async def test_a_retry_that_is_refused_says_what_was_meant(
    desk: Desk, state: State, hint: str
) -> None:
    message_id = await desk.add()
    await desk.bring(message_id, state)

    with pytest.raises(Conflict) as refusal:
        await desk.order(Verb.RETRY, message_id)

    assert hint in refusal.value.cure


@pytest.mark.parametrize(
    ("verb", "resolution", "state"),
    [
        (Verb.RETRY, None, State.BOUNCED),
        (Verb.RELEASE, None, State.HELD),
        (Verb.RESOLVE, Resolution.NOT_SENT, State.UNKNOWN),
        (Verb.RESOLVE, Resolution.RESEND, State.UNKNOWN),
    ],
)
async def test_there_must_be_something_to_send(
    desk: Desk, verb: Verb, resolution: Resolution | None, state: State
) -> None:
    message_id = await desk.add()
    await desk.bring(message_id, state)
    desk.clock.advance(ms=OPEN_MS)
    desk.change("DELETE FROM contents")

    with pytest.raises(ContentGone):
        await desk.order(verb, message_id, resolution)
    assert await desk.state(message_id) is state


async def test_what_needs_no_content_is_done_without(desk: Desk) -> None:
    message_id = await desk.add()
    desk.change("DELETE FROM contents")

    assert (await desk.order(Verb.CANCEL, message_id)).state is State.CANCELLED


async def test_an_expired_message_needs_a_new_expiry(desk: Desk) -> None:
    message_id = await desk.add(expires_ms=desk.clock.now_ms() + 1_000)
    await desk.bring(message_id, State.BOUNCED)
    desk.clock.advance(s=1)

    with pytest.raises(Conflict, match="it expired at 2026-11-24T10:00:01") as refusal:
        await desk.order(Verb.RETRY, message_id)
    assert "--expires-in" in refusal.value.cure

    expires_ms = desk.clock.now_ms() + 60_000
    await desk.order(Verb.RETRY, message_id, expires_ms=expires_ms)
    assert (await desk.claim(message_id)).expires_ms == expires_ms


@pytest.mark.parametrize("resolution", [Resolution.NOT_SENT, Resolution.RESEND])
async def test_a_doubt_is_not_ended_while_an_answer_may_still_come(
    desk: Desk, resolution: Resolution
) -> None:
    message_id = await desk.add()
    await desk.start(message_id)
    marked_ms = desk.clock.now_ms()
    await desk.void(1)
    desk.clock.advance(ms=OPEN_MS - 1)

    with pytest.raises(TooEarly) as refusal:
        await desk.order(Verb.RESOLVE, message_id, resolution)
    assert refusal.value.members["open_until"] == "2026-11-24T10:11:00.000Z"
    assert desk.clock.now_ms() - marked_ms < OPEN_MS

    desk.clock.advance(ms=1)
    result = await desk.order(Verb.RESOLVE, message_id, resolution)
    assert result.state is State.QUEUED


async def test_forcing_needs_a_reason_which_is_kept(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.start(message_id)
    await desk.void(1)

    with pytest.raises(Invalid) as refusal:
        await desk.order(Verb.RESOLVE, message_id, Resolution.RESEND, is_forced=True)
    assert refusal.value.faults[0].pointer == "/reason"

    await desk.order(
        Verb.RESOLVE, message_id, Resolution.RESEND, is_forced=True, reason="it must go out"
    )
    audit = (await desk.events(message_id))[-1]
    assert audit.data == {
        "actor": "eve",
        "recipients": [1],
        "reason": "it must go out",
        "outcome": "resend",
        "is_forced": True,
    }


async def test_saying_that_it_was_sent_needs_no_wait(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.start(message_id)
    await desk.void(1)

    result = await desk.order(Verb.RESOLVE, message_id, Resolution.SENT)

    assert result.state is State.SENT
    assert await desk.due(is_idle=True) == ()


async def test_a_cancelled_message_is_not_sent_by_whoever_has_it(desk: Desk) -> None:
    message_id = await desk.add()
    claim = await desk.claim(message_id)
    await desk.order(Verb.CANCEL, message_id)
    await desk.order(Verb.RETRY, message_id)
    again = await desk.claim(message_id, 2)

    assert not await desk.mark(claim)
    assert await desk.mark(again)
    assert await desk.settle(again, Cause.HANDED_OVER)


async def test_what_was_cancelled_past_the_mark_was_not(desk: Desk) -> None:
    claim = await desk.start(await desk.add())

    with pytest.raises(
        Conflict, match=r"fits held or queued; here ann@example\.org is sending"
    ):
        await desk.order(Verb.CANCEL, claim.message_id)
    assert await desk.settle(claim, Cause.HANDED_OVER)
