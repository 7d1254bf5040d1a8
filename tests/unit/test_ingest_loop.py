"""The consumer's loop around jobs: one that we can't handle harms no other."""

from dataclasses import replace
from datetime import timedelta

from daemons.consumer.ingest import IngestLoop
from emailerctl.core.ingest import Ingest, IngestRules, Verdict
from emailerctl.store.base import InboxFilter, InboxJob
from emailerctl.wiring import App

SOON = timedelta(seconds=5)


class Faulty(Ingest):
    """Has a bug, of which one kind of job is the victim."""

    async def process(self, job: InboxJob, *, by_hand: bool = False) -> Verdict:
        """Fail on that kind."""
        if job.raw == b"bug":
            raise ZeroDivisionError
        return await super().process(job, by_hand=by_hand)


async def find(app: App) -> list[InboxJob]:
    page = await app.store.list_jobs(InboxFilter(), cursor=None, limit=50)
    return list(page.data)


def build_loop(app: App) -> IngestLoop:
    rules = IngestRules(max_age_ms=1)
    faulty = Faulty(app.store, app.acceptance, rules, clock=app.clock)
    return IngestLoop(replace(app, ingest=faulty), reporter="test")


async def test_a_bug_is_the_reason_of_one_job_alone(app: App) -> None:
    loop = build_loop(app)
    for raw in (b"bug", b"no json"):
        await loop.keep("email.job", raw)
    await loop.stop(within=SOON)

    assert {(job.raw, job.reason) for job in await find(app)} == {
        (b"bug", "bug"),
        (b"no json", "malformed_json"),
    }
    assert loop.report() is None  # no ForestMQ carries jobs


async def test_a_job_larger_than_anything_is_cut(app: App) -> None:
    loop = build_loop(app)
    await loop.keep("email.job", b"x" * 300_000)
    await loop.stop(within=SOON)

    (job,) = await find(app)
    assert (len(job.raw), job.reason) == (65_536, "malformed_json")


async def test_what_another_consumer_left_is_taken_up(app: App) -> None:
    for n, raw in enumerate((b"one", b"bug"), start=1):
        await app.store.add_job(
            InboxJob(inbox_id=n, topic="t", raw=raw, received_ms=1, due_ms=1, changed_ms=1)
        )
    loop = build_loop(app)

    await loop.look_again()
    await loop.retain()

    assert sorted(job.reason for job in await find(app)) == ["bug", "malformed_json"]
    await loop.stop(within=SOON)
