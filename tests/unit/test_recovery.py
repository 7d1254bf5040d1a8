"""F-CO-07: an outage of ten minutes ends with 50,000 messages due, and there is no storm.

A simulation: three consumers with the real standing over one real store, a next hop that is
down for ten minutes, and a clock of ours.  The messages are counted, not stored: what decides
is asked for each of them, as the loop does.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from random import Random

import pytest

from emailerctl.core.standing import Bounds, Permit, Refusal, Standing
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.models.rate import Rate
from emailerctl.store.base import Breaker, BreakerState, Claim
from tests.desk import ACCEPTED, LEASE_MS, Desk

OUTAGE_MS = 600_000
MESSAGES = 50_000
RATE = Rate(1_000, 1_000)
CONCURRENCY = 16
TICK_MS = 20
ANSWER_MS = 40
PARKED_MS = 30_000

REFUSED = Outcome(
    kind=Kind.TRANSIENT, party=Party.NEXT_HOP, phase=Phase.CONNECT, reply="connection refused"
)


@dataclass
class NextHopOfOurs:
    """A next hop that is down until a moment, and remembers who came when."""

    up_ms: int
    hits: list[int] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: dict[BreakerState, int] = field(default_factory=dict)

    def meet(self, now_ms: int) -> Outcome:
        self.hits.append(now_ms)
        return ACCEPTED if now_ms >= self.up_ms else REFUSED


@dataclass
class ConsumerOfOurs:
    """A consumer: some attempts side by side, and no other thought."""

    standing: Standing
    under_way: list[tuple[int, int, Permit, Outcome]] = field(default_factory=list)


class Simulation:
    """Everything that happens, tick by tick."""

    def __init__(self, desk: Desk, claim: Claim, consumers: int) -> None:
        self.desk = desk
        self.claim = claim
        self.start_ms = desk.clock.now_ms()
        self.hop = NextHopOfOurs(self.start_ms + OUTAGE_MS)
        self.breakers: list[Breaker] = []
        self.consumers = [
            ConsumerOfOurs(
                Standing(
                    desk.store,
                    settings_hashes={},
                    clock=desk.clock,
                    bounds={"relay": Bounds(concurrency=CONCURRENCY, rate=RATE)},
                    owner=n + 1,
                    rng=Random(n),
                    on_breaker=self.breakers.append,
                )
            )
            for n in range(consumers)
        ]
        self.due: deque[int] = deque(range(MESSAGES))
        self.parked: list[tuple[int, int]] = []
        self.sent = 0
        self.rng = Random(7)
        self.probes: list[int] = []
        self.alive_ms = 0

    async def run(self) -> None:
        clock, tick = self.desk.clock, 0
        while self.sent < MESSAGES:
            now_ms = clock.now_ms()
            assert now_ms < self.start_ms + 3_600_000, f"{self.sent} sent after an hour"
            while self.parked and self.parked[0][0] <= now_ms:
                self.due.append(heapq.heappop(self.parked)[1])
            if now_ms - self.alive_ms >= LEASE_MS // 2:
                await self.keep_alive()
            for n, consumer in enumerate(self.consumers):
                if tick % (1_000 // TICK_MS) == n:
                    await consumer.standing.tend()
                await self.finish(consumer, now_ms)
                await self.begin(consumer, now_ms)
            self.observe()
            # Nothing can happen before somebody looks again: a second at once.
            is_quiet = not self.due and not any(one.under_way for one in self.consumers)
            if is_quiet and tick % (1_000 // TICK_MS) == len(self.consumers):
                clock.advance(ms=1_000 - len(self.consumers) * TICK_MS)
                tick = 0
                continue
            clock.advance(ms=TICK_MS)
            tick += 1

    async def keep_alive(self) -> None:
        clock = self.desk.clock
        self.alive_ms = clock.now_ms()
        for n in range(len(self.consumers)):
            await self.desk.store.renew(
                n + 1,
                now_ms=clock.now_ms(),
                lease_until_ms=clock.boot_ms() + LEASE_MS,
                in_flight=0,
            )

    async def finish(self, consumer: ConsumerOfOurs, now_ms: int) -> None:
        """Let the attempts end whose answers have come."""
        while consumer.under_way and consumer.under_way[0][0] <= now_ms:
            _, message, permit, outcome = heapq.heappop(consumer.under_way)
            consumer.standing.end(permit)
            change = consumer.standing.learn(permit, {1: outcome})
            if change is not None:
                await consumer.standing.write(change)
            if outcome is ACCEPTED:
                self.sent += 1
            else:
                self.park(message, now_ms)

    async def begin(self, consumer: ConsumerOfOurs, now_ms: int) -> None:
        """Begin what may begin: as many attempts as there are connections."""
        standing = consumer.standing
        size = standing.find_room("relay", 4 * CONCURRENCY)
        while self.due and len(consumer.under_way) < CONCURRENCY:
            claim = self.message(self.due[0])
            wait_ms = standing.find_wait_ms("relay", claim)
            if wait_ms == 1:  # the store has to be asked: for what is held, as the loop does
                for n in range(size):
                    standing.find_wait_ms("relay", self.message(n))
                await standing.renew()
                wait_ms = standing.find_wait_ms("relay", claim)
            if wait_ms or (wait_ms is None and standing.is_busy("relay")):
                return
            message = self.due.popleft()
            answer = await standing.admit("relay", claim)
            if isinstance(answer, Refusal):
                self.park(message, max(now_ms, answer.until_ms or 0))
                continue
            outcome = self.hop.meet(now_ms)
            end_ms = now_ms + ANSWER_MS
            heapq.heappush(consumer.under_way, (end_ms, message, answer, outcome))

    def park(self, message: int, from_ms: int) -> None:
        due_ms = from_ms + round(PARKED_MS * self.rng.random())
        heapq.heappush(self.parked, (due_ms, message))

    def message(self, n: int) -> Claim:
        return self.claim._replace(message_id=self.claim.message_id + n)

    def observe(self) -> None:
        probes = sum(
            entry[2].is_probe for consumer in self.consumers for entry in consumer.under_way
        )
        if probes and (not self.probes or self.probes[-1] != probes):
            self.probes.append(probes)


def find_burst(moments_ms: list[int], rate: Rate) -> float:
    """Return the most by which any stretch of time exceeds what the rate allows in it."""
    lowest, worst = float("inf"), 0.0
    for n, at_ms in enumerate(moments_ms):
        level = n - at_ms * rate.count / rate.period_ms
        lowest = min(lowest, level)
        worst = max(worst, level - lowest + 1)
    return worst


@pytest.mark.timeout(120)
async def test_an_outage_of_ten_minutes_ends_without_a_storm(desk: Desk) -> None:
    """F-CO-07: never more than rate x time + a burst, and 1, 2, 4 … at first."""
    consumers = 3
    for n in range(consumers):
        await desk.register(n + 1)
    claim = await desk.claim(await desk.add())
    simulation = Simulation(desk, claim, consumers)

    await simulation.run()

    hop = simulation.hop
    down = [at_ms for at_ms in hop.hits if at_ms < hop.up_ms]
    up = [at_ms for at_ms in hop.hits if at_ms >= hop.up_ms]
    # While it was down: what was in flight when it broke, then one probe a pause.
    assert len(down) <= consumers * CONCURRENCY + 10
    assert max(find_burst(down[consumers * CONCURRENCY :] or [0], Rate(1, 20_000)), 0) <= 2
    # When it was up again: everything goes out once, at the rate, which is used up.
    assert len(up) == MESSAGES
    assert find_burst(up, RATE) <= RATE.count_in(500) + 2
    seconds = (up[-1] - up[0]) / 1_000
    assert MESSAGES / seconds >= 0.8 * RATE.count
    assert up[0] - hop.up_ms <= 750_000  # the longest pause, and what waits for it
    # The breaker: opened once, probed again and again, closed once.
    states = [breaker.state for breaker in simulation.breakers]
    assert states[0] is BreakerState.OPEN
    assert states[-1] is BreakerState.CLOSED
    assert states.count(BreakerState.CLOSED) == 1
    grown = simulation.probes[-4:]
    assert sorted(set(grown)) == [1, 2, 4, 8]
