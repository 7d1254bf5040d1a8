"""One message ends every consumer that attempts it."""

from emailerctl.models.lifecycle import State
from emailerctl.store.base import LOST_ALONE_LIMIT, Verb
from tests.scenarios.processes import Daemon, eventually
from tests.scenarios.world import World


async def test_it_is_held_and_its_neighbours_are_delivered(world: World) -> None:
    """F-CL-07: held after three leases lost alone, with the reason."""
    killer = world.address()
    killer_id = await world.submit(killer)
    await (await world.start_consumer(kill_before="mark", only=killer)).until_killed()
    neighbours = [world.address() for _ in range(12)]
    neighbour_ids = [await world.submit(to) for to in neighbours]

    lost_alone = 0
    while True:
        consumer = await world.start_consumer(kill_before="mark", only=killer)
        if not await has_died(world, consumer, killer_id):
            break
        lost_alone += 1

    assert lost_alone == LOST_ALONE_LIMIT
    for message_id in neighbour_ids:
        await world.until(message_id, State.SENT)  # none was under way when a consumer died
    held = await world.until_cause(killer_id, "held")
    assert "died 3 times" in str(held.data["reason"])
    assert [world.copies(to) for to in neighbours] == [1] * len(neighbours)
    assert world.copies(killer) == 0

    consumer.kill()
    await world.start_consumer()
    await world.order(Verb.RELEASE, killer_id, reason="that was fixed")
    await world.until(killer_id, State.SENT)
    assert world.copies(killer) == 1


async def has_died(world: World, consumer: Daemon, killer_id: int) -> bool:
    """Wait until the consumer is dead, or the message is held and can do no more harm."""

    async def is_decided() -> bool:
        view = await world.load(killer_id)
        return consumer.process.poll() is not None or view.state is State.HELD

    await eventually(is_decided, saying=consumer.tell)
    return consumer.process.poll() is not None
