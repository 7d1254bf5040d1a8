"""When a breaker opens, probes and closes; and that rates hold for all consumers together."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.core.breaker import (
    Health,
    Rules,
    Tally,
    Verdict,
    begin_probing,
    find_pause_ms,
    is_ripe,
    judge,
    learn,
)
from emailerctl.core.standing import Bounds, Permit, Refusal, Standing
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.models.rate import Rate, parse_rate
from emailerctl.store.base import Breaker, BreakerState
from tests.desk import ACCEPTED, GREYLISTED, NO_SUCH_USER, SILENCE, Desk

RULES = Rules(failures=5, pause_ms=30_000, full=16)
NOW_MS = 1_000_000
HOP = Party.NEXT_HOP
CLAIMER = 99


def transient(phase: Phase, code: int | None = None, **more: object) -> Outcome:
    fields = {"kind": Kind.TRANSIENT, "party": HOP, "phase": phase, "code": code, **more}
    return Outcome(**fields)  # type: ignore[arg-type]


REFUSED_CONNECTION = transient(Phase.CONNECT)


@pytest.mark.parametrize(
    ("outcome", "health"),
    [
        (ACCEPTED, Health.GOOD),
        (GREYLISTED, Health.GOOD),
        (NO_SUCH_USER, Health.GOOD),
        (Outcome(kind=Kind.PERMANENT, code=554), Health.GOOD),
        (SILENCE, Health.BAD),
        (REFUSED_CONNECTION, Health.BAD),
        (transient(Phase.TLS), Health.BAD),
        (transient(Phase.CONTENT), Health.BAD),
        (transient(Phase.ENVELOPE, 421), Health.BAD),
        (transient(Phase.ANSWER, 429), Health.BAD),
        (transient(Phase.ANSWER, 503), Health.SERVER_ERROR),
        (transient(Phase.ANSWER, 503, retry_after_ms=5_000), Health.BAD),
        (Outcome(kind=Kind.UNKNOWN, party=HOP, code=502), Health.SERVER_ERROR),
        (transient(Phase.AUTH, 535, alarm=Alarm.CREDENTIALS), Health.NEUTRAL),
        (transient(Phase.CONNECT, is_charged=False), Health.NEUTRAL),
        (transient(Phase.GATE), Health.NEUTRAL),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_an_attempt_says_of_its_next_hop(outcome: Outcome, health: Health) -> None:
    """F-CO-08: single recipients refused are no word against it."""
    assert judge({1: outcome}).health is health
    assert judge({}).health is Health.NEUTRAL


def test_the_worst_of_several_recipients_counts() -> None:
    assert judge({1: ACCEPTED, 2: SILENCE}).health is Health.BAD


class Line:
    """A breaker on a clock of its own."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules = rules
        self.now_ms = NOW_MS
        self.breaker = Breaker(name="relay")
        self.tally = Tally()
        self.rng = Random(1)

    def hear(self, health: Health, times: int = 1, rest_ms: int | None = None) -> BreakerState:
        for _ in range(times):
            before = self.breaker
            self.breaker, self.tally = learn(
                self.breaker,
                self.tally,
                Verdict(health, "421 no", rest_ms),
                rules=self.rules,
                now_ms=self.now_ms,
                rng=self.rng,
            )
            if self.breaker is not before:
                self.tally = Tally()
        return self.breaker.state

    def probe(self) -> None:
        """Let the pause pass and begin to probe."""
        self.now_ms = self.breaker.until_ms
        assert is_ripe(self.breaker, self.now_ms)
        self.breaker, self.tally = begin_probing(self.breaker, 7), Tally()


def test_failures_in_a_row_open_it() -> None:
    line = Line()

    assert line.hear(Health.BAD, 4) is BreakerState.CLOSED
    assert line.hear(Health.GOOD) is BreakerState.CLOSED
    assert line.hear(Health.BAD, 4) is BreakerState.CLOSED
    assert line.hear(Health.BAD) is BreakerState.OPEN
    assert line.breaker.until_ms >= NOW_MS + 30_000
    assert line.breaker.reason == "421 no"
    assert not is_ripe(line.breaker, line.breaker.until_ms - 1)


def test_two_server_errors_in_a_row_are_enough() -> None:
    """F-PR-08."""
    line = Line()

    assert line.hear(Health.SERVER_ERROR) is BreakerState.CLOSED
    assert line.hear(Health.GOOD) is BreakerState.CLOSED
    assert line.hear(Health.SERVER_ERROR, 2) is BreakerState.OPEN


def test_a_next_hop_that_asks_for_rest_gets_it_but_no_more_than_an_hour() -> None:
    """F-PR-07."""
    line = Line()

    assert line.hear(Health.BAD, rest_ms=90_000) is BreakerState.OPEN
    assert line.breaker.until_ms == NOW_MS + 90_000
    absurd = transient(Phase.ANSWER, 429, retry_after_ms=10**12)
    assert judge({1: absurd}).rest_ms == 3_600_000


def test_it_grows_by_doubling_until_it_closes() -> None:
    """F-CO-07."""
    line = Line()
    line.hear(Health.BAD, 5)
    line.probe()
    seen = []

    while line.breaker.state is BreakerState.HALF_OPEN:
        seen.append(line.tally.allowed)
        line.hear(Health.GOOD)

    assert seen == [1] + [2] * 2 + [4] * 4 + [8] * 8
    assert line.breaker.state is BreakerState.CLOSED


def test_a_probe_that_fails_opens_it_for_longer_and_not_without_end() -> None:
    line = Line()
    line.hear(Health.BAD, 5)
    pauses = []
    for _ in range(12):
        pauses.append(line.breaker.until_ms - line.now_ms)
        line.probe()
        assert line.hear(Health.BAD) is BreakerState.OPEN

    assert all(30_000 <= pauses[n] <= 720_000 for n in range(12))
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3]
    assert find_pause_ms(99, RULES, Random(1)) <= 720_000


def test_a_clock_that_was_set_back_keeps_nothing_shut() -> None:
    """F-CL-01."""
    line = Line()
    line.hear(Health.BAD, 5)

    assert is_ripe(line.breaker, line.now_ms - 86_400_000)


@given(st.lists(st.sampled_from([*Health, "pause"]), max_size=200))
def test_whatever_happens_it_is_in_order(happenings: list[Health | str]) -> None:
    line = Line(Rules(failures=3, pause_ms=1_000, full=8))
    for happening in happenings:
        before = line.breaker
        if isinstance(happening, Health):
            line.hear(happening)
        elif line.breaker.state is BreakerState.OPEN:
            line.probe()
        else:
            line.now_ms += 1_000
        after = line.breaker
        assert after.version - before.version in (0, 1)
        assert (after.version == before.version) == (after == before)
        assert 1 <= line.tally.allowed < 8
        if after.state is BreakerState.OPEN:
            assert after.until_ms >= after.since_ms


# shared through the store


def build(desk: Desk, owner: int = 1, **bounds: object) -> Standing:
    return Standing(
        desk.store,
        settings_hashes={},
        clock=desk.clock,
        bounds={"relay": Bounds(failures=2, pause_ms=10_000, concurrency=4, **bounds)},  # type: ignore[arg-type]
        owner=owner,
        rng=Random(1),
    )


async def admit(desk: Desk, standing: Standing) -> Permit | Refusal:
    if all(one.consumer_id != CLAIMER for one in await desk.store.list_consumers()):
        await desk.register(CLAIMER)
    return await standing.admit("relay", await desk.claim(await desk.add(), CLAIMER))


async def fail(desk: Desk, standing: Standing, times: int = 1) -> None:
    for _ in range(times):
        permit = await admit(desk, standing)
        assert isinstance(permit, Permit)
        standing.end(permit)
        change = standing.learn(permit, {1: REFUSED_CONNECTION})
        if change is not None:
            await standing.write(change)


async def test_what_one_consumer_finds_out_all_know(desk: Desk) -> None:
    one, other = build(desk, 1), build(desk, 2)
    await fail(desk, one, 2)

    assert isinstance(await admit(desk, one), Refusal)
    await other.refresh()
    assert isinstance(await admit(desk, other), Refusal)
    fresh = build(desk, 3)  # after a restart
    await fresh.refresh()
    assert isinstance(await admit(desk, fresh), Refusal)


async def test_one_consumer_probes_with_one_message_first(desk: Desk) -> None:
    """F-CO-07."""
    await desk.register(1)
    await desk.register(2)
    one, other = build(desk, 1), build(desk, 2)
    await fail(desk, one, 2)
    await other.refresh()
    desk.clock.advance(ms=13_000)

    probe = await admit(desk, one)

    assert isinstance(probe, Permit)
    assert probe.is_probe
    assert isinstance(await admit(desk, one), Refusal)
    assert isinstance(await admit(desk, other), Refusal)
    one.end(probe)
    assert one.learn(probe, {1: ACCEPTED}) is None  # grown to two, not closed yet
    assert isinstance(await admit(desk, one), Permit)
    assert isinstance(await admit(desk, one), Permit)
    assert isinstance(await admit(desk, one), Refusal)


async def test_what_began_before_the_last_change_says_nothing(desk: Desk) -> None:
    standing = build(desk)
    late = await admit(desk, standing)
    assert isinstance(late, Permit)
    await fail(desk, standing, 2)
    desk.clock.advance(ms=13_000)
    probe = await admit(desk, standing)
    assert isinstance(probe, Permit)

    assert standing.learn(late, {1: REFUSED_CONNECTION}) is None


@pytest.mark.parametrize("consumers", [1, 3])
async def test_a_rate_is_kept_by_all_consumers_together(desk: Desk, consumers: int) -> None:
    """F-CO-07: an outage ends with much due, and the next hop sees no more than its rate."""
    rate = parse_rate("100/s")
    crowd = [build(desk, n + 1, rate=rate) for n in range(consumers)]
    await desk.register(CLAIMER)
    claims = [await desk.claim(await desk.add(), CLAIMER) for _ in range(600)]
    sent_ms: list[int] = []
    for _ in range(500):
        for standing in crowd:
            while claims:
                answer = await standing.admit("relay", claims[-1])
                if isinstance(answer, Refusal):
                    assert answer.is_pace
                    break
                claims.pop()
                standing.end(answer)
                sent_ms.append(desk.clock.now_ms())
            await standing.renew()
        if not claims:
            break
        desk.clock.advance(ms=20)

    assert not claims, f"{len(claims)} still wait"
    for start in range(sent_ms[0], sent_ms[-1], 500):
        within = sum(start <= moment < start + 1_000 for moment in sent_ms)
        assert within <= 100 + 12  # a tenth of a second's patience
    assert sent_ms[-1] - sent_ms[0] >= 4_800


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", Rate(100, 1_000)),
        ("1000/h", Rate(1000, 3_600_000)),
        ("5/10m", Rate(5, 600_000)),
    ],
)
def test_a_rate_is_read_and_written(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert str(rate) == text


@pytest.mark.parametrize(
    "text", ["", "100", "0/s", "-1/s", "1/x", "1.5/s", "9999999/s", "1/0s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write for example|no limit|a million"):
        parse_rate(text)
