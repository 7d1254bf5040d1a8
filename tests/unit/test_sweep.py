"""The sweep: whose leases are over, and what fell due."""

from typing import Any

import pytest

from emailerctl.core.sweep import Sweep
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.store.base import Verb
from tests.desk import BOOT, FINAL_REPLY_MS, LEASE_MS, MAX_AGE_MS, OPEN_MS, Desk


def build(desk: Desk, *dead: int, **fields: Any) -> Sweep:
    built: dict[str, Any] = {
        "hops": ("relay",),
        "boot_id": BOOT,
        "is_dead": lambda consumer_id: consumer_id in dead,
        "own_id": None,
        "max_age_ms": MAX_AGE_MS,
        "resend_after_ms": FINAL_REPLY_MS,
        "may_expire": lambda: True,
        "clock": desk.clock,
    }
    return Sweep(desk.store, **(built | fields))


async def begin(desk: Desk, consumer_id: int = 1) -> tuple[int, int]:
    """Return a message that the consumer has claimed, and one that it has marked."""
    await desk.register(consumer_id)
    claimed, marked = await desk.add(), await desk.add()
    await desk.claim(claimed, consumer_id)
    await desk.start(marked, consumer_id=consumer_id)
    return claimed, marked


async def test_a_living_consumer_keeps_everything(desk: Desk) -> None:
    claimed, marked = await begin(desk)

    assert await build(desk).void_leases() == 0
    assert await desk.due(is_idle=True) == ()
    assert await desk.state(marked) is State.SENDING
    assert await desk.state(claimed) is State.QUEUED


async def test_a_dead_one_loses_everything_at_once(desk: Desk) -> None:
    """F-CO-01: its lock file is free, so this costs milliseconds, not a lease."""
    claimed, marked = await begin(desk)

    assert await build(desk, 1).void_leases() == 2

    assert await desk.due(is_idle=True) == (claimed,)
    assert await desk.state(marked) is State.UNKNOWN
    assert await desk.store.list_consumers() == []
    assert await build(desk, 1).void_leases() == 0


async def test_one_of_another_boot_is_dead(desk: Desk) -> None:
    await begin(desk)

    assert await build(desk, boot_id="after-the-power-cut").void_leases() == 2
    assert await desk.store.list_consumers() == []


async def test_one_that_stopped_renewing_loses_what_it_has_not_marked(desk: Desk) -> None:
    claimed, marked = await begin(desk)
    desk.clock.advance(ms=LEASE_MS - 1)
    assert await build(desk).void_leases() == 0
    desk.clock.advance(ms=1)

    assert await build(desk).void_leases() == 1

    assert await desk.due(is_idle=True) == (claimed,)
    assert await desk.state(marked) is State.SENDING
    assert len(await desk.store.list_consumers()) == 1


@pytest.mark.parametrize("own_id", [None, 1])
async def test_a_marked_lease_ends_with_its_own_time_whoever_has_it(
    desk: Desk, own_id: int | None
) -> None:
    """Also our own: an attempt that hangs must not be `sending` for ever."""
    _claimed, marked = await begin(desk)
    desk.clock.advance(ms=OPEN_MS)
    await desk.store.renew(
        1,
        now_ms=desk.clock.now_ms(),
        lease_until_ms=desk.clock.boot_ms() + LEASE_MS,
        in_flight=2,
    )

    assert await build(desk, own_id=own_id).void_leases() == 1
    assert await desk.state(marked) is State.UNKNOWN


async def test_a_consumer_does_not_take_itself_for_dead(desk: Desk) -> None:
    await begin(desk)
    desk.clock.advance(ms=LEASE_MS)

    assert await build(desk, 1, own_id=1, boot_id="whatever").void_leases() == 0


async def test_the_wall_clock_kills_nobody(desk: Desk) -> None:
    """F-CL-01."""
    await begin(desk)
    desk.clock.jump(30 * 86_400_000)

    assert await build(desk).void_leases() == 0


async def test_nothing_to_do_is_no_commit(desk: Desk) -> None:
    await desk.register(1)
    desk.clock.advance(ms=LEASE_MS)
    commits = desk.driver.sizes.commits

    await build(desk).void_leases()
    await build(desk).fire_timers()

    assert desk.driver.sizes.commits == commits


async def test_timers_are_fired(desk: Desk) -> None:
    await desk.register(1)
    message_id = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.deliver(message_id, Cause.UNANSWERED)
    desk.clock.advance(ms=FINAL_REPLY_MS)

    assert await build(desk).fire_timers() == 1
    assert await desk.state(message_id) is State.QUEUED


async def test_nothing_expires_while_the_clock_is_not_believed(desk: Desk) -> None:
    """F-CL-01."""
    message_id = await desk.add(expires_ms=desk.clock.now_ms() + 1_000)
    await desk.order(Verb.HOLD, message_id)
    desk.clock.jump(86_400_000)

    assert await build(desk, may_expire=lambda: False).fire_timers() == 0
    assert await build(desk).fire_timers() == 1


@pytest.mark.parametrize("adopts", [True, False])
async def test_work_of_a_next_hop_that_is_gone_is_adopted_when_asked(
    desk: Desk, adopts: bool
) -> None:
    message_id = await desk.add(next_hop="old")

    assert await build(desk).fire_timers(adopts=adopts) == int(adopts)
    assert await desk.due(**{"": 9}) == ((message_id,) if adopts else ())
