"""The breaker's decisions: what counts, when it opens, how it closes again."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emailerctl.core import breaker as breakers
from emailerctl.core.breaker import Health, Rules, Tally, Verdict
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.store.base import Breaker, BreakerState

NOW_MS = 1_795_514_400_000
RULES = Rules(failures=3, pause_ms=30_000, full=8)
CLOSED = Breaker(name="relay")
OPEN = replace(
    CLOSED,
    state=BreakerState.OPEN,
    version=1,
    since_ms=NOW_MS,
    until_ms=NOW_MS + 30_000,
    openings=1,
    failures=3,
    reason="refused",
)
HALF = breakers.begin_probing(OPEN, 7)

GOOD = Verdict(Health.GOOD)
BAD = Verdict(Health.BAD, "refused")
SERVER_ERROR = Verdict(Health.SERVER_ERROR, "502 bad gateway")
NOTHING = Verdict(Health.NEUTRAL)


def rest(ms: int) -> Verdict:
    return Verdict(Health.BAD, "429 slow down", ms)


def hop(**fields: Any) -> Outcome:
    """Return what a next hop says of itself, before it has accepted anything."""
    return Outcome(
        **{"kind": Kind.TRANSIENT, "party": Party.NEXT_HOP, "phase": Phase.CONTENT, **fields}
    )


def learn(
    breaker: Breaker,
    *verdicts: Verdict,
    tally: Tally | None = None,
    now_ms: int = NOW_MS,
    rules: Rules = RULES,
) -> tuple[Breaker, Tally]:
    tally = tally or Tally()
    for verdict in verdicts:
        breaker, tally = breakers.learn(
            breaker, tally, verdict, rules=rules, now_ms=now_ms, rng=Random(1)
        )
    return breaker, tally


# what counts


@pytest.mark.parametrize(
    ("outcome", "health"),
    [
        (Outcome(kind=Kind.ACCEPTED, code=250), Health.GOOD),
        # F-CO-08: refused recipients and messages, for now or for good
        (
            Outcome(kind=Kind.PERMANENT, party=Party.RECIPIENT, phase=Phase.ENVELOPE, code=550),
            Health.GOOD,
        ),
        (
            Outcome(kind=Kind.TRANSIENT, party=Party.RECIPIENT, phase=Phase.ENVELOPE, code=450),
            Health.GOOD,
        ),
        (Outcome(kind=Kind.PERMANENT, code=554), Health.GOOD),
        (Outcome(kind=Kind.TRANSIENT, code=451), Health.GOOD),
        # the connection
        (hop(phase=Phase.CONNECT), Health.BAD),
        (hop(phase=Phase.CONNECT, code=554), Health.BAD),
        (hop(phase=Phase.CONNECT, code=502), Health.BAD),
        (hop(phase=Phase.TLS, alarm=Alarm.TLS), Health.BAD),
        (hop(phase=Phase.AUTH, code=454), Health.BAD),
        (hop(phase=Phase.ENVELOPE), Health.BAD),
        (hop(code=421), Health.BAD),
        (hop(code=429), Health.BAD),
        (hop(code=250), Health.BAD),
        (hop(kind=Kind.UNKNOWN, phase=Phase.ANSWER), Health.BAD),
        (hop(kind=Kind.UNKNOWN, phase=Phase.ANSWER, code=409), Health.BAD),
        (hop(code=503, retry_after_ms=5_000), Health.BAD),
        (hop(code=425, retry_after_ms=5_000), Health.BAD),
        # F-PR-08
        *((hop(kind=Kind.UNKNOWN, code=c), Health.SERVER_ERROR) for c in (500, 502, 503, 504)),
        (hop(kind=Kind.UNKNOWN, code=522), Health.SERVER_ERROR),
        (hop(code=502), Health.SERVER_ERROR),  # declared definite by its adapter
        # it talks, though not as we would like
        (hop(code=425), Health.GOOD),
        (hop(kind=Kind.PERMANENT, code=404), Health.GOOD),
        (hop(code=302, alarm=Alarm.REDIRECT), Health.GOOD),
        # our own doing, and what pauses it anyway
        (hop(is_charged=False), Health.NEUTRAL),
        (hop(kind=Kind.PERMANENT, phase=Phase.GATE), Health.NEUTRAL),
        (hop(phase=Phase.AUTH, code=535, alarm=Alarm.CREDENTIALS), Health.NEUTRAL),
        (Outcome(kind=Kind.UNKNOWN, reply="internal error"), Health.NEUTRAL),
    ],
)
def test_only_what_is_about_the_connection_counts(outcome: Outcome, health: Health) -> None:
    """F-CO-08, F-PR-07, F-PR-08."""
    assert breakers.judge({1: outcome}).health is health


def test_the_worst_of_a_messages_recipients_decides() -> None:
    refused = Outcome(kind=Kind.PERMANENT, party=Party.RECIPIENT, code=550)
    silence = hop(kind=Kind.UNKNOWN, phase=Phase.ANSWER, reply="no answer")

    assert breakers.judge({1: refused, 2: silence}) == Verdict(Health.BAD, "no answer")
    assert breakers.judge({1: hop(is_charged=False), 2: refused}) == GOOD
    assert breakers.judge({}) == NOTHING


def test_no_next_hop_rests_for_more_than_an_hour() -> None:
    """F-PR-07: however absurd what it asks for."""
    asked = hop(code=429, retry_after_ms=10**12, reply="429")

    assert breakers.judge({1: asked}) == Verdict(Health.BAD, "429", 3_600_000)
    assert breakers.judge({1: replace(asked, retry_after_ms=0)}).rest_ms is None


# closed


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ((BAD, BAD), BreakerState.CLOSED),
        ((BAD, BAD, BAD), BreakerState.OPEN),
        ((BAD, BAD, GOOD, BAD, BAD), BreakerState.CLOSED),
        ((BAD, NOTHING, BAD, NOTHING, BAD), BreakerState.OPEN),
        ((SERVER_ERROR,), BreakerState.CLOSED),
        ((SERVER_ERROR, SERVER_ERROR), BreakerState.OPEN),
        ((SERVER_ERROR, GOOD, SERVER_ERROR), BreakerState.CLOSED),
        ((SERVER_ERROR, BAD), BreakerState.CLOSED),
        ((GOOD,) * 50, BreakerState.CLOSED),
        ((rest(1),), BreakerState.OPEN),
    ],
)
def test_it_opens_after_failures_in_a_row(
    verdicts: tuple[Verdict, ...], state: BreakerState
) -> None:
    breaker, _ = learn(CLOSED, *verdicts)

    assert breaker.state is state
    assert breaker.version == (1 if state is BreakerState.OPEN else 0)


def test_an_open_one_says_since_when_until_when_and_why() -> None:
    breaker, _ = learn(CLOSED, BAD, BAD, BAD)

    assert (breaker.since_ms, breaker.reason, breaker.failures) == (NOW_MS, "refused", 3)
    assert 30_000 <= breaker.until_ms - NOW_MS <= 36_000


def test_a_named_wait_is_kept_to_the_moment() -> None:
    """F-PR-07."""
    assert learn(CLOSED, rest(1_234))[0].until_ms == NOW_MS + 1_234


def test_a_longer_rest_makes_an_open_one_stay_open_and_the_same_again_changes_nothing() -> None:
    longer, _ = learn(OPEN, rest(300_000))

    assert (longer.until_ms, longer.version, longer.openings) == (NOW_MS + 300_000, 2, 1)
    assert learn(longer, rest(300_000), now_ms=NOW_MS + 999)[0] is longer
    assert learn(OPEN, rest(1_000))[0] is OPEN
    assert learn(OPEN, BAD, GOOD, SERVER_ERROR)[0] is OPEN


def test_it_is_ripe_when_its_pause_is_over_or_cannot_be_meant() -> None:
    assert not breakers.is_ripe(OPEN, NOW_MS)
    assert not breakers.is_ripe(OPEN, OPEN.until_ms - 1)
    assert breakers.is_ripe(OPEN, OPEN.until_ms)
    assert breakers.is_ripe(OPEN, NOW_MS - 86_400_000)  # the clock was set back by a day


# half-open


def test_it_grows_one_two_four_and_closes_at_the_full_concurrency() -> None:
    """F-CO-07."""
    breaker, tally = HALF, Tally()
    seen = []
    while breaker.state is BreakerState.HALF_OPEN:
        seen.append(tally.allowed)
        breaker, tally = learn(breaker, GOOD, tally=tally, now_ms=NOW_MS + 60_000)

    assert seen == [1, 2, 2, 4, 4, 4, 4]
    assert breaker == Breaker(name="relay", version=3, since_ms=NOW_MS + 60_000)
    assert tally == Tally()


@pytest.mark.parametrize("full", [1, 2])
def test_a_single_connection_closes_with_its_first_probe(full: int) -> None:
    assert learn(HALF, GOOD, rules=RULES._replace(full=full))[0].state is BreakerState.CLOSED


@pytest.mark.parametrize("verdict", [BAD, SERVER_ERROR])
def test_one_probe_that_fails_opens_it_for_longer(verdict: Verdict) -> None:
    later_ms = NOW_MS + 40_000
    again, _ = learn(HALF, GOOD, verdict, now_ms=later_ms)

    assert (again.state, again.openings, again.failures) == (BreakerState.OPEN, 2, 4)
    assert again.since_ms == NOW_MS  # when the trouble began
    assert 60_000 <= again.until_ms - later_ms <= 72_000


def test_what_is_our_own_doing_neither_opens_nor_closes_it() -> None:
    assert learn(HALF, NOTHING)[0] is HALF


def test_pauses_double_with_jitter_up_to_ten_minutes() -> None:
    pauses = [breakers.find_pause_ms(n, RULES, Random(n)) for n in range(1, 10)]
    floors = [30_000, 60_000, 120_000, 240_000, 480_000, *[600_000] * 4]

    assert all(
        floor <= pause <= floor * 1.2 for floor, pause in zip(floors, pauses, strict=True)
    )
    assert len({pause / floor for floor, pause in zip(floors, pauses, strict=True)}) > 5
    hour = RULES._replace(pause_ms=3_600_000)
    assert breakers.find_pause_ms(5, hour, Random(1)) >= 3_600_000
    assert breakers.find_pause_ms(10**6, RULES, Random(1)) <= 720_000


class BreakerMachine(RuleBasedStateMachine):
    """Any course of attempts: the tally and the breaker never leave what is promised."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CLOSED
        self.tally = Tally()
        self.now_ms = NOW_MS
        self.in_flight = 0
        self.rng = Random(1)

    @rule(seconds=st.integers(0, 900))
    def pass_time(self, seconds: int) -> None:
        self.now_ms += seconds * 1000

    @precondition(lambda self: self.breaker.state is BreakerState.OPEN)
    @rule()
    def begin(self) -> None:
        if breakers.is_ripe(self.breaker, self.now_ms):
            self.breaker = breakers.begin_probing(self.breaker, 1)
            self.tally = Tally()

    @precondition(lambda self: self.breaker.state is BreakerState.HALF_OPEN)
    @rule()
    def probe(self) -> None:
        if self.in_flight < self.tally.allowed:
            self.in_flight += 1

    @rule(verdict=st.sampled_from([GOOD, BAD, SERVER_ERROR, NOTHING, rest(5_000), rest(10**7)]))
    def answer(self, verdict: Verdict) -> None:
        before = self.breaker
        if self.in_flight:
            self.in_flight -= 1
        after, tally = learn(before, verdict, tally=self.tally, now_ms=self.now_ms)
        if after is not before:
            tally = Tally()
            assert after.version == before.version + 1
        elif before.state is BreakerState.CLOSED and verdict is GOOD:
            assert tally == Tally()
        if verdict is GOOD:
            assert after.state is not BreakerState.OPEN or before.state is BreakerState.OPEN
        if before.state is BreakerState.OPEN:
            assert after.state is BreakerState.OPEN
        self.breaker, self.tally = after, tally

    @invariant()
    def an_open_one_ends(self) -> None:
        if self.breaker.state is BreakerState.OPEN:
            assert self.breaker.until_ms <= self.now_ms + 10**7
            assert self.breaker.reason

    @invariant()
    def probes_stay_below_the_full_concurrency(self) -> None:
        assert 1 <= self.tally.allowed < RULES.full
        assert self.tally.good < self.tally.allowed
        assert self.tally.failures < RULES.failures


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40)
