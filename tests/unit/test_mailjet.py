"""Mailjet: what is asked, what answers and reports mean."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.clock import SystemClock
from emailerctl.models.message import Attachment, Mailbox
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party
from emailerctl.providers.base import (
    LookUp,
    Malformed,
    RejectReason,
    Report,
    ReportKind,
)
from emailerctl.providers.http_client import Request, build_basic_auth
from emailerctl.providers.mailjet import (
    Mailjet,
    MailjetReports,
    MailjetSettings,
    classify,
    read_messages,
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

SETTINGS = MailjetSettings.model_validate(
    {"api_key": "key", "secret_key": "secret", "report_password": "s3cret"}
)
REPORTS = MailjetReports(SETTINGS)
ANSWERS = load("mailjet/answers.json")["answers"]
EVENTS = load("mailjet/webhooks.json")["events"]
BOTH = recipients("bob@example.org", "cleo@example.org")


async def build(*addresses: str, draft: Any = None, **fields: Any) -> Request | Outcome:
    hop = Mailjet("mj", SETTINGS, connections=1, clock=SystemClock())
    try:
        return hop.build(build_outgoing(draft, *addresses, **fields))
    finally:
        await hop.close()


async def test_the_request() -> None:
    request = await build()

    assert isinstance(request, Request)
    assert (request.method, request.path) == ("POST", "/v3.1/send")
    assert request.headers == {
        "Authorization": build_basic_auth("key", "secret"),
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    payload = {
        "order": "17",
        "a name of more than twenty octets": "x",
        "emailer_id": PUBLIC_ID,
        "emailer_attempt": "2",
    }
    assert json.loads(request.body) == {
        "Messages": [
            {
                "From": {"Email": "ann@example.org", "Name": 'Ann "Ä" Müller'},
                "To": [
                    {"Email": "bob@example.org", "Name": "Bob"},
                    {"Email": "cleo@example.org"},
                ],
                "Cc": [{"Email": "dan@example.org", "Name": "Dän, Esq."}],
                "ReplyTo": {"Email": "help@example.org"},
                "Subject": "Grüße an alle",
                "TextPart": "Hallo Wörld\n",
                "HTMLPart": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
                "Attachments": [
                    {
                        "ContentType": "application/pdf",
                        "Filename": "ümlaut.pdf",
                        "Base64Content": "AFBERg==",
                    }
                ],
                "InlinedAttachments": [
                    {
                        "ContentType": "image/png",
                        "Filename": "logo.png",
                        "Base64Content": "iVBORw==",
                        "ContentID": "logo@example.org",
                    }
                ],
                "Headers": {
                    "X-Ticket": "17",
                    "List-Unsubscribe": "<https://example.org/u?x=1>",
                },
                "CustomCampaign": "welcome",
                "CustomID": f"{PUBLIC_ID}.2",
                "EventPayload": json.dumps(payload, separators=(",", ":")),
            }
        ]
    }


async def test_blind_copies_do_not_see_each_other() -> None:
    request = await build("one@example.org", "two@example.org")

    assert isinstance(request, Request)
    (message,) = json.loads(request.body)["Messages"]
    assert message["To"] == [{"Email": "one@example.org"}]
    assert "Bcc" not in message
    assert not request.decided[1].is_charged


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"text": "x" * (15 * 1024 * 1024)}, "it takes at most 15728640"),
        (
            {"to": tuple(Mailbox(f"r{n}@example.org") for n in range(51)), "cc": ()},
            "51 recipients; it takes at most 50",
        ),
        ({"headers": {"X-Mailer": "x"}}, "it refuses the header X-Mailer"),
        (
            {"reply_to": (Mailbox("a@example.org"), Mailbox("b@example.org"))},
            "2 addresses in Reply-To; it takes at most 1",
        ),
    ],
    ids=["size", "recipients", "header", "reply-to"],
)
async def test_what_it_can_not_carry(fields: dict[str, Any], says: str) -> None:
    refusal = await build(draft=build_draft(**fields))

    assert isinstance(refusal, Outcome)
    assert (refusal.kind, refusal.party) == (Kind.PERMANENT, Party.NEXT_HOP)
    assert says in refusal.reply


async def test_a_file_without_a_name_gets_one() -> None:
    file = Attachment(filename="", content_type="text/plain; charset=utf-8", content=b"x")
    request = await build(draft=build_draft(attachments=(file,)))

    assert isinstance(request, Request)
    ((sent,),) = [json.loads(request.body)["Messages"][0]["Attachments"]]
    assert (sent["Filename"], sent["ContentType"]) == ("attachment", "text/plain")


# Classify

MEANINGS = {
    "accepted": (Kind.ACCEPTED, Party.NEXT_HOP),
    "without id": (Kind.ACCEPTED, Party.NEXT_HOP),
    "error with 200": (Kind.PERMANENT, Party.MESSAGE),
    "malformed": (Kind.PERMANENT, Party.MESSAGE),
    "no content": (Kind.PERMANENT, Party.MESSAGE),
    "forbidden header": (Kind.PERMANENT, Party.MESSAGE),
    "too many recipients": (Kind.PERMANENT, Party.MESSAGE),
    "payload too large": (Kind.PERMANENT, Party.MESSAGE),
    "bad address": (Kind.PERMANENT, Party.RECIPIENT),
    "bad address elsewhere": (Kind.PERMANENT, Party.MESSAGE),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "suspended": (Kind.PERMANENT, Party.NEXT_HOP),
    "sender not validated": (Kind.PERMANENT, Party.NEXT_HOP),
    "not allowed": (Kind.PERMANENT, Party.NEXT_HOP),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "gateway": (Kind.UNKNOWN, Party.NEXT_HOP),
}


def test_every_answer_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ANSWERS)


async def judge(name: str, *addresses: str, places: str = "") -> dict[int, Outcome]:
    """Classify; *places* replaces what the error is related to."""
    request = await build(*addresses)
    assert isinstance(request, Request)
    recorded = ANSWERS[name]
    if places:
        recorded = json.loads(json.dumps(recorded))
        (error,) = recorded["body"]["Messages"][0]["Errors"]
        error["ErrorRelatedTo"] = places.split()
    read = classify(build_answer(recorded), request)
    numbers = [recipient.n for recipient in request.carries]
    return dict.fromkeys(numbers, read) if isinstance(read, Outcome) else {**read}


@pytest.mark.parametrize("name", MEANINGS)
async def test_what_an_answer_means(name: str) -> None:
    outcome = (await judge(name, "bob@example.org"))[0]

    assert (outcome.kind, outcome.party) == MEANINGS[name]
    assert outcome.code == ANSWERS[name]["status"]


async def test_each_copy_has_an_id() -> None:
    outcomes = await judge("accepted", "bob@example.org", "cleo@example.org")

    assert [outcomes[n].provider_message_id for n in (0, 1)] == [
        "70650219165027410",
        "70650219165027411",
    ]


async def test_wrong_keys_pause_and_a_wrong_sender_does_not() -> None:
    """Both are a 403 or a 401; the From is this message's alone."""
    key = (await judge("wrong key"))[0]
    sender = (await judge("sender not validated"))[0]

    assert (key.alarm, key.is_charged) == (Alarm.CREDENTIALS, False)
    assert (sender.alarm, sender.is_charged) == (None, True)
    assert sender.reply.startswith('403 send-0008 "ann@example.org" is not an authorized')


@pytest.mark.parametrize(
    ("places", "refused"),
    [
        ("To[1].Email", {1}),
        ("Cc[0].Email", {2}),
        ("Bcc[0].Email", {3}),
        ("To[0].Email Bcc[0].Email", {0, 3}),
        ("To[7].Email", set()),
        ("To[0].Email From.Email", set()),
        ("From", set()),
    ],
)
async def test_whom_an_error_is_about(places: str, refused: set[int]) -> None:
    """The others go again at once without them; where it is not clear nobody is condemned."""
    everybody = ("bob@example.org", "cleo@example.org", "dan@example.org", "eve@example.org")
    outcomes = await judge("bad address", *everybody, places=places)

    assert {n for n, o in outcomes.items() if o.party is Party.RECIPIENT} == refused
    rest = [outcome for n, outcome in outcomes.items() if n not in refused]
    wanted = Kind.TRANSIENT if refused else Kind.PERMANENT
    assert {outcome.kind for outcome in rest} == {wanted}
    assert all(outcome.is_charged is not bool(refused) for outcome in rest)


# Look-up


def test_messages_tell_who_has_it() -> None:
    wanted = LookUp(
        public_id=PUBLIC_ID,
        message_id_header="x@example.org",
        attempt=2,
        recipients=BOTH,
        since_ms=NOW_MS,
    )
    ours = {
        "ID": 17,
        "Status": "sent",
        "ContactAlt": "Bob@Example.org",
        "CustomID": f"{PUBLIC_ID}.1",
    }
    elses = {**ours, "ContactAlt": "cleo@example.org", "CustomID": "msg_0C6K9QBBBBBBB.1"}
    unasked = {name: value for name, value in elses.items() if name != "CustomID"}

    found = read_messages([ours, elses, unasked, None, {}], wanted)

    assert [found[n].is_there for n in (0, 1)] == [True, False]
    assert (found[0].attempt, found[0].provider_message_id) == (1, "17")


# Reports

K, R = ReportKind, RejectReason
REPORTED: dict[str, tuple[ReportKind, RejectReason | None, bool]] = {
    "sent": (K.DELIVERED, None, False),
    "open": (K.OPENED, None, False),
    "click": (K.CLICKED, None, False),
    "user unknown": (K.BOUNCED, R.INVALID, True),
    "mailbox inactive": (K.BOUNCED, R.BOUNCED, True),
    "quota exceeded": (K.BOUNCED, R.BOUNCED, False),
    "invalid domain": (K.BOUNCED, R.INVALID, True),
    "no mail host": (K.BOUNCED, R.BOUNCED, True),
    "no mail host yet": (K.BOUNCED, R.BOUNCED, False),
    "relay denied": (K.BOUNCED, R.BLOCKED, False),
    "greylisted": (K.DEFERRED, None, False),
    "greylisted for good": (K.BOUNCED, R.OTHER, False),
    "sender blocked": (K.BOUNCED, R.BLOCKED, False),
    "content blocked": (K.BOUNCED, R.BLOCKED, False),
    "policy issue": (K.BOUNCED, R.BLOCKED, False),
    "system issue": (K.DEFERRED, None, False),
    "protocol issue": (K.DEFERRED, None, False),
    "connection issue": (K.DEFERRED, None, False),
    "bounced otherwise": (K.BOUNCED, R.OTHER, False),
    "preblocked": (K.REJECTED, R.BLOCKED, False),
    "blocked, unknown": (K.REJECTED, R.INVALID, False),
    "duplicate": (K.REJECTED, R.OTHER, False),
    "spam": (K.COMPLAINED, R.SPAM, False),
    "unsub": (K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
    "of the future": (K.UNKNOWN, None, False),
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
    event = EVENTS["user unknown"]
    (report,) = REPORTS.parse(json.dumps(event).encode())

    assert report == Report(
        kind=K.BOUNCED,
        event_id=report.event_id,
        recipient="bob@example.org",
        at_ms=NOW_MS,
        public_id=PUBLIC_ID,
        attempt=2,
        provider_message_id="19421777835146490",
        reject_reason=R.INVALID,
        is_hard=True,
        reply="user unknown",
        raw=event,
    )


def test_the_events_of_a_second_come_together() -> None:
    """Version 2 of the event API."""
    body = json.dumps(list(EVENTS.values())).encode()
    reports = REPORTS.parse(body)

    assert REPORTS.parse(body) == reports
    assert REPORTS.parse(b"[]") == []
    # those of one kind, second and error are one
    assert len({report.event_id for report in reports}) == len(EVENTS) - 2


def test_our_id_comes_back_in_the_payload_too() -> None:
    event = {**EVENTS["sent"], "CustomID": ""}
    (report,) = REPORTS.parse(json.dumps(event).encode())
    (without,) = REPORTS.parse(json.dumps({**event, "Payload": "a,b"}).encode())

    assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)
    assert (without.public_id, without.attempt) == ("", None)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b"[1]", b'{"event": 1}', b"\xff", b'"x"']
)
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.sampled_from(["sent", "bounce", "blocked", "unsub", ""]),
    st.dictionaries(
        st.sampled_from(["email", "time", "CustomID", "Payload", "MessageID", "error"]),
        st.none() | st.integers() | st.floats() | st.text(max_size=20),
    ),
)
def test_any_event_can_be_read(name: str, fields: dict[str, Any]) -> None:
    (report,) = REPORTS.parse(json.dumps({"event": name, **fields}).encode())

    assert report.event_id
    assert report.at_ms >= 0


async def test_the_request_carries_those_whom_it_names() -> None:
    request = await build("bob@example.org")

    assert isinstance(request, Request)
    assert replace(request, carries=()) != request
    assert [recipient.address for recipient in request.carries] == ["bob@example.org"]
