"""We gave up, the operator does not."""

from collections.abc import Callable

import pytest

from emailerctl.errors import Conflict
from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.scenarios.conftest import Create
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer


async def test_what_was_exhausted_goes_out(
    create: Create, start_smtpd: Callable[..., SmtpServer]
) -> None:
    """The relay was down for longer than `max_age`; schedule and age start afresh."""
    relay = start_smtpd()
    world = await create(
        hops={"relay": relay}, retry__max_age="1s", providers__relay__breaker_pause="1s"
    )
    relay.kill()
    to = world.address()
    message_id = await world.submit(to)
    await world.start_consumer()
    view = await world.until(message_id, State.FAILED)
    assert view.recipients[0].reason == "exhausted"
    relay.restart()

    await world.order(Verb.RETRY, message_id, reason="the relay is back")

    await world.until(message_id, State.SENT)
    assert world.copies(to) == 1
    assert (await world.causes(message_id))[-2:] == ["marked", "handed_over"]


async def test_what_bounced_is_asked_again(world: World) -> None:
    """The receiving side may have made the mailbox meanwhile; here it has not."""
    message_id = await world.submit(world.address("permfail"))
    await world.start_consumer()
    await world.until(message_id, State.BOUNCED)

    await world.order(Verb.RETRY, message_id)

    await world.until(message_id, State.BOUNCED)
    assert await world.causes(message_id) == ["accepted", "refused", "retried", "refused"]


async def test_what_waits_goes_out_now(create: Create) -> None:
    """The schedule says in an hour."""
    world = await create(retry__schedule=["1h"])
    to = world.address("tempfail-once")
    message_id = await world.submit(to)
    await world.start_consumer()
    await world.until_cause(message_id, "deferred")

    await world.order(Verb.RETRY, message_id)

    await world.until(message_id, State.SENT)
    assert world.copies(to) == 1


async def test_what_went_out_or_may_have_is_refused(create: Create) -> None:
    """A retry makes no second copy: the answer names what does."""
    world = await create(providers__relay__final_reply="300ms")
    sent_id = await world.submit(world.address())
    doubted_id = await world.submit(world.address("silent-after-dot"))
    await world.start_consumer()
    await world.until(sent_id, State.SENT)
    await world.until(doubted_id, State.UNKNOWN)

    for message_id, cure in ((sent_id, "send --like"), (doubted_id, "unknown resend")):
        with pytest.raises(Conflict) as refused:
            await world.order(Verb.RETRY, message_id)
        assert cure in refused.value.cure
