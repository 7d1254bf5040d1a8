"""Outcome: what one attempt told us about one recipient.

Three, not two: accepted, not accepted (transient or permanent), unknown.  Automatic retry and
failover happen only after *not accepted* (delivery.md §3).
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the next hop's answer, or its silence, means."""

    ACCEPTED = "accepted"
    TRANSIENT = "transient"  # definitely not accepted; again later
    PERMANENT = "permanent"  # definitely not accepted; never again as it is
    UNKNOWN = "unknown"  # past the point of no return, and no answer decides


class Party(StrEnum):
    """Whom a refusal is about."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    NEXT_HOP = "next_hop"


class Alarm(StrEnum):
    """What an operator must see, and what pauses a next hop."""

    CREDENTIALS = "credentials"  # AUTH refused, 401, 403
    TLS = "tls"  # certificate wrong, STARTTLS not offered
    REDIRECT = "redirect"  # 3xx: never followed


class Phase(StrEnum):
    """How far an attempt came."""

    GATE = "gate"  # nothing was asked of the next hop
    CONNECT = "connect"
    TLS = "tls"
    AUTH = "auth"
    ENVELOPE = "envelope"  # MAIL, RCPT
    CONTENT = "content"  # DATA and the body, before the mark
    ANSWER = "answer"  # after the last byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One recipient's part of one attempt.

    Attributes:
        code: the reply's number (SMTP reply code or HTTP status), if there was a reply.
        reply: the peer's own words, code first, bounded and free of control characters.
        retry_after_ms: the wait that the peer named.
        is_charged: False when it was not the message's fault (credentials, a dead pooled
            connection, a lost lease): recorded, but the schedule does not advance.
        alarm: pauses the next hop or warns the operator.
    """

    kind: Kind
    party: Party = Party.MESSAGE
    phase: Phase = Phase.ANSWER
    code: int | None = None
    enhanced_status: str = ""
    reply: str = ""
    retry_after_ms: int | None = None
    provider_message_id: str = ""
    is_charged: bool = True
    alarm: Alarm | None = None
