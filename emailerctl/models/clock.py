"""Time as an argument: moments are integer milliseconds, and text at the edges only.

Wall moments are milliseconds since 1970 UTC (`…_ms`, `…_at` in SQL).  Leases use the boot clock
(`CLOCK_BOOTTIME`: it does not jump and counts suspend), which means something on one boot only.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from emailerctl.models.text import shorten

_UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(?P<number>[0-9]{1,13})(?P<unit>ms|[smhd])")
_LONGEST_MS = 36_500 * 86_400_000


class Clock(Protocol):
    """Where the time comes from; a fake one in tests."""

    def now_ms(self) -> int:
        """Return the wall clock, in milliseconds since 1970 UTC."""
        ...

    def boot_ms(self) -> int:
        """Return the boot clock, in milliseconds since this boot."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Return the wall clock, in milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """Return CLOCK_BOOTTIME, in milliseconds."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> str:
    """Return what is the same for all processes of one boot of one kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def to_text(moment_ms: int) -> str:
    """Return RFC 3339 with milliseconds, in UTC: `2026-11-24T10:00:00.000Z`."""
    return f"{_to_second(moment_ms // 1000)}.{moment_ms % 1000:03d}Z"


@lru_cache(maxsize=64)
def _to_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_moment(text: str) -> int:
    """Read RFC 3339 with an offset into milliseconds since 1970 UTC.

    Raises:
        ValueError: not RFC 3339, or without an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        msg = f"{text!r} has no offset; write for example 2026-11-24T10:00:00Z"
        raise ValueError(msg)
    return to_ms(moment - datetime(1970, 1, 1, tzinfo=UTC))


def to_ms(duration: timedelta) -> int:
    """Return whole milliseconds."""
    return duration // timedelta(milliseconds=1)


def parse_duration(text: str) -> timedelta:
    """Read `500ms`, `30s`, `5m`, `2h` or `3d`: a whole number and one unit.

    Raises:
        ValueError: anything else, or more than a hundred years.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        msg = f"{shorten(text)} is no duration; write for example 500ms, 30s, 5m, 2h or 3d"
        raise ValueError(msg)
    duration_ms = int(match["number"]) * _UNIT_MS[match["unit"]]
    if duration_ms > _LONGEST_MS:
        msg = f"{shorten(text)} is more than a hundred years"
        raise ValueError(msg)
    return timedelta(milliseconds=duration_ms)


def duration_to_text(duration: timedelta) -> str:
    """Return the shortest form that `parse_duration` reads back: `90s`, `3d`."""
    duration_ms = to_ms(duration)
    unit, unit_ms = next(
        (unit, unit_ms) for unit, unit_ms in _UNIT_MS.items() if duration_ms % unit_ms == 0
    )
    return f"{duration_ms // unit_ms}{unit}" if duration_ms else "0s"
