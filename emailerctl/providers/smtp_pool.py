"""Kept connections to one next hop: at most N, reused while fresh, never after a fault."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from emailerctl.providers.smtp_connect import NotOpened, Opened
from emailerctl.providers.smtp_reply import Fault, Lack, Stage, Verdict
from emailerctl.providers.smtp_session import Session

_LEAVE_WITHIN_S = 1.0


class Taken(NamedTuple):
    """A session to use once, and whether it was used before."""

    session: Session
    is_kept: bool


class Pool:
    """The connections; each is either taken by one transaction or idle."""

    def __init__(
        self,
        open_session: Callable[[float], Awaitable[Opened]],
        *,
        size: int,
        idle_seconds: float,
        messages_per_connection: int,
    ) -> None:
        """Open by *open_session*, which is told how many seconds are left."""
        self._open_session = open_session
        self._free = asyncio.Semaphore(size)
        self._taken = 0
        self._idle: list[Session] = []
        self._leaving: set[Session] = set()
        self._idle_seconds = idle_seconds
        self._messages = messages_per_connection
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def connections(self) -> int:
        """How many connections there are, those that are being opened included."""
        return self._taken + len(self._idle)

    async def take(self, seconds: float) -> Taken:
        """Return a connection within *seconds*: a kept one that is alive, or a new one.

        Raises:
            NotOpened: none became free in time, or none could be opened.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._free.locked():
            await self._wait(seconds)
        else:
            await self._free.acquire()  # does not wait
        self._taken += 1
        try:
            while self._idle:
                session = self._idle.pop()
                if self._is_fresh(session, loop.time()) and await session.is_usable():
                    return Taken(session, is_kept=True)
                self._leave(session)
            return Taken(await self._open(end - loop.time()), is_kept=False)
        except BaseException:
            self._release()
            raise

    async def replace(self, dead: Session, seconds: float) -> Taken:
        """Return a new connection in the place of a *dead* one that was kept (F-SM-18).

        Raises:
            NotOpened: it could not be opened; the place is still taken.
        """
        dead.abort()
        return Taken(await self._open(seconds), is_kept=False)

    def give_back(self, session: Session) -> None:
        """End a taking; the connection is kept if another message may follow on it."""
        try:
            is_worn = self._is_closed or session.messages >= self._messages
            if is_worn or session.pending is not None:
                self._leave(session)
                return
            session.idle_since = asyncio.get_running_loop().time()
            self._idle.append(session)
            self._watch()
        finally:
            self._release()

    def _release(self) -> None:
        self._taken -= 1
        self._free.release()

    async def close(self) -> None:
        """Close what is idle, now, and what is taken when it is given back."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._leave(self._idle.pop())
        if self._leaving:
            await asyncio.wait([s.closed for s in self._leaving], timeout=_LEAVE_WITHIN_S)
        for session in list(self._leaving):
            session.abort()

    def _leave(self, session: Session) -> None:
        """Say goodbye; the server may take its time to close."""
        session.leave()
        self._leaving.add(session)
        session.closed.add_done_callback(lambda _: self._leaving.discard(session))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
        except TimeoutError as error:
            fault = Fault(Lack.BUSY, f"no connection became free within {seconds:.3g} s")
            raise NotOpened(Verdict(Stage.CONNECT, fault)) from error

    async def _open(self, seconds: float) -> Session:
        return (await self._open_session(seconds)).session

    def _is_fresh(self, session: Session, now: float) -> bool:
        return now - session.idle_since < self._idle_seconds

    def _watch(self) -> None:
        """Have idle connections closed when their time is over."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle_seconds, self._close_stale)

    def _close_stale(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        stale = [s for s in self._idle if s.fault is not None or not self._is_fresh(s, now)]
        for session in stale:
            self._idle.remove(session)
            self._leave(session)
        if self._idle:
            self._watch()
