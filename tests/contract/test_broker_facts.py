"""What is known of the broker, from the reports that processes leave."""

import pytest

from emailerctl.core.brokers import find_broker
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus, Use
from tests.desk import Desk

URL = "http://127.0.0.1:1"
BAD = {"trouble": "host_refused", "detail": "403", "since_ms": 5}


async def leave(
    desk: Desk, reporter: str, *, age_ms: int, trouble: bool = False, **counts: int
) -> None:
    source = SourceStatus(URL, ("email.send",), **(BAD if trouble else {}))
    report = QueueReport(reporter, "forestmq", [source], QueueCounts(**counts), trouble)
    now_ms = desk.clock.now_ms() - age_ms
    await desk.store.report_queue(report, now_ms=now_ms, kept_ms=86_400_000)


async def test_without_a_broker_there_is_nothing_to_know(desk: Desk) -> None:
    for answers in (None, []):
        found = await find_broker(
            desk.store, kind="embedded", answers=answers, now_ms=desk.clock.now_ms()
        )
        assert found is None


async def test_unasked_the_processes_say_how_it_is(desk: Desk) -> None:
    """The one that is in trouble counts; who has been silent for long counts for the past."""
    await leave(desk, "con_3", age_ms=3_600_000, trouble=True, lost=4)
    await leave(desk, "con_1", age_ms=2_000, trouble=True, lost=1)
    await leave(desk, "con_2", age_ms=1_000, lost=2)

    found = await find_broker(
        desk.store, kind="forestmq", answers=None, now_ms=desk.clock.now_ms()
    )

    assert found is not None
    assert [report.reporter for _at, report in found.alive] == ["con_1", "con_2"]
    assert [one.trouble for one in found.sources] == ["host_refused"]
    assert found.refused == found.sources
    assert found.is_falling_back
    assert found.counts.lost == 7
    assert (found.foreign, found.inbox.waiting, found.inbox.rejected) == (0, 0, 0)


async def test_what_it_answers_itself_is_newer_than_any_report(desk: Desk) -> None:
    await leave(desk, "con_1", age_ms=1_000, trouble=True)
    answers = [SourceStatus(URL, ("email.send",), length=3)]

    found = await find_broker(
        desk.store, kind="forestmq", answers=answers, now_ms=desk.clock.now_ms()
    )

    assert found is not None
    assert found.refused == []
    assert found.shape()["sources"] == [one.shape() for one in answers]


@pytest.mark.parametrize("kind", ["embedded", "forestmq"])
async def test_jobs_are_a_use_of_their_own(desk: Desk, kind: str) -> None:
    """One ForestMQ may not carry both, and is told apart from the doorbells' one."""
    await leave(desk, "con_1", age_ms=0)
    jobs = SourceStatus(URL, ("email.job",), use=Use.JOBS)
    report = QueueReport("con_1 jobs", "forestmq", [jobs], QueueCounts(jobs_kept=2))
    await desk.store.report_queue(report, now_ms=desk.clock.now_ms(), kept_ms=86_400_000)

    found = await find_broker(desk.store, kind=kind, answers=None, now_ms=desk.clock.now_ms())

    assert found is not None
    assert [one.use for one in found.sources] == [Use.DOORBELLS, Use.JOBS]
    assert found.counts.jobs_kept == 2
