"""The event log for followers: read once a process for all of them, without gap or repeat.

A follower is a position in the log, and takes what comes after it: from the recent events that
the feed keeps, or, when it is further behind, from the store.  So a slow one costs one batch,
not a queue, and misses nothing; what retention removed meanwhile is a `gap`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from emailerctl.core.shapes import listing_shape
from emailerctl.core.tokens import TokenBook
from emailerctl.errors import BadRequest, EmailerError
from emailerctl.models.caller import Caller
from emailerctl.models.event import GAP, MESSAGE_ACCEPTED, Event
from emailerctl.models.page import EventFilter
from emailerctl.store.base import Store

POLL_S = 0.1
_RECENT = 2_000
_BATCH = 500
_EXAMINED = 20_000  # events that one call looks at, at the most
_EVERYTHING = EventFilter()

_encode = msgspec.json.Encoder(enc_hook=str).encode
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as a follower gets it, encoded once for all of them."""

    seq: int
    service: str | None
    is_gap: bool
    octets: bytes


@dataclass(slots=True, eq=False)
class Follower:
    """Somebody who follows the log.

    Attributes:
        position: the newest sequence number that it has had, or that was not for it.
        is_over: its token has ended, or the daemon stops.
    """

    caller: Caller
    position: int
    is_over: bool = False

    def may_see(self, frame: Frame) -> bool:
        """Return whether the event is one of its own service's, or a gap."""
        return self.caller.sees is None or frame.is_gap or frame.service == self.caller.sees


class Feed:
    """The newest events, and who waits for the next ones.

    Attributes:
        looks: how often the log was read for all followers.
    """

    def __init__(self, store: Store, tokens: TokenBook) -> None:
        """Begin with nothing; `run` reads."""
        self._store = store
        self._tokens = tokens
        self._recent: deque[Frame] = deque()
        self._position = 0  # everything up to here was read
        self._floor = 0  # everything after this and up to _position is in _recent
        self._followers: set[Follower] = set()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._is_closed = False
        self.looks = 0

    async def run(self) -> None:
        """Read what is new while somebody follows, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                await self._look()
                await self._end_revoked()
            except EmailerError as error:
                _log.warning("the event log could not be read: %s", error)
            await asyncio.sleep(POLL_S)

    async def join(self, caller: Caller, after_seq: int | None) -> Follower:
        """Return a follower who takes what comes after *after_seq*; None: from now on.

        Raises:
            BadRequest: the log has not come so far; it is another store's number.
        """
        last_seq = await self._store.last_seq()
        if after_seq is not None and after_seq > last_seq:
            raise BadRequest(
                f"the newest event is {last_seq}; {after_seq} is not of this store",
                hint="begin anew with after=0",
            )
        if not self._followers:
            self._position = self._floor = last_seq
            self._recent.clear()
        follower = Follower(caller, last_seq if after_seq is None else after_seq)
        follower.is_over = self._is_closed
        self._followers.add(follower)
        self._wanted.set()
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget *follower*."""
        self._followers.discard(follower)
        if not self._followers:
            self._wanted.clear()

    def dismiss(self, follower: Follower) -> None:
        """End *follower*, who may be waiting."""
        follower.is_over = True
        self._tell()

    def close(self) -> None:
        """End every follower, and take no more."""
        self._is_closed = True
        for follower in self._followers:
            self.dismiss(follower)

    async def take(self, follower: Follower, *, within_s: float) -> bytes:
        """Return the next frames for *follower*, or nothing when none came within the time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not follower.is_over:
            changed = self._changed
            frames = await self._find(follower.position)
            if frames:
                follower.position = frames[-1].seq
                octets = b"".join(f.octets for f in frames if follower.may_see(f))
                if octets:
                    return octets
                continue
            left_s = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(changed.wait(), max(left_s, 0))
            except TimeoutError:
                break
        return b""

    async def _find(self, position: int) -> Sequence[Frame]:
        if position >= self._floor:
            return [frame for frame in self._recent if frame.seq > position][:_BATCH]
        events = await self._store.list_events(_EVERYTHING, after_seq=position, limit=_BATCH)
        return [_to_frame(event) for event in events]

    async def _look(self) -> None:
        self.looks += 1
        events = await self._store.list_events(
            _EVERYTHING, after_seq=self._position, limit=_BATCH
        )
        for event in events:
            if len(self._recent) >= _RECENT:
                self._floor = self._recent.popleft().seq
            self._recent.append(_to_frame(event))
        if events:
            self._position = events[-1].seq
            self._tell()

    async def _end_revoked(self) -> None:
        for follower in list(self._followers):
            if not await self._tokens.is_still_good(follower.caller):
                self.dismiss(follower)

    def _tell(self) -> None:
        """Wake whoever waits, once."""
        self._changed.set()
        self._changed = asyncio.Event()


def _to_frame(event: Event) -> Frame:
    # Without an `event:` field a browser's EventSource gives every type to `onmessage`.
    octets = b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event.shape()))
    return Frame(event.seq, event.service, event.type == GAP, octets)


async def read_page(
    store: Store, *, after_seq: int, limit: int, service: str
) -> dict[str, object]:
    """Return a page of the log; its cursor is where to go on, also past others' events."""
    found: list[Event] = []
    for _batch in range(_EXAMINED // _BATCH):
        events = await store.list_events(_EVERYTHING, after_seq=after_seq, limit=_BATCH)
        for event in events:
            after_seq = event.seq
            if not service or event.service == service or event.type == GAP:
                found.append(event)
            if len(found) == limit:
                return _page(found, after_seq)
        if len(events) < _BATCH:
            return _page(found, None)
    return _page(found, after_seq)


async def read_timeline(
    store: Store, message_id: int, *, after_seq: int, limit: int
) -> dict[str, object]:
    """Return what happened to one message; a gap leads only where it concerns that message."""
    events = await store.list_events(
        EventFilter(message_id=message_id), after_seq=after_seq, limit=limit + 1
    )
    if len(events) > 1 and events[0].type == GAP and events[1].type == MESSAGE_ACCEPTED:
        events = events[1:]
    more = events[limit - 1].seq if len(events) > limit else None
    return _page(events[:limit], more)


def _page(events: Sequence[Event], next_seq: int | None) -> dict[str, object]:
    cursor = None if next_seq is None else str(next_seq)
    return listing_shape([event.shape() for event in events], cursor)
