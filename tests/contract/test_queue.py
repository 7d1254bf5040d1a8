"""The queue's contract: tickets may be lost or repeated, and what is due is learnt anyway.

One text for every queue: `queue` is what a consumer takes from, `bell` what others ring.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from emailerctl.queues.base import Queue, Ticket
from emailerctl.queues.bell import Bell, Listener
from emailerctl.queues.embedded import EmbeddedQueue
from tests.contract.forestmq_case import DeskEyes, build_forestmq
from tests.desk import Desk, until
from tests.forestmq.fixture import StartForestMq

SOON = timedelta(milliseconds=50)
LONG = timedelta(seconds=15)  # longer than a test may take


@pytest.fixture
async def bell(tmp_path: Path) -> AsyncIterator[Bell]:
    bell = Bell(tmp_path / "emailer.db.wake")
    yield bell
    bell.close()


@pytest.fixture(params=["embedded", "forestmq"])
async def queue(
    request: pytest.FixtureRequest, tmp_path: Path, bell: Bell, desk: Desk
) -> AsyncIterator[Queue]:
    """A queue of each kind, over the store of the desk."""
    listener = Listener(tmp_path / "emailer.db.wake", "con_1")
    eyes = DeskEyes(desk)
    queue: Queue
    if request.param == "embedded":
        queue = EmbeddedQueue(bell=bell, listener=listener, look=eyes.look, clock=desk.clock)
    else:
        start: StartForestMq = request.getfixturevalue("start_forestmq")
        queue = build_forestmq({"email.send": start().url}, listener, eyes)
    yield queue
    await queue.close()


async def take_all(queue: Queue, count: int, limit: int = 10) -> set[int]:
    """Take until *count* different messages came."""
    found: set[int] = set()
    while len(found) < count:
        tickets = await queue.take(limit, LONG)
        assert tickets, f"only {len(found)} of {count} came"
        assert len(tickets) <= limit
        found.update(ticket.message_id for ticket in tickets)
    return found


async def test_what_is_due_is_taken(queue: Queue, desk: Desk) -> None:
    message_ids = [await desk.add() for _ in range(3)]

    assert await take_all(queue, 3) == set(message_ids)


async def test_no_more_are_taken_than_asked_for(queue: Queue, desk: Desk) -> None:
    for _ in range(3):
        await desk.add()

    assert 1 <= len(await queue.take(2, LONG)) <= 2


async def test_nothing_due_is_no_ticket_after_the_wait(queue: Queue) -> None:
    assert await queue.take(10, SOON) == []


async def test_a_put_wakes_who_waits(queue: Queue, desk: Desk) -> None:
    taking = asyncio.ensure_future(queue.take(10, LONG))
    await asyncio.sleep(0)
    message_id = await desk.add()

    queue.put([message_id])

    assert await taking == [Ticket(message_id)]


async def test_a_put_of_nothing_wakes_nobody(queue: Queue) -> None:
    began = time.monotonic()
    taking = asyncio.ensure_future(queue.take(10, SOON))
    await asyncio.sleep(0)
    queue.put([])

    assert await taking == []
    assert time.monotonic() - began >= SOON.total_seconds() * 0.9


async def test_a_put_from_another_thread_wakes_too(queue: Queue, desk: Desk) -> None:
    """It comes from the store's writer, after the commit."""
    taking = asyncio.ensure_future(queue.take(10, LONG))
    await asyncio.sleep(0)
    message_id = await desk.add()

    await asyncio.to_thread(queue.put, [message_id])

    assert await taking == [Ticket(message_id)]


async def test_a_lost_ticket_costs_the_wait_and_nothing_else(queue: Queue, desk: Desk) -> None:
    """F-BR-01."""
    taking = asyncio.ensure_future(queue.take(10, SOON))
    await asyncio.sleep(0)
    message_id = await desk.add()  # and nobody says so

    tickets = await taking or await queue.take(10, LONG)

    assert tickets == [Ticket(message_id)]


async def test_a_repeated_ticket_has_no_effect(queue: Queue, desk: Desk) -> None:
    """F-BR-02."""
    await desk.register(1)
    message_id = await desk.add()
    for _ in range(3):
        queue.put([message_id])
    (ticket,) = await queue.take(10, LONG)
    await desk.claim(ticket.message_id)
    await queue.done(ticket)

    assert await queue.take(10, SOON) == []


async def test_an_invented_ticket_has_no_effect(queue: Queue, desk: Desk) -> None:
    """F-BR-03."""
    queue.put([4711, -1, 0])

    assert await queue.take(10, SOON) == []
    assert await desk.find_claims(4711, -1, 0) == []


async def test_what_falls_due_later_is_taken_then(queue: Queue, desk: Desk) -> None:
    """The queue looks again at that moment, not only after the whole wait."""
    message_id = await desk.add(due_ms=desk.clock.now_ms() + 30)
    taking = asyncio.ensure_future(queue.take(10, LONG))
    await asyncio.sleep(0)
    desk.clock.advance(ms=30)

    assert await taking == [Ticket(message_id)]


async def test_a_put_with_nobody_there_is_no_error(tmp_path: Path) -> None:
    """F-BR-04: it must not block nor fail; it is called by the store's writer."""
    bell = Bell(tmp_path / "nowhere")
    bell.ring()
    bell.close()


async def test_a_dead_consumers_ear_is_no_hindrance(
    queue: Queue, bell: Bell, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "emailer.db.wake" / "con_dead").touch()
    taking = asyncio.ensure_future(queue.take(10, LONG))
    await asyncio.sleep(0)
    message_id = await desk.add()

    bell.ring()

    assert await taking == [Ticket(message_id)]


async def test_a_deaf_consumer_does_not_block_the_bell(tmp_path: Path) -> None:
    """F-BR-04: its socket is full."""
    folder = tmp_path / "wake"
    listener = Listener(folder, "con_deaf")
    bell = Bell(folder)
    for _ in range(5_000):
        bell.ring()
    bell.close()
    listener.close()


async def test_every_consumer_hears_the_bell(tmp_path: Path) -> None:
    folder = tmp_path / "wake"
    listeners = [Listener(folder, f"con_{n}") for n in range(3)]
    bell = Bell(folder)
    for listener in listeners:
        listener.clear()

    bell.ring()

    began = time.monotonic()
    await asyncio.gather(*(listener.wait(10) for listener in listeners))
    assert time.monotonic() - began < 5
    for listener in listeners:
        listener.close()
    bell.close()
    assert os.listdir(folder) == []  # noqa: PTH208


async def test_a_consumer_that_starts_later_is_found(tmp_path: Path) -> None:
    """The list of ears is believed for a moment only."""
    folder = tmp_path / "wake"
    bell = Bell(folder)
    bell.ring()
    listener = Listener(folder, "con_late")
    heard = asyncio.ensure_future(listener.wait(15))
    await until(lambda: bell.ring() or heard.done())

    listener.close()
    bell.close()


async def test_a_folder_with_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    """The path of a socket must be shorter than 108 bytes; ours is not named by its path."""
    folder = tmp_path / ("x" * 120) / "wake"
    listener = Listener(folder, "con_1")
    bell = Bell(folder)
    listener.clear()

    bell.ring()

    heard = asyncio.ensure_future(listener.wait(15))
    await until(heard.done)
    listener.close()
    bell.close()
