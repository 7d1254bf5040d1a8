"""Another process holds the store's write lock."""

import pytest

from emailerctl.errors import StoreBusy
from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create


async def test_a_request_is_refused_and_not_stored(create: Create) -> None:
    """F-IN-07: with a time to come back; the same key works later."""
    world = await create(store__busy_timeout="100ms")
    to = world.address()
    with world.hold_write_lock():
        with pytest.raises(StoreBusy) as refused:
            await world.submit(to, key="k1")
        assert refused.value.status == 503
        assert refused.value.retry_after_s
    assert await world.all_messages() == []

    receipt = await world.accept(to, key="k1")

    assert not receipt.is_replay
    await world.start_consumer()
    await world.until(receipt.message_id, State.SENT)
    assert world.copies(to) == 1


async def test_a_short_wait_is_nobodys_business(create: Create) -> None:
    """The lock is free again before anybody notices: no refusal, no doubt."""
    world = await create(store__busy_timeout="5s", lease__duration="2s")
    consumer = await world.start_consumer()
    to = world.address()
    message_id = await world.submit(to)
    with world.hold_write_lock():
        await world.pass_time(700)

    await world.until(message_id, State.SENT)
    assert world.copies(to) == 1
    assert consumer.process.poll() is None
