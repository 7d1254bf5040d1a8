"""Surveys: whom an order about many would touch, and whom it would leave alone."""

from dataclasses import replace
from functools import partial

import pytest

from emailerctl.core import bulk, operate
from emailerctl.core.bulk import Pick, Survey
from emailerctl.models.caller import build_local_caller
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, State
from emailerctl.models.page import MessageFilter
from emailerctl.store.base import CAUSES, Resolution, Verb, find_fitting
from tests.desk import Desk

EVERYTHING = MessageFilter()


def public(message_id: int) -> str:
    return to_public(MESSAGE, message_id)


async def survey(
    desk: Desk, verb: Verb, *states: State, filter_: MessageFilter = EVERYTHING
) -> Survey:
    resolution = Resolution.RESEND if verb is Verb.RESOLVE else None
    walk = partial(bulk.walk_messages, desk.store, now_ms=desk.clock.now_ms())
    return await bulk.survey_filter(walk, verb, filter_, states, resolution=resolution)


async def test_recipients_are_found_whatever_their_message_is_called(desk: Desk) -> None:
    """A message's own state is a fold: one unknown hides the failed ones beside it."""
    await desk.register()
    mixed = await desk.add("a@example.org", "b@example.org", "c@example.org")
    await desk.settle(
        await desk.start(mixed),
        {1: Cause.UNANSWERED, 2: Cause.ABANDONED, 3: Cause.HANDED_OVER},
        marked=[1, 2, 3],
    )
    plain = await desk.add("d@example.org")
    await desk.deliver(plain, Cause.ABANDONED)
    await desk.add("e@example.org")

    found = await survey(desk, Verb.RETRY, State.FAILED)

    assert found.picks == (
        Pick(public(mixed), ("b@example.org",)),
        Pick(public(plain), ("d@example.org",)),
    )
    assert found.touched == 2
    assert found.left == {State.UNKNOWN: 1, State.SENT: 1}


async def test_an_order_after_a_survey_sends_no_doubt_again(desk: Desk) -> None:
    """P2: what was failed when it was looked at, and is in doubt when it is carried out."""
    await desk.register()
    message_id = await desk.add("a@example.org", "b@example.org")
    await desk.settle(
        await desk.start(message_id), {1: Cause.UNANSWERED, 2: Cause.ABANDONED}, marked=[1, 2]
    )
    found = await survey(desk, Verb.RETRY, State.FAILED)
    (pick,) = found.picks

    done = await operate.carry_out(
        desk.store, desk.clock, build_local_caller("eve"), Verb.RETRY, pick.message,
        {"recipients": list(pick.addresses or ())},
    )  # fmt: skip

    assert done.changed == (2,)
    assert await desk.states(message_id) == [State.UNKNOWN, State.QUEUED]


async def test_filters_are_about_the_recipient_that_is_meant(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add("a@example.org", "b@example.org", tags=("news",))
    await desk.deliver(message_id, Cause.ABANDONED)
    other = await desk.add("a@example.org")
    await desk.deliver(other, Cause.ABANDONED)

    def narrow(**fields: str) -> MessageFilter:
        return replace(EVERYTHING, **fields)  # type: ignore[arg-type]

    for filter_, touched in (
        (narrow(recipient="A@example.org"), 2),
        (narrow(recipient="b@example.org"), 1),
        (narrow(tag="news"), 2),
        (narrow(provider="relay"), 3),
        (narrow(provider="other"), 0),
        (narrow(service="blog"), 0),
    ):
        found = await survey(desk, Verb.RETRY, State.FAILED, filter_=filter_)
        assert found.touched == touched


async def test_ids_are_counted_and_kept_whatever_they_mean(desk: Desk) -> None:
    await desk.register()
    sent, queued = await desk.add(), await desk.add("a@example.org", "b@example.org")
    await desk.deliver(sent)
    said = [public(sent), public(queued), "zzz"]

    load = partial(operate.load_message, desk.store, service=None)
    found = await bulk.survey_ids(load, Verb.CANCEL, said)
    narrowed = await bulk.survey_ids(load, Verb.CANCEL, said, recipients=["A@example.org"])

    assert found == Survey(
        picks=tuple(Pick(one) for one in said), touched=2, left={State.SENT: 1}, absent=1
    )
    assert (narrowed.touched, narrowed.left) == (1, {State.SENT: 1, State.QUEUED: 1})
    assert narrowed.picks[0].addresses == ("A@example.org",)


async def test_a_large_store_is_walked_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emailerctl.core.bulk.PAGE_LIMIT", 3)
    for _ in range(8):
        await desk.add()

    assert (await survey(desk, Verb.CANCEL, *State)).touched == 8


@pytest.mark.parametrize("order", CAUSES, ids=str)
def test_no_order_fits_what_went_out(order: tuple[Verb, Resolution | None]) -> None:
    fitting = find_fitting(*order)

    assert not fitting & {State.SENT, State.DELIVERED, State.SENDING}
    assert (State.UNKNOWN in fitting) == (order[0] is Verb.RESOLVE)
