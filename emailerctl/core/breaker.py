"""The breaker of a next hop: when it opens, when it probes, when it closes again.  Pure.

    closed --failures in a row, or a wait that the next hop names--> open
    open --its pause is over--> half-open: 1, 2, 4 … probes in flight, of one consumer
    half-open --a probe fails--> open, for longer --grown to the full concurrency--> closed

Only what is about the connection counts (F-CO-08): faults before an answer, 421, 429, and
silence after the point of no return.  That a recipient or a message is refused shows that the
next hop works.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import NamedTuple

from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.store.base import Breaker, BreakerState

_SERVER_ERRORS = 2  # in a row (F-PR-08)
_LONGEST_MS = 600_000  # no pause of ours is longer, unless the settings begin with one
_JITTER = 0.2
_REST_MOST_MS = 3_600_000  # no server makes us wait longer than an hour (F-PR-07)
_LATER_MS = 1_000  # a rest that is longer by less is the same one, named by another answer

_OPENING = frozenset({Phase.CONNECT, Phase.TLS, Phase.AUTH})
_SLOW_DOWN = frozenset({421, 429})
_FAILING = frozenset({500, 502, 503, 504, *range(520, 530)})
_LEAST_REFUSAL = 400  # below it in a refusal's place: a "yes" or "go on" that makes no sense


class Health(StrEnum):
    """What an attempt says about its next hop."""

    GOOD = "good"  # it talks to us, whatever it says of a message or a recipient
    BAD = "bad"
    SERVER_ERROR = "server_error"  # bad, and two in a row are enough
    NEUTRAL = "neutral"  # nothing: our own doing, or what pauses it anyway


class Verdict(NamedTuple):
    """One attempt's word about its next hop.

    Attributes:
        rest_ms: how long the next hop wants to be left alone.
    """

    health: Health
    reply: str = ""
    rest_ms: int | None = None


class Rules(NamedTuple):
    """When a breaker opens, and how it closes again.

    Attributes:
        failures: in a row that open it.
        pause_ms: how long it stays open at first.
        full: the concurrency up to which it grows.
    """

    failures: int
    pause_ms: int
    full: int


class Tally(NamedTuple):
    """What this process has seen since the breaker's last change.

    Attributes:
        failures: in a row.
        server_errors: in a row.
        allowed: probes in flight, while half-open.
        good: of them, how many went well since it grew.
    """

    failures: int = 0
    server_errors: int = 0
    allowed: int = 1
    good: int = 0


def judge(outcomes: Mapping[int, Outcome]) -> Verdict:
    """Return what an attempt's outcomes say about the next hop: the worst of them."""
    found = Verdict(Health.NEUTRAL)
    for outcome in outcomes.values():
        health = _find_health(outcome)
        if health in (Health.BAD, Health.SERVER_ERROR):
            return Verdict(health, outcome.reply, _find_rest(outcome))
        if health is Health.GOOD:
            found = Verdict(health)
    return found


def _find_health(outcome: Outcome) -> Health:
    is_pausing = outcome.alarm is Alarm.CREDENTIALS
    if outcome.phase is Phase.GATE or not outcome.is_charged or is_pausing:
        return Health.NEUTRAL
    if outcome.party is not Party.NEXT_HOP:
        return Health.NEUTRAL if outcome.kind is Kind.UNKNOWN else Health.GOOD
    if not _is_fault(outcome):
        return Health.GOOD
    is_answer = outcome.phase not in _OPENING and _find_rest(outcome) is None
    return Health.SERVER_ERROR if is_answer and outcome.code in _FAILING else Health.BAD


def _is_fault(outcome: Outcome) -> bool:
    """Return whether what the next hop said, or did not say, is about itself."""
    if outcome.kind is Kind.UNKNOWN:
        return True
    if outcome.kind is not Kind.TRANSIENT or outcome.alarm is Alarm.REDIRECT:
        return False
    code = outcome.code
    return (
        code is None
        or code < _LEAST_REFUSAL
        or code in _SLOW_DOWN
        or code in _FAILING
        or outcome.phase in _OPENING
        or _find_rest(outcome) is not None
    )


def _find_rest(outcome: Outcome) -> int | None:
    """Return how long the next hop itself asks to be left alone."""
    if outcome.party is not Party.NEXT_HOP or not outcome.retry_after_ms:
        return None
    return min(outcome.retry_after_ms, _REST_MOST_MS)


def learn(
    breaker: Breaker,
    tally: Tally,
    verdict: Verdict,
    *,
    rules: Rules,
    now_ms: int,
    rng: Random,
) -> tuple[Breaker, Tally]:
    """Return breaker and tally after an attempt; the same breaker where it does not change."""
    if verdict.rest_ms is not None:
        return _rest(breaker, tally, verdict, now_ms + verdict.rest_ms, now_ms), tally
    if breaker.state is BreakerState.OPEN or verdict.health is Health.NEUTRAL:
        return breaker, tally
    if verdict.health is Health.GOOD:
        if breaker.state is BreakerState.HALF_OPEN:
            return _grow(breaker, tally, rules, now_ms)
        return breaker, Tally()
    is_server_error = verdict.health is Health.SERVER_ERROR
    tally = tally._replace(
        failures=tally.failures + 1,
        server_errors=tally.server_errors + 1 if is_server_error else 0,
    )
    is_enough = (
        breaker.state is BreakerState.HALF_OPEN
        or tally.failures >= rules.failures
        or tally.server_errors >= _SERVER_ERRORS
    )
    if not is_enough:
        return breaker, tally
    pause_ms = find_pause_ms(breaker.openings + 1, rules, rng)
    return _open(breaker, tally, verdict, now_ms + pause_ms, now_ms), tally


def _rest(
    breaker: Breaker, tally: Tally, verdict: Verdict, until_ms: int, now_ms: int
) -> Breaker:
    is_open = breaker.state is BreakerState.OPEN
    if is_open and until_ms < breaker.until_ms + _LATER_MS:
        return breaker
    return _open(breaker, tally, verdict, until_ms, now_ms)


def find_pause_ms(openings: int, rules: Rules, rng: Random) -> int:
    """Return how long the breaker stays open after so many openings in a row."""
    longest_ms = max(_LONGEST_MS, rules.pause_ms)
    pause_ms = min(rules.pause_ms << min(openings - 1, 20), longest_ms)
    return pause_ms + round(pause_ms * _JITTER * rng.random())


def _open(
    breaker: Breaker, tally: Tally, verdict: Verdict, until_ms: int, now_ms: int
) -> Breaker:
    was_closed = breaker.state is BreakerState.CLOSED
    is_longer = breaker.state is BreakerState.OPEN  # the same opening, for longer
    return replace(
        breaker,
        state=BreakerState.OPEN,
        version=breaker.version + 1,
        reason=verdict.reply,
        since_ms=now_ms if was_closed else breaker.since_ms,
        until_ms=until_ms,
        openings=breaker.openings + (0 if is_longer else 1),
        failures=breaker.failures if is_longer else breaker.failures + max(1, tally.failures),
        owner=0,
    )


def _grow(breaker: Breaker, tally: Tally, rules: Rules, now_ms: int) -> tuple[Breaker, Tally]:
    good = tally.good + 1
    if good < tally.allowed:
        return breaker, tally._replace(good=good)
    allowed = tally.allowed * 2
    if allowed < rules.full:
        return breaker, Tally(allowed=allowed)
    return close(breaker, now_ms), Tally()


def close(breaker: Breaker, now_ms: int) -> Breaker:
    """Return it closed: the next hop takes mail as before."""
    return Breaker(
        name=breaker.name,
        state=BreakerState.CLOSED,
        version=breaker.version + 1,
        since_ms=now_ms,
    )


def begin_probing(breaker: Breaker, owner: int) -> Breaker:
    """Return it half-open, *owner* being the consumer that probes."""
    return replace(
        breaker, state=BreakerState.HALF_OPEN, version=breaker.version + 1, owner=owner
    )


def is_ripe(breaker: Breaker, now_ms: int) -> bool:
    """Return whether an open breaker's pause is over.

    An end that is further off than any pause is not believed: the clock was set back.
    """
    longest_ms = _REST_MOST_MS + _LONGEST_MS
    return not now_ms < breaker.until_ms <= now_ms + longest_ms
