"""One step of one recipient, and what every step writes: state, event, summary, timers.

Functions of a transaction; `sqlstore` runs them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from emailerctl.models.event import RECIPIENT, Event
from emailerctl.models.lifecycle import (
    WORKING,
    Cause,
    OnUnknown,
    Reason,
    State,
    advance,
    fold,
    resend_wait_ms,
    sources,
)
from emailerctl.store import statements as sql
from emailerctl.store.base import Suppression
from emailerctl.store.driver import Tx

RESEND = "resend"
EXPIRE = "expire"

_encode = msgspec.json.Encoder().encode


def to_json(value: object) -> str | None:
    """Return *value* as JSON, or None where it is empty."""
    return _encode(value).decode() if value else None


@dataclass(frozen=True, slots=True)
class Target:
    """A recipient about to step, and what is known of it."""

    message_id: int
    n: int
    address: str
    service: str


def write_event(
    tx: Tx,
    type_: str,
    now_ms: int,
    *,
    message_id: int | None = None,
    n: int | None = None,
    address: str | None = None,
    service: str | None = None,
    states: tuple[State | None, State | None] = (None, None),
    attempt: int | None = None,
    provider: str | None = None,
    reply: str | None = None,
    data: Mapping[str, object] | None = None,
) -> None:
    """Write one event; it is published after the commit."""
    from_state, to_state = states
    seq = tx.insert(
        sql.ADD_EVENT,
        {
            "type": type_,
            "at": now_ms,
            "message_id": message_id,
            "n": n,
            "from_state": from_state,
            "to_state": to_state,
            "attempt": attempt,
            "provider": provider,
            "reply": reply,
            "data": to_json(data),
        },
    )
    tx.events.append(
        Event(
            seq=seq,
            type=type_,
            at_ms=now_ms,
            message_id=message_id,
            recipient=address,
            from_state=from_state,
            to_state=to_state,
            attempt=attempt,
            provider=provider,
            service=service,
            reply=reply,
            data=data or {},
        )
    )


def step(
    tx: Tx,
    target: Target,
    cause: Cause,
    now_ms: int,
    *,
    expected: State,
    attempt: int | None = None,
    marks_attempt: bool = False,
    provider: str | None = None,
    reply: str | None = None,
    reason: Reason | None = None,
    data: Mapping[str, object] | None = None,
) -> State:
    """Step one recipient as the life cycle allows, write the event, return the state after.

    *expected* is where the caller believes it to be; a state that has meanwhile changed is read
    again, and a cause that the table does not allow there is an event with from = to.
    """
    params: dict[str, object] = {
        "message_id": target.message_id,
        "n": target.n,
        "attempt": attempt if marks_attempt else None,
        "provider": provider,
        "reply": reply,
        "reason": reason,
        "now": now_ms,
    }
    before, after = expected, advance(expected, cause)
    if not _transition(tx, params, before, after, cause):
        row = tx.one(sql.RECIPIENT, {"message_id": target.message_id, "n": target.n})
        if row is None:
            return expected
        before = State(cast("str", row[0]))
        after = advance(before, cause)
        _transition(tx, params, before, after, cause)
    if reason is not None and after is not before:
        data = {"reason": reason, **(data or {})}
    write_event(
        tx,
        RECIPIENT[cause],
        now_ms,
        message_id=target.message_id,
        n=target.n,
        address=target.address,
        service=target.service,
        states=(before, after),
        attempt=attempt,
        provider=provider,
        reply=reply,
        data=data,
    )
    return after


def _transition(
    tx: Tx, params: dict[str, object], before: State, after: State, cause: Cause
) -> bool:
    # A step of the table that leads back to the same state writes the row all the same.
    if before is after and before not in sources(cause):
        return False  # nothing to write; the caller reads the row again
    return tx.run(sql.TRANSITION, {**params, "from_state": before, "to_state": after}) == 1


def summarise(tx: Tx, message_id: int, now_ms: int, states: Iterable[State] = ()) -> None:
    """Write the message's fold; *states* are those of all its recipients, where known."""
    present = set(states)
    if not present:
        rows = tx.all(sql.RECIPIENT_STATES, {"message_id": message_id})
        present = {State(cast("str", row[2])) for row in rows}
    tx.run(sql.SUMMARISE, {"message_id": message_id, "state": fold(present), "now": now_ms})


def end_work_if_done(tx: Tx, message_id: int) -> bool:
    """Remove the row of work where no recipient is queued or sending (I10)."""
    row = tx.one(sql.WORKING_RECIPIENTS, {"message_id": message_id})
    if row is not None and row[0]:
        return False
    tx.run(sql.END_WORK, {"message_id": message_id})
    return True


def requeue(
    tx: Tx, message_id: int, *, due_ms: int, waiting_for: str, priority: int, age_from_ms: int
) -> None:
    """Make sure that there is work for a message that has a queued recipient again.

    Args:
        tx: the transaction.
        message_id: whose work.
        due_ms: at the latest; work that is due earlier stays so.
        waiting_for: what for, unless it is due earlier.
        priority: of the message.
        age_from_ms: since when `max_age` counts.
    """
    tx.run(
        sql.REQUEUE,
        {
            "message_id": message_id,
            "priority": priority,
            "due_at": due_ms,
            "waiting_for": waiting_for,
            "age_from": age_from_ms,
        },
    )
    tx.has_new_work = True


def set_doubt_timers(
    tx: Tx,
    message_id: int,
    n: int,
    *,
    on_unknown: OnUnknown,
    expires_ms: int | None,
    now_ms: int,
    final_reply_ms: int,
    resend_at_ms: int | None = None,
) -> None:
    """Remember what must happen later to an unknown recipient: resend, expiry."""
    if on_unknown is OnUnknown.RESEND:
        at = resend_at_ms
        if at is None:
            at = now_ms + resend_wait_ms(final_reply_ms, expires_ms=expires_ms, now_ms=now_ms)
        set_timer(tx, message_id, n, RESEND, at)
    if expires_ms is not None:
        set_timer(tx, message_id, n, EXPIRE, expires_ms)


def set_timer(tx: Tx, message_id: int, n: int, what: str, at_ms: int) -> None:
    """Remember that *what* must happen to a recipient at *at_ms*."""
    tx.run(sql.ADD_TIMER, {"message_id": message_id, "n": n, "what": what, "at": at_ms})


def is_working(state: State) -> bool:
    """Return whether a recipient in *state* needs a row of work."""
    return state in WORKING


def has_suppressions(tx: Tx) -> bool:
    """Return whether any address is suppressed: one look-up a group of commits."""
    some = tx.memo.get("has_suppressions")
    if some is None:
        row = tx.one(sql.HAS_SUPPRESSIONS)
        some = tx.memo["has_suppressions"] = bool(row and row[0])
    return bool(some)


def is_suppressed(tx: Tx, address: str, service: str, now_ms: int, *, is_list: bool) -> bool:
    """Return whether *address* is suppressed for *service*; free while the list is empty.

    *is_list*: for a message with `list_unsubscribe`, which complaints and unsubscribes stop.
    """
    if not has_suppressions(tx):
        return False
    found = tx.one(
        sql.IS_SUPPRESSED,
        {
            "address": address.lower(),
            "service": service,
            "is_list": int(is_list),
            "now": now_ms,
        },
    )
    return found is not None


def are_some_suppressed(tx: Tx, addresses: Iterable[str]) -> bool:
    """Return whether any of *addresses* is on the list, for whatever: one look for many."""
    if not has_suppressions(tx):
        return False
    wanted = to_json([address.lower() for address in addresses])
    return tx.one(sql.ANY_SUPPRESSED, {"addresses": wanted or "[]"}) is not None


def suppress(tx: Tx, suppression: Suppression, *, replaces: bool) -> bool:
    """Enter a suppression; False where one stands that ends no sooner, and is not replaced."""
    tx.memo.pop("has_suppressions", None)
    return (
        tx.run(
            sql.SUPPRESS,
            {
                "address": suppression.address.lower(),
                "service": suppression.service,
                "blocks": suppression.blocks,
                "reason": suppression.reason,
                "detail": suppression.detail,
                "created_at": suppression.created_ms,
                "expires_at": suppression.expires_ms,
                "actor": suppression.actor,
                "message_id": suppression.message_id,
                "provider": suppression.provider,
                "replaces": int(replaces),
            },
        )
        == 1
    )
