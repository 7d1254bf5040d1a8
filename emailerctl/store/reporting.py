"""What next hops tell later: each thing once, matched to its recipient, stepped, kept.

A report that is about nothing here (F-WI-03) waits in its row and is tried again: soon at
first, since most often our own settlement is only a moment late, then ever less often.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emailerctl.models.clock import to_text
from emailerctl.models.event import UNSUBSCRIBE_REPORTED
from emailerctl.models.lifecycle import POSITIVE_EVIDENCE, Cause, State, sources
from emailerctl.store import statements as sql
from emailerctl.store.base import BOUNCE, DETAIL_CHARACTERS, NewReport, Suppression, Taken
from emailerctl.store.delivering import apply_evidence
from emailerctl.store.driver import Tx
from emailerctl.store.steps import (
    end_work_if_done,
    summarise,
    suppress,
    to_json,
    write_event,
)

KEPT_MS = 7 * 86_400_000  # what came as it came; and how long an unmatched report is tried
_FIRST_WAIT_MS = 1_000
_LONGEST_WAIT_MS = 3_600_000
_ACTOR = "report"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a next hop: its body, and what came with it."""

    provider: str
    raw: bytes
    once: str
    fault: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whose copy a report is about, and where it stands."""

    message_id: int
    n: int
    attempt: int
    state: State
    address: str
    service: str
    is_test: bool


def take(tx: Tx, call: Call, reports: Sequence[NewReport]) -> Taken:
    """Keep the call, and apply those of its reports that were not told before."""
    row: Any = tx.one(
        sql.ADD_REPORT_CALL,
        {
            "provider": call.provider,
            "once": call.once or None,
            "now": call.now_ms,
            "raw": call.raw,
            "fault": call.fault,
        },
    )
    if row is None:
        return Taken(is_replay=True)
    new = unmatched = 0
    for report in reports:
        id_ = _add(tx, call, row[0], report)
        if id_ is None:
            continue
        new += 1
        unmatched += not _apply(tx, call.provider, id_, report, call.now_ms)
    if not new and not call.once and not call.fault:
        tx.run(sql.END_REPORT_CALL, {"call_id": row[0]})  # all of it is here already
    return Taken(new=new, repeated=len(reports) - new, unmatched=unmatched)


def _add(tx: Tx, call: Call, call_id: int, report: NewReport) -> int | None:
    is_about_something = report.cause is not None or report.event
    row: Any = tx.one(
        sql.ADD_REPORT,
        {
            "call_id": call_id,
            "provider": call.provider,
            "now": call.now_ms,
            "next_at": call.now_ms + _FIRST_WAIT_MS if is_about_something else None,
            "event_id": report.event_id,
            "kind": report.kind,
            "at": report.at_ms,
            "recipient": report.recipient,
            "message_id": report.message_id,
            "n": report.n,
            "attempt": report.attempt,
            "provider_message_id": report.provider_message_id,
            "cause": report.cause.value if report.cause else None,
            "event": report.event,
            "suppresses": report.suppresses,
            "reply": report.reply,
            "data": to_json(dict(report.data)),
        },
    )
    return row[0] if row else None


def match(tx: Tx, now_ms: int, limit: int) -> int:
    """Try reports again that were about nothing yet; return how many now fitted."""
    matched = 0
    rows: Any = tx.all(sql.DUE_REPORTS, {"now": now_ms, "limit": limit})
    for id_, provider, received_ms, *columns in rows:
        report = _read(columns)
        if _apply(tx, provider, id_, report, now_ms):
            matched += 1
            continue
        age_ms = now_ms - received_ms
        next_ms = now_ms + min(max(age_ms, _FIRST_WAIT_MS), _LONGEST_WAIT_MS)
        is_over = age_ms < 0 or next_ms - received_ms > KEPT_MS
        tx.run(sql.POSTPONE_REPORT, {"id": id_, "next_at": None if is_over else next_ms})
    return matched


def _read(columns: Sequence[Any]) -> NewReport:
    report = NewReport(*columns)
    return report._replace(
        cause=Cause(columns[8]) if columns[8] else None,
        data=json.loads(columns[12]) if columns[12] else {},
    )


def _apply(tx: Tx, provider: str, id_: int, report: NewReport, now_ms: int) -> bool:
    """Let a report have its effect; False where it is about nothing that is here."""
    subject = _find_subject(tx, provider, report)
    if subject is None:
        return _apply_to_all(tx, provider, id_, report, now_ms)
    tx.run(
        sql.MATCH_REPORT,
        {
            "id": id_,
            "message_id": subject.message_id,
            "n": subject.n,
            "attempt": subject.attempt,
            "now": now_ms,
        },
    )
    data = {**report.data, **({"at": to_text(report.at_ms)} if report.at_ms else {})}
    if report.suppresses and not subject.is_test:
        _suppress(tx, provider, report, subject, now_ms)
        data["suppressed"] = report.suppresses
    _step(tx, provider, report, subject, data, now_ms)
    if report.event:
        write_event(
            tx,
            report.event,
            now_ms,
            message_id=subject.message_id,
            n=subject.n,
            address=subject.address,
            service=subject.service,
            attempt=subject.attempt or None,
            provider=provider,
            reply=report.reply or None,
            data=data,
        )
    return True


def _apply_to_all(tx: Tx, provider: str, id_: int, report: NewReport, now_ms: int) -> bool:
    """Take a report that names nobody of several: all that it proves is that they went out.

    Whose copy was opened or bounced nobody can know; that the attempt was taken is certain.
    """
    names_nobody = not report.recipient and report.n is None
    message_id, attempt = report.message_id, report.attempt
    if not names_nobody or report.cause is None or message_id is None or attempt is None:
        return False
    wanted = {"message_id": message_id, "attempt": attempt}
    rows: Any = tx.all(sql.RECIPIENTS_OF_ATTEMPT, wanted)
    for n, state in rows:
        if State(state) not in sources(Cause.RESOLVED_SENT):
            continue
        apply_evidence(
            tx,
            message_id,
            n,
            Cause.RESOLVED_SENT,
            attempt=attempt,
            now_ms=now_ms,
            provider=provider,
            data={"report": report.kind},
        )
    if rows:
        end_work_if_done(tx, message_id)
        summarise(tx, message_id, now_ms)
        tx.run(sql.MATCH_REPORT, {**wanted, "id": id_, "n": None, "now": now_ms})
    return bool(rows)


def _step(
    tx: Tx,
    provider: str,
    report: NewReport,
    subject: _Subject,
    data: dict[str, object],
    now_ms: int,
) -> None:
    """Step the recipient as its evidence allows."""
    cause = report.cause
    if cause is None:
        return
    # That it went out is news only to those who are not known to have gone out.
    if cause is Cause.RESOLVED_SENT and subject.state not in sources(cause):
        return
    apply_evidence(
        tx,
        subject.message_id,
        subject.n,
        cause,
        attempt=subject.attempt,
        now_ms=now_ms,
        provider=provider,
        reply=report.reply,
        data={"report": report.kind, **data},
    )
    end_work_if_done(tx, subject.message_id)
    summarise(tx, subject.message_id, now_ms)


def _suppress(tx: Tx, provider: str, report: NewReport, subject: _Subject, now_ms: int) -> None:
    """Suppress the recipient: for all services where its address is dead, else for this one."""
    suppression = Suppression(
        address=subject.address,
        service="" if report.suppresses == BOUNCE else subject.service,
        reason=report.suppresses,
        detail=report.reply[:DETAIL_CHARACTERS],
        created_ms=now_ms,
        expires_ms=None,
        actor=_ACTOR,
        message_id=subject.message_id,
        provider=provider,
    )
    suppress(tx, suppression, replaces=False)


def unsubscribe(tx: Tx, suppression: Suppression, message_id: int, n: int, now_ms: int) -> bool:
    """Enter what a recipient asked for by a message's link; False where it stood already."""
    if not suppress(tx, suppression, replaces=False):
        return False
    row: Any = tx.one(sql.REPORT_FACTS, {"message_id": message_id, "n": n})
    if row is not None:  # retention may have removed the message; the wish counts all the same
        write_event(
            tx,
            UNSUBSCRIBE_REPORTED,
            now_ms,
            message_id=message_id,
            n=n,
            address=row[1],
            service=row[4],
            data={"suppressed": suppression.reason, "by": suppression.actor},
        )
    return True


# Whose copy


def _find_subject(tx: Tx, provider: str, report: NewReport) -> _Subject | None:
    """Return whose copy it is: by our own id where it came along, else by the provider's."""
    message_id, attempt = report.message_id, report.attempt
    n = _find_recipient(tx, message_id, report) if message_id is not None else None
    if n is None and report.provider_message_id:
        wanted = {
            "provider": provider,
            "provider_message_id": report.provider_message_id,
        }
        row: Any = tx.one(sql.ATTEMPT_OF_PROVIDER, wanted)
        if row is not None:
            message_id, attempt = row
            n = _find_recipient(tx, message_id, report)
    if message_id is None or n is None:
        return None
    facts: Any = tx.one(sql.REPORT_FACTS, {"message_id": message_id, "n": n})
    state, address, newest, newest_provider, service, is_test = facts
    if report.cause is not None:
        if attempt is None:
            is_positive = report.cause in POSITIVE_EVIDENCE
            attempt = _find_attempt(
                tx,
                message_id,
                n,
                provider=provider,
                newest=(newest, newest_provider),
                is_positive=is_positive,
            )
        if not 1 <= attempt <= newest:
            return None  # no attempt of ours that is here (yet) went past its mark
    return _Subject(message_id, n, attempt or 0, State(state), address, service, bool(is_test))


def _find_recipient(tx: Tx, message_id: int | None, report: NewReport) -> int | None:
    """Return the number of the recipient that the report names."""
    rows: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": message_id})
    if report.n is not None:
        return next((n for n, _address, _state in rows if n == report.n), None)
    if not report.recipient:
        return int(rows[0][0]) if len(rows) == 1 else None
    wanted = report.recipient.lower()
    return next((n for n, address, _state in rows if address.lower() == wanted), None)


def _find_attempt(
    tx: Tx,
    message_id: int,
    n: int,
    *,
    provider: str,
    newest: tuple[int, str],
    is_positive: bool,
) -> int:
    """Return which attempt is meant where none is named; 0: none can be.

    Of several that went to this provider a bad report takes the oldest, so that it stops
    nothing: it may be about a copy that is not the last one.
    """
    rows: Any = tx.all(sql.REPORTABLE_ATTEMPTS, {"message_id": message_id})
    possible: set[tuple[int, str]] = {
        (number, of) for number, of, recipients in rows if n in json.loads(recipients or "[]")
    }
    if newest[0]:
        possible.add(newest)  # past its mark, and perhaps not settled yet
    numbers = sorted({number for number, of in possible if of == provider})
    # None: the next hop has another name since, or someone else reports for it (a DSN).
    numbers = numbers or sorted({number for number, _of in possible})
    if not numbers:
        return 0
    return numbers[-1] if is_positive else numbers[0]
