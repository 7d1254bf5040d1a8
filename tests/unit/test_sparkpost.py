"""SparkPost: what is asked, what answers and reports mean."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.clock import SystemClock
from emailerctl.models.message import Attachment
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party
from emailerctl.providers.base import (
    LookUp,
    Malformed,
    RejectReason,
    Report,
    ReportKind,
)
from emailerctl.providers.http_client import Request, build_basic_auth
from emailerctl.providers.sparkpost import (
    SparkPost,
    SparkPostReports,
    SparkPostSettings,
    classify,
    read_events,
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

SETTINGS = SparkPostSettings.model_validate(
    {"api_key": "the-key", "report_user": "sp", "report_password": "s3cret"}
)
REPORTS = SparkPostReports(SETTINGS)
ANSWERS = load("sparkpost/answers.json")["answers"]
EVENTS = load("sparkpost/webhooks.json")["events"]
BOB = recipients("bob@example.org")
BOTH = recipients("bob@example.org", "cleo@example.org")


async def build(
    *addresses: str, draft: Any = None, settings: Any = SETTINGS, **fields: Any
) -> Request | Outcome:
    hop = SparkPost("sp", settings, connections=1, clock=SystemClock())
    try:
        return hop.build(build_outgoing(draft, *addresses, **fields))
    finally:
        await hop.close()


async def test_the_request() -> None:
    request = await build(
        "bob@example.org", "cleo@example.org", "dan@example.org", "blind@example.org"
    )
    to = '"Bob" <bob@example.org>, cleo@example.org'

    assert isinstance(request, Request)
    assert (request.method, request.path) == ("POST", "/api/v1/transmissions")
    assert request.headers == {
        "Authorization": "the-key",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    assert json.loads(request.body) == {
        "recipients": [
            {"address": {"email": address, "header_to": to}}
            for address in (
                "bob@example.org",
                "cleo@example.org",
                "dan@example.org",
                "blind@example.org",
            )
        ],
        "content": {
            "from": {"email": "ann@example.org", "name": 'Ann "Ä" Müller'},
            "subject": "Grüße an alle",
            "text": "Hallo Wörld\n",
            "html": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
            "reply_to": "help@example.org",
            "headers": {
                "X-Ticket": "17",
                "List-Unsubscribe": "<https://example.org/u?x=1>",
                "Cc": '"Dän, Esq." <dan@example.org>',
            },
            "attachments": [
                {"name": "ümlaut.pdf", "type": "application/pdf", "data": "AFBERg=="}
            ],
            "inline_images": [
                {"name": "logo@example.org", "type": "image/png", "data": "iVBORw=="}
            ],
        },
        "metadata": {
            "order": "17",
            "a name of more than twenty octets": "x",
            "emailer_id": PUBLIC_ID,
            "emailer_attempt": "2",
        },
        "campaign_id": "welcome",
        "options": {"perform_substitutions": False, "transactional": False},
    }
    assert request.carries == recipients(
        "bob@example.org", "cleo@example.org", "dan@example.org", "blind@example.org"
    )


async def test_the_header_is_the_same_for_whomever_it_is() -> None:
    """The envelope is apart: nobody sees from a retry that it is one."""
    everybody, some = await build(), await build("blind@example.org", "dan@example.org")

    assert isinstance(everybody, Request)
    assert isinstance(some, Request)
    first, second = json.loads(everybody.body), json.loads(some.body)
    assert second["content"] == first["content"]
    assert [one["address"] for one in second["recipients"]] == [
        {
            "email": address,
            "header_to": first["recipients"][0]["address"]["header_to"],
        }
        for address in ("blind@example.org", "dan@example.org")
    ]
    assert some.decided == {}


async def test_what_has_no_list_unsubscribe_is_transactional() -> None:
    request = await build(draft=build_draft(headers={}), tags=())

    assert isinstance(request, Request)
    message = json.loads(request.body)
    assert message["options"]["transactional"] is True
    assert "campaign_id" not in message


async def test_blind_copies_alone_have_a_to_of_their_own() -> None:
    request = await build("a@example.org", "b@example.org", draft=build_draft(to=(), cc=()))

    assert isinstance(request, Request)
    assert json.loads(request.body)["recipients"] == [
        {"address": {"email": "a@example.org"}},
        {"address": {"email": "b@example.org"}},
    ]


async def test_a_subaccount_is_named() -> None:
    settings = SparkPostSettings.model_validate({"api_key": "k", "subaccount": 17})
    request = await build(settings=settings)

    assert isinstance(request, Request)
    assert request.headers["X-MSYS-SUBACCOUNT"] == "17"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"text": "x" * (20 * 1024 * 1024)}, "it takes at most 20971520"),
        (
            {
                "attachments": (
                    Attachment(filename="run.EXE", content_type="x/y", content=b"MZ"),
                )
            },
            "it takes no .exe file",
        ),
    ],
    ids=["size", "attachment"],
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
    "accepted for some": (Kind.UNKNOWN, Party.NEXT_HOP),
    "accepted for nobody": (Kind.PERMANENT, Party.RECIPIENT),
    "invalid params": (Kind.PERMANENT, Party.MESSAGE),
    "resources unavailable": (Kind.TRANSIENT, Party.NEXT_HOP),
    "generation failed": (Kind.PERMANENT, Party.MESSAGE),
    "generation rejected": (Kind.PERMANENT, Party.RECIPIENT),
    "generation not configured": (Kind.PERMANENT, Party.NEXT_HOP),
    "no valid recipients": (Kind.PERMANENT, Party.RECIPIENT),
    "domain blocked": (Kind.PERMANENT, Party.NEXT_HOP),
    "domain not verified": (Kind.PERMANENT, Party.NEXT_HOP),
    "wrong key": (Kind.PERMANENT, Party.NEXT_HOP),
    "not allowed": (Kind.PERMANENT, Party.NEXT_HOP),
    "too large": (Kind.PERMANENT, Party.MESSAGE),
    "over the limit": (Kind.TRANSIENT, Party.NEXT_HOP),
    "field is missing": (Kind.PERMANENT, Party.MESSAGE),
    "invalid header": (Kind.PERMANENT, Party.MESSAGE),
    "slow down": (Kind.TRANSIENT, Party.NEXT_HOP),
    "broken": (Kind.UNKNOWN, Party.NEXT_HOP),
    "generation away": (Kind.TRANSIENT, Party.NEXT_HOP),
    "unavailable": (Kind.UNKNOWN, Party.NEXT_HOP),
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

    assert read("accepted").provider_message_id == "11668787484950529"
    assert read("accepted for some").provider_message_id == "11668787484950530"
    assert "not said which" in read("accepted for some").reply
    assert (read("wrong key").alarm, read("wrong key").is_charged) == (Alarm.CREDENTIALS, False)
    assert read("domain not verified").reply == (
        "400 7001 Invalid domain Unconfigured or unverified sending domain."
    )


@pytest.mark.parametrize(
    "name", ["accepted for nobody", "generation rejected", "no valid recipients"]
)
def test_a_refusal_of_several_is_the_messages(name: str) -> None:
    outcome = classify(build_answer(ANSWERS[name]), BOTH)

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
    ours = EVENTS["injection"]["msys"]["message_event"]
    elses = {**ours, "raw_rcpt_to": "cleo@example.org", "rcpt_meta": {"emailer_id": "msg_x"}}

    found = read_events([ours, elses, None, {}], wanted)

    assert [found[n].is_there for n in (0, 1)] == [True, False]
    assert (found[0].attempt, found[0].provider_message_id) == (2, "65832150921904138")


# Reports

K, R = ReportKind, RejectReason
REPORTED: dict[str, tuple[ReportKind, RejectReason | None, bool]] = {
    "injection": (K.QUEUED, None, False),
    "delivery": (K.DELIVERED, None, False),
    "delay": (K.DEFERRED, None, False),
    "bounce 1": (K.BOUNCED, R.OTHER, False),
    "bounce 10": (K.BOUNCED, R.INVALID, True),
    "bounce 20": (K.BOUNCED, R.BOUNCED, False),
    "bounce 21": (K.BOUNCED, R.BOUNCED, False),
    "bounce 22": (K.BOUNCED, R.BOUNCED, False),
    "bounce 23": (K.BOUNCED, R.BOUNCED, False),
    "bounce 24": (K.BOUNCED, R.TIMED_OUT, False),
    "bounce 25": (K.REJECTED, R.BLOCKED, False),
    "bounce 26": (K.REJECTED, R.BLOCKED, False),
    "bounce 30": (K.BOUNCED, R.BOUNCED, True),
    "bounce 40": (K.BOUNCED, R.BOUNCED, False),
    "bounce 50": (K.BOUNCED, R.BLOCKED, False),
    "bounce 51": (K.BOUNCED, R.BLOCKED, False),
    "bounce 52": (K.BOUNCED, R.BLOCKED, False),
    "bounce 53": (K.BOUNCED, R.OTHER, False),
    "bounce 54": (K.BOUNCED, R.BLOCKED, False),
    "bounce 60": (K.UNKNOWN, None, False),
    "bounce 70": (K.BOUNCED, R.BOUNCED, False),
    "bounce 80": (K.SUBSCRIBED, None, False),
    "bounce 90": (K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
    "bounce 100": (K.UNKNOWN, None, False),
    "bounce of no class": (K.BOUNCED, R.OTHER, False),
    "bounced after delivery": (K.BOUNCED, R.INVALID, True),
    "policy rejection": (K.REJECTED, R.OTHER, False),
    "generation failure": (K.REJECTED, R.OTHER, False),
    "generation rejection": (K.REJECTED, R.OTHER, False),
    "complaint": (K.COMPLAINED, R.SPAM, False),
    "open": (K.OPENED, None, False),
    "first open": (K.UNKNOWN, None, False),
    "amp open": (K.OPENED, None, False),
    "click": (K.CLICKED, None, False),
    "amp click": (K.CLICKED, None, False),
    "list unsubscribe": (K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
    "link unsubscribe": (K.UNSUBSCRIBED, R.UNSUBSCRIBED, False),
    "of the future": (K.UNKNOWN, None, False),
}


def test_every_event_has_a_meaning() -> None:
    assert set(REPORTED) == set(EVENTS)


@pytest.mark.parametrize("name", REPORTED)
def test_what_an_event_means(name: str) -> None:
    (report,) = REPORTS.parse(json.dumps([EVENTS[name]]).encode())

    assert (report.kind, report.reject_reason, report.is_hard) == REPORTED[name]
    assert (report.recipient, report.at_ms) == ("bob@example.org", NOW_MS)
    assert (report.public_id, report.attempt) == (PUBLIC_ID, 2)


def test_an_event_in_full() -> None:
    (event,) = EVENTS["bounce 10"]["msys"].values()

    assert REPORTS.parse(json.dumps([EVENTS["bounce 10"]]).encode()) == [
        Report(
            kind=K.BOUNCED,
            event_id=event["event_id"],
            recipient="bob@example.org",
            at_ms=NOW_MS,
            public_id=PUBLIC_ID,
            attempt=2,
            provider_message_id="65832150921904138",
            reject_reason=R.INVALID,
            is_hard=True,
            reply="550 5.1.1 no such user",
            raw=event,
        )
    ]


def test_a_batch_has_an_id_for_each_event_and_the_test_call_has_none() -> None:
    reports = REPORTS.parse(json.dumps([*EVENTS.values(), {"msys": {}}]).encode())

    assert len({report.event_id for report in reports}) == len(reports) == len(EVENTS)
    assert REPORTS.parse(b'[{"msys": {}}]') == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"[1]", b'[{"msys": 1}]', b'[{"msys": {"x": 1}}]', b"\xff"]
)
def test_what_is_no_batch(body: bytes) -> None:
    with pytest.raises(Malformed):
        REPORTS.parse(body)


@given(
    st.dictionaries(
        st.sampled_from(["type", "timestamp", "rcpt_meta", "bounce_class", "event_id"]),
        st.none()
        | st.integers()
        | st.text(max_size=20)
        | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=2),
    )
)
def test_any_event_can_be_read(event: dict[str, Any]) -> None:
    (report,) = REPORTS.parse(json.dumps([{"msys": {"message_event": event}}]).encode())

    assert report.at_ms >= 0


def test_f_wi_01_a_batch_that_is_told_again_has_the_same_number() -> None:
    headers = {
        "authorization": build_basic_auth("sp", "s3cret"),
        "x-messagesystems-batch-id": "032d330540298f54f0e8bcc1373f3cfd",
    }

    once = REPORTS.verify(headers, b"[]", now_ms=NOW_MS)
    assert once == "032d330540298f54f0e8bcc1373f3cfd"
    assert REPORTS.verify(headers, b"[]", now_ms=NOW_MS + 3_600_000) == once
