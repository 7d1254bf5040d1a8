"""The shape of a queue: tickets that may be lost or repeated, never the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from emailerctl.models.doorbell import ForeignMessage, QueueReport, Silent
from emailerctl.models.message import Priority


@dataclass(frozen=True, slots=True)
class Ticket:
    """A message that may be due; *receipt* is what the broker wants back."""

    message_id: int
    receipt: object = None


class Reporter(Protocol):
    """Whoever knows a broker."""

    def report(self) -> QueueReport | None:
        """Return what this process has seen of the broker; None where there is none."""
        ...


class Announcer(Reporter, Protocol):
    """The half of a queue that whoever accepts messages has."""

    def put(self, message_ids: Sequence[int], *, priority: Priority = Priority.NORMAL) -> None:
        """Tell consumers that *message_ids* may be due.

        May be lost; must neither block nor fail, in any thread (F-BR-04).
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class Queue(Announcer, Protocol):
    """How a consumer learns that a message is due."""

    async def take(self, limit: int, wait: timedelta) -> list[Ticket]:
        """Return up to *limit* tickets, waiting at most *wait* for the first."""
        ...

    async def done(self, ticket: Ticket) -> None:
        """Forget *ticket*.  Called once the attempt is settled, whatever the result."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the store found.

    Attributes:
        message_ids: due, and there is room for them.
        next_ms: when to look again.
        waiting: of those that were asked for, due, and without room now.
        stale: how many of those are finished, leased, not due; `unknown`: no message at all.
        is_barred: nothing may be taken now: a pause, a stop, a store in trouble.
    """

    message_ids: Sequence[int]
    next_ms: int | None
    waiting: Sequence[int] = ()
    stale: int = 0
    unknown: int = 0
    is_barred: bool = False


class Eyes(Protocol):
    """How a queue sees what is due, and for how much of it the consumer has room."""

    async def look(self, limit: int, among: Sequence[int] | None = None) -> Look:
        """Ask the store for at most *limit* due messages; with *among* for those of these."""
        ...

    async def find_silent(
        self, priorities: Collection[Priority], *, lost_before_ms: int, limit: int
    ) -> list[Silent]:
        """Return due messages with room that no doorbell will announce any more."""
        ...


class Ledger(Protocol):
    """What a queue without a memory asks the store to remember."""

    async def note_rung(
        self, message_ids: Collection[int], *, now_ms: int, lost_before_ms: int
    ) -> list[int]:
        """Note that those are rung now, and return them, less what another process has rung."""
        ...

    async def park(self, foreign: ForeignMessage, *, most: int) -> bool:
        """Keep a foreign message; False where there are *most* already."""
        ...
