"""The consumer is told again and again."""

import asyncio

from emailerctl.models.lifecycle import State
from tests.scenarios.brokers import Broker
from tests.scenarios.conftest import Create


async def test_nothing_goes_out_twice(create: Create, broker: Broker) -> None:
    """F-BR-02: tickets before, between and after the messages, and for nothing at all."""
    world = await create(**broker.settings)
    for _ in range(2):
        await world.start_consumer()
    addresses = [world.address() for _ in range(50)]

    async def submit(to: str) -> int:
        broker.repeat(world, ())
        message_id = await world.submit(to)
        broker.repeat(world, [message_id])
        return message_id

    message_ids = await asyncio.gather(*map(submit, addresses))
    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=40)
        broker.repeat(world, [message_id])
    await world.let_others_pass()

    assert [world.copies(to) for to in addresses] == [1] * len(addresses)
