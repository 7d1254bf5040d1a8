"""What the store knows of doorbells: which messages need one, which came, what came besides."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from emailerctl.errors import BadRequest
from emailerctl.models.doorbell import (
    ForeignMessage,
    QueueCounts,
    QueueReport,
    Silent,
    SourceStatus,
)
from emailerctl.models.message import Priority
from emailerctl.models.page import Page, decode_cursor, encode_cursor
from emailerctl.models.text import shorten
from emailerctl.store import statements as sql
from emailerctl.store.driver import Tx
from emailerctl.store.lanes import find_in_lane
from emailerctl.store.steps import to_json

_NEWEST = (1 << 63) - 1


@dataclass(slots=True)
class Among:
    """What is known of messages whose doorbells came."""

    found: list[int]
    waiting: list[int]
    stale: int
    unknown: int


def find_among(
    tx: Tx,
    message_ids: Sequence[int],
    rooms: Mapping[str, int],
    urgent: Mapping[str, int],
    now_ms: int,
) -> Among:
    """Return those of *message_ids* that are due and fit into *rooms*, in their order.

    *urgent* are the rooms for priority high, where a next hop has any.
    """
    wanted = {"ids": to_json(list(message_ids)) or "[]", "now": now_ms}
    rows: Any = tx.all(sql.AMONG, wanted)
    facts = {row[0]: row for row in rows}
    left = {(name, False): room for name, room in rooms.items()}
    left |= {(name, True): urgent.get(name, 0) for name in rooms}
    among = Among([], [], 0, 0)
    for message_id in dict.fromkeys(message_ids):
        _id, next_hop, priority, is_due = facts.get(message_id, (message_id, "", 0, 0))
        place = (next_hop, priority == Priority.HIGH)
        if not is_due:
            among.stale += 1
        elif left.get(place, 0) > 0:
            left[place] -= 1
            among.found.append(message_id)
        else:
            among.waiting.append(message_id)
    strangers = [message_id for message_id in message_ids if message_id not in facts]
    if strangers:
        existing = tx.all(sql.EXISTING, {"ids": to_json(strangers) or "[]"})
        among.unknown = len(strangers) - len(existing)
        among.stale -= among.unknown
    return among


def find_silent(
    tx: Tx,
    rooms: Mapping[str, int],
    urgent: Mapping[str, int],
    priorities: Collection[Priority],
    now_ms: int,
    lost_before_ms: int,
    limit: int,
) -> list[Silent]:
    """Return due messages that no doorbell will announce any more."""
    found: list[Silent] = []
    for priority in sorted(priorities):
        for next_hop, ordinary in rooms.items():
            room = urgent.get(next_hop, 0) if priority is Priority.HIGH else ordinary
            lane = {
                "next_hop": next_hop,
                "priority": int(priority),
                "now": now_ms,
                "lost_before": lost_before_ms,
            }
            rows = find_in_lane(tx, sql.SILENT, lane, min(room, limit - len(found)))
            found += [Silent(row[0], row[1], bool(row[2])) for row in rows]
    return found


def note_rung(
    tx: Tx, message_ids: Collection[int], now_ms: int, lost_before_ms: int
) -> list[int]:
    """Note that they are rung now, and return those that were not noted already."""
    rows = tx.all(
        sql.NOTE_RUNG,
        {
            "ids": to_json(list(message_ids)) or "[]",
            "now": now_ms,
            "lost_before": lost_before_ms,
        },
    )
    noted = {row[0] for row in rows}
    return [message_id for message_id in message_ids if message_id in noted]


def park(tx: Tx, foreign: ForeignMessage, most: int) -> bool:
    """Keep a foreign message; False where there are *most* already."""
    params = {
        "at": foreign.at_ms,
        "topic": foreign.topic,
        "url": foreign.url,
        "reason": foreign.reason,
        "body": foreign.body,
        "most": most,
    }
    return tx.run(sql.PARK, params) == 1


def list_foreign(tx: Tx, cursor: str | None, limit: int) -> Page[ForeignMessage]:
    """Return foreign messages, newest first."""
    try:
        below = decode_cursor(cursor) if cursor else _NEWEST
    except ValueError as error:
        raise BadRequest(f"the cursor {shorten(cursor)} is not one of ours") from error
    rows: Any = tx.all(sql.FOREIGN, {"before_id": below, "limit": limit + 1})
    found = [
        ForeignMessage(
            foreign_id=row[0],
            at_ms=row[1],
            topic=row[2],
            url=row[3],
            reason=row[4],
            body=row[5],
        )
        for row in rows[:limit]
    ]
    return Page(found, encode_cursor(found[-1].foreign_id) if len(rows) > limit else None)


def report_queue(tx: Tx, report: QueueReport, now_ms: int, kept_ms: int) -> None:
    """Leave a process's report about its broker."""
    params = {
        "reporter": report.reporter,
        "at": now_ms,
        "report": json.dumps(
            {
                "kind": report.kind,
                "fallback": report.is_falling_back,
                "sources": [
                    {name: getattr(source, name) for name in SourceStatus.__slots__}
                    for source in report.sources
                ],
                "counts": report.counts.shape(),
            }
        ),
    }
    tx.run(sql.REPORT_QUEUE, params)
    tx.run(sql.OLD_QUEUE_REPORTS, {"before": now_ms - kept_ms})


def list_queue_reports(tx: Tx) -> list[tuple[int, QueueReport]]:
    """Return every process's report, with its moment."""
    return [_read_report(row) for row in tx.all(sql.QUEUE_REPORTS)]


def _read_report(row: Sequence[object]) -> tuple[int, QueueReport]:
    reporter, at_ms, text = cast("tuple[str, int, str]", row)
    said: Any = json.loads(text)
    counts = QueueCounts()
    counts.add(said["counts"])
    # Of another version, where this process is older: what it has more is passed over.
    known = SourceStatus.__slots__
    sources = [
        SourceStatus(
            **{name: source[name] for name in known if name in source}
            | {"topics": tuple(source["topics"])}
        )
        for source in said["sources"]
    ]
    return at_ms, QueueReport(reporter, said["kind"], sources, counts, said["fallback"])
