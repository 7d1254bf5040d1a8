"""What an API answered, read back into the models that it was written from (core/shapes.py).

So a command shows the same, wherever it was carried out.  What a shape leaves out is empty.
"""

from typing import Any

from emailerctl.core.hop_view import HopFacts, HopView
from emailerctl.core.outlook import Doubt, Outlook, Way
from emailerctl.core.standing import Bounds
from emailerctl.errors import NextHopRefused
from emailerctl.models.clock import parse_moment
from emailerctl.models.event import Event
from emailerctl.models.ids import MESSAGE, TOKEN, parse_public
from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import (
    AttemptView,
    MessageView,
    Notice,
    Priority,
    Receipt,
    RecipientKind,
    RecipientView,
)
from emailerctl.models.rate import parse_rate
from emailerctl.store.base import (
    Breaker,
    BreakerState,
    HopState,
    NextHop,
    OrderResult,
    Pause,
    QueueStats,
    Suppression,
    Unknown,
)

Shape = dict[str, Any]


def read_receipt(shape: Shape, *, is_replay: bool) -> Receipt:
    """Read what acceptance answered."""
    return Receipt(
        message_id=_id(shape["id"]),
        state=State(shape["state"]),
        created_ms=parse_moment(shape["created_at"]),
        on_unknown=OnUnknown(shape["on_unknown"]),
        is_test=shape["test"],
        recipients=tuple(
            RecipientView(
                n=n,
                address=one["address"],
                kind=RecipientKind(one["kind"]),
                state=State(one["state"]),
                reason=Reason(one["reason"]) if one.get("reason") else None,
            )
            for n, one in enumerate(shape["recipients"])
        ),
        warnings=tuple(Notice(one["code"], one["detail"]) for one in shape["warnings"]),
        is_replay=is_replay,
    )


def read_message(shape: Shape) -> MessageView:
    """Read a message."""
    return MessageView(
        message_id=_id(shape["id"]),
        service=shape["service"],
        token_id=parse_public(TOKEN, shape["token_id"] or "") or 0,
        state=State(shape["state"]),
        created_ms=parse_moment(shape["created_at"]),
        expires_ms=_moment(shape["expires_at"]),
        priority=Priority[shape["priority"].upper()],
        on_unknown=OnUnknown(shape["on_unknown"]),
        provider=shape["provider"] or "",
        is_test=shape["test"],
        envelope_sender=shape["envelope_sender"],
        header_from=shape["from"],
        subject=shape["subject"],
        tags=tuple(shape["tags"]),
        metadata=shape["metadata"],
        size_bytes=shape["size_bytes"],
        content_hash=bytes.fromhex(shape["content_hash"]),
        has_content=shape["has_content"],
        template=shape["template"] or "",
        template_version=shape["template_version"] or "",
        recipients=_recipients(shape),
        attempts=tuple(_attempt(one) for one in shape.get("attempts", ())),
    )


def _recipients(shape: Shape) -> tuple[RecipientView, ...]:
    return tuple(
        RecipientView(
            n=n,
            address=one["address"],
            kind=RecipientKind(one["kind"]),
            state=State(one["state"]),
            waiting_for=WaitingFor(one["waiting_for"]) if one["waiting_for"] else None,
            reason=Reason(one["reason"]) if one["reason"] else None,
            due_ms=_moment(one["due_at"]),
            provider=one["provider"] or "",
            reply=one["reply"] or "",
            attempt=one["attempt"],
            changed_ms=parse_moment(one["changed_at"]),
        )
        for n, one in enumerate(shape["recipients"])
    )


def _attempt(shape: Shape) -> AttemptView:
    return AttemptView(
        n=shape["n"],
        provider=shape["provider"],
        phase=shape["phase"],
        outcome=shape["outcome"],
        code=shape["code"],
        enhanced_status=shape["enhanced_status"] or "",
        reply=shape["reply"] or "",
        started_ms=parse_moment(shape["started_at"]),
        ended_ms=_moment(shape["ended_at"]),
        content_hash=bytes.fromhex(shape["hash"]),
        route=shape["route"] or "",
    )


def read_order(shape: Shape) -> OrderResult:
    """Read what came of an operator's order."""
    recipients = _recipients(shape)
    changed = frozenset(shape["changed"])
    return OrderResult(
        message_id=_id(shape["id"]),
        state=State(shape["state"]),
        recipients=recipients,
        changed=tuple(one.n for one in recipients if one.address in changed),
    )


def read_event(shape: Shape) -> Event:
    """Read an event."""
    return Event(
        seq=shape["seq"],
        type=shape["type"],
        at_ms=parse_moment(shape["at"]),
        message_id=_id(shape["message_id"]) if shape["message_id"] else None,
        recipient=shape["recipient"],
        from_state=State(shape["from"]) if shape["from"] else None,
        to_state=State(shape["to"]) if shape["to"] else None,
        attempt=shape["attempt"],
        provider=shape["provider"],
        service=shape["service"],
        reply=shape["reply"],
        data=shape["data"],
    )


def read_doubt(shape: Shape) -> Doubt:
    """Read a recipient in doubt, and what will be asked about it."""
    outlook = Outlook(
        asks=tuple(shape["asks"]),
        ways=tuple(Way(way) for way in shape["ask_by"]),
        until_ms=_moment(shape["asks_until"]),
    )
    return Doubt(_unknown(shape), outlook)


def _unknown(shape: Shape) -> Unknown:
    return Unknown(
        message_id=_id(shape["id"]),
        n=0,
        address=shape["recipient"],
        service=shape["service"],
        subject=shape["subject"],
        provider=shape["provider"] or "",
        attempt=shape["attempt"],
        since_ms=parse_moment(shape["since"]),
        open_until_ms=_moment(shape["open_until"]),
        on_unknown=OnUnknown(shape["on_unknown"]),
        resend_at_ms=_moment(shape["resend_at"]),
        expires_ms=_moment(shape["expires_at"]),
        is_expired=shape["expired"],
        ask_at_ms=_moment(shape["ask_at"]),
        asked=shape["asked"],
        asked_ms=_moment(shape["asked_at"]),
        answer=shape["answer"] or "",
    )


def read_suppression(shape: Shape) -> Suppression:
    """Read a suppression."""
    return Suppression(
        address=shape["address"],
        service=shape["service"] or "",
        reason=shape["reason"],
        detail=shape["detail"] or "",
        created_ms=parse_moment(shape["created_at"]),
        expires_ms=_moment(shape["expires_at"]),
        actor=shape["actor"],
        message_id=_id(shape["message_id"]) if shape["message_id"] else None,
        provider=shape["provider"] or "",
    )


def read_hop(shape: Shape) -> HopView:
    """Read a next hop."""
    name, breaker, rate = shape["name"], shape["breaker"], shape["rate"]
    return HopView(
        hop=NextHop(
            name=name,
            state=HopState(shape["state"]),
            reason=shape["reason"] or "",
            changed_ms=_moment(shape["changed_at"]) or 0,
            actor=shape["actor"] or "",
        ),
        facts=HopFacts(
            kind=shape["kind"],
            is_default=shape["default"],
            bounds=Bounds(
                rate=parse_rate(rate["limit"]) if rate else None,
                domain_rates={
                    domain: parse_rate(text) for domain, text in shape["domain_rates"].items()
                },
            ),
        ),
        breaker=Breaker(
            name=name,
            state=BreakerState(breaker["state"]),
            reason=breaker["reason"] or "",
            since_ms=_moment(breaker["since"]) or 0,
            until_ms=_moment(breaker["until"]) or 0,
            failures=breaker["failures"],
        ),
        used=rate["used_in_a_minute"] if rate else 0,
    )


def read_queue(shape: Shape) -> QueueStats:
    """Read the queue in numbers."""
    pause = shape["pause"]
    numbers = ("ready", "scheduled", "retrying", "waiting", "sending", "held", "unknown")
    return QueueStats(
        **{name: shape[name] for name in numbers},
        oldest_due_ms=_moment(shape["oldest_due_at"]),
        oldest_unknown_ms=_moment(shape["oldest_unknown_at"]),
        pause=Pause(
            since_ms=parse_moment(pause["since"]),
            until_ms=_moment(pause["until"]),
            actor=pause["actor"],
            reason=pause["reason"] or "",
        )
        if pause
        else None,
    )


def _moment(text: str | None) -> int | None:
    return None if text is None else parse_moment(text)


def _id(text: str) -> int:
    message_id = parse_public(MESSAGE, text)
    if message_id is None:
        raise NextHopRefused(f"the API answered with {text!r}, which is no message id")
    return message_id
