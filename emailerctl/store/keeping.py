"""Keeping house: retention in small batches; the search tables, filled from the event log."""

from dataclasses import dataclass
from typing import Any

from emailerctl.models.ids import first_id_at
from emailerctl.store import reading
from emailerctl.store import statements as sql
from emailerctl.store.administering import leave_note
from emailerctl.store.driver import Tx
from emailerctl.store.reporting import KEPT_MS

_RATES_KEPT_MS = 30 * 86_400_000
_PACES_KEPT_MS = 3_600_000  # of recipient domains: what ended before says nothing any more
_KEYS_KEPT_MS = 30 * 86_400_000  # a key is kept so long at least, and its message with it


def retain(
    tx: Tx,
    *,
    content_ms: int,
    messages_ms: int,
    events_ms: int,
    audit_ms: int,
    now_ms: int,
    limit: int,
) -> int:
    """Remove what retention says, *limit* rows of each kind at the most."""
    removed = 0
    before = now_ms - content_ms
    for message_id in _ids(tx, sql.OLD_CONTENT, before, limit):
        removed += tx.run(sql.END_CONTENT, {"message_id": message_id})
    before = now_ms - messages_ms
    keyed_before = min(before, now_ms - _KEYS_KEPT_MS)
    for message_id in _ids(tx, sql.OLD_MESSAGES, before, limit, keyed_before=keyed_before):
        for statement in sql.END_MESSAGE:
            tx.run(statement, {"message_id": message_id})
        removed += 1
    tx.run(sql.OLD_PACES, {"before_us": (now_ms - _PACES_KEPT_MS) * 1000})
    row: Any = tx.one(sql.OLD_EVENTS, {"before": now_ms - events_ms, "limit": limit})
    if row and row[0] is not None:
        removed += tx.run(sql.END_EVENTS, {"seq": row[0]})
        leave_note(tx, reading.PRUNED_TO, f"{row[0]} {now_ms}")
    kept_ms = max(events_ms, KEPT_MS)
    removed += tx.run(sql.OLD_REPORTS, {"before": now_ms - kept_ms, "limit": limit})
    removed += tx.run(sql.OLD_REPORT_CALLS, {"before": now_ms - KEPT_MS, "limit": limit})
    removed += tx.run(sql.OLD_DEEDS, {"before": now_ms - audit_ms, "limit": limit})
    removed += tx.run(sql.OLD_FOREIGN, {"before": now_ms - messages_ms, "limit": limit})
    return removed + tx.run(sql.OLD_RATES, {"before": now_ms - _RATES_KEPT_MS, "limit": limit})


def count_old(
    tx: Tx, *, content_ms: int, messages_ms: int, events_ms: int, audit_ms: int, now_ms: int
) -> dict[str, int]:
    """Return how much of each kind `retain` would remove, in all its batches."""

    def count(statement: str, kept_ms: int, **more: int) -> int:
        before = now_ms - kept_ms
        params = {"before": before, "before_id": first_id_at(before), **more}
        row: Any = tx.one(statement, params)
        return int(row[0])

    keyed_before = now_ms - max(messages_ms, _KEYS_KEPT_MS)
    return {
        "content": count(sql.COUNT_OLD_CONTENT, content_ms),
        "messages": count(sql.COUNT_OLD_MESSAGES, messages_ms, keyed_before=keyed_before),
        "events": count(sql.COUNT_OLD_EVENTS, events_ms),
        "audit": count(sql.COUNT_OLD_DEEDS, audit_ms),
    }


def _ids(tx: Tx, statement: str, before_ms: int, limit: int, **more: int) -> list[int]:
    params = {"before": before_ms, "before_id": first_id_at(before_ms), "limit": limit, **more}
    rows: Any = tx.all(statement, params)
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Unindexed:
    """The next messages for the search tables, read before anything is locked for writing."""

    to_seq: int
    messages: int
    rows: list[dict[str, object]]


def find_unindexed(tx: Tx, *, limit: int) -> Unindexed | None:
    """Return the terms of the next *limit* accepted messages of the event log, or None."""
    note: Any = tx.one(sql.NOTE, {"key": reading.INDEXED_TO})
    after = int(note[0]) if note else 0
    accepted: Any = tx.all(sql.ACCEPTED_AFTER, {"after": after, "limit": limit})
    if not accepted:
        return None
    rows: list[dict[str, object]] = []
    for _seq, message_id in accepted:
        view = reading.find_message(tx, message_id, None, with_attempts=False)
        terms = reading.to_terms(view) if view else ()
        rows += [{"term": term, "message_id": message_id} for term in terms]
    return Unindexed(accepted[-1][0], len(accepted), rows)


def index(tx: Tx, found: Unindexed) -> None:
    """Fill the search tables; harmless when another process has been faster."""
    note: Any = tx.one(sql.NOTE, {"key": reading.INDEXED_TO})
    if note and int(note[0]) >= found.to_seq:
        return
    tx.many(sql.ADD_TERM, found.rows)
    leave_note(tx, reading.INDEXED_TO, str(found.to_seq))
