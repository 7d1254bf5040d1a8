"""A next hop as people see it: its standing, its breaker, its rate and how much is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from emailerctl.core.standing import Bounds
from emailerctl.store.base import Breaker, HopState, NextHop, Store, Usage

_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class HopFacts:
    """What the settings say of a next hop.

    Attributes:
        kind: None: it is no longer in the settings.
        is_default: in the default chain.
    """

    kind: str | None = None
    is_default: bool = False
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True)
class HopView:
    """A next hop, seen from outside.

    Attributes:
        used: messages within a minute for which consumers leased time of its rate.
    """

    hop: NextHop
    facts: HopFacts
    breaker: Breaker
    used: int


async def list_hop_views(
    store: Store, facts: Mapping[str, HopFacts], *, now_ms: int
) -> list[HopView]:
    """Return the next hops of the settings, and those that left them with a standing."""
    hops, found = await store.load_standing()
    standing = {hop.name: hop for hop in hops}
    breakers = {breaker.name: breaker for breaker in found}
    usage = await store.list_usage()
    return [
        HopView(
            hop=standing.get(name) or NextHop(name=name, state=HopState.OPEN),
            facts=facts.get(name) or HopFacts(),
            breaker=breakers.get(name) or Breaker(name=name),
            used=_count_used(usage.get(name), now_ms),
        )
        for name in dict.fromkeys([*facts, *standing])
    ]


def _count_used(usage: Usage | None, now_ms: int) -> int:
    """Return how much was used within the last minute, by two numbers of whole minutes."""
    if usage is None:
        return 0
    minute, passed_ms = divmod(now_ms, _MINUTE_MS)
    left = 1 - passed_ms / _MINUTE_MS
    if usage.minute == minute:
        return usage.used + round(usage.used_before * left)
    return round(usage.used * left) if usage.minute == minute - 1 else 0
