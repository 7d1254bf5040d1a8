"""What the handlers of one process share."""

import asyncio
import json
from functools import cached_property

from tornado.httputil import (
    HTTPConnection,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
)

from daemons.api.exchange import Exchange
from daemons.api.feed import Feed
from daemons.api.handlers.base import Handler
from daemons.api.handlers.events import HEARTBEAT_S
from daemons.api.openapi import build_document
from daemons.api.routes import ROUTES, find_handler
from emailerctl.metrics.registry import FOLLOWERS, REQUESTS
from emailerctl.wiring import App


class Api(HTTPServerConnectionDelegate):
    """The API of one process.

    Attributes:
        held_bytes: of request bodies that are in memory.
        running: the requests under way; a stop waits for them.
        heartbeat_s: between two signs of life on a quiet stream.
    """

    def __init__(self, app: App) -> None:
        """Take what the handlers need."""
        self.app = app
        self.feed = Feed(app.store, app.tokens, clock=app.clock, meter=app.meter)
        self.body_limit = app.settings.api.body_limit_bytes
        self.header_timeout_s = app.settings.api.header_timeout.total_seconds()
        self.body_timeout_s = app.settings.api.body_timeout.total_seconds()
        self.heartbeat_s = HEARTBEAT_S
        self.held_bytes = 0
        self.is_stopping = False
        self.running: set[asyncio.Task[None]] = set()

    def note(self) -> None:
        """Note for the monitoring what this process has open."""
        meter = self.app.meter
        meter.set(REQUESTS, to=len(self.running))
        meter.set(FOLLOWERS, to=self.feed.followers)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Begin an exchange; Tornado calls this for each request."""
        return Exchange(self, request_conn)

    def build_handler(self, request: HTTPServerRequest, exchange: Exchange) -> Handler:
        """Return what answers *request*."""
        kind, arguments = find_handler(request.path)
        return kind(self, request, exchange, arguments)

    @cached_property
    def document(self) -> bytes:
        """Return what the API says of itself."""
        return json.dumps(build_document(ROUTES), ensure_ascii=False).encode()
