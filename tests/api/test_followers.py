"""Two hundred followers, two API processes, and a kill under load: each sees all, once."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom

import httpx
import pytest

from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.settings import Settings
from emailerctl.store import migrations
from tests.api.serving import ApiProcess
from tests.conftest import build_settings

FOLLOWERS = 200
MESSAGES = 90
EVENTS = 2 * MESSAGES  # message.accepted and recipient.accepted
WITHIN_S = 150

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    settings = build_settings(tmp_path)
    migrations.migrate(settings.store.path)
    return settings


@pytest.fixture
def both(place: Settings) -> Iterator[list[ApiProcess]]:
    """Two processes on one store, each with a port of its own; a killed one is replaced."""
    processes = [ApiProcess(place), ApiProcess(place)]
    yield processes
    for process in processes:
        process.kill()


async def create_token(place: Settings) -> str:
    async with wiring.open_app(place) as app:
        minted = await tokens.create(
            app.store, app.clock, SystemRandom(), name="t", scopes=["send", "read"]
        )
        return minted.text


async def follow(both: list[ApiProcess], token: str, chance: Random, seen: list[int]) -> None:
    """Follow until everything was seen; where the stream ends go on at either process."""
    while len(seen) < EVENTS:
        process = chance.choice(both)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        except ConnectionError:
            await asyncio.sleep(0.02)
            continue
        try:
            writer.write(
                b"GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer %b\r\nLast-Event-ID: %d\r\n\r\n"
                % (token.encode(), seen[-1] if seen else 0)
            )
            while len(seen) < EVENTS:
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    break
                if line.startswith(b"data: "):
                    seen.append(json.loads(line[6:])["seq"])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def send(both: list[ApiProcess], token: str) -> None:
    """Post every message with its key until it is accepted."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=10) as http:
        body = {"from": "a@example.org", "to": "b@example.net", "text": "x"}
        for n in range(MESSAGES):
            status = 0
            while status != 202:
                process = both[n % 2]
                try:
                    answer = await http.post(
                        f"{process.url}/v1/messages",
                        json=body,
                        headers={"Idempotency-Key": f"k{n}"},
                    )
                    status = answer.status_code
                except httpx.TransportError:
                    await asyncio.sleep(0.02)


async def kill_and_replace(both: list[ApiProcess], place: Settings, seen: list[int]) -> None:
    """Kill one, then the other, when a third and two thirds of it have been seen."""
    for n, part in enumerate((EVENTS // 3, 2 * EVENTS // 3)):
        while len(seen) < part:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        both[n].kill()
        both[n] = await asyncio.to_thread(ApiProcess, place)


async def test_nobody_misses_anything_or_sees_it_twice(
    place: Settings, both: list[ApiProcess]
) -> None:
    token = await create_token(place)
    chance = Random(1)
    sequences: list[list[int]] = [[] for _ in range(FOLLOWERS)]

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        for seen in sequences:
            group.create_task(follow(both, token, chance, seen))
        group.create_task(send(both, token))
        group.create_task(kill_and_replace(both, place, sequences[0]))

    assert all(seen == list(range(1, EVENTS + 1)) for seen in sequences)
