"""The consumer is told again and again."""

import asyncio

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_nothing_goes_out_twice(world: World) -> None:
    """F-BR-02: bells before, between and after the messages, and for nothing at all."""
    bell = world.app.bell
    for _ in range(2):
        await world.start_consumer()
    addresses = [world.address() for _ in range(50)]

    async def submit(to: str) -> int:
        for _ in range(20):
            bell.ring()
        message_id = await world.submit(to)
        for _ in range(20):
            bell.ring()
        return message_id

    message_ids = await asyncio.gather(*map(submit, addresses))
    for message_id in message_ids:
        await world.until(message_id, State.SENT)
        bell.ring()
    await world.let_others_pass()

    assert [world.copies(to) for to in addresses] == [1] * len(addresses)
