"""`/v1/queue`, `/v1/unknown`: what waits, in numbers; the recipients in doubt."""

from collections.abc import Mapping
from typing import ClassVar

from daemons.api.handlers.base import READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import Parse, narrow, parse_limit, parse_query
from emailerctl.core.answers import QueueShape, UnknownShape
from emailerctl.core.shapes import listing_shape, stats_shape, unknown_shape
from emailerctl.models.page import PAGE_LIMIT

_LISTED: Mapping[str, Parse] = {"service": str, "limit": parse_limit}


class Queue(Handler):
    """`/v1/queue`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(answer=QueueShape)}

    async def get(self) -> None:
        """Count what waits, of all services."""
        stats = await self.app.store.queue_stats(now_ms=self.app.clock.now_ms())
        self.reply(stats_shape(stats))


class Doubts(Handler):
    """`/v1/unknown`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {
        "GET": Operation(query=_LISTED, answer=UnknownShape, is_listing=True)
    }

    async def get(self) -> None:
        """List the recipients in doubt, oldest first."""
        query = parse_query(self.request.query_arguments, _LISTED)
        found = await self.app.store.list_unknown(
            now_ms=self.app.clock.now_ms(),
            service=narrow(query, self.caller)["service"] or None,
            limit=query.get("limit", PAGE_LIMIT),
        )
        self.reply(listing_shape(map(unknown_shape, found)))
