"""Moments and durations: text at the edges, milliseconds inside."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.clock import (
    SystemClock,
    boot_id,
    duration_to_text,
    parse_duration,
    parse_moment,
    to_ms,
    to_text,
)

MOMENTS = st.integers(0, 253_402_300_799_999)  # to the end of the year 9999


def test_a_moment_is_rfc_3339_in_utc_with_milliseconds() -> None:
    assert to_text(1_795_514_400_000) == "2026-11-24T10:00:00.000Z"
    assert to_text(1_795_514_400_007) == "2026-11-24T10:00:00.007Z"
    assert to_text(0) == "1970-01-01T00:00:00.000Z"


@given(MOMENTS)
def test_a_moment_is_read_back(moment_ms: int) -> None:
    assert parse_moment(to_text(moment_ms)) == moment_ms


@given(st.integers(-1439, 1439))
def test_the_offset_of_a_moment_counts(minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    text = datetime(2026, 11, 24, 10, tzinfo=UTC).astimezone(zone).isoformat()

    assert parse_moment(text) == 1_795_514_400_000


@pytest.mark.parametrize("text", ["2026-11-24T10:00:00", "2026-11-24", "soon", "", "10:00Z"])
def test_a_moment_without_offset_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_moment(text)


def test_the_missing_offset_is_named_with_its_cure() -> None:
    with pytest.raises(ValueError, match="no offset; write for example 2026-11-24T10:00:00Z"):
        parse_moment("2026-11-24T10:00:00")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("0s", timedelta()),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "5", "m", "5 m", "-5m", "5M", "1.5h", "1h30m", "\u0665m", "5m\n", "9" * 14 + "s"],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


def test_a_duration_has_an_end() -> None:
    assert parse_duration("36500d") == timedelta(days=36_500)
    with pytest.raises(ValueError, match="a hundred years"):
        parse_duration("36501d")


@given(st.integers(0, 36_500 * 86_400_000))
def test_a_duration_is_written_as_it_is_read(duration_ms: int) -> None:
    duration = timedelta(milliseconds=duration_ms)

    assert parse_duration(duration_to_text(duration)) == duration
    assert to_ms(duration) == duration_ms


def test_a_duration_is_written_in_its_largest_unit() -> None:
    assert duration_to_text(timedelta(seconds=90)) == "90s"
    assert duration_to_text(timedelta(days=3)) == "3d"
    assert duration_to_text(timedelta()) == "0s"


def test_the_machines_clocks_are_what_they_say() -> None:
    clock = SystemClock()
    before_ms, boot_before_ms = clock.now_ms(), clock.boot_ms()

    assert abs(before_ms - time.time() * 1000) < 10_000
    assert abs(boot_before_ms - time.clock_gettime(time.CLOCK_BOOTTIME) * 1000) < 10_000
    assert clock.boot_ms() >= boot_before_ms


def test_a_boot_has_one_id() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36
