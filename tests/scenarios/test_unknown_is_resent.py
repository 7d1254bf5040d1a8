"""A sender for whom a second copy is better than none: policy `resend`."""

from emailerctl.models.lifecycle import State
from tests.scenarios.conftest import Create


async def test_a_second_copy_goes_out_after_the_wait(create: Create) -> None:
    """After a doubt, never before an answer could have come, and once only."""
    world = await create(providers__relay__final_reply="1s")
    to = world.address()
    message_id = await world.submit(to, on_unknown="resend")
    await (await world.start_consumer(kill_before="settle")).until_killed()
    assert world.copies(to) == 1

    await world.start_consumer()
    await world.until(message_id, State.SENT)

    assert world.copies(to) == 2
    causes = ["accepted", "marked", "interrupted", "resent", "marked", "handed_over"]
    assert await world.causes(message_id) == causes
    at = {event.type: event.at_ms for event in await world.events(message_id)}
    assert at["recipient.resent"] - at["recipient.interrupted"] >= 1_000


async def test_it_ends_at_the_expiry_and_stays_unknown(create: Create) -> None:
    """A quarter of the time that is left, again and again; what expired is said."""
    world = await create(providers__relay__final_reply="400ms")
    to = world.address("drop-after-dot-accepted")
    message_id = await world.submit(to, on_unknown="resend", expires_in="4s")
    await world.start_consumer()

    await world.until_cause(message_id, "expired")
    copies = world.copies(to)
    await world.let_others_pass()

    view = await world.load(message_id)
    assert view.state is State.UNKNOWN
    assert copies >= 2
    assert world.copies(to) == copies == len(view.attempts)
    assert view.expires_ms is not None
    assert max(attempt.started_ms for attempt in view.attempts) < view.expires_ms
