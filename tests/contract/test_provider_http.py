"""Every F-PR row of delivery.md §3, for every adapter, against a fake with a journal.

What matters in each: the outcome never says "not accepted" of a copy that the journal has, nor
"accepted" of one that it has not; where nobody can know it says UNKNOWN.
"""

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from emailerctl.models.outcome import Alarm, Kind, Party, Phase
from emailerctl.providers.base import DOT_WITHIN_MS, Abilities, CanLookUp, MarkRefused, Outgoing
from emailerctl.providers.http import HttpNextHop
from emailerctl.providers.http_client import Answer, Request
from emailerctl.providers.registry import KINDS
from tests.contract.http_client import (
    build_look_up,
    build_message,
    build_next_hop,
    find_tag,
    send,
)
from tests.contract.smtp_client import Marker, MovableClock, until
from tests.providers_server.dialects import DIALECTS
from tests.providers_server.fixture import ProviderServer

HOUR_MS = 3_600_000


@pytest.fixture(params=sorted(DIALECTS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(
    kind: str, server: ProviderServer | str, **settings: Any
) -> AsyncIterator[HttpNextHop[Any]]:
    hop = build_next_hop(kind, server, **settings)
    try:
        yield hop
    finally:
        await hop.close()


# What was taken


async def test_a_message_is_taken_once(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, "ok", "ok")

    assert [o.kind for o in sent.outcomes.values()] == [Kind.ACCEPTED] * 2
    assert all(o.provider_message_id for o in sent.outcomes.values())
    assert sent.mark.asked == [[0, 1]]
    journal = providers.journal(sent.outgoing.public_id)
    assert [copy["recipient"] for copy in journal] == [
        recipient.address for recipient in sent.outgoing.recipients
    ]
    assert {(copy["public_id"], copy["attempt"]) for copy in journal} == {
        (sent.outgoing.public_id, 1)
    }


async def test_a_connection_is_kept(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers) as hop:
        for _ in range(3):
            assert (await send(providers, hop, "ok")).outcome.kind is Kind.ACCEPTED
        assert hop.client.connections == 1


async def test_the_last_byte_waits_for_the_mark_and_the_rest_does_not(
    providers: ProviderServer, kind: str
) -> None:
    outgoing = build_message("ok", text="long " * 40_000)
    tag = find_tag(outgoing)
    seen: list[list[str]] = []

    async def look() -> None:
        await until(lambda: providers.events(tag), "all but the last byte")
        seen.append(providers.events(tag))

    async with opened(kind, providers) as hop:
        sending = await hop.send(outgoing, Marker(meanwhile=look))

    assert seen == [["all_but_last"]]
    assert providers.events(tag) == ["all_but_last", "complete"]
    assert sending.outcomes[0].kind is Kind.ACCEPTED


async def test_a_refused_mark_sends_no_last_byte(providers: ProviderServer, kind: str) -> None:
    outgoing = build_message("ok")
    tag = find_tag(outgoing)
    async with opened(kind, providers) as hop:
        with pytest.raises(MarkRefused):
            await hop.send(outgoing, Marker(grants=False))
        await until(lambda: "no_last_byte" in providers.events(tag), "the connection to end")
        assert (await send(providers, hop, "ok")).outcome.kind is Kind.ACCEPTED

    assert providers.journal(outgoing.public_id) == []


async def test_f_cl_09_a_late_last_byte_does_not_leave(
    providers: ProviderServer, kind: str
) -> None:
    clock = MovableClock()

    async def sleep() -> None:
        clock.moved_ms += DOT_WITHIN_MS + 1

    async with opened(kind, providers, clock=clock) as hop:
        sent = await send(providers, hop, "ok", meanwhile=sleep)

    assert (sent.outcome.kind, sent.outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert not sent.outcome.is_charged
    assert sent.copies == 0


# F-PR-01


async def test_f_pr_01_nobody_listens(kind: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with opened(kind, url) as hop:
            sending = await hop.send(build_message("ok"), Marker())

    outcome = sending.outcomes[0]
    assert (outcome.kind, outcome.party, outcome.phase) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        Phase.CONNECT,
    )


async def test_f_pr_01_the_request_is_not_taken_in_time(kind: str) -> None:
    """A server that reads nothing: the body stays behind, the mark is never asked for."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with opened(kind, url) as hop:
            mark = Marker()
            message = build_message("ok", text="x" * 8_000_000, within_ms=1500)
            sending = await hop.send(message, mark)

    assert sending.outcomes[0].kind is Kind.TRANSIENT
    assert mark.asked == []


@pytest.mark.parametrize("wish", ["early-close", "early-reset"])
async def test_f_pr_01_the_connection_ends_before_the_last_byte(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    outgoing = build_message(wish)
    tag = find_tag(outgoing)

    async def look() -> None:
        await until(lambda: "was_early" in providers.events(tag), "the end")

    async with opened(kind, providers) as hop:
        sending = await hop.send(outgoing, Marker(meanwhile=look))

    assert "complete" not in providers.events(tag)
    outcome = sending.outcomes[0]
    assert (outcome.kind, outcome.phase) == (Kind.TRANSIENT, Phase.CONTENT)


@pytest.mark.parametrize(
    ("wish", "outcome_kind", "party"),
    [
        ("early-413", Kind.PERMANENT, Party.MESSAGE),
        ("early-429", Kind.TRANSIENT, Party.NEXT_HOP),
        ("early-500", Kind.TRANSIENT, Party.NEXT_HOP),
        ("early-200", Kind.TRANSIENT, Party.NEXT_HOP),
    ],
)
async def test_f_pr_01_an_answer_before_the_last_byte_is_definite(
    providers: ProviderServer, kind: str, wish: str, outcome_kind: Kind, party: Party
) -> None:
    """It can't be about a request that was never whole; the last byte stays here."""
    outgoing = build_message(wish)
    tag = find_tag(outgoing)

    async def look() -> None:
        await until(lambda: "was_early" in providers.events(tag), "the early answer")

    async with opened(kind, providers) as hop:
        sending = await hop.send(outgoing, Marker(meanwhile=look))

    outcome = sending.outcomes[0]
    assert (outcome.kind, outcome.party, outcome.phase) == (outcome_kind, party, Phase.CONTENT)
    assert outcome.code == int(wish.removeprefix("early-"))
    assert providers.journal(outgoing.public_id) == []
    assert providers.events(tag) == ["all_but_last", "was_early"]


async def test_f_pr_01_a_dead_kept_connection_is_nobodys_fault(
    providers: ProviderServer, kind: str
) -> None:
    """It is seen before the last byte, in time for another connection or not."""
    async with opened(kind, providers) as hop:
        first = await send(providers, hop, "dead")
        tag = find_tag(first.outgoing)

        async def look() -> None:
            await until(lambda: "died" in providers.events(tag), "the reset")

        second = await send(providers, hop, "ok", meanwhile=look)

    assert first.outcome.kind is Kind.ACCEPTED
    assert second.outcome.kind in (Kind.ACCEPTED, Kind.TRANSIENT)
    assert second.outcome.kind is Kind.ACCEPTED or not second.outcome.is_charged
    assert second.copies == (second.outcome.kind is Kind.ACCEPTED)


@pytest.fixture(scope="module")
def encrypted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ProviderServer, Path]]:
    """The fake over TLS, and the file with its authority's certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = ("--tls", str(folder / "cert.pem"), str(folder / "key.pem"))
    server = ProviderServer(*options, folder=folder)
    yield server, folder / "ca.pem"
    server.stop()


async def test_tls_is_verified(encrypted: tuple[ProviderServer, Path], kind: str) -> None:
    server, ca_file = encrypted
    async with opened(kind, server, ca_file=str(ca_file)) as hop:
        known = [await send(server, hop, "ok") for _ in range(2)]
    async with opened(kind, server) as hop:
        unknown = await send(server, hop, "ok")

    assert [sent.outcome.kind for sent in known] == [Kind.ACCEPTED] * 2
    assert (unknown.outcome.kind, unknown.outcome.alarm) == (Kind.TRANSIENT, Alarm.TLS)
    assert unknown.copies == 0


async def test_an_early_answer_is_seen_through_tls(
    encrypted: tuple[ProviderServer, Path], kind: str
) -> None:
    server, ca_file = encrypted
    outgoing = build_message("early-413")
    tag = find_tag(outgoing)

    async def look() -> None:
        await until(lambda: "was_early" in server.events(tag), "the early answer")

    async with opened(kind, server, ca_file=str(ca_file)) as hop:
        sending = await hop.send(outgoing, Marker(meanwhile=look))

    assert (sending.outcomes[0].kind, sending.outcomes[0].code) == (Kind.PERMANENT, 413)
    assert server.journal(outgoing.public_id) == []


# F-PR-02


@pytest.mark.parametrize("wish", ["silent-after", "silent-before"])
async def test_f_pr_02_silence_after_the_last_byte(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    async with opened(kind, providers, final_reply="200ms") as hop:
        sent = await send(providers, hop, wish)

    assert sent.outcome.kind is Kind.UNKNOWN
    assert sent.copies == (wish == "silent-after")


@pytest.mark.parametrize("wish", ["reset-after", "reset-before", "head-garbage"])
async def test_f_pr_02_reset_after_the_last_byte(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, wish)

    assert sent.outcome.kind is Kind.UNKNOWN
    assert sent.outcome.phase is Phase.ANSWER
    assert sent.copies == (wish != "reset-before")


async def test_f_pr_02_stopped_while_waiting_for_the_answer(
    providers: ProviderServer, kind: str
) -> None:
    """What happened must not be lost with the task: it ends in an outcome."""
    outgoing = build_message("silent-after")
    async with opened(kind, providers) as hop:
        task = asyncio.ensure_future(hop.send(outgoing, Marker()))
        await until(lambda: providers.journal(outgoing.public_id), "the copy")
        task.cancel()
        sending = await task

    assert sending.outcomes[0].kind is Kind.UNKNOWN


async def test_stopped_before_the_mark_nothing_is_kept(
    providers: ProviderServer, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with opened(kind, url) as hop:
            mark = Marker()
            message = build_message("ok", text="x" * 8_000_000)
            task = asyncio.ensure_future(hop.send(message, mark))
            await until(lambda: hop.client.connections, "the connection")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert mark.asked == []


@pytest.mark.parametrize("wish", ["head-endless", "head-1xx"])
async def test_f_pr_02_an_answer_that_never_begins(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    async with opened(kind, providers, final_reply="500ms") as hop:
        sent = await send(providers, hop, wish)

    assert (sent.outcome.kind, sent.copies) == (Kind.UNKNOWN, 1)


# F-PR-03, F-PR-04, F-PR-10


@pytest.mark.parametrize("wish", ["empty", "garbage", "list", "bomb", "cut", "endless"])
async def test_f_pr_03_the_status_decides_whatever_the_body(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, wish)

    assert (sent.outcome.kind, sent.copies) == (Kind.ACCEPTED, 1)
    assert sent.outcome.provider_message_id == ""
    assert "no id" in sent.outcome.reply
    assert len(sent.dialogue) < 2000


async def test_f_pr_10_nothing_is_decompressed(providers: ProviderServer, kind: str) -> None:
    """64 MiB of zeros come as 64 KiB, and stay that."""
    outgoing = build_message("bomb")
    async with opened(kind, providers) as hop:
        request = hop.build(outgoing)
        assert isinstance(request, Request)
        answer = await hop.client.exchange(
            request, Marker(), deadline_boot_ms=outgoing.deadline_boot_ms, dialogue=[]
        )

    assert isinstance(answer, Answer)
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.body) == int(answer.headers["content-length"]) < 100_000


# F-PR-05


async def test_f_pr_05_refused_for_good(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, "refuse")

    assert (sent.outcome.kind, sent.copies) == (Kind.PERMANENT, 0)
    assert sent.outcome.party is not Party.RECIPIENT


@pytest.mark.parametrize("status", [400, 404, 405, 410, 411, 413, 415, 422])
async def test_f_pr_05_a_status_without_a_verdict(
    providers: ProviderServer, kind: str, status: int
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, f"s{status}-before")

    assert (sent.outcome.kind, sent.outcome.code) == (Kind.PERMANENT, status)
    about_message = status in (400, 413, 422)
    assert (sent.outcome.party is Party.MESSAGE) == about_message


@pytest.mark.parametrize("wish", ["unauthorized", "s403-before"])
async def test_f_pr_05_credentials_pause_the_next_hop(
    providers: ProviderServer, kind: str, wish: str
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, wish)

    assert (sent.outcome.party, sent.outcome.alarm) == (Party.NEXT_HOP, Alarm.CREDENTIALS)
    assert sent.outcome.kind in (Kind.PERMANENT, Kind.TRANSIENT)
    assert not sent.outcome.is_charged
    assert sent.copies == 0


# F-PR-06 and F-PR-08


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [408, 409, 418, 500, 502, 503, 504, 521, 599])
async def test_f_pr_06_f_pr_08_a_status_that_decides_nothing(
    providers: ProviderServer, kind: str, status: int, when: str
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, f"s{status}-{when}")

    assert (sent.outcome.kind, sent.outcome.code) == (Kind.UNKNOWN, status)
    assert sent.copies == (when == "after")


# F-PR-07


@pytest.mark.parametrize(
    ("wish", "wait_ms"),
    [
        ("wait-seconds", 17_000),
        ("wait-date", HOUR_MS),
        ("wait-past", 0),
        ("wait-huge", HOUR_MS),
        ("wait-words", None),
        ("wait-seconds-503", 17_000),
        ("wait-huge-503", HOUR_MS),
        ("s429-before", None),
        ("s425-before", None),
    ],
)
async def test_f_pr_07_slow_down(
    providers: ProviderServer, kind: str, wish: str, wait_ms: int | None
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, wish)

    assert (sent.outcome.kind, sent.outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert sent.outcome.retry_after_ms == wait_ms
    assert sent.copies == 0


# F-PR-09


async def test_f_pr_09_a_redirect_is_never_followed(
    providers: ProviderServer, kind: str
) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, "redirect")

    assert (sent.outcome.kind, sent.outcome.alarm) == (Kind.TRANSIENT, Alarm.REDIRECT)
    assert (sent.copies, providers.stolen()) == (0, [])


# All at once

DEFINITE = ["refuse", "unauthorized", "redirect", "wait-huge", "s400-before", "early-429"]
# The last byte may have left before the early end was seen, so these may be doubtful too.
DOUBTFUL = [
    "early-close",
    "early-reset",
    "silent-after",
    "silent-before",
    "reset-after",
    "reset-before",
    "s500-after",
    "head-garbage",
]
TAKEN = ["ok", "ok", "ok", "empty", "garbage", "list", "cut", "endless"]


async def test_under_every_fault_at_once_nothing_is_said_that_is_not_so(
    providers: ProviderServer, kind: str
) -> None:
    """Over shared connections, in no order: no answer goes to another's question."""
    wishes = [*DEFINITE, *DOUBTFUL, *TAKEN] * 3
    Random(1).shuffle(wishes)
    messages = [build_message(wish, within_ms=60_000) for wish in wishes]
    async with opened(kind, providers, final_reply="1500ms") as hop:
        sendings = await asyncio.gather(*(hop.send(message, Marker()) for message in messages))

    copies = Counter(copy["public_id"] for copy in providers.journal())
    for wish, message, sending in zip(wishes, messages, sendings, strict=True):
        said, is_there = sending.outcomes[0].kind, copies[message.public_id]
        assert is_there <= (said not in (Kind.TRANSIENT, Kind.PERMANENT)), sending.dialogue
        assert is_there >= (said is Kind.ACCEPTED), sending.dialogue
        assert (wish in TAKEN) == (said is Kind.ACCEPTED), (wish, sending.dialogue)
        assert said is not Kind.UNKNOWN or wish in DOUBTFUL, (wish, sending.dialogue)


# Around it


async def test_secrets_are_not_shown(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers) as hop:
        sent = await send(providers, hop, "ok")
        secrets = hop.settings.secrets

    assert secrets
    assert sent.dialogue.splitlines()[0].startswith("> POST http://localhost:")
    assert not [secret for secret in secrets if secret in sent.dialogue]


async def test_check_says_what_works(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers) as hop:
        good = await hop.check()
    wrong = {
        name: f"not-{value}"
        for name, value in DIALECTS[kind].settings.items()
        if name in {"api_key", "server_token", "secret_access_key", "secret_key"}
    }
    assert wrong
    async with opened(kind, providers, **wrong) as hop:
        bad = await hop.check()
    async with opened(kind, "http://127.0.0.1:9") as hop:
        away = await hop.check()

    assert good
    assert all(result.is_good for result in good), good
    assert [result.name for result in bad if not result.is_good] == ["credentials"]
    assert [(result.name, result.is_good) for result in away] == [("connection", False)]


async def test_a_check_shakes_hands(
    encrypted: tuple[ProviderServer, Path], providers: ProviderServer, kind: str
) -> None:
    server, ca_file = encrypted
    async with opened(kind, server, ca_file=str(ca_file)) as hop:
        known = await hop.check_tls()
    async with opened(kind, server) as hop:
        unknown = await hop.check_tls()
    async with opened(kind, providers) as hop:
        in_clear = await hop.check_tls()
    async with opened(kind, "https://127.0.0.1:9") as hop:
        away = await hop.check_tls()

    assert known is not None
    assert known.is_good
    assert known.detail.startswith("TLSv1.")
    assert "certificate until" in known.detail
    assert unknown is not None
    assert (unknown.is_good, "certificate" in unknown.detail) == (False, True)
    assert in_clear is not None
    assert (in_clear.is_good, in_clear.detail) == (True, "none: this host")
    assert away is None  # `check` says so


async def test_a_plan_is_the_request_without_its_secrets(
    providers: ProviderServer, kind: str
) -> None:
    outgoing = build_message("ok", "ok")
    async with opened(kind, providers) as hop:
        planned = hop.plan(outgoing)
        request = hop.build(outgoing)
        secrets = hop.settings.secrets

    assert isinstance(request, Request)
    assert planned.target == f"{request.method} {providers.url(kind)}{request.path}"
    assert planned.size_bytes == len(request.body)
    shown = "\n".join([planned.target, *planned.head, planned.body])
    assert outgoing.public_id in shown or "Raw" in shown  # SES has it in base64
    assert not [secret for secret in secrets if secret in shown]
    assert providers.journal(outgoing.public_id) == []


async def test_a_look_up_tells_who_has_it(providers: ProviderServer, kind: str) -> None:
    async with opened(kind, providers, final_reply="200ms") as hop:
        if hop.abilities.look_up_lag_ms is None:
            assert not isinstance(hop, CanLookUp)
            return
        assert isinstance(hop, CanLookUp)
        taken = await send(providers, hop, "silent-after")
        lost = await send(providers, hop, "silent-before")
    async with opened(kind, providers) as patient:
        assert isinstance(patient, CanLookUp)
        findings = [
            (await patient.look_up(build_look_up(sent.outgoing)))[0] for sent in (taken, lost)
        ]
    async with opened(kind, "http://127.0.0.1:9") as away:
        assert isinstance(away, CanLookUp)
        nothing = await away.look_up(build_look_up(taken.outgoing))

    assert [sent.outcome.kind for sent in (taken, lost)] == [Kind.UNKNOWN] * 2
    assert [finding.is_there for finding in findings] == [True, False]
    assert (findings[0].attempt, bool(findings[0].provider_message_id)) == (1, True)
    assert nothing == {}


# A full page of everybody's: somebody else's events, as where the question was ignored.
FULL_PAGE = json.dumps(
    {
        "items": [{}] * 300,
        "Messages": [{}] * 500,
        "Data": [{}] * 1000,
        "events": [{}] * 2500,
        "results": [{}] * 10_000,
    }
).encode()


async def test_a_look_up_that_may_not_show_all_says_nothing(kind: str) -> None:
    """Ours could be on the next page: a "no" would lead to a second copy."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(FULL_PAGE)}\r\nConnection: close\r\n"
        writer.write(head.encode() + b"\r\n" + FULL_PAGE)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(kind, f"http://127.0.0.1:{port}") as hop:
        if isinstance(hop, CanLookUp):
            assert await hop.look_up(build_look_up(build_message("ok"))) == {}


def find_key(hop: Any, outgoing: Outgoing) -> str:
    """Return the key of an attempt's request: a header, or a field of the body (`a.b`)."""
    request = hop.build(outgoing)
    assert isinstance(request, Request)
    field = hop.abilities.idempotency.field
    if field in request.headers:
        return request.headers[field]
    value: Any = json.loads(request.body)
    for name in field.split("."):
        value = value[name]
    return str(value)


@pytest.mark.parametrize("wish", ["silent-after", "reset-after", "s500-after"])
async def test_the_same_key_again_ends_the_doubt(providers: ProviderServer, wish: str) -> None:
    """A replay of the attempt: no second copy goes, and what was taken is said to be taken.

    At Brevo a known key is an error: it says that there was such a request, not what came of
    it, and the look-up does.
    """
    keyed = [kind for kind in DIALECTS if (KINDS[kind].abilities or Abilities()).idempotency]
    assert "resend" in keyed
    for kind in keyed:
        outgoing = build_message(wish)
        async with opened(kind, providers, final_reply="1s") as hop:
            first = (await hop.send(outgoing, Marker())).outcomes[0]
            again = (await hop.send(outgoing, Marker())).outcomes[0]
            finds = isinstance(hop, CanLookUp)
            found = (await hop.look_up(build_look_up(outgoing)))[0] if finds else None

        keys = [find_key(hop, replace(outgoing, attempt=attempt)) for attempt in (1, 1, 2)]
        assert keys[0]
        assert keys[0] == keys[1] != keys[2]
        assert first.kind is Kind.UNKNOWN
        if DIALECTS[kind].repeated is None:
            assert again.kind is Kind.ACCEPTED
            assert again.provider_message_id
        else:
            assert (again.kind, again.phase) == (Kind.UNKNOWN, Phase.ANSWER)
            assert found is not None
            assert (found.is_there, found.attempt) == (True, 1)
        assert len(providers.journal(outgoing.public_id)) == 1


async def test_a_killed_fake_keeps_its_journal(tmp_path: Path, kind: str) -> None:
    """The oracle of all of these: what it has answered is on disk."""
    server = ProviderServer(folder=tmp_path)
    async with opened(kind, server) as hop:
        sent = await send(server, hop, "ok")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(timeout=10)
        after = await send(server, hop, "ok")

    assert (sent.outcome.kind, sent.copies) == (Kind.ACCEPTED, 1)
    assert (after.outcome.kind, after.copies) == (Kind.TRANSIENT, 0)
    assert len(server.journal()) == 1


def test_every_kind_has_a_dialect() -> None:
    from emailerctl.providers.registry import KINDS

    assert set(DIALECTS) == set(KINDS) - {"smtp", "sandbox"}


async def test_a_look_up_of_mailgun_does_not_hang_on_the_message_id(
    providers: ProviderServer,
) -> None:
    """Were it rewritten on the way, a "no" would lead to a second copy."""
    async with opened("mailgun", providers, final_reply="200ms") as hop:
        assert isinstance(hop, CanLookUp)
        taken = await send(providers, hop, "silent-after", "ok")
        question = replace(build_look_up(taken.outgoing), message_id_header="other@example.org")
        findings = await hop.look_up(question)

    assert [findings[n].is_there for n in (0, 1)] == [True, True]
