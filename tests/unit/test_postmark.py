"""Postmark: what is asked, what answers and reports mean."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.clock import SystemClock
from emailerctl.models.message import Attachment, Mailbox
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.providers.base import (
    LookUp,
    Malformed,
    NotVerified,
    RejectReason,
    Report,
    ReportKind,
)
from emailerctl.providers.http_client import Request, build_basic_auth
from emailerctl.providers.postmark import (
    Postmark,
    PostmarkReports,
    PostmarkSettings,
    classify,
    read_messages,
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

SETTINGS = PostmarkSettings.model_validate(
    {"server_token": "token", "report_user": "pm", "report_password": "s3cret"}
)
REPORTS = PostmarkReports(SETTINGS)
ANSWERS = load("postmark/answers.json")["answers"]
RECORDS = load("postmark/webhooks.json")["records"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


# Request


async def build(*addresses: str, draft: Any = None, **fields: Any) -> Request | Outcome:
    hop = Postmark("pm", SETTINGS, connections=1, clock=SystemClock())
    try:
        return hop.build(build_outgoing(draft, *addresses, **fields))
    finally:
        await hop.close()


async def test_the_request() -> None:
    request = await build()

    assert isinstance(request, Request)
    assert (request.method, request.path) == ("POST", "/email")
    assert request.headers == {
        "X-Postmark-Server-Token": "token",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    assert json.loads(request.body) == {
        "From": '"Ann \\"Ä\\" Müller" <ann@example.org>',
        "To": '"Bob" <bob@example.org>, cleo@example.org',
        "Cc": '"Dän, Esq." <dan@example.org>',
        "ReplyTo": "help@example.org",
        "Subject": "Grüße an alle",
        "TextBody": "Hallo Wörld\n",
        "HtmlBody": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
        "Tag": "welcome",
        "Headers": [
            {"Name": "Message-ID", "Value": MESSAGE_ID_HEADER},
            {"Name": "X-PM-KeepID", "Value": "true"},
            {"Name": "X-Ticket", "Value": "17"},
            {"Name": "List-Unsubscribe", "Value": "<https://example.org/u?x=1>"},
        ],
        "Metadata": {"order": "17", "emailer_id": PUBLIC_ID, "emailer_attempt": "2"},
        "MessageStream": "outbound",
        "Attachments": [
            {
                "Name": "logo.png",
                "Content": "iVBORw==",
                "ContentType": "image/png",
                "ContentID": "cid:logo@example.org",
            },
            {"Name": "ümlaut.pdf", "Content": "AFBERg==", "ContentType": "application/pdf"},
        ],
    }


async def test_a_retry_names_those_alone_whom_it_is_for() -> None:
    request = await build("dan@example.org", "blind@example.org")

    assert isinstance(request, Request)
    message = json.loads(request.body)
    assert message["To"] == '"Dän, Esq." <dan@example.org>'
    assert message["Bcc"] == "blind@example.org"
    assert "Cc" not in message


async def test_blind_copies_do_not_see_each_other() -> None:
    request = await build("one@example.org", "two@example.org")

    assert isinstance(request, Request)
    assert json.loads(request.body)["To"] == "one@example.org"
    assert [recipient.n for recipient in request.carries] == [0]
    later = request.decided[1]
    assert (later.kind, later.party, later.phase) == (
        Kind.TRANSIENT,
        Party.MESSAGE,
        Phase.GATE,
    )
    assert not later.is_charged


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {
                "attachments": (
                    Attachment(filename="run.EXE", content_type="x/y", content=b"MZ"),
                )
            },
            "it takes no .exe file",
        ),
        ({"text": "x" * (10 * 1024 * 1024)}, "it takes at most 10485760"),
        (
            {"to": tuple(Mailbox(f"r{n}@example.org") for n in range(51)), "cc": ()},
            "51 recipients; it takes at most 50",
        ),
    ],
    ids=["attachment", "size", "recipients"],
)
async def test_what_it_can_not_carry(fields: dict[str, Any], says: str) -> None:
    refusal = await build(draft=build_draft(**fields))

    assert isinstance(refusal, Outcome)
    assert (refusal.kind, refusal.party) == (Kind.PERMANENT, Party.NEXT_HOP)
    assert says in refusal.reply


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "accepted for some": (Kind.PERMANENT, Party.RECIPIENT),
    "wrong token": (Kind.PERMANENT, Party.NEXT_HOP),
    "invalid request": (Kind.PERMANENT, Party.MESSAGE),
    "invalid from": (Kind.PERMANENT, Party.MESSAGE),
    "invalid to": (Kind.PERMANENT, Party.RECIPIENT),
    "sender unknown": (Kind.PERMANENT, Party.NEXT_HOP),
    "sender unconfirmed": (Kind.PERMANENT, Party.NEXT_HOP),
    "no credits": (Kind.PERMANENT, Party.NEXT_HOP),
    "inactive": (Kind.PERMANENT, Party.RECIPIENT),
    "inactive, on lines": (Kind.PERMANENT, Party.RECIPIENT),
    "forbidden attachment": (Kind.PERMANENT, Party.MESSAGE),
    "account pending": (Kind.PERMANENT, Party.NEXT_HOP),
    "no such stream": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "maintenance": (Kind.TRANSIENT, Party.NEXT_HOP),
    "unavailable": (Kind.UNKNOWN, Party.NEXT_HOP),
}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


def judge(name: str, carries: Any) -> dict[int, Outcome]:
    read = classify(build_answer(ANSWERS[name]), carries)
    return (
        dict.fromkeys((r.n for r in carries), read) if isinstance(read, Outcome) else {**read}
    )


@pytest.mark.parametrize("name", MEANINGS)
def test_what_an_answer_means(name: str) -> None:
    outcome = judge(name, BOB)[0]

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == ANSWERS[name]["status"]


def test_what_comes_with_an_answer() -> None:
    accepted = judge("accepted", BOB)[0]
    wrong_token = judge("wrong token", BOB)[0]

    assert accepted.provider_message_id == "0a129aee-e1cd-480d-b08d-4f48548ff48d"
    assert (wrong_token.alarm, wrong_token.is_charged) == (Alarm.CREDENTIALS, False)
    assert wrong_token.reply.startswith("401 10 The Server Token")


def test_inactive_ones_are_refused_and_the_others_taken() -> None:
    outcomes = judge("accepted for some", BOTH)

    assert [outcomes[n].kind for n in (0, 1)] == [Kind.PERMANENT, Kind.ACCEPTED]
    assert (outcomes[0].party, outcomes[0].provider_message_id) == (Party.RECIPIENT, "")
    assert outcomes[1].provider_message_id == "0a129aee-e1cd-480d-b08d-4f48548ff48d"


@pytest.mark.parametrize("name", ["inactive", "inactive, on lines", "invalid to"])
def test_the_others_go_again_at_once_without_the_refused_one(name: str) -> None:
    outcomes = judge(name, BOTH)

    assert [outcomes[n].kind for n in (0, 1)] == [Kind.PERMANENT, Kind.TRANSIENT]
    assert outcomes[0].party is Party.RECIPIENT
    assert (outcomes[1].party, outcomes[1].is_charged) == (Party.MESSAGE, False)


def test_a_refusal_that_names_nobody_is_the_messages() -> None:
    strangers = recipients("xbob@example.org", "y@example.org")  # one ends like a named one

    assert {o.party for o in judge("inactive", strangers).values()} == {Party.MESSAGE}
    assert {o.kind for o in judge("inactive", strangers).values()} == {Kind.PERMANENT}


# Look-up


def test_messages_tell_who_has_it() -> None:
    wanted = LookUp(
        public_id=PUBLIC_ID,
        message_id_header=MESSAGE_ID_HEADER.strip("<>"),
        attempt=2,
        recipients=BOTH,
        since_ms=NOW_MS,
    )
    ours = {
        "MessageID": "m1",
        "Recipients": ["Bob@Example.org"],
        "Status": "Sent",
        "Metadata": {"emailer_id": PUBLIC_ID, "emailer_attempt": "1"},
    }
    elses = {**ours, "Recipients": ["cleo@example.org"], "Metadata": {"emailer_id": "msg_x"}}

    found = read_messages([ours, elses, None, {"Metadata": None}], wanted)

    assert [found[n].is_there for n in (0, 1)] == [True, False]
    assert (found[0].attempt, found[0].provider_message_id) == (1, "m1")


# Reports

REPORTED = {
    "delivery": (ReportKind.DELIVERED, None, False),
    "hard bounce": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "soft bounce": (ReportKind.BOUNCED, RejectReason.BOUNCED, False),
    "transient": (ReportKind.DEFERRED, None, False),
    "blocked": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "auto responder": (ReportKind.UNKNOWN, None, False),
    "bounce of the future": (ReportKind.UNKNOWN, None, False),
    "complaint": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "open": (ReportKind.OPENED, None, False),
    "click": (ReportKind.CLICKED, None, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "suppressed after a bounce": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "subscribed again": (ReportKind.SUBSCRIBED, None, False),
    "inbound": (ReportKind.UNKNOWN, None, False),
}


def parse(record: dict[str, Any]) -> Report:
    (report,) = REPORTS.parse(json.dumps(record).encode())
    return report


def test_every_record_has_a_meaning() -> None:
    assert set(REPORTED) == set(RECORDS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_a_record_means(name: str) -> None:
    report = parse(RECORDS[name])

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert report.recipient == "bob@example.org"
    assert report.raw == RECORDS[name]
    if name != "inbound":
        assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)
        assert report.at_ms == NOW_MS + (123 if name == "delivery" else 0)


def test_a_record_told_again_is_known_and_others_are_not() -> None:
    ids = [parse(record).event_id for record in RECORDS.values()]

    assert len(set(ids)) == len(RECORDS)
    assert ids == [parse(json.loads(json.dumps(r))).event_id for r in RECORDS.values()]
    assert parse(RECORDS["hard bounce"]).event_id == "Bounce:42"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"RecordType": 1}', b"\xff"])
def test_what_is_no_record(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.sampled_from(["Delivery", "Bounce", "SpamComplaint", "Open", "SubscriptionChange", ""]),
    st.dictionaries(
        st.sampled_from(["Metadata", "Type", "BouncedAt", "DeliveredAt", "Email", "ID"]),
        st.none()
        | st.integers()
        | st.text(max_size=20)
        | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=2),
    ),
)
def test_any_record_can_be_read(type_: str, fields: dict[str, Any]) -> None:
    assert parse({"RecordType": type_, **fields}).event_id


def test_f_wi_01_credentials() -> None:
    body = json.dumps(RECORDS["delivery"]).encode()
    good = {"authorization": build_basic_auth("pm", "s3cret")}
    wrong = {"authorization": build_basic_auth("pm", "other")}

    assert REPORTS.verify(good, body, now_ms=NOW_MS) == ""
    for headers in (wrong, {}):
        with pytest.raises(NotVerified):
            REPORTS.verify(headers, body, now_ms=NOW_MS)


def test_f_wi_01_without_a_password_nothing_is_believed() -> None:
    reports = PostmarkReports(PostmarkSettings.model_validate({"server_token": "t"}))

    with pytest.raises(NotVerified, match="no credentials"):
        reports.verify({"authorization": build_basic_auth("emailer", "")}, b"", now_ms=NOW_MS)
