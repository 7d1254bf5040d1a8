"""A next hop takes so many messages in a time, and no more."""

import asyncio
import json

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.scenarios.world import World


async def submit_many(world: World, addresses: list[str]) -> list[int]:
    return list(await asyncio.gather(*(world.submit(to) for to in addresses)))


def find_moments(world: World, addresses: list[str]) -> list[float]:
    """Return when the relay took each of them, in order."""
    wanted = set(addresses)
    return sorted(copy["at"] for copy in world.relay.journal() if copy["recipient"] in wanted)


async def test_two_consumers_together_keep_the_rate(create: Create) -> None:
    """A burst of half a second's worth at the most, and no attempt is charged for waiting."""
    world = await create(providers__relay__rate="20/s")
    addresses = [world.address() for _ in range(80)]
    message_ids = await submit_many(world, addresses)
    consumers = [await world.start_consumer() for _ in range(2)]

    views = [await world.until(message_id, State.SENT, within=30) for message_id in message_ids]

    moments = find_moments(world, addresses)
    for start in range(len(moments)):
        for end in range(start, len(moments)):
            took = moments[end] - moments[start]
            assert end - start + 1 <= 20 * (took + 0.1) + 10 + 2, (start, end, took)
    assert moments[-1] - moments[0] < 12
    assert {len(view.attempts) for view in views} == {1}
    shares = [len(consumer.lines("recipient.handed_over")) for consumer in consumers]
    assert min(shares) > 0, shares
    listed = json.loads(await world.cli("providers", "list", "-o", "json"))["data"]
    rate = next(one["rate"] for one in listed if one["name"] == "relay")
    assert rate["limit"] == "20/s"
    assert rate["used_in_a_minute"] >= 40


async def test_a_domains_rate_holds_up_that_domain_and_no_other(create: Create) -> None:
    """F-CO-06: what is over it waits, in order, where it is in nobody's way."""
    world = await create(
        consumer__concurrency=2, providers__relay__domain_rates={"slow.example": "4/s"}
    )
    bulk = [f"ok+{n}@slow.example" for n in range(60)]
    await submit_many(world, bulk)
    others = [world.address() for _ in range(20)]
    quick = await submit_many(world, others)
    await world.start_consumer()

    for message_id in quick:
        await world.until(message_id, State.SENT, within=20)

    gone = find_moments(world, bulk)
    took = find_moments(world, others)[-1] - min(gone, default=0.0)
    assert len(gone) <= 4 * max(took, 0) + 4 + 10
    assert len(gone) < 60
