"""Cursors: opaque, and nobody's crash."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.event import Event, operator
from emailerctl.models.lifecycle import State
from emailerctl.models.page import EventFilter, decode_cursor, encode_cursor


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_is_read_back(position: int) -> None:
    cursor = encode_cursor(position)

    assert decode_cursor(cursor) == position
    assert cursor.isascii()
    assert "=" not in cursor


@given(st.text())
def test_any_text_is_a_position_or_a_value_error(text: str) -> None:
    try:
        position = decode_cursor(text)
    except ValueError:
        return
    assert 0 <= position < 2**63


@pytest.mark.parametrize(
    "said", ["", "-1", str(2**63), "9" * 5000, " 1", "1_0", "\u0661", "1.0", "nought"]
)
def test_what_is_no_position_is_no_cursor(said: str) -> None:
    cursor = base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")

    with pytest.raises(ValueError, match=r".*"):
        decode_cursor(cursor)


def test_a_cursor_of_another_alphabet_is_none() -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode_cursor("é")


EVENT = Event(
    seq=7,
    type="recipient.deferred",
    at_ms=1_795_514_400_000,
    message_id=1,
    recipient="Ann@example.org",
    from_state=State.SENDING,
    to_state=State.QUEUED,
    attempt=2,
    provider="relay",
    service="shop",
    reply="452 4.2.2 mailbox full",
    data={"enhanced_status": "4.2.2"},
)


@pytest.mark.parametrize(
    ("fitting", "other"),
    [
        ({"message_id": 1}, {"message_id": 2}),
        ({"service": "shop"}, {"service": "blog"}),
        ({"state": State.QUEUED}, {"state": State.SENDING}),
        ({"provider": "relay"}, {"provider": "backup"}),
        ({"recipient": "ann@EXAMPLE.org"}, {"recipient": "bob@example.org"}),
    ],
)
def test_a_filter_admits_what_fits_each_of_its_fields(
    fitting: dict[str, object], other: dict[str, object]
) -> None:
    assert EventFilter(**fitting).admits(EVENT)  # type: ignore[arg-type]
    assert not EventFilter(**other).admits(EVENT)  # type: ignore[arg-type]
    assert EventFilter().admits(EVENT)


def test_an_event_has_one_public_shape() -> None:
    assert EVENT.shape() == {
        "seq": 7,
        "type": "recipient.deferred",
        "at": "2026-11-24T10:00:00.000Z",
        "message_id": "msg_0000000000001",
        "recipient": "Ann@example.org",
        "from": "sending",
        "to": "queued",
        "attempt": 2,
        "provider": "relay",
        "service": "shop",
        "reply": "452 4.2.2 mailbox full",
        "data": {"enhanced_status": "4.2.2"},
    }
    assert Event(seq=1, type=operator("hold"), at_ms=0).shape()["message_id"] is None
