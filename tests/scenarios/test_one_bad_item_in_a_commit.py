"""Many messages share a commit, and some of them must not be stored."""

import asyncio

import httpx

from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.conftest import Create


async def test_the_others_are_accepted(create: Create) -> None:
    """F-IN-04: a savepoint for each; here a token's rate, which only the commit can know."""
    world = await create(store__busy_timeout="20s")
    crowded = world.address()
    bodies = {f"k{n}": build_body(world.address() if n % 3 else crowded) for n in range(30)}
    async with create_client(world, limits={"recipient_rate": "1/1h"}) as client:
        _, url = await start_api(world)
        with world.hold_write_lock():  # what comes meanwhile shares a commit
            posting = asyncio.create_task(client.post_all(url, bodies))
            await world.pass_time(1_000)
        answers = [a for a in (await posting).values() if isinstance(a, httpx.Response)]

    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(accepted), len(refused)) == (21, 9)
    assert {answer.json()["code"] for answer in refused} == {"recipient_rate"}
    stored = {view.message_id for view in await world.all_messages()}
    assert stored == {find_id(answer) for answer in accepted}
