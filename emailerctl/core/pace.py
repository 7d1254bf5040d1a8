"""The pace of a next hop: whose turn it is to send, at which rate.  Pure.

What consumers lease from the store is time, not messages: "the places from A until B are mine".
Stretches of one rate never overlap, and a place is used at its time or a little later, so
however many consumers there are, no more goes out in any time than the rate allows in it, and
half a second's worth.  Nobody writes for a message, only for a stretch: a tenth of a second at
least, a second at most.  Places that nobody used in time are lost.
"""

from dataclasses import dataclass

from emailerctl.models.rate import Rate

_SHORTEST_MS = 100
_LONGEST_MS = 1_000
_PATIENCE_US = 500_000  # a message may use a place that passed so long ago
AHEAD_US = 2_000_000  # a stretch that begins later is not leased yet
_FURTHEST_US = AHEAD_US + _LONGEST_MS * 1000


@dataclass(slots=True)
class Stretch:
    """A stretch of time in which one consumer may send at a rate.

    Attributes:
        next_us: where the next message's place is.
    """

    next_us: int
    end_us: int
    interval_us: int

    def find_wait_us(self, now_us: int) -> int | None:
        """Return how long the next message must wait; None: there is no place left."""
        place_us = self._find_place_us(now_us)
        if place_us >= self.end_us or place_us - now_us > _FURTHEST_US + self.interval_us:
            return None  # used up, or the clock was set back
        return max(place_us - now_us, 0)

    def take(self, now_us: int) -> None:
        """Use the next place, which `find_wait_us` says is there."""
        self.next_us = self._find_place_us(now_us) + self.interval_us

    def _find_place_us(self, now_us: int) -> int:
        return max(self.next_us, now_us - max(_PATIENCE_US, self.interval_us))


def count_places(rate: Rate, waiting: int) -> int:
    """Return for how many messages to lease a stretch: what waits, within bounds."""
    return min(max(waiting, rate.count_in(_SHORTEST_MS)), rate.count_in(_LONGEST_MS))
