"""Signed return paths: what they hold, and that nobody else can make one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.verp import (
    ID_CHARACTERS,
    ReturnId,
    Signer,
    build_return_path,
    find_ids,
)

SIGNER = Signer(b"k" * 32)
MESSAGES = st.integers(0, 2**63 - 1)


@given(MESSAGES, st.integers(1, 50), st.integers(1, 65_535))
def test_what_was_signed_is_read_again(message_id: int, n: int, attempt: int) -> None:
    """In the case of the sender or of a mailer that likes capitals."""
    text = SIGNER.sign(message_id, n=n, attempt=attempt)

    assert len(text) == ID_CHARACTERS
    assert text == text.lower()
    assert SIGNER.verify(text) == SIGNER.verify(text.upper())
    assert SIGNER.verify(text) == ReturnId(message_id, n, attempt)


def test_several_recipients_and_endless_attempts_are_left_open() -> None:
    assert SIGNER.verify(SIGNER.sign(7, n=None, attempt=70_000)) == ReturnId(7, None, None)
    assert SIGNER.verify(SIGNER.sign(7, n=300, attempt=1)) == ReturnId(7, None, 1)


@given(MESSAGES, st.integers(0, ID_CHARACTERS - 1), st.sampled_from("abcdefghijklmnop234567"))
def test_one_other_character_makes_it_a_forgery(message_id: int, at: int, other: str) -> None:
    """Not even in the bits that stand for nothing."""
    text = SIGNER.sign(message_id, n=1, attempt=1)
    forged = text[:at] + other + text[at + 1 :]

    assert (SIGNER.verify(forged) is None) == (forged != text)


@pytest.mark.parametrize("text", ["", "a", "a" * 30, "a" * 31, "1" * 31, "ä" * 31, "a" * 32])
def test_what_is_no_id_is_none(text: str) -> None:
    assert SIGNER.verify(text) is None


def test_another_store_s_id_is_foreign() -> None:
    assert SIGNER.verify(Signer(b"other").sign(7, n=1, attempt=1)) is None


def test_the_address_fits_and_its_id_is_found() -> None:
    text = SIGNER.sign(2**63 - 1, n=50, attempt=65_535)
    address = build_return_path("b" * 32 + "@example.org", text)

    assert len(address.partition("@")[0]) == 64
    assert list(find_ids(f"for <{address}>; today")) == [text]
    assert list(find_ids(f"bounces+{text}=x, {text}a, {text.upper()}")) == [text, text.upper()]
