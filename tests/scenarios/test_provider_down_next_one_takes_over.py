"""A chain of two next hops, and something is wrong with the first."""

from collections.abc import Callable

import pytest

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create
from tests.smtpd.fixture import SmtpServer

StartSmtpd = Callable[..., SmtpServer]
CHAIN = ["first", "relay"]


@pytest.mark.parametrize("option", ["--refuse", "--drop-on-connect", "--banner=554 no"])
async def test_the_next_one_takes_it_at_once(
    create: Create, relay: SmtpServer, start_smtpd: StartSmtpd, option: str
) -> None:
    """Definitely not accepted, for the next hop's own reasons: no wait, no schedule."""
    hops = {"first": start_smtpd(option), "relay": relay}
    world = await create(hops=hops, routing__default=CHAIN, retry__schedule=["1h"])
    to = world.address()
    message_id = await world.submit(to)
    await world.start_consumer()

    view = await world.until(message_id, State.SENT)

    assert [(a.provider, a.outcome) for a in view.attempts] == [
        ("first", "transient"),
        ("relay", "accepted"),
    ]
    assert await world.causes(message_id) == ["accepted", "deferred", "marked", "handed_over"]
    assert relay.copies(to) == 1


async def test_an_unknown_is_never_failed_over(
    create: Create, relay: SmtpServer, start_smtpd: StartSmtpd
) -> None:
    """Two next hops share no identity: a second one would make a second copy."""
    first = start_smtpd()
    world = await create(
        hops={"first": first, "relay": relay},
        routing__default=CHAIN,
        providers__first__final_reply="300ms",
    )
    to = world.address("silent-after-dot-accepted")
    message_id = await world.submit(to)
    await world.start_consumer()

    await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()

    assert (first.copies(to), relay.copies(to)) == (1, 0)
    assert await world.causes(message_id) == ["accepted", "marked", "unanswered"]


async def test_a_refused_recipient_is_not_offered_to_the_next_one(
    create: Create, relay: SmtpServer, start_smtpd: StartSmtpd
) -> None:
    """That is about the recipient, not about the next hop."""
    world = await create(hops={"first": start_smtpd(), "relay": relay}, routing__default=CHAIN)
    message_id = await world.submit(world.address("permfail"))
    await world.start_consumer()

    view = await world.until(message_id, State.BOUNCED)

    assert [attempt.provider for attempt in view.attempts] == ["first"]
