"""`/v1/events`: the event log by sequence number, in pages and as a stream."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

from tornado.iostream import StreamClosedError

from daemons.api.feed import Follower, read_page
from daemons.api.handlers.base import READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import Parse, narrow, parse_limit, parse_query, parse_seq
from emailerctl.core.answers import EventShape
from emailerctl.errors import BadRequest
from emailerctl.models.page import PAGE_LIMIT

HEARTBEAT_S = 15.0
_STUCK_S = 60.0  # a client that takes nothing for so long is gone
_RETRY_MS = 2_000  # when a client whose stream ended comes again
_PAGE: Mapping[str, Parse] = {"after": parse_seq, "limit": parse_limit, "service": str}
_START: Mapping[str, Parse] = {"after": parse_seq}


class _Log(Handler):
    """What pages of `[api] cors_origins` may read: they still need a token."""

    def build_headers(self) -> dict[str, str]:
        """Say whether the asking page may read the answer."""
        origin = self.request.headers.get("Origin")
        if origin is None:
            return {}
        headers = {"Vary": "Origin"}
        if origin in self.app.settings.api.cors_origins:
            headers["Access-Control-Allow-Origin"] = origin
        return headers

    async def options(self) -> None:
        """Answer a browser that asks before it asks (CORS)."""
        self._headers["Allow"] = ", ".join(self.methods)
        if "Access-Control-Allow-Origin" in self._headers:
            self._headers["Access-Control-Allow-Methods"] = "GET"
            self._headers["Access-Control-Allow-Headers"] = "Authorization, Last-Event-ID"
            self._headers["Access-Control-Max-Age"] = "600"
        self.reply_empty()


class Events(_Log):
    """`/v1/events`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(query=_PAGE, answer=EventShape, is_listing=True)}

    async def get(self) -> None:
        """Read the log after a sequence number."""
        query = parse_query(self.request.query_arguments, _PAGE)
        self.reply(
            await read_page(
                self.app.store,
                after_seq=query.get("after", 0),
                limit=query.get("limit", PAGE_LIMIT),
                service=narrow(query, self.caller)["service"],
            )
        )


class EventStream(_Log):
    """`/v1/events/stream`: Server-Sent Events; `id:` is the sequence number."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {
        "GET": Operation(
            query=_START,
            headers={"Last-Event-ID": "go on after this event"},
            media_type="text/event-stream",
        )
    }
    head = None

    async def get(self) -> None:
        """Follow the log from `Last-Event-ID` or `after`, or from now on."""
        feed = self.application.feed
        follower = await feed.join(self.caller, self._find_start())
        self.connection.set_close_callback(lambda: feed.dismiss(follower))
        try:
            await self._begin()
            while not follower.is_over:
                await self._pass_on(follower)
        except (StreamClosedError, TimeoutError):
            self.connection.stream.close()
        finally:
            feed.leave(follower)

    def _find_start(self) -> int | None:
        query = parse_query(self.request.query_arguments, _START)
        text = self.request.headers.get("Last-Event-ID", "")
        if not text:
            return query.get("after")
        try:
            return parse_seq(text)
        except ValueError as error:
            raise BadRequest(f"Last-Event-ID: {error}") from None

    async def _begin(self) -> None:
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx
        }
        await self._write_headers(HTTPStatus.OK, headers, b"retry: %d\n\n" % _RETRY_MS)

    async def _pass_on(self, follower: Follower) -> None:
        """Write what is new, or a sign of life."""
        octets = await self.application.feed.take(
            follower, within_s=self.application.heartbeat_s
        )
        written = self.connection.write(octets or b": alive\n\n")
        await asyncio.wait_for(written, _STUCK_S)
