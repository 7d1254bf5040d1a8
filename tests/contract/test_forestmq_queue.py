"""The queue by way of ForestMQ, and what only it has to live with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from emailerctl.models.doorbell import build_doorbell
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import Priority
from emailerctl.queues.bell import Listener
from emailerctl.queues.forestmq import ForestMqQueue
from emailerctl.queues.forestmq_publisher import Turns
from tests.contract.forestmq_case import FAST, DeskEyes, build_forestmq
from tests.contract.test_queue import LONG, SOON, take_all
from tests.desk import Desk
from tests.forestmq.fixture import ForestMq, StartForestMq

RESTARTS = ("--restart-after", "0.2")
pytestmark = pytest.mark.timeout(90)  # a busy machine is no fault


class Open:
    """Opens queues over the store of the desk; each is another consumer's."""

    def __init__(self, folder: Path, eyes: DeskEyes) -> None:
        self._folder = folder
        self._eyes = eyes
        self._queues: list[ForestMqQueue] = []
        self._count = 0

    def __call__(self, topics: ForestMq | dict[str, str], **settings: Any) -> ForestMqQueue:
        urls = topics if isinstance(topics, dict) else {"email.send": topics.url}
        self._count += 1
        listener = Listener(self._folder, f"con_{self._count}")
        queue = build_forestmq(urls, listener, self._eyes, **{**FAST, **settings})
        self._queues.append(queue)
        return queue

    async def close(self, queue: ForestMqQueue) -> None:
        self._queues.remove(queue)
        await queue.close()

    async def close_all(self) -> None:
        while self._queues:
            await self._queues.pop().close()


@pytest.fixture
def eyes(desk: Desk) -> DeskEyes:
    return DeskEyes(desk)


@pytest.fixture
async def open_queue(tmp_path: Path, eyes: DeskEyes) -> AsyncIterator[Open]:
    opening = Open(tmp_path / "wake", eyes)
    yield opening
    await opening.close_all()


async def until_asked(
    queue: ForestMqQueue, condition: Callable[[], object], within_s: float = 40
) -> None:
    """Go on taking, as a consumer does, until *condition* holds."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, queue.report().shape()
        await queue.take(10, SOON)


def counts(queue: ForestMqQueue) -> dict[str, int]:
    return queue.report().counts.shape()


async def claim_all(
    queue: ForestMqQueue, desk: Desk, count: int, within_s: float = 40
) -> list[int]:
    """Take and claim until *count* are claimed; each can be only once."""
    claimed: list[int] = []
    deadline = time.monotonic() + within_s
    while len(claimed) < count:
        assert time.monotonic() < deadline, (len(claimed), queue.report().shape())
        tickets = await queue.take(20, SOON)
        claims = await desk.find_claims(*(ticket.message_id for ticket in tickets))
        claimed += [claim.message_id for claim in claims]
    assert len(set(claimed)) == len(claimed)
    return claimed


async def test_what_is_put_travels_and_nothing_of_the_message_with_it(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    server = start_forestmq()
    queue = open_queue(server)
    message_id = await desk.add()
    queue.put([message_id])

    assert await take_all(queue, 1) == {message_id}

    assert f'"id":"{to_public(MESSAGE, message_id)}"' in server.log()
    assert "@" not in server.log()
    assert counts(queue)["rung"] >= 1


async def test_a_foreign_message_is_parked_once_and_the_rest_goes_on(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    await desk.register(1)
    server = start_forestmq()
    server.put({"topic": "orders", "v": 1, "id": "4711", "note": "100% off"})
    server.put({"topic": "email.send", "v": 2, "id": "msg_1C6K9Q2M7XW4T"})
    server.put(["no", "topic"])
    queue = open_queue(server)
    message_id = await desk.add()
    queue.put([message_id])

    await claim_all(queue, desk, 1)
    await until_asked(queue, lambda: counts(queue)["foreign"] == 3)

    page = await desk.store.list_foreign(cursor=None, limit=10)
    assert [(one.topic, one.reason) for one in page.data] == [
        ("", "no topic"),
        ("email.send", "another version"),
        ("orders", "another topic"),
    ]
    assert '"id": "4711"' in page.data[2].body
    assert await desk.store.end_foreign([page.data[0].foreign_id]) == 1
    assert len((await desk.store.list_foreign(cursor=None, limit=10)).data) == 2


async def test_an_unreadable_answer_is_parked_as_it_came(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    server = start_forestmq()
    server.put({"text": "%s"})
    queue = open_queue(server)

    await until_asked(queue, lambda: counts(queue)["foreign"] == 1)

    (one,) = (await desk.store.list_foreign(cursor=None, limit=10)).data
    assert one.reason == "unreadable"
    assert '"text"' in one.body


async def test_invented_and_mangled_ids_are_dropped_and_counted(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-03."""
    await desk.register(1)
    server = start_forestmq("--invent", "0.5", "--mangle", "0.2")
    queue = open_queue(server)
    message_ids = [await desk.add() for _ in range(30)]
    queue.put(message_ids)

    assert set(await claim_all(queue, desk, 30)) == set(message_ids)

    seen = counts(queue)
    assert seen["mangled"] > 0
    assert seen["unknown"] > 0


async def test_a_doorbell_that_comes_fifty_times_has_one_effect(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-02: repeated, and in any order."""
    await desk.register(1)
    server = start_forestmq("--repeat", "50", "--reorder")
    queue = open_queue(server)
    message_ids = [await desk.add() for _ in range(8)]
    queue.put(message_ids)

    claimed = await claim_all(queue, desk, 8)
    await until_asked(queue, lambda: server.stats()["length"] == 0)

    assert set(claimed) == set(message_ids)
    assert counts(queue)["repeated"] + counts(queue)["stale"] > 0


async def test_what_is_lost_is_rung_again(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-01: half of everything that is put vanishes."""
    await desk.register(1)
    server = start_forestmq("--drop", "0.5")
    queue = open_queue(server)
    message_ids = [await desk.add() for _ in range(40)]
    queue.put(message_ids)

    assert set(await claim_all(queue, desk, 40)) == set(message_ids)

    assert counts(queue)["lost"] > 0


async def test_one_that_loses_everything_costs_seconds(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-01: it answers as if all were well, and nothing ever comes."""
    await desk.register(1)
    queue = open_queue(start_forestmq("--drop", "1"))
    message_ids = [await desk.add() for _ in range(5)]
    queue.put(message_ids)

    assert set(await claim_all(queue, desk, 5)) == set(message_ids)

    assert counts(queue)["direct"] >= 5
    assert not queue.report().is_falling_back


async def test_it_dies_again_and_again(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-01: with takes abandoned and puts unanswered on top."""
    await desk.register(1)
    server = start_forestmq(
        *RESTARTS, "--kill-every", "0.5", "--abandon", "0.1", "--unanswered", "0.1"
    )
    queue = open_queue(server)
    message_ids: list[int] = []

    async def submit() -> None:
        for _ in range(100):
            message_ids.append(await desk.add())
            queue.put(message_ids[-1:])

    submitting = asyncio.create_task(submit())
    claimed = await claim_all(queue, desk, 100)
    await submitting

    assert set(claimed) == set(message_ids)
    assert server.stats()["deaths"] > 0


async def test_one_that_hangs_is_replaced_by_the_store_and_comes_back(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-04: the store is asked after `fallback_after`; when it answers again, no more."""
    await desk.register(1)
    server = start_forestmq()
    queue = open_queue(server)
    await queue.take(1, SOON)
    server.set(hang=True)
    message_id = await desk.add()
    queue.put([message_id])

    await until_asked(queue, lambda: queue.report().is_falling_back)
    assert await claim_all(queue, desk, 1) == [message_id]

    assert counts(queue)["fallbacks"] == 1
    server.set(hang=False)
    await until_asked(queue, lambda: not queue.report().is_falling_back)
    another = await desk.add()
    queue.put([another])
    assert await claim_all(queue, desk, 1) == [another]
    assert not queue.report().sources[0].trouble


async def test_one_that_is_down_from_the_start_is_no_hindrance(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """F-BR-04: and it is used once it is there."""
    await desk.register(1)
    server = start_forestmq()
    server.kill()
    queue = open_queue(server)
    message_ids = [await desk.add() for _ in range(10)]
    queue.put(message_ids)

    assert set(await claim_all(queue, desk, 10)) == set(message_ids)

    assert queue.report().sources[0].trouble == "down"
    server.restart()
    await until_asked(queue, lambda: not queue.report().is_falling_back)


async def test_a_wrong_hosts_list_is_in_the_report(
    start_forestmq: StartForestMq, open_queue: Open
) -> None:
    queue = open_queue(start_forestmq("--hosts", "forestmq"))

    await until_asked(queue, lambda: queue.report().sources[0].trouble)

    (source,) = queue.report().sources
    assert source.trouble == "host_refused"
    assert "--hosts" in source.detail


async def test_a_consumer_without_room_leaves_doorbells_where_they_are(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk, eyes: DeskEyes
) -> None:
    """Back-pressure: nothing is taken while nothing can be done with it."""
    server = start_forestmq()
    queue = open_queue(server)
    eyes.is_barred = True
    await queue.take(10, SOON)
    message_ids = [await desk.add(is_announced=True) for _ in range(5)]
    for message_id in message_ids:
        server.put(build_doorbell("email.send", message_id))
    asked = server.stats()["asked"]

    for _ in range(5):
        assert await queue.take(10, SOON) == []

    assert server.stats()["asked"] == asked
    assert server.stats()["length"] == 5
    eyes.is_barred = False
    assert await take_all(queue, 5) == set(message_ids)


def _until(condition: Callable[[], object], within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"


async def test_a_take_that_is_cancelled_loses_nothing(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """The answer to the take from ForestMQ is waited for all the same."""
    server = start_forestmq("--stall", "0.1")
    queue = open_queue(server)
    message_id = await desk.add(is_announced=True)
    server.put(build_doorbell("email.send", message_id))
    taking = asyncio.create_task(queue.take(10, LONG))
    await asyncio.to_thread(_until, lambda: server.stats()["asked"] > 0)
    taking.cancel()

    assert await take_all(queue, 1) == {message_id}
    assert counts(queue)["lost"] == counts(queue)["direct"] == 0


async def test_a_close_waits_for_the_take_and_puts_back_what_came(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    """Shutdown abandons no take: another consumer gets what ours had taken out."""
    server = start_forestmq("--stall", "0.3")
    first = open_queue(server)
    message_id = await desk.add(is_announced=True)
    server.put(build_doorbell("email.send", message_id))
    taking = asyncio.create_task(first.take(10, LONG))
    await asyncio.sleep(0)
    await asyncio.to_thread(_until, lambda: server.stats()["connections"] > 0)
    server.set(stall=0)  # of those after it
    taking.cancel()
    await open_queue.close(first)

    assert server.stats()["length"] == 1
    second = open_queue(server)
    assert await take_all(second, 1) == {message_id}


async def test_a_full_forestmq_is_not_filled_further(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk, eyes: DeskEyes
) -> None:
    """What is above the mark waits in the store, and goes out all the same."""
    await desk.register(1)
    server = start_forestmq()
    queue = open_queue(server, high_water=10)
    eyes.is_barred = True
    message_ids = [await desk.add(is_announced=True) for _ in range(30)]
    queue.put(message_ids)

    def are_all_decided() -> bool:
        seen = counts(queue)
        return seen["held_back"] + seen["rung"] + seen["not_rung"] == 30

    await asyncio.to_thread(_until, are_all_decided)

    assert server.stats()["length"] <= 10
    eyes.is_barred = False
    assert set(await claim_all(queue, desk, 30)) == set(message_ids)


async def test_a_bulk_topic_on_the_same_url_does_not_starve_the_others(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk, eyes: DeskEyes
) -> None:
    """Hundreds of bulk doorbells came first, and room is for two."""
    await desk.register(1)
    server = start_forestmq()
    url = server.url
    queue = open_queue(
        {"email.send": url, "email.bulk": url},
        priorities={"low": "email.bulk"},
        weights={"email.send": 4},
    )
    bulk = [await desk.add(priority=Priority.LOW, is_announced=True) for _ in range(200)]
    for message_id in bulk:
        server.put(build_doorbell("email.bulk", message_id))
    single = await desk.add(is_announced=True)
    server.put(build_doorbell("email.send", single))
    eyes.room = 2

    claimed: list[int] = []
    while single not in claimed:
        tickets = await queue.take(20, SOON)
        claims = await desk.find_claims(*(ticket.message_id for ticket in tickets))
        claimed += [claim.message_id for claim in claims]
        assert len(claimed) < 150, "it waited behind the bulk"


async def test_a_topic_whose_forestmq_hangs_does_not_hold_up_another(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    await desk.register(1)
    send, bulk = start_forestmq(), start_forestmq("--hang")
    queue = open_queue(
        {"email.send": send.url, "email.bulk": bulk.url},
        priorities={"low": "email.bulk"},
        fallback_after="5m",
        timeout="60s",  # longer than is waited for them
    )
    message_ids = [await desk.add() for _ in range(10)]
    queue.put(message_ids)

    assert set(await claim_all(queue, desk, 10)) == set(message_ids)
    bulk.kill()  # or its take would be waited for


async def test_messages_go_to_the_topic_of_their_priority(
    start_forestmq: StartForestMq, open_queue: Open, desk: Desk
) -> None:
    send, bulk = start_forestmq(), start_forestmq()
    queue = open_queue(
        {"email.send": send.url, "email.bulk": bulk.url}, priorities={"low": "email.bulk"}
    )
    one = await desk.add(priority=Priority.HIGH)
    many = await desk.add(priority=Priority.LOW)
    queue.put([one], priority=Priority.HIGH)
    queue.put([many], priority=Priority.LOW)

    assert await take_all(queue, 2) == {one, many}
    assert to_public(MESSAGE, one) in send.log()
    assert to_public(MESSAGE, many) in bulk.log()
    assert to_public(MESSAGE, many) not in send.log()


async def test_an_idle_consumer_asks_seldom(
    start_forestmq: StartForestMq, open_queue: Open
) -> None:
    """Twenty milliseconds at first, half a second in the end."""
    server = start_forestmq()
    queue = open_queue(server)
    await until_asked(queue, lambda: counts(queue)["empty"] >= 8)
    before = server.stats()["asked"]
    began = time.monotonic()

    await until_asked(queue, lambda: time.monotonic() - began > 1.5)
    asked = server.stats()["asked"] - before

    assert asked <= 2 + (time.monotonic() - began) / 0.25


def test_turns_go_by_weight() -> None:
    turns = Turns({"a": 3, "b": 1})

    said = "".join(turns.next(["a", "b"]) for _ in range(8))

    assert said.count("a") == 6
    assert "bb" not in said
    assert "aaaa" not in said


async def test_a_put_neither_blocks_nor_fails(
    start_forestmq: StartForestMq, open_queue: Open
) -> None:
    """F-BR-04: thousands of them, with a ForestMQ that hangs."""
    queue = open_queue(start_forestmq("--hang"))
    began = time.monotonic()
    for _ in range(5_000):
        queue.put([1, -1, 0])

    assert time.monotonic() - began < 20  # of two seconds each, if they waited for it
    await until_asked(queue, lambda: counts(queue)["not_rung"] > 10_000)
