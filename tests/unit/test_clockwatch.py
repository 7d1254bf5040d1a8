"""F-CL-01: jumps of the wall clock are seen, told once, and followed by a time of calm."""

import pytest

from emailerctl.core.clockwatch import CALM_MS, JUMP_MS, ClockWatch
from tests.fakes import FakeClock

DAY_MS = 86_400_000


@pytest.mark.parametrize("jump_ms", [5 * DAY_MS, -5 * DAY_MS, JUMP_MS + 1, -JUMP_MS - 1])
def test_a_jump_is_told_and_nothing_expires_for_ten_minutes(
    clock: FakeClock, jump_ms: int
) -> None:
    watch = ClockWatch(clock)
    assert watch.may_expire()

    clock.jump(jump_ms)

    assert watch.look() == jump_ms
    assert watch.jumped_ms == jump_ms
    clock.advance(ms=CALM_MS - 1)
    assert not watch.may_expire()
    clock.advance(ms=1)
    assert watch.may_expire()
    assert watch.look() == 0


@pytest.mark.parametrize("jump_ms", [0, 1_000, JUMP_MS, -JUMP_MS])
def test_a_small_correction_is_no_jump(clock: FakeClock, jump_ms: int) -> None:
    watch = ClockWatch(clock)
    clock.jump(jump_ms)

    assert watch.look() == 0
    assert watch.may_expire()


def test_time_that_passes_is_no_jump(clock: FakeClock) -> None:
    watch = ClockWatch(clock)
    clock.advance(h=1000)

    assert watch.look() == 0


def test_small_corrections_do_not_add_up_to_a_jump(clock: FakeClock) -> None:
    watch = ClockWatch(clock)
    for _ in range(100):
        clock.jump(JUMP_MS // 2)
        assert watch.look() == 0


def test_whoever_asks_first_sees_the_jump_and_it_is_told_all_the_same(
    clock: FakeClock,
) -> None:
    """A delivery asks `may_expire` long before the watch looks."""
    watch = ClockWatch(clock)
    clock.jump(DAY_MS)
    assert not watch.may_expire()
    clock.jump(-3 * DAY_MS)
    assert not watch.may_expire()

    assert watch.look() == -2 * DAY_MS
    assert watch.look() == 0


def test_a_second_jump_begins_the_calm_anew(clock: FakeClock) -> None:
    watch = ClockWatch(clock)
    clock.jump(DAY_MS)
    watch.look()
    clock.advance(ms=CALM_MS - 1)
    clock.jump(-DAY_MS)
    watch.look()
    clock.advance(ms=CALM_MS - 1)

    assert not watch.may_expire()


def test_a_new_process_sees_a_jump_since_the_last_one_looked(clock: FakeClock) -> None:
    earlier = ClockWatch(clock)
    clock.jump(DAY_MS)

    watch = ClockWatch(clock, earlier.offset_ms)

    assert watch.look() == DAY_MS
    assert not watch.may_expire()


def test_a_new_process_goes_on_with_the_calm_of_the_last_one(clock: FakeClock) -> None:
    earlier = ClockWatch(clock)
    clock.jump(DAY_MS)
    earlier.look()
    clock.advance(ms=CALM_MS // 2)

    watch = ClockWatch(clock, earlier.offset_ms, calm_until_ms=earlier.calm_until_ms)

    assert not watch.may_expire()
    clock.advance(ms=CALM_MS // 2)
    assert watch.may_expire()
