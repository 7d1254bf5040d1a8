"""The inbox: a job is kept as it came until it is a message, rejected, or removed."""

from typing import Any

import pytest

from emailerctl.errors import BadRequest, Fault
from emailerctl.models.ids import INBOX, to_public
from emailerctl.store.base import IdTaken, InboxFilter, InboxJob, Rejection
from tests.desk import Desk

FORGED = Rejection(
    reason="bad_signature",
    faults=(Fault("/sig", "is not made with it"),),
    key_id="shop",
    job_id="j",
)


def job(inbox_id: int = 1, **fields: Any) -> InboxJob:
    known: dict[str, Any] = {
        "inbox_id": inbox_id,
        "topic": "email.job",
        "raw": b'{"topic":"email.job"}',
        "received_ms": 1000,
        "due_ms": 1000,
        "changed_ms": 1000,
    }
    return InboxJob(**known | fields)


async def read(desk: Desk, **filter_: Any) -> list[int]:
    page = await desk.store.list_jobs(InboxFilter(**filter_), cursor=None, limit=50)
    return [one.inbox_id for one in page.data]


async def test_a_job_is_read_back_as_it_came(desk: Desk) -> None:
    raw = bytes(range(256))
    await desk.store.add_job(job(raw=raw))

    assert await desk.store.find_jobs(1, 1) == [job(raw=raw)]
    with pytest.raises(IdTaken):
        await desk.store.add_job(job())


async def test_a_claim_is_for_a_while_and_for_one(desk: Desk, other: Desk) -> None:
    """Two consumers look at once; after a crash the job is given out again."""
    for n in (1, 2, 3):
        await desk.store.add_job(job(n, due_ms=1000 * n))

    first = await desk.store.claim_jobs(now_ms=2000, again_ms=7000, limit=9)
    second = await other.store.claim_jobs(now_ms=2000, again_ms=7000, limit=9)
    later = await other.store.claim_jobs(now_ms=7000, again_ms=9000, limit=9)

    assert [(one.inbox_id, one.tries) for one in first] == [(1, 1), (2, 1)]
    assert second == []
    assert [(one.inbox_id, one.tries) for one in later] == [(1, 2), (2, 2), (3, 1)]


async def test_a_deferred_job_has_not_been_tried(desk: Desk) -> None:
    await desk.store.add_job(job())
    await desk.store.claim_jobs(now_ms=1000, again_ms=6000, limit=9)

    await desk.store.defer_job(1, due_ms=2000)

    (again,) = await desk.store.claim_jobs(now_ms=2000, again_ms=6000, limit=9)
    assert again.tries == 1


async def test_a_rejected_job_stays_with_its_reason_and_is_not_claimed(desk: Desk) -> None:
    await desk.store.add_job(job())

    assert await desk.store.reject_job(1, FORGED, now_ms=1500)

    assert await desk.store.claim_jobs(now_ms=9999, again_ms=9999, limit=9) == []
    (kept,) = await desk.store.find_jobs(1, 1)
    assert (kept.reason, kept.faults, kept.changed_ms) == (FORGED.reason, FORGED.faults, 1500)
    assert kept.raw == job().raw
    await desk.store.defer_job(1, due_ms=1)
    assert await desk.store.claim_jobs(now_ms=9999, again_ms=9999, limit=9) == []


async def test_what_is_gone_can_not_be_rejected(desk: Desk) -> None:
    """Of two consumers on one job the slower one changes nothing."""
    await desk.store.add_job(job())
    await desk.store.end_job(1)

    assert not await desk.store.reject_job(1, FORGED, now_ms=1)
    assert await desk.store.find_jobs(1, 1) == []


async def test_a_service_hears_of_its_own_job_before_a_forged_one(desk: Desk) -> None:
    mine = Rejection(reason="invalid", service="shop", key_id="shop", job_id="j")
    for n, rejection in enumerate((FORGED, mine, FORGED), start=1):
        await desk.store.add_job(job(n))
        await desk.store.reject_job(n, rejection, now_ms=n)

    found = await desk.store.find_rejection(key_id="shop", job_id="j")

    assert found is not None
    assert found.inbox_id == 2
    assert await desk.store.find_rejection(key_id="", job_id="j") is None


async def test_removal_is_audited(desk: Desk) -> None:
    await desk.store.add_job(job())
    await desk.store.reject_job(1, FORGED, now_ms=2)

    assert await desk.store.remove_job(1, actor="eve", now_ms=3)
    assert not await desk.store.remove_job(1, actor="eve", now_ms=4)

    (event,) = await desk.events()
    assert (event.type, event.at_ms) == ("operator.inbox_rm", 3)
    assert event.data == {
        "actor": "eve",
        "inbox_id": to_public(INBOX, 1),
        "job_id": "j",
        "service": None,
        "reason": "bad_signature",
    }


async def test_a_listing_is_narrowed_and_has_pages(desk: Desk) -> None:
    for n in range(1, 6):
        await desk.store.add_job(job(n, topic="a" if n % 2 else "b"))
    await desk.store.reject_job(2, FORGED, now_ms=1)
    await desk.store.reject_job(3, Rejection(reason="unsigned"), now_ms=1)

    assert await read(desk) == [5, 4, 3, 2, 1]
    assert await read(desk, is_waiting=True) == [5, 4, 1]
    assert await read(desk, is_waiting=False) == [3, 2]
    assert await read(desk, reason="unsigned") == [3]
    assert await read(desk, key_id="shop") == [2]
    assert await read(desk, topic="b") == [4, 2]
    first = await desk.store.list_jobs(InboxFilter(), cursor=None, limit=3)
    rest = await desk.store.list_jobs(InboxFilter(), cursor=first.next_cursor, limit=3)
    assert [one.inbox_id for one in (*first.data, *rest.data)] == [5, 4, 3, 2, 1]
    assert rest.next_cursor is None
    with pytest.raises(BadRequest):
        await desk.store.list_jobs(InboxFilter(), cursor="x", limit=3)


async def test_retention_never_touches_what_waits(desk: Desk) -> None:
    for n in range(1, 9):
        await desk.store.add_job(job(n))
    known = Rejection(reason="invalid", service="shop")
    for n, rejection in ((1, known), (2, FORGED), (3, known), (4, FORGED), (5, known)):
        await desk.store.reject_job(n, rejection, now_ms=100 * n)

    assert await desk.store.retain_jobs(before_ms=200, most=99, limit=9) == 1
    assert await read(desk) == [8, 7, 6, 5, 4, 3, 2]
    assert await desk.store.retain_jobs(before_ms=0, most=5, limit=9) == 2
    assert await read(desk) == [8, 7, 6, 5, 3]  # those of unknown origin went first
    assert await desk.store.retain_jobs(before_ms=0, most=4, limit=9) == 1
    assert await desk.store.retain_jobs(before_ms=0, most=1, limit=9) == 1
    assert await read(desk) == [8, 7, 6]
    counts = await desk.store.count_jobs()
    assert (counts.waiting, counts.rejected) == (3, 0)
    assert (counts.oldest_waiting_ms, counts.newest_rejected_ms) == (1000, None)
