"""Two consumers race."""

import asyncio
import random

from emailerctl.models.lifecycle import State
from tests.scenarios.brokers import Broker
from tests.scenarios.conftest import Create


async def test_each_message_goes_out_exactly_once(create: Create, broker: Broker) -> None:
    """F-BR-09: 300 messages, both look at the same moment, and each row has one claim."""
    world = await create(**broker.settings)
    await world.pause()
    consumers = [await world.start_consumer() for _ in range(2)]
    addresses = [world.address() for _ in range(300)]
    message_ids = await asyncio.gather(*(world.submit(to) for to in addresses))

    await world.resume()
    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=30)

    assert [world.copies(to) for to in addresses] == [1] * len(addresses)

    def count_shares() -> list[int]:
        return [len(consumer.lines("recipient.handed_over")) for consumer in consumers]

    assert sum(count_shares()) == len(addresses)
    while min(count_shares()) == 0:  # one of them did it all: there was no race, nor need be
        await world.let_others_pass()


async def test_one_message_is_claimed_once(create: Create, broker: Broker) -> None:
    """F-BR-09: again and again, one after the other, with both awake."""
    world = await create(**broker.settings)
    consumers = [await world.start_consumer() for _ in range(2)]
    for _ in range(30):
        to = world.address()
        message_id = await world.submit(to)
        await world.until(message_id, State.SENT)
        assert world.copies(to) == 1
        assert await world.causes(message_id) == ["accepted", "marked", "handed_over"]
    assert all(consumer.process.poll() is None for consumer in consumers)


async def test_each_goes_out_once_when_one_of_them_dies(create: Create, broker: Broker) -> None:
    """F-BR-09, F-CO-01: what the dead one had claimed is done by the other, or is unknown."""
    world = await create(**broker.settings)
    await world.pause()
    doomed = await world.start_consumer(
        kill_before="settle", nth=random.Random(1).randint(5, 20)
    )
    await world.start_consumer()
    addresses = [world.address() for _ in range(100)]
    message_ids = await asyncio.gather(*(world.submit(to) for to in addresses))

    await world.resume()
    # Nobody promises it a share: there is more to do until it has had enough.
    while doomed.process.poll() is None:
        addresses.append(world.address())
        message_ids.append(await world.submit(addresses[-1]))
        await world.until(message_ids[-1], State.SENT, State.UNKNOWN, within=30)
    await doomed.until_killed()
    states = {
        (await world.until(message_id, State.SENT, State.UNKNOWN, within=30)).state
        for message_id in message_ids
    }

    assert State.SENT in states
    assert max(world.copies(to) for to in addresses) == 1
