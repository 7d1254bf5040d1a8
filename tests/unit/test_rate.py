"""Rates: what is read, what is refused, and how they are written back."""

import pytest

from emailerctl.models.rate import Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "count", "period_ms", "interval_us"),
    [
        ("100/s", 100, 1_000, 10_000),
        ("1000/h", 1000, 3_600_000, 3_600_000),
        ("5/10m", 5, 600_000, 120_000_000),
        ("7/s", 7, 1_000, 142_858),
        ("1/ms", 1, 1, 1_000),
        ("1/1d", 1, 86_400_000, 86_400_000_000),
    ],
)
def test_a_rate_is_read(text: str, count: int, period_ms: int, interval_us: int) -> None:
    rate = parse_rate(text)

    assert (rate, rate.interval_us) == (Rate(count, period_ms), interval_us)
    assert parse_rate(str(rate)) == rate


def test_it_is_written_as_people_write_it() -> None:
    assert [str(parse_rate(t)) for t in ("100/s", "100/1s", "10/5m", "1/60m", "2/15s")] == [
        "100/s",
        "100/s",
        "10/5m",
        "1/h",
        "2/15s",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "100", "/s", "0/s", "-1/s", "1.5/s", "100/", "100/w", "1/0s", "9999999/s", "1 /s"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"100/s|no limit"):
        parse_rate(text)


def test_so_many_fit_into_a_time_and_one_at_least() -> None:
    assert Rate(100, 1_000).count_in(250) == 25
    assert Rate(1, 3_600_000).count_in(1_000) == 1
