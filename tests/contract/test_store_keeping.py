"""Keeping house: what goes, when, in which portions, and what never goes."""

import pytest

from emailerctl.models.event import GAP
from emailerctl.models.lifecycle import FINAL, State
from emailerctl.models.page import EventFilter, MessageFilter
from emailerctl.store.base import Verb
from tests.desk import Desk

DAY_MS = 86_400_000
KEY = b"k" * 16


@pytest.fixture(autouse=True)
async def _consumer(desk: Desk) -> None:
    await desk.register(1)


async def retain(desk: Desk, limit: int = 100, **ages_in_days: int) -> int:
    ages = {"content": 7, "messages": 90, "events": 90} | ages_in_days
    return await desk.store.retain(
        content_ms=ages["content"] * DAY_MS,
        messages_ms=ages["messages"] * DAY_MS,
        events_ms=ages["events"] * DAY_MS,
        now_ms=desk.clock.now_ms(),
        limit=limit,
    )


async def test_content_goes_sooner_than_its_message(desk: Desk) -> None:
    message_id = await desk.add(key_hash=KEY)
    await desk.deliver(message_id)
    desk.clock.advance(h=24 * 7)
    assert await retain(desk) == 0
    desk.clock.advance(ms=1)

    assert await retain(desk) == 1

    view = await desk.load(message_id)
    assert (view.state, view.has_content) == (State.SENT, False)
    assert await desk.store.load_raw(message_id) is None
    assert await desk.store.find_by_key(KEY) is not None


async def test_a_key_lives_as_long_as_its_message(desk: Desk) -> None:
    message_id = await desk.add(key_hash=KEY)
    await desk.add("bob@example.org")
    await desk.deliver(message_id)
    await desk.store.index(limit=10)
    desk.clock.advance(h=24 * 90)
    await retain(desk, events=365)
    assert (await desk.store.find_by_key(KEY)) is not None
    desk.clock.advance(ms=1)

    await retain(desk, events=365)

    assert await desk.store.find_message(message_id) is None
    assert await desk.store.find_by_key(KEY) is None
    for table in ("keys", "contents", "recipients", "attempts", "terms"):
        found = desk.rows(f"SELECT 1 FROM {table} WHERE message_id = ?", message_id)
        assert found == [], table
    assert not (await desk.receive(key_hash=KEY)).is_replay


@pytest.mark.parametrize("state", State)
async def test_only_what_is_final_goes(desk: Desk, state: State) -> None:
    message_id = await desk.add()
    await desk.bring(message_id, state)
    desk.clock.advance(h=24 * 365)

    await retain(desk)

    assert (await desk.store.find_message(message_id) is None) == (state in FINAL)


async def test_a_message_that_was_finished_lately_stays(desk: Desk) -> None:
    message_id = await desk.add()
    desk.clock.advance(h=24 * 100)
    await desk.order(Verb.CANCEL, message_id)

    await retain(desk)

    assert (await desk.load(message_id)).has_content


async def test_portions_are_small_and_the_rest_follows(desk: Desk) -> None:
    for _ in range(7):
        await desk.deliver(await desk.add())
    desk.clock.advance(h=24 * 365)

    portions = []
    while removed := await retain(desk, limit=3):
        portions.append(removed)

    assert desk.rows("SELECT count(*) FROM messages") == [(0,)]
    assert desk.rows("SELECT count(*) FROM events") == [(1,)]
    assert max(portions) <= 3 * 4
    assert len(portions) > 3


async def test_what_was_removed_from_the_log_is_an_explicit_gap(desk: Desk) -> None:
    first = await desk.add()
    desk.clock.advance(h=24 * 91)
    second = await desk.add()
    await retain(desk)

    events = await desk.events()

    gap = events[0]
    assert (gap.type, gap.seq, gap.data) == (GAP, 2, {"from_seq": 1, "to_seq": 2})
    assert [event.seq for event in events[1:]] == [3, 4]
    assert [event.type for event in await desk.events(after_seq=1)] == [
        GAP,
        "message.accepted",
        "recipient.accepted",
    ]
    assert GAP not in {event.type for event in await desk.events(after_seq=2)}
    # The time line of a message has a gap only where its own events are gone.
    assert [event.type for event in await desk.events(first)] == [GAP]
    assert GAP not in {event.type for event in await desk.events(second)}


async def test_a_gap_counts_for_the_limit(desk: Desk) -> None:
    await desk.add()
    desk.clock.advance(h=24 * 91)
    await desk.add()
    await retain(desk)

    events = await desk.store.list_events(EventFilter(), after_seq=0, limit=1)

    assert [event.type for event in events] == [GAP]


async def test_the_last_event_never_goes_so_that_numbers_go_on(desk: Desk) -> None:
    await desk.add()
    desk.clock.advance(h=24 * 365)
    while await retain(desk):
        pass
    last = await desk.store.last_seq()

    assert last == 2
    await desk.add()
    assert [event.seq for event in await desk.events(after_seq=last)] == [3, 4]


async def test_a_doubt_outlives_its_events(desk: Desk) -> None:
    """The audit at the end of each test must not cry where retention was at work."""
    message_id = await desk.add()
    await desk.bring(message_id, State.UNKNOWN)
    sent = await desk.add()
    await desk.deliver(sent)
    desk.clock.advance(h=24 * 91)
    held = await desk.add()
    await desk.bring(held, State.HELD)
    await retain(desk, messages=365, limit=1000)

    assert await desk.state(message_id) is State.UNKNOWN
    assert await desk.state(sent) is State.SENT
    assert len(desk.rows("SELECT 1 FROM events")) == 4


async def test_rates_are_forgotten(desk: Desk) -> None:
    for n in range(5):
        await desk.add(token_id=7, recipient_rate=(9, 60_000))
        desk.clock.advance(ms=n)
    desk.clock.advance(h=24 * 31)

    assert await retain(desk, limit=2, messages=365, events=365) == 2
    while await retain(desk, limit=2, messages=365, events=365):
        pass
    assert desk.rows("SELECT count(*) FROM recipient_rates") == [(0,)]


async def test_what_retention_removed_is_not_indexed(desk: Desk) -> None:
    message_id = await desk.add()
    await desk.deliver(message_id)
    desk.clock.advance(h=24 * 91)
    await retain(desk, events=365)

    assert await desk.store.index(limit=10) == 1

    assert desk.rows("SELECT count(*) FROM terms") == [(0,)]
    page = await desk.store.list_messages(
        MessageFilter(recipient="ann@example.org"), cursor=None, limit=9
    )
    assert (list(page.data), page.next_cursor) == ([], None)
