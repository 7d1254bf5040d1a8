"""Services publish emails straight into ForestMQ, which forgets, dies and takes anything."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from random import Random
from typing import Any

import httpx
import pytest

from emailerctl.core.ingest import find_status
from emailerctl.errors import JobRejected
from emailerctl.models.clock import SystemClock
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.job import Key, build_envelope
from emailerctl.models.lifecycle import State
from emailerctl.models.page import MessageFilter
from emailerctl.publish import Published, publish_async
from emailerctl.queues.forestmq_client import MOST_BYTES, ForestMqClient
from emailerctl.store import sqlite
from emailerctl.store.base import InboxFilter, InboxJob
from tests.corpora import json_documents, naughty_strings
from tests.forestmq.fixture import ForestMq, StartForestMq
from tests.scenarios.conftest import Create
from tests.scenarios.processes import ROOT, eventually
from tests.scenarios.world import World

JOBS = int(os.environ.get("INGEST_JOBS", "40"))
DEATHS = max(4, JOBS // 15)
TOPIC = "email.job"
SHOP = Key("shop", "0123456789abcdef0123456789abcdef")


pytestmark = pytest.mark.timeout(150)  # a busy machine is no fault


class Jobs:
    """A world whose consumer takes jobs, and the services that publish them."""

    def __init__(self, world: World, server: ForestMq) -> None:
        self.world = world
        self.server = server

    def fields(self, n: int | str, **more: Any) -> dict[str, Any]:
        return {
            "from": "shop@example.com",
            "to": f"ok+job{n}@example.org",
            "subject": f"job {n}",
            "text": "100% of it.\n",
        } | more

    def envelope(self, n: int | str, **more: Any) -> dict[str, Any]:
        return build_envelope(
            self.fields(n, **more),
            topic=TOPIC,
            job_id=f"job-{n}",
            at_s=int(time.time()),
            key=SHOP,
        )

    async def find(self, job_id: str) -> Any:
        """Say what the API would say to the service."""
        return await find_status(self.world.app.store, service="shop", job_id=job_id)

    async def publish(self, n: int | str, **options: Any) -> Published:
        wanted: dict[str, Any] = {"key": SHOP, "job_id": f"job-{n}", "confirm": self}
        fields = self.fields(n, **options.pop("fields", {}))
        return await publish_async(fields, url=self.server.url, **(wanted | options))

    async def inbox(self, **filter_: Any) -> list[InboxJob]:
        page = await self.world.app.store.list_jobs(
            InboxFilter(**filter_), cursor=None, limit=10_000
        )
        return list(page.data)

    async def until_inbox(self, count: int, **filter_: Any) -> list[InboxJob]:
        """Wait until so many jobs are rejected, and return them."""

        async def is_there() -> list[InboxJob] | None:
            found = await self.inbox(is_waiting=False, **filter_)
            return found if len(found) >= count else None

        found: list[InboxJob] = await eventually(is_there, within=30, saying=self.world.tell)
        return found

    async def until_settled(self, taken: int = 0) -> None:
        """Wait until ForestMQ has handed out all, *taken* at least, and nothing waits here."""

        async def is_settled() -> bool:
            stats = self.server.stats()
            is_out = stats["length"] == 0 and stats["taken"] >= taken
            return is_out and not await self.inbox(is_waiting=True)

        await eventually(is_settled, within=40, saying=self.world.tell)

    async def messages(self) -> list[str]:
        """Return the subjects of all messages of the log."""
        subjects: list[str] = []
        cursor = None
        while True:
            page = await self.world.app.store.list_messages(
                MessageFilter(), cursor=cursor, limit=200
            )
            subjects += [view.subject for view in page.data]
            cursor = page.next_cursor
            if cursor is None:
                return subjects


@pytest.fixture
async def jobs(create: Create, start_forestmq: StartForestMq) -> Jobs:
    server = start_forestmq()
    return Jobs(await create(**settings(server)), server)


def settings(server: ForestMq, **more: Any) -> dict[str, Any]:
    return {
        "ingest__forestmq__topics": {TOPIC: server.url},
        "ingest__forestmq__keys": {"shop": SHOP.secret},
        "ingest__forestmq__max_jobs": 5000,
        **more,
    }


async def test_a_published_email_is_delivered_once(jobs: Jobs) -> None:
    await jobs.world.start_consumer()

    published = await jobs.publish(1)
    again = await jobs.publish(1)

    message_id = parse_public(MESSAGE, str(published.message_id))
    assert message_id is not None
    assert again.message_id == published.message_id
    await jobs.world.until(message_id, State.SENT)
    await jobs.until_settled(taken=2)
    assert await jobs.messages() == ["job 1"]
    assert jobs.world.copies("ok+job1@example.org") == 1
    assert await jobs.inbox() == []


@pytest.mark.timeout(120 + 2 * JOBS)
async def test_what_was_confirmed_is_accepted_once_whatever_dies(jobs: Jobs) -> None:
    """The stand-in and the consumer are killed in turn, each time that a few more are accepted.

    A job may come twice, or be lost in ForestMQ and published again: each is one message.
    `INGEST_JOBS` asks for more of them.
    """
    world, server = jobs.world, jobs.server
    consumer = await world.start_consumer()
    published: list[Published] = []

    async def publish(numbers: range) -> None:
        for n in numbers:
            one = await jobs.publish(n, again_after_s=1.0, timeout_s=90.0 + JOBS)
            published.append(one)

    publishing = [asyncio.create_task(publish(range(start, JOBS, 10))) for start in range(10)]
    for death in range(DEATHS):
        wanted = death * (JOBS - 10) // DEATHS
        await eventually(
            lambda n=wanted: len(published) >= n or any(one.done() for one in publishing),
            within=90,
            saying=world.tell,
        )
        if death % 2:
            consumer.kill()
            consumer = await world.start_consumer()
        else:
            await asyncio.to_thread(server.restart)
    await asyncio.gather(*publishing)

    assert len(published) == JOBS
    assert len({one.message_id for one in published}) == JOBS
    await jobs.until_settled()
    assert Counter(await jobs.messages()) == Counter(f"job {n}" for n in range(JOBS))
    assert await jobs.inbox() == []


async def test_killed_before_anything_looks_at_it_a_kept_job_is_accepted(jobs: Jobs) -> None:
    """The crash between the commit of the raw job and its verdict: another consumer sees it."""
    envelope = jobs.envelope(1)
    now_ms = jobs.world.app.clock.now_ms()
    job = InboxJob(
        inbox_id=1,
        topic=TOPIC,
        raw=json.dumps(envelope).encode(),
        received_ms=now_ms,
        due_ms=now_ms,
        changed_ms=now_ms,
    )
    await jobs.world.app.store.add_job(job)

    await jobs.world.start_consumer()

    async def is_known() -> Any:
        return await jobs.find("job-1")

    status = await eventually(is_known, within=30, saying=jobs.world.tell)
    assert status["state"] == "accepted"

    async def is_empty() -> bool:
        return not await jobs.inbox()

    await eventually(is_empty, saying=jobs.world.tell)


async def test_what_is_refused_says_why_and_its_neighbours_are_accepted(jobs: Jobs) -> None:
    await jobs.world.start_consumer()

    await publish_async(jobs.fields(1), url=jobs.server.url, job_id="job-1")
    plain = {"topic": TOPIC, "v": 1, "id": "job-2", "job": {"to": "ok@example.org"}}
    jobs.server.put(plain)
    published = await jobs.publish(3)

    rejected = await jobs.until_inbox(2)
    assert {(one.reason, one.job_id) for one in rejected} == {
        ("unsigned", "job-1"),
        ("unsigned", "job-2"),
    }
    assert published.message_id
    assert await jobs.messages() == ["job 3"]
    with pytest.raises(JobRejected, match=r"\(invalid\): /to: "):
        await jobs.publish(4, fields={"to": "nobody"})
    with pytest.raises(JobRejected, match="bad_signature"):
        await jobs.publish(5, key=Key("shop", "x" * 32))


async def test_hostile_jobs_end_in_the_inbox_with_a_reason(jobs: Jobs) -> None:
    """The corpora, as messages of their own and inside signed jobs, and what comes back
    mangled; a good job behind them all is accepted."""
    world, server = jobs.world, jobs.server
    strings = [t for t in naughty_strings()[::3] if len(t) < 1000 and "%" not in t]
    hostile: list[object] = [
        {"topic": TOPIC, "v": 1, "id": text, "data": text} for text in strings
    ]
    for _name, octets in json_documents("y"):
        document = json.loads(octets)
        if isinstance(document, dict | list) and b"%" not in octets and b"." not in octets:
            hostile.append(document)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as anybody:
        for message in hostile:  # it refuses a few, such as a NUL
            await anybody.post("/provider", json={"message": message})
        mangled = {"topic": TOPIC, "job": {"subject": "100% off, 50%s"}}
        await anybody.post("/provider", json={"message": mangled})
    count = server.stats()["length"]
    assert count > 150
    client = ForestMqClient(server.url, clock=SystemClock(), rng=Random(1), timeout_s=5)
    for n, text in enumerate(naughty_strings()[::9]):
        bad = jobs.fields(n, to=text[:80], headers={text[:80]: text[:80]}, tags=[text[:80]])
        envelope = build_envelope(
            bad, topic=TOPIC, job_id=f"bad-{n}", at_s=int(time.time()), key=SHOP
        )
        await client.put(envelope, most_bytes=MOST_BYTES)
        count += 1
    await client.close()

    consumer = await world.start_consumer()
    published = await jobs.publish("last", timeout_s=40)

    rejected = await jobs.until_inbox(count)
    assert published.message_id
    assert len(rejected) == count
    reasons = Counter(one.reason for one in rejected)
    assert set(reasons) == {"malformed_json", "bad_envelope", "invalid"}
    assert all(one.faults for one in rejected)
    assert consumer.process.poll() is None
    assert await jobs.messages() == ["job last"]
    assert server.stats()["deaths"] == 0
    assert "forestmq_client" not in "".join(map(str, consumer.lines("log.message")))


async def test_a_full_inbox_stops_the_taking_and_loses_nothing(
    create: Create,
    start_forestmq: StartForestMq,
) -> None:
    """Unsigned jobs that wait for their turn fill it: what is not taken stays where it is."""
    server = start_forestmq()
    more = {
        "ingest__forestmq__allow_unsigned": True,
        "ingest__forestmq__unsigned_from": ["example.com"],
        "ingest__forestmq__unsigned_per_minute": 5,
        "ingest__forestmq__max_jobs": 10,
    }
    jobs = Jobs(await create(**settings(server, **more)), server)
    for n in range(60):
        server.put({"topic": TOPIC, "v": 1, "id": f"job-{n}", "job": jobs.fields(n, text="x")})

    consumer = await jobs.world.start_consumer()
    await consumer.until_line("inbox.full", within=30)

    waiting = await jobs.inbox(is_waiting=True)
    left = server.stats()["length"]
    assert 10 <= len(waiting) < 10 + 32
    assert len(await jobs.messages()) + len(waiting) + left == 60
    assert left > 0
    jobs.world.end()


async def test_what_was_taken_is_kept_however_long_the_store_is_busy(jobs: Jobs) -> None:
    """It is in no other place any more: its commit is tried until it works."""
    consumer = await jobs.world.start_consumer()
    blocker = sqlite.connect(jobs.world.app.settings.store.path)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        await publish_async(jobs.fields(1), url=jobs.server.url, key=SHOP, job_id="job-1")
        await consumer.until_line("job.not_kept_yet", within=30)
        assert jobs.server.stats()["length"] == 0
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()

    async def is_known() -> Any:
        return await jobs.find("job-1")

    status = await eventually(is_known, within=30, saying=jobs.world.tell)
    assert status["state"] == "accepted"


async def test_a_stop_loses_no_job(jobs: Jobs) -> None:
    """SIGTERM at any time: the take under way is finished, and what it brings is kept."""
    for n in range(200):
        jobs.server.put(jobs.envelope(n))
    for _ in range(2):
        consumer = await jobs.world.start_consumer()
        before = jobs.server.stats()["length"]
        await eventually(
            lambda b=before: jobs.server.stats()["length"] < b or b == 0, within=30
        )
        consumer.terminate()
        await asyncio.to_thread(consumer.process.wait, 40)
        left = jobs.server.stats()["length"]
        assert len(await jobs.messages()) + len(await jobs.inbox()) + left == 200


async def test_the_public_client_reaches_us(jobs: Jobs) -> None:
    """PyPI's `forestmq`, which other services may use: its asynchronous send."""
    if importlib.util.find_spec("forestmq") is None:
        pytest.skip("the package forestmq is not installed: make setup")
    envelopes = [jobs.envelope(n) for n in range(3)]
    await jobs.world.start_consumer()

    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.scenarios.forestmq_client_process", jobs.server.url],
        input="".join(json.dumps(envelope) + "\n" for envelope in envelopes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert [json.loads(line)["message"] for line in run.stdout.splitlines()] == envelopes

    async def are_there() -> bool:
        return len(await jobs.messages()) == 3

    await eventually(are_there, within=30, saying=jobs.world.tell)
    await jobs.until_settled(taken=3)
    assert await jobs.inbox() == []
