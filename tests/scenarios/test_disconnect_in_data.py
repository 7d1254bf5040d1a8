"""The next hop hangs up in the middle of the content."""

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create


async def test_it_was_not_accepted_and_nobody_doubts_it(create: Create) -> None:
    """Closed before the dot was written: tried again, never unknown."""
    world = await create(retry__schedule=["1h"])
    to = world.address("drop-in-body")
    message_id = await world.submit(to)
    # Stopped until the server has hung up, so that the dot can't be quicker.
    consumer = await world.start_consumer(stop_before="mark")
    await consumer.until_stopped()
    await world.until_lost_without_dot(to)
    consumer.resume()

    await world.until_cause(message_id, "deferred")

    view = await world.load(message_id)
    assert (view.state, view.recipients[0].waiting_for) == (State.QUEUED, "retry")
    assert await world.causes(message_id) == ["accepted", "marked", "deferred"]
    assert [attempt.outcome for attempt in view.attempts] == ["transient"]
    assert world.copies(to) == 0
