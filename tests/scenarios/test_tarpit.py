"""A next hop that takes for ever."""

from collections.abc import Callable

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.smtpd.fixture import SmtpServer


async def test_it_does_not_starve_another_next_hop(
    create: Create, relay: SmtpServer, start_smtpd: Callable[..., SmtpServer]
) -> None:
    """F-CO-06: it fills its own room and no other's."""
    tarpit = start_smtpd("--no-banner")
    world = await create(hops={"relay": relay, "tarpit": tarpit})
    await world.start_consumer()
    stuck = [await world.submit(world.address(), provider="tarpit") for _ in range(60)]
    quick = [await world.submit(world.address()) for _ in range(20)]

    for message_id in quick:
        await world.until(message_id, State.SENT, within=20)

    assert {(await world.load(message_id)).state for message_id in stuck} == {State.QUEUED}


async def test_a_slow_recipient_domain_does_not_starve_the_others(create: Create) -> None:
    """F-CO-06: neither the connections of its next hop nor the room before them are all its."""
    world = await create(consumer__concurrency=4)
    stuck = [await world.submit(f"tarpit-55+{n}@slow.example") for n in range(60)]
    await world.start_consumer()
    quick = [await world.submit(world.address()) for _ in range(20)]

    for message_id in quick:
        await world.until(message_id, State.SENT, within=20)

    waiting = [(await world.load(message_id)).recipients[0] for message_id in stuck]
    assert {recipient.state for recipient in waiting} == {State.QUEUED}
    assert "next_hop" in {recipient.waiting_for for recipient in waiting}


async def test_it_does_not_starve_others_after_a_crash_either(
    create: Create, relay: SmtpServer, start_smtpd: Callable[..., SmtpServer]
) -> None:
    """F-CO-06, F-CL-07: what lost its lease is tried alone, but not for ever."""
    tarpit = start_smtpd("--no-banner")
    world = await create(hops={"relay": relay, "tarpit": tarpit})
    stuck = [await world.submit(world.address(), provider="tarpit") for _ in range(4)]
    lost = [await world.submit(world.address()) for _ in range(4)]
    doomed = await world.start_consumer(kill_before="mark")
    await doomed.until_killed()

    await world.start_consumer()
    fresh = [await world.submit(world.address()) for _ in range(20)]

    for message_id in fresh:
        await world.until(message_id, State.SENT, within=20)
    for message_id in lost:
        await world.until(message_id, State.SENT, within=30)
    assert {(await world.load(message_id)).state for message_id in stuck} == {State.QUEUED}


async def test_every_step_has_a_deadline(
    create: Create, start_smtpd: Callable[..., SmtpServer]
) -> None:
    """F-CO-06: and what ends before the dot was definitely not accepted."""
    tarpit = start_smtpd("--no-banner")
    world = await create(
        hops={"relay": tarpit},
        providers__relay__greeting_timeout="300ms",
        retry__schedule=["1h"],
    )
    message_id = await world.submit(world.address())
    await world.start_consumer()

    await world.until_cause(message_id, "deferred")

    view = await world.load(message_id)
    assert (view.state, view.recipients[0].waiting_for) == (State.QUEUED, "retry")
    assert [(a.outcome, a.phase) for a in view.attempts] == [("transient", "connect")]
