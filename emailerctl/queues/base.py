"""The shape of a queue: tickets that may be lost or repeated, never the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ticket:
    """A message that may be due; *receipt* is what the broker wants back."""

    message_id: int
    receipt: object = None


class Queue(Protocol):
    """How a consumer learns that a message is due."""

    def put(self, message_ids: Sequence[int]) -> None:
        """Tell consumers that *message_ids* may be due.

        May be lost; must not block; is called in the store's writer thread after the commit.
        """
        ...

    async def take(self, limit: int, wait: timedelta) -> list[Ticket]:
        """Return up to *limit* tickets, waiting at most *wait* for the first."""
        ...

    async def done(self, ticket: Ticket) -> None:
        """Forget *ticket*.  Called once the attempt is settled, whatever the result."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...
