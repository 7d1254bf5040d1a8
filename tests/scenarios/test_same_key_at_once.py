"""The same request with the same key arrives many times at once, at several processes."""

import asyncio

from emailerctl.models.lifecycle import State
from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.world import World


async def test_there_is_one_message_and_all_hear_of_it(world: World) -> None:
    """F-IN-11: a twin waits for the commit, and gets the same id."""
    to = world.address()
    async with create_client(world) as client:
        urls = [(await start_api(world))[1] for _ in range(2)]
        answers = await asyncio.gather(
            *(client.post(urls[n % 2], build_body(to), key="k1") for n in range(40))
        )

    (message_id,) = {find_id(answer) for answer in answers}
    new = [answer for answer in answers if "Idempotent-Replayed" not in answer.headers]
    assert len(new) == 1
    await world.start_consumer()
    await world.until(message_id, State.SENT)
    assert len(await world.all_messages()) == 1
    assert world.copies(to) == 1
