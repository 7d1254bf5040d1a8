"""Breakers and pace of next hops: what consumers share of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from emailerctl.models.clock import to_text
from emailerctl.store import statements as sql
from emailerctl.store.base import Breaker, BreakerState, Stint, Usage
from emailerctl.store.driver import Tx
from emailerctl.store.steps import write_event

_MINUTE_MS = 60_000


def list_breakers(tx: Tx) -> list[Breaker]:
    """Return every breaker that has ever opened."""
    rows: Any = tx.all(sql.BREAKERS)
    return [
        Breaker(
            name=row[0],
            state=BreakerState(row[1]),
            version=row[2],
            reason=row[3],
            since_ms=row[4],
            until_ms=row[5],
            openings=row[6],
            failures=row[7],
            owner=row[8],
        )
        for row in rows
    ]


def set_breaker(tx: Tx, breaker: Breaker, now_ms: int) -> Breaker:
    """Write a breaker if nobody was faster; return what holds.

    An event says when it opens and when it closes; probes and further pauses in between are
    for the process log.
    """
    known = {one.name: one for one in list_breakers(tx)}
    old = known.get(breaker.name, Breaker(name=breaker.name))
    if old.version != breaker.version - 1:
        return old
    tx.run(
        sql.SET_BREAKER,
        {
            "name": breaker.name,
            "state": breaker.state,
            "version": breaker.version,
            "reason": breaker.reason,
            "since_at": breaker.since_ms,
            "until_at": breaker.until_ms,
            "openings": breaker.openings,
            "failures": breaker.failures,
            "owner": breaker.owner,
        },
    )
    if BreakerState.CLOSED in (old.state, breaker.state):
        data: dict[str, object] = {"breaker": breaker.state, "actor": "consumer"}
        if breaker.state is BreakerState.OPEN:
            data |= {
                "reason": breaker.reason,
                "failures": breaker.failures,
                "until": to_text(breaker.until_ms),
            }
        write_event(tx, "next_hop.changed", now_ms, provider=breaker.name, data=data)
    return breaker


def take_stints(tx: Tx, stints: Sequence[Stint], now_ms: int) -> list[int]:
    """Lease stretches of time, each from where the last one of its rate ended."""
    now_us = now_ms * 1000
    begins = []
    for stint in stints:
        key: dict[str, object] = {"next_hop": stint.next_hop, "domain": stint.domain}
        row: Any = tx.one(sql.PACE, key)
        free_us, minute, used, used_before = row or (0, 0, 0, 0)
        begin_us = max(free_us, now_us)
        if begin_us > now_us + 2 * (stint.ahead_us + stint.length_us):
            begin_us = now_us  # nobody leased that far ahead: the clock was set back
        begins.append(begin_us)
        if begin_us > now_us + stint.ahead_us:
            continue
        this_minute = now_ms // _MINUTE_MS
        if minute != this_minute:
            used, used_before = 0, used if minute == this_minute - 1 else 0
        tx.run(
            sql.SET_PACE,
            {
                **key,
                "free_us": begin_us + stint.length_us,
                "minute": this_minute,
                "used": used + stint.count,
                "used_before": used_before,
            },
        )
    return begins


def list_usage(tx: Tx) -> Mapping[str, Usage]:
    """Return how much of each next hop's rate was leased of late."""
    rows: Any = tx.all(sql.USAGE)
    return {name: Usage(*numbers) for name, *numbers in rows}


def wake_parked(tx: Tx, now_ms: int, limit: int) -> int:
    """Make due what waits for a next hop, what was to look first before the rest."""
    count = tx.run(sql.WAKE_PARKED, {"now": now_ms, "limit": limit})
    tx.has_new_work = tx.has_new_work or count > 0
    return count
