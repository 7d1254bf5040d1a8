"""Breakers and pace as consumers share them: one store, several of them, a clock that we set.

What is proved here for many consumers is proved without luck: each step of each consumer is
taken when the test says so.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Any

import pytest

from emailerctl.core.standing import Bounds, Permit, Refusal, Standing
from emailerctl.errors import StoreBusy
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.models.rate import Rate
from emailerctl.store.base import Breaker, BreakerState, Claim, HopState, NextHop
from tests.desk import ACCEPTED, NO_SUCH_USER, SILENCE, Desk

REFUSED = Outcome(
    kind=Kind.TRANSIENT, party=Party.NEXT_HOP, phase=Phase.CONNECT, reply="connection refused"
)
SLOW_DOWN = Outcome(
    kind=Kind.TRANSIENT,
    party=Party.NEXT_HOP,
    code=429,
    reply="429 slow down",
    retry_after_ms=300_000,
)
BOUNDS = Bounds(failures=3, pause_ms=30_000, concurrency=4)


@pytest.fixture
async def claim(desk: Desk) -> Claim:
    await desk.register(1)
    return await desk.claim(await desk.add())


def build(desk: Desk, owner: int = 1, **bounds: Any) -> Standing:
    """Return the standing as consumer *owner* has it."""
    merged = Bounds(**{"failures": 3, "pause_ms": 30_000, "concurrency": 4, **bounds})
    return Standing(
        desk.store,
        settings_hashes={},
        clock=desk.clock,
        bounds={"relay": merged, "backup": BOUNDS},
        owner=owner,
        rng=Random(owner),
    )


def variant(claim: Claim, n: int, *addresses: str) -> Claim:
    """Return another message of the kind."""
    recipients = claim.recipients
    if addresses:
        recipients = tuple(EnvelopeRecipient(i, a) for i, a in enumerate(addresses, 1))
    return claim._replace(message_id=claim.message_id + n, recipients=recipients)


async def attempt(standing: Standing, claim: Claim, outcome: Outcome) -> bool:
    """Make one attempt; return whether it was admitted."""
    permit = await standing.admit("relay", claim)
    if isinstance(permit, Refusal):
        return False
    standing.end(permit)
    change = standing.learn(permit, {1: outcome})
    if change is not None:
        await standing.write(change)
    return True


async def break_it(standing: Standing, claim: Claim) -> None:
    for _ in range(3):
        assert await attempt(standing, claim, REFUSED)


async def stored(desk: Desk) -> Breaker:
    _hops, found = await desk.store.load_standing()
    return next(one for one in found if one.name == "relay")


# the breaker


async def test_an_open_breaker_refuses_and_says_until_when(desk: Desk, claim: Claim) -> None:
    standing = build(desk)
    await break_it(standing, claim)

    refusal = await standing.admit("relay", claim)

    breaker = await stored(desk)
    assert breaker.state is BreakerState.OPEN
    assert refusal == Refusal(breaker.until_ms)
    assert standing.find_wait_ms("relay", claim) is None
    assert standing.find_wait_ms("backup", claim) == 0


async def test_nothing_is_written_while_all_goes_well(desk: Desk, claim: Claim) -> None:
    standing = build(desk)
    before = desk.driver.sizes.units
    for outcome in [ACCEPTED, NO_SUCH_USER, REFUSED, REFUSED] * 50:
        assert await attempt(standing, claim, outcome)

    assert desk.driver.sizes.units == before


async def test_refused_recipients_never_open_it(desk: Desk, claim: Claim) -> None:
    """F-CO-08."""
    standing = build(desk)
    for _ in range(100):
        assert await attempt(standing, claim, NO_SUCH_USER)


async def test_another_consumer_sees_it_with_its_next_look(desk: Desk, claim: Claim) -> None:
    one, other = build(desk, 1), build(desk, 2)
    await break_it(one, claim)
    assert isinstance(await other.admit("relay", claim), Permit)

    await other.tend()

    assert isinstance(await other.admit("relay", claim), Refusal)


async def test_it_survives_a_restart(desk: Desk, claim: Claim) -> None:
    await break_it(build(desk), claim)
    fresh = build(desk, 2)
    await fresh.refresh()

    assert isinstance(await fresh.admit("relay", claim), Refusal)


async def test_events_say_that_it_opened_and_that_it_closed(desk: Desk, claim: Claim) -> None:
    """One for each, however often it was probed in between."""
    standing = build(desk)
    await break_it(standing, claim)
    for _ in range(3):
        desk.clock.advance(h=1)
        assert await attempt(standing, claim, REFUSED)
    desk.clock.advance(h=1)
    for _ in range(4):
        assert await attempt(standing, claim, ACCEPTED)

    events = [e for e in await desk.events() if e.type == "next_hop.changed"]
    assert [(e.provider, e.data["breaker"]) for e in events] == [
        ("relay", "open"),
        ("relay", "closed"),
    ]
    assert events[0].data["reason"] == "connection refused"
    assert events[0].data["failures"] == 3


async def test_of_two_that_open_it_at_once_one_is_written(desk: Desk, claim: Claim) -> None:
    one, other = build(desk, 1), build(desk, 2)
    changes = []
    for standing in (one, other):
        permits = [await standing.admit("relay", claim) for _ in range(3)]
        for permit in permits:
            assert isinstance(permit, Permit)
            changes.append((standing, standing.learn(permit, {1: REFUSED})))
    writes = [(standing, change) for standing, change in changes if change is not None]
    assert len(writes) == 2

    await asyncio.gather(*(standing.write(change) for standing, change in writes))

    assert (await stored(desk)).version == 1
    assert len([e for e in await desk.events() if e.type == "next_hop.changed"]) == 1
    refusals = [await standing.admit("relay", claim) for standing in (one, other)]
    assert refusals[0] == refusals[1] == Refusal((await stored(desk)).until_ms)


async def test_only_one_consumer_probes(desk: Desk, claim: Claim) -> None:
    """F-CO-07: and it begins with a single message."""
    consumers = [build(desk, n) for n in (1, 2, 3)]
    for n in (2, 3):
        await desk.register(n)
    await break_it(consumers[0], claim)
    for standing in consumers:
        await standing.tend()
    desk.clock.advance(s=40)
    for n in (1, 2, 3):
        await desk.store.renew(
            n, now_ms=0, lease_until_ms=desk.clock.boot_ms() + 10_000, in_flight=0
        )

    answers = await asyncio.gather(
        *(standing.admit("relay", claim) for standing in consumers for _ in range(5))
    )
    for standing in consumers:
        await standing.tend()
        answers += [await standing.admit("relay", claim) for _ in range(5)]

    assert sum(isinstance(answer, Permit) for answer in answers) == 1


async def test_a_growing_number_is_in_flight_until_it_closes(desk: Desk, claim: Claim) -> None:
    """F-CO-07: 1, 2, 4 …, whatever the order of their answers."""
    standing = build(desk, concurrency=16)
    await break_it(standing, claim)
    desk.clock.advance(s=40)
    seen = []
    while (await stored(desk)).state is not BreakerState.CLOSED:
        permits: list[Permit] = []
        while isinstance(answer := await standing.admit("relay", claim), Permit):
            permits.append(answer)
        assert standing.find_wait_ms("relay", claim) is None
        assert standing.is_busy("relay")
        seen.append(len(permits))
        for permit in reversed(permits):
            standing.end(permit)
            change = standing.learn(permit, {1: ACCEPTED})
            if change is not None:
                await standing.write(change)

    assert seen == [1, 2, 4, 8]


async def test_a_probe_that_is_over_without_a_word_frees_its_place(
    desk: Desk, claim: Claim
) -> None:
    """A mark that was refused says nothing about the next hop."""
    standing = build(desk)
    await break_it(standing, claim)
    desk.clock.advance(s=40)
    permit = await standing.admit("relay", claim)
    assert isinstance(permit, Permit)
    assert isinstance(await standing.admit("relay", claim), Refusal)

    standing.end(permit)

    assert isinstance(await standing.admit("relay", claim), Permit)


async def test_probes_that_hang_keep_their_places(desk: Desk, claim: Claim) -> None:
    """F-CO-07: those of an earlier try, too: never more in flight than allowed."""
    standing = build(desk, concurrency=16)
    await break_it(standing, claim)
    desk.clock.advance(s=40)
    assert await attempt(standing, claim, ACCEPTED)
    hanging, failing = [await standing.admit("relay", claim) for _ in range(2)]
    assert isinstance(failing, Permit)
    standing.end(failing)
    change = standing.learn(failing, {1: REFUSED})
    assert change is not None
    await standing.write(change)
    desk.clock.advance(m=2)

    assert isinstance(await standing.admit("relay", claim), Refusal)
    assert isinstance(hanging, Permit)
    standing.end(hanging)
    assert isinstance(await standing.admit("relay", claim), Permit)


async def test_late_answers_of_before_neither_open_nor_close_it(
    desk: Desk, claim: Claim
) -> None:
    standing = build(desk)
    old = [await standing.admit("relay", claim) for _ in range(8)]
    await break_it(standing, claim)
    desk.clock.advance(s=40)
    assert isinstance(await standing.admit("relay", claim), Permit)

    for permit, outcome in zip(old, [ACCEPTED, SILENCE] * 4, strict=True):
        assert isinstance(permit, Permit)
        assert standing.learn(permit, {1: outcome}) is None

    assert (await stored(desk)).state is BreakerState.HALF_OPEN


async def test_whoever_is_left_takes_over_the_probing(desk: Desk, claim: Claim) -> None:
    """A consumer that was killed, or stopped past its lease, took its probes along."""
    await desk.register(2)
    one, other = build(desk, 1), build(desk, 2)
    await break_it(one, claim)
    desk.clock.advance(s=40)
    assert isinstance(await one.admit("relay", claim), Permit)
    await other.tend()
    assert isinstance(await other.admit("relay", claim), Refusal)

    await desk.void(1)
    await other.tend()

    assert isinstance(await other.admit("relay", claim), Permit)
    assert (await stored(desk)).owner == 2
    await one.refresh()
    assert isinstance(await one.admit("relay", claim), Refusal)


async def test_a_rest_is_honoured_to_the_moment(desk: Desk, claim: Claim) -> None:
    """F-PR-07: the first 429 that names a wait is enough, also a late one."""
    standing = build(desk)
    assert await attempt(standing, claim, SLOW_DOWN)
    until_ms = desk.clock.now_ms() + 300_000

    assert await standing.admit("relay", claim) == Refusal(until_ms)
    desk.clock.advance(ms=299_999)
    assert isinstance(await standing.admit("relay", claim), Refusal)
    desk.clock.advance(ms=1)
    assert isinstance(await standing.admit("relay", claim), Permit)


async def test_an_operator_closes_it(desk: Desk, claim: Claim) -> None:
    standing = build(desk)
    await break_it(standing, claim)
    hop = NextHop(
        name="relay", state=HopState.OPEN, changed_ms=desk.clock.now_ms(), actor="eve"
    )
    await desk.store.set_next_hop(hop)
    await standing.refresh()

    assert isinstance(await standing.admit("relay", claim), Permit)
    assert (await stored(desk)).state is BreakerState.CLOSED


async def test_what_an_operator_disabled_is_not_probed(desk: Desk, claim: Claim) -> None:
    standing = build(desk)
    await break_it(standing, claim)
    await desk.store.set_next_hop(NextHop(name="relay", state=HopState.DISABLED, actor="eve"))
    await standing.refresh()
    desk.clock.advance(h=1)

    assert await standing.admit("relay", claim) == Refusal(None)
    assert not standing.is_probing("relay")


async def test_a_breaker_that_cannot_be_written_works_all_the_same(
    desk: Desk, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = build(desk)
    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "set_breaker", refuse_to_write)
        await break_it(standing, claim)
        assert isinstance(await standing.admit("relay", claim), Refusal)
        await standing.refresh()
        assert isinstance(await standing.admit("relay", claim), Refusal)
        desk.clock.advance(s=40)
        assert isinstance(await standing.admit("relay", claim), Refusal)

    assert isinstance(await standing.admit("relay", claim), Permit)
    assert (await stored(desk)).state is BreakerState.HALF_OPEN


async def refuse_to_write(*_arguments: object, **_named: object) -> Breaker:
    raise StoreBusy("busy")


# waking


async def park(desk: Desk, count: int) -> None:
    """Bring messages to where a shut chain leaves them: due in an hour, for a next hop."""
    first = desk.build().message_id
    await asyncio.gather(*(desk.add(message_id=first + n) for n in range(count)))
    desk.change("UPDATE work SET waiting_for = 'next_hop', due_at = due_at + 3600000")


async def test_what_waits_is_woken_in_portions_when_a_next_hop_opens(
    desk: Desk, claim: Claim
) -> None:
    del claim
    await desk.store.set_next_hop(NextHop(name="relay", state=HopState.DISABLED))
    standing = build(desk)
    await standing.tend()
    await park(desk, 3_100)
    hop = NextHop(name="relay", state=HopState.OPEN, changed_ms=desk.clock.now_ms())
    await desk.store.set_next_hop(hop)
    counts = [len(await desk.due(relay=10_000))]

    for _ in range(3):
        await standing.tend()
        counts.append(len(await desk.due(relay=10_000)))

    assert counts == [1_000, 3_000, 3_100, 3_100]


async def test_when_a_pause_is_over_some_are_woken_to_probe_with(
    desk: Desk, claim: Claim
) -> None:
    standing = build(desk)
    await break_it(standing, claim)
    await park(desk, 600)
    await standing.tend()
    assert await desk.due(relay=1_000) == ()
    desk.clock.advance(s=40)

    await standing.tend()
    await standing.tend()

    assert len(await desk.due(relay=1_000)) == 500


# the pace


async def send_what_may(standing: Standing, claims: Collection[Claim]) -> list[Claim]:
    """Ask for a turn for each, as the loop does, and return those that had it."""
    for claim in claims:
        standing.find_wait_ms("relay", claim)
    await standing.renew()
    gone = []
    for claim in claims:
        if standing.find_wait_ms("relay", claim) == 0:
            permit = await standing.admit("relay", claim)
            assert isinstance(permit, Permit)
            standing.end(permit)
            gone.append(claim)
    return gone


def find_burst(moments_ms: Collection[int], rate: Rate) -> int:
    """Return the most by which any stretch of time exceeds what the rate allows in it."""
    moments = sorted(moments_ms)
    best, worst = 0.0, 0.0
    for n, at_ms in enumerate(moments):  # a walk's largest rise
        level = n - at_ms * rate.count / rate.period_ms
        best = min(best, level) if n else level
        worst = max(worst, level - best + 1)
    return round(worst)


@pytest.mark.parametrize("consumers", [1, 3])
@pytest.mark.parametrize("rate", [Rate(100, 1_000), Rate(5, 1_000), Rate(600, 3_600_000)])
async def test_never_above_the_rate_however_many_consumers(
    desk: Desk, claim: Claim, rate: Rate, consumers: int
) -> None:
    """A burst is half a second's worth at the most, and a backlog uses the rate up."""
    standings = [build(desk, n + 1, rate=rate) for n in range(consumers)]
    waiting = [[variant(claim, 10_000 * n + i) for i in range(60)] for n in range(consumers)]
    rng = Random(1)
    moments: list[int] = []
    step_ms = min(20, rate.interval_us // 1_000)
    seconds = 8 if rate.period_ms == 1_000 else 120
    start_ms = desk.clock.now_ms()
    while desk.clock.now_ms() < start_ms + seconds * 1_000:
        for standing, claims in zip(standings, waiting, strict=True):
            if rng.random() < 0.9:  # sometimes it is busy with something else
                gone = await send_what_may(standing, claims)
                moments += [desk.clock.now_ms()] * len(gone)
        desk.clock.advance(ms=step_ms if rate.count != 600 else 500)

    allowed = seconds * 1_000 * rate.count / rate.period_ms
    assert find_burst(moments, rate) <= 2 + rate.count_in(500)
    assert 0.85 * allowed <= len(moments) <= allowed + rate.count_in(500) + 1


async def test_a_rate_costs_the_store_no_write_for_a_message(desk: Desk, claim: Claim) -> None:
    standing = build(desk, rate=Rate(1_000, 1_000))
    claims = [variant(claim, n) for n in range(500)]
    before, sent = desk.driver.sizes.units, 0
    for _ in range(100):
        sent += len(await send_what_may(standing, claims))
        desk.clock.advance(ms=10)

    assert sent > 950
    assert desk.driver.sizes.units - before <= 10


async def test_a_domains_rate_holds_nobody_else_up(desk: Desk, claim: Claim) -> None:
    standing = build(
        desk, domain_rates={"gmail.com": Rate(2, 1_000), "*": Rate(10, 1_000)}, concurrency=16
    )
    claims = [variant(claim, n, f"u{n}@gmail.com") for n in range(50)]
    claims += [variant(claim, 100 + n, f"u@d{n}.example") for n in range(5)]
    both = variant(claim, 200, "a@gmail.com", "b@d1.example")
    seen: Counter[str] = Counter()
    for _ in range(100):
        for gone in await send_what_may(standing, claims):
            claims.remove(gone)
            seen[gone.recipients[0].address.rpartition("@")[2]] += 1
        desk.clock.advance(ms=20)

    assert 4 <= seen["gmail.com"] <= 5
    assert {seen[f"d{n}.example"] for n in range(5)} == {1}
    assert await send_what_may(standing, [both, *claims]) != [both, *claims]


async def test_over_a_rate_is_not_shut(desk: Desk, claim: Claim) -> None:
    """A message waits for its turn there: the next in the chain has nothing to do with it."""
    standing = build(desk, rate=Rate(1, 10_000))
    assert await send_what_may(standing, [claim]) == [claim]

    refusal = await standing.admit("relay", claim)

    assert isinstance(refusal, Refusal)
    assert refusal.is_pace


async def test_what_is_over_a_domains_rate_stands_in_line(desk: Desk, claim: Claim) -> None:
    """In order, spread at the rate, and who has waited looks again at once."""
    standing = build(desk, domain_rates={"gmail.com": Rate(10, 1_000)})
    claims = [variant(claim, n, f"u{n}@gmail.com") for n in range(40)]
    returned = variant(claim, 100, "u@gmail.com")._replace(due_ms=claim.age_from_ms + 60_000)
    other = variant(claim, 101, "u@quick.example")
    await send_what_may(standing, claims[:1])

    late = standing.find_late("relay", [*claims, returned, other])

    now_ms = desk.clock.now_ms()
    assert list(late) == [one.message_id for one in [*claims[10:], returned]]
    waits = [late[one.message_id] - now_ms for one in claims[10:]]
    assert waits == [1_000 + 100 * n for n in range(1, 31)]
    assert late[returned.message_id] - now_ms == 1_000


async def test_a_line_that_is_long_is_looked_at_within_ten_minutes(
    desk: Desk, claim: Claim
) -> None:
    standing = build(desk, domain_rates={"*": Rate(1, 60_000)})
    claims = [variant(claim, n, f"u{n}@gmail.com") for n in range(60)]

    late = standing.find_late("relay", claims)

    waits = [at_ms - desk.clock.now_ms() for at_ms in late.values()]
    assert max(waits) <= 600_000
    assert len(set(waits)) > 30


async def test_a_rate_bounds_what_is_held_for_it(desk: Desk) -> None:
    """So that what comes later and is urgent need not wait for what was claimed before it."""
    assert build(desk).find_room("relay", 64) == 64
    assert build(desk, rate=Rate(10, 1_000)).find_room("relay", 64) == 20
    assert build(desk, rate=Rate(10, 3_600_000)).find_room("relay", 64) == 2
    assert build(desk, rate=Rate(10_000, 1_000)).find_room("relay", 64) == 64


async def test_use_is_known(desk: Desk, claim: Claim) -> None:
    standing = build(desk, rate=Rate(10, 1_000))
    await send_what_may(standing, [variant(claim, n) for n in range(10)])

    usage = (await desk.store.list_usage())["relay"]

    assert usage == (desk.clock.now_ms() // 60_000, 10, 0)


async def test_a_clock_set_back_does_not_stop_the_pace(desk: Desk, claim: Claim) -> None:
    """F-CL-01."""
    standing, other = (build(desk, n, rate=Rate(10, 1_000)) for n in (1, 2))
    assert await send_what_may(standing, [claim])
    desk.clock.jump(-86_400_000)

    assert await send_what_may(standing, [claim])
    desk.clock.advance(s=1)
    assert await send_what_may(other, [claim])
