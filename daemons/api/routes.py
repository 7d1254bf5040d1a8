"""Every path of the API, once: what answers there and, by its handler, what is said of it.

What is added here is in `/openapi.json`, and tests try it with whatever it may be sent.
"""

import re
from urllib.parse import unquote_to_bytes

from daemons.api.handlers.base import Handler, Unknown
from daemons.api.handlers.documentation import DocumentationFile, DocumentationPage, OpenApi
from daemons.api.handlers.events import Events, EventStream, EventTickets
from daemons.api.handlers.health import Health, Readiness
from daemons.api.handlers.jobs import Job
from daemons.api.handlers.messages import (
    Message,
    MessageBatch,
    MessageContent,
    MessageEvents,
    Messages,
    MessageVerb,
    describe_order,
)
from daemons.api.handlers.metrics import Metrics
from daemons.api.handlers.providers import Providers, ProviderVerb
from daemons.api.handlers.queue import Doubts, Queue
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
from daemons.api.openapi import Route
from emailerctl.store.base import Verb

# What is asked most is first: paths with names in them are tried in this order.
ROUTES: tuple[Route, ...] = (
    Route("/v1/messages", Messages),
    Route("/v1/messages/batch", MessageBatch),
    Route("/v1/messages/{id}", Message),
    Route("/v1/messages/{id}/content", MessageContent),
    Route("/v1/messages/{id}/events", MessageEvents),
    *(
        Route(
            f"/v1/messages/{{id}}/{verb}", MessageVerb, (verb,), {"POST": describe_order(verb)}
        )
        for verb in Verb
    ),
    Route("/v1/events", Events),
    Route("/v1/events/stream", EventStream),
    Route("/v1/events/tickets", EventTickets),
    Route("/v1/jobs/{id}", Job),
    Route("/v1/queue", Queue),
    Route("/v1/unknown", Doubts),
    Route("/v1/suppressions", Suppressions),
    Route("/v1/suppressions/{address}", OneSuppression),
    Route("/v1/providers", Providers),
    Route("/v1/providers/{name}/enable", ProviderVerb, ("enable",)),
    Route("/v1/providers/{name}/disable", ProviderVerb, ("disable",)),
    Route("/v1/templates", Templates),
    Route("/v1/templates/{name}", Template),
    Route("/v1/templates/{name}/versions", TemplateVersions),
    Route("/v1/templates/{name}/rollback", TemplateRollback),
    Route("/v1/templates/{name}/render", TemplateRendering),
    Route("/v1/reports/{provider}", Reports),
    Route("/v1/reports/{provider}/{secret}", Reports),
    Route("/u/{link}", Unsubscribe),
    Route("/healthz", Health),
    Route("/readyz", Readiness),
    Route("/metrics", Metrics),
    Route("/openapi.json", OpenApi),
    Route("/docs", DocumentationPage),
    Route("/docs/{file}", DocumentationFile),
)

_PATHS = {route.path: (route.handler, route.fixed) for route in ROUTES if "{" not in route.path}
_PATTERNS = tuple(
    (re.compile(re.sub(r"{\w+}", "([^/]+)", route.path)), route.handler, route.fixed)
    for route in ROUTES
    if "{" in route.path
)


def find_handler(path: str) -> tuple[type[Handler], tuple[str, ...]]:
    """Return whose path this is, and what its variable parts say, percent signs resolved."""
    found = _PATHS.get(path)
    if found is not None:
        return found
    for pattern, kind, fixed in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        try:
            parts = [unquote_to_bytes(part).decode() for part in match.groups()]
        except UnicodeDecodeError:
            break
        return kind, (*parts, *fixed)
    return Unknown, ()
