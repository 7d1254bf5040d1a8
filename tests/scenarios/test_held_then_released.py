"""An operator holds a message and lets it go."""

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.scenarios.world import World


async def test_it_waits_for_its_release(world: World) -> None:
    """Everything else goes on."""
    to = world.address()
    message_id = await world.submit(to)
    await world.order(Verb.HOLD, message_id, reason="is that text right?")
    await world.start_consumer()
    await world.let_others_pass()
    assert (await world.load(message_id)).state is State.HELD
    assert world.copies(to) == 0

    await world.order(Verb.RELEASE, message_id)

    await world.until(message_id, State.SENT)
    causes = ["accepted", "held", "released", "marked", "handed_over"]
    assert await world.causes(message_id) == causes
    assert world.copies(to) == 1


async def test_it_expires_while_it_is_held(world: World) -> None:
    """Nobody released it in time."""
    message_id = await world.submit(world.address(), expires_in="2s")
    await world.order(Verb.HOLD, message_id)
    await world.start_consumer()

    view = await world.until(message_id, State.FAILED)

    assert view.recipients[0].reason == "expired"


async def test_it_is_cancelled(world: World) -> None:
    """Withdrawn before hand-over: never sent."""
    to = world.address()
    message_id = await world.submit(to)
    await world.order(Verb.CANCEL, message_id)
    await world.start_consumer()
    await world.let_others_pass()

    assert (await world.load(message_id)).state is State.CANCELLED
    assert world.copies(to) == 0
