"""Bodies of requests and of answers: what needs no network."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.providers.http_client import Answer, build_multipart
from tests.providers_server.dialects.base import Asked

# Answers


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"a":NaN']
)
def test_f_pr_03_any_body_can_be_asked_for_its_fields(body: bytes) -> None:
    assert Answer(status=200, body=body).json == {}


def test_f_pr_10_a_cut_body_is_no_json() -> None:
    assert Answer(status=200, body=b'{"id":"x"}', is_whole=False).json == {}
    assert Answer(status=200, body=gzip.compress(b'{"id":"x"}')).json == {}


# Requests


def test_a_form_comes_back() -> None:
    fields = [("to", "a@b.example"), ("to", "c@d.example"), ('v:a"b\r\nc', "ä\r\n--x")]
    content_type, body = build_multipart(fields, [("message", "m", "message/rfc822", b"A: b")])
    asked = Asked("POST", "/", {}, {"content-type": content_type}, body)

    assert asked.form[:3] == [*fields[:2], ("v:a%22b%0D%0Ac", "ä\r\n--x")]
    assert asked.form[3][0] == "message"


@given(content=st.binary(max_size=2000))
def test_without_its_last_byte_a_form_is_not_closed(content: bytes) -> None:
    content_type, body = build_multipart([], [("f", "f", "application/x", content)])
    boundary = content_type.partition("boundary=")[2].encode()

    assert body.endswith(b"\r\n--" + boundary + b"--")
    assert b"--" + boundary + b"--" not in body[:-1]
    assert boundary not in content
    assert build_multipart([], [("f", "f", "application/x", content)]) == (content_type, body)
