"""How doubt ends by itself: when the next hop is asked how, and when its "no" is one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from emailerctl.core.outlook import Patience, Way
from emailerctl.core.unknown import (
    Moment,
    decide,
    decide_restored,
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
        doubted_ms=SINCE + 60_000,
        is_restored=False,
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
    assert (not question.objection) is counts


KEPT = Abilities(look_up_lag_ms=30 * MINUTE, look_up_kept_ms=2 * HOUR)


@pytest.mark.parametrize(
    ("moment", "changes", "objection"),
    [
        (after(108 * MINUTE), {}, ""),  # nine tenths
        (after(NO_FROM, boot="next"), {}, ""),
        # A repetition begins the lag anew; what is kept is kept since the first request.
        (
            after(100 * MINUTE),
            {"replayed_boot_ms": MARKED_BOOT + 80 * MINUTE},
            "it may take so long to show",
        ),
    ],
)
def test_a_no_counts_while_what_is_asked_about_is_kept(
    moment: Moment, changes: Mapping[str, Any], objection: str
) -> None:
    question = decide(build(**changes), KEPT, moment, PATIENCE)

    assert (question.way, question.objection) == (Way.LOOK_UP, objection)


@pytest.mark.parametrize(
    "moment", [after(109 * MINUTE), after(NO_FROM, boot="next", jump=2 * HOUR)]
)
def test_what_is_not_kept_any_more_is_not_asked_about(moment: Moment) -> None:
    """A "no" would mean nothing; from before a restart of the host the wall clock decides."""
    question = decide(build(), KEPT, moment, PATIENCE)

    assert (question.way, question.next_ms) == (None, None)
    assert question.silence


@pytest.mark.parametrize("ahead", [0, 20 * MINUTE, 40 * MINUTE, -40 * MINUTE])
def test_a_look_up_begins_before_the_attempt_whichever_clock_was_ahead(ahead: int) -> None:
    """F-CL-01: the copy that left under a clock that was ahead is younger there than we think.

    Else it would hide, and its "no" make a second copy.
    """
    truly_ms = SINCE - ahead  # when it left, by a clock that is right
    moment = after(NO_FROM + HOUR, jump=-ahead)  # which ours is by now

    question = decide(build(), SEEN, moment, PATIENCE)

    assert question.since_ms <= truly_ms - PATIENCE.skew_ms


@pytest.mark.parametrize(
    ("moment", "changes", "silence"),
    [
        (after(21 * HOUR + 37 * MINUTE), {}, "forgotten"),  # nine tenths of the window
        (after(MINUTE, boot="next"), {}, "restarted"),
        (after(2 * MINUTE, account="another"), {}, "account"),
        (after(2 * MINUTE), {"account": ""}, "account"),
        # Bob's doubt has ended: he may have it
        (after(2 * MINUTE), {"carried": (ANN, BOB)}, "names others"),
        (after(2 * MINUTE), {"carried": ()}, "names others"),
        (after(2 * MINUTE), {"marked_boot_ms": None}, "nothing more"),
        (after(2 * MINUTE), {"expires_ms": SINCE + MINUTE}, "expired"),
    ],
)
def test_a_request_is_not_repeated_where_that_could_be_a_second_copy(
    moment: Moment, changes: Mapping[str, Any], silence: str
) -> None:
    """The key is forgotten, is another account's, or somebody named is not in doubt."""
    question = decide(build(**changes), KEYED, moment, PATIENCE)

    assert (question.way, question.next_ms) == (None, None)
    assert silence in question.silence


def test_a_request_is_not_repeated_while_it_may_still_be_under_way() -> None:
    """Its consumer was killed a moment ago, and the kernel goes on sending."""
    early = decide(build(), KEYED, after(MINUTE), PATIENCE)

    assert early.way is None
    assert early.next_ms == SINCE + PATIENCE.settling_ms
    assert "under way" in early.silence
    assert decide(build(), KEYED, after(PATIENCE.settling_ms), PATIENCE).way is Way.REPLAY


def test_nor_while_its_repetition_may() -> None:
    changes = {"replayed": 1, "replayed_boot_ms": MARKED_BOOT + HOUR}

    early = decide(build(**changes), KEYED, after(HOUR + MINUTE), PATIENCE)

    assert (early.way, early.next_ms) == (None, SINCE + HOUR + PATIENCE.settling_ms)


def test_a_request_is_repeated_within_its_window_whatever_the_wall_clock_says() -> None:
    question = decide(build(), KEYED, after(HOUR, jump=-5 * HOUR), PATIENCE)

    assert question.way is Way.REPLAY
    assert question.replay_until_boot_ms == MARKED_BOOT + round(24 * HOUR * 0.9)


def test_nor_does_a_jump_of_the_clock_expire_it() -> None:
    """F-CL-01: else a minute of a wrong clock would end all questions."""
    doubt = build(expires_ms=SINCE + HOUR)
    moment = replace(after(2 * MINUTE, jump=24 * HOUR), may_expire=False)

    assert decide(doubt, KEYED, moment, PATIENCE).way is Way.REPLAY


def test_with_both_ways_it_is_looked_up_repeated_once_and_looked_up() -> None:
    """Brevo says of a known key that it is known, and not what came of it."""
    settled = after(PATIENCE.settling_ms)
    repeated = build(replayed=1, replayed_boot_ms=settled.boot_ms)

    assert decide(build(), BOTH, after(0), PATIENCE).way is Way.LOOK_UP
    assert decide(build(), BOTH, settled, PATIENCE).way is Way.REPLAY
    assert decide(repeated, BOTH, settled, PATIENCE).way is Way.LOOK_UP
    assert decide(build(), BOTH, after(14 * MINUTE), PATIENCE).way is Way.LOOK_UP


@pytest.mark.parametrize("boot", [BOOT, "next"])
def test_questions_become_rarer_hit_the_lag_and_end(boot: str) -> None:
    at_ms, asked, counted = 0, [], []
    while True:
        question = decide(build(), SEEN, after(at_ms, boot=boot), PATIENCE)
        if question.way is None or question.next_ms is None:
            break
        asked.append(at_ms)
        counted += [] if question.objection else [at_ms]
        at_ms = question.next_ms - SINCE

    if boot == BOOT:
        assert asked[:4] == [0, 5_000, 10_000, 20_000]
        assert counted[0] == NO_FROM
    assert counted
    assert len(asked) < 30
    assert at_ms + PATIENCE.most_ms > NO_FROM + PATIENCE.asking_ms


@pytest.mark.parametrize("abilities", [KEYED, SEEN, None])
def test_policy_resend_asks_a_last_time_and_then_sends(abilities: Abilities | None) -> None:
    """delivery.md §4.5: even while the request may be under way: a second copy is accepted."""
    doubt = build(on_unknown=OnUnknown.RESEND, resend_at_ms=SINCE + MINUTE)

    early = decide(doubt, abilities, after(50_000), PATIENCE)
    last = decide(doubt, abilities, after(MINUTE), PATIENCE)

    assert early.next_ms == SINCE + MINUTE
    assert (last.way is not None) is (abilities is not None)
    assert last.next_ms is None


def test_a_next_hop_that_is_not_in_the_settings_is_waited_for_a_while() -> None:
    assert decide(build(), None, after(HOUR), PATIENCE).next_ms == SINCE + 2 * HOUR
    assert decide(build(), None, after(13 * HOUR), PATIENCE).next_ms is None


def test_of_a_restored_store_only_a_copy_counts() -> None:
    """What was attempted since the backup nobody knows: not even that there was nothing."""
    doubt = build(is_restored=True, provider="", attempt=0, doubted_ms=SINCE)
    for ms, goes_on in ((0, True), (24 * HOUR, True), (40 * HOUR, False)):
        question = decide_restored(doubt, after(ms), PATIENCE, 24 * HOUR)
        assert (question.way, question.next_ms is not None) == (Way.LOOK_UP, goes_on)
        assert question.objection

    there = read_findings(doubt, {1: Finding(is_there=True, attempt=3)}, provider="mg")
    assert (there.conclusions[1].attempt, there.conclusions[1].provider) == (3, "mg")


def test_only_accepted_says_something_of_a_repeated_request() -> None:
    """A 429, a 422 or silence may come before the key is looked at."""
    for kind in (Kind.TRANSIENT, Kind.PERMANENT, Kind.UNKNOWN):
        answer = Sending(outcomes={1: Outcome(kind=kind, party=Party.MESSAGE, reply="429 no")})
        learnt = read_replay(build(), answer)
        assert learnt.conclusions == {}
        assert learnt.answers[1].text == "429 no; that says nothing of the first request"

    taken = Sending(outcomes={1: Outcome(kind=Kind.ACCEPTED, code=200)})
    assert read_replay(build(), taken).conclusions[1].cause is Cause.RESOLVED_SENT


def test_who_is_missing_from_an_answer_stays_in_doubt() -> None:
    doubt = build(recipients=(ANN, BOB))
    findings = {1: Finding(is_there=False, detail="no event names it")}

    early = read_findings(doubt, findings, objection="too early")
    assert early.conclusions == {}
    assert early.answers[1].text == "no event names it; that does not count: too early"
    assert early.answers[2].text == "no answer that says anything"
    late = read_findings(doubt, findings)
    assert (list(late.conclusions), list(late.answers)) == ([1], [2])
    there = read_findings(doubt, {2: Finding(is_there=True, attempt=1)}, objection="too early")
    said = there.conclusions[2]
    assert (said.cause, said.attempt) == (Cause.RESOLVED_SENT, 1)


async def take(desk: Desk, message_id: int) -> Doubt:
    now_ms = desk.clock.now_ms()
    (doubt,) = await desk.store.take_doubts(
        "relay", now_ms=now_ms, until_ms=now_ms + MINUTE, limit=9
    )
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

    taken = await desk.store.take_doubts("relay", now_ms=now_ms, until_ms=now_ms + 9, limit=9)
    assert taken == []
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
