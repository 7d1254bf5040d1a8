"""The built-in alerts (product.md §7): what is wrong enough to tell somebody, in which words.

Pure: facts in, sentences out.  `daemons/watch.py` gathers the facts, both daemons raise them,
and the store sees to it that one process tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from emailerctl.models.clock import to_text
from emailerctl.store.base import Consumer, HopState, NextHop, QueueStats

_UNKNOWN_MS = 60_000
_HEARTBEAT_MS = 30_000
_DUE_MS = 120_000
_PAUSE_MS = 900_000


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
        chains: the chains of the routing.
        first_seen_ms: when this process began to look: what it can't have seen is no alert.
        clock_jumped_ms: by how much the wall clock jumped lately; 0 where it did not.
    """

    now_ms: int
    first_seen_ms: int
    queue: QueueStats
    consumers: Sequence[Consumer]
    next_hops: Sequence[NextHop]
    chains: Sequence[Sequence[str]]
    is_storage_low: bool
    clock_jumped_ms: int


def judge(facts: Facts) -> Mapping[AlertName, str]:
    """Return the alerts that hold, each with its sentence and what to type."""
    found: dict[AlertName, str] = {}
    queue, now_ms = facts.queue, facts.now_ms
    if queue.oldest_unknown_ms is not None and now_ms - queue.oldest_unknown_ms > _UNKNOWN_MS:
        found[AlertName.UNKNOWN] = (
            f"{queue.unknown} recipients may or may not have been sent to, the oldest since "
            f"{to_text(queue.oldest_unknown_ms)}; look: emailerctl unknown list"
        )
    beats = [consumer.heartbeat_ms for consumer in facts.consumers]
    last_ms = max([*beats, facts.first_seen_ms])
    if now_ms - last_ms > _HEARTBEAT_MS:
        found[AlertName.NO_CONSUMER] = (
            f"no consumer has given a sign of life since {to_text(last_ms)}: messages are "
            "accepted and not delivered; start one: emailerctl consume"
        )
    is_late = queue.oldest_due_ms is not None and now_ms - queue.oldest_due_ms > _DUE_MS
    if is_late and queue.pause is None:
        found[AlertName.QUEUE_LATE] = (
            f"a message has been due since {to_text(queue.oldest_due_ms or 0)}, "
            f"{queue.ready} are ready; look: emailerctl status"
        )
    if queue.pause is not None and now_ms - queue.pause.since_ms > _PAUSE_MS:
        found[AlertName.PAUSED] = (
            f"the queue has been paused since {to_text(queue.pause.since_ms)} by "
            f"{queue.pause.actor}; go on: emailerctl queue resume"
        )
    found |= _judge_next_hops(facts)
    if facts.is_storage_low:
        found[AlertName.DISK_LOW] = (
            "the disk of the store is below its low-water mark: nothing more is accepted; free "
            "space, or: emailerctl store prune"
        )
    if facts.clock_jumped_ms:
        found[AlertName.CLOCK_JUMPED] = (
            f"the wall clock jumped by {facts.clock_jumped_ms / 1000:.0f} s; for 10 minutes "
            "nothing is expired by age; check the time synchronisation of the host"
        )
    return found


def _judge_next_hops(facts: Facts) -> dict[AlertName, str]:
    found: dict[AlertName, str] = {}
    shut = {hop.name: hop for hop in facts.next_hops if hop.state is not HopState.OPEN}
    paused = sorted(name for name, hop in shut.items() if hop.state is HopState.PAUSED)
    if paused:
        found[AlertName.CREDENTIALS] = (
            f"{', '.join(paused)} paused: {shut[paused[0]].reason}; correct the credentials, "
            f"then: emailerctl providers enable {paused[0]}"
        )
    closed = [chain for chain in facts.chains if chain and all(name in shut for name in chain)]
    if closed:
        found[AlertName.CHAIN_SHUT] = (
            f"every next hop of {' > '.join(closed[0])} is paused or disabled: its messages "
            "wait; look: emailerctl providers list"
        )
    return found
