"""The same key arrives with other requests, at once, at several processes."""

import asyncio

from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.world import World


async def test_one_is_accepted_and_the_others_are_told_why(world: World) -> None:
    """F-IN-12: 422, naming the fields that differ."""
    async with create_client(world) as client:
        urls = [(await start_api(world))[1] for _ in range(2)]
        answers = await asyncio.gather(
            *(
                client.post(
                    urls[n % 2],
                    build_body(world.address(), subject=f"number {n}"),
                    key="k1",
                )
                for n in range(20)
            )
        )

    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 422]
    assert (len(accepted), len(refused)) == (1, 19)
    for answer in refused:
        problem = answer.json()
        assert problem["code"] == "idempotency_key_reused"
        assert {e["pointer"] for e in problem["errors"]} == {"/subject", "/to"}
    (stored,) = await world.all_messages()
    assert stored.message_id == find_id(accepted[0])
