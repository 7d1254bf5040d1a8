"""Reading: one message, listings, the event log, the queue in numbers.

A listing walks down from a cursor along whatever narrows best (a notable state, the queue, a
term of the search tables plus the newer tail, or just the newest) and filters what it meets.
It examines a bounded number of messages a call, so a page may be short and still have a
successor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from emailerctl.errors import BadRequest, NotFound
from emailerctl.models.event import GAP, Event
from emailerctl.models.ids import MESSAGE, first_id_at, parse_prefix, to_public
from emailerctl.models.lifecycle import WORKING, OnUnknown, State, WaitingFor
from emailerctl.models.message import MessageView, Priority, Receipt
from emailerctl.models.page import (
    EventFilter,
    MessageFilter,
    Page,
    decode_cursor,
    encode_cursor,
)
from emailerctl.models.text import shorten
from emailerctl.store import statements as sql
from emailerctl.store.base import LaneStats, Pause, QueueStats, Unknown
from emailerctl.store.claiming import find_pause
from emailerctl.store.driver import Tx
from emailerctl.store.rows import read_tags, to_event, to_message
from emailerctl.store.schema import NOTABLE

PRUNED_TO = "events_pruned_to"
INDEXED_TO = "search_indexed_to"

_MAX_ID = 2**63 - 1
_CHUNK = 500
_EXAMINED = 20_000  # messages that one call looks at, at the most


def load_message(tx: Tx, message_id: int) -> MessageView:
    """Return a message with recipients and attempts.

    Raises:
        NotFound: there is none.
    """
    view = find_message(tx, message_id, None)
    if view is None:
        raise NotFound(f"there is no message {to_public(MESSAGE, message_id)}")
    return view


def find_message(
    tx: Tx,
    message_id: int,
    service: str | None,
    *,
    with_attempts: bool = True,
    now_ms: int | None = None,
) -> MessageView | None:
    """Return a message; *service* narrows whose.

    With *now_ms*, what is due waits for nothing any more, or for the end of a pause.
    """
    params = {"message_id": message_id}
    row: Any = tx.one(sql.MESSAGE, params)
    if row is None or service not in (None, row[1]):
        return None
    attempts = tx.all(sql.ATTEMPTS, params) if with_attempts else ()
    waiting_for = row[21]
    if now_ms is not None and row[20] is not None and row[20] <= now_ms:
        waiting_for = _find_due_state(tx, now_ms)
    return to_message(row, tx.all(sql.RECIPIENTS, params), attempts, waiting_for=waiting_for)


def _find_due_state(tx: Tx, now_ms: int) -> WaitingFor:
    is_paused = tx.memo.get("is_paused")
    if is_paused is None:
        is_paused = tx.memo["is_paused"] = find_pause(tx, now_ms) is not None
    return WaitingFor.PAUSE if is_paused else WaitingFor.READY


def find_receipt(tx: Tx, message_id: int) -> Receipt | None:
    """Return the receipt of an earlier message, as it stands now."""
    row: Any = tx.one(sql.MESSAGE, {"message_id": message_id})
    if row is None:
        return None
    recipients = tx.all(sql.RECIPIENTS, {"message_id": message_id})
    view = to_message(row, recipients, waiting_for=row[21])
    return Receipt(
        message_id=message_id,
        state=view.state,
        created_ms=view.created_ms,
        on_unknown=view.on_unknown,
        is_test=view.is_test,
        recipients=view.recipients,
        is_replay=True,
        fingerprint=row[19],
    )


def list_messages(
    tx: Tx, filter_: MessageFilter, cursor: str | None, limit: int, now_ms: int | None = None
) -> Page[MessageView]:
    """Return messages that fit, newest first."""
    try:
        below = decode_cursor(cursor) if cursor else _MAX_ID
    except ValueError as error:
        raise BadRequest(f"the cursor {shorten(cursor)} is not one of ours") from error
    if filter_.until_ms is not None:
        below = min(below, first_id_at(filter_.until_ms))
    bounds = {"from_id": first_id_at(filter_.since_ms) if filter_.since_ms else 0}
    found: list[MessageView] = []
    walk = _walk(_choose_start(tx, filter_), bounds, below)
    for examined, message_id in enumerate(walk, 1):
        service = filter_.service or None
        view = find_message(tx, message_id, service, with_attempts=False, now_ms=now_ms)
        if view is not None and _fits(view, filter_):
            found.append(view)
        if len(found) == limit or examined == _EXAMINED:
            return Page(found, encode_cursor(message_id))
    return Page(found, None)


Start = Callable[[dict[str, int]], list[int]]  # below, from_id, limit -> ids, newest first


def _walk(start: Start, bounds: dict[str, int], below: int) -> Iterator[int]:
    while True:
        ids = start({**bounds, "below": below, "limit": _CHUNK})
        yield from ids
        if len(ids) < _CHUNK:
            return
        below = ids[-1]


def _choose_start(tx: Tx, filter_: MessageFilter) -> Start:
    """Return the narrowest walk that meets everything which fits."""
    term, is_prefix = _choose_term(filter_)
    if term:
        return _start_at_term(tx, term, is_prefix=is_prefix)
    if filter_.state in NOTABLE:
        state = filter_.state
        return lambda at: _ids(tx, sql.NOTABLE_STATE, {**at, "state": state})
    if filter_.waiting_for is not None or filter_.state in WORKING:
        return lambda at: _ids(tx, sql.IN_WORK, at)
    bounds = _find_id_bounds(filter_.q)
    if bounds is not None:
        return lambda at: _ids(
            tx,
            sql.NEWEST,
            {
                "from_id": max(bounds[0], at["from_id"]),
                "below": min(bounds[1] + 1, at["below"]),
                "limit": at["limit"],
            },
        )
    return lambda at: _ids(tx, sql.NEWEST, at)


def _find_id_bounds(q: str) -> tuple[int, int] | None:
    """Return the smallest and the largest id that *q* begins, or None where it is no id."""
    return parse_prefix(MESSAGE, q) if q.upper().startswith("MSG_") else None


def _choose_term(filter_: MessageFilter) -> tuple[str, bool]:
    if filter_.recipient:
        return f"to:{filter_.recipient.lower()}", False
    if filter_.tag:
        return f"tag:{filter_.tag}", False
    if filter_.header_from:
        return f"from:{filter_.header_from.lower()}", False
    if filter_.q and _find_id_bounds(filter_.q) is None:
        return f"q:{filter_.q.lower()}", True
    return "", False


def _start_at_term(tx: Tx, term: str, *, is_prefix: bool) -> Start:
    """Walk the messages that have *term*: those indexed, and all newer ones, to be filtered."""
    tail_id = _find_tail(tx)

    def start(at: dict[str, int]) -> list[int]:
        if is_prefix:
            params = {**at, "term": term, "term_end": term + "\U0010ffff"}
            indexed = _ids(tx, sql.WITH_TERM_PREFIX, params)
        else:
            indexed = _ids(tx, sql.WITH_TERM, {**at, "term": term})
        newer = _ids(tx, sql.NEWEST, {**at, "from_id": max(at["from_id"], tail_id)})
        return sorted({*indexed, *newer}, reverse=True)[: at["limit"]]

    return start


def _find_tail(tx: Tx) -> int:
    """Return the smallest id of a message that the search tables do not have yet."""
    note: Any = tx.one(sql.NOTE, {"key": INDEXED_TO})
    row: Any = tx.one(sql.FIRST_NOT_INDEXED, {"after": int(note[0]) if note else 0})
    return _MAX_ID if row[0] is None else int(row[0])


def _ids(tx: Tx, statement: str, params: dict[str, Any]) -> list[int]:
    rows: Any = tx.all(statement, params)
    return [row[0] for row in rows]


def _fits(view: MessageView, filter_: MessageFilter) -> bool:
    recipients = view.recipients
    wanted = filter_.recipient.lower()
    return (
        (filter_.state is None or view.state is filter_.state)
        and (
            filter_.waiting_for is None
            or any(r.waiting_for is filter_.waiting_for for r in recipients)
        )
        and (not wanted or any(r.address.lower() == wanted for r in recipients))
        and (not filter_.header_from or view.header_from.lower() == filter_.header_from.lower())
        and (not filter_.tag or filter_.tag in view.tags)
        and (not filter_.template or view.template == filter_.template)
        and (not filter_.provider or any(r.provider == filter_.provider for r in recipients))
        and (not filter_.q or matches(view, filter_.q))
    )


def matches(view: MessageView, q: str) -> bool:
    """Return whether *q* is an id, or begins an address, a tag or a word of the subject."""
    bounds = _find_id_bounds(q)
    if bounds is not None:
        return bounds[0] <= view.message_id <= bounds[1]
    return any(term.startswith(q.lower()) for term in searchable(view))


def searchable(view: MessageView) -> set[str]:
    """Return what `q` finds a message by: addresses, tags, words of the subject; lower case."""
    words = {recipient.address.lower() for recipient in view.recipients}
    words |= {tag.lower() for tag in view.tags}
    words |= {word for word in view.subject.lower().split() if len(word) > 1}
    return {word[:64] for word in words}


def to_terms(view: MessageView) -> set[str]:
    """Return the rows of the search table for a message."""
    return (
        {f"to:{recipient.address.lower()}" for recipient in view.recipients}
        | {f"tag:{tag}" for tag in view.tags}
        | {f"from:{view.header_from.lower()}"}
        | {f"q:{word}" for word in searchable(view)}
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What one bounded look at the event log found.

    Attributes:
        seen_to: the last sequence number that was looked at.
        is_end: there was nothing more.
    """

    events: list[Event]
    seen_to: int
    is_end: bool


def look_for_events(tx: Tx, filter_: EventFilter, after_seq: int, limit: int) -> Look:
    """Return events that fit, in order, led by a `gap` where retention removed some.

    Where nothing fits the look goes on, for a bounded number of rows.
    """
    found = _find_gap(tx, filter_.message_id, after_seq)
    after = max(after_seq, found[0].seq if found else 0)
    statement = sql.EVENTS_AFTER if filter_.message_id is None else sql.EVENTS_OF
    for _chunk in range(_EXAMINED // _CHUNK):
        params = {"after": after, "limit": _CHUNK, "message_id": filter_.message_id}
        rows: Any = tx.all(statement, params)
        for row in rows:
            if len(found) >= limit:
                return Look(found, after, is_end=False)
            after = row[0]
            if _event_fits(row, filter_):
                found.append(to_event(row))
        if len(rows) < _CHUNK:
            return Look(found, after, is_end=True)
    return Look(found, after, is_end=False)


def _find_gap(tx: Tx, message_id: int | None, after_seq: int) -> list[Event]:
    row: Any = tx.one(sql.NOTE, {"key": PRUNED_TO})
    if row is None:
        return []
    pruned_seq, at_ms = (int(part) for part in row[0].split())
    if after_seq >= pruned_seq:
        return []
    # Events go oldest first: a message that still has its first one has them all.
    if message_id is not None and tx.one(sql.HAS_ACCEPTED, {"message_id": message_id}):
        return []
    data = {"from_seq": after_seq + 1, "to_seq": pruned_seq}
    return [Event(seq=pruned_seq, type=GAP, at_ms=at_ms, data=data)]


def _event_fits(row: Any, filter_: EventFilter) -> bool:
    return (
        (not filter_.service or row[9] == filter_.service)
        and (filter_.state is None or row[6] == filter_.state)
        and (not filter_.provider or row[8] == filter_.provider)
        and (not filter_.recipient or (row[4] or "").lower() == filter_.recipient.lower())
        and (not filter_.tag or filter_.tag in read_tags(row[12]))
    )


def list_unknown(
    tx: Tx, service: str | None, message_id: int | None, limit: int, now_ms: int
) -> list[Unknown]:
    """Return recipients in doubt, oldest first."""
    wanted = {"service": service, "message_id": message_id, "limit": limit}
    rows: Any = tx.all(sql.UNKNOWN, wanted)
    return [
        Unknown(
            message_id=row[0],
            n=row[1],
            address=row[2],
            service=row[3],
            subject=row[4],
            provider=row[5],
            attempt=row[6],
            since_ms=row[7],
            open_until_ms=row[8],
            on_unknown=OnUnknown(row[9]),
            resend_at_ms=row[10],
            expires_ms=row[11],
            is_expired=row[11] is not None and row[11] <= now_ms,
            ask_at_ms=row[12],
            asked=row[13],
            asks=row[14] or "",
            asked_ms=row[15],
            answer=row[16],
            started_ms=row[17],
            replayed=row[18],
        )
        for row in rows
    ]


def queue_stats(tx: Tx, now_ms: int, pause: Pause | None) -> QueueStats:
    """Return the queue in numbers."""
    rows: Any = tx.all(sql.QUEUE_COUNTS, {"now": now_ms})
    counts = {row[0]: row[1] for row in rows}
    oldest = [row[2] for row in rows if row[0] == "ready"]
    unknown: Any = tx.one(sql.UNKNOWN_COUNT)
    open_: Any = tx.one(sql.UNKNOWN_OPEN, {"now": now_ms})
    held: Any = tx.one(sql.HELD_COUNT)
    return QueueStats(
        ready=counts.get("ready", 0),
        scheduled=counts.get("send_at", 0),
        retrying=counts.get("retry", 0),
        waiting=counts.get("next_hop", 0),
        sending=counts.get(State.SENDING, 0),
        held=held[0],
        unknown=unknown[0],
        oldest_due_ms=oldest[0] if oldest else None,
        oldest_unknown_ms=open_[1],
        pause=pause,
        unknown_open=open_[0],
    )


def lane_stats(tx: Tx, now_ms: int) -> list[LaneStats]:
    """Return the queue in numbers, lane by lane."""
    rows: Any = tx.all(sql.LANE_COUNTS, {"now": now_ms})
    return [LaneStats(Priority(row[0]), row[1], row[2], row[3]) for row in rows]
