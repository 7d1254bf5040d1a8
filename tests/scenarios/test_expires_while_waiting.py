"""Nobody takes it before its sender loses interest."""

from collections.abc import Callable

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer


async def test_it_fails_at_its_expiry_not_at_the_next_retry(create: Create) -> None:
    """The schedule says in an hour; the sender gives two seconds."""
    world = await create(retry__schedule=["1h"])
    to = world.address("rcpt-451")
    message_id = await world.submit(to, expires_in="2s")
    await world.start_consumer()

    view = await world.until(message_id, State.FAILED)

    assert view.recipients[0].reason == "expired"
    assert await world.causes(message_id) == ["accepted", "deferred", "abandoned"]
    assert world.copies(to) == 0


async def test_it_fails_when_no_consumer_was_there(world: World) -> None:
    """Too late is too late, also for who comes late."""
    to = world.address()
    message_id = await world.submit(to, expires_in="1s")
    await world.pass_time(1_100)

    await world.start_consumer()
    view = await world.until(message_id, State.FAILED)

    assert (view.recipients[0].reason, view.attempts) == ("expired", ())
    assert world.copies(to) == 0


async def test_it_is_exhausted_at_max_age(
    create: Create, start_smtpd: Callable[..., SmtpServer]
) -> None:
    """There is no limit of attempts, but of age."""
    world = await create(hops={"relay": start_smtpd("--refuse")}, retry__max_age="1s")
    message_id = await world.submit(world.address())
    await world.start_consumer()

    view = await world.until(message_id, State.FAILED)

    assert view.recipients[0].reason == "exhausted"
    assert {attempt.outcome for attempt in view.attempts} == {"transient"}
