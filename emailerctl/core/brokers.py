"""What is known of the broker, all processes together: for people, checks and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from emailerctl.models.clock import to_text
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus
from emailerctl.store.base import InboxCounts, Store

_ALIVE_MS = 90_000  # a process whose report is older is gone
_HOST_REFUSED = "host_refused"


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker as it answers, and as the processes have seen it.

    Attributes:
        kind: of the queue; "embedded" where a broker carries other services' jobs only.
        sources: each ForestMQ as it answers now; or else as the processes see it, in trouble
            if one of them says so.
        alive: the reports of processes that live, with their moments.
        counts: of all processes of the last day, the losses that were seen among them.
        foreign: how many foreign messages are kept.
        inbox: jobs that are no messages.
    """

    kind: str
    sources: Sequence[SourceStatus]
    alive: Sequence[tuple[int, QueueReport]]
    counts: QueueCounts
    foreign: int
    inbox: InboxCounts

    @property
    def is_falling_back(self) -> bool:
        """Return whether a consumer asks the store instead of the broker."""
        return any(report.is_falling_back for _at, report in self.alive)

    @property
    def refused(self) -> Sequence[SourceStatus]:
        """Return those that know no such host: their `--hosts` is wrong, or our URL."""
        return [one for one in self.sources if one.trouble == _HOST_REFUSED]

    def shape(self) -> dict[str, object]:
        """Return it as an object."""
        return {
            "kind": self.kind,
            "fallback": self.is_falling_back,
            "sources": [source.shape() for source in self.sources],
            "foreign": self.foreign,
            "inbox": {"waiting": self.inbox.waiting, "rejected": self.inbox.rejected},
            "counts": self.counts.shape(),
            "processes": [
                {**report.shape(), "at": to_text(at_ms)} for at_ms, report in self.alive
            ],
        }


async def find_broker(
    store: Store, *, kind: str, answers: Sequence[SourceStatus] | None, now_ms: int
) -> BrokerFacts | None:
    """Put together what is known; None where no broker carries anything.

    Args:
        kind: `[queue] kind`.
        answers: what each ForestMQ says of itself now; None: nobody has asked.
    """
    reports = await store.list_queue_reports()
    alive = [(at_ms, report) for at_ms, report in reports if now_ms - at_ms <= _ALIVE_MS]
    sources = _merge(alive) if answers is None else answers
    if kind == "embedded" and not sources:
        return None
    counts = QueueCounts()
    for _at, report in reports:
        counts.add(report.counts.shape())
    return BrokerFacts(
        kind=kind,
        sources=sources,
        alive=alive,
        counts=counts,
        foreign=await store.count_foreign(),
        inbox=await store.count_jobs(),
    )


def _merge(alive: Sequence[tuple[int, QueueReport]]) -> list[SourceStatus]:
    """Return each source as the last process saw it, or the last one that is in trouble."""
    seen: dict[tuple[str, str], tuple[bool, int, SourceStatus]] = {}
    for at_ms, report in alive:
        for one in report.sources:
            key = (one.url, one.use)
            said = (bool(one.trouble), at_ms, one)
            if key not in seen or said[:2] > seen[key][:2]:
                seen[key] = said
    return [one for _is_bad, _at_ms, one in seen.values()]
