"""Events: what is written to the message log with every step, and what followers see.

The shape is product.md §3.3; the same object is a row of the log, an SSE message and a line of
the process log.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, State

MESSAGE_ACCEPTED = "message.accepted"
RECIPIENT_EXPIRED = "recipient.expired"
COMPLAINT_REPORTED = "complaint.reported"
OPEN_REPORTED = "open.reported"
CLICK_REPORTED = "click.reported"
UNSUBSCRIBE_REPORTED = "unsubscribe.reported"
SUBSCRIBE_REPORTED = "subscribe.reported"
DELAY_REPORTED = "delay.reported"
GAP = "gap"

RECIPIENT = {cause: f"recipient.{cause.value}" for cause in Cause}


def operator(verb: str) -> str:
    """Return the type of the event that records an operator's *verb*."""
    return f"operator.{verb}"


class Event(NamedTuple):
    """One row of the event log.

    Attributes:
        seq: strictly increasing in the order of commits; a reader that has seen n has seen
            everything below n.
        from_state, to_state: equal where a cause could not apply.
    """

    seq: int
    type: str
    at_ms: int
    message_id: int | None = None
    recipient: str | None = None
    from_state: State | None = None
    to_state: State | None = None
    attempt: int | None = None
    provider: str | None = None
    service: str | None = None
    reply: str | None = None
    data: Mapping[str, object] = MappingProxyType({})

    def shape(self) -> dict[str, object]:
        """Return the public form (product.md §3.3)."""
        return {
            "seq": self.seq,
            "type": self.type,
            "at": to_text(self.at_ms),
            "message_id": None
            if self.message_id is None
            else to_public(MESSAGE, self.message_id),
            "recipient": self.recipient,
            "from": self.from_state,
            "to": self.to_state,
            "attempt": self.attempt,
            "provider": self.provider,
            "service": self.service,
            "reply": self.reply,
            "data": dict(self.data),
        }
