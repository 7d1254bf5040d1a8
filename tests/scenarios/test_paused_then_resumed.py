"""An operator pauses the queue."""

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World


async def test_nothing_leaves_while_it_is_paused(world: World) -> None:
    """Acceptance goes on; a pause needs no restart, and neither does its end."""
    await world.start_consumer()
    await world.let_others_pass()
    await world.cli("queue", "pause", "--yes")
    addresses = [world.address() for _ in range(5)]
    message_ids = [await world.submit(to) for to in addresses]
    await world.pass_time(1_500)  # longer than the poll
    assert {(await world.load(id_)).state for id_ in message_ids} == {State.QUEUED}
    assert sum(world.copies(to) for to in addresses) == 0

    await world.cli("queue", "resume")

    for message_id in message_ids:
        await world.until(message_id, State.SENT)


async def test_what_is_under_way_is_finished(world: World) -> None:
    """A pause stops claims, not attempts."""
    to = world.address("late-1")
    message_id = await world.submit(to)
    await world.start_consumer()
    await world.until_dot(to)

    await world.pause()

    await world.until(message_id, State.SENT)
