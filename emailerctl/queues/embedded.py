"""The embedded queue: no broker.  It keeps nothing: it asks the store, and wakes on a bell."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from emailerctl.models.clock import Clock, to_ms
from emailerctl.models.doorbell import QueueReport
from emailerctl.models.message import Priority
from emailerctl.queues.base import Look, Ticket
from emailerctl.queues.bell import Bell, Listener


class EmbeddedQueue:
    """Tickets straight from the store.

    Args:
        look: asks the store for at most so many due messages.
    """

    def __init__(
        self,
        *,
        bell: Bell,
        listener: Listener,
        look: Callable[[int], Awaitable[Look]],
        clock: Clock,
    ) -> None:
        """Take the ear and the eyes."""
        self._bell = bell
        self._listener = listener
        self._look = look
        self._clock = clock

    def put(
        self,
        message_ids: Sequence[int],
        *,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Ring; the ids are in the store."""
        if message_ids:
            self._bell.ring()

    def report(self) -> QueueReport | None:
        """Return None: there is no broker."""
        return None

    async def take(self, limit: int, wait: timedelta) -> list[Ticket]:
        """Return what is due; wait for a bell or the next due moment where nothing is."""
        self._listener.clear()
        found = await self._look(limit)
        if not found.message_ids:
            wait_ms = to_ms(wait)
            if found.next_ms is not None:
                wait_ms = min(wait_ms, max(found.next_ms - self._clock.now_ms(), 1))
            await self._listener.wait(wait_ms / 1000)
            self._listener.clear()
            found = await self._look(limit)
        return [Ticket(message_id) for message_id in found.message_ids]

    async def done(self, ticket: Ticket) -> None:
        """Forget nothing: there is nothing to remember."""

    async def close(self) -> None:
        """Take the ear away."""
        self._listener.close()
