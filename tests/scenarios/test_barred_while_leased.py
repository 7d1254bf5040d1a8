"""Something speaks against a message while a consumer already works on it."""

import pytest

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.scenarios.conftest import Create


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.CANCEL, State.CANCELLED), (Verb.HOLD, State.HELD)]
)
async def test_an_order_is_seen_at_the_mark(create: Create, verb: Verb, state: State) -> None:
    """F-CO-10: closed without the dot, and no attempt is charged."""
    world = await create(lease__duration="60s")
    to = world.address()
    message_id = await world.submit(to)
    consumer = await world.start_consumer(stop_before="mark")
    await consumer.until_stopped()

    await world.order(verb, message_id)
    consumer.resume()
    await world.until_lost_without_dot(to)
    await world.let_others_pass()

    view = await world.load(message_id)
    assert (view.state, view.attempts) == (state, ())
    assert world.copies(to) == 0


async def test_a_suppression_is_seen_at_the_mark(create: Create) -> None:
    """F-CO-10: nobody is marked, the suppressed one is given up, the other goes out."""
    world = await create(lease__duration="60s")
    unwanted, wanted = world.address(), world.address()
    message_id = await world.submit(unwanted, wanted)
    consumer = await world.start_consumer(stop_before="mark")
    await consumer.until_stopped()

    await world.suppress(unwanted)
    consumer.resume()

    view = await world.until(message_id, State.FAILED)
    assert [r.state for r in view.recipients] == [State.FAILED, State.SENT]
    assert view.recipients[0].reason == "suppressed"
    assert [attempt.n for attempt in view.attempts] == [1]
    assert (world.copies(unwanted), world.copies(wanted)) == (0, 1)


async def test_an_expiry_is_seen_at_the_mark(create: Create) -> None:
    """F-CO-10: the server takes its time, and nothing goes out after `expires_at`."""
    world = await create(lease__duration="60s")
    await world.start_consumer()
    to = world.address("tarpit-3")
    message_id = await world.submit(to, expires_in="2s")
    await world.until_said(f"RCPT TO:<{to}>")

    view = await world.until(message_id, State.FAILED)

    assert (view.recipients[0].reason, view.attempts) == ("expired", ())
    await world.until_lost_without_dot(to)
    assert world.copies(to) == 0
