"""A next hop stops answering, and comes back: the breaker opens, probes and closes."""

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


async def count_attempts(world: World, message_ids: list[int]) -> int:
    return sum([len((await world.load(id_)).attempts) for id_ in message_ids])


async def find_changes(world: World) -> list[object]:
    return [e.data["breaker"] for e in await world.events() if "breaker" in e.data]


async def test_the_next_of_the_chain_takes_over_at_no_attempts(
    create: Create, relay: SmtpServer, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07, delivery.md §3: what is open is passed by at once; back, it is used again."""
    first = start_smtpd()
    world = await create(
        hops={"first": first, "relay": relay}, routing__default=["first", "relay"], **QUICK
    )
    first.stop()
    await world.start_consumer()
    before = await submit_many(world, 10)
    for message_id in before:
        await world.until(message_id, State.SENT)
    await until_breaker(world, BreakerState.OPEN, BreakerState.HALF_OPEN)
    tried = await count_attempts(world, before)
    assert tried < 20, "each of them found out for itself"

    first.restart()
    while (await find_breaker(world)).state is not BreakerState.CLOSED:
        (message_id,) = await submit_many(world, 1)
        await world.until(message_id, State.SENT)

    (after,) = await submit_many(world, 1)
    view = await world.until(after, State.SENT)
    assert [attempt.provider for attempt in view.attempts] == ["first"]
    assert await find_changes(world) == ["open", "closed"]


async def test_messages_wait_for_a_chain_that_is_shut_and_go_when_it_is_back(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07: an open breaker costs them no attempt, and nobody is forgotten."""
    first = start_smtpd()
    world = await create(hops={"first": first}, routing__default=["first"], **QUICK)
    first.stop()
    await world.start_consumer()
    message_ids = await submit_many(world, 5)
    await until_breaker(world, BreakerState.OPEN)
    message_ids += await submit_many(world, 60)

    async def is_waiting() -> bool:
        recipients = [await world.recipient(message_id) for message_id in message_ids]
        return {recipient.waiting_for for recipient in recipients} == {"next_hop"}

    await eventually(is_waiting, within=20, saying=world.tell)
    await eventually(lambda: find_reopened(world), within=20, saying=world.tell)
    tried = await count_attempts(world, message_ids)
    assert tried < 30, f"{tried} attempts for an outage"

    first.restart()
    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=40)

    assert (await until_breaker(world, BreakerState.CLOSED)).reason == ""
    assert await find_changes(world) == ["open", "closed"]


async def find_reopened(world: World) -> bool:
    return (await find_breaker(world)).openings > 1


async def test_refused_recipients_never_open_it(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-08: thirty mailboxes that do not exist say nothing about the next hop."""
    world = await create(hops={"first": start_smtpd()}, routing__default=["first"], **QUICK)
    refused = [await world.submit(world.address("permfail")) for _ in range(30)]
    refused += [await world.submit(world.address("dot-554")) for _ in range(10)]
    await world.start_consumer()
    for message_id in refused:
        await world.until(message_id, State.BOUNCED)

    assert await world.app.store.load_standing() == ([], [])


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
