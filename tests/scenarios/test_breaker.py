"""A next hop that is down for a while: it is left alone, and tried again with a few."""

from collections.abc import Callable

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Breaker, BreakerState
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer

StartSmtpd = Callable[..., SmtpServer]


async def find_breaker(world: World, name: str) -> Breaker:
    _hops, found = await world.app.store.load_standing()
    return next((one for one in found if one.name == name), Breaker(name=name))


async def until_breaker(world: World, name: str, *states: BreakerState) -> Breaker:
    """Wait until the breaker of *name* is in one of *states*."""

    async def is_so() -> Breaker | None:
        breaker = await find_breaker(world, name)
        return breaker if breaker.state in states else None

    found: Breaker = await eventually(is_so, within=20, saying=world.tell)
    return found


async def test_the_chain_goes_on_and_comes_back(
    create: Create, relay: SmtpServer, start_smtpd: StartSmtpd
) -> None:
    """An open breaker costs no attempt; once it is closed mail goes the first way again."""
    first = start_smtpd()
    first.stop()
    world = await create(
        hops={"first": first, "relay": relay},
        routing__default=["first", "relay"],
        providers__first__breaker_failures=3,
        providers__first__breaker_pause="1s",
    )
    consumer = await world.start_consumer()
    several = [await world.submit(world.address()) for _ in range(40)]
    for message_id in several:
        await world.until(message_id, State.SENT)

    breaker = await find_breaker(world, "first")
    assert breaker.version > 0
    assert breaker.reason
    assert consumer.lines("next_hop.breaker")
    views = [await world.load(message_id) for message_id in several]
    tried = sum(attempt.provider == "first" for view in views for attempt in view.attempts)
    assert 3 <= tried < 40, "an open breaker passes the rest on without an attempt"

    first.restart()

    async def is_closed() -> bool:
        await world.until(await world.submit(world.address()), State.SENT)
        return (await find_breaker(world, "first")).state is BreakerState.CLOSED

    await eventually(is_closed, within=20, saying=world.tell)
    await world.until(await world.submit(last := world.address()), State.SENT)
    assert first.copies(last) == 1


async def test_an_outage_of_the_only_next_hop_costs_no_attempt(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07: what is due meanwhile waits for it, whoever dies; then all goes out, once."""
    only = start_smtpd()
    only.stop()
    world = await create(
        hops={"relay": only},
        providers__relay__breaker_failures=3,
        providers__relay__breaker_pause="2s",
        retry__schedule=["1s"],
    )
    doomed = await world.start_consumer()
    several = [await world.submit(world.address()) for _ in range(60)]
    await until_breaker(world, "relay", BreakerState.OPEN)
    doomed.kill()
    second, third = await world.start_consumer(), await world.start_consumer()
    assert second.process.pid != third.process.pid

    only.restart()

    for message_id in several:
        view = await world.until(message_id, State.SENT, within=40)
        assert world.copies(view.recipients[0].address) == 1
    await until_breaker(world, "relay", BreakerState.CLOSED)
    views = [await world.load(message_id) for message_id in several]
    failed = sum(attempt.outcome != "accepted" for view in views for attempt in view.attempts)
    assert failed < 60


async def test_refused_recipients_never_open_it(create: Create) -> None:
    """F-CO-08."""
    world = await create(providers__relay__breaker_failures=2)
    await world.start_consumer()
    several = [await world.submit(world.address("permfail")) for _ in range(20)]
    several += [await world.submit(world.address("dot-554")) for _ in range(10)]

    for message_id in several:
        await world.until(message_id, State.BOUNCED, State.FAILED)

    assert (await find_breaker(world, "relay")).version == 0


async def test_a_rate_is_kept_by_two_consumers(create: Create) -> None:
    world = await create(providers__relay__rate="20/s")
    for _ in range(2):
        await world.start_consumer()
    several = [await world.submit(world.address()) for _ in range(60)]

    for message_id in several:
        await world.until(message_id, State.SENT, within=30)

    handed_over = sorted(
        event.at_ms for event in await world.events() if event.type == "recipient.handed_over"
    )
    assert handed_over[-1] - handed_over[0] >= 2_500


async def test_a_domain_that_may_have_little_holds_up_nobody_else(create: Create) -> None:
    world = await create(providers__relay__domain_rates={"slow.example": "1/s"})
    slow = [await world.submit(f"ok+{n}@slow.example") for n in range(30)]
    await world.start_consumer()
    quick = [await world.submit(world.address()) for _ in range(30)]

    for message_id in quick:
        await world.until(message_id, State.SENT, within=10)

    waiting = [await world.load(message_id) for message_id in slow]
    waiting = [view for view in waiting if view.state is State.QUEUED]
    assert len(waiting) >= 15
    assert [view.attempts for view in waiting] == [()] * len(waiting)
