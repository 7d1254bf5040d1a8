"""How bad values are shown, and which characters keep text out of a header line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.text import find_unencodable, find_unsafe, shorten


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ann", '"ann"'),
        ("", '""'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a\r\n\x1b[31m\u202e\u200b\ud800", '"a\\x0d\\x0a\\x1b[31m\\u202e\\u200b\\ud800"'),
        ("\U000e0001", '"\\U000e0001"'),
        ("x" * 58, '"' + "x" * 58 + '"'),
        ("x" * 59, '"' + "x" * 57 + '…"'),
        (5, "5"),
        (10**400, "a huge number"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
    ],
)
def test_a_value_is_shown_short_and_safe(value: object, shown: str) -> None:
    assert shorten(value) == shown


@given(st.text(st.characters()))
def test_text_of_any_kind_becomes_one_printable_line_of_at_most_60(text: str) -> None:
    shown = shorten(text)

    assert len(shown) <= 60
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Grüße, 日本 😀 \u200d\u00a0\u200f", ""),
        ("a\nb", "a line break (U+000A)"),
        ("a\u2028b", "a line break (U+2028)"),
        ("a\tb", "a control character (U+0009)"),
        ("a\x00b", "a control character (U+0000)"),
        ("a\x9fb", "a control character (U+009F)"),
        ("a\u202eb", "a bidirectional override (U+202E)"),
        ("a\u2066b", "a bidirectional override (U+2066)"),
        ("a\ud800b", "half of a surrogate pair (U+D800)"),
    ],
)
def test_a_header_line_holds_no_controls_overrides_or_halves(text: str, said: str) -> None:
    assert find_unsafe(text) == said


def test_a_body_holds_anything_but_nul_and_halves() -> None:
    assert find_unencodable("a\r\n\t\x1b\u202eü") == ""
    assert find_unencodable("a\0") == "a NUL character (U+0000)"
    assert find_unencodable("a\udfff") == "half of a surrogate pair (U+DFFF)"
