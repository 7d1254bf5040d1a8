"""An open SMTP connection, as the transaction needs it: write, wait, and know what has left.

aiosmtplib opens it (smtp_connect.py); then this protocol takes over the transport, because no
library tells whether the last byte may have left.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from emailerctl.providers.smtp_reply import (
    Answer,
    Fault,
    Garbled,
    Lack,
    Reply,
    ReplyParser,
    clean,
)

# Replies that nobody asked for: more than a pipelined envelope can bring.
_MAX_PENDING = 1000
# After so many turns of the event loop, what had arrived before the first one has been read.
_TURNS = 3
_WRITABLE_EVERY_S = 0.02


class Session(asyncio.Protocol):
    """Our end of the connection; made with no `await` between it and the protocol before it.

    Attributes:
        extensions: what EHLO announced: keyword in lower case -> parameters.
        opening: the dialogue so far.
        messages: how many transactions ended on it.
        idle_since: `loop.time()` of the last one's end.
        must_reset: the server still has an envelope that was not used.
        closed: done once nothing of the connection is left.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        buffered: bytes,
        extensions: Mapping[str, str],
        opening: Sequence[str],
    ) -> None:
        """Take over *transport*, and what its protocol had *buffered*."""
        self.extensions = extensions
        self.opening = opening
        self.messages = 0
        self.idle_since = 0.0
        self.must_reset = False
        self.fault: Fault | None = None
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport = transport
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        socket = transport.get_extra_info("socket").fileno()
        self._input, self._output = select.poll(), select.poll()
        self._input.register(socket, select.POLLIN)
        self._output.register(socket, select.POLLOUT)
        # Pause as soon as the kernel does not take a byte: unpaused means that all is with it.
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(self)
        if buffered:
            self.data_received(buffered)

    # what the event loop calls

    def data_received(self, data: bytes) -> None:
        """Take replies; what is none ends the connection."""
        if self.fault is not None:
            return
        try:
            self._replies.extend(self._parser.feed(data))
        except Garbled as error:
            sentence, replies = error.args
            self._replies.extend(replies)
            self._break(Lack.GARBLED, sentence)
            return
        if len(self._replies) > _MAX_PENDING:
            self._break(Lack.GARBLED, "replies without end")
        self._wake()

    def eof_received(self) -> bool:
        """Take the end of their side for the end of all."""
        self._break(Lack.LOST, "the connection was closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why."""
        said = f": {clean(str(exc))}" if exc else ""
        self._break(Lack.LOST, f"the connection was lost{said}")
        _resolve(self.closed)

    def pause_writing(self) -> None:
        """Take note: the kernel takes no more for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Take note: the kernel has everything."""
        self._is_paused = False
        self._wake()

    def _break(self, lack: Lack, detail: str) -> None:
        if self.fault is None:
            self.fault = Fault(lack, detail)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # replies

    @property
    def pending(self) -> Answer | None:
        """What has come without being waited for: a reply, a fault, or nothing."""
        return self._replies[0] if self._replies else self.fault

    def take(self) -> Answer | None:
        """Return the next reply if it has come, else the fault if there is one."""
        # What came before the fault was said before it.
        return self._replies.popleft() if self._replies else self.fault

    async def reply(self, seconds: float, command: str) -> Answer:
        """Return the next reply, or what happened instead."""
        await self._wait(self._has_reply, seconds, "no reply to", command)
        return cast("Answer", self.take())

    def _has_reply(self) -> bool:
        return bool(self._replies)

    async def _wait(
        self, is_ready: Callable[[], bool], seconds: float, what: str, whose: str
    ) -> None:
        """Return once *is_ready*, or once it can't become so any more."""
        if is_ready() or self.fault is not None:
            return
        timer = self._loop.call_later(
            max(seconds, 0), self._time_out, f"{what} {whose}", seconds, _TURNS
        )
        try:
            while True:
                self._waiter = self._loop.create_future()
                await self._waiter
                if is_ready() or self.fault is not None:
                    return
        finally:
            self._waiter = None
            timer.cancel()

    def _time_out(self, what: str, seconds: float, turns: int) -> None:
        """Declare the wait over, after reading what the kernel already has.

        A process that was stopped (SIGSTOP) finds its timers due and the reply in the socket's
        buffer, and uvloop runs timers first: the late reply must testify (F-CL-04).
        """
        if self._waiter is None or self._waiter.done():
            return
        if turns:
            self._loop.call_soon(self._time_out, what, seconds, turns - 1)
        else:
            self._break(Lack.SILENT, f"{what} within {max(seconds, 0):.3g} s")

    @property
    def has_arrived(self) -> bool:
        """Whether the kernel has something for us that the event loop has not read."""
        return bool(self._input.poll(0))

    async def read_arrived(self) -> None:
        """Let the event loop read what the kernel has for us."""
        for _ in range(_TURNS):
            await self._turn()

    async def _turn(self, seconds: float = 0) -> None:
        """Let the event loop go on for one turn, or for some time."""
        turned = self._loop.create_future()
        timer = self._loop.call_later(seconds, _resolve, turned)
        try:
            await turned
        finally:
            timer.cancel()

    async def is_usable(self) -> bool:
        """Say whether a transaction may begin: nothing came unasked, nothing is lost."""
        if self.has_arrived:
            await self.read_arrived()
        is_silent = self.pending is None and self._parser.is_empty
        return is_silent and not self._transport.is_closing()

    # bytes

    def write(self, data: bytes | memoryview) -> None:
        """Send, as far as the kernel takes it; the rest follows."""
        self._transport.write(data)

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait in our own memory.  TLS may hide some: `flush_tls`."""
        return self._transport.get_write_buffer_size() > 0

    async def flush(self, seconds: float) -> None:
        """Wait until the kernel has everything, or an answer comes, or the time is over."""
        if not self._may_go_on():
            await self._wait(self._may_go_on, seconds, "no room for", "more content")

    def _may_go_on(self) -> bool:
        return not self._is_paused or self.pending is not None

    async def flush_tls(self, seconds: float) -> None:
        """Wait for the same below TLS, whose transport does not tell.

        The event loop writes as soon as the socket takes bytes: one that still does after some
        turns has nothing left to take.
        """
        if not self.is_tls:
            return
        end = self._loop.time() + seconds
        writable = 0
        while writable < _TURNS and self.pending is None:
            writable = writable + 1 if self._output.poll(0) else 0
            if not writable and self._loop.time() > end:
                self._break(Lack.SILENT, f"no room for more content within {seconds:.3g} s")
            await self._turn(0 if writable else _WRITABLE_EVERY_S)

    # the end

    async def quit(self, seconds: float) -> Answer:
        """Say goodbye, wait for the answer, close."""
        self.write(b"QUIT\r\n")
        answer = await self.reply(seconds, "QUIT")
        self._transport.close()
        return answer

    def leave(self) -> None:
        """Say goodbye, and close without waiting for the answer."""
        if self.fault is None and not self._transport.is_closing():
            self.write(b"QUIT\r\n")
        self._transport.close()

    def abort(self) -> None:
        """Close at once: what is still in our memory never leaves."""
        self._break(Lack.LOST, "the connection was closed by us")
        self._transport.abort()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
