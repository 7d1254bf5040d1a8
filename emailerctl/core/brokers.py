"""What is known of the broker, all processes together: for `queue stats`."""

from collections.abc import Sequence
from dataclasses import dataclass

from emailerctl.models.clock import to_text
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus

_ALIVE_MS = 90_000  # a process whose report is older is gone


@dataclass(frozen=True, slots=True)
class BrokerView:
    """The broker as it answers now, and as the processes have seen it.

    Attributes:
        sources: what each ForestMQ answers to us, now.
        alive: the reports of processes that live, with their moments.
        counts: of all processes of the last day.
        foreign: how many foreign messages are kept.
    """

    kind: str
    sources: Sequence[SourceStatus]
    alive: Sequence[tuple[int, QueueReport]]
    counts: QueueCounts
    foreign: int

    @property
    def is_falling_back(self) -> bool:
        """Return whether a consumer asks the store instead of the broker."""
        return any(report.is_falling_back for _at, report in self.alive)

    def shape(self) -> dict[str, object]:
        """Return it as an object."""
        return {
            "kind": self.kind,
            "fallback": self.is_falling_back,
            "sources": [source.shape() for source in self.sources],
            "foreign": self.foreign,
            "counts": self.counts.shape(),
            "processes": [
                {**report.shape(), "at": to_text(at_ms)} for at_ms, report in self.alive
            ],
        }


def build_view(
    kind: str,
    sources: Sequence[SourceStatus],
    reports: Sequence[tuple[int, QueueReport]],
    foreign: int,
    *,
    now_ms: int,
) -> BrokerView:
    """Put together what is known."""
    counts = QueueCounts()
    for _at, report in reports:
        counts.add(report.counts.shape())
    alive = [(at_ms, report) for at_ms, report in reports if now_ms - at_ms <= _ALIVE_MS]
    return BrokerView(kind, sources, alive, counts, foreign)
