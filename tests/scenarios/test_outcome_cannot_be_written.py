"""The next hop has said 250, and the store can't take it."""

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.scenarios.processes import Daemon, eventually
from tests.scenarios.world import World

UNWRITTEN = "can't take an outcome"


async def until_loud(consumer: Daemon) -> None:
    await eventually(
        lambda: any(UNWRITTEN in line["text"] for line in consumer.lines("log.message")),
        saying=consumer.tell,
    )


async def begin(
    create: Create, verb: str, **settings: object
) -> tuple[World, Daemon, str, int]:
    world = await create(store__busy_timeout="100ms", **settings)
    to = world.address()
    message_id = await world.submit(to)
    consumer = await world.start_consumer(stop_before=verb)
    await consumer.until_stopped()
    return world, consumer, to, message_id


async def test_it_is_kept_and_written_later(create: Create) -> None:
    """F-CO-05: loudly, and nothing else is claimed meanwhile."""
    world, consumer, to, message_id = await begin(create, "settle")
    with world.hold_write_lock():
        consumer.resume()
        await until_loud(consumer)
        assert (await world.load(message_id)).state is State.SENDING

    await world.until(message_id, State.SENT)
    assert await world.causes(message_id) == ["accepted", "marked", "handed_over"]
    assert world.copies(to) == 1


async def test_it_is_unknown_when_the_consumer_dies_with_it(create: Create) -> None:
    """F-CO-05: after a restart it is unknown, never queued."""
    world, consumer, to, message_id = await begin(create, "settle")
    with world.hold_write_lock():
        consumer.resume()
        await until_loud(consumer)
        consumer.kill()

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]
    assert world.copies(to) == 1


async def test_it_is_unknown_when_the_consumer_must_end_with_it(create: Create) -> None:
    """F-CO-05, F-CL-06: a drain does not wait for ever, and does not lie."""
    world, consumer, to, message_id = await begin(create, "settle", consumer__shutdown="1s")
    with world.hold_write_lock():
        consumer.resume()
        await until_loud(consumer)
        consumer.terminate()
        await consumer.until_dead(within=10)

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted"]
    assert world.copies(to) == 1


async def test_without_its_mark_nothing_is_sent(create: Create) -> None:
    """F-CO-05: a mark that can't be written is no mark: no dot, no doubt, and again later."""
    world, consumer, to, message_id = await begin(create, "mark")
    with world.hold_write_lock():
        consumer.resume()
        await until_loud(consumer)
        assert world.copies(to) == 0

    await world.until(message_id, State.SENT)
    assert "interrupted" not in await world.causes(message_id)
    assert world.copies(to) == 1
