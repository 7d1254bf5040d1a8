"""Tickets to deliveries: bounded concurrency, a room for each next hop, drain."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Container, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from emailerctl.core.deliver import Attempt, Delivery
from emailerctl.core.standing import find_domains
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock
from emailerctl.models.message import Priority
from emailerctl.queues.base import Queue, Ticket
from emailerctl.queues.embedded import Look
from emailerctl.store.base import Claim, Store

_log = logging.getLogger(__name__)

_AHEAD = 3  # claims kept ready for each connection, so that none waits for the store
_UNROUTED = ""  # work that was not routed yet (requeued, or its next hop left the settings)
_UNROUTED_AT_ONCE = 16
_QUIET_MS = 1_000  # how long suspects are tried one by one before the others go on
_CALM_MS = 1_000  # an attempt that ends its consumer has done so by then: others may follow
_KEPT_FREE = 4  # one connection in so many is not for a domain that has all the others
_RESERVED_OF = 8  # one connection in so many is for priority high alone
_FEWEST_TO_RESERVE = 4  # with fewer connections none is
_LOWEST_EVERY = 8  # one attempt in so many goes to the lowest priority first
_SLOW_MS = 3_000  # a domain that keeps its share of connections for so long is slow
_SHED_EVERY_S = 1.0


@dataclass(slots=True)
class _Lane:
    """A next hop's room: what runs for it, and the claims that wait for their turn.

    Priority high has a room and connections of its own: however much there is of the rest, and
    however slow it is, a password reset neither waits for a place nor for a free connection.
    Of one priority, whose service has fewest attempts under way is next (T-30).

    A recipient domain never has all the connections, and what waits for one that is slow does
    not fill the room (F-CO-06).

    Attributes:
        at_once: attempts side by side.
        find_wait_ms: says how long a claim must wait for its turn at a rate, or as a probe.
        find_size: says how many claims to hold, where nothing else would say the argument.
        used: claims in the room for high, and in the one for the rest, running ones included.
        running_for: when each attempt under way began (boot clock), by recipient domain.
        running_of: attempts under way, by service.
        ordinary: attempts under way that are not of priority high.
        turn: counts attempts: now and then the lowest priority goes first, lest it never does.
        wait_ms: when the last look found none whose turn it is: how long until it is.
        later: looks again then.
    """

    at_once: int
    find_wait_ms: Callable[[Claim], int]
    find_size: Callable[[int], int]
    queues: dict[Priority, dict[str, deque[Claim]]] = field(
        default_factory=lambda: {priority: {} for priority in Priority}
    )
    running: int = 0
    used: Counter[bool] = field(default_factory=Counter)
    running_for: dict[str, list[int]] = field(default_factory=dict)
    running_of: Counter[str] = field(default_factory=Counter)
    ordinary: int = 0
    turn: int = 0
    wait_ms: int | None = None
    later: asyncio.Task[None] | None = None

    @property
    def reserved(self) -> int:
        """Return how many connections are for priority high alone."""
        return 0 if self.at_once < _FEWEST_TO_RESERVE else max(1, self.at_once // _RESERVED_OF)

    @property
    def share(self) -> int:
        """Return how many connections one domain may have."""
        free = max(1, self.at_once // _KEPT_FREE)
        return max(1, self.at_once - max(free, self.reserved + 1 if self.reserved else 0))

    def _find_share(self, *, is_high: bool) -> int:
        return self.share + (self.reserved if is_high else 0)

    @property
    def waiting(self) -> list[Claim]:
        """Return the claims that wait for their turn."""
        return [
            claim
            for queues in self.queues.values()
            for queue in queues.values()
            for claim in queue
        ]

    def put(self, claim: Claim) -> None:
        """Let a claim wait for its turn."""
        self.used[_is_high(claim)] += 1
        self.queues[claim.priority].setdefault(claim.service, deque()).append(claim)

    def take(self, boot_ms: int) -> Claim | None:
        """Take the one whose turn it is and whose domains have room; count it as running."""
        self.wait_ms = None
        lowest_first = self.turn % _LOWEST_EVERY == _LOWEST_EVERY - 1
        for priority in reversed(Priority) if lowest_first else Priority:
            is_high = priority is Priority.HIGH
            if not is_high and self.ordinary >= self.at_once - self.reserved:
                continue
            claim = self._find_next(priority, self._find_share(is_high=is_high))
            if claim is None:
                continue
            self.turn += 1
            self.ordinary += not is_high
            self.running_of[claim.service] += 1
            for name in find_domains(claim):
                self.running_for.setdefault(name, []).append(boot_ms)
            return claim
        return None

    def _find_next(self, priority: Priority, share: int) -> Claim | None:
        """Take the first of whose service has fewest attempts under way, or of another."""
        queues = self.queues[priority]
        for service in sorted(queues, key=self.running_of.__getitem__):
            queue = queues[service]
            for place, claim in enumerate(queue):
                if any(
                    len(self.running_for.get(name, ())) >= share for name in find_domains(claim)
                ):
                    continue
                wait_ms = self.find_wait_ms(claim)
                if wait_ms:
                    self.wait_ms = (
                        wait_ms if self.wait_ms is None else min(self.wait_ms, wait_ms)
                    )
                    continue
                del queue[place], queues[service]
                if queue:
                    queues[service] = queue  # behind the others with as many under way
                return claim
        return None

    def end(self, claim: Claim, began_ms: int) -> None:
        """Count an attempt that was taken at *began_ms* no more."""
        self.ordinary -= not _is_high(claim)
        self.running_of[claim.service] -= 1
        if not self.running_of[claim.service]:
            del self.running_of[claim.service]
        for name in find_domains(claim):
            began = self.running_for[name]
            began.remove(began_ms)
            if not began:
                del self.running_for[name]

    def leave(self, claim: Claim) -> None:
        """Give the place of a claim in the room back."""
        self.used[_is_high(claim)] -= 1

    def shed(self, boot_ms: int) -> list[Claim]:
        """Take out what waits for domains that are slow."""
        running = {
            name: len(began)
            for name, began in self.running_for.items()
            if len(began) >= self.share and boot_ms - min(began) >= _SLOW_MS
        }
        if not running or self.at_once == 1:
            return []

        def is_slow(claim: Claim) -> bool:
            share = self._find_share(is_high=_is_high(claim))
            return any(running.get(name, 0) >= share for name in find_domains(claim))

        return self.remove(is_slow)

    def remove(self, is_wanted: Callable[[Claim], bool]) -> list[Claim]:
        """Take out those that wait and are wanted elsewhere."""
        removed: list[Claim] = []
        for queues in self.queues.values():
            for service, queue in list(queues.items()):
                found = [claim for claim in queue if is_wanted(claim)]
                if not found:
                    continue
                removed += found
                staying = deque(claim for claim in queue if not is_wanted(claim))
                if staying:
                    queues[service] = staying
                else:
                    del queues[service]
        return removed

    def find_room(self, *, is_high: bool) -> int:
        """Return how many more it takes: none before half of that room is free again."""
        return self._find_free(self.used[is_high])

    @property
    def probe_room(self) -> int:
        """Return how many more it takes of whatever priority, where few may be tried."""
        return self._find_free(self.used.total())

    def _find_free(self, used: int) -> int:
        size = self.find_size(self.at_once * (1 + _AHEAD))
        room = size - used
        return room if room * 2 >= size else 0


def _is_among(ids: Container[int], claim: Claim) -> bool:
    return claim.message_id in ids


def _is_high(claim: Claim) -> bool:
    return claim.priority is Priority.HIGH


class Loop:
    """Takes tickets, claims, and runs deliveries side by side.

    A slow next hop fills its own room and no other's.  A message that lost its lease is claimed
    alone: the loop lets everything else finish first, or run for a while (F-CL-07); a suspect
    that hangs holds up nobody for longer (F-CO-06).

    Args:
        concurrency: attempts at once, by next hop.
        batch: messages claimed at once.
        on_change: told how many attempts are under way.
        wake: makes the queue look again.

    Attributes:
        has_failed: an outcome could not be settled, by a bug: only a restart, which voids the
            lease, brings that message back.
    """

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        *,
        consumer_id: int,
        concurrency: Mapping[str, int],
        batch: int,
        poll: timedelta,
        clock: Clock,
        on_change: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """Prepare; nothing is taken yet."""
        self._store = store
        self._delivery = delivery
        self._consumer_id = consumer_id
        at_once_of = {**concurrency, _UNROUTED: _UNROUTED_AT_ONCE}
        self._lanes = {
            name: _Lane(at_once, delivery.find_wait_ms, partial(delivery.find_room, name))
            for name, at_once in at_once_of.items()
        }
        self._batch = batch
        self._poll = poll
        self._clock = clock
        self._on_change = on_change
        self._wake = wake
        self._attempts: dict[asyncio.Task[None], Attempt | None] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self.has_failed = False
        self._stopping = asyncio.Event()
        self._quiet_until_ms: int | None = None
        self._loud_until_ms = 0
        self._calm_from_ms = 0
        self._troubled_until_ms = 0

    @property
    def in_flight(self) -> int:
        """Return how many claims are under way."""
        return sum(lane.used.total() for lane in self._lanes.values())

    async def look(self, limit: int) -> Look:
        """Ask the store what is due and fits into the rooms: the embedded queue's eyes."""
        now_ms = self._clock.now_ms()
        boot_ms = self._clock.boot_ms()
        if self._stopping.is_set() or boot_ms < self._troubled_until_ms:
            return Look((), None)
        calm_ms = self._calm_from_ms if self.in_flight else boot_ms
        if self._quiet_until_ms is not None and boot_ms < calm_ms:
            return Look((), now_ms + calm_ms - boot_ms)  # suspects wait for quiet
        is_idle = boot_ms >= max(calm_ms, self._loud_until_ms)
        rooms, urgent = (
            {
                name: min(lane.find_room(is_high=is_high), limit)
                for name, lane in self._lanes.items()
            }
            for is_high in (False, True)
        )
        probing = [name for name in rooms if self._delivery.is_probing(name)]
        rooms |= {name: min(self._lanes[name].probe_room, limit) for name in probing}
        due = await self._store.find_due(
            rooms, now_ms=now_ms, is_idle=is_idle, probing=probing, urgent=urgent
        )
        self._plan_quiet(boot_ms, has_suspects=due.has_suspects)
        return Look(due.message_ids[:limit], due.next_ms)

    def _plan_quiet(self, boot_ms: int, *, has_suspects: bool) -> None:
        """Alternate: suspects alone for a while, then everything else for a while."""
        if not has_suspects:
            self._quiet_until_ms = None
        elif self._quiet_until_ms is None and boot_ms >= self._loud_until_ms:
            self._quiet_until_ms = boot_ms + _QUIET_MS
        elif self._quiet_until_ms is not None and boot_ms >= self._quiet_until_ms:
            self._quiet_until_ms = None
            self._loud_until_ms = boot_ms + _QUIET_MS

    async def run(self, queue: Queue) -> None:
        """Take, claim and deliver until told to stop."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                await self._wait_for_room()
                await self._shed()
                take = asyncio.ensure_future(queue.take(self._batch, self._find_poll()))
                await asyncio.wait({take, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not take.done():
                    take.cancel()
                    break
                try:
                    await self._claim(queue, take.result())
                except Unavailable as error:
                    await self.keep_outcome(error)
        finally:
            stopped.cancel()

    def _find_poll(self) -> timedelta:
        """Return when to look again unasked: soon where what fills a room may be put aside."""
        lanes = (lane for name, lane in self._lanes.items() if name != _UNROUTED)
        if any(lane.find_room(is_high=False) for lane in lanes):
            return self._poll
        return min(self._poll, timedelta(seconds=_SHED_EVERY_S))

    async def _claim(self, queue: Queue, tickets: list[Ticket]) -> None:
        if not tickets:
            return
        claims = await self._store.claim(
            [ticket.message_id for ticket in tickets],
            consumer_id=self._consumer_id,
            now_ms=self._clock.now_ms(),
        )
        for claim in claims:
            if self._stopping.is_set():
                await self._delivery.give_back(claim)
            else:
                self._start(claim)
        for ticket in tickets:
            await queue.done(ticket)

    def _start(self, claim: Claim) -> None:
        lane = self._find_lane(claim)
        lane.put(claim)
        self._calm_from_ms = self._clock.boot_ms() + _CALM_MS
        self._man(lane)
        self._on_change(self.in_flight)

    def _man(self, lane: _Lane) -> None:
        """Begin another line of attempts where a connection is free."""
        if lane.running < lane.at_once:
            lane.running += 1
            task = asyncio.create_task(self._work(lane))
            task.add_done_callback(self._attempts.pop)
            self._attempts[task] = None

    async def _shed(self) -> None:
        """Put aside what waits for slow domains or their rates: others get to their turn."""
        for lane in self._lanes.values():
            for claim in lane.shed(self._clock.boot_ms()):
                await self._delivery.put_aside(claim)
                self._finish(lane, claim)
            late = self._delivery.find_late(lane.waiting)
            for claim in lane.remove(partial(_is_among, late)):
                await self._delivery.put_aside(claim, late[claim.message_id])
                self._finish(lane, claim)

    def _find_lane(self, claim: Claim) -> _Lane:
        return self._lanes.get(claim.next_hop) or self._lanes[_UNROUTED]

    async def _work(self, lane: _Lane) -> None:
        """Deliver what waits in *lane*, one after the other, until nothing can go."""
        task = asyncio.current_task()
        try:
            while claim := lane.take(began_ms := self._clock.boot_ms()):
                attempt = Attempt(claim, started_ms=self._clock.now_ms())
                if task is not None:
                    self._attempts[task] = attempt
                settling = None
                try:
                    settling = await self._hand_over(attempt)
                finally:
                    lane.end(claim, began_ms)
                    if settling is None:
                        self._finish(lane, claim)
                if settling is not None:  # its commit is not waited for: the connection is free
                    self._settle(lane, claim, settling)
                if lane.wait_ms is not None:
                    self._man(lane)  # a probe that went well lets more of them go
            self._look_later(lane)
        finally:
            lane.running -= 1

    def _look_later(self, lane: _Lane) -> None:
        """See to it that a lane is manned when the turn of what waits in it comes."""
        if lane.wait_ms is not None and lane.later is None and not self._stopping.is_set():
            lane.later = asyncio.create_task(self._man_later(lane))

    async def _man_later(self, lane: _Lane) -> None:
        try:
            await self._delivery.renew()
            waits = [self._delivery.find_wait_ms(claim) for claim in lane.waiting]
            await asyncio.sleep(min(waits, default=0) / 1000)
        except Unavailable:
            await asyncio.sleep(_SHED_EVERY_S)
        finally:
            lane.later = None
        for _ in range(min(len(lane.waiting), lane.at_once - lane.running)):
            self._man(lane)

    async def _hand_over(self, attempt: Attempt) -> Coroutine[None, None, None] | None:
        try:
            return await self._delivery.hand_over(attempt)
        except Exception as error:  # noqa: BLE001  (the loop goes on, whatever one message does)
            _log.exception("delivery of message %s failed", attempt.claim.message_id)
            return self._delivery.fail(attempt, error)

    def _settle(self, lane: _Lane, claim: Claim, settling: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(settling)
        self._settling.add(task)

        def finish(_task: "asyncio.Task[None]") -> None:
            self._settling.discard(task)
            self._finish(lane, claim)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                _log.error("an outcome could not be settled: ending", exc_info=error)
                self.has_failed = True
                self._stopping.set()

        task.add_done_callback(finish)

    def _finish(self, lane: _Lane, claim: Claim) -> None:
        is_high = _is_high(claim)
        had_room = lane.find_room(is_high=is_high) > 0
        lane.leave(claim)
        self._on_change(self.in_flight)
        self._freed.set()
        has_room = lane.find_room(is_high=is_high) > 0
        if (not had_room and has_room) or self._quiet_until_ms is not None:
            self._wake()

    async def _wait_for_room(self) -> None:
        """Wait until some next hop can take more, if only of priority high."""
        while not self._stopping.is_set():
            if any(
                lane.find_room(is_high=is_high)
                for name, lane in self._lanes.items()
                if name != _UNROUTED
                for is_high in (False, True)
            ):
                return
            self._freed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _SHED_EVERY_S)
            await self._shed()

    async def keep_outcome(self, error: Unavailable) -> None:
        """Hold on to an outcome that can't be written: no new claims, loudly, then again."""
        wait_s = float(error.retry_after_s or 1)
        self._troubled_until_ms = self._clock.boot_ms() + round(wait_s * 2000)
        _log.error("the store can't take an outcome, nothing is claimed meanwhile: %s", error)
        await asyncio.sleep(min(wait_s, 1.0))

    async def stop(self, *, within: timedelta) -> None:
        """Stop claiming, give back what has not left, finish what is past its mark.

        What has no answer when the time is up is settled as unanswered.
        """
        self._stopping.set()
        self._freed.set()
        for lane in self._lanes.values():
            if lane.later is not None:
                lane.later.cancel()
            for claim in lane.remove(lambda _claim: True):
                await self._delivery.give_back(claim)
                lane.leave(claim)
        for task, attempt in list(self._attempts.items()):
            if attempt is None or not attempt.is_marked:
                task.cancel()
        await self._wait(within)
        for task in list(self._attempts):
            task.cancel()
        await self._wait(within)

    async def _wait(self, within: timedelta) -> None:
        """Wait for attempts to end, and for their outcomes to be written."""
        end_s = self._clock.boot_ms() / 1000 + within.total_seconds()
        while self._attempts or self._settling:
            left_s = end_s - self._clock.boot_ms() / 1000
            if left_s <= 0:
                return
            await asyncio.wait({*self._attempts, *self._settling}, timeout=left_s)
