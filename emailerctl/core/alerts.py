"""The built-in alerts (product.md §7): what is wrong enough to tell somebody, in which words.

Pure: facts in, sentences out.  `daemons/alerting.py` gathers the facts and tells; both daemons
do, and the store sees to it that one of them tells.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from emailerctl.models.clock import to_text
from emailerctl.store.base import Breaker, BreakerState, HopState, NextHop, QueueStats

_UNKNOWN_MS = 60_000
_HEARTBEAT_MS = 30_000
_DUE_MS = 120_000
_PAUSE_MS = 900_000
_FAILING_MS = 10_000  # a next hop that asks for a moment's rest is none to page somebody for
_AHEAD_MS = 60_000  # a moment so far ahead is not to be: the clock was set back since then
_ENDING_MS = 10_000  # processes see a jump within seconds of each other, and its end, too


class AlertName(StrEnum):
    """The built-in alerts."""

    UNKNOWN = "unknown"
    NO_CONSUMER = "no_consumer"
    QUEUE_LATE = "queue_late"
    CREDENTIALS = "credentials_refused"
    CHAIN_SHUT = "chain_shut"
    PAUSED = "queue_paused"
    DISK_LOW = "disk_low"
    CLOCK_JUMPED = "clock_jumped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the alerts are judged by.

    Attributes:
        raised: what is raised now: processes that know different things must not take turns.
        silent_ms: for how long this process has seen no sign of life of any consumer, since it
            began to look; on the boot clock, so that no jump makes one up or hides one.
        has_seen_life: it has seen one.
        next_hops: the standing of those that the settings name.
        breakers: those of them that have ever opened.
        chains: the chains of the routing.
        clock_jumped_ms: by how much the wall clock jumped last.
        clock_calm_ms: for how long it will not be believed yet; 0 where it is.
    """

    now_ms: int
    raised: Collection[str]
    queue: QueueStats
    silent_ms: int
    has_seen_life: bool
    next_hops: Sequence[NextHop]
    chains: Sequence[Sequence[str]]
    is_storage_low: bool
    clock_jumped_ms: int
    clock_calm_ms: int
    breakers: Sequence[Breaker] = ()


def judge(facts: Facts) -> Mapping[AlertName, str]:
    """Return the alerts that hold, each with its sentence and what to type."""
    found: dict[AlertName, str] = {}
    queue, now_ms = facts.queue, facts.now_ms
    unknown_ms, due_ms = queue.oldest_unknown_ms, queue.oldest_due_ms
    if unknown_ms is not None and _is_older(unknown_ms, _UNKNOWN_MS, now_ms):
        found[AlertName.UNKNOWN] = (
            f"{queue.unknown} recipients may or may not have been sent to, the oldest since "
            f"{to_text(unknown_ms)}; look: emailerctl unknown list"
        )
    is_still_missing = AlertName.NO_CONSUMER in facts.raised and not facts.has_seen_life
    if facts.silent_ms > _HEARTBEAT_MS or is_still_missing:
        found[AlertName.NO_CONSUMER] = (
            f"no consumer has given a sign of life since {to_text(now_ms - facts.silent_ms)}: "
            "messages are accepted and not delivered; start one: emailerctl consume"
        )
    if due_ms is not None and queue.pause is None and _is_older(due_ms, _DUE_MS, now_ms):
        found[AlertName.QUEUE_LATE] = (
            f"a message has been due since {to_text(due_ms)}, "
            f"{queue.ready} are ready; look: emailerctl status"
        )
    if queue.pause is not None and _is_older(queue.pause.since_ms, _PAUSE_MS, now_ms):
        found[AlertName.PAUSED] = (
            f"the queue has been paused since {to_text(queue.pause.since_ms)} by "
            f"{queue.pause.actor}; go on: emailerctl queue resume"
        )
    found |= _judge_next_hops(facts)
    if facts.is_storage_low:
        found[AlertName.DISK_LOW] = (
            "the disk of the store is below its low-water mark: nothing more is accepted; free "
            "space, or shorten [retention]"
        )
    end_ms = 0 if AlertName.CLOCK_JUMPED in facts.raised else _ENDING_MS
    if facts.clock_calm_ms > end_ms:
        found[AlertName.CLOCK_JUMPED] = (
            f"the wall clock jumped by {facts.clock_jumped_ms / 1000:.0f} s; for 10 minutes "
            "nothing is expired by age; check the time synchronisation of the host"
        )
    return found


def _is_older(since_ms: int, limit_ms: int, now_ms: int) -> bool:
    """Return whether *since_ms* is long ago; an age that is not known counts as old."""
    return not -_AHEAD_MS <= now_ms - since_ms <= limit_ms


def _judge_next_hops(facts: Facts) -> dict[AlertName, str]:
    found: dict[AlertName, str] = {}
    shut = {hop.name: hop for hop in facts.next_hops if hop.state is not HopState.OPEN}
    paused = sorted(name for name, hop in shut.items() if hop.state is HopState.PAUSED)
    if paused:
        found[AlertName.CREDENTIALS] = (
            f"{', '.join(paused)} paused: {shut[paused[0]].reason}; correct the credentials, "
            f"then: emailerctl providers enable {paused[0]}"
        )
    failing = {
        breaker.name: breaker.reason
        for breaker in facts.breakers
        if breaker.state is not BreakerState.CLOSED
        and _is_older(breaker.since_ms, _FAILING_MS, facts.now_ms)
    }
    closed = [
        chain
        for chain in facts.chains
        if chain and all(name in shut or name in failing for name in chain)
    ]
    if closed or (facts.queue.waiting and shut):
        chain = closed[0] if closed else sorted(shut)
        why = next((f" ({name}: {failing[name]})" for name in chain if name in failing), "")
        found[AlertName.CHAIN_SHUT] = (
            f"every next hop of {' > '.join(chain)} is paused, disabled or failing{why}: "
            f"{facts.queue.waiting} messages wait; look: emailerctl providers list"
        )
    return found
