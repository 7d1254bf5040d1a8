"""SendGrid: what is asked, what answers and reports mean."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.outcome import Alarm, Kind, Party
from emailerctl.providers.base import (
    Malformed,
    NotVerified,
    RejectReason,
    Report,
    ReportKind,
    find_losses,
)
from emailerctl.providers.content import address, parse_content
from emailerctl.providers.http_client import Request
from emailerctl.providers.sendgrid import (
    ABILITIES,
    SendGridReports,
    SendGridSettings,
    build_request,
    classify,
)
from tests.unit.provider_case import (
    MESSAGE_ID_HEADER,
    NOW_MS,
    PUBLIC_ID,
    build_answer,
    build_draft,
    build_outgoing,
    load,
    recipients,
)

DAY_MS = 24 * 3_600_000
SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
PRIVATE = ec.generate_private_key(ec.SECP256R1())


def show(key: Any) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


SETTINGS = SendGridSettings.model_validate(
    {"api_key": "SG.key", "verification_key": show(PRIVATE)}
)
REPORTS = SendGridReports(SETTINGS)
ANSWERS = load("sendgrid/answers.json")["answers"]
EVENTS = load("sendgrid/webhooks.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


# Request


def ask(outgoing: Any) -> tuple[Request, dict[str, Any]]:
    content = parse_content(outgoing.raw)
    addressed = address(content, outgoing.recipients)
    request = build_request(SETTINGS, outgoing, content, addressed)
    return request, json.loads(request.body)


def test_the_request() -> None:
    request, body = ask(build_outgoing())

    assert (request.method, request.path) == ("POST", "/v3/mail/send")
    assert request.headers["Authorization"] == "Bearer SG.key"
    assert body == {
        "personalizations": [
            {
                "to": [
                    {"email": "bob@example.org", "name": "Bob"},
                    {"email": "cleo@example.org"},
                ],
                "cc": [{"email": "dan@example.org", "name": "Dän, Esq."}],
            }
        ],
        "from": {"email": "ann@example.org", "name": 'Ann "Ä" Müller'},
        "reply_to_list": [{"email": "help@example.org"}],
        "subject": "Grüße an alle",
        "content": [
            {"type": "text/plain", "value": "Hallo Wörld\n"},
            {"type": "text/html", "value": '<p>Hallo <img src="cid:logo@example.org"></p>\n'},
        ],
        "attachments": [
            {
                "filename": "logo.png",
                "type": "image/png",
                "content": base64.b64encode(b"\x89PNG").decode(),
                "disposition": "inline",
                "content_id": "logo@example.org",
            },
            {
                "filename": "ümlaut.pdf",
                "type": "application/pdf",
                "content": base64.b64encode(b"\0PDF").decode(),
            },
        ],
        "headers": {
            "X-Ticket": "17",
            "List-Unsubscribe": "<https://example.org/u?x=1>",
            "Message-ID": MESSAGE_ID_HEADER,
        },
        "categories": ["welcome", "autumn"],
        "custom_args": {
            "order": "17",
            "a name of more than twenty octets": "x",
            "emailer_id": PUBLIC_ID,
            "emailer_attempt": "2",
        },
    }


def test_a_blind_copy_is_in_no_header() -> None:
    _, body = ask(build_outgoing(None, "bob@example.org", "blind@example.org"))

    assert body["personalizations"] == [
        {
            "to": [{"email": "bob@example.org", "name": "Bob"}],
            "bcc": [{"email": "blind@example.org"}],
        }
    ]


def test_no_part_is_empty() -> None:
    """400 "The content value must be a string at least one character in length"."""
    nothing = build_draft(text="", html=None, attachments=())
    _, body = ask(build_outgoing(nothing))

    assert all(part["value"] for part in body["content"])
    assert len(body["content"]) == 1


def test_custom_args_stay_below_10000_bytes() -> None:
    outgoing = build_outgoing(metadata={f"{n}".ljust(64, "n"): "v" * 400 for n in range(90)})
    _, body = ask(outgoing)
    traits = parse_content(outgoing.raw).find_traits(outgoing)

    assert len(json.dumps(body["custom_args"])) < 10_000
    assert len(find_losses(ABILITIES, traits)) == 70


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "not valid from": (Kind.PERMANENT, Party.MESSAGE),
    "not valid to": (Kind.PERMANENT, Party.RECIPIENT),
    "twice": (Kind.PERMANENT, Party.MESSAGE),
    "no subject": (Kind.PERMANENT, Party.MESSAGE),
    "malformed": (Kind.PERMANENT, Party.MESSAGE),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "credits": (Kind.TRANSIENT, Party.NEXT_HOP),
    "may not": (Kind.PERMANENT, Party.NEXT_HOP),
    "sender": (Kind.PERMANENT, Party.NEXT_HOP),
    "method": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "slow down politely": (Kind.TRANSIENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "away": (Kind.UNKNOWN, Party.NEXT_HOP),
}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


@pytest.mark.parametrize("name", MEANINGS)
def test_what_an_answer_means(name: str) -> None:
    outcome = classify(build_answer(ANSWERS[name]), BOB)

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == ANSWERS[name]["status"]


def test_what_comes_with_an_answer() -> None:
    names = ("accepted", "slow down", "slow down politely", "wrong key", "sender", "credits")
    accepted, slow, polite, wrong_key, sender, credits_ = (
        classify(build_answer(ANSWERS[name]), BOB) for name in names
    )

    assert accepted.provider_message_id == "14c5d75ce93"
    assert (slow.retry_after_ms, polite.retry_after_ms) == (9000, 5000)
    assert (wrong_key.alarm, wrong_key.is_charged) == (Alarm.CREDENTIALS, False)
    assert (sender.alarm, credits_.alarm) == (None, None)
    assert sender.reply.startswith("403 from: The from address does not match")


@pytest.mark.parametrize("reset", ["", "soon", "-1", "9" * 30])
def test_f_pr_07_a_reset_that_can_not_be_read(reset: str) -> None:
    recorded = {**ANSWERS["slow down"], "headers": {"x-ratelimit-reset": reset}}

    assert classify(build_answer(recorded), BOB).retry_after_ms is None


@pytest.mark.parametrize(("reset", "wait_ms"), [("0", 0), ("9" * 12, 3_600_000)])
def test_f_pr_07_an_absurd_reset(reset: str, wait_ms: int) -> None:
    recorded = {**ANSWERS["slow down"], "headers": {"x-ratelimit-reset": reset}}

    assert classify(build_answer(recorded), BOB).retry_after_ms == wait_ms


def test_a_bad_address_among_several_condemns_nobody_by_name() -> None:
    outcome = classify(build_answer(ANSWERS["not valid to"]), BOTH)

    assert (outcome.kind, outcome.party) == (Kind.PERMANENT, Party.MESSAGE)


# Reports

REPORTED = {
    "processed": (ReportKind.QUEUED, None, False),
    "deferred": (ReportKind.DEFERRED, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "bounced": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "no such address": (ReportKind.BOUNCED, RejectReason.INVALID, True),
    "blocked": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "bounced otherwise": (ReportKind.BOUNCED, RejectReason.OTHER, False),
    "late bounce": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "dropped after a bounce": (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    "dropped after unsubscribing": (ReportKind.REJECTED, RejectReason.UNSUBSCRIBED, False),
    "dropped after a complaint": (ReportKind.REJECTED, RejectReason.SPAM, False),
    "dropped as invalid": (ReportKind.REJECTED, RejectReason.INVALID, True),
    "dropped as spam": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "dropped otherwise": (ReportKind.REJECTED, RejectReason.OTHER, False),
    "opened": (ReportKind.OPENED, None, False),
    "clicked": (ReportKind.CLICKED, None, False),
    "complained": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, None, False),
    "left the group": (ReportKind.UNSUBSCRIBED, None, False),
    "came back": (ReportKind.SUBSCRIBED, None, False),
    "of the future": (ReportKind.UNKNOWN, None, False),
}
WITHOUT_ID = {"late bounce", "of the future"}


def parse(*events: Any) -> list[Report]:
    return REPORTS.parse(json.dumps(events).encode())


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = parse(EVENTS[name])

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert report.recipient == ("" if name == "of the future" else "bob@example.org")
    assert report.public_id == ("" if name in WITHOUT_ID else PUBLIC_ID)


def test_an_event_in_full() -> None:
    event = EVENTS["no such address"]

    assert parse(event) == [
        Report(
            kind=ReportKind.BOUNCED,
            event_id="event-5",
            recipient="bob@example.org",
            at_ms=1_795_514_401_000,
            public_id=PUBLIC_ID,
            attempt=2,
            provider_message_id="14c5d75ce93",
            reject_reason=RejectReason.INVALID,
            is_hard=True,
            reply="550 5.1.1 no such user",
            raw=event,
        )
    ]


def test_a_call_has_many_events_and_one_bad_one_loses_no_other() -> None:
    reports = parse(EVENTS["delivered"], None, 7, {"event": ["odd"]}, EVENTS["opened"])

    assert [report.kind for report in reports] == [
        ReportKind.DELIVERED,
        ReportKind.UNKNOWN,
        ReportKind.OPENED,
    ]


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'"x"', b"\xff"])
def test_what_is_no_list_of_events(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.dictionaries(
        st.sampled_from(
            ["event", "type", "reason", "timestamp", "email", "sg_event_id", "sg_message_id"]
        )
        | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_event_can_be_read(event: dict[str, Any]) -> None:
    (report,) = parse(event)

    assert report.at_ms >= 0
    assert report.event_id


# Signatures


def sign(body: bytes, *, at_ms: int = NOW_MS, key: Any = PRIVATE) -> dict[str, str]:
    timestamp = str(at_ms // 1000)
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))
    return {SIGNATURE: base64.b64encode(signature).decode(), TIMESTAMP: timestamp}


GOOD = sign(b"[]")


def test_f_wi_01_the_vector_of_the_vendors_library() -> None:
    """github.com/sendgrid/sendgrid-python test/unit/test_eventwebhook.py (read 2026-11-24)."""
    vector = load("sendgrid/signature.json")
    settings = {"api_key": "k", "verification_key": vector["public_key"]}
    reports = SendGridReports(SendGridSettings.model_validate(settings))
    headers = {SIGNATURE: vector["signature"], TIMESTAMP: vector["timestamp"]}
    body, now_ms = vector["body"].encode(), int(vector["timestamp"]) * 1000

    assert reports.verify(headers, body, now_ms=now_ms)
    assert reports.parse(body)[0].reject_reason is RejectReason.BOUNCED
    with pytest.raises(NotVerified, match="wrong"):
        reports.verify(headers, body.strip(), now_ms=now_ms)


def test_f_wi_01_a_good_signature_and_its_replay() -> None:
    """A replay has the same name; what was refused is repeated for a day."""
    first = REPORTS.verify(GOOD, b"[]", now_ms=NOW_MS)

    assert REPORTS.verify(GOOD, b"[]", now_ms=NOW_MS + DAY_MS) == first
    assert REPORTS.verify(sign(b"[1]"), b"[1]", now_ms=NOW_MS) != first


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        (GOOD, b"[ ]", "wrong"),
        ({**GOOD, TIMESTAMP: "1795514401"}, b"[]", "wrong"),
        (sign(b"[]", key=ec.generate_private_key(ec.SECP256R1())), b"[]", "wrong"),
        ({**GOOD, SIGNATURE: "MEUC"}, b"[]", "wrong"),
        ({**GOOD, SIGNATURE: "ÄÖ"}, b"[]", "wrong"),
        (sign(b"[]", at_ms=NOW_MS - DAY_MS - 301_000), b"[]", "1445 minutes old"),
        (sign(b"[]", at_ms=NOW_MS + 301_000), b"[]", "from the future"),
        ({}, b"[]", "no timestamp"),
        ({SIGNATURE: GOOD[SIGNATURE]}, b"[]", "no timestamp"),
        ({TIMESTAMP: GOOD[TIMESTAMP]}, b"[]", "no timestamp"),
        ({**GOOD, TIMESTAMP: "1e9"}, b"[]", "no timestamp"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_f_wi_01_a_bad_signature(headers: dict[str, str], body: bytes, says: str) -> None:
    with pytest.raises(NotVerified, match=says):
        REPORTS.verify(headers, body, now_ms=NOW_MS)


def test_f_wi_01_without_a_key_nothing_is_believed() -> None:
    reports = SendGridReports(SendGridSettings.model_validate({"api_key": "k"}))

    with pytest.raises(NotVerified, match="verification_key"):
        reports.verify(GOOD, b"[]", now_ms=NOW_MS)


@pytest.mark.parametrize(
    "key", ["x", "MFkw", "ÄÖ", show(ec.generate_private_key(ec.SECP384R1()))], ids=range(4)
)
def test_a_key_is_a_key(key: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        SendGridSettings.model_validate({"api_key": "k", "verification_key": key})
