"""Acceptance: one message, its recipients, key, work and events, all or nothing."""

from collections.abc import Sequence
from typing import cast

from emailerctl.errors import EmailerError, RecipientRate, Unauthorized
from emailerctl.models.event import MESSAGE_ACCEPTED, RECIPIENT
from emailerctl.models.ids import TOKEN, to_public
from emailerctl.models.lifecycle import Cause, Reason, State, fold
from emailerctl.models.message import NewMessage, Receipt, RecipientView
from emailerctl.store import reading
from emailerctl.store import statements as sql
from emailerctl.store.base import IdTaken, NotAllAdded
from emailerctl.store.driver import Params, Tx
from emailerctl.store.steps import is_suppressed, to_json, write_event

TOKEN_EPOCH = "token_epoch"


def add(tx: Tx, message: NewMessage, now_ms: int) -> Receipt:
    """Store *message*, or return the earlier one that its key belongs to."""
    _check_token(tx, message, now_ms)
    if message.key_hash is not None:
        key = {"key_hash": message.key_hash, "message_id": message.message_id}
        if not tx.run(sql.ADD_KEY, key):
            replay = find_by_key(tx, message.key_hash)
            if replay is not None:
                return replay
    _check_rate(tx, message, now_ms)
    _count_rate(tx, message, now_ms)
    return _write(tx, message, _find_suppressed(tx, message, now_ms), now_ms)


def rehearse(tx: Tx, message: NewMessage, now_ms: int) -> Receipt:
    """Return what `add` would, and write nothing."""
    _check_token(tx, message, now_ms)
    if message.key_hash is not None:
        replay = find_by_key(tx, message.key_hash)
        if replay is not None:
            return replay
    _check_rate(tx, message, now_ms)
    suppressed = _find_suppressed(tx, message, now_ms)
    views = tuple(
        _build_view(message, n, is_suppressed=n in suppressed, now_ms=now_ms)
        for n in range(1, len(message.recipients) + 1)
    )
    return _build_receipt(message, fold(view.state for view in views), views)


def add_all(
    tx: Tx, messages: Sequence[NewMessage], now_ms: int
) -> list[Receipt | EmailerError | IdTaken]:
    """Store *messages*, or none of them.

    Raises:
        NotAllAdded: what became of each, so that all faults can be told at once.
    """
    results: list[Receipt | EmailerError | IdTaken] = []
    for message in messages:
        try:
            results.append(add(tx, message, now_ms))
        except (EmailerError, IdTaken) as error:
            results.append(error)
    if not all(map(_is_added, results, messages)):
        raise NotAllAdded(results)
    return results


def _is_added(result: Receipt | EmailerError | IdTaken, message: NewMessage) -> bool:
    if not isinstance(result, Receipt):
        return False
    return not result.is_replay or result.fingerprint == message.fingerprint


def _find_suppressed(tx: Tx, message: NewMessage, now_ms: int) -> set[int]:
    return {
        n
        for n, recipient in enumerate(message.recipients, 1)
        if is_suppressed(
            tx,
            recipient.address,
            message.service,
            now_ms,
            is_list=bool(message.list_unsubscribe),
        )
    }


def find_by_key(tx: Tx, key_hash: bytes) -> Receipt | None:
    """Return the receipt of the message that *key_hash* belongs to, as it stands now."""
    row = tx.one(sql.KEY_OWNER, {"key_hash": key_hash})
    return reading.find_receipt(tx, cast("int", row[0])) if row else None


def read_epoch(tx: Tx) -> int:
    """Return the epoch of the tokens: one look-up a group of commits."""
    epoch = tx.memo.get(TOKEN_EPOCH)
    if epoch is None:
        row = tx.one(sql.NOTE, {"key": TOKEN_EPOCH})
        epoch = tx.memo[TOKEN_EPOCH] = int(cast("str", row[0])) if row else 0
    return cast("int", epoch)


def _check_token(tx: Tx, message: NewMessage, now_ms: int) -> None:
    """Refuse a token that was revoked since the request was authenticated (F-IN-14)."""
    if not message.token_id or message.token_epoch == read_epoch(tx):
        return
    row = tx.one(sql.TOKEN_ENDS, {"token_id": message.token_id})
    expires_ms, revoked_ms = cast("tuple[int | None, int | None]", row or (0, 0))
    # A revocation counts from its commit on, whenever the request began.
    if revoked_ms is not None or (expires_ms is not None and expires_ms <= now_ms):
        raise Unauthorized("the token was revoked")


def _check_rate(tx: Tx, message: NewMessage, now_ms: int) -> None:
    if message.recipient_rate is None:
        return
    count, window_ms = message.recipient_rate
    for recipient in message.recipients:
        limit = {"token_id": message.token_id, "address": recipient.address.lower()}
        row = tx.one(sql.RATE_COUNT, {**limit, "since": now_ms - window_ms})
        if row and cast("int", row[0]) >= count:
            raise RecipientRate(
                f"this token sends at most {count} messages in {window_ms // 1000} s to one "
                f"recipient, and {recipient.address} has had them",
                retry_after_s=max(window_ms // 1000, 1),
            )


def _count_rate(tx: Tx, message: NewMessage, now_ms: int) -> None:
    if message.recipient_rate is None:
        return
    for recipient in message.recipients:
        row = {"token_id": message.token_id, "address": recipient.address.lower()}
        tx.run(sql.ADD_RATE, {**row, "now": now_ms, "message_id": message.message_id})


def _write(tx: Tx, message: NewMessage, suppressed: set[int], now_ms: int) -> Receipt:
    message_id = message.message_id
    # Usually nobody is suppressed; then every recipient is queued.
    is_queued = len(suppressed) < len(message.recipients)
    state = (
        State.QUEUED
        if not suppressed
        else fold({State.FAILED, *([State.QUEUED] if is_queued else [])})
    )
    if not tx.run(sql.ADD_MESSAGE, to_message_row(message, state)):
        raise IdTaken
    tx.run(sql.ADD_CONTENT, {"message_id": message_id, "raw": message.raw})
    write_event(
        tx,
        MESSAGE_ACCEPTED,
        now_ms,
        message_id=message_id,
        service=message.service,
        data=to_accepted_data(message),
    )
    views = tuple(
        _write_recipient(tx, message, n, is_suppressed=n in suppressed, now_ms=now_ms)
        for n in range(1, len(message.recipients) + 1)
    )
    if is_queued:
        tx.run(sql.ADD_WORK, to_work_row(message))
        tx.has_new_work = True
    return _build_receipt(message, state, views)


def _build_receipt(
    message: NewMessage, state: State, views: tuple[RecipientView, ...]
) -> Receipt:
    return Receipt(
        message_id=message.message_id,
        state=state,
        created_ms=message.created_ms,
        on_unknown=message.on_unknown,
        is_test=message.is_test,
        recipients=views,
        fingerprint=message.fingerprint,
    )


def to_message_row(message: NewMessage, state: State) -> Params:
    """Return the parameters of ADD_MESSAGE."""
    return {
        "message_id": message.message_id,
        "service": message.service,
        "token_id": message.token_id,
        "state": state.value,
        "created_at": message.created_ms,
        "send_at": message.due_ms if message.due_ms > message.created_ms else None,
        "expires_at": message.expires_ms,
        "priority": int(message.priority),
        "on_unknown": message.on_unknown.value,
        "provider": message.provider,
        "is_test": int(message.is_test),
        "envelope_sender": message.envelope_sender,
        "header_from": message.header_from,
        "subject": message.subject,
        "tags": to_json(message.tags),
        "metadata": to_json(message.metadata),
        "template": message.template,
        "list_unsubscribe": message.list_unsubscribe,
        "needs_smtputf8": int(message.needs_smtputf8),
        "size_bytes": len(message.raw),
        "content_hash": message.content_hash,
        "key_hash": message.key_hash,
        "fingerprint": message.fingerprint,
    }


def to_recipient_row(
    message: NewMessage, n: int, state: State, reason: Reason | None, now_ms: int
) -> Params:
    """Return the parameters of ADD_RECIPIENT."""
    recipient = message.recipients[n - 1]
    return {
        "message_id": message.message_id,
        "n": n,
        "kind": recipient.kind.value,
        "address": recipient.address,
        "state": state.value,
        "reason": reason,
        "now": now_ms,
    }


def to_work_row(message: NewMessage) -> Params:
    """Return the parameters of ADD_WORK."""
    return {
        "message_id": message.message_id,
        "next_hop": message.next_hop,
        "priority": int(message.priority),
        "service": message.service,
        "due_at": message.due_ms,
        "waiting_for": message.waiting_for.value,
        "age_from": message.due_ms,
    }


def to_accepted_data(message: NewMessage) -> dict[str, object]:
    """Return what `message.accepted` says beside its fields."""
    token = to_public(TOKEN, message.token_id) if message.token_id else None
    return {
        "token": token,
        "size_bytes": len(message.raw),
        "next_hop": message.next_hop,
        "route": message.route,
    }


def _write_recipient(
    tx: Tx, message: NewMessage, n: int, *, is_suppressed: bool, now_ms: int
) -> RecipientView:
    recipient = message.recipients[n - 1]
    state = State.FAILED if is_suppressed else State.QUEUED
    reason = Reason.SUPPRESSED if is_suppressed else None
    tx.run(sql.ADD_RECIPIENT, to_recipient_row(message, n, state, reason, now_ms))
    write_event(
        tx,
        RECIPIENT[Cause.ACCEPTED],
        now_ms,
        message_id=message.message_id,
        n=n,
        address=recipient.address,
        service=message.service,
        states=(None, state),
        data={"reason": reason} if reason else None,
    )
    return _build_view(message, n, is_suppressed=is_suppressed, now_ms=now_ms)


def _build_view(
    message: NewMessage, n: int, *, is_suppressed: bool, now_ms: int
) -> RecipientView:
    recipient = message.recipients[n - 1]
    return RecipientView(
        n=n,
        address=recipient.address,
        kind=recipient.kind,
        state=State.FAILED if is_suppressed else State.QUEUED,
        waiting_for=None if is_suppressed else message.waiting_for,
        reason=Reason.SUPPRESSED if is_suppressed else None,
        due_ms=None if is_suppressed else message.due_ms,
        changed_ms=now_ms,
    )
