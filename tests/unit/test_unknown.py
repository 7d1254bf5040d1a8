"""How doubt ends by itself: when the next hop is asked how, and when its "no" is one."""

from collections.abc import Mapping
from typing import Any

import pytest

from emailerctl.core.unknown import (
    Moment,
    Patience,
    Way,
    decide,
    read_findings,
    read_replay,
)
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.models.message import EnvelopeRecipient, Priority
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.providers.base import Abilities, Finding, Idempotency, Sending
from emailerctl.store.base import Conclusion, Doubt, Verb
from tests.desk import BOOT, Desk

MINUTE, HOUR = 60_000, 3_600_000
ANN, BOB = EnvelopeRecipient(1, "ann@example.org"), EnvelopeRecipient(2, "bob@example.org")
KEYED = Abilities(idempotency=Idempotency(field="key", window_ms=24 * HOUR))
SEEN = Abilities(look_up_lag_ms=30 * MINUTE)
BOTH = Abilities(
    idempotency=Idempotency(field="key", window_ms=15 * MINUTE), look_up_lag_ms=24 * HOUR
)
MARKED_BOOT, SINCE = 1_000_000, 1_795_514_400_000
PATIENCE = Patience()
NO_FROM = 30 * MINUTE + PATIENCE.settling_ms


def build(**fields: Any) -> Doubt:
    doubt = Doubt(
        message_id=1,
        attempt=2,
        provider="first",
        recipients=(ANN,),
        carried=(ANN,),
        service="shop",
        since_ms=SINCE,
        ended_ms=SINCE + 60_000,
        open_until_ms=SINCE + 660_000,
        boot_id=BOOT,
        marked_boot_ms=MARKED_BOOT,
        account="ours",
        asked=0,
        replayed=0,
        replayed_boot_ms=None,
        resend_at_ms=None,
        expires_ms=None,
        priority=Priority.NORMAL,
        on_unknown=OnUnknown.ASK,
        envelope_sender="shop@example.com",
        header_from="shop@example.com",
        needs_smtputf8=False,
        tags=(),
        metadata={},
    )
    return doubt._replace(**fields)


def after(ms: int, *, boot: str = BOOT, account: str = "ours", jump: int = 0) -> Moment:
    return Moment(
        now_ms=SINCE + ms + jump, boot_ms=MARKED_BOOT + ms, boot_id=boot, account=account
    )


@pytest.mark.parametrize(
    ("moment", "changes", "counts"),
    [
        (after(NO_FROM - 1), {}, False),
        (after(NO_FROM), {}, True),
        (after(NO_FROM + PATIENCE.asking_ms), {}, True),
        (after(MINUTE, jump=12 * HOUR), {}, False),  # only the wall clock is late
        (after(NO_FROM, account="another"), {}, False),
        (after(NO_FROM), {"account": ""}, False),
        (after(NO_FROM), {"marked_boot_ms": None}, False),
        (after(NO_FROM), {"replayed_boot_ms": MARKED_BOOT + MINUTE}, False),
        (after(0, boot="next"), {}, False),  # this boot is younger than the lag
        (after(NO_FROM, boot="next"), {}, True),
        (after(NO_FROM, jump=-HOUR), {}, False),
    ],
)
def test_a_no_counts_only_after_the_lag_of_the_account_that_was_asked(
    moment: Moment, changes: Mapping[str, Any], counts: bool
) -> None:
    """delivery.md §4.3, F-CL-01: whatever the wall clock says."""
    question = decide(build(**changes), SEEN, moment, PATIENCE)

    assert question.way is Way.LOOK_UP
    assert question.no_counts is counts


@pytest.mark.parametrize(
    ("moment", "changes"),
    [
        (after(21 * HOUR + 37 * MINUTE), {}),  # nine tenths of the window
        (after(MINUTE, boot="next"), {}),
        (after(MINUTE, account="another"), {}),
        (after(MINUTE), {"account": ""}),
        (after(MINUTE), {"carried": (ANN, BOB)}),  # Bob's doubt has ended: he may have it
        (after(MINUTE), {"carried": ()}),
        (after(MINUTE), {"marked_boot_ms": None}),
        (after(MINUTE), {"expires_ms": SINCE + MINUTE}),
    ],
)
def test_a_request_is_not_repeated_where_that_could_be_a_second_copy(
    moment: Moment, changes: Mapping[str, Any]
) -> None:
    """The key is forgotten, is another account's, or somebody named is not in doubt."""
    question = decide(build(**changes), KEYED, moment, PATIENCE)

    assert (question.way, question.next_ms) == (None, None)


def test_a_request_is_repeated_within_its_window_whatever_the_wall_clock_says() -> None:
    question = decide(build(), KEYED, after(HOUR, jump=-5 * HOUR), PATIENCE)

    assert question.way is Way.REPLAY
    assert question.replay_until_boot_ms == MARKED_BOOT + round(24 * HOUR * 0.9)


def test_after_the_window_it_is_looked_up() -> None:
    assert decide(build(), BOTH, after(13 * MINUTE), PATIENCE).way is Way.REPLAY
    assert decide(build(), BOTH, after(14 * MINUTE), PATIENCE).way is Way.LOOK_UP


def test_questions_become_rarer_hit_the_lag_and_end() -> None:
    at_ms, asked, counted = 0, [], []
    while True:
        question = decide(build(), SEEN, after(at_ms), PATIENCE)
        if question.way is None or question.next_ms is None:
            break
        asked.append(at_ms)
        counted += [at_ms] if question.no_counts else []
        at_ms = question.next_ms - SINCE

    assert asked[:4] == [0, 5_000, 10_000, 20_000]
    assert counted[0] == NO_FROM
    assert len(asked) < 30
    assert at_ms > NO_FROM + PATIENCE.asking_ms


@pytest.mark.parametrize("abilities", [KEYED, SEEN])
def test_policy_resend_asks_a_last_time_and_then_sends(abilities: Abilities) -> None:
    """delivery.md §4.5."""
    doubt = build(on_unknown=OnUnknown.RESEND, resend_at_ms=SINCE + MINUTE)

    early = decide(doubt, abilities, after(50_000), PATIENCE)
    last = decide(doubt, abilities, after(MINUTE), PATIENCE)

    assert early.next_ms == SINCE + MINUTE
    assert last.way is not None
    assert last.next_ms is None


def test_only_accepted_says_something_of_a_repeated_request() -> None:
    """A 429, a 422 or silence may come before the key is looked at."""
    for kind in (Kind.TRANSIENT, Kind.PERMANENT, Kind.UNKNOWN):
        answer = Sending(outcomes={1: Outcome(kind=kind, party=Party.MESSAGE)})
        assert read_replay(build(), answer) == {}

    taken = Sending(outcomes={1: Outcome(kind=Kind.ACCEPTED, code=200)})
    assert read_replay(build(), taken)[1].cause is Cause.RESOLVED_SENT


def test_who_is_missing_from_an_answer_stays_in_doubt() -> None:
    doubt = build(recipients=(ANN, BOB))
    findings = {1: Finding(is_there=False)}

    assert read_findings(doubt, findings, no_counts=False) == {}
    assert list(read_findings(doubt, findings, no_counts=True)) == [1]
    there = read_findings(doubt, {2: Finding(is_there=True, attempt=1)}, no_counts=False)
    assert (there[2].cause, there[2].attempt) == (Cause.RESOLVED_SENT, 1)


async def take(desk: Desk, message_id: int) -> Doubt:
    now_ms = desk.clock.now_ms()
    (doubt,) = await desk.store.take_doubts(now_ms=now_ms, until_ms=now_ms + MINUTE, limit=9)
    assert doubt.message_id == message_id
    return doubt


async def doubt_of(desk: Desk, **fields: Any) -> tuple[int, Doubt]:
    await desk.register(1)
    message_id = await desk.add(**fields)
    claim = await desk.start(message_id)
    assert await desk.settle(claim, Cause.UNANSWERED, marked=[1], can_ask=True)
    return message_id, await take(desk, message_id)


def no(attempt: int = 1) -> dict[int, Conclusion]:
    return {1: Conclusion(cause=Cause.RESOLVED_NOT_SENT, attempt=attempt, evidence={})}


def yes(attempt: int = 1) -> dict[int, Conclusion]:
    return {1: Conclusion(cause=Cause.RESOLVED_SENT, attempt=attempt, evidence={})}


async def conclude(desk: Desk, doubt: Doubt, what: dict[int, Conclusion]) -> None:
    await desk.store.conclude(doubt, what, next_ms=None, now_ms=desk.clock.now_ms())
    assert await desk.audit() == []


async def replay(desk: Desk, doubt: Doubt) -> bool:
    return await desk.store.mark_replay(
        doubt,
        now_ms=desk.clock.now_ms(),
        boot_ms=desk.clock.boot_ms(),
        final_reply_ms=60_000,
        may_expire=True,
    )


async def test_one_process_asks_at_a_time_and_another_when_it_died(desk: Desk) -> None:
    message_id, _doubt = await doubt_of(desk)
    now_ms = desk.clock.now_ms()

    assert await desk.store.take_doubts(now_ms=now_ms, until_ms=now_ms + 9, limit=9) == []
    desk.clock.advance(m=1)
    await take(desk, message_id)


async def test_a_no_queues_it_again(desk: Desk) -> None:
    message_id, doubt = await doubt_of(desk)

    await conclude(desk, doubt, no())

    assert await desk.state(message_id) is State.QUEUED
    assert (await desk.claim(message_id)).attempt == 2


async def test_a_no_from_before_a_repetition_does_not_count(desk: Desk) -> None:
    """Two consumers hold the doubt: one looked up, the other repeated the request."""
    message_id, doubt = await doubt_of(desk)

    assert await replay(desk, doubt)
    await conclude(desk, doubt, no())

    assert await desk.state(message_id) is State.UNKNOWN


async def test_a_request_is_repeated_by_one_of_two(desk: Desk) -> None:
    _message_id, doubt = await doubt_of(desk)

    assert [await replay(desk, doubt), await replay(desk, doubt)] == [True, False]


@pytest.mark.parametrize("event", ["resolved", "suppressed", "paused"])
async def test_a_request_is_not_repeated_any_more(desk: Desk, event: str) -> None:
    """An operator's word wins, F-CO-10, and a pause holds for it too."""
    message_id, doubt = await doubt_of(desk)
    if event == "resolved":
        await desk.report(message_id, Cause.RESOLVED_SENT)
    elif event == "suppressed":
        desk.change(
            "INSERT INTO suppressed (address, service, blocks, reason, detail, created_at,"
            " actor) VALUES ('ann@example.org', '', 'all', 'manual', '', 0, 'eve')"
        )
    else:
        desk.change(
            "INSERT INTO meta VALUES ('pause',"
            ' \'{"since_ms":0,"until_ms":null,"actor":"eve","reason":""}\')'
        )

    assert not await replay(desk, doubt)


async def test_a_copy_that_was_known_before_a_retry_says_nothing_of_the_retry(
    desk: Desk,
) -> None:
    """Sent, bounced, retried by an operator, unanswered: the first copy is no news."""
    await desk.register(1)
    message_id = await desk.add()
    await desk.deliver(message_id)
    await desk.report(message_id, Cause.BOUNCE_REPORTED)
    await desk.order(Verb.RETRY, message_id)
    claim = await desk.start(message_id)
    assert await desk.settle(claim, Cause.UNANSWERED, marked=[1], can_ask=True)

    await conclude(desk, await take(desk, message_id), yes(attempt=1))
    assert await desk.state(message_id) is State.UNKNOWN
