"""A consumer stands still after the dot until its lease has ended; then it reads the reply."""

import pytest

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create


@pytest.mark.parametrize(
    ("does", "state", "testimony"),
    [
        ("late-2", State.SENT, "resolved_sent"),
        ("late-2-550", State.BOUNCED, "refused"),
    ],
)
async def test_the_late_reply_testifies(
    create: Create, does: str, state: State, testimony: str
) -> None:
    """F-CL-04: the row is unknown until the answer is read, however late."""
    world = await create(providers__relay__final_reply="2s", lease__duration="1s")
    to = world.address(does)
    message_id = await world.submit(to)
    late = await world.start_consumer()
    await world.until_cause(message_id, "marked")
    await world.until_dot(to)
    await late.stop()

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    await world.until_replied(to, ".0.0 late")
    late.resume()

    view = await world.until(message_id, state)
    assert await world.causes(message_id) == ["accepted", "marked", "interrupted", testimony]
    assert [(attempt.n, attempt.ended_ms is None) for attempt in view.attempts] == [(1, False)]
    assert world.copies(to) == (1 if state is State.SENT else 0)


async def test_a_late_refusal_for_now_queues_it_again(create: Create) -> None:
    """F-CL-04: a late 4yz about the newest attempt proves that it did not go out."""
    world = await create(
        providers__relay__final_reply="2s", lease__duration="1s", retry__schedule=["1h"]
    )
    to = world.address("late-2-450")
    message_id = await world.submit(to)
    late = await world.start_consumer()
    await world.until_dot(to)
    await late.stop()

    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)
    late.resume()

    view = await world.until(message_id, State.QUEUED)
    assert view.recipients[0].waiting_for == "retry"
    causes = ["accepted", "marked", "interrupted", "resolved_not_sent"]
    assert await world.causes(message_id) == causes
