"""The broker is killed every second, loses what was taken, repeats everything, in any order."""

import asyncio
import logging
import os

import pytest

from emailerctl.models.lifecycle import State
from tests.forestmq.fixture import StartForestMq
from tests.scenarios.brokers import ByForestMq
from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.conftest import Create

MESSAGES = int(os.environ.get("BROKER_MESSAGES", "80"))  # more are asked for by that
EVERY_S = 0.05
_log = logging.getLogger(__name__)


@pytest.mark.timeout(150 + MESSAGES)
async def test_nothing_is_lost_nothing_goes_out_twice(
    create: Create, start_forestmq: StartForestMq
) -> None:
    """F-BR-01, F-BR-02: under load, with two consumers; what it costs is seconds.

    `bench/` measures how many; here the bound is one that a busy machine keeps too.
    """
    broker = ByForestMq(
        start_forestmq(
            *("--restart-after", "0.2", "--kill-every", "1"),
            *("--abandon", "0.1", "--repeat", "50", "--reorder"),
        )
    )
    world = await create(**broker.settings)
    for _ in range(2):
        await world.start_consumer()
    addresses = [world.address() for _ in range(MESSAGES)]
    async with create_client(world) as client:
        _, url = await start_api(world)
        answers = []
        for to in addresses:
            answers.append(asyncio.create_task(client.post(url, build_body(to))))
            await world.pass_time(round(EVERY_S * 1000))
        message_ids = [find_id(answer) for answer in await asyncio.gather(*answers)]

    views = [await world.until(one, State.SENT, within=60) for one in message_ids]
    await world.let_others_pass()

    assert [world.copies(to) for to in addresses] == [1] * MESSAGES
    waits_ms = sorted(view.attempts[0].started_ms - view.created_ms for view in views)
    seen = broker.server.stats()
    _log.info("p50 %s ms, p99 %s ms; %s", waits_ms[MESSAGES // 2], waits_ms[-2], seen)
    assert seen["deaths"] >= 3
    assert seen["abandoned"] >= 1
    assert waits_ms[int(MESSAGES * 0.99)] < 30_000


async def test_the_log_of_the_broker_has_ids_and_nothing_else(
    create: Create, start_forestmq: StartForestMq
) -> None:
    """T-: the real one prints every message that is taken out."""
    broker = ByForestMq(start_forestmq())
    world = await create(**broker.settings)
    await world.start_consumer()
    to = world.address()
    message_id = await world.submit(to, subject="very secret")

    await world.until(message_id, State.SENT)

    log = broker.server.log()
    assert "taken: {" in log
    assert "@" not in log
    assert "secret" not in log
