"""What the events of the last minute add up to: rates, ages, who refuses.  Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emailerctl.models.event import MESSAGE_ACCEPTED, RECIPIENT, Event
from emailerctl.models.ids import find_moment
from emailerctl.models.lifecycle import Cause

WINDOW_MS = 60_000
_MOST = 100_000  # events that are remembered, at full load
_SLOWEST = 5

ACCEPTED, SENT, DEFERRED, REFUSED, FAILED, DOUBTED = (
    *("accepted", "sent", "deferred", "refused", "failed", "in doubt"),
)
_MEANING: Mapping[str, str] = {
    MESSAGE_ACCEPTED: ACCEPTED,
    RECIPIENT[Cause.HANDED_OVER]: SENT,
    RECIPIENT[Cause.RESOLVED_SENT]: SENT,
    RECIPIENT[Cause.DEFERRED]: DEFERRED,
    RECIPIENT[Cause.REFUSED]: REFUSED,
    RECIPIENT[Cause.ABANDONED]: FAILED,
    RECIPIENT[Cause.UNANSWERED]: DOUBTED,
    RECIPIENT[Cause.INTERRUPTED]: DOUBTED,
}
FAILURES = (DEFERRED, REFUSED, FAILED, DOUBTED)


@dataclass(slots=True)
class Group:
    """Events that belong together: of all, of a next hop, of a recipient domain.

    Attributes:
        counts: by what they mean.
        ages_ms: of messages when they were handed over, in order.
        reply: the last words of a failure.
    """

    counts: Counter[str] = field(default_factory=Counter)
    ages_ms: list[int] = field(default_factory=list)
    reply: str = ""

    @property
    def failures(self) -> int:
        """How many did not go out."""
        return sum(self.counts[name] for name in FAILURES)

    def find_age_ms(self, quantile: float) -> int | None:
        """Return the age that so many hand-overs did not exceed; None: there was none."""
        if not self.ages_ms:
            return None
        return self.ages_ms[min(int(quantile * len(self.ages_ms)), len(self.ages_ms) - 1)]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a window of events adds up to."""

    seconds: float
    everything: Group
    hops: Mapping[str, Group]
    domains: Mapping[str, Group]
    slowest: Sequence[tuple[int, Event]]  # age (ms) when it was handed over


class Tally:
    """The events of the last minute."""

    def __init__(self, began_ms: int) -> None:
        """Know nothing before *began_ms*."""
        self._began_ms = began_ms
        self._events: deque[Event] = deque(maxlen=_MOST)

    def take(self, event: Event) -> None:
        """Remember an event, if it says something."""
        if event.type in _MEANING:
            self._events.append(event)

    def add_up(self, now_ms: int, *, next_hop: str = "") -> Sums:
        """Forget what is older than a minute, and add up the rest; *next_hop* narrows."""
        since_ms = now_ms - WINDOW_MS
        while self._events and self._events[0].at_ms < since_ms:
            self._events.popleft()
        everything = Group()
        hops: dict[str, Group] = {}
        domains: dict[str, Group] = {}
        ages: list[tuple[int, Event]] = []
        for event in self._events:
            if next_hop and event.provider not in (None, next_hop):
                continue
            groups = [everything]
            if event.provider:
                groups.append(hops.setdefault(event.provider, Group()))
            if event.recipient:
                domain = event.recipient.rpartition("@")[2].lower()
                groups.append(domains.setdefault(domain, Group()))
            age_ms = _find_age_ms(event)
            if age_ms is not None:
                ages.append((age_ms, event))
            _count(groups, event, age_ms)
        for group in (everything, *hops.values(), *domains.values()):
            group.ages_ms.sort()
        ages.sort(key=lambda pair: -pair[0])
        span_ms = min(WINDOW_MS, max(1_000, now_ms - self._began_ms))
        return Sums(span_ms / 1000, everything, hops, domains, ages[:_SLOWEST])


def _find_age_ms(event: Event) -> int | None:
    if _MEANING[event.type] != SENT or event.message_id is None:
        return None
    return max(0, event.at_ms - find_moment(event.message_id))


def _count(groups: Iterable[Group], event: Event, age_ms: int | None) -> None:
    meaning = _MEANING[event.type]
    for group in groups:
        group.counts[meaning] += 1
        if age_ms is not None:
            group.ages_ms.append(age_ms)
        if meaning in FAILURES and event.reply:
            group.reply = event.reply
