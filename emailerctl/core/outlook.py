"""What is asked about a doubt, how often and for how long: `unknown.py` does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from emailerctl.providers.base import Abilities
from emailerctl.store.base import Unknown


class Way(StrEnum):
    """How the next hop is asked."""

    REPLAY = "replay"
    LOOK_UP = "look-up"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and for how long.

    Attributes:
        least_ms: between two questions; each wait is as long as all before it, up to `most_ms`.
        settling_ms: after the mark the last byte leaves, and the kernel brings it there, within
            this time, also of a process that was killed (TCP_USER_TIMEOUT).
        asking_ms: for so long after its lag a look-up goes on, and its "no" counts.
        margin: the part of a key's window, and of what is kept, that is not used: clocks, and
            what is under way.
        skew_ms: so much earlier than the attempt a look-up begins: the wall clock was wrong
            then, or is now.  From before a restart of the host it may have been more wrong.
    """

    least_ms: int = 5_000
    most_ms: int = 3_600_000
    settling_ms: int = 70_000
    asking_ms: int = 12 * 3_600_000
    margin: float = 0.1
    skew_ms: int = 3_600_000


def is_resolved_within(abilities: Abilities | None, within_ms: int) -> bool:
    """Return whether a doubt there usually ends by itself within this time."""
    if abilities is None:
        return False
    lag_ms = abilities.look_up_lag_ms
    return abilities.idempotency is not None or (lag_ms is not None and lag_ms <= within_ms)


def find_look_up_end(abilities: Abilities, patience: Patience) -> int | None:
    """Return to what age of an attempt it is looked up; None: never."""
    if abilities.look_up_lag_ms is None:
        return None
    window_ms = abilities.idempotency.window_ms if abilities.idempotency else 0
    end_ms = window_ms + abilities.look_up_lag_ms + patience.settling_ms + patience.asking_ms
    if abilities.look_up_kept_ms is None:
        return end_ms
    return min(end_ms, round(abilities.look_up_kept_ms * (1 - patience.margin)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What will be asked about a doubt, as far as one can tell.

    Attributes:
        asks: which next hops; none: nobody is asked any more, or ever was.
        ways: how.
        until_ms: about then it is given up: it waits for a report, for policy, for an operator.
    """

    asks: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    until_ms: int | None = None


class Doubt(NamedTuple):
    """A recipient in doubt, and what will be asked about it."""

    unknown: Unknown
    outlook: Outlook


def foresee(
    unknown: Unknown, abilities: Mapping[str, Abilities], patience: Patience | None = None
) -> Outlook:
    """Say who is asked next about a recipient in doubt, how, and when that ends."""
    patience = patience or Patience()
    if unknown.ask_at_ms is None:
        return Outlook()
    if not unknown.asks:  # the store was restored
        lags_ms = {
            name: one.look_up_lag_ms
            for name, one in abilities.items()
            if one.look_up_lag_ms is not None
        }
        until_ms = unknown.since_ms + max(lags_ms.values(), default=0) + patience.asking_ms
        return Outlook(asks=tuple(lags_ms), ways=(Way.LOOK_UP,), until_ms=until_ms)
    hop = abilities.get(unknown.asks)
    start_ms = unknown.since_ms if unknown.started_ms is None else unknown.started_ms
    ends_ms = [start_ms + patience.asking_ms] if hop is None else []
    ways = []
    if hop is not None and hop.idempotency is not None:
        ends_ms.append(start_ms + round(hop.idempotency.window_ms * (1 - patience.margin)))
        # Where there is a look-up, a request is repeated once.
        ways += [Way.REPLAY] * (hop.look_up_lag_ms is None or not unknown.replayed)
    if hop is not None and (end_ms := find_look_up_end(hop, patience)) is not None:
        ends_ms.append(start_ms + end_ms)
        ways.append(Way.LOOK_UP)
    until_ms = max(ends_ms, default=unknown.ask_at_ms)
    if unknown.resend_at_ms is not None:
        until_ms = min(until_ms, unknown.resend_at_ms)
    return Outlook(asks=(unknown.asks,), ways=tuple(ways), until_ms=until_ms)
