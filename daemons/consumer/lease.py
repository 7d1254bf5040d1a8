"""A consumer's right to claim: its row, its lock file, and the thread that renews its lease.

The lock file makes a kill -9 cost milliseconds instead of a lease: the kernel frees the lock
with the process, and whoever sees a free lock voids the dead one's leases.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from emailerctl import __version__
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock, boot_id
from emailerctl.store.base import Consumer, Store
from emailerctl.store.locks import find_lock

_BEAT_MS = 5_000  # at the most between two heartbeats


class Lease:
    """One consumer's standing in the store, renewed by a thread off the event loop.

    A loop that hangs renews nothing: the thread goes on only while `touch` is called.

    Args:
        duration_ms: how long the right lasts without renewal.
        on_lost: called from the thread when somebody declared this consumer dead.
        accounts: what tells apart whose account each next hop is used with.
        askable: the next hops that can be asked what became of an attempt.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        consumer_id: int,
        duration_ms: int,
        clock: Clock,
        on_lost: "threading.Event",
        accounts: Mapping[str, str],
        askable: Collection[str],
    ) -> None:
        """Prepare; nothing is locked or written yet."""
        self.consumer_id = consumer_id
        self.in_flight = 0
        self._store = store
        self._path = find_lock(folder, consumer_id)
        self._duration_ms = duration_ms
        self._clock = clock
        self._lost = on_lost
        self._accounts = accounts
        self._askable = askable
        self._descriptor = -1
        self._ended = threading.Event()
        self._touched_ms = clock.boot_ms()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    async def take(self) -> None:
        """Lock the file, register, and begin to renew."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now_ms = self._clock.now_ms()
        await self._store.register(
            Consumer(
                consumer_id=self.consumer_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                boot_id=boot_id(),
                version=__version__,
                started_ms=now_ms,
                heartbeat_ms=now_ms,
                lease_until_ms=self._clock.boot_ms() + self._duration_ms,
                accounts=self._accounts,
            )
        )
        self._thread.start()

    def touch(self) -> None:
        """Say that the event loop turns."""
        self._touched_ms = self._clock.boot_ms()

    def _renew(self) -> None:
        asyncio.run(self._renew_until_ended())

    async def _renew_until_ended(self) -> None:
        wait_s = min(self._duration_ms // 4, _BEAT_MS) / 1000
        while not await asyncio.to_thread(self._ended.wait, wait_s):
            if self._clock.boot_ms() - self._touched_ms > self._duration_ms:
                continue
            try:
                is_ours = await self._store.renew(
                    self.consumer_id,
                    now_ms=self._clock.now_ms(),
                    lease_until_ms=self._clock.boot_ms() + self._duration_ms,
                    in_flight=self.in_flight,
                )
            except Unavailable:
                continue  # a busy or full store: the next beat tries again
            if not is_ours:
                self._lost.set()
                return

    async def end(self, *, resend_after_ms: int) -> None:
        """Stop renewing, end the registration, and free the lock."""
        self._ended.set()
        await asyncio.to_thread(self._thread.join)
        await self._store.void(
            self.consumer_id,
            is_dead=True,
            now_ms=self._clock.now_ms(),
            boot_ms=self._clock.boot_ms(),
            resend_after_ms=resend_after_ms,
            askable=self._askable,
        )
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)
