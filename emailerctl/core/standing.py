"""Standing: which next hops take mail now, and how much of it.

Three things decide: an operator or refused credentials (open, paused, disabled), the breaker
(`core/breaker.py`) and the pace (`core/pace.py`).  All are in the store, shared by consumers;
a look a second is how one learns what another has found out.  A message is asked for with
`admit` and accounted for with `end` and `learn`, which write only when something changes.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from emailerctl.core import breaker as breakers
from emailerctl.core.breaker import Health, Rules, Tally
from emailerctl.core.pace import AHEAD_US, Stretch, count_places
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock
from emailerctl.models.outcome import Alarm, Outcome
from emailerctl.models.rate import Rate
from emailerctl.store.base import (
    Breaker,
    BreakerState,
    Claim,
    HopState,
    NextHop,
    Stint,
    Store,
)

_SOON_MS = 1_000  # what only waits for others to finish looks again after this
_LEASE_US = 1_000  # until the store has been asked for a stretch
_LINE_MS = 600_000  # what must wait longer for its domain looks again by then
_WOKEN_AT_ONCE = 2_000
_PROBES_WOKEN = 500
_KEPT_US = 10_000_000
ANY = "*"  # of `domain_rates`: each domain that is not named

_Key = tuple[str, str]  # a next hop, and a recipient domain or ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the settings say of a next hop: its breaker and its rates.

    Attributes:
        concurrency: attempts at once, of one consumer.
        domain_rates: by recipient domain; `*`: each of the others.
    """

    failures: int = 5
    pause_ms: int = 30_000
    concurrency: int = 16
    rate: Rate | None = None
    domain_rates: Mapping[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one attempt; given back with `end`."""

    name: str
    version: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a next hop does not take a message now.

    Attributes:
        until_ms: when to look again; None: nobody knows.
        is_pace: it is not shut: the message waits for its turn there and nowhere else.
    """

    until_ms: int | None
    is_pace: bool = False


def _ignore(_breaker: Breaker) -> None:
    """Tell nobody."""


class Standing:
    """The next hops' standing, shared by all deliveries of a process.

    Args:
        settings_hashes: of each next hop's settings, so that a consumer that starts with a new
            password opens what the old one had paused.
        bounds: of each next hop, by name.
        owner: the consumer, as whom this process probes.
        on_breaker: told of every change of a breaker that this process made.
    """

    def __init__(
        self,
        store: Store,
        *,
        settings_hashes: Mapping[str, str],
        clock: Clock,
        bounds: Mapping[str, Bounds] | None = None,
        owner: int = 0,
        rng: Random | None = None,
        on_breaker: Callable[[Breaker], None] = _ignore,
    ) -> None:
        """Start with every next hop open; `refresh` tells."""
        self._store = store
        self._clock = clock
        self._settings_hashes = settings_hashes
        self._bounds = bounds or {}
        self._has_rates = any(one.rate or one.domain_rates for one in self._bounds.values())
        self._owner = owner
        self._rng = rng or Random()  # noqa: S311  (jitter)
        self._on_breaker = on_breaker
        self._hops: dict[str, NextHop] = {}
        self._breakers: dict[str, Breaker] = {}
        self._tallies: dict[str, Tally] = {}
        self._probes: Counter[str] = Counter()
        self._changing: set[str] = set()
        self._orphaned: set[str] = set()
        self._woken: dict[str, int] = {}
        self._must_wake = False
        self._stretches: dict[_Key, Stretch] = {}
        self._wanted: dict[_Key, tuple[Rate, set[int]]] = {}
        self._later_us: dict[_Key, int] = {}
        self._lines_us: dict[_Key, int] = {}

    # what the store says

    async def refresh(self) -> None:
        """Read the standing from the store."""
        hops, found = await self._store.load_standing()
        was_shut = {name for name in {*self._hops, *self._breakers} if self._is_shut(name)}
        self._hops = {hop.name: hop for hop in hops}
        for breaker in found:
            if breaker.version > self._find_breaker(breaker.name).version:
                self._adopt(breaker)
        self._must_wake |= any(not self._is_shut(name) for name in was_shut)

    async def tend(self) -> None:
        """Look at the store, once a second: what others found out, and who waits for what.

        What waits is woken in portions: a part for the probes when a pause is over, and
        everything, a part with each look, once a next hop is open again.
        """
        await self.refresh()
        await self._find_orphans()
        now_ms = self._clock.now_ms()
        for breaker in self._breakers.values():
            is_ripe = breaker.state is BreakerState.OPEN and breakers.is_ripe(breaker, now_ms)
            if is_ripe and self._woken.get(breaker.name) != breaker.version:
                await self._store.wake_parked(now_ms=now_ms, limit=_PROBES_WOKEN)
                self._woken[breaker.name] = breaker.version
        if self._must_wake:
            woken = await self._store.wake_parked(now_ms=now_ms, limit=_WOKEN_AT_ONCE)
            self._must_wake = woken == _WOKEN_AT_ONCE
        self._forget_old()

    async def _find_orphans(self) -> None:
        """Find the breakers whose prober is gone: its probes went with it."""
        probed = [
            one
            for one in self._breakers.values()
            if one.state is BreakerState.HALF_OPEN and one.owner != self._owner
        ]
        self._orphaned = set()
        if probed:
            boot_ms = self._clock.boot_ms()
            consumers = await self._store.list_consumers()
            alive = {one.consumer_id for one in consumers if one.lease_until_ms > boot_ms}
            self._orphaned = {one.name for one in probed if one.owner not in alive}

    def _forget_old(self) -> None:
        now_us = self._clock.now_ms() * 1000
        for key in [k for k, one in self._stretches.items() if one.end_us < now_us - _KEPT_US]:
            del self._stretches[key]
        for moments in (self._later_us, self._lines_us):
            for key in [key for key, at_us in moments.items() if at_us < now_us]:
                del moments[key]

    # paused and disabled

    async def reopen_changed(self) -> list[str]:
        """Open the next hops that were paused under other settings; return their names."""
        await self.refresh()
        changed = [
            hop.name
            for hop in self._hops.values()
            if hop.state is HopState.PAUSED
            and hop.name in self._settings_hashes
            and hop.settings_hash != self._settings_hashes[hop.name]
        ]
        for name in changed:
            await self._set(name, HopState.OPEN, "its settings changed")
        return changed

    async def pause(self, name: str, alarm: Alarm, reply: str) -> None:
        """Pause a next hop that refused our credentials, until an operator or new settings."""
        await self.refresh()  # an operator may just have disabled it
        if self.is_open(name):
            await self._set(name, HopState.PAUSED, f"{alarm}: {reply}")

    async def _set(self, name: str, state: HopState, reason: str) -> None:
        hop = NextHop(
            name=name,
            state=state,
            reason=reason,
            changed_ms=self._clock.now_ms(),
            actor="consumer",
            settings_hash=self._settings_hashes.get(name, ""),
        )
        await self._store.set_next_hop(hop)
        self._hops[name] = hop

    def is_open(self, name: str) -> bool:
        """Return whether *name* may take mail, as far as operators and credentials go."""
        hop = self._hops.get(name)
        return hop is None or hop.state is HopState.OPEN

    def find_open(self, chain: Sequence[str], start: int) -> int | None:
        """Return the first next hop of *chain* from *start* on that takes mail now, or None."""
        return next((i for i in range(start, len(chain)) if not self._is_shut(chain[i])), None)

    def _is_shut(self, name: str) -> bool:
        return not self.is_open(name) or (
            self._find_breaker(name).state is not BreakerState.CLOSED
        )

    # one attempt

    async def admit(self, name: str, claim: Claim) -> Permit | Refusal:
        """Ask *name* to take a message now; a permit must be given back with `end`."""
        if not self.is_open(name):
            return Refusal(None)
        breaker = self._find_breaker(name)
        if breaker.state is not BreakerState.CLOSED and not await self._may_probe(name):
            return Refusal(self._find_end_ms(name))
        wait_us = self._find_turn_us(name, claim)
        if wait_us:
            return Refusal(self._clock.now_ms() + -(-wait_us // 1000), is_pace=True)
        now_us = self._clock.now_ms() * 1000
        for key, _rate in self._find_rates(name, claim):
            self._stretches[key].take(now_us)
        breaker = self._find_breaker(name)
        is_probe = breaker.state is BreakerState.HALF_OPEN
        if is_probe:
            self._probes[name] += 1
        return Permit(name, breaker.version, is_probe)

    def find_wait_ms(self, name: str, claim: Claim) -> int | None:
        """Return how long a message must wait for its turn at *name*; None: it is shut.

        What `admit` would say, without asking for it.
        """
        if not self.is_open(name):
            return None
        breaker = self._breakers.get(name)
        if breaker is not None and breaker.state is not BreakerState.CLOSED:
            can_begin = name not in self._changing and self._can_begin_probing(breaker)
            if not can_begin and not self._has_probe_free(name):
                return None
        return -(-self._find_turn_us(name, claim) // 1000)

    @property
    def is_plain(self) -> bool:
        """Whether nothing limits any next hop just now: nobody has to wait for a turn."""
        return not self._has_rates and all(
            breaker.state is BreakerState.CLOSED for breaker in self._breakers.values()
        )

    def is_busy(self, name: str) -> bool:
        """Return whether *name* is shut to more messages only while this process probes it."""
        return self.is_open(name) and (name in self._changing or self.is_probing(name))

    def is_probing(self, name: str) -> bool:
        """Return whether this process probes *name*, or could begin to."""
        breaker = self._breakers.get(name)
        return (
            breaker is not None
            and self.is_open(name)
            and (self._is_prober(breaker) or self._can_begin_probing(breaker))
        )

    def _is_prober(self, breaker: Breaker) -> bool:
        return breaker.state is BreakerState.HALF_OPEN and breaker.owner == self._owner

    def find_room(self, name: str, room: int) -> int:
        """Return how many messages to hold for *name*, where nothing else would say *room*."""
        rate = self._find_bounds(name).rate
        if rate is not None:  # two seconds' worth: what comes later and is urgent goes first
            room = min(room, max(2, rate.count_in(2_000)))
        if self.is_probing(name):
            room = min(room, 2 * self._tallies.get(name, Tally()).allowed)
        return room

    def end(self, permit: Permit) -> None:
        """Give a permit back: the attempt is over, whatever came of it."""
        if permit.is_probe:
            self._probes[permit.name] -= 1

    def learn(self, permit: Permit, outcomes: Mapping[int, Outcome]) -> Breaker | None:
        """Take in what an attempt met; return the breaker's change, for `write`.

        What began before the last change says nothing about what is now, unless the next hop
        itself asks to be left alone.
        """
        name = permit.name
        verdict = breakers.judge(outcomes)
        breaker = self._find_breaker(name)
        if verdict.health is Health.NEUTRAL or (
            permit.version != breaker.version and verdict.rest_ms is None
        ):
            return None
        bounds = self._find_bounds(name)
        new, self._tallies[name] = breakers.learn(
            breaker,
            self._tallies.get(name, Tally()),
            verdict,
            rules=Rules(bounds.failures, bounds.pause_ms, bounds.concurrency),
            now_ms=self._clock.now_ms(),
            rng=self._rng,
        )
        if new is breaker:
            return None
        self._adopt(new)  # at once: what starts before it is written goes by it
        return new

    async def write(self, breaker: Breaker) -> None:
        """Write a change of a breaker; where somebody was faster theirs holds.

        Where it can't be written this process goes by it all the same, at the version that the
        store has, so that the next change can be.
        """
        try:
            held = await self._store.set_breaker(breaker, now_ms=self._clock.now_ms())
        except Unavailable:
            held = replace(breaker, version=breaker.version - 1)
        if held != breaker and self._find_breaker(breaker.name) == breaker:
            self._adopt(held)
        elif held == breaker:
            self._must_wake |= breaker.state is BreakerState.CLOSED
            self._on_breaker(breaker)

    # the breaker

    def _find_bounds(self, name: str) -> Bounds:
        return self._bounds.get(name) or Bounds()

    def _find_breaker(self, name: str) -> Breaker:
        return self._breakers.get(name) or Breaker(name=name)

    def _adopt(self, breaker: Breaker) -> None:
        self._breakers[breaker.name] = breaker
        self._tallies[breaker.name] = Tally()

    def _find_end_ms(self, name: str) -> int:
        breaker = self._find_breaker(name)
        now_ms = self._clock.now_ms()
        is_paused = breaker.state is BreakerState.OPEN and not breakers.is_ripe(breaker, now_ms)
        return breaker.until_ms if is_paused else now_ms + _SOON_MS

    def _can_begin_probing(self, breaker: Breaker) -> bool:
        if breaker.state is BreakerState.OPEN:
            return breakers.is_ripe(breaker, self._clock.now_ms())
        return breaker.state is BreakerState.HALF_OPEN and breaker.name in self._orphaned

    def _has_probe_free(self, name: str) -> bool:
        allowed = self._tallies.get(name, Tally()).allowed
        return self._is_prober(self._find_breaker(name)) and self._probes[name] < allowed

    async def _may_probe(self, name: str) -> bool:
        """Return whether a probe may leave now; become the one who probes if nobody is."""
        breaker = self._find_breaker(name)
        if self._can_begin_probing(breaker) and name not in self._changing:
            self._changing.add(name)
            new = breakers.begin_probing(breaker, self._owner)
            try:
                held = await self._store.set_breaker(new, now_ms=self._clock.now_ms())
            except Unavailable:
                return False
            finally:
                self._changing.discard(name)
            self._orphaned.discard(name)
            if held.version > self._find_breaker(name).version:
                self._adopt(held)
            if held == new:
                self._on_breaker(new)
        return self._find_breaker(name).state is BreakerState.CLOSED or (
            self._has_probe_free(name)
        )

    # the pace

    def _find_rates(self, name: str, claim: Claim) -> list[tuple[_Key, Rate]]:
        bounds = self._bounds.get(name)
        if bounds is None or (bounds.rate is None and not bounds.domain_rates):
            return []
        found = [((name, ""), bounds.rate)] if bounds.rate is not None else []
        return found + self._find_domain_rates(name, claim)

    def _find_domain_rates(self, name: str, claim: Claim) -> list[tuple[_Key, Rate]]:
        rates = self._find_bounds(name).domain_rates
        if not rates:
            return []
        rate_of = {
            domain: rates.get(domain) or rates.get(ANY) for domain in find_domains(claim)
        }
        return [((name, domain), rate) for domain, rate in rate_of.items() if rate is not None]

    def _find_turn_us(self, name: str, claim: Claim) -> int:
        """Return how long until all rates have a place for a message; 0: now."""
        return max(
            (
                self._find_place_us(key, rate, claim.message_id)
                for key, rate in self._find_rates(name, claim)
            ),
            default=0,
        )

    def _find_place_us(self, key: _Key, rate: Rate, message_id: int) -> int:
        """Return how long until a rate has a place; ask for a stretch where it has none."""
        now_us = self._clock.now_ms() * 1000
        stretch = self._stretches.get(key)
        wait_us = stretch.find_wait_us(now_us) if stretch is not None else None
        if wait_us is not None:
            return wait_us
        self._wanted.setdefault(key, (rate, set()))[1].add(message_id)
        return max(self._later_us.get(key, 0) - now_us, _LEASE_US)

    async def renew(self) -> None:
        """Lease the stretches that messages wait for, all in one transaction."""
        wanted, self._wanted = self._wanted, {}
        now_ms = self._clock.now_ms()
        latest_us = now_ms * 1000 + AHEAD_US
        asked = {
            key: (rate, count_places(rate, len(ids)))
            for key, (rate, ids) in wanted.items()
            if self._later_us.get(key, 0) <= latest_us
        }
        if not asked:
            return
        stints = [
            Stint(
                next_hop=key[0],
                domain=key[1],
                length_us=rate.interval_us * count,
                ahead_us=AHEAD_US,
                count=count,
            )
            for key, (rate, count) in asked.items()
        ]
        begins = await self._store.take_stints(stints, now_ms=now_ms)
        for stint, begin_us in zip(stints, begins, strict=True):
            key = stint.next_hop, stint.domain
            if begin_us > latest_us:
                self._later_us[key] = begin_us
            else:
                self._later_us.pop(key, None)
                interval_us = asked[key][0].interval_us
                end_us = begin_us + stint.length_us
                self._stretches[key] = Stretch(begin_us, end_us, interval_us)

    def find_late(self, name: str, claims: Iterable[Claim]) -> dict[int, int]:
        """Return those that had better wait elsewhere for their domain, and until when (ms).

        A second's worth of a domain stays; who comes newly stands at the end of the line, at
        the rate of the domain; who has waited looks again at once, lest he wait for ever.
        """
        late: dict[int, int] = {}
        staying: Counter[_Key] = Counter()
        now_us = self._clock.now_ms() * 1000
        for claim in claims:
            due_us = 0
            for key, rate in self._find_domain_rates(name, claim):
                staying[key] += 1
                wait_us = self._find_place_us(key, rate, claim.message_id)
                if wait_us > _SOON_MS * 1000:
                    due_us = max(due_us, now_us + wait_us)
                elif staying[key] > rate.count_in(_SOON_MS):
                    due_us = max(due_us, now_us + _SOON_MS * 1000)
                else:
                    continue
                if claim.due_ms <= claim.age_from_ms:
                    line_us = max(self._lines_us.get(key, 0), due_us) + rate.interval_us
                    self._lines_us[key] = line_us
                    due_us = max(due_us, line_us)
            if due_us:
                late[claim.message_id] = self._bound_line_ms(due_us // 1000)
        return late

    def _bound_line_ms(self, due_ms: int) -> int:
        latest_ms = self._clock.now_ms() + _LINE_MS
        if due_ms <= latest_ms:
            return due_ms
        return latest_ms - round(_LINE_MS / 2 * self._rng.random())


def find_domains(claim: Claim) -> Collection[str]:
    """Return the domains of a message's recipients."""
    return {recipient.address.rpartition("@")[2] for recipient in claim.recipients}
