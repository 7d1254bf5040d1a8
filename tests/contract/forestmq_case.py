"""What tests of the queue by way of ForestMQ share."""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any

from emailerctl.models.clock import Clock
from emailerctl.models.doorbell import Silent
from emailerctl.models.message import Priority
from emailerctl.queues.base import Eyes, Look
from emailerctl.queues.bell import Listener
from emailerctl.queues.forestmq import ForestMqQueue
from emailerctl.queues.forestmq_client import ForestMqClient
from emailerctl.queues.forestmq_publisher import Topics
from emailerctl.settings.model import ForestMqQueueSettings
from tests.desk import Desk


class RunningClock:
    """A clock that a test can advance, and that runs meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = time.monotonic()

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._passed_ms()

    def boot_ms(self) -> int:
        return self._clock.boot_ms() + self._passed_ms()

    def _passed_ms(self) -> int:
        return int((time.monotonic() - self._began_s) * 1000)


class DeskEyes:
    """A consumer with room for so many messages to each next hop."""

    def __init__(self, desk: Desk, room: int = 1_000) -> None:
        self.clock = RunningClock(desk.clock)
        self.room = room
        self.is_barred = False
        self.store = desk.store

    async def look(self, limit: int, among: Sequence[int] | None = None) -> Look:
        if self.is_barred:
            return Look((), None, is_barred=True)
        due = await self.store.find_due(
            {"relay": min(self.room, limit)},
            now_ms=self.clock.now_ms(),
            is_idle=True,
            among=among,
        )
        return Look(
            due.message_ids[:limit],
            due.next_ms,
            waiting=(*due.message_ids[limit:], *due.waiting),
            stale=due.stale,
            unknown=due.unknown,
        )

    async def find_silent(
        self, priorities: Collection[Priority], *, lost_before_ms: int, limit: int
    ) -> list[Silent]:
        if self.is_barred:
            return []
        return await self.store.find_silent(
            {"relay": self.room},
            priorities=priorities,
            now_ms=self.clock.now_ms(),
            lost_before_ms=lost_before_ms,
            limit=limit,
        )


def build_forestmq(
    topics: Mapping[str, str], listener: Listener, eyes: DeskEyes, **settings: Any
) -> ForestMqQueue:
    """Build a queue over the desk's store; settings as in [queue.forestmq]."""
    wanted = ForestMqQueueSettings(topics=dict(topics), **settings)
    rng = Random(1)
    ears: Eyes = eyes

    def connect(url: str) -> ForestMqClient:
        timeout_s = wanted.timeout.total_seconds()
        return ForestMqClient(url, clock=eyes.clock, rng=rng, timeout_s=timeout_s)

    return ForestMqQueue(
        Topics(wanted),
        connect=connect,
        listener=listener,
        eyes=ears,
        ledger=eyes.store,
        high_water=wanted.high_water,
        fallback_after=wanted.fallback_after,
        clock=eyes.clock,
        rng=rng,
        reporter="con_test",
    )


FAST = {"fallback_after": timedelta(seconds=1), "timeout": timedelta(seconds=2)}
