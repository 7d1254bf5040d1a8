"""T-30: a batch of 50,000 never delays a password reset, nor one service another.

A simulation: the loop's lane over a real store with 50,000 messages due, a next hop that takes
two seconds for each, and a clock of ours.  What is due is found as the consumer does; the
attempts are counted, not made.
"""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from daemons.consumer.loop import _Lane
from emailerctl.models.message import EnvelopeRecipient, Priority
from emailerctl.store.base import Claim
from tests.desk import Desk

MESSAGES = 50_000
CONCURRENCY = 16
ATTEMPT_MS = 2_000
TICK_MS = 100

HIGH, NORMAL, LOW = Priority

_FILL = """
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO work (message_id, next_hop, priority, service, due_at, waiting_for, age_from)
    SELECT ? + i, 'relay', ?, ?, ? + i / 1000, 'ready', 0 FROM n
"""


@dataclass
class Consumer:
    """What the loop does between the store and a next hop, tick by tick."""

    desk: Desk
    claim: Claim
    lane: _Lane = field(
        default_factory=lambda: _Lane(CONCURRENCY, lambda _claim: 0, lambda size: size)
    )
    domain: str = "bulk.example"
    running: list[tuple[int, int, Claim]] = field(default_factory=list)
    began_at: dict[int, int] = field(default_factory=dict)
    began: list[Claim] = field(default_factory=list)
    facts: dict[int, tuple[Priority, str]] = field(default_factory=dict)
    last_id: int = 0

    def fill(self, count: int, priority: Priority, service: str, *, age_s: int = 60) -> int:
        """Let *count* messages be due; return the id of the last."""
        first = self.last_id
        due_ms = self.desk.clock.now_ms() - age_s * 1_000
        self.desk.change(_FILL, count, first, int(priority), service, due_ms)
        self.last_id += count
        self.facts.update(
            dict.fromkeys(range(first + 1, self.last_id + 1), (priority, service))
        )
        return self.last_id

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1_000 / TICK_MS)):
            await self.look()
            self.begin()
            self.desk.clock.advance(ms=TICK_MS)
            self.finish()

    async def look(self) -> None:
        """Claim what fits: once more where the room that was offered was not enough."""
        due = await self.desk.store.find_due(
            {"relay": self.lane.find_room(is_high=False)},
            urgent={"relay": self.lane.find_room(is_high=True)},
            now_ms=self.desk.clock.now_ms(),
            is_idle=True,
        )
        for message_id in due.message_ids:
            priority, service = self.facts[message_id]
            recipient = EnvelopeRecipient(1, f"ann@{self.domain}")
            self.lane.put(
                self.claim._replace(
                    message_id=message_id,
                    priority=priority,
                    service=service,
                    recipients=(recipient,),
                )
            )
        if due.message_ids:
            marks = ",".join("?" * len(due.message_ids))
            self.desk.change(
                f"DELETE FROM work WHERE message_id IN ({marks})", *due.message_ids
            )

    def begin(self) -> None:
        boot_ms = self.desk.clock.boot_ms()
        while claim := self.lane.take(boot_ms):
            self.running.append((boot_ms, boot_ms + ATTEMPT_MS, claim))
            self.began_at[claim.message_id] = self.desk.clock.now_ms()
            self.began.append(claim)
        assert len(self.running) <= CONCURRENCY

    def finish(self) -> None:
        boot_ms = self.desk.clock.boot_ms()
        for began_ms, ends_ms, claim in list(self.running):
            if ends_ms <= boot_ms:
                self.running.remove((began_ms, ends_ms, claim))
                self.lane.end(claim, began_ms)
                self.lane.leave(claim)


@pytest.fixture
async def consumer(desk: Desk) -> AsyncIterator[Consumer]:
    await desk.register()
    claim = await desk.claim(await desk.add())
    one = Consumer(desk, claim)
    yield one
    desk.change("DELETE FROM work WHERE message_id <= ?", one.last_id)


@pytest.mark.parametrize("bulk", [NORMAL, LOW])
async def test_a_password_reset_begins_at_once(consumer: Consumer, bulk: Priority) -> None:
    """T-30: whoever sends it, and to the domain that the batch floods."""
    consumer.fill(MESSAGES, bulk, "news")
    await consumer.run(30)
    waited = []
    for service in ("shop", "news"):
        asked_ms = consumer.desk.clock.now_ms()
        reset = consumer.fill(1, HIGH, service, age_s=0)
        await consumer.run(3)
        waited.append(consumer.began_at[reset] - asked_ms)

    assert waited == [0, 0]


async def test_many_resets_leave_something_to_the_others(consumer: Consumer) -> None:
    """Now and then the lowest priority goes first, lest it never does."""
    for priority in Priority:
        consumer.fill(1_000, priority, "shop")
    await consumer.run(60)

    began = Counter(claim.priority for claim in consumer.began)
    assert began[HIGH] > began[NORMAL] > began[LOW] > 0


async def test_of_one_priority_services_share(consumer: Consumer) -> None:
    """T-30: who comes later with little is soon through, and nobody has more than the half."""
    consumer.fill(MESSAGES, NORMAL, "news")
    await consumer.run(30)
    before = len(consumer.began)
    single = consumer.fill(1, NORMAL, "shop", age_s=0)
    await consumer.run(15)
    place = [claim.message_id for claim in consumer.began].index(single) - before
    assert place < 3 * CONCURRENCY  # what was claimed before it, and no more

    consumer.fill(MESSAGES, NORMAL, "invoices", age_s=0)
    await consumer.run(20)
    before = len(consumer.began)
    await consumer.run(30)
    began = Counter(claim.service for claim in consumer.began[before:])
    assert abs(began["news"] - began["invoices"]) <= CONCURRENCY


async def test_one_domain_never_has_all_connections(consumer: Consumer) -> None:
    """F-CO-06: neither for the batch nor for priority high."""
    for priority in (HIGH, NORMAL):
        consumer.fill(1_000, priority, "news")
    await consumer.run(5)

    assert len(consumer.running) == CONCURRENCY - 2
    assert _Lane(4, lambda _: 0, lambda size: size).share == 2
    assert [_Lane(n, lambda _: 0, lambda size: size).reserved for n in (1, 3, 4, 8, 16)] == [
        *(0, 0, 1, 1, 2)
    ]


async def test_room_is_used_whole_however_many_share_it(desk: Desk) -> None:
    """What one service does not need is the others'."""
    for service, count in (("a", 40), ("b", 3), ("c", 40), ("d", 1)):
        for _ in range(count):
            await desk.add(service=service)
    for _ in range(20):
        await desk.add(service="a", priority=LOW)

    found = await desk.due(relay=40)
    rows = desk.rows("SELECT message_id, service, priority FROM work")
    services = {row[0]: row[1:] for row in rows}
    share = Counter(services[message_id] for message_id in found)

    assert len(found) == 40
    assert share[("b", 1)] == 3
    assert share[("d", 1)] == 1
    assert share[("a", 2)] == 5  # a part is for low priority
    assert abs(share[("a", 1)] - share[("c", 1)]) <= 1
