"""The next hop has the dot, and says nothing that decides."""

import pytest

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.scenarios.conftest import Create


@pytest.mark.parametrize("does", ["silent", "drop", "garbage"])
@pytest.mark.parametrize(("is_accepted", "copies"), [("", 0), ("-accepted", 1)])
async def test_it_is_unknown_whatever_the_truth_is(
    create: Create, does: str, is_accepted: str, copies: int
) -> None:
    """Nobody can tell the two apart: both are unknown, and neither is sent again by itself."""
    world = await create(providers__relay__final_reply="500ms")
    to = world.address(f"{does}-after-dot{is_accepted}")
    message_id = await world.submit(to)
    await world.start_consumer()

    await world.until(message_id, State.UNKNOWN)
    await world.let_others_pass()

    assert await world.causes(message_id) == ["accepted", "marked", "unanswered"]
    assert world.copies(to) == copies
    (unknown,) = await world.app.store.list_unknown(now_ms=world.app.clock.now_ms())
    assert (unknown.message_id, unknown.resend_at_ms) == (message_id, None)


async def test_an_operator_says_that_it_went_out(create: Create) -> None:
    """Nothing is sent; who said so and why is kept."""
    world = await create(providers__relay__final_reply="300ms")
    to = world.address("silent-after-dot-accepted")
    message_id = await world.submit(to)
    await world.start_consumer()
    await world.until(message_id, State.UNKNOWN)

    await world.order(Verb.RESOLVE, message_id, outcome="sent", reason="seen in their log")
    await world.let_others_pass()

    assert (await world.load(message_id)).state is State.SENT
    audit = [e for e in await world.events(message_id) if e.type == "operator.resolve"]
    assert [(e.data["actor"], e.data["reason"]) for e in audit] == [
        ("operator", "seen in their log")
    ]
    assert world.copies(to) == 1
