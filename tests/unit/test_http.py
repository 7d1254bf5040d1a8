"""The general table of HTTP statuses, waits, settings: what needs no network."""

from datetime import timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from emailerctl.models.clock import SystemClock
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.providers.base import (
    Abilities,
    CheckResult,
    NotVerified,
    Outgoing,
    Traits,
    find_faults,
    find_losses,
)
from emailerctl.providers.http import (
    HttpNextHop,
    HttpSettings,
    build_key,
    from_status,
    parse_retry_after,
    verify_basic_auth,
)
from emailerctl.providers.http_client import Answer, Request, build_basic_auth
from tests.unit.provider_case import NOW_MS, build_outgoing

HOUR_MS = 3_600_000
WAIT = {"retry-after": "17"}

# F-PR-03…09: status, headers, what it means, about whom
TABLE = [
    (200, {}, Kind.ACCEPTED, Party.NEXT_HOP),
    (202, {}, Kind.ACCEPTED, Party.NEXT_HOP),
    (299, {}, Kind.ACCEPTED, Party.NEXT_HOP),
    (301, {}, Kind.TRANSIENT, Party.NEXT_HOP),
    (307, {}, Kind.TRANSIENT, Party.NEXT_HOP),
    *((status, {}, Kind.PERMANENT, Party.MESSAGE) for status in (400, 413, 422)),
    *((status, {}, Kind.PERMANENT, Party.NEXT_HOP) for status in (401, 403, 404, 405, 410)),
    *((status, {}, Kind.PERMANENT, Party.NEXT_HOP) for status in (411, 415)),
    *((status, {}, Kind.UNKNOWN, Party.NEXT_HOP) for status in (402, 408, 409, 418, 451)),
    *((status, {}, Kind.TRANSIENT, Party.NEXT_HOP) for status in (425, 429)),
    (503, WAIT, Kind.TRANSIENT, Party.NEXT_HOP),
    *((status, {}, Kind.UNKNOWN, Party.NEXT_HOP) for status in (500, 502, 503, 504, 521, 529)),
    *((status, WAIT, Kind.UNKNOWN, Party.NEXT_HOP) for status in (500, 502, 504, 529)),
    *((status, {}, Kind.UNKNOWN, Party.NEXT_HOP) for status in (101, 600, 999)),
]


@pytest.mark.parametrize(("status", "headers", "kind", "party"), TABLE)
def test_what_a_status_means(
    status: int, headers: dict[str, str], kind: Kind, party: Party
) -> None:
    outcome = from_status(Answer(status=status, headers=headers, body=b"words"))

    assert (outcome.kind, outcome.party, outcome.phase) == (kind, party, Phase.ANSWER)
    assert outcome.code == status
    assert outcome.reply.startswith(f"{status} ")
    assert outcome.is_charged == (status not in (401, 403))


@given(status=st.integers(100, 999), has_wait=st.booleans())
def test_only_listed_statuses_are_definite(status: int, has_wait: bool) -> None:
    """Whatever is not known to mean "not accepted" is UNKNOWN: a second copy is worse."""
    headers = WAIT if has_wait else {}
    outcome = from_status(Answer(status=status, headers=headers))
    is_listed = status in {400, 401, 403, 404, 405, 410, 411, 413, 415, 422, 425, 429}
    is_definite = is_listed or status // 100 == 3 or (status == 503 and has_wait)

    assert (outcome.kind in (Kind.TRANSIENT, Kind.PERMANENT)) == is_definite
    assert (outcome.kind is Kind.ACCEPTED) == (status // 100 == 2)


@pytest.mark.parametrize(
    ("status", "alarm"),
    [(401, Alarm.CREDENTIALS), (403, Alarm.CREDENTIALS), (302, Alarm.REDIRECT), (400, None)],
)
def test_what_an_operator_must_see(status: int, alarm: Alarm | None) -> None:
    assert from_status(Answer(status=status)).alarm is alarm


def test_an_adapter_declares_a_status_definite() -> None:
    answer = Answer(status=500, headers=WAIT)

    outcome = from_status(answer, definite={500}, says="try later")

    assert (outcome.kind, outcome.retry_after_ms) == (Kind.TRANSIENT, 17_000)
    assert outcome.reply == "500 try later"


def test_an_acceptance_without_an_id_is_flagged() -> None:
    answer = Answer(status=200, body=b"\xff\x00<html>")

    assert "no id" in from_status(answer).reply
    assert "no id" not in from_status(answer, provider_id="x").reply
    assert from_status(answer, provider_id="x").provider_message_id == "x"


def test_a_reply_is_one_bounded_line() -> None:
    body = b"\x1b[31mfirst\r\nsecond\x00 " + b"x" * 10_000
    reply = from_status(Answer(status=400, body=body)).reply

    assert reply.isprintable()
    assert len(reply) < 600


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        ("0", 0),
        ("17", 17_000),
        (" 17 ", 17_000),
        ("3600", HOUR_MS),
        ("3601", HOUR_MS),
        ("9" * 400, HOUR_MS),
        ("-5", None),
        ("1.5", None),
        ("\u0661\u0667", None),
        ("", None),
        ("soon", None),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30_000),
        ("Tue, 24 Nov 2026 10:00:30 -0000", 30_000),
        ("Tue, 24 Nov 2026 11:00:30 +0100", 30_000),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR_MS),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Fri, 99 Dec 2026 23:59:59 GMT", None),
    ],
)
def test_f_pr_07_how_long_to_wait(value: str, wait_ms: int | None) -> None:
    assert parse_retry_after(value, NOW_MS) == wait_ms


@given(st.text(max_size=60))
def test_f_pr_07_any_wait_can_be_read(value: str) -> None:
    wait_ms = parse_retry_after(value, NOW_MS)

    assert wait_ms is None or 0 <= wait_ms <= HOUR_MS


def test_the_key_is_the_attempts() -> None:
    assert build_key(build_outgoing(attempt=3)) == "msg_0C6K9QAAAAAAA.3"


# Settings


class ToySettings(HttpSettings):
    kind: Literal["toy"] = "toy"
    api_key: SecretStr = SecretStr("the-key")


@pytest.mark.parametrize(
    "url",
    ["https://api.example", "https://api.example/v1/", "http://127.0.0.1:8080", "http://[::1]"],
)
def test_a_base_url_that_is_fine(url: str) -> None:
    assert ToySettings(base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "api.example",
        "ftp://api.example",
        "http://api.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "https://",
        "https://user:pass@api.example",
        "https://api.example?key=1",
        "https://api.example#x",
    ],
)
def test_a_base_url_that_would_leak_or_mislead(url: str) -> None:
    with pytest.raises(ValidationError):
        ToySettings(base_url=url)


def test_http_can_be_allowed() -> None:
    assert ToySettings(base_url="http://gateway.internal", allow_http=True).allow_http


def test_time_outs_end() -> None:
    with pytest.raises(ValidationError):
        ToySettings(base_url="https://api.example", final_reply=timedelta(0))


# What is said of a message before anything is asked


class Toy(HttpNextHop[ToySettings]):
    kind = "toy"
    abilities = Abilities(recipients=2, size_bytes=100_000)

    def build(self, outgoing: Outgoing) -> Request:
        raise AssertionError("nothing is asked")

    def classify(self, answer: Answer, request: Request) -> Outcome:
        raise AssertionError("nothing is asked")

    async def check(self) -> list[CheckResult]:
        return []


async def test_what_can_not_be_carried_goes_to_the_next_hop_in_the_chain() -> None:
    settings = ToySettings(base_url="https://api.example")
    hop = Toy("toy", settings, connections=1, clock=SystemClock())

    async def never(_: object) -> bool:
        raise AssertionError("the mark is not asked for")

    sending = await hop.send(build_outgoing(), never)
    await hop.close()

    assert {o.kind for o in sending.outcomes.values()} == {Kind.PERMANENT}
    outcome = sending.outcomes[0]
    assert (outcome.party, outcome.phase) == (Party.NEXT_HOP, Phase.GATE)
    assert outcome.reply == "3 recipients; it takes at most 2"
    assert sorted(sending.outcomes) == [0, 1, 2]


def test_faults_name_what_the_recipients_would_miss() -> None:
    abilities = Abilities(
        recipients=1,
        size_bytes=10,
        denied_suffixes=frozenset({"exe"}),
        has_inline=False,
        reply_to=1,
        denied_headers=frozenset({"x-denied"}),
    )
    traits = Traits(
        recipients=2,
        size_bytes=11,
        files=("a.EXE", "exe", "b.txt"),
        has_inline=True,
        headers=("X-Denied", "X-Fine"),
        reply_to=2,
        needs_smtputf8=True,
    )

    assert find_faults(abilities, traits) == [
        "2 recipients; it takes at most 1",
        "11 bytes; it takes at most 10",
        "it takes no .exe file",
        "it has no inline images",
        "2 addresses in Reply-To; it takes at most 1",
        "it refuses the header X-Denied",
        "it takes no address outside ASCII before the @",
    ]
    assert find_faults(Abilities(has_smtputf8=True), traits) == []


def test_losses_name_the_labels_that_stay_with_us() -> None:
    abilities = Abilities(
        tags=1, tag_octets=5, metadata=1, metadata_name_octets=3, metadata_value_octets=3
    )
    traits = Traits(
        recipients=1,
        size_bytes=1,
        tags=("tägs!", "one", "two"),
        metadata={"long": "x", "a": "long", "b": "1", "c": "2"},
    )

    assert find_losses(abilities, traits) == [
        "tag tägs! does not travel along",
        "tag two does not travel along",
        "metadata long does not travel along",
        "metadata a does not travel along",
        "metadata c does not travel along",
    ]


# Credentials of reports


def test_right_credentials() -> None:
    headers = {"authorization": build_basic_auth("pm", "s3cret:ä")}

    verify_basic_auth(headers, "pm", "s3cret:ä")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": build_basic_auth("pm", "wrong")},
        {"authorization": build_basic_auth("other", "s3cret")},
        {"authorization": build_basic_auth("pm", "s3cret").replace("Basic", "Bearer")},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic ÄÖ"},
    ],
    ids=str,
)
def test_wrong_credentials(headers: dict[str, str]) -> None:
    with pytest.raises(NotVerified):
        verify_basic_auth(headers, "pm", "s3cret")


def test_without_credentials_of_ours_nobody_is_let_in() -> None:
    with pytest.raises(NotVerified):
        verify_basic_auth({"authorization": build_basic_auth("pm", "")}, "pm", "")
