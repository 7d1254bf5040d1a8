"""Orders about many messages: whom they would touch, before anybody is asked.

A survey names the recipients that an order fits, and counts the others by state, so that an
operator sees beforehand how many have been sent to or are in doubt.  What it names is only what
it saw: the order itself is guarded, and a recipient that has stepped meanwhile is left alone.
"""

from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from dataclasses import dataclass, replace
from typing import NamedTuple

from emailerctl.errors import AmbiguousId, NotFound
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView, RecipientView
from emailerctl.models.page import PAGE_LIMIT, MessageFilter
from emailerctl.store.base import Resolution, Store, Verb, find_fitting


class Pick(NamedTuple):
    """One message of an order about many.

    Attributes:
        message: its id, or what was said for it.
        addresses: the recipients that are meant; None: all that the order fits.
    """

    message: str
    addresses: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Whom an order about many messages would touch.

    Attributes:
        touched: recipients that it fits.
        left: the other recipients of these messages, by state: they stay as they are.
        absent: ids that mean no message, or several.
    """

    picks: tuple[Pick, ...]
    touched: int
    left: Mapping[State, int]
    absent: int = 0


Load = Callable[[str], Awaitable[MessageView]]
Walk = Callable[[MessageFilter], AsyncIterator[MessageView]]


async def survey_ids(
    load: Load,
    verb: Verb,
    messages: Iterable[str],
    *,
    resolution: Resolution | None = None,
    recipients: Collection[str] | None = None,
) -> Survey:
    """Look at the messages that were named; *recipients* narrows to these addresses."""
    fitting = find_fitting(verb, resolution)
    wanted = None if recipients is None else {address.lower() for address in recipients}
    picks: list[Pick] = []
    touched, absent = 0, 0
    left: Counter[State] = Counter()
    for message in messages:
        addresses = None if recipients is None else tuple(recipients)
        picks.append(Pick(message, addresses))
        try:
            view = await load(message)
        except (NotFound, AmbiguousId):
            absent += 1
            continue
        for recipient in view.recipients:
            is_named = wanted is None or recipient.address.lower() in wanted
            if is_named and recipient.state in fitting:
                touched += 1
            else:
                left[recipient.state] += 1
    return Survey(picks=tuple(picks), touched=touched, left=left, absent=absent)


async def survey_filter(
    walk: Walk,
    verb: Verb,
    filter_: MessageFilter,
    states: Collection[State],
    *,
    resolution: Resolution | None = None,
) -> Survey:
    """Look for the recipients in *states* that the order fits, and the filter too.

    A message may have them whatever its own state is, which is the fold of all its recipients;
    `filter_.state` says nothing here.
    """
    wanted = find_fitting(verb, resolution) & set(states)
    picks: list[Pick] = []
    touched = 0
    left: Counter[State] = Counter()
    async for view in _walk(walk, filter_, wanted):
        meant = [r for r in view.recipients if r.state in wanted and _is_meant(r, filter_)]
        if not meant:
            continue
        addresses = tuple(r.address for r in meant)
        picks.append(Pick(to_public(MESSAGE, view.message_id), addresses))
        touched += len(meant)
        left.update(r.state for r in view.recipients if r not in meant)
    picks.sort()  # oldest first: ids are by time
    return Survey(picks=tuple(picks), touched=touched, left=left)


async def _walk(
    walk: Walk, filter_: MessageFilter, wanted: Collection[State]
) -> AsyncIterator[MessageView]:
    """Yield the messages that may have a recipient in *wanted*: those that fold no later."""
    order = list(State)
    last = max((order.index(state) for state in wanted), default=-1)
    seen: set[int] = set()
    for state in order[: last + 1]:
        async for view in walk(replace(filter_, state=state)):
            if view.message_id not in seen:  # it may step while we walk
                seen.add(view.message_id)
                yield view


async def walk_messages(
    store: Store, filter_: MessageFilter, *, now_ms: int
) -> AsyncIterator[MessageView]:
    """Yield every message that fits, newest first, a page at a time."""
    cursor: str | None = None
    while True:
        page = await store.list_messages(
            filter_, cursor=cursor, limit=PAGE_LIMIT, now_ms=now_ms
        )
        for view in page.data:
            yield view
        cursor = page.next_cursor
        if cursor is None:
            return


def _is_meant(recipient: RecipientView, filter_: MessageFilter) -> bool:
    """Return whether what the filter says of recipients is true of this one."""
    is_there = not filter_.recipient or recipient.address.lower() == filter_.recipient.lower()
    return is_there and (not filter_.provider or recipient.provider == filter_.provider)
