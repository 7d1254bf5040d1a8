"""A client of the API: it posts with a key, and again with the same key until it is told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Any

import httpx

from emailerctl.core import tokens
from emailerctl.models.ids import MESSAGE, parse_public
from tests.scenarios.processes import STARTED_WITHIN_S, Daemon, eventually
from tests.scenarios.world import World

_BUSY = 503


def build_body(*to: str, **fields: object) -> dict[str, object]:
    return {
        "from": "shop@example.com",
        "to": list(to),
        "subject": "a story",
        "text": "Once upon a time.\n",
        **fields,
    }


def find_id(answer: httpx.Response) -> int:
    """Return the id of the message that a 202 is about."""
    assert answer.status_code == 202, answer.text
    message_id = parse_public(MESSAGE, answer.json()["id"])
    assert message_id is not None
    return message_id


async def start_api(world: World, **options: object) -> tuple[Daemon, str]:
    """Start an API daemon; return it and its address."""
    daemon = world.spawn("tests.scenarios.api_process", **options)
    started = await daemon.until_line("api.started", within=STARTED_WITHIN_S)
    return daemon, f"http://127.0.0.1:{started['port']}"


class Client:
    """One service that sends."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(
        self, url: str, body: Mapping[str, object], *, key: str | None = None
    ) -> httpx.Response:
        """Post a message once."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._http.post(f"{url}/v1/messages", json=body, headers=headers)

    async def insist(self, url: str, body: Mapping[str, object], *, key: str) -> httpx.Response:
        """Post a message with its key until an answer comes that is no "try again"."""
        answers: list[httpx.Response] = []

        async def has_answer() -> bool:
            try:
                answers.append(await self.post(url, body, key=key))
            except httpx.TransportError:
                return False
            return answers[-1].status_code != _BUSY

        await eventually(has_answer, within=60, saying=lambda: answers[-1:])
        return answers[-1]

    async def post_all(
        self, url: str, bodies: Mapping[str, Mapping[str, object]]
    ) -> dict[str, httpx.Response | BaseException]:
        """Post all of *bodies*, by their keys, at once."""
        answers = await asyncio.gather(
            *(self.post(url, body, key=key) for key, body in bodies.items()),
            return_exceptions=True,
        )
        return dict(zip(bodies, answers, strict=True))


@asynccontextmanager
async def create_client(world: World, **limits: Any) -> AsyncIterator[Client]:
    """Make a token for a service and be that service."""
    minted = await tokens.create(
        world.app.store,
        world.app.clock,
        SystemRandom(),
        name="shop",
        scopes=["send", "read", "operate"],
        **limits,
    )
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {minted.text}"},
        timeout=30,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    ) as http:
        yield Client(http)
