"""Reading the event log in order, without gap or repeat, be it here or behind an API."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from emailerctl.models.event import GAP, Event
from emailerctl.models.page import EventFilter

CHUNK = 500
EXAMINED = 20_000  # events that a page looks at, at the most


class EventLog(Protocol):
    """What reading needs: the store has it, and an API from afar."""

    async def list_events(
        self, filter_: EventFilter, *, after_seq: int, limit: int
    ) -> list[Event]:
        """Return events after *after_seq* in order, led by a `gap` where some were removed."""
        ...

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 where there is none."""
        ...

    async def find_seq_since(self, moment_ms: int) -> int:
        """Return the number after which the events since *moment_ms* come."""
        ...


async def read_after(
    log: EventLog, wanted: EventFilter, after_seq: int, *, until_seq: int | None = None
) -> AsyncIterator[Event]:
    """Yield every event after *after_seq* that is there now, gaps included, whatever it is.

    Only the message narrows what the log is asked for, so that the position moves past what
    the caller does not want to see.
    """
    asked = EventFilter(message_id=wanted.message_id)
    while True:
        events = await log.list_events(asked, after_seq=after_seq, limit=CHUNK)
        for event in events:
            if until_seq is not None and event.seq > until_seq:
                return
            yield event
        if len(events) < CHUNK:
            return
        after_seq = events[-1].seq


async def read_fitting(
    log: EventLog, wanted: EventFilter, after_seq: int, until_seq: int
) -> AsyncIterator[Event]:
    """Yield the events between that fit, without gaps."""
    async for event in read_after(log, wanted, after_seq, until_seq=until_seq):
        if event.type != GAP and wanted.admits(event):
            yield event


async def read_last(log: EventLog, wanted: EventFilter, count: int) -> Sequence[Event]:
    """Return the last *count* events that fit, oldest first.

    Walks back in growing steps, since a filter may fit few.
    """
    last = await log.last_seq()
    span = count
    while True:
        start = 0 if wanted.message_id is not None else max(0, last - span)
        found: deque[Event] = deque(maxlen=count)
        async for event in read_fitting(log, wanted, start, last):
            found.append(event)
        if start == 0 or len(found) == count:
            return found
        span *= 8


async def read_page(
    log: EventLog, wanted: EventFilter, *, after_seq: int, limit: int
) -> tuple[list[Event], int | None]:
    """Return a page of what fits, gaps included, and where to go on; None: nothing more now.

    It looks at a bounded number of events, so that it may be empty and have a successor.
    """
    asked = EventFilter(message_id=wanted.message_id)
    found: list[Event] = []
    for _chunk in range(max(1, EXAMINED // CHUNK)):
        events = await log.list_events(asked, after_seq=after_seq, limit=CHUNK)
        for event in events:
            after_seq = event.seq
            if event.type == GAP or wanted.admits(event):
                found.append(event)
            if len(found) == limit:
                return found, after_seq
        if len(events) < CHUNK:
            return found, None
    return found, after_seq
