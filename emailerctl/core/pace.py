"""The pace of a next hop: whose turn it is to send, at which rate.  Pure.

What consumers lease from the store is time, not messages: "from A until B this rate is yours".
Stretches of one rate never overlap, so however many consumers there are, no more than the rate
allows goes out; and nobody writes for a message, only for a stretch, which holds for a tenth of
a second at least and for a second at most.  What is not used of a stretch is lost: with a
tenth's patience, that is how much may go out at once after a pause.
"""

from dataclasses import dataclass

from emailerctl.models.rate import Rate

_SHORTEST_MS = 100
_LONGEST_MS = 1_000
_PATIENCE_US = 100_000  # a message may use a place that passed so long ago
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
        if not now_us < self.end_us or self.next_us - now_us > _FURTHEST_US + self.interval_us:
            return None  # used up, or the clock was set back
        place_us = max(self.next_us, now_us - _PATIENCE_US)
        return max(place_us - now_us, 0) if place_us < self.end_us else None

    def take(self, now_us: int) -> None:
        """Use the next place, which `find_wait_us` says is there."""
        self.next_us = max(self.next_us, now_us - _PATIENCE_US) + self.interval_us


def count_places(rate: Rate, waiting: int) -> int:
    """Return for how many messages to lease a stretch: what waits, within bounds."""
    return min(max(waiting, rate.count_in(_SHORTEST_MS)), rate.count_in(_LONGEST_MS))
