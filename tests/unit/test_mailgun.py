"""Mailgun: what is asked, what answers and reports mean."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.outcome import Alarm, Kind, Party
from emailerctl.providers.base import (
    LookUp,
    Malformed,
    NotVerified,
    RejectReason,
    Report,
    ReportKind,
    find_losses,
)
from emailerctl.providers.content import parse_content
from emailerctl.providers.mailgun import (
    ABILITIES,
    MailgunReports,
    MailgunSettings,
    build_request,
    classify,
    read_events,
)
from tests.providers_server.dialects.base import Asked, has_basic_auth
from tests.unit.provider_case import (
    MESSAGE_ID_HEADER,
    NOW_MS,
    PUBLIC_ID,
    build_answer,
    build_outgoing,
    load,
    recipients,
)

KEY = "key-of-a-test"
SETTINGS = MailgunSettings.model_validate(
    {"api_key": "api-key", "domain": "mg.example.org", "signing_key": KEY}
)
REPORTS = MailgunReports(SETTINGS)
ANSWERS = load("mailgun/answers.json")["answers"]
EVENTS = load("mailgun/webhooks.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


# Request


def test_the_request() -> None:
    outgoing = build_outgoing(None, "bob@example.org", "blind@example.org")
    request = build_request(SETTINGS, outgoing)
    asked = Asked(
        request.method,
        request.path,
        {},
        {name.lower(): value for name, value in request.headers.items()},
        request.body,
    )

    assert (asked.method, asked.path) == ("POST", "/v3/mg.example.org/messages.mime")
    assert has_basic_auth(asked, "api", "api-key")
    assert asked.form[:-1] == [
        ("to", "bob@example.org"),
        ("to", "blind@example.org"),
        ("v:emailer_id", PUBLIC_ID),
        ("v:emailer_attempt", "2"),
        ("v:order", "17"),
        ("v:a name of more than twenty octets", "x"),
        ("o:tag", "welcome"),
        ("o:tag", "autumn"),
    ]
    assert outgoing.raw in request.body
    assert b'name="message"; filename="message.mime"' in request.body
    assert request.carries == outgoing.recipients


def test_the_bytes_are_the_same_for_whomever_they_are() -> None:
    """A retry for some recipients is the same message (delivery.md §5)."""
    for addresses in (["bob@example.org"], ["cleo@example.org", "dan@example.org"]):
        outgoing = build_outgoing(None, *addresses)
        assert build_outgoing().raw in build_request(SETTINGS, outgoing).body


def test_options_stay_below_16_kb() -> None:
    outgoing = build_outgoing(
        tags=tuple(f"{n}" + "t" * 126 for n in range(10)),
        metadata={f"{n}".ljust(64, "n"): "v" * 500 for n in range(90)},
    )
    request = build_request(SETTINGS, outgoing)

    assert len(request.body) - len(outgoing.raw) < 16_000 + 35 * 120  # the parts' own heads
    traits = parse_content(outgoing.raw).find_traits(outgoing)
    assert len(find_losses(ABILITIES, traits)) == 70


@pytest.mark.parametrize("domain", ["", "a b", "mg.example.org/../x", "ä.example", "x" * 300])
def test_a_domain_is_a_domain(domain: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        MailgunSettings.model_validate({"api_key": "k", "domain": domain})


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "not valid from": (Kind.PERMANENT, Party.MESSAGE),
    "not valid to": (Kind.PERMANENT, Party.RECIPIENT),
    "to is missing": (Kind.PERMANENT, Party.MESSAGE),
    "sandbox": (Kind.PERMANENT, Party.NEXT_HOP),
    "domain disabled": (Kind.PERMANENT, Party.NEXT_HOP),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "request failed": (Kind.TRANSIENT, Party.NEXT_HOP),
    "not allowed": (Kind.PERMANENT, Party.NEXT_HOP),
    "no such domain": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "gateway": (Kind.UNKNOWN, Party.NEXT_HOP),
}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


@pytest.mark.parametrize("name", MEANINGS)
def test_what_an_answer_means(name: str) -> None:
    recorded = ANSWERS[name]
    outcome = classify(build_answer(recorded), BOB)

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == recorded["status"]
    if "body" in recorded and name != "without id":
        assert outcome.reply == f"{recorded['status']} {recorded['body']['message']}"[:512]


def test_what_comes_with_an_answer() -> None:
    accepted = classify(build_answer(ANSWERS["accepted"]), BOB)
    slow = classify(build_answer(ANSWERS["slow down"]), BOB)
    wrong_key = classify(build_answer(ANSWERS["wrong key"]), BOB)

    assert accepted.provider_message_id == "20261124100000.1.ABCDEF@mg.example.org"
    assert slow.retry_after_ms == 9000
    assert (wrong_key.alarm, wrong_key.is_charged) == (Alarm.CREDENTIALS, False)


def test_a_bad_address_among_several_condemns_nobody_by_name() -> None:
    outcome = classify(build_answer(ANSWERS["not valid to"]), BOTH)

    assert (outcome.kind, outcome.party) == (Kind.PERMANENT, Party.MESSAGE)


# Look-up


def test_events_tell_who_has_it() -> None:
    wanted = LookUp(
        public_id=PUBLIC_ID,
        message_id_header=MESSAGE_ID_HEADER.strip("<>"),
        attempt=2,
        recipients=BOTH,
        since_ms=NOW_MS,
    )
    elsewhere = {**EVENTS["delivered"], "recipient": "cleo@example.org"}
    elsewhere["user-variables"] = {"emailer_id": "msg_0C6K9QBBBBBBB"}

    found = read_events([EVENTS["accepted"], elsewhere, "nonsense", {}], wanted)
    assert [found[n].is_there for n in (0, 1)] == [True, False]
    assert (found[0].attempt, found[0].detail) == (2, "event accepted")
    assert not read_events([EVENTS["rejected"]], wanted)[0].is_there
    assert read_events([EVENTS["bounced"]], wanted)[0].is_there


# Reports


def build_call(event: dict[str, Any], *, at_ms: int = NOW_MS, key: str = KEY) -> bytes:
    timestamp, token = str(at_ms // 1000), "f" * 50
    signature = hmac.new(key.encode(), (timestamp + token).encode(), sha256).hexdigest()
    return json.dumps(
        {
            "signature": {"timestamp": timestamp, "token": token, "signature": signature},
            "event-data": event,
        }
    ).encode()


REPORTED = {
    "accepted": (ReportKind.QUEUED, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "failed for now": (ReportKind.DEFERRED, None, False),
    "bounced": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "suppressed bounce": (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    "suppressed complaint": (ReportKind.REJECTED, RejectReason.SPAM, False),
    "suppressed unsubscribe": (ReportKind.REJECTED, RejectReason.UNSUBSCRIBED, False),
    "too old": (ReportKind.BOUNCED, RejectReason.TIMED_OUT, False),
    "blocked": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "failed otherwise": (ReportKind.BOUNCED, RejectReason.OTHER, False),
    "rejected": (ReportKind.REJECTED, None, False),
    "opened": (ReportKind.OPENED, None, False),
    "clicked": (ReportKind.CLICKED, None, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, None, False),
    "complained": (ReportKind.COMPLAINED, None, False),
    "of the future": (ReportKind.UNKNOWN, None, False),
}


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = REPORTS.parse(build_call(EVENTS[name]))

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert report.recipient == "bob@example.org"
    assert report.public_id == ("" if name == "of the future" else PUBLIC_ID)
    assert report.raw == EVENTS[name]


def test_an_event_in_full() -> None:
    event = EVENTS["delivered"]

    assert REPORTS.parse(build_call(event)) == [
        Report(
            kind=ReportKind.DELIVERED,
            event_id="1795514401.5:hK7mQVt1QtqRiOfQXta4sw",
            recipient="bob@example.org",
            at_ms=1_795_514_401_500,
            public_id=PUBLIC_ID,
            attempt=2,
            provider_message_id=f"{PUBLIC_ID}@example.org",
            reply="250 OK",
            raw=event,
        )
    ]


def test_event_ids_differ() -> None:
    ids = [REPORTS.parse(build_call(event))[0].event_id for event in EVENTS.values()]

    assert len(set(ids)) == len(EVENTS)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"event-data": []}', b"\xff"])
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.dictionaries(
        st.sampled_from(
            ["event", "timestamp", "recipient", "user-variables", "message", "delivery-status"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: st.dictionaries(st.text(max_size=9), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_event_can_be_read(event: dict[str, Any]) -> None:
    (report,) = REPORTS.parse(json.dumps({"event-data": event}).encode())

    assert report.at_ms >= 0


def test_f_wi_01_a_good_signature_gives_its_token() -> None:
    body = build_call(EVENTS["delivered"])

    assert REPORTS.verify({}, body, now_ms=NOW_MS + 299_000) == "f" * 50


def test_f_wi_01_a_replay_has_the_same_token() -> None:
    """The signature does not cover the body: who has seen one could sign any event with it."""
    good, forged = build_call(EVENTS["delivered"]), build_call(EVENTS["complained"])

    assert REPORTS.verify({}, good, now_ms=NOW_MS) == REPORTS.verify({}, forged, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (build_call({}, key="other"), "wrong"),
        (build_call({}, at_ms=NOW_MS - 301_000), "5 minutes old"),
        (build_call({}, at_ms=NOW_MS + 301_000), "from the future"),
        (json.dumps({"event-data": {}}).encode(), "no signature"),
        (b'{"signature": "x"}', "no signature"),
        (b'{"signature": {}}', "no timestamp"),
        (b'{"signature": {"timestamp": "1e9", "token": "x", "signature": ""}}', "no timestamp"),
        (b'{"signature": {"timestamp": 1, "token": "", "signature": ""}}', "no timestamp"),
        (b'{"signature": {"timestamp": 1, "token": "x", "signature": "\xc3\xa4"}}', "wrong"),
        (b'{"signature": {"timestamp": 1, "token": "x", "signature": null}}', "wrong"),
        (b"", "no signature"),
        (b"\xff", "no signature"),
    ],
)
def test_f_wi_01_a_bad_signature(body: bytes, says: str) -> None:
    with pytest.raises(NotVerified, match=says):
        REPORTS.verify({}, body, now_ms=NOW_MS)


def test_f_wi_01_without_a_key_nothing_is_believed() -> None:
    settings = MailgunSettings.model_validate({"api_key": "k", "domain": "mg.example.org"})
    body = build_call({}, key="")

    with pytest.raises(NotVerified, match="signing_key"):
        MailgunReports(settings).verify({}, body, now_ms=NOW_MS)
