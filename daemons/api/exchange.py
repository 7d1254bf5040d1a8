"""One request from its first header to its answer: sizes, times, and what may be read at all.

Tornado would answer a body that is too long with a bare 400, and would hold everybody's bodies
in memory before anybody is asked for a token (T-12, T-13).
"""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from tornado import httputil

from emailerctl.errors import EmailerError, Overloaded, PayloadTooLarge

if TYPE_CHECKING:
    from daemons.api.app import Api
    from daemons.api.handlers.base import Handler

EARLY_BYTES = 64 * 1024  # a longer body is read only for a token that may send it
MOST_HELD_BYTES = 256 * 1024 * 1024  # bodies in memory, of one process
_DRAINED_BYTES = 64 * 1024 * 1024  # read and thrown away, so that the refusal can be read


class Exchange(httputil.HTTPMessageDelegate):
    """Collects a body within its limits and gives it to the handler of its path."""

    def __init__(self, api: "Api", connection: Any) -> None:
        """Wait for the headers, but not for ever; Tornado's own way costs ten times as much."""
        self._api = api
        self._connection = connection
        self._handler: Handler | None = None
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._seen_bytes = 0
        self._limit = api.body_limit
        self._discards = False
        self._is_answered = False
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            api.header_timeout_s, connection.stream.close
        )

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        """Find the handler; refuse a long body, or ask first who sends it."""
        self._stop_timer()
        request = httputil.HTTPServerRequest(
            connection=self._connection,
            start_line=cast("httputil.RequestStartLine", start_line),
            headers=headers,
        )
        self._handler = self._api.build_handler(request, self)
        self._limit = self._handler.body_limit or self._limit
        length = headers.get("Content-Length")
        is_chunked = "Transfer-Encoding" in headers
        if length is None and not is_chunked:
            return None
        self._timer = asyncio.get_running_loop().call_later(
            self._api.body_timeout_s, self._connection.stream.close
        )
        expected = int(length) if length and length.isdecimal() and len(length) < 19 else 0
        if expected > self._limit:
            self._refuse(self._too_large())
        elif is_chunked or expected > EARLY_BYTES:
            return self._look_at_token()
        return None

    async def _look_at_token(self) -> None:
        """Throw the body away where its sender is to be refused anyway."""
        handler = self._handler
        if handler is not None:
            self._discards = not await handler.is_admitted()

    def data_received(self, chunk: bytes) -> None:
        """Keep *chunk*, or throw it away."""
        self._seen_bytes += len(chunk)
        if self._seen_bytes > self._limit and not self._is_answered:
            self._refuse(self._too_large())
        if self._is_answered and self._seen_bytes > self._limit + _DRAINED_BYTES:
            self._connection.stream.close()
        if self._discards:
            return
        self._held_bytes += len(chunk)
        self._api.held_bytes += len(chunk)
        if self._api.held_bytes > MOST_HELD_BYTES:
            self._refuse(Overloaded("too many long requests at once", retry_after_s=1))
        else:
            self._chunks.append(chunk)

    def finish(self) -> None:
        """Give the whole body to the handler; its answer comes later."""
        self._stop_timer()
        handler, self._handler = self._handler, None  # it knows this exchange: no circle
        if handler is None:
            return
        if self._is_answered:
            handler.finish()
            return
        chunks = self._chunks
        handler.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        handler.start()

    def on_connection_close(self) -> None:
        """Forget what came: the client is gone before its request was complete."""
        self._stop_timer()
        self.release()
        self._handler = None

    def release(self) -> None:
        """Give back the room of the body: it was answered."""
        self._api.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._chunks = []

    def _refuse(self, error: EmailerError) -> None:
        """Answer now, read on and throw away: who still sends would not see the answer.

        A client that asked first (`Expect: 100-continue`) sends nothing: done at once.
        """
        self._discards = True
        self._is_answered = True
        self.release()
        if self._handler is not None:
            asks_first = self._handler.request.headers.get("Expect") is not None
            self._handler.refuse(error, is_last=asks_first and not self._seen_bytes)

    def _too_large(self) -> EmailerError:
        is_set = self._limit == self._api.body_limit
        return PayloadTooLarge(
            f"the body is longer than {self._limit} bytes",
            hint="send less, or raise [api] body_limit_bytes" if is_set else "send less",
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
