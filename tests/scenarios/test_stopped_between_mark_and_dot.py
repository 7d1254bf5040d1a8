"""A consumer stands still between the mark and the dot, and wakes up much later."""

from emailerctl.models.lifecycle import State
from emailerctl.providers.base import DOT_WITHIN_MS
from tests.scenarios.conftest import Create


async def test_it_writes_no_dot_and_sends_later(create: Create) -> None:
    """F-CL-09: the dot leaves within five seconds of asking for the mark, or never."""
    world = await create(providers__relay__final_reply="30s")
    to = world.address()
    message_id = await world.submit(to)
    late = await world.start_consumer(stop_after="mark")
    await late.until_stopped()
    assert (await world.load(message_id)).state is State.SENDING

    await world.pass_time(DOT_WITHIN_MS + 300)
    late.resume()

    view = await world.until(message_id, State.SENT)
    first, second = view.attempts
    assert (first.outcome, second.outcome) == ("transient", "accepted")
    assert "ms after the mark" in first.reply
    causes = ["accepted", "marked", "deferred", "marked", "handed_over"]
    assert await world.causes(message_id) == causes
    assert world.copies(to) == 1


async def test_it_writes_no_dot_when_its_lease_has_ended_too(create: Create) -> None:
    """F-CL-09: meanwhile it is unknown; that no dot was written is evidence."""
    world = await create(providers__relay__final_reply="1s", lease__duration="1s")
    to = world.address()
    message_id = await world.submit(to)
    late = await world.start_consumer(stop_after="mark")
    await late.until_stopped()
    await world.pause()  # the other one declares it lapsed, and sends nothing
    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    assert world.copies(to) == 0

    await world.pass_time(DOT_WITHIN_MS)
    late.resume()
    await world.until_cause(message_id, "resolved_not_sent")
    assert world.copies(to) == 0
    await world.resume()

    await world.until(message_id, State.SENT)
    assert world.copies(to) == 1
