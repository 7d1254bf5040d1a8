"""One message to three, and each has a fate of its own."""

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_the_others_get_their_copy(world: World) -> None:
    """One attempt, one dot, for the two that the server has taken."""
    first, unknown, third = world.address(), world.address("permfail"), world.address()
    message_id = await world.submit(first, unknown, third)
    await world.start_consumer()

    view = await world.until(message_id, State.BOUNCED)

    assert [r.state for r in view.recipients] == [State.SENT, State.BOUNCED, State.SENT]
    assert len(view.attempts) == 1
    assert [world.copies(to) for to in (first, unknown, third)] == [1, 0, 1]
    assert await world.causes(message_id, unknown) == ["accepted", "refused"]


async def test_a_retry_is_for_the_one_that_waits_only(world: World) -> None:
    """The same bytes again, to one envelope recipient."""
    first, greylisted, third = world.address(), world.address("tempfail-once"), world.address()
    message_id = await world.submit(first, greylisted, third)
    await world.start_consumer()

    view = await world.until(message_id, State.SENT)

    assert [attempt.recipients for attempt in view.attempts] == [(1, 2, 3), (2,)]
    assert [world.copies(to) for to in (first, greylisted, third)] == [1, 1, 1]
