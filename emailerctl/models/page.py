"""Filters and cursors for listings."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from emailerctl.models.event import Event
from emailerctl.models.lifecycle import State, WaitingFor

Item = TypeVar("Item")

PAGE_LIMIT = 200  # items a page, at the most
PAGE_DEFAULT = 50


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a listing; *next_cursor* is None where nothing more can follow."""

    data: Sequence[Item]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFilter:
    """What a listing of messages is narrowed to; empty fields do not narrow.

    Attributes:
        q: an id, a prefix of a recipient's address, a tag, or a word of the subject.
        since_ms, until_ms: bounds of the moment of acceptance; until is exclusive.
    """

    state: State | None = None
    waiting_for: WaitingFor | None = None
    recipient: str = ""
    header_from: str = ""
    tag: str = ""
    template: str = ""
    provider: str = ""
    service: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    q: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What a reader of the event log wants to see; empty fields do not narrow."""

    message_id: int | None = None
    service: str = ""
    state: State | None = None
    provider: str = ""
    recipient: str = ""
    tag: str = ""

    def admits(self, event: Event) -> bool:
        """Return whether *event* is one of those."""
        return (
            self.message_id in (None, event.message_id)
            and (not self.service or event.service == self.service)
            and (self.state is None or event.to_state is self.state)
            and (not self.provider or event.provider == self.provider)
            and (
                not self.recipient or (event.recipient or "").lower() == self.recipient.lower()
            )
            and (not self.tag or self.tag in event.tags)
        )


def encode_cursor(position: int) -> str:
    """Return an opaque cursor that stands for *position*."""
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """Read back a cursor.

    Raises:
        ValueError: not one of ours.
    """
    padded = cursor + "=" * (-len(cursor) % 4)
    digits = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    if not digits.isdigit() or int(digits) >= 1 << 63:
        raise ValueError("no position")
    return int(digits)
