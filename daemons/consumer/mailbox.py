"""The bounce mailbox: one consumer at a time reads it, and what it reads counts once.

    find → fetch → apply (commit) → move

A crash between the last two has a message read again, which changes nothing: each thing that is
told has its id.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, TypeVar

from daemons.consumer.imap import ImapTrouble, Visit, build_context
from emailerctl.core.bounces import Bounces, Received
from emailerctl.errors import Unavailable
from emailerctl.log import log
from emailerctl.models.clock import Clock, to_ms
from emailerctl.settings.model import ImapSettings
from emailerctl.store.base import Store

_log = logging.getLogger(__name__)

_DUTY = "bounces.imap"
_KEPT_MS = 60_000  # a duty outlasts the wait for the next look by this
_LONGEST_WAIT_S = 900.0
_DOUBLINGS = 10
_STEP_TIMEOUTS = 4  # of the server's silence: how long one step may take in all

T = TypeVar("T")


class _NotOurs(Exception):
    """Another consumer reads the mailbox."""


class Mailbox:
    """What reads the mailbox until it is cancelled.

    Args:
        holder: this consumer's id.
    """

    def __init__(
        self,
        settings: ImapSettings,
        bounces: Bounces,
        store: Store,
        *,
        holder: int,
        clock: Clock,
        rng: Random,
    ) -> None:
        """Take what is needed; nothing is connected yet.

        Raises:
            ConfigurationError: `ca_file` can't be used.
        """
        self._settings = settings
        self._bounces = bounces
        self._store = store
        self._holder = holder
        self._clock = clock
        self._rng = rng
        self._context = build_context(settings)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imap")
        self._failures = 0
        self._visit: Visit | None = None
        self._taken_until_ms = 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._plan_wait_s())
        finally:
            self._thread.shutdown(wait=False)
            await asyncio.shield(self._give_up())

    async def _look(self) -> None:
        """Read what is there, and say what goes wrong."""
        try:
            if not await self._take_duty():
                return
            await self._read_all()
        except _NotOurs:
            return
        except (ImapTrouble, Unavailable) as error:
            await self._fail(str(error))
            return
        except Exception as error:  # noqa: BLE001  (the daemon's loop goes on)
            _log.exception("reading the bounce mailbox failed")
            await self._fail(f"internal error: {type(error).__name__}")
            return
        if self._failures:
            log("bounces.reachable", "warning", after=self._failures)
        self._failures = 0

    def _plan_wait_s(self) -> float:
        """Return the time to the next look: longer after each failure in a row."""
        wait_s = self._settings.poll.total_seconds()
        if not self._failures:
            return wait_s
        longest_s = max(wait_s, _LONGEST_WAIT_S)
        wait_s = min(wait_s * float(2 ** min(self._failures, _DOUBLINGS)), longest_s)
        return wait_s * (0.5 + self._rng.random() / 2)

    async def _fail(self, reason: str) -> None:
        """Note a failure, and let another consumer try: it may have a better way there."""
        self._failures += 1
        log("bounces.unreachable", "error", reason=reason, failures=self._failures)
        await self._give_up()

    # the duty

    async def _take_duty(self) -> bool:
        now_ms = self._clock.now_ms()
        if now_ms < self._taken_until_ms - self._kept_ms() // 2:
            return True
        until_ms = now_ms + self._kept_ms()
        is_ours = await self._store.take_duty(
            _DUTY, self._holder, now_ms=now_ms, until_ms=until_ms
        )
        self._taken_until_ms = until_ms if is_ours else 0
        return is_ours

    def _kept_ms(self) -> int:
        return to_ms(self._settings.poll) + _KEPT_MS

    async def _give_up(self) -> None:
        if not self._taken_until_ms:
            return
        self._taken_until_ms = 0
        try:
            now_ms = self._clock.now_ms()
            await self._store.take_duty(_DUTY, self._holder, now_ms=now_ms, until_ms=0)
        except Unavailable as error:  # it ends by itself
            _log.warning("the bounce mailbox stays ours for a while: %s", error)

    # a visit

    async def _read_all(self) -> None:
        visit = self._visit = Visit(self._settings, self._context)
        passed: set[str] = set()
        try:
            await self._step(visit.begin)
            while uids := await self._step(lambda: visit.find(passed)):
                for uid in uids:
                    if not await self._take_duty():
                        raise _NotOurs
                    if not await self._read(visit, uid):
                        passed.add(uid)
            await self._step(visit.end)
        finally:
            self._visit = None
            visit.abort()
            self._thread.submit(visit.close)

    async def _read(self, visit: Visit, uid: str) -> bool:
        """Read one message; False where it has to stay, by a fault of ours."""
        raw = await self._step(lambda: visit.fetch(uid))
        if raw is None:
            return False
        try:
            received = await self._bounces.take(raw, now_ms=self._clock.now_ms())
        except Unavailable:
            raise  # the next look tries again
        except Exception:  # noqa: BLE001  (the others still count)
            _log.exception("message %s of the bounce mailbox can't be taken", uid)
            return False
        log_received(received)
        await self._step(lambda: visit.finish(uid))
        return True

    async def _step(self, work: Callable[[], T]) -> T:
        """Have the thread do one step of a visit, in a time that a slow server can't extend."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        running.add_done_callback(_hear)
        within_s = self._settings.timeout.total_seconds() * _STEP_TIMEOUTS
        done, _ = await asyncio.wait({running}, timeout=within_s)
        if not done:
            if self._visit is not None:
                self._visit.abort()
            raise ImapTrouble(f"the server took more than {within_s:g} s for one step")
        return running.result()


def _hear(step: asyncio.Future[Any]) -> None:
    """Take note of how a step ended that nobody waits for any more."""
    if not step.cancelled():
        step.exception()


def log_received(received: Received) -> None:
    """Say what became of a message."""
    level = "warning" if received.is_forged else "info"
    log(
        "bounces.received",
        level,
        sort=received.sort,
        message_id=received.public_id or None,
        reports=[report.kind for report in received.reports],
        repeated=received.repeated,
        is_forged=received.is_forged,
    )
