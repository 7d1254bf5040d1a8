"""Brevo, SparkPost and Mailjet: what answers and reports mean, and who may report.

The shapes are those of the vendors' documentation, read 2026-11-24; where each is described
stands at the head of its adapter.
"""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.outcome import Kind, Party
from emailerctl.providers import brevo, mailjet, sparkpost
from emailerctl.providers.base import Malformed, NotVerified, RejectReason, ReportKind
from emailerctl.providers.content import address, parse_content
from emailerctl.providers.http_client import Answer, Request
from tests.unit.provider_case import (
    NOW_MS,
    PUBLIC_ID,
    build_draft,
    build_outgoing,
    recipients,
)

SECRETS = {"report_user": "us", "report_password": "let-us-in"}
BREVO = brevo.BrevoSettings.model_validate({"api_key": "xkeysib-1", **SECRETS})
SPARKPOST = sparkpost.SparkPostSettings.model_validate({"api_key": "k", **SECRETS})
MAILJET = mailjet.MailjetSettings.model_validate({"api_key": "k", "secret_key": "s", **SECRETS})
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


def answer(status: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer(status=status, headers=named, body=text.encode(), received_ms=NOW_MS)


@pytest.mark.parametrize(
    ("status", "body", "kind", "party"),
    [
        (201, {"messageId": "<1@smtp-relay>"}, Kind.ACCEPTED, None),
        (201, "no json", Kind.ACCEPTED, None),
        (400, {"code": "duplicate_parameter", "message": "x"}, Kind.UNKNOWN, Party.NEXT_HOP),
        (
            400,
            {"code": "invalid_parameter", "message": "email is not valid in to"},
            Kind.PERMANENT,
            Party.RECIPIENT,
        ),
        (
            400,
            {"code": "invalid_parameter", "message": "sender is not valid"},
            Kind.PERMANENT,
            Party.NEXT_HOP,
        ),
        (402, {"code": "not_enough_credits", "message": "x"}, Kind.TRANSIENT, Party.NEXT_HOP),
        (429, {"message": "slow down"}, Kind.TRANSIENT, Party.NEXT_HOP),
        (500, {}, Kind.UNKNOWN, Party.NEXT_HOP),
    ],
)
def test_what_brevo_answers(status: int, body: object, kind: Kind, party: Party | None) -> None:
    outcome = brevo.classify(answer(status, body), BOB)

    assert outcome.kind is kind
    assert party in (None, outcome.party)


def test_brevo_says_when_in_a_header_of_its_own() -> None:
    outcome = brevo.classify(answer(429, {}, x_sib_ratelimit_reset="7"), BOB)

    assert outcome.retry_after_ms == 7_000


def refused(code: str, message: str = "x") -> dict[str, object]:
    return {"errors": [{"code": code, "message": message}]}


TAKEN = {
    "results": {"id": "11", "total_accepted_recipients": 1, "total_rejected_recipients": 0}
}
NOBODY = {
    "results": {"id": "1", "total_accepted_recipients": 0, "total_rejected_recipients": 1}
}
SOME = {"results": {"id": "1", "total_accepted_recipients": 1, "total_rejected_recipients": 1}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "party"),
    [
        (200, TAKEN, Kind.ACCEPTED, None),
        (200, NOBODY, Kind.PERMANENT, Party.RECIPIENT),
        (200, SOME, Kind.UNKNOWN, Party.NEXT_HOP),
        (400, refused("1502"), Kind.TRANSIENT, Party.NEXT_HOP),
        (400, refused("7001"), Kind.PERMANENT, Party.NEXT_HOP),
        (400, refused("5002"), Kind.PERMANENT, Party.RECIPIENT),
        (422, refused("1300"), Kind.PERMANENT, Party.MESSAGE),
        (504, {}, Kind.UNKNOWN, Party.NEXT_HOP),
    ],
)
def test_what_sparkpost_answers(
    status: int, body: object, kind: Kind, party: Party | None
) -> None:
    outcome = sparkpost.classify(answer(status, body), BOB)

    assert outcome.kind is kind
    assert party in (None, outcome.party)


def build_mailjet(addresses: Any = BOTH) -> Request:
    outgoing = build_outgoing(build_draft(), *(one.address for one in addresses))
    content = parse_content(outgoing.raw)
    addressed = address(content, outgoing.recipients)
    request = mailjet.build_request(MAILJET, outgoing, content, addressed)
    return replace(request, carries=outgoing.recipients)


def test_mailjet_names_each_copy() -> None:
    request = build_mailjet()
    message = {
        "Status": "success",
        "To": [
            {"Email": "bob@example.org", "MessageID": 5},
            {"Email": "cleo@example.org", "MessageID": 6},
        ],
    }

    outcomes = mailjet.classify(answer(200, {"Messages": [message]}), request)

    assert isinstance(outcomes, dict)
    assert {n: (o.kind, o.provider_message_id) for n, o in outcomes.items()} == {
        0: (Kind.ACCEPTED, "5"),
        1: (Kind.ACCEPTED, "6"),
    }


def test_mailjet_says_whose_address_is_bad() -> None:
    error = {"ErrorCode": "mj-0013", "ErrorMessage": "bad", "ErrorRelatedTo": ["To[1].Email"]}
    body = {"Messages": [{"Status": "error", "Errors": [error]}]}

    outcomes = mailjet.classify(answer(400, body), build_mailjet())

    assert isinstance(outcomes, dict)
    assert outcomes[1].party is Party.RECIPIENT
    assert outcomes[0].kind is Kind.TRANSIENT


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Kind.PERMANENT), (429, Kind.TRANSIENT), (500, Kind.UNKNOWN)]
)
def test_mailjet_s_other_answers(status: int, kind: Kind) -> None:
    outcome = mailjet.classify(answer(status, {"ErrorMessage": "x"}), build_mailjet())

    assert not isinstance(outcome, dict)
    assert outcome.kind is kind  # type: ignore[union-attr]


# reports

KEY = f"{PUBLIC_ID}.2"
OURS = json.dumps({"emailer_id": PUBLIC_ID, "emailer_attempt": "2"})
META = {"emailer_id": PUBLIC_ID, "emailer_attempt": "2"}


def of_brevo(event: str, **more: object) -> bytes:
    fields = {"event": event, "email": "bob@example.org", "ts_epoch": NOW_MS, "tags": [KEY]}
    return json.dumps({**fields, **more}).encode()


def of_sparkpost(type_: str, **more: object) -> bytes:
    event = {
        "type": type_,
        "event_id": f"e-{type_}",
        "rcpt_to": "bob@example.org",
        "timestamp": str(NOW_MS // 1000),
        "rcpt_meta": META,
        **more,
    }
    return json.dumps([{"msys": {"message_event": event}}]).encode()


def of_mailjet(event: str, **more: object) -> bytes:
    fields = {"event": event, "email": "bob@example.org", "time": NOW_MS // 1000}
    return json.dumps([{**fields, "CustomID": KEY, **more}]).encode()


K, R = ReportKind, RejectReason
BREVO_REPORTS = brevo.BrevoReports(BREVO)
SPARKPOST_REPORTS = sparkpost.SparkPostReports(SPARKPOST)
MAILJET_REPORTS = mailjet.MailjetReports(MAILJET)
ALL = (BREVO_REPORTS, SPARKPOST_REPORTS, MAILJET_REPORTS)


@pytest.mark.parametrize(
    ("reports", "body", "kind", "reason", "is_hard"),
    [
        (BREVO_REPORTS, of_brevo("request"), K.QUEUED, None, False),
        (BREVO_REPORTS, of_brevo("delivered"), K.DELIVERED, None, False),
        (BREVO_REPORTS, of_brevo("soft_bounce"), K.BOUNCED, R.BOUNCED, False),
        (BREVO_REPORTS, of_brevo("hard_bounce"), K.BOUNCED, R.BOUNCED, True),
        (BREVO_REPORTS, of_brevo("spam"), K.COMPLAINED, R.SPAM, False),
        (BREVO_REPORTS, of_brevo("unsubscribed"), K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
        (BREVO_REPORTS, of_brevo("something_new"), K.UNKNOWN, None, False),
        (SPARKPOST_REPORTS, of_sparkpost("delivery"), K.DELIVERED, None, False),
        (SPARKPOST_REPORTS, of_sparkpost("injection"), K.QUEUED, None, False),
        (
            SPARKPOST_REPORTS,
            of_sparkpost("bounce", bounce_class="10"),
            K.BOUNCED,
            R.INVALID,
            True,
        ),
        (
            SPARKPOST_REPORTS,
            of_sparkpost("bounce", bounce_class="22"),
            K.BOUNCED,
            R.BOUNCED,
            False,
        ),
        (SPARKPOST_REPORTS, of_sparkpost("spam_complaint"), K.COMPLAINED, R.SPAM, False),
        (SPARKPOST_REPORTS, of_sparkpost("news"), K.UNKNOWN, None, False),
        (MAILJET_REPORTS, of_mailjet("sent"), K.DELIVERED, None, False),
        (
            MAILJET_REPORTS,
            of_mailjet("bounce", error="user unknown", hard_bounce=True),
            K.BOUNCED,
            R.INVALID,
            True,
        ),
        (MAILJET_REPORTS, of_mailjet("bounce", error="greylisted"), K.DEFERRED, None, False),
        (
            MAILJET_REPORTS,
            of_mailjet("blocked", error="preblocked"),
            K.REJECTED,
            R.BLOCKED,
            False,
        ),
        (MAILJET_REPORTS, of_mailjet("unsub"), K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
        (MAILJET_REPORTS, of_mailjet("news"), K.UNKNOWN, None, False),
    ],
)
def test_what_is_reported(
    reports: Any, body: bytes, kind: ReportKind, reason: RejectReason | None, is_hard: bool
) -> None:
    [report] = reports.parse(body)

    assert (report.kind, report.reject_reason, report.is_hard) == (kind, reason, is_hard)
    assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)
    assert (report.recipient, report.at_ms) == ("bob@example.org", NOW_MS)
    [again] = reports.parse(body)
    assert again.event_id == report.event_id != ""


def test_our_id_comes_back_in_the_other_places_too() -> None:
    [by_header] = BREVO_REPORTS.parse(
        of_brevo("delivered", tags=[], **{"X-Mailin-custom": OURS})
    )
    [by_payload] = MAILJET_REPORTS.parse(of_mailjet("sent", CustomID="", Payload=OURS))

    for report in (by_header, by_payload):
        assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)


def basic(user: str, password: str) -> dict[str, str]:
    coded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"authorization": f"Basic {coded}"}


@pytest.mark.parametrize("reports", ALL, ids=lambda one: type(one).__name__)
def test_who_may_report(reports: Any) -> None:
    """F-WI-01, as far as these can show who they are."""
    reports.verify(basic("us", "let-us-in"), b"[]", now_ms=NOW_MS)

    for headers in (
        {},
        basic("us", "let-us-out"),
        basic("you", "let-us-in"),
        {"authorization": "Basic !"},
    ):
        with pytest.raises(NotVerified):
            reports.verify(headers, b"[]", now_ms=NOW_MS)


def test_without_a_secret_nobody_may() -> None:
    bare = sparkpost.SparkPostSettings.model_validate({"api_key": "k"})

    with pytest.raises(NotVerified):
        sparkpost.SparkPostReports(bare).verify(basic("", ""), b"[]", now_ms=NOW_MS)


def test_brevo_may_come_with_a_token() -> None:
    settings = brevo.BrevoSettings.model_validate({"api_key": "k", "report_token": "t-1"})
    reports = brevo.BrevoReports(settings)

    reports.verify({"authorization": "Bearer t-1"}, b"", now_ms=NOW_MS)
    with pytest.raises(NotVerified):
        reports.verify({"authorization": "Bearer t-2"}, b"", now_ms=NOW_MS)


def test_a_batch_of_sparkpost_has_a_number() -> None:
    headers = {**basic("us", "let-us-in"), "x-messagesystems-batch-id": "b-17"}

    assert SPARKPOST_REPORTS.verify(headers, b"[]", now_ms=NOW_MS) == "b-17"


@pytest.mark.parametrize("reports", ALL, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe", b'"x"'])
def test_what_is_no_report_is_malformed(reports: Any, body: bytes) -> None:
    with pytest.raises(Malformed):
        reports.parse(body)


@pytest.mark.parametrize("reports", ALL, ids=lambda one: type(one).__name__)
@given(
    body=st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(
        json.dumps
    )
)
def test_nothing_else_is_raised(reports: Any, body: str) -> None:
    try:
        reports.parse(body.encode())
    except Malformed:
        return
