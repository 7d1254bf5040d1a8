"""The next hop says "not now", and takes it later."""

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_it_is_tried_again_and_sent_once(world: World) -> None:
    """A greylisting server: two attempts of the same bytes, one copy."""
    to = world.address("tempfail-once")
    message_id = await world.submit(to)
    await world.start_consumer()

    view = await world.until(message_id, State.SENT)

    assert await world.causes(message_id) == ["accepted", "deferred", "marked", "handed_over"]
    first, second = view.attempts
    assert (first.code, first.outcome, second.outcome) == (450, "transient", "accepted")
    assert first.content_hash == second.content_hash
    assert second.started_ms >= (first.ended_ms or 0) + 100
    assert world.copies(to) == 1


async def test_a_wait_that_the_server_names_is_honoured(world: World) -> None:
    """The schedule says 100 ms, the server says seven seconds."""
    message_id = await world.submit(world.address("tempfail"))
    await world.start_consumer()

    event = await world.until_cause(message_id, "deferred")

    recipient = await world.recipient(message_id)
    assert recipient.due_ms is not None
    assert recipient.due_ms - event.at_ms >= 7_000
