"""Waiting: reached, over, or still open; and what can't happen is refused at once."""

import pytest

from emailerctl.core.waiting import Verdict, judge, refuse_impossible
from emailerctl.errors import Conflict
from emailerctl.models.lifecycle import Cause, State
from tests.desk import Desk

S = State


@pytest.mark.parametrize(
    ("wanted", "reached", "ended"),
    [
        ({S.SENT}, {S.SENT, S.DELIVERED}, {S.BOUNCED, S.FAILED, S.CANCELLED}),
        ({S.DELIVERED}, {S.DELIVERED}, {S.BOUNCED, S.FAILED, S.CANCELLED}),
        ({S.DELIVERED, S.FAILED}, {S.DELIVERED, S.FAILED}, {S.BOUNCED, S.CANCELLED}),
        ({S.UNKNOWN}, {S.UNKNOWN}, {S.SENT, S.DELIVERED, S.BOUNCED, S.FAILED, S.CANCELLED}),
    ],
)
async def test_each_state_under_each_wish(
    desk: Desk, wanted: set[State], reached: set[State], ended: set[State]
) -> None:
    await desk.register()
    for state in State:
        message_id = await desk.add()
        await desk.bring(message_id, state)

        verdict = judge(await desk.load(message_id), wanted, reporting={"relay"})

        expected = Verdict.ENDED if state in ended else Verdict.OPEN
        assert verdict is (Verdict.REACHED if state in reached else expected), state


async def test_one_recipient_that_can_not_ends_the_wait(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add("a@example.org", "b@example.org")
    claim = await desk.start(message_id)
    assert judge(await desk.load(message_id), {S.SENT}, reporting=()) is Verdict.OPEN
    await desk.settle(claim, {1: Cause.HANDED_OVER, 2: Cause.DEFERRED}, marked=[1, 2])
    view = await desk.load(message_id)
    assert judge(view, {S.SENT}, reporting=()) is Verdict.OPEN
    assert judge(view, {S.DELIVERED}, reporting=()) is Verdict.ENDED  # nobody will report it
    assert judge(view, {S.DELIVERED}, reporting={"relay"}) is Verdict.OPEN


async def test_a_delivery_that_nobody_reports_is_refused(desk: Desk) -> None:
    view = await desk.load(await desk.add())
    for wanted in ({S.DELIVERED}, {S.DELIVERED, S.FAILED}):
        with pytest.raises(Conflict, match="relay, which never reports a delivery"):
            refuse_impossible(view, wanted, chain=("relay",), reporting={"pm"})
    refuse_impossible(view, {S.DELIVERED, S.SENT}, chain=("relay",), reporting=())
    refuse_impossible(view, {S.DELIVERED}, chain=("relay", "pm"), reporting={"pm"})
    refuse_impossible(view, {S.FAILED}, chain=("relay",), reporting=())
