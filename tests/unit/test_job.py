"""Jobs on the wire: what our publisher makes reads back, and everything else is named."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.errors import Invalid
from emailerctl.models.job import (
    MOST_JOB_BYTES,
    Key,
    build_envelope,
    find_names,
    is_signed_with,
    parse_envelope,
    sign,
)

KEY = Key("shop", "0123456789abcdef0123456789abcdef")
FIELDS: dict[str, Any] = {
    "to": "ann@example.org",
    "subject": "100% off für 0.5",
    "text": "%s%n",
}


def envelope(**changes: Any) -> dict[str, Any]:
    """Return a signed job's envelope; what is None is left out."""
    built = build_envelope(FIELDS, topic="email.job", job_id="j-1", at_s=1_800_000_000, key=KEY)
    return {name: value for name, value in (built | changes).items() if value is not None}


def faults(message: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        parse_envelope(message)
    return {fault.pointer: fault.detail for fault in caught.value.faults}


def test_nothing_on_the_wire_can_harm_a_forestmq() -> None:
    for value in envelope().values():
        assert isinstance(value, int) or re.fullmatch(r"[A-Za-z0-9._:-]+", value)


def test_a_signature_is_what_the_documentation_says() -> None:
    """HMAC-SHA256 over six lines; computed once with openssl dgst -sha256 -hmac."""
    made = sign(KEY, topic="email.job", job_id="j-1", at_s=1, data="e30")

    assert made == "ebf08aceb384fbd76cd538d11443e583cc2a347ca47dcd24cba061d057be6d1f"


@settings(max_examples=40)
@given(
    fields=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9),
        st.text(st.characters(codec="utf-8"), max_size=40) | st.integers() | st.none(),
        max_size=9,
    ),
    topic=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    job_id=st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True),
    at_s=st.integers(1, 253_402_300_799),
    key=st.builds(
        Key,
        st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True),
        st.text(
            st.characters(codec="utf-8", exclude_characters="\0"), min_size=32, max_size=64
        ),
    ),
    other=st.text(
        st.characters(codec="utf-8", exclude_characters="\0"), min_size=32, max_size=64
    ),
)
def test_what_is_signed_verifies_with_its_key_alone(
    fields: dict[str, Any], topic: str, job_id: str, at_s: int, key: Key, other: str
) -> None:
    built = build_envelope(fields, topic=topic, job_id=job_id, at_s=at_s, key=key)
    read = parse_envelope(json.loads(json.dumps(built)))

    assert is_signed_with(read, key)
    assert (key.secret == other) is is_signed_with(read, Key(key.key_id, other))
    assert not is_signed_with(read, Key(f"{key.key_id}x", key.secret))
    assert isinstance(read.content, bytes)
    assert json.loads(read.content) == fields
    assert (read.topic, read.job_id, read.at_s) == (topic, job_id, at_s)


@pytest.mark.parametrize(
    "change", [{"topic": "email.bulk"}, {"id": "j-2"}, {"at": 1_800_000_001}, {"data": "e30"}]
)
def test_nothing_that_is_signed_can_be_changed(change: dict[str, Any]) -> None:
    assert is_signed_with(parse_envelope(envelope()), KEY)
    assert not is_signed_with(parse_envelope(envelope(**change)), KEY)


def test_a_plain_job_is_an_object_as_it_stands() -> None:
    plain = {"topic": "email.job", "v": 1, "id": "j", "job": FIELDS}

    read = parse_envelope(plain)

    assert read.content == FIELDS
    assert (read.key_id, read.signature, read.at_s) == ("", "", 0)


def test_base64_may_be_padded() -> None:
    assert parse_envelope(envelope(data="eyJhIjoxfQ==")).content == b'{"a":1}'


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"topic": None}, "/topic", "is missing"),
        ({"topic": "Email Job"}, "/topic", "does not fit"),
        ({"topic": 7}, "/topic", "7 does not fit"),
        ({"v": None}, "/v", "null is not 1"),
        ({"v": 2}, "/v", "2 is not 1, the version that this takes"),
        ({"v": True}, "/v", "true is not 1"),
        ({"v": "1"}, "/v", '"1" is not 1'),
        ({"id": None}, "/id", "is missing"),
        ({"id": ""}, "/id", "does not fit"),
        ({"id": "a b"}, "/id", "does not fit"),
        ({"id": "x" * 129}, "/id", "does not fit"),
        ({"enc": None}, "/enc", 'is not "b64u"'),
        ({"enc": "gzip"}, "/enc", 'is not "b64u"'),
        ({"data": None}, "/data", "is missing"),
        ({"data": "a+b/"}, "/data", "is not base64url"),
        ({"data": "abcde"}, "/data", "a character is missing"),
        ({"data": 5}, "/data", "is not base64url"),
        ({"data": None, "job": []}, "/job", "a list is not an object"),
        ({"job": {}}, "/job", "can't be signed"),
        ({"kid": None}, "/kid", "is missing; a signed job has kid, at, sig"),
        ({"sig": None}, "/sig", "is missing; a signed job has"),
        ({"at": None}, "/at", "is missing; a signed job has"),
        ({"kid": "Shop"}, "/kid", "does not fit"),
        ({"sig": "ABC"}, "/sig", "64 digits of hex"),
        ({"at": "now"}, "/at", "whole seconds since 1970"),
        ({"at": 10**18}, "/at", "whole seconds since 1970"),
        ({"at": True}, "/at", "whole seconds since 1970"),
        ({"priority": 1}, "/priority", "is unknown; known: at, data,"),
    ],
)
def test_every_bad_member_is_named(change: dict[str, Any], pointer: str, said: str) -> None:
    assert said in faults(envelope(**change))[pointer]


def test_all_faults_are_named_at_once() -> None:
    found = faults({"topic": "", "sig": "x", "more": 1, "job": 1})

    assert set(found) == {"/topic", "/id", "/v", "/sig", "/kid", "/at", "/more", "/job"}


def test_what_does_not_fit_is_refused_before_it_is_sent() -> None:
    """A body of 5 137 bytes ends a ForestMQ and everything that is queued in it."""
    with pytest.raises(Invalid) as caught:
        build_envelope(
            {"text": "x" * MOST_JOB_BYTES},
            topic="Email",
            job_id="no spaces",
            at_s=1,
            key=Key("Shop", "short"),
        )

    said = {fault.pointer: fault.detail for fault in caught.value.faults}
    assert set(said) == {"/topic", "/id", "/kid", "/sig", ""}
    assert "at most 3500 go through ForestMQ" in said[""]
    with pytest.raises(Invalid, match="not JSON"):
        build_envelope({"text": {1}}, topic="t", job_id="j", at_s=1, key=None)
    with pytest.raises(Invalid, match="not JSON"):
        build_envelope({"text": float("nan")}, topic="t", job_id="j", at_s=1, key=None)


def test_names_are_found_as_far_as_they_can_be_such() -> None:
    assert find_names(envelope()) == ("j-1", "shop")
    assert find_names({"id": "a b", "kid": 5}) == ("", "")
    assert find_names({}) == ("", "")


def test_a_secret_is_never_shown() -> None:
    assert KEY.secret not in repr(KEY) + str({"key": KEY})
