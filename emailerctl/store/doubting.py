"""Doubts: who is asked about an attempt that was never answered, and what the answer changes.

One process asks at a time: it takes the doubt by moving its timer to when somebody else may
try, should it die.  Nothing here is trusted to happen once: a request is repeated only with the
key of the first, and every step is guarded by what is true at its commit.
"""

import json
from collections.abc import Mapping
from typing import Any

from emailerctl.models.event import RECIPIENT_ASKED, RECIPIENT_REPLAYED
from emailerctl.models.lifecycle import Cause, OnUnknown, State, WaitingFor
from emailerctl.models.message import EnvelopeRecipient, Priority
from emailerctl.models.outcome import Kind
from emailerctl.store import statements as sql
from emailerctl.store.base import Answered, Conclusion, Doubt
from emailerctl.store.claiming import find_pause
from emailerctl.store.delivering import apply_evidence
from emailerctl.store.driver import Tx
from emailerctl.store.rows import read_tags
from emailerctl.store.steps import (
    end_work_if_done,
    is_suppressed,
    requeue,
    summarise,
    write_event,
)

_ROWS = 50  # a message has so many recipients at most, each with a timer of its own


def take(tx: Tx, next_hop: str, now_ms: int, until_ms: int, limit: int) -> list[Doubt]:
    """Give what a next hop is to be asked about now to one process, until *until_ms*."""
    doubts: list[Doubt] = []
    wanted = {"next_hop": next_hop, "now": now_ms, "limit": limit, "rows": limit * _ROWS}
    due: Any = tx.all(sql.DUE_ASKS, wanted)
    for message_id, attempt, state in due:
        doubt = _find(tx, message_id, attempt) if state == State.UNKNOWN else None
        if doubt is None:
            tx.run(sql.END_IDLE_ASKS, {"message_id": message_id})
            continue
        _put_off(tx, doubt, until_ms)
        doubts.append(doubt)
    return doubts


def find_hops(tx: Tx, now_ms: int) -> list[str]:
    """Return the next hops that are to be asked now; an empty name stands for all."""
    return [str(row[0]) for row in tx.all(sql.HOPS_TO_ASK, {"now": now_ms})]


def _find(tx: Tx, message_id: int, attempt: int) -> Doubt | None:
    wanted = {"message_id": message_id, "attempt": attempt}
    facts: Any = tx.one(sql.DOUBT_FACTS, wanted)
    doubtful: Any = tx.all(sql.DOUBTFUL, wanted)
    if facts is None or not doubtful or (facts[9] is None and doubtful[0][3]):
        tx.run(sql.END_ASKS, wanted)
        return None
    carried: Any = tx.all(sql.CARRIED, wanted)
    resend_at = [row[2] for row in doubtful if row[2] is not None]
    is_restored = any(not row[3] for row in doubtful)
    return Doubt(
        message_id=message_id,
        attempt=attempt,
        recipients=tuple(EnvelopeRecipient(row[0], row[1]) for row in doubtful),
        carried=tuple(EnvelopeRecipient(row[0], row[1]) for row in carried),
        service=facts[0],
        expires_ms=facts[1],
        priority=Priority(facts[2]),
        on_unknown=OnUnknown(facts[3]),
        envelope_sender=facts[4],
        header_from=facts[5],
        needs_smtputf8=bool(facts[6]),
        tags=read_tags(facts[7]),
        metadata=json.loads(facts[8]) if facts[8] else {},
        provider="" if is_restored else facts[9],
        since_ms=facts[19] if is_restored else facts[10],
        doubted_ms=min(row[4] for row in doubtful),
        is_restored=is_restored,
        ended_ms=facts[11],
        open_until_ms=facts[12],
        boot_id=facts[13],
        marked_boot_ms=facts[14],
        account=facts[15] or "",
        asked=facts[16],
        replayed=facts[17],
        replayed_boot_ms=facts[18],
        resend_at_ms=min(resend_at, default=None),
    )


def _put_off(tx: Tx, doubt: Doubt, at_ms: int) -> None:
    tx.run(
        sql.SET_ASKS,
        {"message_id": doubt.message_id, "attempt": doubt.attempt, "at": at_ms},
    )


def mark_replay(
    tx: Tx, doubt: Doubt, *, now_ms: int, boot_ms: int, open_ms: int, may_expire: bool
) -> bool:
    """Commit that the request of an unanswered attempt leaves again, with its key."""
    wanted = {"message_id": doubt.message_id, "attempt": doubt.attempt}
    carried: Any = tx.all(sql.CARRIED, wanted)
    is_all_in_doubt = carried and all(
        state == State.UNKNOWN and attempt == doubt.attempt
        for _n, _address, state, attempt in carried
    )
    if not is_all_in_doubt or find_pause(tx, now_ms) is not None:
        return False
    expiry: Any = tx.one(sql.EXPIRY, {"message_id": doubt.message_id})
    if may_expire and expiry[0] is not None and expiry[0] <= now_ms:
        return False
    row: Any = tx.one(sql.LIST_UNSUBSCRIBE, {"message_id": doubt.message_id})
    if any(
        is_suppressed(tx, address, doubt.service, now_ms, is_list=bool(row[0]))
        for _n, address, _state, _attempt in carried
    ):
        return False
    marked = tx.run(
        sql.MARK_REPLAY,
        {
            **wanted,
            "replayed": doubt.replayed,
            "boot": boot_ms,
            "open_until_at": now_ms + open_ms,
        },
    )
    if not marked:
        return False  # somebody else repeated it, or it was answered
    for n, address, _state, _attempt in carried:
        write_event(
            tx,
            RECIPIENT_REPLAYED,
            now_ms,
            message_id=doubt.message_id,
            n=n,
            address=address,
            service=doubt.service,
            states=(State.UNKNOWN, State.UNKNOWN),
            attempt=doubt.attempt,
            provider=doubt.provider,
        )
    return True


def conclude(
    tx: Tx,
    doubt: Doubt,
    conclusions: Mapping[int, Conclusion],
    answers: Mapping[int, Answered],
    *,
    next_ms: int | None,
    now_ms: int,
) -> None:
    """Write what was learnt; who stays in doubt is asked about at *next_ms*, or no more."""
    wanted = {"message_id": doubt.message_id, "attempt": doubt.attempt}
    ids = [c.provider_message_id for c in conclusions.values() if c.provider_message_id]
    if conclusions or any(answer.by for answer in answers.values()):
        tx.run(sql.NOTE_ASKED, {**wanted, "provider_message_id": ids[0] if ids else ""})
    for n, answer in answers.items():
        _note(tx, doubt, n, answer, now_ms)
    is_queued_again = False
    for n, conclusion in conclusions.items():
        is_queued_again |= _apply(tx, doubt, n, conclusion, now_ms)
    if next_ms is None:
        tx.run(sql.END_ASKS, wanted)
    else:
        _put_off(tx, doubt, next_ms)
    if is_queued_again:
        age_from: Any = tx.one(sql.AGE_FROM, {"message_id": doubt.message_id})
        requeue(
            tx,
            doubt.message_id,
            due_ms=now_ms,
            waiting_for=WaitingFor.READY,
            priority=doubt.priority,
            age_from_ms=age_from[0],
        )
    end_work_if_done(tx, doubt.message_id)
    summarise(tx, doubt.message_id, now_ms)


def _note(tx: Tx, doubt: Doubt, n: int, answer: Answered, now_ms: int) -> None:
    """Keep the last answer about who is in doubt; the log has each new one once."""
    wanted = {"message_id": doubt.message_id, "n": n, "attempt": doubt.attempt}
    row: Any = tx.one(sql.ANSWERED, wanted)
    if row is None:
        return
    asked_ms = now_ms if answer.by else None
    tx.run(
        sql.NOTE_ANSWER,
        {
            "message_id": doubt.message_id,
            "n": n,
            "asked_at": asked_ms,
            "answer": answer.text,
        },
    )
    if not answer.by or answer.text == row[0]:
        return
    write_event(
        tx,
        RECIPIENT_ASKED,
        now_ms,
        message_id=doubt.message_id,
        n=n,
        address=row[1],
        service=doubt.service,
        states=(State.UNKNOWN, State.UNKNOWN),
        attempt=doubt.attempt or None,
        provider=doubt.provider or None,
        data={"by": answer.by, "answer": answer.text},
    )


def _apply(tx: Tx, doubt: Doubt, n: int, conclusion: Conclusion, now_ms: int) -> bool:
    """Step one recipient; return whether it is queued again."""
    row: Any = tx.one(sql.RECIPIENT, {"message_id": doubt.message_id, "n": n})
    is_no = conclusion.cause is Cause.RESOLVED_NOT_SENT
    if row is None or (is_no and row[0] != State.UNKNOWN):
        return False  # an operator or a report was faster
    if conclusion.attempt != doubt.attempt or doubt.is_restored:
        which = {"message_id": doubt.message_id, "attempt": conclusion.attempt}
        outcome: Any = tx.one(sql.ATTEMPT_OUTCOME, which)
        is_lost = outcome is None and doubt.is_restored  # an attempt after the backup
        if not is_lost and (outcome is None or outcome[0] != Kind.UNKNOWN):
            return False  # what it had was known before somebody sent it again
    if conclusion.code is not None:
        tx.run(
            sql.ANSWER_ATTEMPT,
            {
                "message_id": doubt.message_id,
                "attempt": conclusion.attempt,
                "code": conclusion.code,
                "reply": conclusion.reply,
                "now": now_ms,
            },
        )
    state = apply_evidence(
        tx,
        doubt.message_id,
        n,
        conclusion.cause,
        attempt=conclusion.attempt,
        now_ms=now_ms,
        provider=doubt.provider or conclusion.provider,
        reply=conclusion.reply,
        data=conclusion.evidence,
        replayed=doubt.replayed,
    )
    if state is not State.UNKNOWN:
        tx.run(sql.END_TIMERS, {"message_id": doubt.message_id, "n": n})
    return is_no and state is State.QUEUED
