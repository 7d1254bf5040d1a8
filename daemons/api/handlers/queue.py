"""`/v1/queue`, `/v1/unknown`: what waits, in numbers; the recipients in doubt."""

from collections.abc import Mapping
from typing import ClassVar

from daemons.api.handlers.base import READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import Parse, narrow, parse_limit, parse_query
from emailerctl.core.answers import QueueShape, UnknownShape
from emailerctl.core.operate import resolve_id
from emailerctl.core.outlook import foresee
from emailerctl.core.shapes import listing_shape, stats_shape, unknown_shape
from emailerctl.errors import AmbiguousId, NotFound
from emailerctl.models.page import PAGE_LIMIT

_LISTED: Mapping[str, Parse] = {"service": str, "message": str, "limit": parse_limit}


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
        "GET": Operation(
            query=_LISTED,
            answer=UnknownShape,
            is_listing=True,
            refusals=(NotFound, AmbiguousId),
        )
    }

    async def get(self) -> None:
        """List the recipients in doubt, oldest first: of all messages, or of one."""
        query = parse_query(self.request.query_arguments, _LISTED)
        store, message_id = self.app.store, None
        if "message" in query:
            message_id = await resolve_id(store, query["message"], service=self.caller.sees)
        found = await store.list_unknown(
            now_ms=self.app.clock.now_ms(),
            message_id=message_id,
            service=narrow(query, self.caller)["service"] or None,
            limit=query.get("limit", PAGE_LIMIT),
        )
        abilities = self.app.abilities
        self.reply(listing_shape(unknown_shape(one, foresee(one, abilities)) for one in found))
