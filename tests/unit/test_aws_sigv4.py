"""Signature Version 4 against vectors of the vendor's own test suite."""

import re

import pytest

from emailerctl.models.clock import parse_moment
from emailerctl.providers.aws_sigv4 import Signer
from tests.unit.provider_case import load

SUITE = load("ses/sigv4.json")


@pytest.mark.parametrize("name", SUITE["requests"])
def test_the_vendors_vectors(name: str) -> None:
    asked = SUITE["requests"][name]
    signer = Signer(
        access_key_id=SUITE["access_key_id"],
        secret_access_key=SUITE["secret_access_key"],
        session_token=asked.get("session_token", ""),
        region=SUITE["region"],
        service=SUITE["service"],
    )
    headers = {"Host": "example.amazonaws.com", **asked.get("headers", {})}
    signed = signer.sign(
        asked["method"],
        "/",
        query=[(name, value) for name, value in asked.get("query", ())],
        headers=headers,
        body=asked.get("body", "").encode(),
        now_ms=parse_moment(SUITE["moment"]),
    )

    assert signed["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={asked['signed']}, Signature={asked['signature']}"
    )
    assert signed["X-Amz-Date"] == "20150830T123600Z"
    assert headers.items() <= signed.items()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": "/other"},
        {"query": [("a", "b")]},
        {"headers": {"Host": "other.amazonaws.com"}},
        {"body": b"x"},
        {"now_ms": 1_440_938_161_000},
    ],
    ids=str,
)
def test_whatever_is_signed_changes_the_signature(change: dict[str, object]) -> None:
    signer = Signer(
        access_key_id="AKIDEXAMPLE", secret_access_key="s", region="r", service="ses"
    )
    usual: dict[str, object] = {
        "method": "POST",
        "path": "/v2/email",
        "query": (),
        "headers": {"Host": "example.amazonaws.com"},
        "body": b"{}",
        "now_ms": 1_440_938_160_000,
    }
    signatures = {
        re.findall("Signature=(.*)", signer.sign(**arguments)["Authorization"])[0]  # type: ignore[arg-type]
        for arguments in (usual, {**usual, **change})
    }

    assert len(signatures) == 2
