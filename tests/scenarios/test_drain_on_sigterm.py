"""The consumer is told to stop."""

import signal

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.scenarios.world import World


async def test_what_is_past_the_mark_is_finished_and_the_rest_given_back(world: World) -> None:
    """F-CL-06: nothing is interrupted, nothing is charged."""
    past = world.address("late-1")
    waiting = [world.address("tarpit-30") for _ in range(3)]
    past_id = await world.submit(past)
    waiting_ids = [await world.submit(to) for to in waiting]
    consumer = await world.start_consumer()
    await world.until_dot(past)
    for to in waiting:
        await world.until_said(f"RCPT TO:<{to}>")

    consumer.terminate()

    assert await consumer.until_dead(within=10) == 0, consumer.tell()
    assert await world.causes(past_id) == ["accepted", "marked", "handed_over"]
    for message_id in waiting_ids:
        view = await world.load(message_id)
        assert view.state is State.QUEUED
        assert view.attempts == ()
        assert await world.causes(message_id) == ["accepted"]
    assert await world.app.store.list_consumers() == []


async def test_what_gets_no_answer_in_time_is_unknown(create: Create) -> None:
    """F-CL-06: when the time for draining is over, what is past its mark is unanswered."""
    world = await create(providers__relay__final_reply="10m", consumer__shutdown="1s")
    to = world.address("silent-after-dot-accepted")
    message_id = await world.submit(to)
    consumer = await world.start_consumer()
    await world.until_dot(to)

    consumer.terminate()

    assert await consumer.until_dead(within=10) == 0, consumer.tell()
    assert (await world.load(message_id)).state is State.UNKNOWN
    assert await world.causes(message_id) == ["accepted", "marked", "unanswered"]


async def test_a_second_sigterm_ends_it_at_once(create: Create) -> None:
    """F-CL-06: the doubt is written by whoever comes next."""
    world = await create(providers__relay__final_reply="10m", consumer__shutdown="10m")
    to = world.address("silent-after-dot-accepted")
    message_id = await world.submit(to)
    consumer = await world.start_consumer()
    await world.until_dot(to)
    consumer.terminate()
    await consumer.until_line("consumer.draining")
    assert consumer.process.poll() is None

    consumer.terminate()

    assert await consumer.until_dead(within=3) == 128 + signal.SIGTERM
    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]
