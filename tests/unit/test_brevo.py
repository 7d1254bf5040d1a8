"""Brevo: what is asked, what answers and reports mean."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.clock import SystemClock
from emailerctl.models.message import Attachment, Mailbox
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party
from emailerctl.providers.base import (
    LookUp,
    Malformed,
    NotVerified,
    RejectReason,
    Report,
    ReportKind,
    find_losses,
)
from emailerctl.providers.brevo import (
    ABILITIES,
    Brevo,
    BrevoReports,
    BrevoSettings,
    classify,
    read_events,
)
from emailerctl.providers.content import parse_content
from emailerctl.providers.http_client import Request
from tests.unit.provider_case import (
    NOW_MS,
    PUBLIC_ID,
    build_answer,
    build_draft,
    build_outgoing,
    load,
    recipients,
)

SETTINGS = BrevoSettings.model_validate({"api_key": "xkeysib-1", "report_password": "s3cret"})
REPORTS = BrevoReports(SETTINGS)
ANSWERS = load("brevo/answers.json")["answers"]
EVENTS = load("brevo/webhooks.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")
PDF = Attachment(filename="ümlaut.pdf", content_type="application/pdf", content=b"\0PDF")
PLAIN = {"attachments": (PDF,)}  # it has no inline images


async def build(*addresses: str, draft: Any = None, **fields: Any) -> Request | Outcome:
    hop = Brevo("br", SETTINGS, connections=1, clock=SystemClock())
    try:
        return hop.build(build_outgoing(draft or build_draft(**PLAIN), *addresses, **fields))
    finally:
        await hop.close()


async def test_the_request() -> None:
    request = await build()

    assert isinstance(request, Request)
    assert (request.method, request.path) == ("POST", "/v3/smtp/email")
    assert request.headers == {
        "api-key": "xkeysib-1",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    message = json.loads(request.body)
    key = message["headers"].pop("idempotencyKey")
    assert str(UUID(key)) == key
    assert message == {
        # a special character and one outside ASCII: Brevo would drop such a name
        "sender": {"email": "ann@example.org", "name": "=?utf-8?b?QW5uICLDhCIgTcO8bGxlcg==?="},
        "to": [{"email": "bob@example.org", "name": "Bob"}, {"email": "cleo@example.org"}],
        "cc": [{"email": "dan@example.org", "name": "=?utf-8?b?RMOkbiwgRXNxLg==?="}],
        "replyTo": {"email": "help@example.org"},
        "subject": "Grüße an alle",
        "textContent": "Hallo Wörld\n",
        "htmlContent": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
        "attachment": [{"name": "ümlaut.pdf", "content": "AFBERg=="}],
        "headers": {
            "X-Ticket": "17",
            "List-Unsubscribe": "<https://example.org/u?x=1>",
            "X-Mailin-custom": json.dumps(
                {"emailer_id": PUBLIC_ID, "emailer_attempt": "2"}, separators=(",", ":")
            ),
        },
        "tags": [f"{PUBLIC_ID}.2", "welcome", "autumn"],
    }


async def test_a_key_is_the_attempts() -> None:
    async def find_key(**fields: Any) -> str:
        request = await build(**fields)
        assert isinstance(request, Request)
        return str(json.loads(request.body)["headers"]["idempotencyKey"])

    assert await find_key() == await find_key()
    assert await find_key() != await find_key(attempt=3)


async def test_metadata_stays_with_us_and_that_is_said() -> None:
    """Its only carrier is a header field, which recipients may see."""
    outgoing = build_outgoing(build_draft(**PLAIN))
    request = await build()

    assert isinstance(request, Request)
    assert b"order" not in request.body
    losses = find_losses(ABILITIES, parse_content(outgoing.raw).find_traits(outgoing))
    assert "metadata order does not travel along" in losses


async def test_a_retry_names_those_alone_whom_it_is_for() -> None:
    request = await build("dan@example.org", "blind@example.org")

    assert isinstance(request, Request)
    message = json.loads(request.body)
    assert [one["email"] for one in message["to"]] == ["dan@example.org"]
    assert message["bcc"] == [{"email": "blind@example.org"}]
    assert "cc" not in message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "it has no inline images"),
        (
            {
                "attachments": (
                    Attachment(filename="a.PSD", content_type="x/y", content=b"8BPS"),
                )
            },
            "it takes no .psd file",
        ),
        (
            {"attachments": (Attachment(filename="a", content_type="x/y", content=b"8"),)},
            "it takes no file without suffix",
        ),
        ({**PLAIN, "headers": {"X-Name": "Ä"}}, "it garbles the header X-Name: not ASCII"),
        (
            {**PLAIN, "reply_to": (Mailbox("a@example.org"), Mailbox("b@example.org"))},
            "2 addresses in Reply-To; it takes at most 1",
        ),
        (
            {
                **PLAIN,
                "to": tuple(Mailbox(f"r{n}@example.org") for n in range(100)),
                "cc": (),
            },
            "100 recipients; it takes at most 99",
        ),
    ],
)
async def test_what_it_can_not_carry(fields: dict[str, Any], says: str) -> None:
    refusal = await build(draft=build_draft(**fields))

    assert isinstance(refusal, Outcome)
    assert (refusal.kind, refusal.party) == (Kind.PERMANENT, Party.NEXT_HOP)
    assert says in refusal.reply


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "no json": (Kind.ACCEPTED, Party.NEXT_HOP),
    "invalid parameter": (Kind.PERMANENT, Party.MESSAGE),
    "missing parameter": (Kind.PERMANENT, Party.MESSAGE),
    "not valid to": (Kind.PERMANENT, Party.RECIPIENT),
    "not valid sender": (Kind.PERMANENT, Party.NEXT_HOP),
    "key was used": (Kind.UNKNOWN, Party.NEXT_HOP),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "unknown address": (Kind.PERMANENT, Party.NEXT_HOP),
    "no credits": (Kind.TRANSIENT, Party.NEXT_HOP),
    "not allowed": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
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
    def read(name: str) -> Outcome:
        return classify(build_answer(ANSWERS[name]), BOB)

    assert read("accepted").provider_message_id == "201798300811.5787683@relay.domain.com"
    assert "no id" in read("without id").reply
    assert read("slow down").retry_after_ms == 45_000
    assert (read("wrong key").alarm, read("wrong key").is_charged) == (Alarm.CREDENTIALS, False)
    assert read("key was used").reply.startswith("400 duplicate_parameter: ")


def test_a_bad_address_among_several_condemns_nobody_by_name() -> None:
    outcome = classify(build_answer(ANSWERS["not valid to"]), BOTH)

    assert (outcome.kind, outcome.party) == (Kind.PERMANENT, Party.MESSAGE)


# Look-up


def test_events_tell_who_has_it() -> None:
    wanted = LookUp(
        public_id=PUBLIC_ID,
        message_id_header="x@example.org",
        attempt=2,
        recipients=BOTH,
        since_ms=NOW_MS,
    )
    ours = {
        "email": "Bob@Example.org",
        "event": "requests",
        "messageId": "<1@relay>",
        "tag": f'["{PUBLIC_ID}.1","welcome"]',
    }
    elses = {**ours, "email": "cleo@example.org", "tag": "msg_0C6K9QBBBBBBB.1"}
    unasked = {**ours, "email": "cleo@example.org", "tag": ""}

    found = read_events([ours, elses, unasked, None, "nonsense", {}], wanted)

    assert [found[n].is_there for n in (0, 1)] == [True, False]
    assert (found[0].attempt, found[0].provider_message_id) == (1, "1@relay")


# Reports

_BOUNCED = RejectReason.BOUNCED
REPORTED = {
    "sent": (ReportKind.QUEUED, None, False),
    "in seconds": (ReportKind.QUEUED, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "deferred": (ReportKind.DEFERRED, None, False),
    "soft bounce": (ReportKind.BOUNCED, _BOUNCED, False),
    "hard bounce": (ReportKind.BOUNCED, _BOUNCED, True),
    "invalid": (ReportKind.REJECTED, RejectReason.INVALID, True),
    "blocked": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "error": (ReportKind.REJECTED, RejectReason.OTHER, False),
    "spam": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "complaint": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "opened": (ReportKind.OPENED, None, False),
    "opened first": (ReportKind.OPENED, None, False),
    "opened by a proxy": (ReportKind.OPENED, None, False),
    "opened by a proxy first": (ReportKind.OPENED, None, False),
    "clicked": (ReportKind.CLICKED, None, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "unsubscribe": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "on a list": (ReportKind.SUBSCRIBED, None, False),
    "of the future": (ReportKind.UNKNOWN, None, False),
}


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = REPORTS.parse(json.dumps(EVENTS[name]).encode())

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert (report.recipient, report.at_ms) == ("bob@example.org", NOW_MS)
    assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)
    assert report.raw == EVENTS[name]


def test_an_event_in_full() -> None:
    event = EVENTS["hard bounce"]
    (report,) = REPORTS.parse(json.dumps(event).encode())

    assert report == Report(
        kind=ReportKind.BOUNCED,
        event_id=report.event_id,
        recipient="bob@example.org",
        at_ms=NOW_MS,
        public_id=PUBLIC_ID,
        attempt=2,
        provider_message_id="201798300811.5787683@relay.domain.com",
        reject_reason=RejectReason.BOUNCED,
        is_hard=True,
        reply="550 5.1.1 no such user",
        raw=event,
    )


def test_several_events_come_in_one_call() -> None:
    reports = REPORTS.parse(json.dumps(list(EVENTS.values())).encode())

    assert len({report.event_id for report in reports}) == len(EVENTS)
    again = REPORTS.parse(json.dumps(list(EVENTS.values())).encode())
    assert [r.event_id for r in again] == [r.event_id for r in reports]


def test_our_id_comes_back_as_a_tag_too() -> None:
    event = {**EVENTS["delivered"], "X-Mailin-custom": "not ours"}
    (report,) = REPORTS.parse(json.dumps(event).encode())
    (without,) = REPORTS.parse(json.dumps({**event, "tags": ["welcome"]}).encode())

    assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)
    assert (without.public_id, without.attempt) == ("", None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"event": 1}', b'[{"event": "x"}, 1]', b"\xff"]
)
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.dictionaries(
        st.sampled_from(["email", "ts_epoch", "tags", "X-Mailin-custom", "message-id"]),
        st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text()),
    )
)
def test_any_event_can_be_read(fields: dict[str, Any]) -> None:
    (report,) = REPORTS.parse(json.dumps({"event": "delivered", **fields}).encode())

    assert report.event_id
    assert report.at_ms >= 0


def test_f_wi_01_a_token_instead_of_a_password() -> None:
    settings = {"api_key": "k", "report_token": "t-1", "report_password": "s3cret"}
    reports = BrevoReports(BrevoSettings.model_validate(settings))

    assert reports.verify({"authorization": "Bearer t-1"}, b"", now_ms=NOW_MS) == ""
    for headers in ({}, {"authorization": "Bearer t-2"}, {"authorization": "Basic dC0x"}):
        with pytest.raises(NotVerified):
            reports.verify(headers, b"", now_ms=NOW_MS)
