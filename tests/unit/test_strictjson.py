"""Strict JSON (T-12): what is refused, that every refusal says why, and that none is slow."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.core.strictjson import MAX_DEPTH, MAX_KEYS, MAX_VALUES, load_object
from emailerctl.errors import MalformedJson
from tests import corpora

MIB = 2**20


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedJson) as caught:
        load_object(body)
    assert caught.value.detail.isprintable()
    return caught.value.detail


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def test_an_object_is_returned_as_it_is() -> None:
    body = '{"a": [1, -2.5e3, true, null, "ü😀"], "\\u00fc": {"b": "\\ud83d\\ude00"}}'.encode()

    assert load_object(body) == {"a": [1, -2500.0, True, None, "ü😀"], "ü": {"b": "😀"}}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\n ü"), inner),
    max_leaves=20,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abc"), json_values), st.booleans())
def test_what_json_writes_is_read(value: dict[str, object], ascii_only: bool) -> None:
    assert load_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[]", "not an object: the body is a list"),
        (b'"x"', 'not an object: the body is "x"'),
        (b"null", "not an object: the body is null"),
        (b'{"a":1', "line 1, column 7"),
        (b'{"a":1}\n{}', "extra data at line 2, column 1"),
        (b"{'a':1}", "line 1, column 2"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8 at byte 6"),
        (b'{"a":1,"b":2,"a":3}', 'the key "a" appears twice'),
        (b'{"x":{"a":1,"\\u0061":3}}', 'the key "a" appears twice'),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not"),
        (b'{"a":1e400}', '"1e400" is too big'),
        (b'{"a":' + b"9" * 5000 + b"}", "is too big"),
        (b'{"a":0.' + b"9" * 5000 + b"}", "is too big"),
        (b'{"a":["\\u0000"]}', "a NUL character (U+0000) in the text at"),
        (b'{"a":["x",{"b":"\\ud800"}]}', '(U+D800) in the text at "/a/1/b"'),
        (b'{"a":"\\udc00\\ud800"}', "half of a surrogate pair"),
        (b'{"a\\ud800":1}', "in a key"),
        (b'{"a":"\n"}', "invalid control character"),
        (nested(MAX_DEPTH + 1), "deeper than"),
        (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", "deeper than"),
        (b'{"a":' + b"[" * 50_000, "deeper than"),
        (b'{"a":[' + b"0," * MAX_VALUES + b"0]}", "values"),
        (json.dumps(dict.fromkeys(map(str, range(MAX_KEYS + 1)))).encode(), "keys"),
    ],
)
def test_a_refusal_says_why_and_where(body: bytes, said: str) -> None:
    assert said in refusal(body)


def test_the_limits_themselves_are_fine() -> None:
    assert load_object(nested(MAX_DEPTH))
    assert len(load_object(json.dumps(dict.fromkeys(map(str, range(MAX_KEYS)))).encode()))
    assert load_object(b'{"a":[' + b"0," * (MAX_VALUES - 10) + b"0]}")


def test_marks_of_structure_inside_text_are_text() -> None:
    text = '{[,"\\' * 50_000

    assert load_object(json.dumps({"html": text}).encode()) == {"html": text}


HOSTILE = {
    "lists": b"[" * (12 * MIB),
    "objects": b'{"a":' * (2 * MIB),
    "empty lists": b'{"a":[' + b"[]," * (4 * MIB) + b"0]}",
    "empty texts": b'{"a":[' + b'"",' * (4 * MIB) + b"0]}",
    "numbers": b'{"a":[' + b"1," * (6 * MIB) + b"0]}",
    "digits": b'{"a":' + b"1" * (12 * MIB) + b"}",
    "fraction": b'{"a":0.' + b"1" * (12 * MIB) + b"}",
    "quotes": b'"' * (12 * MIB),
    "escaped quotes": b'{"a":"' + b'\\",' * (4 * MIB),
    "backslashes": b'{"a":"' + b"\\" * (12 * MIB),
    "keys": b"{" + b",".join(b'"%d":1' % n for n in range(MAX_VALUES - 1)) + b"}",
    "space": b" " * (12 * MIB),
    "bad UTF-8 at the end": b'{"a":"' + b"x" * (12 * MIB) + b"\xff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_refusal_is_slow(name: str) -> None:
    started = time.process_time()
    refusal(HOSTILE[name])

    assert time.process_time() - started < 1.0  # a tenth or two, where nothing else runs


@pytest.mark.parametrize("character", ["x", ",", "ü", "😀", "\n", "\\"])
def test_a_big_text_is_not_slow(character: str) -> None:
    text = character * (6 * MIB // len(character.encode()))
    body = json.dumps({"text": text}, ensure_ascii=False).encode()
    started = time.process_time()

    assert load_object(body) == {"text": text}
    assert time.process_time() - started < 1.0


def test_valid_documents_of_the_suite_are_read_or_are_no_objects() -> None:
    documents = corpora.json_documents("y_")
    # Valid by the grammar; T-12 refuses them, as RFC 8259 4 and 8.2 let it.
    refused = {
        "y_object_duplicated_key.json": "twice",
        "y_object_duplicated_key_and_value.json": "twice",
        "y_object_escaped_null_in_key.json": "NUL",
    }
    objects = 0
    for name, body in documents:
        if name in refused:
            assert refused[name] in refusal(body)
        elif isinstance(json.loads(body), dict):
            assert load_object(body) == json.loads(body), name
            objects += 1
        else:
            assert "not an object" in refusal(body), name

    assert len(documents) == 95
    assert objects > 5


def test_invalid_documents_of_the_suite_are_refused() -> None:
    documents = corpora.json_documents("n_")
    for _, body in documents:
        refusal(body)
        with pytest.raises(MalformedJson):
            load_object(b'{"a":' + body + b"}")

    assert len(documents) == 188


def test_undecided_documents_of_the_suite_are_read_or_refused() -> None:
    documents = corpora.json_documents("i_")
    for _, body in documents:
        for wrapped in (body, b'{"a":' + body + b"}"):
            with suppress(MalformedJson):
                json.dumps(load_object(wrapped), ensure_ascii=False, allow_nan=False).encode()

    assert len(documents) == 35
