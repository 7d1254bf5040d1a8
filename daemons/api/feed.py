"""The event log for followers: read once a process for all of them, without gap or repeat.

A follower is a position in the log, and takes what comes after it: from the recent events that
the feed keeps, or, when it is further behind, from the store.  So a slow one costs one batch,
not a queue, and misses nothing; what retention removed meanwhile is a `gap`, and so is what a
follower would rather miss than be too far behind.

What is encoded, and chosen by a filter, is so once for all who want the same.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from emailerctl.core.shapes import listing_shape
from emailerctl.core.tokens import TokenBook
from emailerctl.errors import BadRequest, EmailerError
from emailerctl.metrics.meter import Meter
from emailerctl.metrics.registry import STREAM_SKIPS
from emailerctl.models.caller import Caller
from emailerctl.models.clock import Clock
from emailerctl.models.event import GAP, MESSAGE_ACCEPTED, Event
from emailerctl.models.page import EventFilter
from emailerctl.store.base import Store

POLL_S = 0.05
_RECENT = 20_000  # events that are kept,
_RECENT_CHUNKS = 100  # in so many pieces at the most: one for each look
_BATCH = 500
_PAST = 64  # chunks of the store that were read for somebody who is behind
_TAKEN_BYTES = 256 * 1024  # one write, about
_EVERYTHING = EventFilter()

_encode = msgspec.json.Encoder(enc_hook=str).encode
_log = logging.getLogger(__name__)


class Frame:
    """An event as a follower gets it, encoded once for all of them, if anybody wants it."""

    __slots__ = ("_octets", "event")

    def __init__(self, event: Event) -> None:
        """Take the event."""
        self.event = event
        self._octets = b""

    @property
    def octets(self) -> bytes:
        """The bytes of the stream.

        Without an `event:` field a browser's EventSource gives every type to `onmessage`.
        """
        if not self._octets:
            event = self.event
            self._octets = b"id: %d\ndata: %b\n\n" % (event.seq, _encode(event.shape()))
        return self._octets


class Chunk:
    """All events after one number, up to another one.

    Attributes:
        after: exclusive.
        until: inclusive.
    """

    __slots__ = ("_chosen", "_with", "after", "frames", "until")

    def __init__(self, after: int, until: int, events: Sequence[Event]) -> None:
        """Take the events between."""
        self.after = after
        self.until = until
        self.frames = [Frame(event) for event in events]
        self._chosen: dict[EventFilter, bytes] = {}
        self._with: dict[tuple[str, object], list[Frame]] | None = None

    def choose(self, wanted: EventFilter, position: int) -> bytes:
        """Return what a follower at *position* gets of it."""
        if position > self.after:  # it came from the store, into the middle
            return _join(self.frames, wanted, position)
        octets = self._chosen.get(wanted)
        if octets is None:
            octets = self._chosen[wanted] = _join(self._narrow(wanted), wanted, position)
        return octets

    def _narrow(self, wanted: EventFilter) -> Sequence[Frame]:
        """Return those with the rarest of what is asked for: many ask for little."""
        key = _choose_key(wanted)
        if key is None:
            return self.frames
        if self._with is None:
            self._with = {}
            for frame in self.frames:
                for one in _list_keys(frame.event):
                    self._with.setdefault(one, []).append(frame)
        found = self._with.get(key, [])
        is_cut = bool(self.frames) and self.frames[0].event.type == GAP
        return [self.frames[0], *found] if is_cut else found


def _choose_key(wanted: EventFilter) -> tuple[str, object] | None:
    if wanted.message_id is not None:
        return "message", wanted.message_id
    if wanted.recipient:
        return "recipient", wanted.recipient.lower()
    if wanted.tag:
        return "tag", wanted.tag
    return ("service", wanted.service) if wanted.service else None


def _list_keys(event: Event) -> list[tuple[str, object]]:
    if event.type == GAP:
        return []
    return [
        ("message", event.message_id),
        ("recipient", (event.recipient or "").lower()),
        ("service", event.service),
        *(("tag", tag) for tag in event.tags),
    ]


def _join(frames: Sequence[Frame], wanted: EventFilter, position: int) -> bytes:
    return b"".join(
        [
            frame.octets
            for frame in frames
            if frame.event.seq > position
            and (frame.event.type == GAP or wanted.admits(frame.event))
        ]
    )


@dataclass(slots=True, eq=False)
class Follower:
    """Somebody who follows the log.

    Attributes:
        position: the newest sequence number that it has had, or that was not for it.
        wanted: what it asked for, and may see.
        most_behind: further behind than so many events it would rather miss some; None: never.
        is_over: its token has ended, or the daemon stops.
    """

    caller: Caller
    position: int
    wanted: EventFilter = _EVERYTHING
    most_behind: int | None = None
    is_over: bool = field(default=False)


class Feed:
    """The newest events, and who waits for the next ones.

    Attributes:
        looks: how often the log was read for all followers.
    """

    def __init__(self, store: Store, tokens: TokenBook, *, clock: Clock, meter: Meter) -> None:
        """Begin with nothing; `run` reads."""
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._meter = meter
        self._recent: deque[Chunk] = deque()
        self._kept = 0  # events in _recent
        self._position = 0  # everything up to here was read
        self._past: dict[int, asyncio.Task[Chunk]] = {}
        self._one_at_a_time = asyncio.Semaphore(1)  # readers of the store are few
        self._followers: set[Follower] = set()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._is_closed = False
        self.looks = 0

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._followers)

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

    async def join(
        self,
        caller: Caller,
        after_seq: int | None,
        *,
        wanted: EventFilter = _EVERYTHING,
        most_behind: int | None = None,
    ) -> Follower:
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
            self._forget()
            self._position = last_seq
        start = last_seq if after_seq is None else after_seq
        follower = Follower(caller, start, wanted, most_behind, is_over=self._is_closed)
        self._followers.add(follower)
        self._wanted.set()
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget *follower*."""
        self._followers.discard(follower)
        if not self._followers:
            self._wanted.clear()
            self._forget()

    def _forget(self) -> None:
        """Give back the memory of what nobody waits for."""
        self._recent.clear()
        self._kept = 0
        for task in self._past.values():
            task.cancel()
        self._past.clear()

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
            octets = self._skip(follower) or await self._advance(follower)
            if octets:
                return octets
            if follower.position < self._position:
                continue
            left_s = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(changed.wait(), max(left_s, 0))
            except TimeoutError:
                break
        return b""

    def _skip(self, follower: Follower) -> bytes:
        """Bring a follower who would rather miss something to the newest event."""
        most = follower.most_behind
        if most is None or self._position - follower.position <= most:
            return b""
        data = {
            "from_seq": follower.position + 1,
            "to_seq": self._position,
            "reason": "behind",
        }
        gap = Event(seq=self._position, type=GAP, at_ms=self._clock.now_ms(), data=data)
        follower.position = self._position
        self._meter.add(STREAM_SKIPS)
        return Frame(gap).octets

    async def _advance(self, follower: Follower) -> bytes:
        """Move a follower on by about one write's worth, and return what is for it."""
        if not self._recent or follower.position < self._recent[0].after:
            if follower.position >= self._position:
                return b""
            chunk = await self._read_past(follower)
            octets = chunk.choose(follower.wanted, follower.position)
            follower.position = max(follower.position, chunk.until)
            return octets
        ahead = []
        for chunk in reversed(self._recent):
            if chunk.until <= follower.position:
                break
            ahead.append(chunk)
        pieces, size = [], 0
        for chunk in reversed(ahead):
            piece = chunk.choose(follower.wanted, follower.position)
            follower.position = chunk.until
            pieces.append(piece)
            size += len(piece)
            if size >= _TAKEN_BYTES:
                break
        return b"".join(pieces)

    async def _read_past(self, follower: Follower) -> Chunk:
        """Read what comes after a follower's position.

        Many who are behind are so by about the same: after a restart, for instance.  What lies
        whole in the past is read once for them, in pieces that begin at round numbers.
        """
        position, head = follower.position, self._position
        start = position - position % _BATCH
        if follower.wanted.message_id is not None:  # the index knows where to look
            return await self._read_message(follower.wanted.message_id, position, head)
        if start + _BATCH > head:
            return await self._read(position, head)
        task = self._past.get(start)
        if task is None:
            if len(self._past) >= _PAST:
                del self._past[next(iter(self._past))]
            task = self._past[start] = asyncio.create_task(self._read(start, start + _BATCH))
        try:
            chunk = await asyncio.shield(task)
        except BaseException:
            if self._past.get(start) is task and task.done():
                del self._past[start]
            raise
        if chunk.frames and chunk.frames[0].event.type == GAP:  # it begins where one asks
            return await self._read(position, head)
        return chunk

    async def _read(self, after: int, until: int) -> Chunk:
        async with self._one_at_a_time:
            events = await self._store.list_events(_EVERYTHING, after_seq=after, limit=_BATCH)
        if len(events) == _BATCH:
            until = min(until, events[-1].seq)
        if events and events[0].type == GAP:
            until = max(until, events[0].seq)
        return Chunk(after, until, [event for event in events if event.seq <= until])

    async def _read_message(self, message_id: int, after: int, until: int) -> Chunk:
        async with self._one_at_a_time:
            events = await self._store.list_events(
                EventFilter(message_id=message_id), after_seq=after, limit=_BATCH
            )
        if len(events) == _BATCH:
            until = min(until, events[-1].seq)
        return Chunk(after, until, [event for event in events if event.seq <= until])

    async def _look(self) -> None:
        """Read what is new, all of it, and tell everybody once."""
        self.looks += 1
        had = self._position
        try:
            while await self._read_on():
                pass
        finally:
            if self._position != had:
                self._tell()

    async def _read_on(self) -> bool:
        """Keep the next events; return whether there may be more."""
        after = self._position
        events = await self._store.list_events(_EVERYTHING, after_seq=after, limit=_BATCH)
        if not events or self._position != after:  # all have left, and somebody began anew
            return False
        self._position = events[-1].seq
        self._recent.append(Chunk(after, self._position, events))
        self._kept += len(events)
        while len(self._recent) > 1 and (
            self._kept > _RECENT or len(self._recent) > _RECENT_CHUNKS
        ):
            self._kept -= len(self._recent.popleft().frames)
        return len(events) == _BATCH

    async def _end_revoked(self) -> None:
        for follower in list(self._followers):
            if not await self._tokens.is_still_good(follower.caller):
                self.dismiss(follower)

    def _tell(self) -> None:
        """Wake whoever waits, once."""
        self._changed.set()
        self._changed = asyncio.Event()


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
    return events_shape(events[:limit], more)


def events_shape(events: Sequence[Event], next_seq: int | None) -> dict[str, object]:
    """Return a listing of events."""
    cursor = None if next_seq is None else str(next_seq)
    return listing_shape([event.shape() for event in events], cursor)
