"""Public ids: text order is time order, prefixes are ranges, nothing else is one."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.ids import (
    MESSAGE,
    build_lease_token,
    build_message_id,
    first_id_at,
    parse_prefix,
    parse_public,
    to_public,
)

LARGEST = 2**63 - 1
NUMBERS = st.integers(0, LARGEST)
NOW_MS = 1_795_514_400_000
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@given(NUMBERS)
def test_a_public_id_is_read_back(number: int) -> None:
    text = to_public(MESSAGE, number)

    assert len(text) == len("msg_") + 13
    assert parse_public(MESSAGE, text) == number
    assert parse_public(MESSAGE, text.removeprefix("msg_").lower()) == number


@given(NUMBERS, NUMBERS)
def test_text_order_is_number_order(a: int, b: int) -> None:
    assert (to_public(MESSAGE, a) < to_public(MESSAGE, b)) == (a < b)


@given(NUMBERS, st.integers(1, 13), NUMBERS)
def test_a_prefix_means_exactly_the_ids_that_begin_with_it(
    number: int, length: int, another: int
) -> None:
    prefix = to_public(MESSAGE, number)[: 4 + length]

    bounds = parse_prefix(MESSAGE, prefix)

    assert bounds is not None
    low, high = bounds
    assert low <= number <= high <= LARGEST
    assert (low <= another <= high) == to_public(MESSAGE, another).startswith(prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "msg_",
        "msg_U",  # not in Crockford's alphabet
        "tok_0000000000000",
        "msg_00000000000000",  # a character too many
        "msg_8",  # more than 63 bits
        "msg_ZZZZZZZZZZZZZ",
        "msg_0 0",
        "é",
        "msg_\uff10",  # a digit, but not one of ours
    ],
)
def test_what_begins_no_id_is_none(text: str) -> None:
    assert parse_prefix(MESSAGE, text) is None
    assert parse_public(MESSAGE, text) is None


@given(st.text())
def test_any_text_is_an_id_or_none(text: str) -> None:
    bounds = parse_prefix(MESSAGE, text)

    assert bounds is None or 0 <= bounds[0] <= bounds[1] <= LARGEST


def test_look_alikes_are_read_as_what_was_meant() -> None:
    assert parse_public(MESSAGE, "msg_oO0iIlL100000") == parse_public(
        MESSAGE, "msg_0001111100000"
    )


def test_half_an_id_is_a_prefix_and_no_id() -> None:
    assert parse_prefix(MESSAGE, "1C6K9") is not None
    assert parse_public(MESSAGE, "1C6K9") is None


@given(st.integers(NOW_MS, NOW_MS + 10**12), st.integers(1, 10**9), st.randoms())
def test_ids_of_later_messages_are_larger(now_ms: int, later_ms: int, rng: Random) -> None:
    first, second = build_message_id(now_ms, rng), build_message_id(now_ms + later_ms, rng)

    assert first < second
    assert first_id_at(now_ms) <= first < first_id_at(now_ms + 1) <= second


@given(st.integers(-(10**18), 10**18))
def test_every_moment_has_a_first_id_that_a_store_can_hold(moment_ms: int) -> None:
    assert 0 <= first_id_at(moment_ms) <= LARGEST


@given(st.integers(-(10**15), 10**15), st.randoms())
def test_an_id_of_a_wrong_clock_is_an_id_all_the_same(now_ms: int, rng: Random) -> None:
    assert 0 <= build_message_id(now_ms, rng) <= LARGEST


def test_two_messages_of_one_millisecond_differ() -> None:
    rng = Random(1)

    assert len({build_message_id(NOW_MS, rng) for _ in range(500)}) > 490


@given(st.randoms())
def test_a_lease_token_is_never_nought(rng: Random) -> None:
    assert 0 < build_lease_token(rng) <= LARGEST


def test_the_alphabet_is_crockfords() -> None:
    assert "".join(to_public("x", number)[-1] for number in range(32)) == CROCKFORD
