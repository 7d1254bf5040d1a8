"""`/v1/events`: the event log by sequence number, in pages and as a stream."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, ClassVar

from tornado.iostream import StreamClosedError

from daemons.api.feed import Follower, events_shape
from daemons.api.handlers.base import READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import (
    EVENT_FILTERS,
    TICKET_BODY,
    Parse,
    parse_behind,
    parse_event_fields,
    parse_last,
    parse_limit,
    parse_query,
    parse_seq,
    parse_since,
    parse_ticket,
)
from emailerctl.core import eventlog, tickets
from emailerctl.core.answers import EventShape, TicketShape
from emailerctl.core.operate import resolve_id
from emailerctl.errors import AmbiguousId, BadRequest, EmailerError, NotFound
from emailerctl.metrics.registry import STREAM_BYTES
from emailerctl.models.caller import Caller
from emailerctl.models.clock import to_text
from emailerctl.models.page import PAGE_LIMIT, EventFilter
from emailerctl.wiring import App

HEARTBEAT_S = 15.0
_STUCK_S = 60.0  # a client that takes nothing for so long is gone
_RETRY_MS = 2_000  # when a client whose stream ended comes again
_PAGE: Mapping[str, Parse] = {
    **EVENT_FILTERS,
    "after": parse_seq,
    "limit": parse_limit,
    "since": parse_since,
    "last": parse_last,
}
_START: Mapping[str, Parse] = {
    **EVENT_FILTERS,
    "after": parse_seq,
    "max_behind": parse_behind,
    "ticket": str,
}


class _Log(Handler):
    """What pages of `[api] cors_origins` may read: they still need a token, or a ticket."""

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


async def _build_filter(app: App, caller: Caller, said: Mapping[str, Any]) -> EventFilter:
    """Return what is asked for, of what the caller may see."""
    fields = parse_event_fields(said, caller)
    text = fields.pop("message", None)
    if text is not None:
        fields["message_id"] = await resolve_id(app.store, text, service=caller.sees)
    return EventFilter(**fields)


def _narrow(ticket: EventFilter, asked: EventFilter) -> EventFilter:
    """Return what both are for: a ticket shows no more than it was made for."""
    both = asdict(ticket)
    for name, value in asdict(asked).items():
        if both[name] and value and both[name] != value:
            raise BadRequest(f"this ticket is not for that {name.removesuffix('_id')}")
        both[name] = both[name] or value
    return EventFilter(**both)


class Events(_Log):
    """`/v1/events`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {
        "GET": Operation(
            query=_PAGE,
            answer=EventShape,
            is_listing=True,
            refusals=(NotFound, AmbiguousId),
        )
    }

    async def get(self) -> None:
        """Read the log after a sequence number, from a moment on, or the end of it."""
        query = parse_query(self.request.query_arguments, _PAGE)
        after, limit = query.pop("after", 0), query.pop("limit", PAGE_LIMIT)
        since, last = query.pop("since", None), query.pop("last", None)
        store = self.app.store
        wanted = await _build_filter(self.app, self.caller, query)
        if last is not None:
            head = await store.last_seq()
            start = max(after, 0 if wanted.message_id else head - eventlog.EXAMINED)
            found = [e async for e in eventlog.read_fitting(store, wanted, start, head)]
            self.reply(events_shape(found[len(found) - last :] if last else [], head))
            return
        if since is not None:
            after = max(after, await store.find_seq_since(since))
        events, more = await eventlog.read_page(store, wanted, after_seq=after, limit=limit)
        self.reply(events_shape(events, more))


class EventStream(_Log):
    """`/v1/events/stream`: Server-Sent Events; `id:` is the sequence number."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {
        "GET": Operation(
            query=_START,
            headers={"Last-Event-ID": "go on after this event"},
            media_type="text/event-stream",
            refusals=(NotFound, AmbiguousId),
        )
    }
    head = None
    _narrowed: EventFilter | None = None  # what the ticket is for

    async def is_admitted(self) -> bool:
        """Let in who has a token, or a ticket; a ticket is used up by that."""
        [ticket] = self.request.query_arguments.get("ticket", [b""])[:1]
        if not ticket or self.request.method != "GET":
            return await super().is_admitted()
        try:
            self.caller, self._narrowed = await tickets.redeem(
                self.app.store,
                self.app.clock,
                self.app.tokens,
                ticket.decode("ascii", "replace"),
                remote=self.request.remote_ip or "",
            )
            self._identity = self.caller
        except EmailerError as error:
            self._identity = error
        return not isinstance(self._identity, EmailerError)

    async def get(self) -> None:
        """Follow the log from `Last-Event-ID` or `after`, or from now on."""
        query = parse_query(self.request.query_arguments, _START)
        query.pop("ticket", None)
        after, most_behind = query.pop("after", None), query.pop("max_behind", None)
        wanted = await _build_filter(self.app, self.caller, query)
        if self._narrowed is not None:
            wanted = _narrow(self._narrowed, wanted)
        feed = self.application.feed
        follower = await feed.join(
            self.caller, self._find_start(after), wanted=wanted, most_behind=most_behind
        )
        self.connection.set_close_callback(lambda: feed.dismiss(follower))
        try:
            await self._begin()
            while not follower.is_over:
                await self._pass_on(follower)
        except (StreamClosedError, TimeoutError):
            self.connection.stream.close()
        finally:
            feed.leave(follower)

    def _find_start(self, after: int | None) -> int | None:
        text = self.request.headers.get("Last-Event-ID", "")
        if not text:
            return after
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
        """Write what is new, or a sign of life.

        With it goes the position: a client that waits for rare events comes back to where it
        was, not to the last one that it saw (an id without data is remembered, and no event;
        WHATWG HTML 9.2.6, read 2026-11-24).
        """
        octets = await self.application.feed.take(
            follower, within_s=self.application.heartbeat_s
        )
        octets = octets or b": alive\nid: %d\n\n" % follower.position
        written = self.connection.write(octets)
        self.app.meter.add(STREAM_BYTES, by=len(octets))
        await asyncio.wait_for(written, _STUCK_S)


class EventTickets(Handler):
    """`/v1/events/tickets`."""

    scopes: ClassVar = {"POST": READERS}
    operations: ClassVar = {
        "POST": Operation(
            body=TICKET_BODY,
            answer=TicketShape,
            status=HTTPStatus.CREATED,
            refusals=(NotFound, AmbiguousId),
        )
    }

    async def post(self) -> None:
        """Make a ticket for one stream that begins within a minute."""
        said = parse_ticket(self.parse_object(is_optional=True))
        issued = await tickets.issue(
            self.app.store,
            self.app.clock,
            self.app.rng,
            caller=self.caller,
            wanted=await _build_filter(self.app, self.caller, said),
        )
        self._headers["Cache-Control"] = "no-store"
        body: TicketShape = {
            "ticket": issued.text,
            "expires_at": to_text(issued.expires_ms),
            "url": f"/v1/events/stream?ticket={issued.text}",
        }
        self.reply(body, HTTPStatus.CREATED)
