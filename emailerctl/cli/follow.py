"""Following the event log of the store on this host: what comes, without gap or repeat."""

from collections.abc import AsyncIterator

from emailerctl.core.eventlog import read_after
from emailerctl.models.event import GAP, Event
from emailerctl.models.page import EventFilter
from emailerctl.store.base import Store

_POLL_S = 0.1


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
