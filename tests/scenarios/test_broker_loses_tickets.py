"""Nobody tells the consumer that there is something to do."""

from emailerctl.models.lifecycle import State
from tests.scenarios.brokers import Broker
from tests.scenarios.conftest import Create

LATENCY_MS = 5_000


async def test_it_finds_what_is_due_by_itself(create: Create, broker: Broker) -> None:
    """F-BR-01: a lost bell costs at most five seconds, and no message."""
    # The longest poll that the settings allow.
    world = await create(consumer__poll="5s", **broker.settings)
    await world.start_consumer()
    await world.let_others_pass()
    broker.lose(world)

    message_ids = [await world.submit(world.address()) for _ in range(20)]

    for message_id in message_ids:
        view = await world.until(message_id, State.SENT, within=40)
        took_ms = view.attempts[0].started_ms - view.created_ms
        assert took_ms <= LATENCY_MS + 10_000  # and what a busy machine adds


async def test_it_finds_what_falls_due_while_nobody_rings(
    create: Create, broker: Broker
) -> None:
    """F-BR-01: a moment that the store knows needs no bell."""
    world = await create(consumer__poll="5s", retry__schedule=["1s"], **broker.settings)
    await world.start_consumer()
    message_id = await world.submit(world.address("tempfail-once"))

    view = await world.until(message_id, State.SENT)

    first, second = view.attempts
    waited_ms = second.started_ms - (first.ended_ms or 0)
    assert 1_000 <= waited_ms < LATENCY_MS - 1_000
