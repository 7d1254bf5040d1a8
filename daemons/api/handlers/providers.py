"""`/v1/providers`: the next hops, and whether they take mail."""

from typing import ClassVar

from daemons.api.handlers.base import ADMINS, READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.providers import list_providers, set_state
from daemons.api.schemas import REASON_BODY, parse_reason
from emailerctl.core.answers import NextHopShape
from emailerctl.core.shapes import listing_shape
from emailerctl.store.base import HopState


class Providers(Handler):
    """`/v1/providers`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(answer=NextHopShape, is_listing=True)}

    async def get(self) -> None:
        """List the next hops with their standing."""
        self.reply(listing_shape(await list_providers(self.app)))


class ProviderVerb(Handler):
    """`/v1/providers/{name}/enable`, `/disable`."""

    scopes: ClassVar = {"POST": ADMINS}
    operations: ClassVar = {"POST": Operation(body=REASON_BODY, answer=NextHopShape)}

    async def post(self, name: str, verb: str) -> None:
        """Let a next hop take mail, or not."""
        reason = parse_reason(self.parse_object(is_optional=True))
        state = HopState.OPEN if verb == "enable" else HopState.DISABLED
        actor = self.caller.name
        self.reply(await set_state(self.app, name, state, reason=reason, actor=actor))
