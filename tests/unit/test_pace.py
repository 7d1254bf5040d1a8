"""A stretch of a rate's time: where the places are, and which are lost."""

import pytest

from emailerctl.core.pace import Stretch, count_places
from emailerctl.models.rate import Rate

START_US = 1_795_514_400_000_000
TEN_MS = 10_000


def stretch() -> Stretch:
    return Stretch(START_US, START_US + 100 * TEN_MS, TEN_MS)


def drain(one: Stretch, now_us: int) -> int:
    count = 0
    while one.find_wait_us(now_us) == 0:
        one.take(now_us)
        count += 1
    return count


def test_places_come_one_after_the_other() -> None:
    one = stretch()
    gone = [drain(one, START_US + n * TEN_MS) for n in range(100)]

    assert gone == [1] * 100
    assert one.find_wait_us(START_US + 100 * TEN_MS) is None


def test_a_consumer_that_is_slow_uses_its_places_beside_the_others() -> None:
    one = stretch()
    gone = [drain(one, START_US + n * 10 * TEN_MS) for n in range(16)]

    assert gone == [1, *[10] * 9, 9, 0, 0, 0, 0, 0]


def test_it_says_how_long_until_the_next_place() -> None:
    one = stretch()
    assert one.find_wait_us(START_US - 500) == 500
    one.take(START_US)
    assert one.find_wait_us(START_US + 1) == TEN_MS - 1


def test_what_is_not_used_in_half_a_second_is_lost() -> None:
    assert drain(stretch(), START_US + 70 * TEN_MS) == 51
    assert drain(stretch(), START_US + 120 * TEN_MS) == 30
    assert drain(stretch(), START_US + 150 * TEN_MS) == 0


def test_the_place_of_a_slow_rate_holds_until_the_next() -> None:
    hour_us = 3_600_000_000
    one = Stretch(START_US, START_US + hour_us, hour_us)

    assert drain(one, START_US + hour_us - 1) == 1


def test_a_stretch_far_ahead_is_not_believed() -> None:
    """The clock was set back after it was leased."""
    assert stretch().find_wait_us(START_US - 60_000_000) is None
    assert stretch().find_wait_us(START_US - 2_000_000) == 2_000_000


@pytest.mark.parametrize(
    ("rate", "waiting", "places"),
    [
        (Rate(100, 1_000), 1, 10),
        (Rate(100, 1_000), 40, 40),
        (Rate(100, 1_000), 4_000, 100),
        (Rate(1_000, 3_600_000), 4_000, 1),
        (Rate(3, 1_000), 1, 1),
    ],
)
def test_a_tenth_of_a_second_at_least_and_a_second_at_most_is_leased(
    rate: Rate, waiting: int, places: int
) -> None:
    assert count_places(rate, waiting) == places
