"""What may be put into a ForestMQ: nothing that it changes, nothing that ends it."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.queues.forestmq_client import (
    DOORBELL_BYTES,
    MOST_BYTES,
    Breaker,
    Trouble,
    Unsendable,
    build_body,
)
from tests.fakes import FakeClock
from tests.forestmq.texts import dump, misprint, parse

LIMIT = 5_120

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.from_regex(r"[A-Za-z0-9._:-]*", fullmatch=True)
    | st.sampled_from(["%s%s", "%n", "100% off", "%", "\0", "ü", "a b", '"', "\\", "%5$s"])
)
keys = st.text(max_size=8) | st.sampled_from(["topic", "v", "id", "n", "%s", "", "data"])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
messages = st.dictionaries(keys, anything, max_size=6)


@given(messages, st.sampled_from([DOORBELL_BYTES, MOST_BYTES]))
def test_what_goes_out_neither_ends_the_server_nor_is_changed(
    message: dict[str, Any], most_bytes: int
) -> None:
    """Whatever it is asked to send is refused, or comes back as it went."""
    try:
        body = build_body(message, most_bytes=most_bytes)
    except Unsendable:
        return

    assert len(body) <= most_bytes < LIMIT
    assert body.isascii()
    assert b"%" not in body
    queued = parse(body)["message"]
    assert len(dump(queued)) < LIMIT
    reply = dump({"queue_length": 1, "message_size": LIMIT, "message": queued}, indent=4)
    assert misprint(reply) == reply
    assert json.loads(misprint(reply))["message"] == message


@given(st.integers(min_value=0, max_value=2**63 - 1), st.integers(min_value=1, max_value=99))
def test_every_doorbell_can_be_sent(message_id: int, attempt: int) -> None:
    bell = {"topic": "t" * 64, "v": 1, "id": to_public(MESSAGE, message_id), "n": attempt}

    assert json.loads(build_body(bell)) == {"message": bell}


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"id": "100% off"}, "id has other characters"),
        ({"id": "ü"}, "id has other characters"),
        ({"a b": "x"}, 'the key "a b"'),
        ({"n": 0.5}, "n is neither text nor a whole number"),
        ({"n": True}, "n is neither text nor a whole number"),
        ({"n": None}, "n is neither text nor a whole number"),
        ({"n": 2**63}, "more than 64 bits"),
        ({"o": {}}, "o is neither text nor a whole number"),
        ({"l": [1]}, "l is neither text nor a whole number"),
        ({"id": "x" * 500}, "at most 512"),
    ],
)
def test_a_refusal_names_what_is_wrong(message: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsendable, match=named):
        build_body(message)


def test_a_breaker_rests_longer_with_every_fault_and_never_longer_than_its_most() -> None:
    clock = FakeClock()
    breaker = Breaker(clock, Random(1))
    assert breaker.rest_s == 0
    rests = []
    for _ in range(12):
        breaker.fail(Trouble.DOWN)
        rests.append(breaker.rest_s)
        clock.advance(s=rests[-1])
        assert breaker.rest_s == 0

    assert 0.05 <= rests[0] <= 0.1
    assert all(7.5 <= rest <= 15 for rest in rests[-3:])
    breaker.succeed()
    breaker.fail(Trouble.TIMED_OUT)
    assert breaker.rest_s <= 0.1


def test_a_refused_host_is_asked_slowly_at_once() -> None:
    """Only an operator can help there."""
    breaker = Breaker(FakeClock(), Random(1))
    breaker.fail(Trouble.HOST_REFUSED)

    assert breaker.rest_s >= 7.5
