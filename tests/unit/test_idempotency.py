"""Keys and fingerprints: what is the same request, and which fields differ."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.core.idempotency import check_key, differing_fields, fingerprint, hash_key
from emailerctl.errors import IdempotencyKeyInvalid
from tests import corpora

REQUEST = {
    "from": "Shop <no-reply@example.org>",
    "to": ["ann@example.org"],
    "subject": "Grüße",
    "metadata": {"order": "4711", "a": "b"},
    "expires_in": "15m",
}

json_values = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
requests = st.dictionaries(st.text(max_size=20), json_values, max_size=8)


@pytest.mark.parametrize("key", ["a", "x" * 255, "order 4711 ~!", '"quoted"'])
def test_a_key_is_printable_ascii(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "empty"),
        ("x" * 256, "256 characters"),
        ("a\n", "not printable"),
        ("a\x7f", "not printable"),
        ("schlüssel", "not printable"),
    ],
)
def test_any_other_key_is_refused(key: str, said: str) -> None:
    with pytest.raises(IdempotencyKeyInvalid, match=said) as caught:
        check_key(key)

    assert caught.value.detail.isprintable()


def test_a_key_belongs_to_its_service() -> None:
    assert len(hash_key("shop", "k")) == 16
    assert hash_key("shop", "k") == hash_key("shop", "k")
    pairs = [("a", "b1"), ("ab", "1"), ("ab1", ""), ("", "ab1"), ("1:a", "b")]
    assert len({hash_key(service, key) for service, key in pairs}) == len(pairs)


def test_the_encoding_is_the_one_that_stores_hold() -> None:
    """A change of these bytes turns every replay after an upgrade into a conflict."""
    assert fingerprint(REQUEST).hex() == (
        "0a657870697265735f696ed7b0d1566862500d0466726f6d1a1dffc6f72dfff4086d65746164"
        "617461dbdd3e649280636a077375626a6563749658c6346300115f02746ff68c6d29e1826ae2"
    )
    assert hash_key("shop", "order-4711").hex() == "032cae28e1e5b50be1e3c57970f82260"


def test_order_and_null_do_not_matter() -> None:
    turned = dict(reversed(REQUEST.items()))
    turned["metadata"] = {"a": "b", "order": "4711"}

    assert fingerprint(turned) == fingerprint(REQUEST)
    assert fingerprint({**REQUEST, "cc": None}) == fingerprint(REQUEST)
    assert fingerprint({}) == b""


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"subject": "Grüsse"}, ["subject"]),
        ({"subject": None}, ["subject"]),
        ({"cc": "bob@example.org"}, ["cc"]),
        ({"to": "ann@example.org"}, ["to"]),
        ({"to": ["b@c.org"], "text": "", "expires_in": "900s"}, ["expires_in", "text", "to"]),
        ({"text": '["a"]'}, ["text"]),
        (
            {"größe": True, "\ud800": 1, "x" * 300: 2},
            ["größe", "x" * 255, "\ufffd\ufffd\ufffd"],
        ),
    ],
)
def test_differing_fields_are_named(change: dict[str, object], names: list[str]) -> None:
    other = {**REQUEST, **change}

    assert differing_fields(fingerprint(REQUEST), fingerprint(other)) == names
    assert differing_fields(fingerprint(other), fingerprint(REQUEST)) == names


@pytest.mark.parametrize(
    ("one", "other"),
    [('["a"]', ["a"]), ("1", 1), (1, 1.0), (1, True), ("", []), ([], {}), ('"a', '\\"a')],
)
def test_values_of_different_kinds_differ(one: object, other: object) -> None:
    assert differing_fields(fingerprint({"a": one}), fingerprint({"a": other})) == ["a"]


@settings(max_examples=50)
@given(requests, requests)
def test_fingerprints_differ_where_the_requests_do(
    one: dict[str, object], other: dict[str, object]
) -> None:
    def said(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    expected = sorted(
        name
        for name in one.keys() | other.keys()
        if said(one.get(name)) != said(other.get(name))
    )
    assert differing_fields(fingerprint(one), fingerprint(other)) == expected


def test_naughty_strings_are_fields_like_any_other() -> None:
    for text in corpora.naughty_strings():
        base = fingerprint({"a": "x"})
        assert differing_fields(base, fingerprint({"a": text, text or "b": [text]}))
