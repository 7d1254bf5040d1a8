"""A time to send: another one, while it is queued; and clocks that jump."""

from hashlib import sha256

import pytest

from emailerctl.core.mime import build_date_field
from emailerctl.errors import Conflict
from emailerctl.models.lifecycle import Cause, WaitingFor
from emailerctl.store.base import OrderResult, Verb
from tests.desk import RETRY_MS, Desk

HOUR_MS = 3_600_000
RAW = build_date_field(0) + b"From: shop@example.com\r\n\r\nHello.\r\n"


async def move(desk: Desk, message_id: int, due_ms: int) -> OrderResult:
    return await desk.order(
        Verb.RESCHEDULE, message_id, send_at_ms=due_ms, date_field=build_date_field(due_ms)
    )


async def read_raw(desk: Desk, message_id: int) -> bytes:
    raw = await desk.store.load_raw(message_id)
    assert raw is not None
    assert (await desk.load(message_id)).content_hash == sha256(raw).digest()
    return raw


async def test_the_bytes_have_the_new_date_until_somebody_saw_them(desk: Desk) -> None:
    """I6: all attempts of a message carry the same hash."""
    await desk.register()
    later_ms = desk.clock.now_ms() + 3 * HOUR_MS
    message_id = await desk.add(raw=RAW, due_ms=desk.clock.now_ms() + HOUR_MS)

    await move(desk, message_id, later_ms)

    dated = await read_raw(desk, message_id)
    assert dated == build_date_field(later_ms) + RAW.partition(b"\r\n")[2]
    recipient = (await desk.load(message_id)).recipients[0]
    assert (recipient.due_ms, recipient.waiting_for) == (later_ms, WaitingFor.SEND_AT)
    assert await desk.due() == ()

    desk.clock.advance(h=3)
    claim = await desk.claim(message_id)
    assert claim.age_from_ms == later_ms  # max_age counts from there
    with pytest.raises(Conflict, match="handed over at this moment"):
        await move(desk, message_id, later_ms)
    await desk.settle(claim, Cause.DEFERRED, due_ms=desk.clock.now_ms() + RETRY_MS)

    await move(desk, message_id, later_ms + HOUR_MS)
    assert await read_raw(desk, message_id) == dated
    assert await desk.due() == ()
    desk.clock.advance(h=1)
    assert await desk.due() == (message_id,)


async def test_a_jump_of_the_clock_neither_loses_nor_hurries_what_is_scheduled(
    desk: Desk,
) -> None:
    """F-CL-01: it goes by the wall clock, which is what its sender means."""
    message_id = await desk.add(due_ms=desk.clock.now_ms() + HOUR_MS)
    due_ms = (await desk.load(message_id)).recipients[0].due_ms

    desk.clock.jump(-24 * HOUR_MS)
    assert await desk.store.shorten_waits(now_ms=desk.clock.now_ms(), longest_ms=HOUR_MS) == 0
    assert (await desk.load(message_id)).recipients[0].due_ms == due_ms
    assert await desk.due() == ()

    desk.clock.jump(25 * HOUR_MS)
    assert await desk.due() == (message_id,)


async def test_a_store_of_the_step_before_keeps_what_is_due(desk: Desk) -> None:
    """What a program of the release before has stored has no service, and has its turn too."""
    old, new = await desk.add(), await desk.add(service="shop")
    desk.change("UPDATE work SET service = '' WHERE message_id = ?", old)

    assert sorted(await desk.due()) == sorted([old, new])
