"""Amazon SES: what is asked, what answers and events mean."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.message import Attachment
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party
from emailerctl.providers.base import RejectReason, Report, ReportKind, find_losses
from emailerctl.providers.content import parse_content
from emailerctl.providers.ses import (
    ABILITIES,
    Ses,
    SesSettings,
    build_request,
    classify,
    read_account,
    read_event,
)
from tests.fakes import FakeClock
from tests.unit.provider_case import (
    NOW_MS,
    PUBLIC_ID,
    build_answer,
    build_draft,
    build_outgoing,
    load,
    recipients,
)

KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "the-secret"}
SETTINGS = SesSettings.model_validate(
    {**KEYS, "region": "eu-west-1", "configuration_set": "events"}
)
ANSWERS = load("ses/answers.json")["answers"]
EVENTS = load("ses/events.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


# Settings


def test_the_endpoint_is_the_regions() -> None:
    assert SETTINGS.base_url == "https://email.eu-west-1.amazonaws.com"
    assert SETTINGS.secrets == ("the-secret",)


@pytest.mark.parametrize("region", ["", "Europe", "eu-west-1.evil.example", "eu-west-1/x"])
def test_a_region_is_a_region(region: str) -> None:
    with pytest.raises(ValueError, match="region"):
        SesSettings.model_validate({**KEYS, "region": region})


@pytest.mark.parametrize(
    "arn", ["x", "arn:aws:sqs:eu-west-1:123456789012:x", "arn:aws:sns:EU:123456789012:x"]
)
def test_a_topic_is_a_topic(arn: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        SesSettings.model_validate({**KEYS, "region": "eu-west-1", "topic_arn": arn})


# Request


def test_the_request() -> None:
    outgoing = build_outgoing(
        None, "bob@example.org", "blind@example.org", metadata={"order": "17", "a b": "x"}
    )
    request = build_request(SETTINGS, outgoing, now_ms=NOW_MS)

    assert (request.method, request.path) == ("POST", "/v2/email/outbound-emails")
    assert request.carries == outgoing.recipients
    assert json.loads(request.body) == {
        "Destination": {"ToAddresses": ["bob@example.org", "blind@example.org"]},
        "EmailTags": [
            {"Name": "order", "Value": "17"},
            {"Name": "emailer_tag", "Value": "welcome"},
            {"Name": "emailer_id", "Value": PUBLIC_ID},
            {"Name": "emailer_attempt", "Value": "2"},
        ],
        "Content": {"Raw": {"Data": base64.b64encode(outgoing.raw).decode()}},
        "ConfigurationSetName": "events",
    }
    assert request.headers["Host"] == "email.eu-west-1.amazonaws.com"
    assert request.headers["X-Amz-Date"] == "20261124T100000Z"
    assert re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/eu-west-1/ses/aws4_request, "
        r"SignedHeaders=content-type;host;x-amz-date, Signature=[0-9a-f]{64}",
        request.headers["Authorization"],
    )


def test_temporary_credentials_send_their_token() -> None:
    settings = SETTINGS.model_copy(update={"session_token": SETTINGS.secret_access_key})
    request = build_request(settings, build_outgoing(), now_ms=NOW_MS)

    assert request.headers["X-Amz-Security-Token"] == "the-secret"
    assert "host;x-amz-date;x-amz-security-token," in request.headers["Authorization"]


def test_every_label_is_one_that_ses_takes() -> None:
    outgoing = build_outgoing(
        tags=("with space", "fine"), metadata={"order": "№ 17", "x" * 257: "1", "ok": "A-1_b"}
    )
    body = json.loads(build_request(SETTINGS, outgoing, now_ms=NOW_MS).body)
    traits = parse_content(outgoing.raw).find_traits(outgoing)

    for tag in body["EmailTags"]:
        assert re.fullmatch("[A-Za-z0-9_-]{1,256}", tag["Name"])
        assert re.fullmatch("[A-Za-z0-9_-]{1,256}", tag["Value"])
    assert len(find_losses(ABILITIES, traits)) == 3


async def test_what_ses_does_not_take_is_not_asked_of_it() -> None:
    """The raw message is looked into: another in the chain may take the file."""
    hop = Ses("ses", SETTINGS, connections=1, clock=FakeClock())
    file = Attachment(filename="a.EXE", content_type="application/x-dosexec", content=b"MZ")
    headers = {"X-SES-Configuration-Set": "other"}
    refused = hop.build(build_outgoing(build_draft(attachments=(file,), headers=headers)))
    await hop.close()

    assert isinstance(refused, Outcome)
    assert (refused.kind, refused.party) == (Kind.PERMANENT, Party.NEXT_HOP)
    assert refused.reply == (
        "it takes no .exe file; it refuses the header X-SES-Configuration-Set"
    )


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "rejected": (Kind.PERMANENT, Party.MESSAGE),
    "not verified": (Kind.PERMANENT, Party.NEXT_HOP),
    "bad request": (Kind.PERMANENT, Party.MESSAGE),
    "not valid to": (Kind.PERMANENT, Party.RECIPIENT),
    "body type": (Kind.PERMANENT, Party.RECIPIENT),
    "suspended": (Kind.PERMANENT, Party.NEXT_HOP),
    "paused": (Kind.TRANSIENT, Party.NEXT_HOP),
    "mail from": (Kind.PERMANENT, Party.NEXT_HOP),
    "quota": (Kind.TRANSIENT, Party.NEXT_HOP),
    "throttled": (Kind.TRANSIENT, Party.NEXT_HOP),
    "too many": (Kind.TRANSIENT, Party.NEXT_HOP),
    "denied as 400": (Kind.PERMANENT, Party.NEXT_HOP),
    "denied": (Kind.PERMANENT, Party.NEXT_HOP),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "expired": (Kind.PERMANENT, Party.NEXT_HOP),
    "aborted": (Kind.UNKNOWN, Party.NEXT_HOP),
    "timed out": (Kind.UNKNOWN, Party.NEXT_HOP),
    "no such set": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "away": (Kind.UNKNOWN, Party.NEXT_HOP),
}
DENIED = {"denied as 400", "denied", "wrong key", "expired"}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


@pytest.mark.parametrize("name", MEANINGS)
def test_what_an_answer_means(name: str) -> None:
    outcome = classify(build_answer(ANSWERS[name]), BOB)

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == ANSWERS[name]["status"]
    assert (outcome.alarm is Alarm.CREDENTIALS) == (name in DENIED)
    assert outcome.is_charged == (name not in DENIED)


def test_what_comes_with_an_answer() -> None:
    accepted = classify(build_answer(ANSWERS["accepted"]), BOB)
    rejected = classify(build_answer(ANSWERS["rejected"]), BOB)

    assert accepted.provider_message_id == "0102018f-EXAMPLE-000000"
    assert rejected.reply == "400 MessageRejected Transaction failed: Invalid content."


def test_a_bad_address_among_several_condemns_nobody_by_name() -> None:
    outcome = classify(build_answer(ANSWERS["not valid to"]), BOTH)

    assert (outcome.kind, outcome.party) == (Kind.PERMANENT, Party.MESSAGE)


def test_what_an_account_may_do() -> None:
    sandboxed = {
        "ProductionAccessEnabled": False,
        "SendingEnabled": True,
        "EnforcementStatus": "SHUTDOWN",
        "SendQuota": {"Max24HourSend": 200.0, "MaxSendRate": 1.0, "SentLast24Hours": 3.0},
    }
    said = {result.name: (result.is_good, result.detail) for result in read_account(sandboxed)}

    assert said["sending"] == (False, "SHUTDOWN")
    assert said["production"] == (False, "the account is in the sandbox of SES")
    assert said["limits"] == (True, "3.0 of 200.0 in 24 h, 1.0 a second")


# Events

REPORTED = {
    "sent": (ReportKind.SENT, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "delayed": (ReportKind.DEFERRED, None, False),
    "bounced": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "no such address": (ReportKind.BOUNCED, RejectReason.INVALID, True),
    "suppressed": (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    "on the account's list": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "unsubscribed from a list": (ReportKind.REJECTED, RejectReason.UNSUBSCRIBED, False),
    "full": (ReportKind.BOUNCED, RejectReason.BOUNCED, False),
    "content": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "too late": (ReportKind.BOUNCED, RejectReason.TIMED_OUT, False),
    "undetermined": (ReportKind.BOUNCED, RejectReason.OTHER, False),
    "notification without tags": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "complained": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "no complaint": (ReportKind.UNKNOWN, None, False),
    "complained before": (ReportKind.REJECTED, RejectReason.SPAM, False),
    "virus": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "not rendered": (ReportKind.REJECTED, RejectReason.OTHER, False),
    "opened": (ReportKind.OPENED, None, False),
    "clicked": (ReportKind.CLICKED, None, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "left a topic": (ReportKind.UNKNOWN, None, False),
    "of the future": (ReportKind.UNKNOWN, None, False),
}


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = read_event(EVENTS[name])

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert (report.recipient, report.public_id) == ("bob@example.org", PUBLIC_ID)
    assert report.attempt == (None if name == "notification without tags" else 2)


def test_an_event_in_full() -> None:
    event = EVENTS["bounced"]
    (report,) = read_event(event)

    assert report == Report(
        kind=ReportKind.BOUNCED,
        event_id=report.event_id,
        recipient="bob@example.org",
        at_ms=1_795_514_401_500,
        public_id=PUBLIC_ID,
        attempt=2,
        provider_message_id="0102018f-EXAMPLE-000000",
        reject_reason=RejectReason.BOUNCED,
        is_hard=True,
        reply="smtp; 550 5.1.1 user unknown",
        raw=event,
    )


def test_words_without_a_diagnostic_code() -> None:
    said = {name: next(read_event(EVENTS[name])).reply for name in ("delivered", "suppressed")}

    assert said == {
        "delivered": "250 2.6.0 Message received",
        "suppressed": "Permanent Suppressed",
    }


def build_for_both(name: str) -> dict[str, Any]:
    event = json.loads(json.dumps(EVENTS[name]))
    event["mail"]["destination"] = ["bob@example.org", "cleo@example.org"]
    return dict(event)


def test_an_event_is_about_those_whom_it_names() -> None:
    sent, opened, bounced = (
        [report.recipient for report in read_event(build_for_both(name))]
        for name in ("sent", "opened", "bounced")
    )

    assert sent == ["bob@example.org", "cleo@example.org"]
    assert opened == [""]  # SES does not know who it was
    assert bounced == ["bob@example.org"]


def test_event_ids_are_stable_and_differ() -> None:
    ids = [next(read_event(event)).event_id for event in EVENTS.values()]
    both = [report.event_id for report in read_event(build_for_both("sent"))]

    assert len({*ids, *both}) == len(ids) + 1
    assert ids == [next(read_event(event)).event_id for event in EVENTS.values()]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["tags", "headers", "destination", "name", "timestamp", "emailer_id"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(
    type_=st.sampled_from(["Bounce", "Complaint", "Send", "Open", "Subscription", "x"]),
    mail=anything,
    what=anything,
)
def test_any_event_can_be_read(type_: str, mail: Any, what: Any) -> None:
    names = ("bounce", "complaint", "send", "open", "subscription")
    event = {"eventType": type_, "mail": mail, **dict.fromkeys(names, what)}

    assert all(report.at_ms >= 0 for report in read_event(event))
