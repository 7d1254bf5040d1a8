"""A token is revoked while a request of its is under way."""

import asyncio

from tests.scenarios.client import build_body, create_client, start_api
from tests.scenarios.world import World


async def test_the_commit_looks_again(world: World) -> None:
    """F-IN-14: authenticated, revoked, committed: in this order it is a 401, nothing stored."""
    async with create_client(world) as client:
        api, url = await start_api(world, stop_before="add")
        posting = asyncio.create_task(client.post(url, build_body(world.address()), key="k1"))
        await api.until_stopped()
        await world.cli("tokens", "revoke", "shop", "--yes")
        api.resume()
        answer = await posting

    assert answer.status_code == 401, answer.text
    assert await world.all_messages() == []
