"""A rate: so many messages in so much time."""

import re
from dataclasses import dataclass

from emailerctl.models.clock import duration_to_text, parse_duration, to_ms
from emailerctl.models.text import shorten

_RATE = re.compile(r"(?P<count>[1-9][0-9]{0,8})/(?P<period>[0-9]*(?:ms|[smhd]))")
_MOST_A_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """*count* messages in *period_ms*."""

    count: int
    period_ms: int

    @property
    def interval_us(self) -> int:
        """Return the microseconds from one message to the next: never less than the rate's."""
        return -(-self.period_ms * 1000 // self.count)

    def count_in(self, ms: int) -> int:
        """Return how many fit into *ms*: one at least."""
        return max(1, ms * 1000 // self.interval_us)

    def __str__(self) -> str:
        """Return the form that `parse_rate` reads back: `100/s`, `5/10m`."""
        text = duration_to_text(parse_duration(f"{self.period_ms}ms"))
        return f"{self.count}/{text.removeprefix('1') if text[1:].isalpha() else text}"


def parse_rate(text: str) -> Rate:
    """Read `100/s`, `1000/h` or `5/10m`: a whole number, and the time for so many.

    Raises:
        ValueError: anything else, or more than a million a second.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        msg = f"{shorten(text)} is no rate; write for example 100/s, 1000/h or 5/10m"
        raise ValueError(msg)
    period = match["period"]
    period_ms = to_ms(parse_duration(period if period[0].isdigit() else f"1{period}"))
    if period_ms == 0:
        msg = f"{shorten(text)} has no time; write for example 100/s"
        raise ValueError(msg)
    if int(match["count"]) * 1000 > _MOST_A_SECOND * period_ms:
        msg = f"{shorten(text)} is more than a million a second; leave it out for no limit"
        raise ValueError(msg)
    return Rate(int(match["count"]), period_ms)
