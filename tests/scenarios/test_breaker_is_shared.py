"""A next hop stops answering, and several consumers come and go meanwhile."""

import asyncio
from collections.abc import Callable

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Breaker, BreakerState
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer

StartSmtpd = Callable[..., SmtpServer]
QUICK = {
    "providers__first__breaker_pause": "700ms",
    "providers__first__breaker_failures": 3,
    "retry__schedule": ["100ms"],
}


async def find_breaker(world: World, name: str = "first") -> Breaker:
    _hops, found = await world.app.store.load_standing()
    return next((one for one in found if one.name == name), Breaker(name=name))


async def until_breaker(world: World, *states: BreakerState) -> Breaker:
    async def is_there() -> Breaker | None:
        breaker = await find_breaker(world)
        return breaker if breaker.state in states else None

    breaker: Breaker = await eventually(is_there, within=20, saying=world.tell)
    return breaker


async def submit_many(world: World, count: int, **fields: object) -> list[int]:
    return list(
        await asyncio.gather(*(world.submit(world.address(), **fields) for _ in range(count)))
    )


async def find_reopened(world: World) -> bool:
    return (await find_breaker(world)).openings > 1


async def test_two_consumers_share_it(create: Create, start_smtpd: StartSmtpd) -> None:
    """F-CO-07: what one has found out spares the other; one of them probes."""
    first = start_smtpd("--banner=421 try later")
    world = await create(hops={"first": first}, routing__default=["first"], **QUICK)
    await world.start_consumer()
    await world.start_consumer()
    message_ids = await submit_many(world, 200)

    await eventually(lambda: find_reopened(world), within=20, saying=world.tell)

    said = sum("421 try later" in line for line in first.transcript())
    # Each may find out for itself, with all its connections; then one at a time.
    assert said <= 2 * 8 + 2 * (await find_breaker(world)).openings + 3, said
    first.stop()
    world.hops["first"] = start_smtpd(port=first.port)
    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=50)


async def test_it_survives_a_kill_and_a_restart(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07: who starts does not begin by finding out again."""
    first = start_smtpd("--banner=421 try later")
    world = await create(
        hops={"first": first},
        routing__default=["first"],
        **QUICK | {"providers__first__breaker_pause": "10m"},
    )
    consumer = await world.start_consumer()
    await submit_many(world, 3)
    opened = await until_breaker(world, BreakerState.OPEN)
    consumer.kill()
    said = len(first.transcript())

    await world.start_consumer()
    (later,) = await submit_many(world, 1)
    await eventually(
        lambda: is_waiting_for_next_hop(world, later), within=20, saying=world.tell
    )

    assert await find_breaker(world) == opened
    assert len(first.transcript()) == said
    assert (await world.load(later)).attempts == ()
    await world.cli("providers", "enable", "first")
    assert (await find_breaker(world)).version > opened.version
    await eventually(lambda: len(first.transcript()) > said, within=20, saying=world.tell)


async def is_waiting_for_next_hop(world: World, message_id: int) -> bool:
    return (await world.recipient(message_id)).waiting_for == "next_hop"


async def test_a_prober_that_is_killed_leaves_its_place(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07: half-open, and the consumer that probed is gone: another one goes on."""
    first = start_smtpd()
    world = await create(
        hops={"first": first},
        routing__default=["first"],
        **QUICK | {"providers__first__greeting_timeout": "30s"},
    )
    first.stop()
    doomed = await world.start_consumer()
    (message_id,) = await submit_many(world, 1)
    await until_breaker(world, BreakerState.OPEN)
    tarpit = start_smtpd("--no-banner", port=first.port)
    await until_breaker(world, BreakerState.HALF_OPEN)
    doomed.kill()
    tarpit.stop()
    first.restart()

    await world.start_consumer()

    await world.until(message_id, State.SENT, within=40)


async def test_it_is_probed_with_what_would_bear_a_second_copy(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07: policy `resend` first."""
    first = start_smtpd()
    world = await create(
        hops={"first": first},
        routing__default=["first"],
        **QUICK | {"providers__first__breaker_pause": "3s"},
    )
    first.stop()
    await world.start_consumer()
    message_ids = await submit_many(world, 3)
    await until_breaker(world, BreakerState.OPEN)
    message_ids += await submit_many(world, 20)
    to = world.address()
    message_ids.append(await world.submit(to, on_unknown="resend"))

    async def is_waiting() -> bool:
        return all([await is_waiting_for_next_hop(world, id_) for id_ in message_ids])

    await eventually(is_waiting, within=20, saying=world.tell)
    first.restart()
    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=40)

    assert first.journal()[0]["recipient"] == to
