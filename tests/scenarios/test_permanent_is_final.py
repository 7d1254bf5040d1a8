"""The next hop says "never"."""

import pytest

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


@pytest.mark.parametrize(
    ("does", "state", "reason", "causes", "is_dead"),
    [
        ("permfail", State.BOUNCED, None, ["accepted", "refused"], True),
        ("data-554", State.FAILED, "rejected", ["accepted", "abandoned"], False),
        ("dot-554", State.BOUNCED, None, ["accepted", "marked", "refused"], False),
    ],
)
async def test_it_is_not_tried_again(
    world: World,
    does: str,
    state: State,
    reason: str | None,
    causes: list[str],
    is_dead: bool,
) -> None:
    """About the recipient: bounced; about the message: given up; one attempt either way.

    Where the reply says that there is no such address, nobody writes there again.
    """
    to = world.address(does)
    message_id = await world.submit(to)
    await world.start_consumer()

    await world.until(message_id, state)
    await world.let_others_pass()

    view = await world.load(message_id)
    assert (view.state, view.recipients[0].reason) == (state, reason)
    assert await world.causes(message_id) == causes
    assert len(view.attempts) == 1
    assert world.copies(to) == 0
    (again,) = (await world.accept(to)).recipients
    expected = (State.FAILED, "suppressed") if is_dead else (State.QUEUED, None)
    assert (again.state, again.reason) == expected
