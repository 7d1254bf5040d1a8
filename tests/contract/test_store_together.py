"""What shares its statements with others in a group is the same as if each had been alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from emailerctl.models.event import Event
from emailerctl.models.lifecycle import Cause, State
from emailerctl.store.base import IdTaken, Verb
from emailerctl.store.driver import Tx
from tests.contract.test_store_acceptance import suppression, token
from tests.desk import Desk, Stores, open_desk, until
from tests.fakes import FakeClock

COUNT = 12
TABLES = {
    "messages": "*",
    "contents": "*",
    "recipients": "*",
    "keys": "*",
    "work": "message_id, next_hop, priority, due_at, waiting_for, chain_index, schedule_step,"
    " age_from, lease_owner, lease_until, attempt, marked_at, open_until_at, is_alone, lost",
    # A doubt alone needs open_until_at.
    "attempts": "message_id, n, provider, phase, outcome, code, enhanced_status, reply,"
    " provider_message_id, started_at, ended_at, hash, recipients, dialogue",
    "events": "type, at, message_id, n, from_state, to_state, attempt, provider, reply, data",
    "timers": "*",
}


async def together(desk: Desk, works: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Run *works* as one group: all wait while the writer is held."""
    held, opened = threading.Event(), threading.Event()

    def hold(_tx: Tx) -> None:
        held.set()
        assert opened.wait(10)

    holding = asyncio.ensure_future(desk.driver.write(hold))
    await asyncio.to_thread(held.wait, 10)
    running = [asyncio.ensure_future(work()) for work in works]
    await until(lambda: desk.driver.backlog == len(works))
    opened.set()
    await holding
    return list(await asyncio.gather(*running, return_exceptions=True))


async def alone(_desk: Desk, works: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    results: list[Any] = []
    for work in works:
        results += await asyncio.gather(work(), return_exceptions=True)
    return results


class Twin:
    """A store that is written to together or alone, and what came of it."""

    def __init__(self, desk: Desk, published: list[Event]) -> None:
        self.desk = desk
        self.published = published

    def dump(self) -> dict[str, Any]:
        tables = {
            name: sorted(self.desk.rows(f"SELECT {columns} FROM {name}"), key=repr)
            for name, columns in TABLES.items()
        }
        shapes = [{**event.shape(), "seq": 0} for event in self.published]
        return {**tables, "published": sorted(shapes, key=repr)}

    async def check_log(self) -> None:
        """What was published is what the log says, each number once, without a gap."""
        logged = await self.desk.events()
        assert [event.seq for event in logged] == list(range(1, len(logged) + 1))
        await until(lambda: len(self.published) >= len(logged))  # after the answers
        published = sorted(self.published, key=lambda event: event.seq)
        assert [event.shape() for event in published] == [event.shape() for event in logged]
        assert await self.desk.audit() == []


@pytest.fixture
async def twins(stores: Stores, tmp_path: Path) -> AsyncIterator[tuple[Twin, Twin]]:
    """Two stores with the same clock, ids and chance."""
    first_events: list[Event] = []
    second_events: list[Event] = []
    async with (
        open_desk(
            stores.create(tmp_path / "together.db"),
            FakeClock(),
            Random(1),
            publish=lambda events, _has_new_work: first_events.extend(events),
        ) as first,
        open_desk(
            stores.create(tmp_path / "alone.db"),
            FakeClock(),
            Random(1),
            publish=lambda events, _has_new_work: second_events.extend(events),
        ) as second,
    ):
        for desk in (first, second):
            await desk.register(1)
        yield Twin(first, first_events), Twin(second, second_events)


Odd = dict[int, dict[str, Any]]

ODDITIES: dict[str, Odd] = {
    "nothing odd": {},
    "several recipients": {3: {"addresses": ("ann@example.org", "bob@example.org")}},
    "keys": {n: {"key_hash": bytes([n]) * 16} for n in range(COUNT)},
    "twins of one key": {n: {"key_hash": b"k" * 16} for n in (2, 5, 9)},
    "an id that is taken": {4: {"message_id": 77}, 7: {"message_id": 77}},
    "a rate": {n: {"token_id": 7, "recipient_rate": (2, 60_000)} for n in range(5)},
    "a token that is gone": {6: {"token_id": 9, "token_epoch": 5}},
    "an expiry": {8: {"expires_ms": 1_795_514_401_000}},
    "details": {1: {"tags": ("a", "ü"), "metadata": {"k": "v"}, "needs_smtputf8": True}},
}


def add_works(twin: Twin, odd: Odd) -> list[Callable[[], Awaitable[Any]]]:
    works = []
    for n in range(COUNT):
        fields = dict(odd.get(n, {}))
        addresses = fields.pop("addresses", (f"user{n % 6}@example.org",))
        message = twin.desk.build(*addresses, **fields)
        now_ms = twin.desk.clock.now_ms()
        works.append(partial(twin.desk.store.add, message, now_ms=now_ms))
    return works


@pytest.mark.parametrize("is_suppressed", [False, True])
@pytest.mark.parametrize("what", ODDITIES)
async def test_adding_together_is_adding_alone(
    twins: tuple[Twin, Twin], what: str, is_suppressed: bool
) -> None:
    """F-IN-04, F-IN-11: also where one of them is not usual, or refused."""
    answers = []
    for twin, run in zip(twins, (together, alone), strict=True):
        await twin.desk.store.add_token(token())
        if is_suppressed:
            await twin.desk.store.suppress(suppression("user3@example.org"))
        answers.append(await run(twin.desk, add_works(twin, ODDITIES[what])))
        await twin.check_log()

    told = [
        [str(a) if isinstance(a, BaseException) else a for a in answer] for answer in answers
    ]
    assert told[0] == told[1]
    assert twins[0].dump() == twins[1].dump()


async def begin(twin: Twin, *, is_uniform: bool = False) -> list[Any]:
    """Return claims of messages; unless they are uniform two have more than one recipient."""
    message_ids = []
    for n in range(COUNT):
        addresses = ("ann@example.org", "bob@example.org")[
            : 2 if n in (3, 8) and not is_uniform else 1
        ]
        fields = {"expires_ms": twin.desk.clock.now_ms() + 1_000} if n == 5 else {}
        message_ids.append(await twin.desk.add(*addresses, **fields))
    return await twin.desk.find_claims(*message_ids)


MEANWHILE = ["nothing", "cancelled", "lost", "suppressed", "expired", "not believed"]


@pytest.mark.parametrize("is_uniform", [True, False])
@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_marking_and_settling_together_is_doing_it_alone(
    twins: tuple[Twin, Twin], meanwhile: str, is_uniform: bool
) -> None:
    """F-CO-10, F-CL-03: one that is barred or late does not spoil the others."""
    answers = []
    for twin, run in zip(twins, (together, alone), strict=True):
        desk = twin.desk
        claims = await begin(twin, is_uniform=is_uniform)
        if meanwhile == "cancelled":
            await desk.order(Verb.CANCEL, claims[4].message_id)
        elif meanwhile == "lost":
            desk.change(
                "UPDATE work SET lease_token = 1 WHERE message_id = ?", claims[6].message_id
            )
        elif meanwhile == "suppressed":
            await desk.store.suppress(suppression("bob@example.org"))
        elif meanwhile in ("expired", "not believed"):
            desk.clock.advance(s=2)
        may_expire = meanwhile != "not believed"
        marked = await run(
            desk,
            [partial(desk.mark, claim, may_expire=may_expire) for claim in claims],
        )
        causes = [
            Cause.HANDED_OVER if n != 7 or is_uniform else Cause.UNANSWERED
            for n in range(COUNT)
        ]
        settled = await run(
            desk,
            [
                partial(desk.settle, claim, cause)
                for claim, cause, is_marked in zip(claims, causes, marked, strict=True)
                if is_marked
            ],
        )
        answers.append((marked, settled))
        desk.change(
            "UPDATE work SET lease_token = NULL, lease_owner = NULL WHERE lease_token = 1"
        )
        await twin.check_log()

    assert answers[0] == answers[1]
    assert sum(answers[0][0]) >= COUNT - 2
    assert twins[0].dump() == twins[1].dump()


async def test_one_result_that_is_told_twice_is_written_once(twins: tuple[Twin, Twin]) -> None:
    for twin, run in zip(twins, (together, alone), strict=True):
        claims = await begin(twin)
        for claim in claims:
            assert await twin.desk.mark(claim)
        works = [
            partial(twin.desk.settle, claim, Cause.HANDED_OVER)
            for claim in [*claims, *claims[:3]]
        ]
        answers = await run(twin.desk, works)
        assert answers == [True] * COUNT + [False] * 3
        await twin.check_log()

    assert twins[0].dump() == twins[1].dump()


async def test_a_mark_and_the_settlement_of_whoever_stopped_waiting_for_it(
    twins: tuple[Twin, Twin],
) -> None:
    """A cancelled attempt settles as not accepted while its mark still waits for the commit."""
    desk = twins[0].desk
    claims = await begin(twins[0])
    assert await desk.mark(claims[0])

    await together(
        desk,
        [
            partial(desk.settle, claims[0], Cause.HANDED_OVER),
            partial(desk.mark, claims[1]),
            partial(desk.settle, claims[1], Cause.DEFERRED),
        ],
    )

    assert await desk.state(claims[1].message_id) is State.QUEUED
    assert await desk.state(claims[0].message_id) is State.SENT
    await twins[0].check_log()


async def test_an_id_that_meets_another_is_refused_among_many(twins: tuple[Twin, Twin]) -> None:
    desk = twins[0].desk
    taken = await desk.add()
    works = add_works(twins[0], {2: {"message_id": taken}})

    answers = await together(desk, works)

    assert isinstance(answers[2], IdTaken)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == COUNT - 1
    await twins[0].check_log()
