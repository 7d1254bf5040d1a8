"""Resend: what is asked, what answers and reports mean."""

import base64
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.message import Attachment
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
from emailerctl.providers.resend import (
    ABILITIES,
    ResendReports,
    ResendSettings,
    build_request,
    classify,
)
from tests.unit.provider_case import (
    NOW_MS,
    PUBLIC_ID,
    build_answer,
    build_draft,
    build_outgoing,
    load,
    recipients,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one of Svix's documentation
SETTINGS = ResendSettings.model_validate({"api_key": "re_key", "signing_secret": SECRET})
REPORTS = ResendReports(SETTINGS)
ANSWERS = load("resend/answers.json")["answers"]
EVENTS = load("resend/webhooks.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


# Request


def ask(outgoing: Any) -> tuple[Request, dict[str, Any]]:
    content = parse_content(outgoing.raw)
    addressed = address(content, outgoing.recipients)
    request = build_request(SETTINGS, outgoing, content, addressed)
    return request, json.loads(request.body)


def test_the_request() -> None:
    request, body = ask(build_outgoing(metadata={"order": "17", "spaced": "a b"}))

    assert (request.method, request.path) == ("POST", "/emails")
    assert request.headers["Authorization"] == "Bearer re_key"
    assert request.headers["Idempotency-Key"] == f"{PUBLIC_ID}.2"
    assert body == {
        "from": '"Ann \\"Ä\\" Müller" <ann@example.org>',
        "to": ['"Bob" <bob@example.org>', "cleo@example.org"],
        "cc": ['"Dän, Esq." <dan@example.org>'],
        "reply_to": ["help@example.org"],
        "subject": "Grüße an alle",
        "text": "Hallo Wörld\n",
        "html": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
        "headers": {"X-Ticket": "17", "List-Unsubscribe": "<https://example.org/u?x=1>"},
        "attachments": [
            {
                "filename": "logo.png",
                "content": base64.b64encode(b"\x89PNG").decode(),
                "content_type": "image/png",
                "content_id": "logo@example.org",
            },
            {
                "filename": "ümlaut.pdf",
                "content": base64.b64encode(b"\0PDF").decode(),
                "content_type": "application/pdf",
            },
        ],
        "tags": [
            {"name": "order", "value": "17"},
            {"name": "emailer_tag", "value": "welcome"},
            {"name": "emailer_id", "value": PUBLIC_ID},
            {"name": "emailer_attempt", "value": "2"},
        ],
    }


def test_a_replay_is_the_same_request() -> None:
    """Another body below the same key would be refused: 409 invalid_idempotent_request."""
    assert ask(build_outgoing()) == ask(build_outgoing())


def test_a_request_for_one_carries_the_recipients_number() -> None:
    _, body = ask(build_outgoing(None, "dan@example.org"))

    assert body["to"] == ['"Dän, Esq." <dan@example.org>']
    assert "cc" not in body
    assert {"name": "emailer_recipient", "value": "0"} in body["tags"]


@pytest.mark.parametrize(
    ("filename", "content_type", "sent"),
    [
        ("a.pdf", "application/pdf", {"filename": "a.pdf", "content_type": "application/pdf"}),
        ("a.pdf", "text/plain", {"filename": "a.pdf"}),
        ("a.odd", "x-odd/odd", {"filename": "a.odd", "content_type": "x-odd/odd"}),
        ("", "x-odd/odd", {"filename": "attachment.bin"}),
        ("", "text/csv", {"filename": "attachment.csv", "content_type": "text/csv"}),
    ],
)
def test_no_file_that_resend_would_drop_in_silence(
    filename: str, content_type: str, sent: dict[str, str]
) -> None:
    file = Attachment(filename=filename, content_type=content_type, content=b"x")
    _, body = ask(build_outgoing(build_draft(attachments=(file,))))

    assert body["attachments"] == [{**sent, "content": "eA=="}]


def test_labels_that_tags_can_not_spell_stay_with_us() -> None:
    outgoing = build_outgoing(
        tags=("with space", "fine"),
        metadata={"a b": "1", "c": "ä", "emailer_id": "x", "d": "1"},
    )
    traits = parse_content(outgoing.raw).find_traits(outgoing)
    _, body = ask(outgoing)

    assert [tag["name"] for tag in body["tags"]] == [
        "d",
        "emailer_tag",
        "emailer_id",
        "emailer_attempt",
    ]
    assert find_losses(ABILITIES, traits) == [
        "tag with space does not travel along",
        *(f"metadata {name} does not travel along" for name in ("a b", "c", "emailer_id")),
    ]


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "bad key length": (Kind.PERMANENT, Party.MESSAGE),
    "no key": (Kind.PERMANENT, Party.NEXT_HOP),
    "sending key elsewhere": (Kind.PERMANENT, Party.NEXT_HOP),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "not verified": (Kind.PERMANENT, Party.NEXT_HOP),
    "testing only": (Kind.PERMANENT, Party.NEXT_HOP),
    "not valid to": (Kind.PERMANENT, Party.RECIPIENT),
    "not valid from": (Kind.PERMANENT, Party.MESSAGE),
    "missing": (Kind.PERMANENT, Party.MESSAGE),
    "attachment": (Kind.PERMANENT, Party.MESSAGE),
    "region": (Kind.PERMANENT, Party.NEXT_HOP),
    "other body": (Kind.UNKNOWN, Party.NEXT_HOP),
    "still running": (Kind.UNKNOWN, Party.NEXT_HOP),
    "security": (Kind.PERMANENT, Party.NEXT_HOP),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "daily quota": (Kind.TRANSIENT, Party.NEXT_HOP),
    "not found": (Kind.PERMANENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "gateway": (Kind.UNKNOWN, Party.NEXT_HOP),
}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


@pytest.mark.parametrize("name", MEANINGS)
def test_what_an_answer_means(name: str) -> None:
    outcome = classify(build_answer(ANSWERS[name]), BOB)

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == ANSWERS[name]["status"]


def test_what_comes_with_an_answer() -> None:
    accepted, slow, wrong_key, not_verified = (
        classify(build_answer(ANSWERS[name]), BOB)
        for name in ("accepted", "slow down", "wrong key", "not verified")
    )

    assert accepted.provider_message_id == "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"
    assert slow.retry_after_ms == 2000
    assert (wrong_key.alarm, wrong_key.is_charged) == (Alarm.CREDENTIALS, False)
    assert (not_verified.alarm, not_verified.is_charged) == (None, True)
    assert not_verified.reply.startswith("403 validation_error The example.org domain")


def test_a_bad_address_among_several_condemns_nobody_by_name() -> None:
    outcome = classify(build_answer(ANSWERS["not valid to"]), BOTH)

    assert (outcome.kind, outcome.party) == (Kind.PERMANENT, Party.MESSAGE)


# Reports

REPORTED = {
    "scheduled": (ReportKind.QUEUED, None, False),
    "sent": (ReportKind.SENT, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "delayed": (ReportKind.DEFERRED, None, False),
    "complained": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "bounced": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "suppressed before": (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    "full": (ReportKind.BOUNCED, RejectReason.BOUNCED, False),
    "undetermined": (ReportKind.BOUNCED, RejectReason.OTHER, False),
    "suppressed": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "failed": (ReportKind.REJECTED, RejectReason.OTHER, False),
    "opened": (ReportKind.OPENED, None, False),
    "clicked": (ReportKind.CLICKED, None, False),
    "tags as they were sent": (ReportKind.DELIVERED, None, False),
    "one of several": (ReportKind.DELIVERED, None, False),
    "of the future": (ReportKind.UNKNOWN, None, False),
}
NOBODY_NAMED = {"one of several", "of the future"}


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = REPORTS.parse(json.dumps(EVENTS[name]).encode())

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert report.public_id == ("" if name == "of the future" else PUBLIC_ID)
    if name in NOBODY_NAMED:
        assert (report.recipient, report.n) == ("", None)
    else:
        assert (report.recipient, report.n, report.attempt) == ("bob@example.org", 0, 2)


def test_an_event_in_full() -> None:
    event = EVENTS["bounced"]
    (report,) = REPORTS.parse(json.dumps(event).encode())

    assert report == Report(
        kind=ReportKind.BOUNCED,
        event_id=report.event_id,
        recipient="bob@example.org",
        at_ms=1_795_514_401_500,
        public_id=PUBLIC_ID,
        n=0,
        attempt=2,
        provider_message_id="56761188-7520-42d8-8898-ff6fc54ce618",
        reject_reason=RejectReason.BOUNCED,
        is_hard=True,
        reply="smtp; 550 5.5.0 Requested action not taken: mailbox unavailable",
        raw=event,
    )


def test_event_ids_are_stable_and_differ() -> None:
    kinds = ("sent", "delivered", "opened", "clicked", "bounced", "one of several")
    ids = [REPORTS.parse(json.dumps(EVENTS[name]).encode())[0].event_id for name in kinds]
    again = REPORTS.parse(json.dumps(EVENTS["sent"]).encode())[0].event_id

    assert (len(set(ids)), again) == (len(kinds), ids[0])


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"type": 1}', b"\xff"])
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    type_=st.sampled_from(["email.bounced", "email.clicked", "email.sent", "email."]),
    data=st.dictionaries(
        st.sampled_from(["to", "tags", "bounce", "click", "email_id", "sent"]), anything
    )
    | anything,
    created_at=anything,
)
def test_any_event_can_be_read(type_: str, data: Any, created_at: Any) -> None:
    event = {"type": type_, "data": data, "created_at": created_at}
    (report,) = REPORTS.parse(json.dumps(event).encode())

    assert report.at_ms >= 0


# Signatures


def sign(body: bytes, *, at_ms: int = NOW_MS, secret: str = SECRET) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    timestamp = str(at_ms // 1000)
    digest = hmac.digest(key, b"msg_x." + timestamp.encode() + b"." + body, "sha256")
    return {
        "svix-id": "msg_x",
        "svix-timestamp": timestamp,
        "svix-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


GOOD = sign(b"{}")


def test_f_wi_01_the_vector_of_svix() -> None:
    """docs.svix.com/receiving/verifying-payloads/how (read 2026-11-24)."""
    headers = {
        "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "svix-timestamp": "1614265330",
        "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    once = REPORTS.verify(headers, b'{"test": 2432232314}', now_ms=1_614_265_330_000)

    assert once == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@pytest.mark.parametrize(
    "headers",
    [
        GOOD,
        {name.replace("svix", "webhook"): value for name, value in GOOD.items()},
        {**GOOD, "svix-signature": f"v1,b2xk v2,x {GOOD['svix-signature']}"},
    ],
)
def test_f_wi_01_a_good_signature(headers: dict[str, str]) -> None:
    assert REPORTS.verify(headers, b"{}", now_ms=NOW_MS + 299_000) == "msg_x"


def test_f_wi_01_a_repeated_call_has_the_same_id() -> None:
    """Svix signs it anew: other timestamp, other signature, same id."""
    later = sign(b"{}", at_ms=NOW_MS + 60_000)

    assert later["svix-signature"] != GOOD["svix-signature"]
    assert REPORTS.verify(later, b"{}", now_ms=NOW_MS) == "msg_x"


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        (GOOD, b"{ }", "wrong"),
        ({**GOOD, "svix-id": "msg_y"}, b"{}", "wrong"),
        ({**GOOD, "svix-timestamp": "1795514401"}, b"{}", "wrong"),
        (sign(b"{}", secret="whsec_b3RoZXI="), b"{}", "wrong"),
        ({**GOOD, "svix-signature": GOOD["svix-signature"].replace("v1,", "v2,")}, b"{}", "wr"),
        ({**GOOD, "svix-signature": "v1,ÄÖ"}, b"{}", "wrong"),
        (sign(b"{}", at_ms=NOW_MS - 301_000), b"{}", "5 minutes old"),
        (sign(b"{}", at_ms=NOW_MS + 301_000), b"{}", "from the future"),
        ({}, b"{}", "no id"),
        *(({**GOOD, name: ""}, b"{}", "no id") for name in GOOD),
        ({**GOOD, "svix-timestamp": "1e9"}, b"{}", "no id"),
        ({**GOOD, "svix-timestamp": "\u0661"}, b"{}", "no id"),
        ({**GOOD, "svix-id": "x" * 101}, b"{}", "no id"),
    ],
    ids=str,
)
def test_f_wi_01_a_bad_signature(headers: dict[str, str], body: bytes, says: str) -> None:
    with pytest.raises(NotVerified, match=says):
        REPORTS.verify(headers, body, now_ms=NOW_MS)


def test_f_wi_01_without_a_secret_nothing_is_believed() -> None:
    reports = ResendReports(ResendSettings.model_validate({"api_key": "k"}))

    with pytest.raises(NotVerified, match="signing_secret"):
        reports.verify(sign(b"{}", secret=""), b"{}", now_ms=NOW_MS)


@pytest.mark.parametrize("secret", ["whsec_!", "no secret"])
def test_a_secret_is_a_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_") as caught:
        ResendSettings.model_validate({"api_key": "k", "signing_secret": secret})
    assert secret not in str(caught.value)
