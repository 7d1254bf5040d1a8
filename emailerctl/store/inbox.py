"""The inbox: jobs of other services, as they came, until they are messages or are rejected."""

import json
from typing import Any, cast

from emailerctl.errors import BadRequest, Fault
from emailerctl.models.event import operator
from emailerctl.models.ids import INBOX, to_public
from emailerctl.models.page import Page, decode_cursor, encode_cursor
from emailerctl.models.text import shorten
from emailerctl.store import statements as sql
from emailerctl.store.base import IdTaken, InboxCounts, InboxFilter, InboxJob, Rejection
from emailerctl.store.driver import Tx
from emailerctl.store.steps import to_json, write_event

_NEWEST = (1 << 63) - 1


def add(tx: Tx, job: InboxJob) -> None:
    """Enter a job as it came."""
    params = {
        "id": job.inbox_id,
        "topic": job.topic,
        "raw": job.raw,
        "now": job.received_ms,
        "due_at": job.due_ms,
    }
    if not tx.run(sql.ADD_JOB, params):
        raise IdTaken


def claim(tx: Tx, *, now_ms: int, again_ms: int, limit: int) -> list[InboxJob]:
    """Return jobs that wait and are due; nobody else gets them before *again_ms*."""
    rows = tx.all(sql.CLAIM_JOBS, {"now": now_ms, "again_at": again_ms, "limit": limit})
    return sorted(map(_read, rows), key=lambda job: job.inbox_id)


def reject(tx: Tx, inbox_id: int, rejection: Rejection, now_ms: int) -> bool:
    """Write why a job can't become a message."""
    faults = [{"pointer": fault.pointer, "detail": fault.detail} for fault in rejection.faults]
    params = {
        "id": inbox_id,
        "reason": rejection.reason,
        "faults": to_json(faults),
        "service": rejection.service,
        "key_id": rejection.key_id,
        "job_id": rejection.job_id,
        "now": now_ms,
    }
    return tx.run(sql.REJECT_JOB, params) == 1


def remove(tx: Tx, inbox_id: int, *, actor: str, now_ms: int) -> bool:
    """Remove a job for good; an event says who did."""
    found = list_between(tx, inbox_id, inbox_id, limit=1)
    if not found:
        return False
    tx.run(sql.END_JOB, {"id": inbox_id})
    job = found[0]
    data = {
        "actor": actor,
        "inbox_id": to_public(INBOX, inbox_id),
        "job_id": job.job_id or None,
        "service": job.service or None,
        "reason": job.reason or None,
    }
    write_event(tx, operator("inbox_rm"), now_ms, data=data)
    return True


def list_jobs(tx: Tx, filter_: InboxFilter, cursor: str | None, limit: int) -> Page[InboxJob]:
    """Return jobs, newest first."""
    try:
        below = decode_cursor(cursor) if cursor else _NEWEST
    except ValueError as error:
        raise BadRequest(f"the cursor {shorten(cursor)} is not one of ours") from error
    rows = tx.all(
        sql.JOBS,
        {
            "below": below,
            "is_waiting": None if filter_.is_waiting is None else int(filter_.is_waiting),
            "reason": filter_.reason,
            "key_id": filter_.key_id,
            "topic": filter_.topic,
            "limit": limit + 1,
        },
    )
    jobs = [_read(row) for row in rows[:limit]]
    return Page(jobs, encode_cursor(jobs[-1].inbox_id) if len(rows) > limit else None)


def list_between(tx: Tx, low: int, high: int, *, limit: int) -> list[InboxJob]:
    """Return the jobs from *low* to *high*, both included."""
    params = {"low": low, "high": high, "limit": limit}
    return [_read(row) for row in tx.all(sql.JOBS_BETWEEN, params)]


def find_rejection(tx: Tx, key_id: str, job_id: str) -> InboxJob | None:
    """Return the newest rejected job with these names; one that was verified before others."""
    row = tx.one(sql.REJECTION, {"key_id": key_id, "job_id": job_id})
    return _read(row) if row else None


def count(tx: Tx) -> InboxCounts:
    """Return the inbox in numbers."""
    waiting: Any = tx.one(sql.WAITING_JOBS)
    rejected: Any = tx.one(sql.REJECTED_JOBS)
    return InboxCounts(
        waiting=waiting[0],
        rejected=rejected[0],
        oldest_waiting_ms=waiting[1],
        newest_rejected_ms=rejected[1],
    )


def retain(tx: Tx, *, before_ms: int, most: int, limit: int) -> int:
    """Remove rejected jobs: those that changed before *before_ms*, and those beyond *most*."""
    removed = tx.run(sql.OLD_JOBS, {"before": before_ms, "limit": limit})
    counts = count(tx)
    excess = min(counts.waiting + counts.rejected - most, counts.rejected, limit)
    return removed + (tx.run(sql.EXCESS_JOBS, {"limit": excess}) if excess > 0 else 0)


def _read(row: tuple[object, ...]) -> InboxJob:
    values = cast("tuple[Any, ...]", row)
    faults = json.loads(values[10]) if values[10] else []
    return InboxJob(
        inbox_id=values[0],
        topic=values[1],
        raw=values[2],
        received_ms=values[3],
        due_ms=values[4],
        tries=values[5],
        service=values[6],
        key_id=values[7],
        job_id=values[8],
        reason=values[9],
        faults=tuple(Fault(one["pointer"], one["detail"]) for one in faults),
        changed_ms=values[11],
    )
