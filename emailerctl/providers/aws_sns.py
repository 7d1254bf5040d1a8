"""Amazon SNS calls us: an envelope of JSON, signed with a certificate that SNS publishes.

    Signature  https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
    Envelope   https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html
    Repeats    https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html
                                                                            (read 2026-11-24)

Anybody with an AWS account has a topic, whose calls bear the same kind of signature: only the
configured topic is believed.  The certificate, and the answer to a new subscription's question,
go to the SNS of that topic's region and to no other place, whatever the call says.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from emailerctl.errors import Unavailable
from emailerctl.models.text import shorten
from emailerctl.providers.base import Malformed, NotVerified
from emailerctl.providers.http import find_moment, verify_age
from emailerctl.providers.http_client import (
    Answer,
    Request,
    Unreachable,
    ask_once,
    parse_json,
)

_TOPIC = re.compile(
    r"arn:(?P<partition>aws|aws-cn|aws-us-gov):sns:(?P<region>[a-z0-9-]{3,30}):[0-9]{12}:"
    r"[A-Za-z0-9_-]{1,256}"
)
# As in the examples of "Parsing Amazon SNS message formats" (HTTP notification JSON).
_CERTIFICATE_PATH = re.compile(r"/SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem")

_NOTIFICATION = "Notification"
_QUESTION = "SubscriptionConfirmation"
_SIGNED: Mapping[str, tuple[str, ...]] = {
    _NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    **dict.fromkeys(
        (_QUESTION, "UnsubscribeConfirmation"),
        ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    ),
}
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {"1": hashes.SHA1, "2": hashes.SHA256}

# `Timestamp` is when it was published, and stays that when the call is repeated: for an hour at
# most.  A replay changes nothing all the same: `MessageId` comes once only.
_REPEATED_MS = 65 * 60_000
_KEPT = 8
_FETCHES, _FETCHES_IN_S = 6, 60.0  # whoever forges calls does not make us ask more often


def parse_topic(arn: str) -> tuple[str, str]:
    """Return the region and the base URL of the SNS that a topic is at.

    Raises:
        ValueError: it is no ARN of a topic.
    """
    match = _TOPIC.fullmatch(arn)
    if match is None:
        raise ValueError(
            f"{shorten(arn)} is no topic; write for example "
            "arn:aws:sns:eu-west-1:123456789012:ses-events"
        )
    suffix = "amazonaws.com.cn" if match["partition"] == "aws-cn" else "amazonaws.com"
    return match["region"], f"https://sns.{match['region']}.{suffix}"


@dataclass(frozen=True, slots=True)
class _Certificate:
    key: RSAPublicKey
    begins_ms: int
    ends_ms: int


class Topic:
    """A topic that calls us: what it says is verified, and its question answered."""

    def __init__(self, arn: str, *, ca_file: Path | None, url: str = "") -> None:
        """Take the topic's ARN; empty: nobody is believed.

        Args:
            ca_file: certificates to trust, PEM.
            url: where its SNS is reached; empty: where the ARN says.
        """
        self._arn = arn
        self._pinned = parse_topic(arn)[1] if arn else ""
        self._url = url or self._pinned
        self._ca_file = ca_file
        self._certificates: dict[str, _Certificate] = {}
        self._fetched_at: list[float] = []
        self._fetching = asyncio.Lock()

    async def prepare(self, body: bytes) -> None:
        """Fetch the certificate that a call names, if it is of the topic's own SNS.

        Raises:
            NotVerified: the call is of another topic, or names another place.
            Unavailable: the certificate can't be had now.
        """
        url = self._find_certificate_url(self._read(body))
        async with self._fetching:
            if url in self._certificates:
                return
            self._count_fetch()
            answer = await self._ask(Request(method="GET", path=url.removeprefix(self._pinned)))
            if answer.status != 200 or not answer.is_whole:
                raise Unavailable(f"the certificate of SNS: status {answer.status}")
            while len(self._certificates) >= _KEPT:
                del self._certificates[next(iter(self._certificates))]
            self._certificates[url] = _read_certificate(answer.body)

    def verify(self, body: bytes, *, now_ms: int) -> str:
        """Check the signature; return the message's id, which comes once only.

        Raises:
            NotVerified: it is not the topic's, or too old.
        """
        call = self._read(body)
        certificate = self._certificates.get(self._find_certificate_url(call))
        if certificate is None:
            raise NotVerified("the certificate of SNS was not fetched")
        if not certificate.begins_ms <= now_ms <= certificate.ends_ms:
            raise NotVerified("the certificate of SNS is not valid now")
        hash_ = _HASHES.get(str(call.get("SignatureVersion")))
        if hash_ is None:
            raise NotVerified("the signature's version is none that we know")
        try:
            signature = base64.b64decode(str(call.get("Signature")), validate=True)
            certificate.key.verify(signature, _build_signed(call), PKCS1v15(), hash_())
        except (binascii.Error, ValueError, InvalidSignature):
            raise NotVerified("the signature is wrong") from None
        verify_age(find_moment(call.get("Timestamp")), now_ms, within_ms=_REPEATED_MS)
        return str(call.get("MessageId", ""))

    async def confirm(self, body: bytes) -> bool:
        """Say yes to a verified question for a subscription; True where there is no report.

        Raises:
            Unavailable: SNS can't be reached now.
        """
        call = self._read(body)
        if call["Type"] == _QUESTION:
            query = (
                ("Action", "ConfirmSubscription"),
                ("TopicArn", self._arn),
                ("Token", str(call.get("Token", ""))),
            )
            answer = await self._ask(Request(method="GET", path="/", query=query))
            if answer.status != 200:
                raise Unavailable(f"SNS: {answer.status} {answer.excerpt}")
        return bool(call["Type"] != _NOTIFICATION)

    def parse(self, body: bytes) -> str | None:
        """Return the message in a verified envelope; None where it is no notification.

        Raises:
            Malformed: there is none.
        """
        try:
            call = self._read(body)
        except NotVerified as error:
            raise Malformed(str(error)) from None
        message = call.get("Message")
        if not isinstance(message, str):
            raise Malformed("no Message in the envelope")
        return message if call["Type"] == _NOTIFICATION else None

    def _read(self, body: bytes) -> Mapping[str, Any]:
        """Read an envelope of the topic; nothing else in it is checked."""
        if not self._arn:
            raise NotVerified("no topic_arn is configured")
        call = parse_json(body)
        if not isinstance(call, dict) or call.get("Type") not in _SIGNED:
            raise NotVerified(
                "no envelope of SNS; the subscription must be without raw message delivery"
            )
        if call.get("TopicArn") != self._arn:
            raise NotVerified("the call is of another topic")
        return call

    def _find_certificate_url(self, call: Mapping[str, Any]) -> str:
        url = str(call.get("SigningCertURL", ""))
        path = url.removeprefix(self._pinned)
        if not url.startswith(self._pinned) or not _CERTIFICATE_PATH.fullmatch(path):
            raise NotVerified(f"the certificate is not at {self._pinned}")
        return url

    def _count_fetch(self) -> None:
        now = asyncio.get_running_loop().time()
        self._fetched_at = [at for at in self._fetched_at if now - at < _FETCHES_IN_S]
        if len(self._fetched_at) >= _FETCHES:
            raise Unavailable("too many certificates were asked for", retry_after_s=60)
        self._fetched_at.append(now)

    async def _ask(self, request: Request) -> Answer:
        try:
            return await ask_once(self._url, request, ca_file=self._ca_file)
        except Unreachable as error:
            raise Unavailable(f"SNS can't be reached: {error}") from error


def _read_certificate(pem: bytes) -> _Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError as error:
        raise Unavailable(f"the certificate of SNS can't be read: {error}") from error
    if not isinstance(key, RSAPublicKey):
        raise NotVerified("the certificate of SNS has no RSA key")
    return _Certificate(
        key,
        _to_ms(certificate.not_valid_before_utc),
        _to_ms(certificate.not_valid_after_utc),
    )


def _to_ms(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def _build_signed(call: Mapping[str, Any]) -> bytes:
    """Return what is signed: name and value of the fields that are there, a line each."""
    fields = (
        (name, call[name]) for name in _SIGNED[call["Type"]] if call.get(name) is not None
    )
    return "".join(f"{name}\n{value}\n" for name, value in fields).encode(errors="replace")
