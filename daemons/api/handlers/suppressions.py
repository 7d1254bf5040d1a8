"""`/v1/suppressions`: the addresses that we will not send to."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

from daemons.api.handlers.base import ADMINS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import (
    SUPPRESSION_BODY,
    Parse,
    parse_blocks,
    parse_limit,
    parse_query,
    parse_suppression,
)
from emailerctl.core.answers import SuppressionShape
from emailerctl.core.shapes import page_shape, suppression_shape
from emailerctl.errors import NotFound
from emailerctl.models.page import PAGE_DEFAULT
from emailerctl.models.text import shorten
from emailerctl.store.base import Deed

_LISTED: Mapping[str, Parse] = {
    "address": str,
    "service": str,
    "limit": parse_limit,
    "cursor": str,
}
_REMOVED: Mapping[str, Parse] = {"service": str, "blocks": parse_blocks, "reason": str}


class Suppressions(Handler):
    """`/v1/suppressions`."""

    scopes: ClassVar = {"GET": ADMINS, "POST": ADMINS}
    operations: ClassVar = {
        "GET": Operation(query=_LISTED, answer=SuppressionShape, is_listing=True),
        "POST": Operation(
            body=SUPPRESSION_BODY,
            required=("address",),
            answer=SuppressionShape,
            status=HTTPStatus.CREATED,
        ),
    }

    async def get(self) -> None:
        """List suppressions by address; `address` is a prefix."""
        query = parse_query(self.request.query_arguments, _LISTED)
        page = await self.app.store.list_suppressions(
            service=query.get("service"),
            address=query.get("address", ""),
            cursor=query.get("cursor"),
            limit=query.get("limit", PAGE_DEFAULT),
        )
        self.reply(page_shape(page, suppression_shape))

    async def post(self) -> None:
        """Suppress an address, for one service or for all."""
        suppression = parse_suppression(
            self.parse_object(), actor=self.caller.name, now_ms=self.app.clock.now_ms()
        )
        deed = Deed(
            self.caller.name,
            "suppression.add",
            suppression.address,
            suppression.detail,
            data={"as": suppression.reason},
        )
        await self.app.store.suppress(suppression, deed=deed)
        self.reply(suppression_shape(suppression), HTTPStatus.CREATED)


class OneSuppression(Handler):
    """`/v1/suppressions/{address}`."""

    scopes: ClassVar = {"DELETE": ADMINS}
    operations: ClassVar = {"DELETE": Operation(query=_REMOVED, status=HTTPStatus.NO_CONTENT)}

    async def delete(self, address: str) -> None:
        """Take an address off the list; `service` says whose, none: that of all services.

        With `blocks` only what keeps all mail back, or only what keeps lists back.
        """
        query = parse_query(self.request.query_arguments, _REMOVED)
        if not await self.app.store.unsuppress(
            address,
            query.get("service", ""),
            blocks=query.get("blocks"),
            deed=Deed(self.caller.name, "suppression.remove", address, query.get("reason", "")),
            now_ms=self.app.clock.now_ms(),
        ):
            raise NotFound(f"{shorten(address)} is not on this list")
        self.reply_empty()
