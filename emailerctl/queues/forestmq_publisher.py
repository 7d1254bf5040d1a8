"""Ringing: doorbells into ForestMQ, after the commit, at nobody's expense.

`put` only notes; a task for each ForestMQ rings, one doorbell after the other, on one kept
connection.  Whatever can't be rung within a second is left to the consumers' sweep, which finds
every due message that no doorbell announces: so nothing here is worth a wait (F-BR-04).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emailerctl import log
from emailerctl.models.clock import Clock
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus, build_doorbell
from emailerctl.models.message import Priority
from emailerctl.queues.forestmq_client import ForestMqClient, ForestMqError, Trouble
from emailerctl.settings.model import ForestMqQueueSettings

KIND = "forestmq"

_USUAL_TOPIC = "email.send"
_KEPT_MS = 1_000  # a doorbell that waits longer is left to the sweep, which looks by then
_MOST_KEPT = 2_000
_LENGTH_KEPT_MS = 500  # how long the length of a full queue is believed
_CLOSE_S = 1.0

Connect = Callable[[str], ForestMqClient]


class Topics:
    """Which topics there are, where they are, and which one a message goes to."""

    def __init__(self, settings: ForestMqQueueSettings) -> None:
        """Read the settings, which have at least one topic."""
        self.urls: Mapping[str, str] = {
            topic: url.rstrip("/") for topic, url in settings.topics.items()
        }
        self.weights: Mapping[str, int] = {
            topic: settings.weights.get(topic, 1) for topic in self.urls
        }
        usual = _USUAL_TOPIC if _USUAL_TOPIC in self.urls else next(iter(self.urls))
        self.of_priority: Mapping[Priority, str] = {
            priority: settings.priorities.get(priority.name.lower(), usual)
            for priority in Priority
        }

    def find_priorities(self, topic: str) -> list[Priority]:
        """Return the priorities whose messages go to *topic*."""
        return [priority for priority, name in self.of_priority.items() if name == topic]

    def list_at(self, url: str) -> tuple[str, ...]:
        """Return the topics at *url*."""
        return tuple(topic for topic, where in self.urls.items() if where == url)

    def find_share(self, topic: str, whole: int) -> int:
        """Return the share of *whole* that *topic* has among those at its URL."""
        together = sum(self.weights[name] for name in self.list_at(self.urls[topic]))
        return max(1, whole * self.weights[topic] // together)


class Turns:
    """Whose turn it is, by weight: a heavier one comes more often, and never all at once."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        """Begin with everybody equal."""
        self._weights = weights
        self._credits = dict.fromkeys(weights, 0)

    def next(self, names: Collection[str]) -> str:
        """Return one of *names*, of which there is at least one."""
        for name in names:
            self._credits[name] += self._weights[name]
        chosen = max(names, key=self._credits.__getitem__)
        self._credits[chosen] -= sum(self._weights[name] for name in names)
        return chosen


@dataclass(slots=True)
class _Outbox:
    """What waits to be rung at one ForestMQ.

    Attributes:
        waiting: by topic, message ids and when they were put (boot clock).
    """

    client: ForestMqClient
    status: SourceStatus
    turns: Turns
    waiting: dict[str, deque[tuple[int, int]]]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    length_ms: int = 0


class Publisher:
    """Rings doorbells; the announcing half of a queue by way of ForestMQ.

    Args:
        connect: makes the client of a URL.
        reporter: who says so, in reports.
        counts: shared with the consumer's half, where there is one.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        connect: Connect,
        high_water: int,
        clock: Clock,
        reporter: str,
        counts: QueueCounts | None = None,
    ) -> None:
        """Start the tasks; nothing is connected yet."""
        self._topics = topics
        self._high_water = high_water
        self._clock = clock
        self._reporter = reporter
        self.counts = counts or QueueCounts()
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._outboxes: dict[str, _Outbox] = {}
        for url in dict.fromkeys(topics.urls.values()):
            names = topics.list_at(url)
            self._outboxes[url] = _Outbox(
                client=connect(url),
                status=SourceStatus(url, names),
                turns=Turns({name: topics.weights[name] for name in names}),
                waiting={name: deque() for name in names},
            )
        self._tasks = [
            asyncio.create_task(self._ring_all(outbox)) for outbox in self._outboxes.values()
        ]

    def put(self, message_ids: Sequence[int], *, priority: Priority = Priority.NORMAL) -> None:
        """Have the doorbells of *message_ids* rung soon, or by the sweep."""
        self.ring(message_ids, self._topics.of_priority[priority])

    def ring(self, message_ids: Iterable[int], topic: str) -> None:
        """Have doorbells rung for *topic*; callable from any thread."""
        outbox = self._outboxes[self._topics.urls[topic]]
        waiting = outbox.waiting[topic]
        boot_ms = self._clock.boot_ms()
        for message_id in message_ids:
            if len(waiting) >= _MOST_KEPT:
                self.counts.not_rung += 1
            else:
                waiting.append((message_id, boot_ms))
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(outbox.wake.set)

    def report(self) -> QueueReport:
        """Return what this process has seen."""
        sources = [outbox.status for outbox in self._outboxes.values()]
        return QueueReport(self._reporter, KIND, sources, self.counts)

    def note_length(self, url: str, length: int) -> None:
        """Take a newer length of a queue from whoever has just seen it."""
        outbox = self._outboxes[url]
        outbox.status.length = length
        outbox.length_ms = self._clock.boot_ms()

    async def _ring_all(self, outbox: _Outbox) -> None:
        while not self._is_closing:
            await outbox.wake.wait()
            outbox.wake.clear()
            while (chosen := self._choose(outbox)) is not None:
                await self._ring(outbox, *chosen)

    def _choose(self, outbox: _Outbox) -> tuple[str, int, int] | None:
        """Return whose doorbell is next; what has waited for too long is left to the sweep."""
        too_old_ms = self._clock.boot_ms() - _KEPT_MS
        for waiting in outbox.waiting.values():
            while waiting and waiting[0][1] <= too_old_ms:
                waiting.popleft()
                self.counts.not_rung += 1
        topics = [topic for topic, waiting in outbox.waiting.items() if waiting]
        if not topics:
            return None
        topic = outbox.turns.next(topics)
        return (topic, *outbox.waiting[topic].popleft())

    async def _ring(self, outbox: _Outbox, topic: str, message_id: int, put_ms: int) -> None:
        rest_s = outbox.client.breaker.rest_s
        if rest_s:
            outbox.waiting[topic].appendleft((message_id, put_ms))
            oldest_ms = self._clock.boot_ms() - put_ms
            await asyncio.sleep(min(rest_s, max(_KEPT_MS - oldest_ms, 0) / 1000 + 0.001))
            return
        try:
            if await self._is_full(outbox, topic):
                self.counts.held_back += 1
                return
            length = await outbox.client.put(build_doorbell(topic, message_id))
        except ForestMqError as error:
            outbox.waiting[topic].appendleft((message_id, put_ms))
            note_trouble(outbox.status, error, self._clock)
            return
        self.counts.rung += 1
        note_answer(outbox.status)
        self.note_length(outbox.status.url, length)

    async def _is_full(self, outbox: _Outbox, topic: str) -> bool:
        """Return whether so much is queued that more may wait in the store, cheaper."""
        most = self._topics.find_share(topic, self._high_water)
        if outbox.status.length is None or outbox.status.length < most:
            return False
        if self._clock.boot_ms() - outbox.length_ms >= _LENGTH_KEPT_MS:
            health = await outbox.client.load_health()
            self.note_length(outbox.status.url, health.length)
        return outbox.status.length >= most

    async def close(self) -> None:
        """Ring what waits, for a second at the most, and close."""
        self._is_closing = True
        for outbox in self._outboxes.values():
            outbox.wake.set()
        await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for outbox in self._outboxes.values():
            await outbox.client.close()


def note_trouble(status: SourceStatus, error: ForestMqError, clock: Clock) -> None:
    """Note that a ForestMQ is in trouble; the log says so once for each kind."""
    if error.trouble is Trouble.RESTING:
        return
    if status.trouble != error.trouble:
        log.log(
            "queue.trouble",
            "warning",
            url=status.url,
            trouble=error.trouble,
            detail=error.detail,
        )
    if not status.trouble:
        status.since_ms = clock.now_ms()
    status.trouble, status.detail = error.trouble, error.detail


def note_answer(status: SourceStatus) -> None:
    """Note that a ForestMQ has answered as it should."""
    if status.trouble:
        log.log("queue.recovered", "info", url=status.url)
        status.trouble, status.detail, status.since_ms = "", "", None
