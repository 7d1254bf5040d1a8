"""A provider with a journal that also reports: its webhooks, signed, to a real API daemon."""

import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from emailerctl.models.ids import MESSAGE, to_public
from tests.providers_server.dialects import DIALECTS
from tests.providers_server.fixture import ProviderServer
from tests.scenarios.client import start_api
from tests.scenarios.conftest import Create
from tests.scenarios.world import World

_NUMBERS = itertools.count(1)
_SETTINGS = DIALECTS["mailgun"].settings


class Provider:
    """What a story's provider tells of what it has."""

    def __init__(self, world: World, server: ProviderServer, http: httpx.AsyncClient) -> None:
        self.world = world
        self.server = server
        self._http = http

    def address(self, does: str) -> str:
        """Return an address that nobody else has; the provider does what *does* says."""
        return f"{does}+s{next(_NUMBERS)}@sink.example.org"

    def build(
        self, message_id: int, recipient: str, event: str = "delivered", **more: Any
    ) -> dict[str, Any]:
        """Return an event as Mailgun would write it."""
        return {
            "event": event,
            "id": f"event-{next(_NUMBERS)}",
            "timestamp": self.world.app.clock.now_ms() / 1000,
            "recipient": recipient,
            "user-variables": {
                "emailer_id": to_public(MESSAGE, message_id),
                "emailer_attempt": "1",
            },
            **more,
        }

    def sign(self, event: dict[str, Any], *, key: str = "") -> bytes:
        """Return a call about *event*, signed at this moment."""
        timestamp = str(self.world.app.clock.now_ms() // 1000)
        token = f"token-{next(_NUMBERS)}"
        mac = hmac.new(
            (key or _SETTINGS["signing_key"]).encode(),
            (timestamp + token).encode(),
            hashlib.sha256,
        )
        signature = {"timestamp": timestamp, "token": token, "signature": mac.hexdigest()}
        return json.dumps({"signature": signature, "event-data": event}).encode()

    async def post(self, body: bytes) -> httpx.Response:
        """Call our webhook."""
        return await self._http.post("/v1/reports/mg", content=body)

    async def tell(
        self, message_id: int, recipient: str, event: str = "delivered", **more: Any
    ) -> dict[str, Any]:
        """Report on a copy, and return what we answer."""
        call = self.sign(self.build(message_id, recipient, event, **more))
        answer = await self.post(call)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@asynccontextmanager
async def open_provider(
    create: Create, server: ProviderServer, **settings: object
) -> AsyncIterator[Provider]:
    """Create a world whose only next hop is *server*, with an API daemon and a consumer."""
    of_provider = {f"providers__mg__{name}": value for name, value in _SETTINGS.items()}
    world = await create(
        providers__mg__kind="mailgun",
        providers__mg__base_url=server.url("mailgun"),
        **{**of_provider, "providers__mg__final_reply": "500ms", **settings},
        routing__default=["mg"],
    )
    _daemon, url = await start_api(world)
    await world.start_consumer()
    async with httpx.AsyncClient(base_url=url) as http:
        yield Provider(world, server, http)
