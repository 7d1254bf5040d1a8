"""The schedule, giving up, and what the outcomes of one attempt mean."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.core.retry import Decision, RetryPolicy, decide
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, WaitingFor
from emailerctl.models.message import EnvelopeRecipient, Priority
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.store.base import Claim

SCHEDULE_MS = (10_000, 60_000, 300_000)
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
POLICY = RetryPolicy(SCHEDULE_MS, max_age_ms=3 * DAY_MS, jitter=0)
NOW_MS = 1_795_514_400_000
FINAL_REPLY_MS = 600_000

OK = Outcome(kind=Kind.ACCEPTED)
SILENCE = Outcome(kind=Kind.UNKNOWN, party=Party.NEXT_HOP)
GREYLISTED = Outcome(kind=Kind.TRANSIENT, party=Party.RECIPIENT)
LATER = Outcome(kind=Kind.TRANSIENT, party=Party.MESSAGE)
HOP_DOWN = Outcome(kind=Kind.TRANSIENT, party=Party.NEXT_HOP)
HOP_REFUSES = Outcome(kind=Kind.PERMANENT, party=Party.NEXT_HOP)
NO_SUCH_USER = Outcome(kind=Kind.PERMANENT, party=Party.RECIPIENT)
NOT_WANTED = Outcome(kind=Kind.PERMANENT, party=Party.MESSAGE)
DEAD_CONNECTION = Outcome(kind=Kind.TRANSIENT, party=Party.MESSAGE, is_charged=False)


def build_claim(**fields: Any) -> Claim:
    built: dict[str, Any] = {
        "message_id": 1,
        "lease_token": 1,
        "service": "shop",
        "attempt": 1,
        "recipients": (EnvelopeRecipient(1, "ann@example.org"),),
        "is_whole": True,
        "next_hop": "relay",
        "chain_index": 0,
        "schedule_step": 0,
        "age_from_ms": NOW_MS,
        "due_ms": NOW_MS,
        "created_ms": NOW_MS,
        "expires_ms": None,
        "priority": Priority.NORMAL,
        "on_unknown": OnUnknown.ASK,
        "provider": "",
        "is_test": False,
        "is_alone": False,
        "envelope_sender": "shop@example.com",
        "header_from": "shop@example.com",
        "needs_smtputf8": False,
        "tags": (),
        "metadata": {},
        "template": "",
        "content_hash": b"",
        "size_bytes": 0,
        "raw": b"",
    }
    return Claim(**(built | fields))


def judge(
    outcomes: Outcome | Mapping[int, Outcome],
    *,
    claim: Claim | None = None,
    now_ms: int = NOW_MS,
    policy: RetryPolicy = POLICY,
    **fields: Any,
) -> Decision:
    by_number = outcomes if isinstance(outcomes, Mapping) else {1: outcomes}
    asked: dict[str, Any] = {"chain_length": 1, "chain_index": 0, "may_expire": True}
    return decide(
        by_number,
        claim or build_claim(),
        now_ms=now_ms,
        final_reply_ms=FINAL_REPLY_MS,
        policy=policy,
        rng=Random(1),
        **(asked | fields),
    )


# the schedule


@pytest.mark.parametrize(
    ("step", "seconds"), [(0, 10), (1, 60), (2, 300), (3, 300), (10_000, 300)]
)
def test_waits_follow_the_schedule_and_then_its_last(step: int, seconds: int) -> None:
    assert POLICY.delay_ms(step, Random(1)) == seconds * 1000


@given(st.integers(0, 5), st.randoms(), st.floats(0, 1))
def test_jitter_makes_a_wait_longer_by_a_part_of_it_at_most(
    step: int, rng: Random, jitter: float
) -> None:
    wait_ms = SCHEDULE_MS[min(step, 2)]

    delay_ms = RetryPolicy(SCHEDULE_MS, max_age_ms=1, jitter=jitter).delay_ms(step, rng)

    assert wait_ms <= delay_ms <= wait_ms * (1 + jitter) + 1


def test_what_failed_together_does_not_come_back_together() -> None:
    rng = Random(1)
    policy = RetryPolicy((60_000,), max_age_ms=1)

    waits = {policy.delay_ms(0, rng) for _ in range(200)}

    assert len(waits) > 150
    assert max(waits) - min(waits) > 10_000


# what an outcome means


@pytest.mark.parametrize(
    ("outcome", "cause", "reason"),
    [
        (OK, Cause.HANDED_OVER, None),
        (SILENCE, Cause.UNANSWERED, None),
        (GREYLISTED, Cause.DEFERRED, None),
        (LATER, Cause.DEFERRED, None),
        (HOP_DOWN, Cause.DEFERRED, None),
        (HOP_REFUSES, Cause.DEFERRED, None),  # F-PR-05, F-SM-05: not the message's fault
        (NO_SUCH_USER, Cause.REFUSED, None),
        (NOT_WANTED, Cause.ABANDONED, Reason.REJECTED),
    ],
)
def test_each_outcome_is_one_step(
    outcome: Outcome, cause: Cause, reason: Reason | None
) -> None:
    (settlement,) = judge(outcome).settlements.values()

    assert (settlement.cause, settlement.reason) == (cause, reason)
    assert settlement.outcome is outcome


@pytest.mark.parametrize(
    ("status", "reply", "is_hard"),
    [
        ("5.1.1", "550 5.1.1 no such user", True),
        ("", "550 user unknown", True),
        ("5.7.1", "550 5.7.1 relaying denied", False),  # a relay that is set up wrongly
        ("5.2.2", "552 5.2.2 mailbox full", False),
        ("", "550 no", False),
    ],
)
def test_a_refusal_says_whether_later_mail_is_pointless(
    status: str, reply: str, is_hard: bool
) -> None:
    outcome = replace(NO_SUCH_USER, enhanced_status=status, reply=reply)
    (settlement,) = judge(outcome).settlements.values()

    assert (settlement.cause, settlement.is_hard) == (Cause.REFUSED, is_hard)


def test_each_recipient_has_its_own_step() -> None:
    decision = judge({1: OK, 2: GREYLISTED, 3: NO_SUCH_USER, 4: SILENCE})

    assert [s.cause for s in decision.settlements.values()] == [
        Cause.HANDED_OVER,
        Cause.DEFERRED,
        Cause.REFUSED,
        Cause.UNANSWERED,
    ]
    assert decision.due_ms == NOW_MS + 10_000


@pytest.mark.parametrize("outcome", [GREYLISTED, LATER, HOP_DOWN, HOP_REFUSES])
def test_what_is_deferred_waits_and_the_schedule_advances(outcome: Outcome) -> None:
    decision = judge(outcome, claim=build_claim(schedule_step=1))

    assert (decision.due_ms, decision.schedule_step) == (NOW_MS + 60_000, 2)
    assert decision.waiting_for is WaitingFor.RETRY


def test_what_was_nobodys_fault_comes_back_soon_and_is_not_charged() -> None:
    decision = judge(DEAD_CONNECTION, claim=build_claim(schedule_step=2))

    assert decision.schedule_step == 2
    assert NOW_MS + 1_000 <= decision.due_ms <= NOW_MS + 2_000


def test_one_charged_outcome_is_enough_to_charge_the_attempt() -> None:
    assert judge({1: DEAD_CONNECTION, 2: GREYLISTED}).schedule_step == 1


# a wait that the server names


@pytest.mark.parametrize(
    ("named_ms", "waits_ms"),
    [
        (None, 10_000),
        (0, 10_000),
        (5_000, 10_000),  # it can only make ours longer
        (20_000, 20_000),
        (HOUR_MS, HOUR_MS),
        (HOUR_MS + 1, HOUR_MS),  # F-PR-07: an hour at the most
        (10**15, HOUR_MS),
    ],
)
def test_a_named_wait_is_honoured_up_to_an_hour(named_ms: int | None, waits_ms: int) -> None:
    outcome = Outcome(kind=Kind.TRANSIENT, retry_after_ms=named_ms)

    assert judge(outcome).due_ms == NOW_MS + waits_ms


def test_the_longest_named_wait_counts_also_where_nothing_is_charged() -> None:
    busy = Outcome(kind=Kind.TRANSIENT, retry_after_ms=30_000, is_charged=False)

    assert judge({1: busy, 2: DEAD_CONNECTION}).due_ms == NOW_MS + 30_000


# the chain


@pytest.mark.parametrize("outcome", [HOP_DOWN, HOP_REFUSES])
def test_a_next_hop_that_did_not_accept_passes_the_message_on_at_once(outcome: Outcome) -> None:
    decision = judge(outcome, chain_length=2)

    assert (decision.chain_index, decision.due_ms, decision.schedule_step) == (1, NOW_MS, 0)
    assert decision.waiting_for is WaitingFor.READY


def test_when_the_chain_is_exhausted_it_begins_anew_after_a_wait() -> None:
    decision = judge(HOP_DOWN, chain_length=2, chain_index=1)

    assert (decision.chain_index, decision.due_ms, decision.schedule_step) == (
        0,
        NOW_MS + 10_000,
        1,
    )


@pytest.mark.parametrize("outcome", [GREYLISTED, LATER, NO_SUCH_USER, NOT_WANTED, OK, SILENCE])
def test_no_other_outcome_passes_a_message_on(outcome: Outcome) -> None:
    """Above all not an unknown: two next hops share no identity."""
    decision = judge(outcome, chain_length=3)

    assert decision.chain_index == 0
    assert decision.settlements[1].cause is not Cause.DEFERRED or decision.due_ms > NOW_MS


def test_recipients_that_wait_for_themselves_keep_the_message_where_it_is() -> None:
    decision = judge({1: HOP_DOWN, 2: GREYLISTED}, chain_length=2)

    assert (decision.chain_index, decision.due_ms) == (0, NOW_MS + 10_000)


def test_an_unknown_does_not_go_along_with_what_is_passed_on() -> None:
    decision = judge({1: SILENCE, 2: HOP_DOWN}, chain_length=2)

    assert decision.settlements[1].cause is Cause.UNANSWERED
    assert decision.settlements[2].cause is Cause.DEFERRED
    assert decision.chain_index == 1


# age and expiry


@pytest.mark.parametrize(
    ("age_ms", "cause"), [(3 * DAY_MS - 1, Cause.DEFERRED), (3 * DAY_MS, Cause.ABANDONED)]
)
def test_a_message_that_is_too_old_is_given_up(age_ms: int, cause: Cause) -> None:
    (settlement,) = judge(GREYLISTED, now_ms=NOW_MS + age_ms).settlements.values()

    assert settlement.cause is cause
    assert settlement.reason is (Reason.EXHAUSTED if cause is Cause.ABANDONED else None)


def test_the_last_attempt_is_when_the_age_is_reached() -> None:
    now_ms = NOW_MS + 3 * DAY_MS - 4_000

    assert judge(GREYLISTED, now_ms=now_ms).due_ms == NOW_MS + 3 * DAY_MS


def test_nothing_waits_past_its_expiry() -> None:
    claim = build_claim(expires_ms=NOW_MS + 3_000)

    assert judge(GREYLISTED, claim=claim).due_ms == NOW_MS + 3_000
    expired = build_claim(expires_ms=NOW_MS - 1)
    assert judge(GREYLISTED, claim=expired).due_ms == NOW_MS  # and is given up there


@pytest.mark.parametrize("outcome", [OK, SILENCE, NO_SUCH_USER])
def test_age_has_no_say_in_what_is_decided(outcome: Outcome) -> None:
    old = judge(outcome, now_ms=NOW_MS + 30 * DAY_MS).settlements[1]

    assert old.cause is judge(outcome).settlements[1].cause


@pytest.mark.parametrize("expires_ms", [None, NOW_MS + 1_000])
def test_after_a_jump_of_the_clock_waits_are_as_usual(expires_ms: int | None) -> None:
    """F-CL-01: not given up by age, and not tried again without a pause either."""
    decision = judge(
        GREYLISTED,
        claim=build_claim(expires_ms=expires_ms),
        now_ms=NOW_MS + 30 * DAY_MS,
        may_expire=False,
    )

    assert decision.settlements[1].cause is Cause.DEFERRED
    assert decision.due_ms == NOW_MS + 30 * DAY_MS + 10_000


# a second copy by policy


@pytest.mark.parametrize(
    ("policy", "expires_in_ms", "resend_in_ms"),
    [
        (OnUnknown.ASK, None, None),
        (OnUnknown.RESEND, None, FINAL_REPLY_MS),
        (OnUnknown.RESEND, 800_000, 200_000),
    ],
)
def test_policy_says_when_an_unknown_goes_out_again(
    policy: OnUnknown, expires_in_ms: int | None, resend_in_ms: int | None
) -> None:
    expires_ms = None if expires_in_ms is None else NOW_MS + expires_in_ms
    claim = build_claim(on_unknown=policy, expires_ms=expires_ms)

    (settlement,) = judge(SILENCE, claim=claim).settlements.values()

    expected = None if resend_in_ms is None else NOW_MS + resend_in_ms
    assert settlement.resend_at_ms == expected


OUTCOMES = st.sampled_from(
    [OK, SILENCE, GREYLISTED, HOP_DOWN, HOP_REFUSES, NO_SUCH_USER, NOT_WANTED, DEAD_CONNECTION]
)


@given(
    st.dictionaries(st.integers(1, 5), OUTCOMES, min_size=1),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(-(10**6), 10**12),
    st.none() | st.integers(-(10**6), 10**12),
    st.booleans(),
)
def test_any_decision_settles_everybody_and_never_goes_back_in_time(
    outcomes: dict[int, Outcome],
    chain_length: int,
    chain_index: int,
    age_ms: int,
    expires_in_ms: int | None,
    may_expire: bool,
) -> None:
    claim = build_claim(
        age_from_ms=NOW_MS - age_ms,
        expires_ms=None if expires_in_ms is None else NOW_MS + expires_in_ms,
    )

    decision = judge(
        outcomes,
        claim=claim,
        chain_length=chain_length,
        chain_index=min(chain_index, chain_length - 1),
        may_expire=may_expire,
    )

    assert decision.settlements.keys() == outcomes.keys()
    assert decision.due_ms >= NOW_MS
    assert 0 <= decision.chain_index < chain_length
