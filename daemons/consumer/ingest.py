"""Take jobs from ForestMQ, keep each before anything looks at it, and have it accepted.

One poller for each ForestMQ, one request in flight.  A take is never cancelled, and the next
one waits until what the last one brought is committed: a crash can lose the one job that is
between ForestMQ and our commit, which is ForestMQ's window and not ours, and nothing else.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta

from emailerctl import log
from emailerctl.core.ingest import Accepted, Deferred, Reason, Verdict
from emailerctl.errors import EmailerError, Unavailable
from emailerctl.models.clock import to_ms
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus
from emailerctl.models.ids import INBOX, MESSAGE, build_message_id, to_public
from emailerctl.queues.forestmq_client import ForestMqError, Trouble
from emailerctl.queues.forestmq_publisher import KIND, note_answer, note_trouble
from emailerctl.store.base import IdTaken, InboxJob
from emailerctl.wiring import App, connect_jobs, list_job_sources

_log = logging.getLogger(__name__)

_AT_ONCE = 32  # jobs between their commit and their verdict
_TAKE_S = 10.0  # each take that is given up may be a lost job
_AGAIN_MS = 5_000  # after it a job that has no verdict is looked at again, by anybody
_LOOK_S = 1.0
_RETAIN_EVERY_S = 10.0
_RETAIN_AT_ONCE = 500
_EMPTY_S = (0.02, 0.5)  # between two takes from an empty queue: at first, and at most
_MOST_RAW = 64 * 1024
_MAY_HAVE_TAKEN = frozenset({Trouble.TIMED_OUT, Trouble.UNREADABLE})


class IngestLoop:
    """The jobs of one consumer process."""

    def __init__(self, app: App, *, reporter: str) -> None:
        """Take the app, and who reports; nothing is opened yet."""
        self._app = app
        forestmq = app.settings.ingest.forestmq
        self._most = forestmq.max_jobs
        self._retention_ms = to_ms(forestmq.retention)
        self._reporter = reporter
        self.counts = QueueCounts()
        self._pollers = [_Poller(app, one, self) for one in list_job_sources(app.settings)]
        self._processing: dict[asyncio.Task[None], int] = {}
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._waiting = 0  # jobs of the inbox, at the last look, and those deferred since
        self._was_full = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def duties(self) -> tuple[tuple[float, Callable[[], Awaitable[None]]], ...]:
        """What is to be done now and then: keep the inbox bounded, look at what waits."""
        return ((_LOOK_S, self.look_again), (_RETAIN_EVERY_S, self.retain))

    def report(self) -> QueueReport | None:
        """Return how this process stands with every ForestMQ that carries jobs."""
        sources = [poller.status for poller in self._pollers]
        return QueueReport(self._reporter, KIND, sources, self.counts) if sources else None

    def start(self) -> None:
        """Begin to take jobs."""
        self._tasks = [asyncio.create_task(poller.run()) for poller in self._pollers]

    async def stop(self, *, within: timedelta) -> None:
        """Take no more; finish the takes under way and what they bring."""
        self._stopping.set()
        self._freed.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within.total_seconds() + _TAKE_S)
        if self._processing:
            await asyncio.wait(self._processing, timeout=within.total_seconds())
        for task in (*self._tasks, *self._processing):
            task.cancel()
        for poller in self._pollers:
            await poller.close()

    @property
    def _is_full(self) -> bool:
        return self._waiting >= self._most

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is to be taken."""
        return self._stopping.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the end begins."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def wait_for_room(self) -> None:
        """Wait until a job more can be kept: the inbox, the disk and the store say so."""
        while not self.is_stopping:
            if len(self._processing) >= _AT_ONCE:
                self._freed.clear()
                await self._freed.wait()
            elif self._is_full or self._app.is_storage_low():
                await self.pause(_LOOK_S)
            else:
                return

    async def keep(self, topic: str, raw: bytes) -> None:
        """Commit a job as it came, whatever it is and however long that takes, and begin it."""
        app = self._app
        is_said = False
        while True:
            now_ms = app.clock.now_ms()
            job = InboxJob(
                inbox_id=build_message_id(now_ms, app.chance),
                topic=topic,
                raw=raw[:_MOST_RAW],
                received_ms=now_ms,
                due_ms=now_ms + _AGAIN_MS,
                changed_ms=now_ms,
            )
            try:
                await app.store.add_job(job)
            except IdTaken:
                continue
            except Unavailable as error:
                if not is_said:
                    log.log("job.not_kept_yet", "error", topic=topic, detail=error.detail)
                is_said = True
                try:
                    await asyncio.sleep(0.2)  # never given up: it is in no other place
                except asyncio.CancelledError:
                    log.log("job.lost", "error", topic=topic, detail=error.detail)
                    raise
                continue
            break
        self.counts.jobs_kept += 1
        task = asyncio.create_task(self._process(job))
        self._processing[task] = job.inbox_id
        task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._processing.pop(task, None)
        self._freed.set()

    async def look_again(self) -> None:
        """Take up what waits: deferred, retried, or left behind by a consumer that ended.

        One at a time, so that a job that ends its consumer is found, and no other suffers.
        """
        store, clock = self._app.store, self._app.clock
        counts = await store.count_jobs()
        self._waiting = counts.waiting
        if self._is_full and not self._was_full:
            log.log("inbox.full", "error", waiting=counts.waiting)
        self._was_full = self._is_full
        if counts.waiting <= len(self._processing):
            return
        while not self.is_stopping:
            now_ms = clock.now_ms()
            claimed = await store.claim_jobs(
                now_ms=now_ms, again_ms=now_ms + _AGAIN_MS, limit=1
            )
            for job in claimed:
                if job.inbox_id not in self._processing.values():
                    await self._process(job)
            if not claimed:
                return

    async def retain(self) -> None:
        """Remove what retention says, and what is too much."""
        removed = await self._app.store.retain_jobs(
            before_ms=self._app.clock.now_ms() - self._retention_ms,
            most=self._most,
            limit=_RETAIN_AT_ONCE,
        )
        if removed:
            log.log("inbox.trimmed", "warning", jobs=removed)

    async def _process(self, job: InboxJob) -> None:
        """Come to a verdict about one job, and never let it harm another."""
        try:
            verdict = await self._app.ingest.process(job)
        except Unavailable as error:
            _log.warning("job %s waits for the store: %s", job.inbox_id, error)
            self._waiting += 1
            return
        except Exception as error:  # noqa: BLE001  (the loop goes on, whatever one job does)
            _log.exception("job %s could not be processed", job.inbox_id)
            detail = f"a fault of emailerctl: {type(error).__name__}; please report it"
            with suppress(EmailerError):
                self._note(await self._app.ingest.reject(job, Reason.BUG, detail), job)
            return
        self._note(verdict, job)

    def _note(self, verdict: Verdict, job: InboxJob) -> None:
        """Count what came of a job, and write it to the process log."""
        match verdict:
            case Accepted(receipt=receipt):
                self.counts.jobs_accepted += not receipt.is_replay
                self.counts.jobs_replayed += receipt.is_replay
                self.counts.jobs_unsigned += not (receipt.is_replay or verdict.is_signed)
            case Deferred():
                self._waiting += 1
            case _:
                self.counts.jobs_rejected += 1
        _tell(job, verdict)


def _tell(job: InboxJob, verdict: Verdict) -> None:
    """Write to the process log what came of a job."""
    fields: dict[str, object] = {
        "inbox_id": to_public(INBOX, job.inbox_id),
        "topic": job.topic,
    }
    match verdict:
        case Accepted():
            fields |= {
                "message_id": to_public(MESSAGE, verdict.receipt.message_id),
                "service": verdict.service,
                "job_id": verdict.job_id,
                "replayed": verdict.receipt.is_replay,
                "signed": verdict.is_signed,
            }
            log.log("job.accepted", "info", **fields)
        case Deferred():
            log.log("job.deferred", "info", detail=verdict.detail, **fields)
        case _:
            fields |= {
                "service": verdict.service or None,
                "key_id": verdict.key_id or None,
                "job_id": verdict.job_id or None,
                "reason": verdict.reason,
            }
            log.log("job.rejected", "warning", **fields)


class _Poller:
    """Takes from one ForestMQ."""

    def __init__(self, app: App, status: SourceStatus, loop: IngestLoop) -> None:
        self.status = status
        self._loop = loop
        self._clock = app.clock
        self._rng = app.chance
        self._client = connect_jobs(app.settings, app.clock, app.chance, status.url)

    async def close(self) -> None:
        await self._client.close()

    async def run(self) -> None:
        """Take until the end begins."""
        empty_s = _EMPTY_S[0]
        while not self._loop.is_stopping:
            try:
                await self._loop.wait_for_room()
                if self._loop.is_stopping:
                    return
                found = await self._take()
            except Exception:  # noqa: BLE001  (the daemon's loop goes on)
                _log.exception("taking from %s failed", self.status.url)
                found = None
            if found is not None:
                empty_s = _EMPTY_S[0]
                await self._loop.keep(*found)
                continue
            rest_s = self._client.breaker.rest_s
            await self._loop.pause(rest_s or empty_s * self._rng.uniform(0.75, 1.25))
            empty_s = min(empty_s * 2, _EMPTY_S[1])

    async def _take(self) -> tuple[str, bytes] | None:
        """Return the topic that a message is for and its bytes, or None where there is none."""
        topics = self.status.topics
        try:
            taken = await self._client.take()
        except ForestMqError as error:
            if error.trouble is Trouble.UNREADABLE and b'"message"' in error.body:
                self._client.breaker.succeed()  # it is well: what it carried is not
                return topics[0], error.body
            note_trouble(self.status, error, self._clock)
            self._loop.counts.jobs_take_failed += error.trouble in _MAY_HAVE_TAKEN
            if error.trouble is Trouble.TIMED_OUT:
                log.log("job.may_be_lost", "warning", url=self.status.url, detail=error.detail)
            return None
        note_answer(self.status)
        self.status.length = taken.length if taken else 0
        if taken is None:
            return None
        message = taken.message
        named = message.get("topic") if isinstance(message, Mapping) else None
        topic = named if isinstance(named, str) and named in topics else topics[0]
        raw = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        return topic, raw.encode("utf-8", "surrogatepass")
