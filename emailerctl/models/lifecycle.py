"""The life cycle of a recipient's copy of a message: states, causes, steps, written once.

SQL guards, the API's enum, the diagram in ARCHITECTURE.md and the documentation derive from
`STEPS`.  A lease is not a state: a claimed message stays *queued* until it is marked *sending*,
which is the point of no return.
"""

from collections.abc import Iterable
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a recipient's copy of a message stands; listed in the order of the fold."""

    UNKNOWN = "unknown"  # it may or may not have been taken: nobody can know
    SENDING = "sending"  # past the point of no return: the last byte may have left
    QUEUED = "queued"  # due now or later; nothing has left
    HELD = "held"  # parked until an operator releases it
    FAILED = "failed"  # we gave up
    BOUNCED = "bounced"  # the receiving side refused it for good
    SENT = "sent"  # the next hop answered 2yz and took responsibility
    DELIVERED = "delivered"  # the receiving server took it (reported later)
    CANCELLED = "cancelled"  # withdrawn before hand-over


class Cause(StrEnum):
    """Why a recipient's state changed; `recipient.<cause>` names the event."""

    ACCEPTED = "accepted"
    MARKED = "marked"
    HANDED_OVER = "handed_over"
    DEFERRED = "deferred"
    REFUSED = "refused"
    ABANDONED = "abandoned"
    UNANSWERED = "unanswered"
    INTERRUPTED = "interrupted"
    FENCED = "fenced"
    RESOLVED_SENT = "resolved_sent"
    RESOLVED_NOT_SENT = "resolved_not_sent"
    RESENT = "resent"
    DELIVERY_REPORTED = "delivery_reported"
    BOUNCE_REPORTED = "bounce_reported"
    HELD = "held"
    RELEASED = "released"
    CANCELLED = "cancelled"
    RETRIED = "retried"


class Reason(StrEnum):
    """Why a recipient is *failed*."""

    EXHAUSTED = "exhausted"  # max_age passed
    EXPIRED = "expired"  # the sender's expires_at passed
    REJECTED = "rejected"  # the message itself was refused for good
    SUPPRESSED = "suppressed"  # the address is on the suppression list


class WaitingFor(StrEnum):
    """What a queued recipient waits for."""

    READY = "ready"
    SEND_AT = "send_at"
    RETRY = "retry"
    NEXT_HOP = "next_hop"
    PAUSE = "pause"


class OnUnknown(StrEnum):
    """What happens to an unknown by itself (delivery.md §4)."""

    ASK = "ask"
    RESEND = "resend"


_S = State

# cause -> (states it is legal from, state it leads to)
STEPS: MappingProxyType[Cause, tuple[frozenset[State], State]] = MappingProxyType(
    {
        Cause.MARKED: (frozenset({_S.QUEUED}), _S.SENDING),
        Cause.HANDED_OVER: (frozenset({_S.SENDING}), _S.SENT),
        Cause.DEFERRED: (frozenset({_S.QUEUED, _S.SENDING}), _S.QUEUED),
        Cause.REFUSED: (frozenset({_S.QUEUED, _S.SENDING, _S.UNKNOWN}), _S.BOUNCED),
        Cause.ABANDONED: (
            frozenset({_S.QUEUED, _S.SENDING, _S.UNKNOWN, _S.HELD}),
            _S.FAILED,
        ),
        Cause.UNANSWERED: (frozenset({_S.SENDING}), _S.UNKNOWN),
        Cause.INTERRUPTED: (frozenset({_S.SENDING}), _S.UNKNOWN),
        Cause.FENCED: (frozenset({_S.QUEUED, _S.SENDING, _S.HELD}), _S.UNKNOWN),
        Cause.RESOLVED_SENT: (
            frozenset({_S.UNKNOWN, _S.SENDING, _S.QUEUED, _S.HELD, _S.FAILED, _S.CANCELLED}),
            _S.SENT,
        ),
        Cause.RESOLVED_NOT_SENT: (frozenset({_S.UNKNOWN}), _S.QUEUED),
        Cause.RESENT: (frozenset({_S.UNKNOWN}), _S.QUEUED),
        Cause.DELIVERY_REPORTED: (
            frozenset(
                {_S.SENDING, _S.UNKNOWN, _S.SENT, _S.QUEUED, _S.HELD, _S.FAILED, _S.CANCELLED}
            ),
            _S.DELIVERED,
        ),
        Cause.BOUNCE_REPORTED: (
            frozenset(
                {
                    _S.SENDING,
                    _S.UNKNOWN,
                    _S.SENT,
                    _S.DELIVERED,
                    _S.QUEUED,
                    _S.HELD,
                    _S.FAILED,
                    _S.CANCELLED,
                }
            ),
            _S.BOUNCED,
        ),
        Cause.HELD: (frozenset({_S.QUEUED}), _S.HELD),
        Cause.RELEASED: (frozenset({_S.HELD}), _S.QUEUED),
        Cause.CANCELLED: (frozenset({_S.QUEUED, _S.HELD}), _S.CANCELLED),
        Cause.RETRIED: (
            frozenset({_S.QUEUED, _S.FAILED, _S.BOUNCED, _S.CANCELLED}),
            _S.QUEUED,
        ),
    }
)

# Positive evidence (a copy went out) steps for any attempt; negative evidence steps only for
# the recipient's newest marked attempt (delivery.md §2, "Testify").
POSITIVE_EVIDENCE = frozenset({Cause.RESOLVED_SENT, Cause.DELIVERY_REPORTED})

# A recipient in one of these has a row of work (invariant I10).
WORKING = frozenset({State.QUEUED, State.SENDING})

# Nothing more happens to these by itself.
FINAL = frozenset({State.SENT, State.DELIVERED, State.BOUNCED, State.FAILED, State.CANCELLED})


def sources(cause: Cause) -> frozenset[State]:
    """Return the states from which *cause* is legal: the guard of its UPDATE."""
    return STEPS[cause][0] if cause in STEPS else frozenset()


def advance(state: State, cause: Cause) -> State:
    """Return the state after *cause*: the same one where the table has no such step."""
    step = STEPS.get(cause)
    return step[1] if step and state in step[0] else state


def fold(states: Iterable[State]) -> State:
    """Return a message's state for display: the first of `State` that any recipient has.

    Raises:
        ValueError: *states* is empty; a message has at least one recipient.
    """
    present = set(states)
    for state in State:
        if state in present:
            return state
    msg = "a message without recipients has no state"
    raise ValueError(msg)


def resend_wait_ms(final_reply_ms: int, *, expires_ms: int | None, now_ms: int) -> int:
    """Return how long policy `resend` waits before a second copy (delivery.md §4.5).

    As long as an answer may still come, but at most a quarter of the time left to the expiry.
    """
    if expires_ms is None:
        return final_reply_ms
    return min(final_reply_ms, max(expires_ms - now_ms, 0) // 4)
