"""The consumer dies before the point of no return."""

import pytest

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create


@pytest.mark.parametrize("fate", ["kill_after_claim", "kill_before_mark"])
async def test_it_is_due_again_at_once(create: Create, fate: str) -> None:
    """F-CO-01: nothing had left, so there is no doubt, and no attempt is charged."""
    world = await create(lease__duration="60s")
    moment, _, verb = fate.rpartition("_")
    to = world.address()
    message_id = await world.submit(to)
    doomed = await world.start_consumer(**{moment: verb})
    await doomed.until_killed()
    died_ms = world.app.clock.boot_ms()

    await world.start_consumer()
    view = await world.until(message_id, State.SENT)

    # Not after the lease: the dead one's lock file is free.
    assert world.app.clock.boot_ms() - died_ms < world.lease_ms
    assert await world.causes(message_id) == ["accepted", "marked", "handed_over"]
    assert [attempt.n for attempt in view.attempts] == [1]
    assert world.copies(to) == 1
