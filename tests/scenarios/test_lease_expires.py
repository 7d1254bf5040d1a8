"""A consumer stands still past its lease, before the point of no return; another takes over."""

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_the_one_that_wakes_up_sends_nothing(world: World) -> None:
    """F-CL-03: its mark carries an old token, and changes nothing."""
    to = world.address()
    message_id = await world.submit(to)
    late = await world.start_consumer(stop_before="mark")
    await late.until_stopped()
    assert (await world.load(message_id)).state is State.QUEUED

    await world.start_consumer()
    await world.until(message_id, State.SENT)
    late.resume()
    await world.until_lost_without_dot(to)
    await world.let_others_pass()

    assert world.copies(to) == 1
    assert await world.causes(message_id) == ["accepted", "marked", "handed_over"]
    assert [attempt.n for attempt in (await world.load(message_id)).attempts] == [1]


async def test_the_one_that_wakes_up_goes_on_with_other_messages(world: World) -> None:
    """F-CL-03: a lapsed lease is no death: what renews it may claim again."""
    message_id = await world.submit(world.address())
    late = await world.start_consumer(stop_before="mark")
    await late.until_stopped()
    other = await world.start_consumer()
    await world.until(message_id, State.SENT)
    other.terminate()
    assert await other.until_dead() == 0

    late.resume()
    later_id = await world.submit(world.address())

    await world.until(later_id, State.SENT)
    assert late.process.poll() is None
