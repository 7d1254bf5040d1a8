"""The life cycle, enumerated: every state with every cause, against the table of the design."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.lifecycle import (
    FINAL,
    POSITIVE_EVIDENCE,
    STEPS,
    WORKING,
    Cause,
    State,
    advance,
    fold,
    resend_wait_ms,
    sources,
)

# cause: from -> to, as the design has it; whatever is not here does not happen.
TABLE = """
marked             queued                                                        -> sending
handed_over        sending                                                       -> sent
deferred           queued sending                                                -> queued
refused            queued sending unknown                                        -> bounced
abandoned          queued sending unknown held                                   -> failed
unanswered         sending                                                       -> unknown
interrupted        sending                                                       -> unknown
fenced             queued sending held                                           -> unknown
resolved_sent      unknown sending queued held failed cancelled                  -> sent
resolved_not_sent  unknown                                                       -> queued
resent             unknown                                                       -> queued
delivery_reported  sending unknown sent queued held failed cancelled             -> delivered
bounce_reported    sending unknown sent delivered queued held failed cancelled   -> bounced
held               queued                                                        -> held
released           held                                                          -> queued
cancelled          queued held                                                   -> cancelled
retried            queued failed bounced cancelled                               -> queued
"""
EXPECTED: dict[tuple[State, Cause], State] = {}
for line in TABLE.strip().splitlines():
    left, _, to_state = line.partition(" -> ")
    name, *from_states = left.split()
    for from_state in from_states:
        EXPECTED[State(from_state), Cause(name)] = State(to_state.strip())

EVERY_STEP = list(itertools.product(State, Cause))


@pytest.mark.parametrize(("state", "cause"), EVERY_STEP)
def test_every_cause_in_every_state_does_what_the_table_says(
    state: State, cause: Cause
) -> None:
    assert advance(state, cause) is EXPECTED.get((state, cause), state)


@pytest.mark.parametrize("cause", Cause)
def test_the_guard_of_a_cause_is_the_states_that_the_table_has(cause: Cause) -> None:
    assert sources(cause) == {state for state, c in EXPECTED if c is cause}


def test_the_table_has_every_cause_but_acceptance_which_begins_it() -> None:
    assert set(STEPS) == set(Cause) - {Cause.ACCEPTED} == {cause for _state, cause in EXPECTED}


def test_nothing_leads_from_past_the_point_of_no_return_to_queued_without_a_no() -> None:
    """Never twice: only a definite "not accepted" or somebody who answers for it."""
    back = {
        cause
        for (state, cause), to_state in EXPECTED.items()
        if state in (State.SENDING, State.UNKNOWN) and to_state is State.QUEUED
    }

    assert back == {Cause.DEFERRED, Cause.RESOLVED_NOT_SENT, Cause.RESENT}
    assert advance(State.UNKNOWN, Cause.DEFERRED) is State.UNKNOWN


def test_what_went_out_is_never_queued_again() -> None:
    for state in (State.SENT, State.DELIVERED):
        assert State.QUEUED not in {advance(state, cause) for cause in Cause}


def test_positive_evidence_always_ends_a_doubt_without_a_second_copy() -> None:
    for cause in POSITIVE_EVIDENCE:
        assert State.UNKNOWN in sources(cause)
        assert STEPS[cause][1] in FINAL


@given(st.lists(st.sampled_from(Cause)))
def test_random_causes_never_leave_the_table(causes: list[Cause]) -> None:
    state = State.QUEUED
    for cause in causes:
        before, state = state, advance(state, cause)
        assert state is before or EXPECTED[before, cause] is state


def test_states_that_work_and_states_that_are_final_are_apart() -> None:
    assert {State.QUEUED, State.SENDING} == WORKING
    assert frozenset({State.UNKNOWN, State.HELD}) == frozenset(State) - WORKING - FINAL


ORDER = (
    "unknown",
    "sending",
    "queued",
    "held",
    "failed",
    "bounced",
    "sent",
    "delivered",
    "cancelled",
)


@given(st.lists(st.sampled_from(State), min_size=1))
def test_a_message_has_the_first_state_that_any_recipient_has(states: list[State]) -> None:
    assert fold(states) == next(name for name in ORDER if name in states)


def test_a_message_without_recipients_has_no_state() -> None:
    with pytest.raises(ValueError, match="without recipients"):
        fold([])


@pytest.mark.parametrize(
    ("expires_ms", "wait_ms"),
    [
        (None, 600_000),
        (10_000_000, 600_000),  # far away
        (1_000_000 + 900_000, 225_000),  # a quarter of what is left
        (1_000_000, 0),
        (5, 0),  # long ago
    ],
)
def test_a_second_copy_waits_for_the_answer_but_not_past_the_use_of_it(
    expires_ms: int | None, wait_ms: int
) -> None:
    assert resend_wait_ms(600_000, expires_ms=expires_ms, now_ms=1_000_000) == wait_ms
