"""Reading: listings without gap or repeat, the event log, search, the queue in numbers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from emailerctl.errors import BadRequest
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, State, WaitingFor
from emailerctl.models.message import MessageView
from emailerctl.models.page import EventFilter, MessageFilter
from emailerctl.store import reading
from emailerctl.store.base import Pause, Verb
from tests.desk import OPEN_MS, Desk

ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture(autouse=True)
async def _consumer(desk: Desk) -> None:
    await desk.register(1)


async def walk(desk: Desk, limit: int = 3, **filters: Any) -> AsyncIterator[MessageView]:
    """Yield what a listing has, page by page."""
    cursor = None
    while True:
        page = await desk.store.list_messages(
            MessageFilter(**filters), cursor=cursor, limit=limit
        )
        assert len(page.data) <= limit
        for view in page.data:
            yield view
        cursor = page.next_cursor
        if cursor is None:
            return


async def find(desk: Desk, **filters: Any) -> set[int]:
    found = [view.message_id async for view in walk(desk, **filters)]
    assert found == sorted(found, reverse=True)
    assert len(found) == len(set(found))
    return set(found)


async def add_some(desk: Desk, count: int, **fields: Any) -> list[int]:
    message_ids = []
    for _ in range(count):
        message_ids.append(await desk.add(**fields))
        desk.clock.advance(ms=1)
    return message_ids


# one message


async def test_a_message_is_read_by_its_service_only(desk: Desk) -> None:
    message_id = await desk.add(service="blog")

    assert await desk.store.find_message(message_id, service="shop") is None
    assert (await desk.load(message_id)).message_id == message_id
    assert await desk.store.find_message(4711) is None
    assert await desk.store.load_raw(4711) is None


async def test_ids_between_bounds_are_found(desk: Desk) -> None:
    first, second, third = await add_some(desk, 3)
    theirs = await desk.add(service="blog")

    assert await desk.store.find_ids(first, second) == [first, second]
    assert await desk.store.find_ids(first, theirs, limit=2) == [first, second]
    assert await desk.store.find_ids(third, theirs, service="blog") == [theirs]
    assert await desk.store.find_ids(0, first - 1) == []


# listings


@pytest.mark.parametrize("limit", [1, 2, 7, 200])
async def test_a_walk_has_everything_once_newest_first(desk: Desk, limit: int) -> None:
    message_ids = await add_some(desk, 7)

    found = [view.message_id async for view in walk(desk, limit)]

    assert found == message_ids[::-1]


async def test_a_walk_is_complete_while_messages_are_added(desk: Desk) -> None:
    message_ids = await add_some(desk, 9)

    found = []
    async for view in walk(desk, 2):
        found.append(view.message_id)
        await add_some(desk, 1)

    assert found == message_ids[::-1]


@pytest.mark.parametrize("is_indexed", [True, False, None])
async def test_every_filter_finds_what_fits_it_and_nothing_else(
    desk: Desk, is_indexed: bool | None
) -> None:
    """With everything in the search tables, nothing, or (None) a part."""
    start_ms = desk.clock.now_ms()
    plain, simple = await add_some(desk, 2)
    wanted = await desk.add(
        "Zoe@Example.org",
        BOB,
        service="blog",
        header_from="Blog@example.com",
        tags=("news", "x"),
        template="welcome",
        subject="Grüße aus Wien, an ALLE",
    )
    if is_indexed is None:
        assert await desk.store.index(limit=2) == 2
    elif is_indexed:
        assert await desk.store.index(limit=100) == 3
    desk.clock.advance(ms=1)
    sent = await desk.add()
    await desk.deliver(sent)
    end_ms = desk.clock.now_ms()

    for filters in (
        {"recipient": "zoe@example.ORG"},
        {"recipient": BOB},
        {"header_from": "blog@EXAMPLE.com"},
        {"tag": "news"},
        {"template": "welcome"},
        {"service": "blog"},
        {"since_ms": start_ms + 2, "until_ms": end_ms},
        {"q": "zoe"},
        {"q": "ZOE@example"},
        {"q": "new"},
        {"q": "grü"},
        {"q": "alle"},
        {"q": to_public(MESSAGE, wanted)},
        {"q": to_public(MESSAGE, wanted).lower()},
        {"tag": "x", "service": "blog", "recipient": BOB, "state": State.QUEUED, "q": "wien"},
    ):
        assert await find(desk, **filters) == {wanted}, filters
    for filters in (
        {"recipient": "zo@example.org"},
        {"tag": "NEWS"},
        {"q": "nobody"},
        {"q": "msg_zzzz"},
        {"q": "msg_!"},
        {"state": State.HELD},
        {"tag": "news", "service": "shop"},
        {"since_ms": end_ms + 1},
        {"until_ms": start_ms},
        {"provider": "backup"},
        {"waiting_for": WaitingFor.SEND_AT},
    ):
        assert await find(desk, **filters) == set(), filters
    assert await find(desk, provider="relay") == {sent}
    assert await find(desk, state=State.SENT) == {sent}
    assert await find(desk, state=State.QUEUED) == {plain, simple, wanted}
    assert await find(desk, waiting_for=WaitingFor.READY) == {plain, simple, wanted}
    assert await find(desk, recipient=ANN, limit=2) == {plain, simple, sent}


@pytest.mark.parametrize("state", State)
async def test_a_listing_of_each_state(desk: Desk, state: State) -> None:
    expected = set()
    for other in State:
        message_id = await desk.add()
        await desk.bring(message_id, other)
        desk.clock.advance(ms=1)
        if other is state:
            expected = {message_id}

    assert await find(desk, state=state) == expected


async def test_a_prefix_of_many_ids_finds_all_of_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_CHUNK", 2)
    message_ids = await add_some(desk, 7)

    assert await find(desk, q="msg_0", limit=3) == set(message_ids)
    assert await find(desk, q=to_public(MESSAGE, message_ids[0])[:8], limit=3) == set(
        message_ids
    )


async def test_long_walks_are_cut_into_bounded_looks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be short, even empty, and still have a successor."""
    monkeypatch.setattr(reading, "_CHUNK", 2)
    monkeypatch.setattr(reading, "_EXAMINED", 3)
    (oldest,) = await add_some(desk, 1, template="rare")
    await add_some(desk, 8)

    page = await desk.store.list_messages(MessageFilter(template="rare"), cursor=None, limit=50)
    assert (list(page.data), page.next_cursor is None) == ([], False)
    assert await find(desk, template="rare") == {oldest}


@pytest.mark.parametrize("count", [1, 5, 9])
async def test_a_search_covers_what_is_not_indexed_yet(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(reading, "_CHUNK", 2)
    message_ids = await add_some(desk, 9, tags=("invoices",))
    await add_some(desk, 2, tags=("bills",))
    await desk.store.index(limit=count)

    assert await find(desk, tag="invoices") == set(message_ids)
    assert await find(desk, q="invo") == set(message_ids)


async def test_indexing_goes_on_where_it_stopped(desk: Desk) -> None:
    await add_some(desk, 3)

    assert [await desk.store.index(limit=2) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(
    "cursor", ["x", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "é", "=", "\x00"]
)
async def test_a_cursor_of_somebody_else_is_refused(desk: Desk, cursor: str) -> None:
    with pytest.raises(BadRequest, match="is not one of ours"):
        await desk.store.list_messages(MessageFilter(), cursor=cursor, limit=3)


@pytest.mark.parametrize("since_ms", [-(10**15), 0, 253_402_300_799_999])
async def test_any_moment_bounds_a_listing(desk: Desk, since_ms: int) -> None:
    message_id = await desk.add()

    after = await find(desk, since_ms=since_ms)
    before = await find(desk, until_ms=since_ms)

    assert after | before == {message_id}
    assert after & before == set()


# events


async def test_events_come_in_order_each_once(desk: Desk) -> None:
    message_ids = await add_some(desk, 3)
    for message_id in message_ids:
        await desk.deliver(message_id)

    seen: list[int] = []
    while events := await desk.store.list_events(
        EventFilter(), after_seq=seen[-1] if seen else 0, limit=2
    ):
        assert len(events) <= 2
        seen += [event.seq for event in events]

    assert seen == list(range(1, 13))
    assert await desk.store.last_seq() == 12


async def test_an_empty_log_has_no_events(desk: Desk) -> None:
    assert await desk.events() == []
    assert await desk.store.last_seq() == 0
    assert await desk.store.find_seq_since(0) == 0


@pytest.mark.parametrize(
    "filters",
    [
        {"service": "blog"},
        {"recipient": "ZOE@example.org"},
        {"tag": 'n"ews'},
        {"state": State.SENT},
        {"provider": "backup"},
    ],
)
async def test_a_filter_of_events_finds_them_wherever_they_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]
) -> None:
    """Also behind more events than one look examines."""
    monkeypatch.setattr(reading, "_CHUNK", 3)
    monkeypatch.setattr(reading, "_EXAMINED", 6)
    await add_some(desk, 12)
    message_id = await desk.add("zoe@example.org", service="blog", tags=('n"ews',))
    claim = await desk.claim(message_id)
    await desk.mark(claim, provider="backup")
    await desk.settle(claim, Cause.HANDED_OVER, provider="backup")
    await add_some(desk, 12)

    events = await desk.store.list_events(EventFilter(**filters), after_seq=0, limit=50)

    assert events
    assert {event.message_id for event in events} == {message_id}
    last = events[-1].seq
    assert await desk.store.list_events(EventFilter(**filters), after_seq=last, limit=5) == []


async def test_the_time_line_of_a_message_is_its_events(desk: Desk) -> None:
    first, second = await add_some(desk, 2)
    await desk.deliver(first)

    assert {event.message_id for event in await desk.events(first)} == {first}
    assert len(await desk.events(first)) == 4
    assert len(await desk.events(second)) == 2


async def test_an_event_that_changes_no_state_is_recorded(desk: Desk) -> None:
    message_id = await desk.add(ANN, BOB)

    await desk.store.record(
        "complaint.reported",
        now_ms=desk.clock.now_ms(),
        message_id=message_id,
        n=2,
        provider="relay",
        reply="abuse",
        data={"kind": "abuse"},
    )
    await desk.store.record("store.backed_up", now_ms=5)

    complaint, backup = (await desk.events())[-2:]
    assert (complaint.recipient, complaint.service, complaint.provider) == (
        BOB,
        "shop",
        "relay",
    )
    assert (complaint.reply, complaint.data) == ("abuse", {"kind": "abuse"})
    assert (complaint.from_state, complaint.to_state) == (None, None)
    assert (backup.message_id, backup.at_ms, backup.data) == (None, 5, {})


async def test_the_events_since_a_moment_are_found(desk: Desk) -> None:
    await add_some(desk, 2)
    middle_ms = desk.clock.now_ms()
    await add_some(desk, 2)

    after = await desk.store.find_seq_since(middle_ms)

    assert after == 4
    assert await desk.store.find_seq_since(0) == 0
    assert await desk.store.find_seq_since(desk.clock.now_ms() + 1) == 8


# doubts and numbers


async def test_doubts_are_listed_with_what_is_known(desk: Desk) -> None:
    message_id = await desk.add(on_unknown=OnUnknown.RESEND, subject="Reset")
    await desk.start(message_id)
    await desk.void(1)
    now_ms = desk.clock.now_ms()

    (unknown,) = await desk.store.list_unknown(now_ms=now_ms)

    assert (unknown.message_id, unknown.n, unknown.address) == (message_id, 1, ANN)
    assert (unknown.service, unknown.subject, unknown.provider) == ("shop", "Reset", "relay")
    assert (unknown.attempt, unknown.since_ms) == (1, now_ms)
    assert unknown.open_until_ms == now_ms + OPEN_MS
    assert (unknown.on_unknown, unknown.is_expired) == (OnUnknown.RESEND, False)
    assert unknown.resend_at_ms == now_ms + 600_000


async def test_the_doubts_of_a_service_are_found_behind_those_of_others(desk: Desk) -> None:
    for _ in range(3):
        await desk.bring(await desk.add(), State.UNKNOWN)
        desk.clock.advance(ms=1)
    mine = await desk.add(service="blog")
    await desk.bring(mine, State.UNKNOWN)

    found = await desk.store.list_unknown(now_ms=0, service="blog", limit=2)

    assert [unknown.message_id for unknown in found] == [mine]
    assert len(await desk.store.list_unknown(now_ms=0, limit=2)) == 2


async def test_the_queue_in_numbers(desk: Desk) -> None:
    start_ms = desk.clock.now_ms()
    for state in State:
        await desk.bring(await desk.add(), state)
    await desk.deliver(await desk.add(), Cause.DEFERRED)
    await desk.add(due_ms=start_ms + 60_000)
    parked = await desk.claim(await desk.add())
    await desk.store.give_back(
        parked,
        due_ms=start_ms + 30_000,
        waiting_for=WaitingFor.NEXT_HOP,
        next_hop="relay",
        chain_index=0,
    )
    pause = Pause(since_ms=start_ms, until_ms=None, actor="eve", reason="")
    await desk.store.pause(pause)

    stats = await desk.store.queue_stats(now_ms=start_ms)

    assert (stats.ready, stats.scheduled, stats.retrying, stats.waiting) == (1, 1, 1, 1)
    assert (stats.sending, stats.held, stats.unknown) == (1, 1, 1)
    assert (stats.oldest_due_ms, stats.oldest_unknown_ms) == (start_ms, start_ms)
    assert stats.pause == pause


async def test_an_empty_queue_in_numbers(desk: Desk) -> None:
    stats = await desk.store.queue_stats(now_ms=desk.clock.now_ms())

    assert (stats.ready, stats.unknown, stats.oldest_due_ms, stats.pause) == (0, 0, None, None)


async def test_pauses_and_orders_are_events_too(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    await desk.store.pause(Pause(since_ms=now_ms, until_ms=None, actor="eve", reason="why"))
    await desk.store.resume(actor="bob", now_ms=now_ms)
    await desk.order(Verb.HOLD, await desk.add())

    types = [event.type for event in await desk.events()]
    assert types[:2] == ["queue.paused", "queue.resumed"]
    assert types[-1] == "operator.hold"
