"""The operator's verbs (product.md §4.1), and the sweep that does what fell due."""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from emailerctl.errors import Conflict, ContentGone, Fault, Invalid, NotFound, TooEarly
from emailerctl.models.clock import to_text
from emailerctl.models.event import RECIPIENT_EXPIRED, operator
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor, sources
from emailerctl.store import reading
from emailerctl.store import statements as sql
from emailerctl.store.base import Order, OrderResult, Resolution, Verb
from emailerctl.store.driver import Tx
from emailerctl.store.steps import (
    EXPIRE,
    RESEND,
    Target,
    end_work_if_done,
    requeue,
    set_timer,
    step,
    summarise,
    write_event,
)

_CAUSES = {
    (Verb.CANCEL, None): Cause.CANCELLED,
    (Verb.HOLD, None): Cause.HELD,
    (Verb.RELEASE, None): Cause.RELEASED,
    (Verb.RETRY, None): Cause.RETRIED,
    (Verb.RESOLVE, Resolution.SENT): Cause.RESOLVED_SENT,
    (Verb.RESOLVE, Resolution.NOT_SENT): Cause.RESOLVED_NOT_SENT,
    (Verb.RESOLVE, Resolution.RESEND): Cause.RESENT,
}

# These put a recipient into the queue, so there must be something to send.
_QUEUING = frozenset({Cause.RELEASED, Cause.RETRIED, Cause.RESOLVED_NOT_SENT, Cause.RESENT})
_ENDING_DOUBT = frozenset({Cause.RESOLVED_NOT_SENT, Cause.RESENT})

_TIMERS_AT_ONCE = 500


def obey(tx: Tx, order: Order, now_ms: int) -> OrderResult:
    """Carry out an operator's order."""
    facts: Any = tx.one(sql.ORDER_FACTS, {"message_id": order.message_id})
    if facts is None or order.service not in (None, facts[0]):
        raise NotFound(f"there is no message {to_public(MESSAGE, order.message_id)}")
    service, expires_ms, priority, _from, send_at_ms = facts
    if order.verb is Verb.RESCHEDULE:
        return _reschedule(tx, order, service, expires_ms, now_ms)
    cause = _CAUSES[order.verb, order.resolution]
    everyone: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": order.message_id})
    fitting = _choose(order, cause, everyone)
    _check_possible(tx, order, cause, fitting, expires_ms, now_ms)
    if order.expires_ms is not None:
        expires_ms = order.expires_ms
        tx.run(sql.SET_EXPIRY, {"message_id": order.message_id, "expires_at": expires_ms})
    for n, address, state in fitting:
        target = Target(order.message_id, n, address, service)
        step(
            tx,
            target,
            cause,
            now_ms,
            expected=State(state),
            data={"actor": order.actor, **({"reason": order.reason} if order.reason else {})},
        )
        tx.run(sql.END_TIMERS, {"message_id": order.message_id, "n": n})
        if cause is Cause.HELD and expires_ms is not None:
            set_timer(tx, order.message_id, n, EXPIRE, expires_ms)
    if cause in _QUEUING:
        # What is let go before its time waits for that; every other verb means now.
        due_ms = max(now_ms, send_at_ms or 0) if cause is Cause.RELEASED else now_ms
        requeue(
            tx,
            order.message_id,
            due_ms=due_ms,
            waiting_for=WaitingFor.READY if due_ms <= now_ms else WaitingFor.SEND_AT,
            priority=priority,
            age_from_ms=due_ms,
        )
    end_work_if_done(tx, order.message_id)
    summarise(tx, order.message_id, now_ms)
    _write_audit(tx, order, [n for n, _address, _state in fitting], service, now_ms)
    return _build_result(tx, order, [n for n, _address, _state in fitting])


def _build_result(tx: Tx, order: Order, changed: Sequence[int]) -> OrderResult:
    view = reading.load_message(tx, order.message_id)
    return OrderResult(
        message_id=order.message_id,
        state=view.state,
        recipients=view.recipients,
        changed=tuple(changed),
    )


def _reschedule(
    tx: Tx, order: Order, service: str, expires_ms: int | None, now_ms: int
) -> OrderResult:
    """Set another time for what is queued; its Date says so where nothing has left yet.

    Raises:
        Conflict: nothing is queued, it is being handed over, or it would expire before.
    """
    everyone: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": order.message_id})
    queued = [n for n, _address, state in everyone if state == State.QUEUED]
    if not queued:
        raise Conflict(
            "reschedule fits queued; here " + ", ".join(f"{a} is {s}" for _, a, s in everyone),
            recipients=[{"address": a, "state": s} for _, a, s in everyone],
        )
    due_ms = max(order.send_at_ms or 0, now_ms)
    if expires_ms is not None and expires_ms <= due_ms:
        raise Conflict(
            f"it expires at {to_text(expires_ms)}, before it would be due",
            hint="name an earlier time, or cancel it and send it anew",
        )
    times = {"message_id": order.message_id, "due_at": due_ms}
    waiting_for = WaitingFor.READY if due_ms <= now_ms else WaitingFor.SEND_AT
    if not tx.run(sql.RESCHEDULE, {**times, "waiting_for": waiting_for}):
        raise Conflict(
            "it is being handed over at this moment",
            hint="look at it again in a minute: emailerctl show ID",
        )
    tx.run(sql.SET_SEND_AT, times)
    _redate(tx, order)
    tx.has_new_work = True
    _write_audit(tx, order, queued, service, now_ms)
    return _build_result(tx, order, queued)


def _redate(tx: Tx, order: Order) -> None:
    """Write the new Date into the bytes, unless an attempt has shown them to somebody (I6)."""
    wanted = {"message_id": order.message_id}
    raw: Any = tx.one(sql.RAW, wanted)
    if raw is None or tx.one(sql.HAS_ATTEMPT, wanted) or not raw[0].startswith(b"Date: "):
        return
    dated = order.date_field + raw[0][raw[0].index(b"\n") + 1 :]
    tx.run(sql.SET_RAW, {**wanted, "raw": dated})
    tx.run(
        sql.SET_HASH,
        {**wanted, "content_hash": sha256(dated).digest(), "size_bytes": len(dated)},
    )


def _choose(order: Order, cause: Cause, everyone: Any) -> list[tuple[int, str, str]]:
    """Return the recipients that the order names and fits.

    Raises:
        Invalid: it names somebody who is not a recipient.
        Conflict: it fits nobody.
    """
    named = everyone
    if order.addresses is not None:
        wanted = {address.lower(): address for address in order.addresses}
        named = [row for row in everyone if row[1].lower() in wanted]
        strangers = set(wanted) - {row[1].lower() for row in named}
        if strangers:
            raise Invalid(
                Fault("/recipients", f"{wanted[stranger]!r} is not a recipient of this message")
                for stranger in sorted(strangers)
            )
    legal = sources(cause)
    if cause in (Cause.RESOLVED_SENT, *_ENDING_DOUBT):
        legal = frozenset({State.UNKNOWN})
    fitting = [row for row in named if State(row[2]) in legal]
    if not fitting:
        raise Conflict(
            f"{order.verb} fits {_names(legal)}; here "
            + ", ".join(f"{a} is {s}" for _, a, s in named),
            hint=_suggest(order, {State(row[2]) for row in named}),
            recipients=[{"address": a, "state": s} for _, a, s in named],
        )
    return fitting


def _names(states: frozenset[State]) -> str:
    return " or ".join(sorted(states))


def _suggest(order: Order, states: set[State]) -> str:
    """Return what the operator may have meant."""
    public = to_public(MESSAGE, order.message_id)
    if order.verb is Verb.RETRY and State.UNKNOWN in states:
        return (
            "it may have gone out; to accept a second copy knowingly: "
            f"emailerctl unknown resend {public}"
        )
    if order.verb is Verb.RETRY and states & {State.SENT, State.DELIVERED}:
        return f"it went out; to send it once more: emailerctl send --like {public}"
    return ""


def _check_possible(
    tx: Tx,
    order: Order,
    cause: Cause,
    fitting: Sequence[tuple[int, str, str]],
    expires_ms: int | None,
    now_ms: int,
) -> None:
    if cause in _QUEUING and tx.one(sql.HAS_RAW, {"message_id": order.message_id}) is None:
        raise ContentGone("the content of this message was removed: there is nothing to send")
    effective_ms = order.expires_ms if order.expires_ms is not None else expires_ms
    if cause in _QUEUING and effective_ms is not None and effective_ms <= now_ms:
        raise Conflict(
            f"it expired at {to_text(effective_ms)}",
            hint="give a new expiry: expires_in (--expires-in 1h)",
        )
    if cause not in _ENDING_DOUBT or (order.is_forced and order.reason):
        return
    if order.is_forced:
        raise Invalid([Fault("/reason", "forcing needs a reason, which is kept")])
    open_until_ms = max(
        (_find_open_until(tx, order.message_id, n) for n, _address, _state in fitting),
        default=0,
    )
    if open_until_ms > now_ms:
        raise TooEarly(
            f"an answer may still come until {to_text(open_until_ms)}; "
            "deciding now could make a second copy",
            open_until=to_text(open_until_ms),
        )


def _find_open_until(tx: Tx, message_id: int, n: int) -> int:
    row: Any = tx.one(sql.RECIPIENT, {"message_id": message_id, "n": n})
    attempt: Any = tx.one(sql.OPEN_UNTIL, {"message_id": message_id, "attempt": row[2]})
    return (attempt[0] or 0) if attempt else 0


def _write_audit(tx: Tx, order: Order, changed: list[int], service: str, now_ms: int) -> None:
    data: dict[str, object] = {"actor": order.actor, "recipients": changed}
    if order.reason:
        data["reason"] = order.reason
    if order.send_at_ms is not None:
        data["send_at"] = to_text(order.send_at_ms)
    if order.resolution is not None:
        data["outcome"] = order.resolution
    if order.is_forced:
        data["is_forced"] = True
    write_event(
        tx,
        operator(order.verb),
        now_ms,
        message_id=order.message_id,
        service=service,
        data=data,
    )


def sweep(
    tx: Tx, *, hops: Sequence[str] | None, now_ms: int, max_age_ms: int, may_expire: bool
) -> int:
    """Do what fell due: resend unknowns by policy, expire, adopt work of removed next hops."""
    due = _find_timers(tx, now_ms, _TIMERS_AT_ONCE, may_expire=may_expire)
    for message_id, n, what in due:
        tx.run(sql.END_TIMER, {"message_id": message_id, "n": n, "what": what})
        _fire(tx, message_id, n, what, now_ms, max_age_ms)
    done = len(due)
    if hops is not None:
        done += tx.run(sql.ADOPT_ORPHANS, {"hops": _to_names(hops)})
    return done


def has_something_due(
    tx: Tx, hops: Sequence[str] | None, now_ms: int, *, may_expire: bool
) -> bool:
    """Return whether a sweep would find a timer or an orphan."""
    if _find_timers(tx, now_ms, 1, may_expire=may_expire):
        return True
    return hops is not None and tx.one(sql.ORPHAN, {"hops": _to_names(hops)}) is not None


def _to_names(hops: Sequence[str]) -> str:
    return json.dumps(["", *hops])


def _find_timers(tx: Tx, now_ms: int, limit: int, *, may_expire: bool) -> Any:
    """Return what fell due; after a jump of the clock nothing expires for a while (F-CL-01)."""
    params = {"now": now_ms, "limit": limit, "may_expire": int(may_expire)}
    return tx.all(sql.DUE_TIMERS, params)


def _fire(tx: Tx, message_id: int, n: int, what: str, now_ms: int, max_age_ms: int) -> None:
    row: Any = tx.one(sql.RECIPIENT, {"message_id": message_id, "n": n})
    if row is None:
        return
    state, address, _attempt, service, expires_ms, on_unknown = row
    target = Target(message_id, n, address, service)
    if what == RESEND and state == State.UNKNOWN and on_unknown == OnUnknown.RESEND:
        _resend(tx, target, expires_ms, now_ms, max_age_ms)
    elif what == EXPIRE and expires_ms is not None and expires_ms > now_ms:
        set_timer(tx, message_id, n, EXPIRE, expires_ms)  # an operator gave it more time
    elif what == EXPIRE and state == State.HELD:
        step(tx, target, Cause.ABANDONED, now_ms, expected=State.HELD, reason=Reason.EXPIRED)
        summarise(tx, message_id, now_ms)
    elif what == EXPIRE and state == State.UNKNOWN:
        write_event(
            tx,
            RECIPIENT_EXPIRED,
            now_ms,
            message_id=message_id,
            n=n,
            address=address,
            service=service,
            states=(State.UNKNOWN, State.UNKNOWN),
        )


def _resend(
    tx: Tx, target: Target, expires_ms: int | None, now_ms: int, max_age_ms: int
) -> None:
    """Queue an unknown again by policy; it ends at its expiry or max_age and stays unknown."""
    view = reading.load_message(tx, target.message_id)
    age_from: Any = tx.one(sql.AGE_FROM, {"message_id": target.message_id})
    is_over = expires_ms is not None and expires_ms <= now_ms
    is_old = now_ms - age_from[0] >= max_age_ms
    if is_over or is_old or not view.has_content:
        return
    step(
        tx,
        target,
        Cause.RESENT,
        now_ms,
        expected=State.UNKNOWN,
        data={"actor": "policy"},
    )
    requeue(
        tx,
        target.message_id,
        due_ms=now_ms,
        waiting_for=WaitingFor.READY,
        priority=view.priority,
        age_from_ms=age_from[0],
    )
    summarise(tx, target.message_id, now_ms)
