"""The consumer dies after the point of no return and before it wrote down what came of it."""

import pytest

from emailerctl.errors import TooEarly
from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.scenarios.conftest import Create
from tests.scenarios.world import World


async def test_before_the_dot_it_is_unknown(world: World) -> None:
    """F-CO-02: nothing left, but nobody knows that; it is not sent again by itself."""
    to = world.address()
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_after="mark")).until_killed()

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()

    assert world.copies(to) == 0
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]


async def test_between_the_dot_and_the_reply_it_is_unknown(world: World) -> None:
    """F-CO-03: the next hop has it, its answer finds nobody."""
    to = world.address("late-10")
    message_id = await world.submit(to)
    doomed = await world.start_consumer()
    await world.until_copies(to)
    doomed.kill()

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()

    assert world.copies(to) == 1
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]


async def test_after_the_reply_it_is_unknown_and_not_sent_again(world: World) -> None:
    """F-CO-04: the sink's journal has one copy, and the state admits the doubt."""
    to = world.address()
    message_id = await world.submit(to)
    doomed = await world.start_consumer(kill_before="settle")
    await doomed.until_killed()
    assert world.copies(to) == 1

    await world.start_consumer()  # the dead one's lock file is free: its leases are void
    view = await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()

    assert world.copies(to) == 1
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]
    (attempt,) = view.attempts
    assert (attempt.n, attempt.outcome) == (1, "unknown")


async def test_after_settle_it_is_sent(world: World) -> None:
    """The outcome was written: its writer's death changes nothing."""
    to = world.address()
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_after="settle")).until_killed()

    await world.start_consumer()
    await world.let_others_pass()

    assert (await world.recipient(message_id)).state is State.SENT
    assert world.copies(to) == 1


@pytest.mark.parametrize(
    ("outcome", "state", "copies"),
    [("sent", State.SENT, 1), ("not_sent", State.SENT, 2), ("resend", State.SENT, 2)],
)
async def test_an_operator_ends_the_doubt(
    create: Create, outcome: str, state: State, copies: int
) -> None:
    """F-CO-04: too early while an answer may still come, unless forced with a reason."""
    world = await create(providers__relay__final_reply="60s")
    to = world.address()
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_before="settle")).until_killed()
    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)

    if outcome != "sent":
        with pytest.raises(TooEarly, match="an answer may still come until"):
            await world.order(Verb.RESOLVE, message_id, outcome=outcome)
        forced = {"force": True, "reason": "the relay's log has no such message"}
        await world.order(Verb.RESOLVE, message_id, outcome=outcome, **forced)
    else:
        await world.order(Verb.RESOLVE, message_id, outcome=outcome)

    await world.until(message_id, state)
    assert world.copies(to) == copies


async def test_an_operator_resends_when_no_answer_can_come(create: Create) -> None:
    """F-CO-04: after final_reply and the grace, nothing has to be forced."""
    world = await create(providers__relay__final_reply="500ms", lease__duration="1s")
    to = world.address()
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_before="settle")).until_killed()
    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    await world.pass_time(1_500)

    await world.order(Verb.RESOLVE, message_id, outcome="resend", reason="they asked")

    await world.until(message_id, State.SENT)
    assert world.copies(to) == 2
    assert "resent" in await world.causes(message_id)
