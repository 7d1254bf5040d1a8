"""Reading the event log in order, without gap or repeat: the past, and what comes."""

from collections import deque
from collections.abc import AsyncIterator, Sequence

from emailerctl.models.event import GAP, Event
from emailerctl.models.page import EventFilter
from emailerctl.store.base import Store

_POLL_S = 0.1
_CHUNK = 500


async def read_after(
    store: Store, filter_: EventFilter, after_seq: int, *, until_seq: int | None = None
) -> AsyncIterator[Event]:
    """Yield every event after *after_seq* that is there now, gaps included, whatever it is.

    Only the message narrows what the store is asked for, so that the position moves past what
    the caller does not want to see.
    """
    asked = EventFilter(message_id=filter_.message_id)
    while True:
        events = await store.list_events(asked, after_seq=after_seq, limit=_CHUNK)
        for event in events:
            if until_seq is not None and event.seq > until_seq:
                return
            yield event
        if len(events) < _CHUNK:
            return
        after_seq = events[-1].seq


async def read_last(store: Store, filter_: EventFilter, count: int) -> Sequence[Event]:
    """Return the last *count* events that fit, oldest first.

    Walks back in growing steps, since a filter may fit few.
    """
    last = await store.last_seq()
    span = count
    while True:
        start = 0 if filter_.message_id is not None else max(0, last - span)
        found: deque[Event] = deque(maxlen=count)
        async for event in read_after(store, filter_, start, until_seq=last):
            if event.type != GAP and filter_.admits(event):
                found.append(event)
        if start == 0 or len(found) == count:
            return found
        span *= 8


async def follow(
    store: Store, filter_: EventFilter, after_seq: int
) -> AsyncIterator[Event | None]:
    """Yield the events after *after_seq* that fit, and gaps, for ever; None: none for now."""
    from asyncio import sleep

    while True:
        async for event in read_after(store, filter_, after_seq):
            after_seq = event.seq
            if event.type == GAP or filter_.admits(event):
                yield event
        yield None
        await sleep(_POLL_S)
