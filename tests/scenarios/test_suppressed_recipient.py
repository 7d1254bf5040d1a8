"""An address that we must not send to."""

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_it_fails_at_acceptance_and_the_others_are_sent(world: World) -> None:
    """The sender is told at once."""
    unwanted, wanted = world.address(), world.address()
    await world.suppress(unwanted)

    receipt = await world.accept(unwanted, wanted)
    await world.start_consumer()
    view = await world.until(receipt.message_id, State.FAILED)

    assert [notice.code for notice in receipt.warnings] == ["suppressed"]
    assert [(r.state, r.reason) for r in receipt.recipients] == [
        (State.FAILED, "suppressed"),
        (State.QUEUED, None),
    ]
    assert [r.state for r in view.recipients] == [State.FAILED, State.SENT]
    assert (world.copies(unwanted), world.copies(wanted)) == (0, 1)


async def test_one_that_was_suppressed_while_it_waited_is_not_sent_to(world: World) -> None:
    """The list is read again at the mark."""
    to = world.address()
    message_id = await world.submit(to)
    await world.suppress(to)

    await world.start_consumer()
    view = await world.until(message_id, State.FAILED)

    assert view.recipients[0].reason == "suppressed"
    assert world.copies(to) == 0
