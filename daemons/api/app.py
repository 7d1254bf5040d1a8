"""The route table, and what the handlers of one process share."""

import asyncio
import re
from urllib.parse import unquote_to_bytes

from tornado.httputil import (
    HTTPConnection,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
)

from daemons.api.exchange import Exchange
from daemons.api.feed import Feed
from daemons.api.handlers.base import Handler, Unknown
from daemons.api.handlers.events import HEARTBEAT_S, Events, EventStream, EventTickets
from daemons.api.handlers.health import Health, Readiness
from daemons.api.handlers.jobs import Job
from daemons.api.handlers.messages import (
    Message,
    MessageBatch,
    MessageContent,
    MessageEvents,
    Messages,
    MessageVerb,
)
from daemons.api.handlers.metrics import Metrics
from daemons.api.handlers.providers import Providers, ProviderVerb
from daemons.api.handlers.reports import Reports
from daemons.api.handlers.suppressions import OneSuppression, Suppressions
from daemons.api.handlers.templates import (
    Template,
    TemplateRendering,
    TemplateRollback,
    Templates,
    TemplateVersions,
)
from daemons.api.handlers.unsubscribe import Unsubscribe
from emailerctl.metrics.registry import FOLLOWERS, REQUESTS
from emailerctl.wiring import App

_PATHS: dict[str, type[Handler]] = {
    "/v1/messages": Messages,
    "/v1/messages/batch": MessageBatch,
    "/v1/events": Events,
    "/v1/events/stream": EventStream,
    "/v1/events/tickets": EventTickets,
    "/v1/suppressions": Suppressions,
    "/v1/providers": Providers,
    "/v1/templates": Templates,
    "/healthz": Health,
    "/readyz": Readiness,
    "/metrics": Metrics,
}
_PATTERNS: tuple[tuple[re.Pattern[str], type[Handler]], ...] = (
    (re.compile(r"/v1/messages/([^/]+)"), Message),
    (re.compile(r"/v1/messages/([^/]+)/events"), MessageEvents),
    (re.compile(r"/v1/messages/([^/]+)/content"), MessageContent),
    (
        re.compile(r"/v1/messages/([^/]+)/(cancel|hold|release|retry|resolve|reschedule)"),
        MessageVerb,
    ),
    (re.compile(r"/v1/jobs/([^/]+)"), Job),
    (re.compile(r"/v1/suppressions/([^/]+)"), OneSuppression),
    (re.compile(r"/v1/reports/([^/]+)(?:/([^/]+))?"), Reports),
    (re.compile(r"/v1/templates/([^/]+)"), Template),
    (re.compile(r"/v1/templates/([^/]+)/versions"), TemplateVersions),
    (re.compile(r"/v1/templates/([^/]+)/rollback"), TemplateRollback),
    (re.compile(r"/v1/templates/([^/]+)/render"), TemplateRendering),
    (re.compile(r"/u/([A-Za-z0-9_-]+)"), Unsubscribe),
    (re.compile(r"/v1/providers/([^/]+)/(enable|disable)"), ProviderVerb),
)


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
        kind = _PATHS.get(request.path)
        arguments: tuple[str, ...] = ()
        if kind is None:
            kind, arguments = find_handler(request.path)
        return kind(self, request, exchange, arguments)


def find_handler(path: str) -> tuple[type[Handler], tuple[str, ...]]:
    """Return whose path this is, and what its variable parts say, percent signs resolved."""
    for pattern, kind in _PATTERNS:
        found = pattern.fullmatch(path)
        if found is None:
            continue
        try:
            parts = found.groups("")
            return kind, tuple(unquote_to_bytes(part).decode() for part in parts)
        except UnicodeDecodeError:
            break
    return Unknown, ()
