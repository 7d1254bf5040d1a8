"""Tokens, suppressions, next hops, alerts, consumers, notes."""

import json
from collections.abc import Mapping
from typing import Any

from emailerctl.errors import BadRequest, Conflict, NotFound
from emailerctl.models.page import Page
from emailerctl.models.text import shorten
from emailerctl.store import pacing
from emailerctl.store import statements as sql
from emailerctl.store.accepting import TOKEN_EPOCH, read_epoch
from emailerctl.store.base import (
    Alert,
    Consumer,
    HopState,
    NextHop,
    Suppression,
    Token,
)
from emailerctl.store.driver import Tx

_CONSUMER_KEPT_MS = 86_400_000
WOKEN_AT_ONCE = 1_000  # the consumers that see a next hop open wake the rest


def find_note(tx: Tx, key: str) -> str | None:
    """Return a note."""
    row: Any = tx.one(sql.NOTE, {"key": key})
    return row[0] if row else None


def keep_note(tx: Tx, key: str, value: str) -> str:
    """Leave a note unless there is one; return the one that stands."""
    tx.run(sql.KEEP_NOTE, {"key": key, "value": value})
    return find_note(tx, key) or value


def leave_note(tx: Tx, key: str, value: str) -> None:
    """Leave a note."""
    tx.run(sql.LEAVE_NOTE, {"key": key, "value": value})


def _advance_epoch(tx: Tx) -> None:
    tx.memo.pop(TOKEN_EPOCH, None)
    leave_note(tx, TOKEN_EPOCH, str(read_epoch(tx) + 1))
    tx.memo.pop(TOKEN_EPOCH, None)


def add_token(tx: Tx, token: Token) -> None:
    """Enter a token; its name must be free among the live ones, unless it rotates one."""
    tx.run(
        sql.ADD_TOKEN,
        {
            "id": token.token_id,
            "name": token.name,
            "service": token.service,
            "secret_hash": token.secret_hash,
            "scopes": json.dumps(sorted(token.scopes)),
            "limits": json.dumps(dict(token.limits)),
            "is_test": int(token.is_test),
            "created_at": token.created_ms,
            "expires_at": token.expires_ms,
        },
    )
    _advance_epoch(tx)


def require_free_name(tx: Tx, name: str, now_ms: int) -> None:
    """Refuse a name that a live token has."""
    if tx.one(sql.LIVE_TOKEN_NAMED, {"name": name, "now": now_ms}):
        raise Conflict(
            f"there is a live token named {name!r}",
            hint=f"choose another name, or: emailerctl tokens rotate {name}",
        )


def load_tokens(tx: Tx) -> tuple[int, list[Token]]:
    """Return the epoch and all tokens."""
    rows: Any = tx.all(sql.TOKENS)
    tokens = [
        Token(
            token_id=row[0],
            name=row[1],
            service=row[2],
            secret_hash=row[3],
            scopes=frozenset(json.loads(row[4])),
            is_test=bool(row[5]),
            created_ms=row[6],
            expires_ms=row[7],
            revoked_ms=row[8],
            last_used_ms=row[9],
            limits=json.loads(row[10]),
        )
        for row in rows
    ]
    return read_epoch(tx), tokens


def end_token(tx: Tx, token_id: int, at_ms: int) -> None:
    """Revoke a token: whatever is committed from now on is refused."""
    if tx.one(sql.TOKEN_ENDS, {"token_id": token_id}) is None:
        raise NotFound("there is no such token")
    tx.run(sql.END_TOKEN, {"token_id": token_id, "at": at_ms})
    _advance_epoch(tx)


def expire_token(tx: Tx, token_id: int, at_ms: int) -> None:
    """Let a token expire at *at_ms*, or when it would anyway if that is sooner."""
    tx.run(sql.EXPIRE_TOKEN, {"token_id": token_id, "at": at_ms})
    _advance_epoch(tx)


def touch_tokens(tx: Tx, used: Mapping[int, int]) -> None:
    """Write when tokens were last used; not a change that the epoch counts."""
    for token_id, at_ms in used.items():
        tx.run(sql.TOUCH_TOKEN, {"token_id": token_id, "at": at_ms})


def list_suppressions(
    tx: Tx, service: str | None, prefix: str, cursor: str | None, limit: int
) -> Page[Suppression]:
    """Return suppressions by address; *prefix* narrows."""
    try:
        start = bytes.fromhex(cursor or "").decode().split("\0")
        address, of_service, blocks = start if cursor else (prefix.lower(), "", "")
    except ValueError as error:
        raise BadRequest(f"the cursor {shorten(cursor)} is not one of ours") from error
    rows: Any = tx.all(
        sql.SUPPRESSIONS,
        {
            "address": address,
            "service": of_service,
            "blocks": blocks,
            "address_end": prefix.lower() + "\U0010ffff",
            "only": service,
            "limit": limit + 1,
        },
    )
    found = [
        Suppression(
            address=row[0],
            service=row[1],
            reason=row[3],
            detail=row[4],
            created_ms=row[5],
            expires_ms=row[6],
            actor=row[7],
            message_id=row[8],
            provider=row[9],
        )
        for row in rows[:limit]
    ]
    if len(rows) <= limit:
        return Page(found, None)
    return Page(found, "\0".join(rows[limit][:3]).encode().hex())


def list_next_hops(tx: Tx) -> list[NextHop]:
    """Return the standing of every next hop that has one."""
    rows: Any = tx.all(sql.NEXT_HOPS)
    return [
        NextHop(
            name=row[0],
            state=HopState(row[1]),
            reason=row[2],
            changed_ms=row[3],
            actor=row[4],
            settings_hash=row[5],
        )
        for row in rows
    ]


def set_next_hop(tx: Tx, hop: NextHop) -> None:
    """Enter a next hop's standing; opening one makes what waits for a next hop due."""
    tx.run(
        sql.SET_NEXT_HOP,
        {
            "name": hop.name,
            "state": hop.state,
            "reason": hop.reason,
            "changed_at": hop.changed_ms,
            "actor": hop.actor,
            "settings_hash": hop.settings_hash,
        },
    )
    if hop.state is HopState.OPEN:  # who says so knows better than the breaker
        tx.run(sql.CLOSE_BREAKER, {"name": hop.name, "now": hop.changed_ms})
        pacing.wake_parked(tx, hop.changed_ms, WOKEN_AT_ONCE)


def raise_alert(tx: Tx, alert: Alert) -> bool:
    """Raise an alert; True when it was not raised before."""
    return (
        tx.run(
            sql.RAISE_ALERT,
            {
                "name": alert.name,
                "detail": alert.detail,
                "since_at": alert.since_ms,
                "notified_at": alert.notified_ms,
            },
        )
        == 1
    )


def list_alerts(tx: Tx) -> list[Alert]:
    """Return the alerts that are raised."""
    rows: Any = tx.all(sql.ALERTS)
    return [
        Alert(name=row[0], detail=row[1], since_ms=row[2], notified_ms=row[3]) for row in rows
    ]


def register(tx: Tx, consumer: Consumer) -> None:
    """Enter a consumer; those that ended long ago are forgotten."""
    tx.run(sql.FORGET_CONSUMERS, {"before": consumer.started_ms - _CONSUMER_KEPT_MS})
    tx.run(
        sql.REGISTER,
        {
            "id": consumer.consumer_id,
            "host": consumer.host,
            "pid": consumer.pid,
            "boot_id": consumer.boot_id,
            "version": consumer.version,
            "started_at": consumer.started_ms,
            "heartbeat_at": consumer.heartbeat_ms,
            "lease_until": consumer.lease_until_ms,
            "in_flight": consumer.in_flight,
        },
    )


def list_consumers(tx: Tx) -> list[Consumer]:
    """Return the consumers that have not ended."""
    rows: Any = tx.all(sql.CONSUMERS)
    return [
        Consumer(
            consumer_id=row[0],
            host=row[1],
            pid=row[2],
            boot_id=row[3],
            version=row[4],
            started_ms=row[5],
            heartbeat_ms=row[6],
            lease_until_ms=row[7],
            in_flight=row[8],
        )
        for row in rows
    ]
