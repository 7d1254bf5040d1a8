"""The broker is of no use while messages are accepted, and afterwards it is again."""

import time

import httpx
import pytest

from emailerctl.models.lifecycle import State
from tests.forestmq.fixture import StartForestMq
from tests.scenarios.brokers import ByForestMq
from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.world import World

LATENCY_MS = 20_000  # ten seconds, and what a busy machine adds


@pytest.mark.parametrize("how", ["down", "hangs", "errs"])
async def test_it_is_accepted_and_goes_out_all_the_same(
    create: Create, start_forestmq: StartForestMq, how: str
) -> None:
    """F-BR-04, F-BR-06: 202 at once; the mail leaves within ten seconds."""
    options = {"hangs": ["--hang"], "errs": ["--error", "1"]}
    broker = ByForestMq(start_forestmq(*options.get(how, [])))
    world = await create(**broker.settings)
    if how == "down":
        broker.server.kill()
    await world.start_consumer()
    async with create_client(world) as client:
        _, url = await start_api(world)
        addresses = [world.address() for _ in range(10)]
        began = time.monotonic()
        answers = [await client.post(url, build_body(to)) for to in addresses]
        took_s = time.monotonic() - began
        message_ids = [find_id(answer) for answer in answers]
        views = [await world.until(one, State.SENT, within=40) for one in message_ids]

        async with httpx.AsyncClient(trust_env=False) as anybody:
            ready = (await anybody.get(f"{url}/readyz")).json()

    assert took_s < 20  # ten answers, none of which waited for a time-out
    assert max(v.attempts[0].started_ms - v.created_ms for v in views) <= LATENCY_MS
    assert ready["ready"] is True
    assert ready["broker"]["kind"] == "forestmq"


async def is_falling_back(world: World) -> bool:
    """Return whether a process has left word of it; each does every two seconds."""
    return any(
        report.is_falling_back for _, report in await world.app.store.list_queue_reports()
    )


async def test_the_fallback_begins_and_ends_by_itself(
    create: Create, start_forestmq: StartForestMq
) -> None:
    """F-BR-04: said in the log, seen by the operator, over when the broker is back."""
    broker = ByForestMq(start_forestmq())
    world = await create(**broker.settings)
    consumer = await world.start_consumer()
    await world.let_others_pass()

    broker.server.kill()
    await consumer.until_line("queue.fallback", within=40)
    await world.let_others_pass()
    await eventually(lambda: is_falling_back(world), within=20, saying=world.tell)

    broker.server.restart()
    await consumer.until_line("queue.restored", within=40)
    taken = broker.server.stats()["taken"]
    await world.let_others_pass()
    await eventually(lambda: broker.server.stats()["taken"] > taken)


async def test_a_stop_gives_back_what_was_taken_out(
    create: Create, start_forestmq: StartForestMq
) -> None:
    """F-CL-06: with a broker that takes its time, and another consumer that goes on."""
    broker = ByForestMq(start_forestmq("--stall", "0.05"))
    world = await create(**broker.settings)
    first = await world.start_consumer()
    await world.start_consumer()
    addresses = [world.address() for _ in range(30)]
    message_ids = [await world.submit(to) for to in addresses]

    first.terminate()
    assert await first.until_dead(within=40) == 0, first.tell()

    for message_id in message_ids:
        await world.until(message_id, State.SENT, within=40)
    assert [world.copies(to) for to in addresses] == [1] * len(addresses)
