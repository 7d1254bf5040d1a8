"""Calls of SNS for SES: their certificate fetched over TLS, their questions answered.

The server is a real one; only the address that the topic's SNS has in the world is replaced.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from emailerctl.errors import Unavailable
from emailerctl.models.clock import to_text
from emailerctl.providers.base import AsksBack, Malformed, NotVerified, ReportKind
from emailerctl.providers.ses import SesReports, SesSettings
from tests.unit.provider_case import NOW_MS, load

EVENTS = load("ses/events.json")["events"]
ARN = "arn:aws:sns:eu-west-1:123456789012:ses-events"
SNS = "https://sns.eu-west-1.amazonaws.com"
CERTIFICATE = f"{SNS}/SimpleNotificationService-7ff5318490ec183fbaddaa2a969abfda.pem"
HOUR_MS = 3_600_000
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def build_certificate(key: Any = KEY, *, days: int = 30, begins_ms: int = NOW_MS) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    begins = datetime.fromtimestamp(begins_ms / 1000, UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
SIGNED["UnsubscribeConfirmation"] = SIGNED["SubscriptionConfirmation"]


def build_call(
    *, key: Any = KEY, version: str = "2", at_ms: int = NOW_MS, **fields: Any
) -> bytes:
    """Return a call as SNS signs it."""
    call = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": ARN,
        "Subject": "Amazon SES Email Event Notification",
        "Message": json.dumps(EVENTS["delivered"]) + "\n",
        "Timestamp": to_text(at_ms),
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        "UnsubscribeURL": f"{SNS}/?Action=Unsubscribe",
        **fields,
    }
    call = {name: value for name, value in call.items() if value is not None}
    text = "".join(f"{n}\n{call[n]}\n" for n in SIGNED[call["Type"]] if n in call)
    hash_ = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = key.sign(text.encode(), PKCS1v15(), hash_)
    return json.dumps({**call, "Signature": base64.b64encode(signature).decode()}).encode()


def build_question(**fields: Any) -> bytes:
    return build_call(
        Type="SubscriptionConfirmation",
        Subject=None,
        Token="2336412f37fb687f5d51e6e2425c464d",
        SubscribeURL=f"{SNS}/?Action=ConfirmSubscription",
        Message="You have chosen to subscribe to the topic.",
        **fields,
    )


@dataclass
class Sns:
    """What listens instead of SNS."""

    url: str = ""
    status: int = 200
    body: bytes = field(default_factory=build_certificate)
    headers: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split(" ")[1])
        writer.write(
            f"HTTP/1.1 {self.status} x\r\n{self.headers}"
            f"Content-Length: {len(self.body)}\r\n\r\n".encode()
            + self.body
        )
        await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest_asyncio.fixture
async def sns(authority: trustme.CA) -> AsyncIterator[Sns]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    fake = Sns()
    server = await asyncio.start_server(fake.serve, "localhost", 0, ssl=context)
    fake.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    yield fake
    server.close()
    await server.wait_closed()


@pytest.fixture
def reports(sns: Sns, authority: trustme.CA, tmp_path: Path) -> SesReports:
    return build_reports(sns, authority, tmp_path)


def build_reports(
    sns: Sns, authority: trustme.CA, folder: Path, *, topic_arn: str = ARN
) -> SesReports:
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    settings = SesSettings.model_validate(
        {
            "region": "eu-west-1",
            "access_key_id": "k",
            "secret_access_key": "s",
            "topic_arn": topic_arn,
            "ca_file": str(ca_file),
        }
    )
    return SesReports(settings, sns_url=sns.url)


async def receive(reports: SesReports, body: bytes, *, now_ms: int = NOW_MS) -> str:
    assert isinstance(reports, AsksBack)
    await reports.prepare({}, body)
    return reports.verify({}, body, now_ms=now_ms)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_f_wi_01_a_good_signature(reports: SesReports, sns: Sns, version: str) -> None:
    body = build_call(version=version)
    once = await receive(reports, body)
    (report,) = reports.parse(body)

    assert once == "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"
    assert (report.kind, report.recipient) == (ReportKind.DELIVERED, "bob@example.org")
    assert not await reports.confirm(body)
    assert sns.asked == [urlsplit(CERTIFICATE).path]


async def test_a_call_without_a_subject_is_signed_without_it(reports: SesReports) -> None:
    assert await receive(reports, build_call(Subject=None))


async def test_the_certificate_is_fetched_once(reports: SesReports, sns: Sns) -> None:
    await asyncio.gather(*(receive(reports, build_call()) for _ in range(5)))

    assert len(sns.asked) == 1


async def test_f_wi_01_a_call_is_repeated_for_an_hour_with_its_first_timestamp(
    reports: SesReports,
) -> None:
    body = build_call()

    assert await receive(reports, body, now_ms=NOW_MS + HOUR_MS)
    with pytest.raises(NotVerified, match="65 minutes old"):
        await receive(reports, body, now_ms=NOW_MS + HOUR_MS + 301_000)
    with pytest.raises(NotVerified, match="future"):
        await receive(reports, body, now_ms=NOW_MS - 301_000)


def alter(body: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(body), **fields}).encode()


OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "body",
    [
        alter(build_call(), Message="{}"),
        alter(build_call(), MessageId="other"),
        alter(build_call(), Subject="other"),
        alter(build_call(), Timestamp=to_text(NOW_MS + 1000)),
        alter(build_call(), SignatureVersion="1"),
        alter(build_call(), Signature="!"),
        alter(build_call(), Signature=None),
        alter(build_call(), Signature="AAAA"),
        alter(build_question(), Token="other"),
        alter(build_question(), SubscribeURL="https://evil.example"),
        alter(build_question(), Type="Notification"),
        build_call(key=OTHER),
    ],
    ids=range(12),
)
async def test_f_wi_01_a_bad_signature(reports: SesReports, body: bytes) -> None:
    with pytest.raises(NotVerified, match="signature is wrong"):
        await receive(reports, body)


async def test_f_wi_01_a_version_that_we_do_not_know(reports: SesReports) -> None:
    with pytest.raises(NotVerified, match="version"):
        await receive(reports, build_call(SignatureVersion="3"))


@pytest.mark.parametrize(
    "url",
    [
        CERTIFICATE.replace("https:", "http:"),
        CERTIFICATE.replace("eu-west-1", "us-east-1"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com.evil.example"),
        CERTIFICATE.replace("https://", "https://evil.example/?x=https://"),
        CERTIFICATE.replace(".com/", ".com@evil.example/"),
        CERTIFICATE.replace(".com/", ".com:8443/"),
        f"{SNS}/SimpleNotificationService-1.pem?x=.pem",
        f"{SNS}/../SimpleNotificationService-1.pem",
        f"{SNS}/evil.pem",
        "",
        None,
    ],
    ids=str,
)
async def test_f_wi_01_a_certificate_from_elsewhere_is_not_fetched(
    reports: SesReports, sns: Sns, url: str | None
) -> None:
    """T-15: whoever calls does not say where we connect to."""
    body = build_call(SigningCertURL=url)

    with pytest.raises(NotVerified, match="certificate is not at"):
        await reports.prepare({}, body)
    with pytest.raises(NotVerified, match="certificate is not at"):
        reports.verify({}, body, now_ms=NOW_MS)
    assert sns.asked == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no envelope"),
        (b"[]", "no envelope"),
        (b'{"eventType": "Delivery"}', "raw message delivery"),
        (build_call(TopicArn="arn:aws:sns:eu-west-1:999999999999:ses-events"), "another topic"),
    ],
)
async def test_f_wi_01_what_is_not_the_topics_costs_no_request(
    reports: SesReports, sns: Sns, body: bytes, says: str
) -> None:
    """Anybody has a topic; what another one says is signed as well."""
    with pytest.raises(NotVerified, match=says):
        await reports.prepare({}, body)
    with pytest.raises(NotVerified, match=says):
        reports.verify({}, body, now_ms=NOW_MS)
    assert sns.asked == []


async def test_f_wi_01_without_a_topic_nothing_is_believed(
    sns: Sns, authority: trustme.CA, tmp_path: Path
) -> None:
    reports = build_reports(sns, authority, tmp_path, topic_arn="")

    with pytest.raises(NotVerified, match="topic_arn"):
        await reports.prepare({}, build_call())


def test_f_wi_01_unprepared_it_is_not_verified(reports: SesReports) -> None:
    with pytest.raises(NotVerified, match="not fetched"):
        reports.verify({}, build_call(), now_ms=NOW_MS)


async def test_f_wi_01_a_certificate_that_has_ended(reports: SesReports, sns: Sns) -> None:
    sns.body = build_certificate(begins_ms=NOW_MS - 60 * 86_400_000)

    with pytest.raises(NotVerified, match="not valid now"):
        await receive(reports, build_call())


async def test_f_wi_01_a_certificate_of_another_kind(reports: SesReports, sns: Sns) -> None:
    sns.body = build_certificate(ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(NotVerified, match="no RSA key"):
        await receive(reports, build_call())


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (404, b"", ""),
        (200, b"not a certificate", ""),
        (302, b"", "Location: https://evil.example/x.pem\r\n"),
        (200, b"x" * 300_000, ""),
    ],
)
async def test_f_wi_04_a_certificate_that_can_not_be_had_is_asked_for_again(
    reports: SesReports, sns: Sns, status: int, body: bytes, headers: str
) -> None:
    good, sns.body, sns.status, sns.headers = sns.body, body, status, headers
    with pytest.raises(Unavailable):
        await reports.prepare({}, build_call())
    sns.body, sns.status, sns.headers = good, 200, ""

    assert await receive(reports, build_call())


async def test_f_wi_04_an_sns_that_is_away(authority: trustme.CA, tmp_path: Path) -> None:
    reports = build_reports(Sns(url="https://localhost:9"), authority, tmp_path)

    with pytest.raises(Unavailable, match="can't be reached"):
        await reports.prepare({}, build_call())


async def test_t_16_an_sns_with_a_certificate_that_nobody_trusts(
    sns: Sns, tmp_path: Path
) -> None:
    reports = build_reports(sns, trustme.CA(), tmp_path)

    with pytest.raises(Unavailable, match="can't be reached"):
        await reports.prepare({}, build_call())
    assert sns.asked == []


async def test_whoever_forges_calls_does_not_make_us_ask_more_often(
    reports: SesReports, sns: Sns
) -> None:
    sns.status = 404
    for n in range(20):
        with pytest.raises(Unavailable):
            await reports.prepare(
                {}, build_call(SigningCertURL=f"{SNS}/SimpleNotificationService-{n}.pem")
            )

    assert len(sns.asked) == 6


# Questions


async def test_a_subscription_is_confirmed(reports: SesReports, sns: Sns) -> None:
    body = build_question()
    await receive(reports, body)
    sns.asked.clear()

    assert await reports.confirm(body)
    (asked,) = sns.asked
    assert parse_qsl(urlsplit(asked).query) == [
        ("Action", "ConfirmSubscription"),
        ("TopicArn", ARN),
        ("Token", "2336412f37fb687f5d51e6e2425c464d"),
    ]
    assert reports.parse(body) == []


async def test_f_wi_04_a_confirmation_that_fails_is_asked_for_again(
    reports: SesReports, sns: Sns
) -> None:
    body = build_question()
    await receive(reports, body)
    sns.status = 500

    with pytest.raises(Unavailable, match="500"):
        await reports.confirm(body)


async def test_an_unsubscription_is_no_report_and_not_answered(
    reports: SesReports, sns: Sns
) -> None:
    body = alter(build_question(), Type="UnsubscribeConfirmation")
    body = build_call(**{**json.loads(body), "Signature": None})
    await receive(reports, body)
    sns.asked.clear()

    assert await reports.confirm(body)
    assert (sns.asked, reports.parse(body)) == ([], [])


# What is in the envelope


def test_the_greeting_of_ses_is_no_report(reports: SesReports) -> None:
    said = "Successfully validated SNS topic for Amazon SES event publishing."

    assert reports.parse(build_call(Message=said)) == []


@pytest.mark.parametrize("message", ["", "hello", "[]", "{}", 7, None])
def test_what_is_no_event(reports: SesReports, message: Any) -> None:
    with pytest.raises(Malformed):
        reports.parse(build_call(Message=message))


@pytest.mark.parametrize("body", [b"", b"{}", b"null"])
def test_what_is_no_envelope(reports: SesReports, body: bytes) -> None:
    with pytest.raises(Malformed):
        reports.parse(body)


async def test_an_event_of_several_recipients_is_a_report_each(reports: SesReports) -> None:
    event = json.loads(json.dumps(EVENTS["sent"]))
    event["mail"]["destination"] = ["bob@example.org", "cleo@example.org"]
    found = reports.parse(build_call(Message=json.dumps(event)))

    assert [report.recipient for report in found] == ["bob@example.org", "cleo@example.org"]
