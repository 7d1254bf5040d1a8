"""Delivering: mark, settle, testify; what a later word about an attempt may change."""

from collections.abc import Collection, Mapping
from typing import Any

from emailerctl.models.clock import to_text
from emailerctl.models.lifecycle import (
    POSITIVE_EVIDENCE,
    Cause,
    Reason,
    State,
    WaitingFor,
)
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Kind, Outcome
from emailerctl.store import statements as sql
from emailerctl.store.base import (
    BOUNCE,
    DETAIL_CHARACTERS,
    AttemptResult,
    Claim,
    Settlement,
    Suppression,
)
from emailerctl.store.driver import Params, Tx
from emailerctl.store.steps import (
    Target,
    end_work_if_done,
    is_suppressed,
    is_working,
    requeue,
    set_doubt_timers,
    step,
    summarise,
    suppress,
    to_json,
    write_event,
)


def mark(
    tx: Tx,
    claim: Claim,
    accepted: Collection[int],
    *,
    provider: str,
    now_ms: int,
    boot_ms: int,
    final_reply_ms: int,
    grace_ms: int,
    may_expire: bool,
) -> bool:
    """Commit the point of no return for *accepted*, all or nothing."""
    open_ms = final_reply_ms + grace_ms
    if not tx.run(sql.MARK_WORK, to_mark_row(claim, now_ms, boot_ms, open_ms=open_ms)):
        return False  # the lease was lost: nothing may be sent
    barred = _find_barred(tx, claim, now_ms, may_expire=may_expire)
    if barred or not _are_queued(tx, claim, accepted):
        _refuse_mark(tx, claim, barred, now_ms)
        return False
    for recipient in claim.recipients:
        if recipient.n in accepted:
            step(
                tx,
                Target(claim.message_id, recipient.n, recipient.address, claim.service),
                Cause.MARKED,
                now_ms,
                expected=State.QUEUED,
                attempt=claim.attempt,
                marks_attempt=True,
                provider=provider,
            )
    is_simple = claim.is_whole and len(accepted) == len(claim.recipients)
    summarise(tx, claim.message_id, now_ms, {State.SENDING} if is_simple else ())
    return True


def to_mark_row(claim: Claim, now_ms: int, boot_ms: int, *, open_ms: int) -> Params:
    """Return the parameters of MARK_WORK; *open_ms*: how long an answer may still come."""
    return {
        "message_id": claim.message_id,
        "lease_token": claim.lease_token,
        "lease_until": boot_ms + open_ms,
        "open_until_at": now_ms + open_ms,
        "now": now_ms,
    }


def _find_barred(tx: Tx, claim: Claim, now_ms: int, *, may_expire: bool) -> dict[int, Reason]:
    """Return the recipients that must not go out any more, and why (F-CO-10)."""
    if may_expire and claim.expires_ms is not None and _is_expired(tx, claim, now_ms):
        return {recipient.n: Reason.EXPIRED for recipient in claim.recipients}
    return {
        recipient.n: Reason.SUPPRESSED
        for recipient in claim.recipients
        if is_suppressed(tx, recipient.address, claim.service, now_ms, is_list=claim.is_list)
    }


def _is_expired(tx: Tx, claim: Claim, now_ms: int) -> bool:
    """Look again: an operator may have given it more time since the claim."""
    row: Any = tx.one(sql.EXPIRY, {"message_id": claim.message_id})
    return row[0] is not None and row[0] <= now_ms


def _are_queued(tx: Tx, claim: Claim, accepted: Collection[int]) -> bool:
    states: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": claim.message_id})
    queued = {n for n, _address, state in states if state == State.QUEUED}
    return queued.issuperset(accepted)


def _refuse_mark(tx: Tx, claim: Claim, barred: Mapping[int, Reason], now_ms: int) -> None:
    """Abandon the barred, give the lease back; the rest is due now, no attempt is charged."""
    addresses = {recipient.n: recipient.address for recipient in claim.recipients}
    for n, reason in barred.items():
        target = Target(claim.message_id, n, addresses[n], claim.service)
        step(tx, target, Cause.ABANDONED, now_ms, expected=State.QUEUED, reason=reason)
    tx.run(
        sql.FREE,
        {
            "message_id": claim.message_id,
            "lease_token": claim.lease_token,
            "due_at": now_ms,
            "waiting_for": WaitingFor.READY,
        },
    )
    end_work_if_done(tx, claim.message_id)
    summarise(tx, claim.message_id, now_ms)
    tx.has_new_work = True


def settle(tx: Tx, claim: Claim, result: AttemptResult, now_ms: int) -> bool:
    """Write an attempt's result and give the lease back; False when it is no longer ours."""
    lease: Any = tx.one(
        sql.HELD_LEASE, {"message_id": claim.message_id, "lease_token": claim.lease_token}
    )
    if lease is None:
        return False
    open_until_ms = lease[0]
    after: dict[int, State] = {}
    for recipient in claim.recipients:
        settlement = result.settlements.get(recipient.n)
        if settlement is not None:
            after[recipient.n] = _settle_one(tx, claim, recipient, settlement, result, now_ms)
    if result.is_recorded:
        _write_attempt(tx, claim, result, now_ms, open_until_ms)
    if not (claim.is_whole and len(after) == len(claim.recipients)):
        _leave_rest(tx, claim, result, after, now_ms)
        return True
    if any(is_working(state) for state in after.values()):
        _release(tx, claim, result, due_ms=result.due_ms, waiting_for=result.waiting_for)
    else:
        tx.run(sql.END_WORK, {"message_id": claim.message_id})
    summarise(tx, claim.message_id, now_ms, after.values())
    return True


def _leave_rest(
    tx: Tx, claim: Claim, result: AttemptResult, after: Mapping[int, State], now_ms: int
) -> None:
    """Give the lease back where the message has recipients that this attempt did not settle.

    One that was queued meanwhile (released, retried) is due now, whatever the others wait for.
    """
    everyone: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": claim.message_id})
    states = {n: State(state) for n, _address, state in everyone}
    if any(states[n] is State.QUEUED for n in states.keys() - after.keys()):
        _release(tx, claim, result, due_ms=now_ms, waiting_for=WaitingFor.READY)
    elif any(is_working(state) for state in states.values()):
        _release(tx, claim, result, due_ms=result.due_ms, waiting_for=result.waiting_for)
    else:
        tx.run(sql.END_WORK, {"message_id": claim.message_id})
    summarise(tx, claim.message_id, now_ms, states.values())


def _release(
    tx: Tx, claim: Claim, result: AttemptResult, *, due_ms: int, waiting_for: WaitingFor
) -> None:
    tx.run(
        sql.GIVE_BACK,
        {
            "message_id": claim.message_id,
            "lease_token": claim.lease_token,
            "due_at": due_ms,
            "waiting_for": waiting_for,
            "next_hop": result.next_hop,
            "chain_index": result.chain_index,
            "schedule_step": result.schedule_step,
        },
    )
    tx.has_new_work = True


def _settle_one(
    tx: Tx,
    claim: Claim,
    recipient: EnvelopeRecipient,
    settlement: Settlement,
    result: AttemptResult,
    now_ms: int,
) -> State:
    outcome = settlement.outcome
    data: dict[str, object] = {}
    if outcome is not None and outcome.enhanced_status:
        data["enhanced_status"] = outcome.enhanced_status
    if _suppress_dead(tx, claim, recipient, settlement, result.provider, now_ms):
        data["suppressed"] = BOUNCE
    if settlement.cause is Cause.DEFERRED:
        data["due_at"] = to_text(result.due_ms)
        data["waiting_for"] = result.waiting_for
    state = step(
        tx,
        Target(claim.message_id, recipient.n, recipient.address, claim.service),
        settlement.cause,
        now_ms,
        expected=State.SENDING if recipient.n in result.marked else State.QUEUED,
        attempt=claim.attempt if result.is_recorded else None,
        provider=result.provider or None,
        reply=outcome.reply if outcome else None,
        reason=settlement.reason,
        data=data,
    )
    if state is State.UNKNOWN:
        set_doubt_timers(
            tx,
            claim.message_id,
            recipient.n,
            on_unknown=claim.on_unknown,
            expires_ms=claim.expires_ms,
            now_ms=now_ms,
            final_reply_ms=0,
            resend_at_ms=settlement.resend_at_ms,
        )
    return state


def _suppress_dead(
    tx: Tx,
    claim: Claim,
    recipient: EnvelopeRecipient,
    settlement: Settlement,
    provider: str,
    now_ms: int,
) -> bool:
    """Suppress an address that the next hop said is dead; False where it did not say so."""
    if not settlement.is_hard or settlement.outcome is None or claim.is_test:
        return False
    suppression = Suppression(
        address=recipient.address,
        service="",
        reason=BOUNCE,
        detail=settlement.outcome.reply[:DETAIL_CHARACTERS],
        created_ms=now_ms,
        expires_ms=None,
        actor="delivery",
        message_id=claim.message_id,
        provider=provider,
    )
    suppress(tx, suppression, replaces=False)
    return True


def _write_attempt(
    tx: Tx, claim: Claim, result: AttemptResult, now_ms: int, open_until_ms: int | None
) -> None:
    tx.run(sql.ADD_ATTEMPT, to_attempt_row(claim, result, now_ms, open_until_ms))


def to_attempt_row(
    claim: Claim, result: AttemptResult, now_ms: int, open_until_ms: int | None
) -> Params:
    """Return the parameters of ADD_ATTEMPT."""
    outcome = _find_telling(result.settlements)
    return {
        "message_id": claim.message_id,
        "n": claim.attempt,
        "provider": result.provider,
        "phase": result.phase.value,
        "outcome": outcome.kind.value,
        "code": outcome.code,
        "enhanced_status": outcome.enhanced_status,
        "reply": outcome.reply,
        "provider_message_id": outcome.provider_message_id,
        "started_at": result.started_ms,
        "ended_at": now_ms,
        "open_until_at": open_until_ms,
        "hash": claim.content_hash,
        "recipients": to_json(sorted(result.settlements)),
        "dialogue": result.dialogue,
        "route": result.route,
    }


_TELLING = (Kind.ACCEPTED, Kind.UNKNOWN, Kind.TRANSIENT, Kind.PERMANENT)


def _find_telling(settlements: Mapping[int, Settlement]) -> Outcome:
    """Return the outcome that stands for the attempt: what matters most about second copies."""
    outcomes = [s.outcome for s in settlements.values() if s.outcome is not None]
    return min(outcomes, key=lambda outcome: _TELLING.index(outcome.kind))


_EVIDENCE = {
    Cause.HANDED_OVER: Cause.RESOLVED_SENT,
    Cause.REFUSED: Cause.REFUSED,
    Cause.ABANDONED: Cause.ABANDONED,
    Cause.DEFERRED: Cause.RESOLVED_NOT_SENT,
}


def testify(tx: Tx, claim: Claim, result: AttemptResult, now_ms: int) -> None:
    """Write a late answer to a lost lease: keyed by the attempt, stepping as evidence may."""
    _write_attempt(tx, claim, result, now_ms, None)
    is_queued_again = False
    for recipient in claim.recipients:
        settlement = result.settlements.get(recipient.n)
        if settlement is None or settlement.outcome is None or recipient.n not in result.marked:
            continue
        cause = _EVIDENCE.get(settlement.cause)
        if cause is None:
            continue  # still no answer: no evidence
        is_dead = _suppress_dead(tx, claim, recipient, settlement, result.provider, now_ms)
        state = apply_evidence(
            tx,
            claim.message_id,
            recipient.n,
            cause,
            attempt=claim.attempt,
            now_ms=now_ms,
            provider=result.provider,
            reply=settlement.outcome.reply,
            reason=settlement.reason,
            data={"suppressed": BOUNCE} if is_dead else None,
        )
        is_queued_again |= cause is Cause.RESOLVED_NOT_SENT and state is State.QUEUED
    if is_queued_again:
        requeue(
            tx,
            claim.message_id,
            due_ms=result.due_ms,
            waiting_for=result.waiting_for,
            priority=claim.priority,
            age_from_ms=claim.age_from_ms,
        )
    end_work_if_done(tx, claim.message_id)
    summarise(tx, claim.message_id, now_ms)


def apply_evidence(
    tx: Tx,
    message_id: int,
    n: int,
    cause: Cause,
    *,
    attempt: int,
    now_ms: int,
    provider: str = "",
    reply: str = "",
    reason: Reason | None = None,
    data: Mapping[str, object] | None = None,
) -> State | None:
    """Step on a later word about an attempt; None where there is no such recipient.

    Only an attempt past its mark has evidence.  Positive counts for any of them, negative only
    for the newest, and is an event with from = to otherwise.
    """
    row: Any = tx.one(sql.RECIPIENT, {"message_id": message_id, "n": n})
    if row is None:
        return None
    state, address, newest, service = State(row[0]), row[1], row[2], row[3]
    target = Target(message_id, n, address, service)
    is_marked = 1 <= attempt <= newest
    if not is_marked or (cause not in POSITIVE_EVIDENCE and attempt != newest):
        note = "about an earlier attempt" if is_marked else "about no attempt of ours"
        write_event(
            tx,
            f"recipient.{cause}",
            now_ms,
            message_id=message_id,
            n=n,
            address=address,
            service=service,
            states=(state, state),
            attempt=attempt,
            provider=provider or None,
            reply=reply or None,
            data={"note": note, **(data or {})},
        )
        return state
    return step(
        tx,
        target,
        cause,
        now_ms,
        expected=state,
        attempt=attempt,
        provider=provider or None,
        reply=reply or None,
        reason=reason,
        data=data,
    )
