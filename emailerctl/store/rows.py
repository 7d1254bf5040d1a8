"""Rows to models."""

from typing import Any

import msgspec

from emailerctl.models.event import Event
from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import (
    AttemptView,
    MessageView,
    Priority,
    RecipientKind,
    RecipientView,
)

_decode = msgspec.json.decode


def read_tags(text: str | None) -> tuple[str, ...]:
    """Read a column of tags."""
    return tuple(_decode(text)) if text else ()


def to_event(row: Any) -> Event:
    """Read a row of EVENTS_AFTER or EVENTS_OF."""
    return Event(
        seq=row[0],
        type=row[1],
        at_ms=row[2],
        message_id=row[3],
        recipient=row[4],
        from_state=State(row[5]) if row[5] else None,
        to_state=State(row[6]) if row[6] else None,
        attempt=row[7],
        provider=row[8],
        service=row[9],
        reply=row[10],
        data=_decode(row[11]) if row[11] else {},
    )


def to_message(
    row: Any, recipients: Any, attempts: Any = (), *, waiting_for: str | None
) -> MessageView:
    """Read a row of MESSAGE with those of RECIPIENTS and ATTEMPTS."""
    return MessageView(
        message_id=row[0],
        service=row[1],
        token_id=row[2],
        state=State(row[3]),
        created_ms=row[4],
        expires_ms=row[5],
        priority=Priority(row[6]),
        on_unknown=OnUnknown(row[7]),
        provider=row[8],
        is_test=bool(row[9]),
        envelope_sender=row[10],
        header_from=row[11],
        subject=row[12],
        tags=read_tags(row[13]),
        metadata=_decode(row[14]) if row[14] else {},
        size_bytes=row[15],
        content_hash=row[16],
        template=row[17],
        has_content=bool(row[18]),
        token=row[22] or "",
        recipients=tuple(
            to_recipient(r, due_ms=row[20], waiting_for=waiting_for) for r in recipients
        ),
        attempts=tuple(to_attempt(a) for a in attempts),
    )


def to_recipient(
    row: Any,
    *,
    due_ms: int | None,
    waiting_for: str | None,
) -> RecipientView:
    """Read a row of RECIPIENTS; due and waiting_for belong to its message's work."""
    state = State(row[3])
    is_queued = state is State.QUEUED
    return RecipientView(
        n=row[0],
        address=row[1],
        kind=RecipientKind(row[2]),
        state=state,
        waiting_for=WaitingFor(waiting_for) if is_queued and waiting_for else None,
        reason=Reason(row[4]) if row[4] else None,
        due_ms=due_ms if is_queued else None,
        provider=row[5],
        reply=row[6],
        attempt=row[7],
        changed_ms=row[8],
    )


def to_attempt(row: Any) -> AttemptView:
    """Read a row of ATTEMPTS."""
    return AttemptView(
        n=row[0],
        provider=row[1],
        phase=row[2],
        outcome=row[3],
        code=row[4],
        enhanced_status=row[5],
        reply=row[6],
        started_ms=row[7],
        ended_ms=row[8],
        content_hash=row[9],
        recipients=tuple(_decode(row[10])) if row[10] else (),
        open_until_ms=row[11],
        provider_message_id=row[12],
        dialogue=row[13],
        route=row[14],
    )
