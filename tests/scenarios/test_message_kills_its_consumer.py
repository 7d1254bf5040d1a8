"""One message ends every consumer that attempts it."""

import pytest

from emailerctl.models.lifecycle import State
from emailerctl.store.base import LOST_ALONE_LIMIT, Verb
from tests.scenarios.processes import eventually
from tests.scenarios.world import World


@pytest.mark.timeout(60)
async def test_it_is_held_and_its_neighbours_are_delivered(world: World) -> None:
    """F-CL-07: held after three leases lost alone, with the reason."""
    killer = world.address()
    neighbours = [world.address() for _ in range(12)]
    neighbour_ids = [await world.submit(to) for to in neighbours[:6]]
    killer_id = await world.submit(killer)
    neighbour_ids += [await world.submit(to) for to in neighbours[6:]]

    deaths = 0
    while deaths <= LOST_ALONE_LIMIT + 1:
        consumer = await world.start_consumer(kill_before="mark", only=killer)

        async def has_ended(pid: int = consumer.pid) -> bool:
            view = await world.load(killer_id)
            is_dead = any(d.pid == pid and d.process.poll() for d in world.daemons)
            return is_dead or view.state is State.HELD

        await eventually(has_ended, saying=world.tell)
        if (await world.load(killer_id)).state is State.HELD:
            break
        deaths += 1

    assert deaths <= LOST_ALONE_LIMIT + 1  # the first time it was not alone
    for message_id in neighbour_ids:
        await world.until(message_id, State.SENT)
    held = await world.until_cause(killer_id, "held")
    assert "died 3 times" in str(held.data["reason"])
    assert [world.copies(to) for to in neighbours] == [1] * len(neighbours)
    assert world.copies(killer) == 0

    consumer.kill()
    await world.start_consumer()
    await world.order(Verb.RELEASE, killer_id, reason="that was fixed")
    await world.until(killer_id, State.SENT)
    assert world.copies(killer) == 1
