"""A queue by way of ForestMQ, which forgets, repeats and dies: it costs latency, nothing else.

The row in the store is the job; what travels is "look at this id".  Four parts keep that true:

- a poller for each ForestMQ takes doorbells out, one at a time, only while the consumer has
  room for more, and never leaves a take: one whose answer nobody reads has lost its doorbell;
- what came is looked up in the store, which knows what is due and free: invented, repeated and
  late doorbells find nothing there (F-BR-02, F-BR-03);
- the sweep rings again what is due and silent.  A ForestMQ is one first-in-first-out queue:
  when a doorbell comes whose message was accepted at a moment, or a take asked at that moment
  finds nothing, then what was rung before has come or is lost (less a margin for other
  consumers and slow publishers).  What stays silent for seconds is taken without a doorbell;
- when a ForestMQ is of no use for a while the store is asked instead, as the embedded queue
  does, until it answers again.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random

from emailerctl import log
from emailerctl.errors import EmailerError
from emailerctl.models.clock import Clock, to_ms
from emailerctl.models.doorbell import (
    Doorbell,
    ForeignMessage,
    QueueCounts,
    QueueReport,
    SourceStatus,
    cut_body,
    read_doorbell,
)
from emailerctl.models.ids import find_moment
from emailerctl.models.message import Priority
from emailerctl.queues.base import Eyes, Ledger, Ticket
from emailerctl.queues.bell import Listener
from emailerctl.queues.forestmq_client import ForestMqClient, ForestMqError, Taken, Trouble
from emailerctl.queues.forestmq_publisher import (
    KIND,
    Connect,
    Publisher,
    Topics,
    Turns,
    note_answer,
    note_trouble,
)

_MARGIN_MS = 1_000  # for what others have taken and not claimed yet, and for slow publishers
_LATE_MS = 2_500  # due for so long and silent: taken without a doorbell
_SWEEP_S = 0.5
_SWEEP_PAUSE_S = 0.1  # between two sweeps at least, however often the bell rings
_SWEEP_AT_ONCE = 200
_GATHER_MS = 25  # how long to wait for more once there is something: claims share a commit
_PACE_S = (0.02, 0.5)  # between takes that find nothing: at first, and at most
_FULL_S = 0.05
_PARK_AGAIN_S = 0.5
_MOST_PARKED = 10_000
_TELL_FOREIGN_MS = 10_000


@dataclass(slots=True)
class _Source:
    """One ForestMQ, as this consumer takes from it.

    Attributes:
        watermark_ms: what was rung before (wall clock) has come or is lost.
        asked_ms: since when nothing has come of asking it (boot clock); None: all is well.
        is_quiet: the last take found nothing, or failed.
        nudge: the pause between takes is over.
    """

    client: ForestMqClient
    status: SourceStatus
    watermark_ms: int = 0
    asked_ms: int | None = None
    is_quiet: bool = False
    pace_s: float = _PACE_S[0]
    nudge: asyncio.Event = field(default_factory=asyncio.Event)


class ForestMqQueue:
    """Tickets by way of doorbells, and without them where they do not come.

    Args:
        listener: hears the bell of this host: it only makes the next look come sooner.
        reporter: who says so, in reports.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        connect: Connect,
        listener: Listener,
        eyes: Eyes,
        ledger: Ledger,
        high_water: int,
        fallback_after: timedelta,
        clock: Clock,
        rng: Random,
        reporter: str,
    ) -> None:
        """Start the tasks; nothing is taken before somebody asks."""
        self._topics = topics
        self._listener = listener
        self._eyes = eyes
        self._ledger = ledger
        self._fallback_after_ms = to_ms(fallback_after)
        self._clock = clock
        self._rng = rng
        self._reporter = reporter
        self._counts = QueueCounts()
        self._publisher = Publisher(
            topics,
            connect=connect,
            high_water=high_water,
            clock=clock,
            reporter=reporter,
            counts=self._counts,
        )
        self._sources = {
            url: _Source(connect(url), SourceStatus(url, topics.list_at(url)))
            for url in dict.fromkeys(topics.urls.values())
        }
        self._turns = Turns(topics.weights)
        self._bells: dict[str, dict[int, None]] = {topic: {} for topic in topics.urls}
        self._limit = 1
        self._is_fresh = False  # something has come that nobody has looked up yet
        self._is_falling_back = False
        self._is_barred = False
        self._next_ms: int | None = None
        self._told_foreign_ms = -_TELL_FOREIGN_MS
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._pollers = [
            asyncio.create_task(self._repeat(partial(self._poll, source)))
            for source in self._sources.values()
        ]
        self._others = [
            asyncio.create_task(self._repeat(self._sweep_in_time)),
            asyncio.create_task(self._repeat(self._hear)),
        ]

    # the queue

    def put(self, message_ids: Sequence[int], *, priority: Priority = Priority.NORMAL) -> None:
        """Have doorbells rung."""
        self._publisher.put(message_ids, priority=priority)

    async def take(self, limit: int, wait: timedelta) -> list[Ticket]:
        """Return tickets of what is due; wait for a doorbell, or for the sweep, where none is.

        May be cancelled at any time: the takes from ForestMQ are not part of it.
        """
        self._limit = limit
        give_up_ms = self._clock.boot_ms() + to_ms(wait)
        self._notice_fallback()
        if self._is_barred or self._is_falling_back:
            tickets = await self._look(limit)
            if tickets:
                return tickets
        if not self._is_barred:
            self._wanted.set()
        try:
            await self._gather(limit, give_up_ms)
        finally:
            # In trouble it goes on being asked, whether or not there is room: what comes is in
            # the store as well.
            if not self._is_falling_back:
                self._wanted.clear()
        return await self._look(limit)

    async def done(self, ticket: Ticket) -> None:
        """Forget nothing: ForestMQ has forgotten it already."""

    def report(self) -> QueueReport:
        """Return what this process has seen of ForestMQ."""
        sources = [source.status for source in self._sources.values()]
        return QueueReport(self._reporter, KIND, sources, self._counts, self._is_falling_back)

    async def close(self) -> None:
        """Wait for the takes under way, ring again what was not claimed, and close."""
        self._closing.set()
        self._wanted.set()
        await asyncio.gather(*self._pollers, return_exceptions=True)
        for topic, bells in self._bells.items():
            if bells:
                self._publisher.ring(bells, topic)
        for task in self._others:
            task.cancel()
        await asyncio.gather(*self._others, return_exceptions=True)
        await self._publisher.close()
        for source in self._sources.values():
            await source.client.close()
        self._listener.close()

    # looking up what came

    async def _look(self, limit: int) -> list[Ticket]:
        """Ask the store for what came; when falling back, for everything that is due."""
        among = None if self._is_falling_back else self._list_in_turn()
        self._is_fresh = False
        look = await self._eyes.look(limit, among)
        self._is_barred = look.is_barred
        self._next_ms = look.next_ms
        if look.is_barred:
            return []
        self._counts.stale += look.stale
        self._counts.unknown += look.unknown
        gone = set(among or ()).difference(look.waiting)
        for bells in self._bells.values():
            if among is None:
                bells.clear()
            for message_id in gone.intersection(bells):
                del bells[message_id]
        return [Ticket(message_id) for message_id in look.message_ids]

    def _list_in_turn(self) -> list[int]:
        """Return the ids that came, so that every topic has its share of the room."""
        left = {topic: list(reversed(bells)) for topic, bells in self._bells.items() if bells}
        ids: list[int] = []
        while left:
            topic = self._turns.next(left)
            ids.append(left[topic].pop())
            if not left[topic]:
                del left[topic]
        return ids

    async def _gather(self, limit: int, give_up_ms: int) -> None:
        """Wait until something came, and for what comes right behind it."""
        first_ms: int | None = None
        while True:
            boot_ms = self._clock.boot_ms()
            if self._notice_fallback():
                return
            until_ms = min(give_up_ms, self._find_next_boot_ms(boot_ms))
            if self._is_fresh:
                first_ms = boot_ms if first_ms is None else first_ms
                until_ms = first_ms + _GATHER_MS
                # Not while another topic may still come from behind one that is full.
                is_full = all(len(bells) >= limit for bells in self._bells.values())
                if is_full or all(source.is_quiet for source in self._sources.values()):
                    return
            if boot_ms >= until_ms:
                return
            self._news.clear()
            wait_ms = min(until_ms, self._find_fallback_ms()) - boot_ms
            await _wait(self._news, max(wait_ms, 1) / 1000)

    def _find_next_boot_ms(self, boot_ms: int) -> int:
        """Return when the store knows of something due; it is asked when falling back only."""
        if self._next_ms is None:
            return boot_ms + 3_600_000
        return boot_ms + max(self._next_ms - self._clock.now_ms(), 1)

    # falling back

    def _find_fallback_ms(self) -> int:
        """Return when the fallback begins if nothing is heard till then (boot clock)."""
        asked = [one.asked_ms for one in self._sources.values() if one.asked_ms is not None]
        if not asked or self._is_falling_back:
            return self._clock.boot_ms() + 3_600_000
        return min(asked) + self._fallback_after_ms

    def _notice_fallback(self) -> bool:
        """Begin or end the fallback; return whether that has just changed."""
        asked = [one.asked_ms for one in self._sources.values() if one.asked_ms is not None]
        since_ms = min(asked, default=None)
        boot_ms = self._clock.boot_ms()
        falls = since_ms is not None and (
            self._is_falling_back or boot_ms - since_ms >= self._fallback_after_ms
        )
        if falls is self._is_falling_back:
            return False
        self._is_falling_back = falls
        self._next_ms = None
        if falls:
            self._counts.fallbacks += 1
            urls = [url for url, one in self._sources.items() if one.asked_ms is not None]
            log.log("queue.fallback", "warning", urls=urls, detail="the store is asked instead")
            self._wanted.set()
        else:
            log.log("queue.restored", "info", detail="ForestMQ answers again")
        return True

    # taking doorbells out

    async def _poll(self, source: _Source) -> None:
        """Take one message out, when somebody wants it, or pause."""
        await self._wanted.wait()
        if self._closing.is_set():
            return
        rest_s = source.client.breaker.rest_s
        if rest_s:
            await _wait(self._closing, rest_s)
        elif all(len(self._bells[topic]) >= self._limit for topic in source.status.topics):
            await _wait(self._closing, _FULL_S)
        else:
            await self._take(source)

    async def _take(self, source: _Source) -> None:
        sent_ms = self._clock.now_ms()
        if source.asked_ms is None:
            source.asked_ms = self._clock.boot_ms()
        try:
            taken = await source.client.take()
        except ForestMqError as error:
            source.is_quiet = True
            self._counts.take_failed += 1
            note_trouble(source.status, error, self._clock)
            self._news.set()
            if error.trouble is Trouble.UNREADABLE and b'"message"' in error.body:
                text = error.body.decode("utf-8", "replace")
                await self._park(source, "", "unreadable", text)
            return
        note_answer(source.status)
        source.asked_ms = None
        self._note_length(source, taken)
        if taken is None:
            self._counts.empty += 1
            source.is_quiet = True
            source.watermark_ms = max(source.watermark_ms, sent_ms)
            self._news.set()
            await self._pause(source)
        else:
            self._counts.taken += 1
            source.is_quiet = False
            source.pace_s = _PACE_S[0]
            await self._receive(source, taken.message)

    def _note_length(self, source: _Source, taken: Taken | None) -> None:
        source.status.length = taken.length if taken else 0
        self._publisher.note_length(source.status.url, source.status.length)

    async def _pause(self, source: _Source) -> None:
        """Wait a little longer each time that there was nothing; the bell ends it."""
        pause_s = source.pace_s * self._rng.uniform(0.5, 1.0)
        source.pace_s = min(source.pace_s * 2, _PACE_S[1])
        source.nudge.clear()
        await _wait(source.nudge, pause_s)

    async def _receive(self, source: _Source, message: object) -> None:
        """Note a doorbell; park what is none."""
        read = read_doorbell(message, source.status.topics)
        if not isinstance(read, Doorbell):
            if read.is_ours:
                self._counts.mangled += 1
            else:
                await self._park(source, read.topic, read.reason, json.dumps(message))
            return
        moment_ms = find_moment(read.message_id)
        if moment_ms <= self._clock.now_ms():
            source.watermark_ms = max(source.watermark_ms, moment_ms)
        bells = self._bells[read.topic]
        if read.message_id in bells:
            self._counts.repeated += 1
        elif len(bells) >= self._limit:
            self._counts.put_aside += 1  # others behind it get their turn; it is rung again
        else:
            self._add(read.topic, read.message_id)

    def _add(self, topic: str, message_id: int) -> None:
        self._bells[topic][message_id] = None
        self._is_fresh = True
        self._news.set()

    async def _park(self, source: _Source, topic: str, reason: str, text: str) -> None:
        """Keep what is not for us: it is taken out, and nobody else has it any more."""
        foreign = ForeignMessage(
            foreign_id=0,
            at_ms=self._clock.now_ms(),
            topic=topic,
            url=source.status.url,
            reason=reason,
            body=cut_body(text),
        )
        is_kept = await self._park_at_last(foreign)
        self._counts.foreign += 1
        self._counts.unparked += not is_kept
        boot_ms = self._clock.boot_ms()
        if boot_ms - self._told_foreign_ms >= _TELL_FOREIGN_MS:
            self._told_foreign_ms = boot_ms
            log.log(
                "queue.foreign",
                "warning",
                url=foreign.url,
                topic=topic,
                reason=reason,
                kept=is_kept,
                count=self._counts.foreign,
            )

    async def _park_at_last(self, foreign: ForeignMessage) -> bool:
        """Keep it, also where the store is in trouble; until we end, if need be."""
        while True:
            try:
                return await self._ledger.park(foreign, most=_MOST_PARKED)
            except EmailerError as error:
                if self._closing.is_set():
                    log.log(
                        "queue.foreign_lost", "error", topic=foreign.topic, detail=str(error)
                    )
                    return False
                await _wait(self._closing, _PARK_AGAIN_S)

    # the sweep

    async def _hear(self) -> None:
        """Let the bell of this host end every pause."""
        await self._listener.wait(_SWEEP_S)
        if not self._listener.has_rung:
            return
        self._listener.clear()
        for source in self._sources.values():
            source.pace_s = _PACE_S[0]
            source.nudge.set()
        if self._is_falling_back or any(self._bells.values()):
            self._is_fresh = True
            self._news.set()
        self._sweep_now.set()

    async def _sweep_in_time(self) -> None:
        await _wait(self._sweep_now, _SWEEP_S)
        self._sweep_now.clear()
        if self._is_falling_back or self._closing.is_set():
            return
        for topic, url in self._topics.urls.items():
            priorities = self._topics.find_priorities(topic)
            if priorities:
                await self._sweep(topic, self._sources[url], priorities)
        await _wait(self._closing, _SWEEP_PAUSE_S)

    async def _sweep(self, topic: str, source: _Source, priorities: list[Priority]) -> None:
        """Ring what is silent; take what has been for too long."""
        now_ms = self._clock.now_ms()
        lost_before_ms = min(source.watermark_ms, now_ms) - _MARGIN_MS
        silent = await self._eyes.find_silent(
            priorities, lost_before_ms=lost_before_ms, limit=_SWEEP_AT_ONCE
        )
        bells = self._bells[topic]
        silent = [one for one in silent if one.message_id not in bells]
        late = [one for one in silent if now_ms - one.due_ms >= _LATE_MS]
        for one in late[: max(self._limit - len(bells), 0)]:
            self._counts.direct += 1
            self._counts.lost += one.is_lost
            self._add(topic, one.message_id)
        to_ring = {one.message_id: one.is_lost for one in silent if one.message_id not in bells}
        if to_ring:
            noted = await self._ledger.note_rung(
                list(to_ring), now_ms=now_ms, lost_before_ms=lost_before_ms
            )
            self._counts.lost += sum(to_ring[message_id] for message_id in noted)
            self._publisher.ring(noted, topic)

    async def _repeat(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again until the end; a store in trouble is no end."""
        while not self._closing.is_set():
            try:
                await act()
            except EmailerError as error:
                log.log("queue.store_trouble", "warning", detail=str(error))
                await _wait(self._closing, _SWEEP_S)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for *event*, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
