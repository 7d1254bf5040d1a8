"""The bounce mailbox, read from a real IMAP server that misbehaves, into a real store."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from daemons.consumer.imap import ImapTrouble, Visit, build_context
from daemons.consumer.mailbox import Mailbox
from emailerctl.core.bounces import Bounces
from emailerctl.core.dissect import LARGEST
from emailerctl.core.reporting import Reporting
from emailerctl.errors import ConfigurationError
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, State
from emailerctl.models.verp import Signer, build_return_path
from emailerctl.settings.model import ImapSettings
from tests.desk import Desk, connect, until
from tests.imapd.fixture import ImapServer
from tests.returned_mail import fill

SIGNER = Signer(b"the store's key")
Start = Callable[..., ImapServer]


@pytest.fixture
def start_imapd(tmp_path: Path) -> Iterator[Start]:
    servers: list[ImapServer] = []

    def start(*options: str) -> ImapServer:
        servers.append(ImapServer(*options, folder=tmp_path / f"imapd{len(servers)}"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImapServer]:
    server = ImapServer(folder=tmp_path_factory.mktemp("imapd"))
    yield server
    server.stop()


@pytest.fixture
def imapd(shared: ImapServer) -> ImapServer:
    """A server that a test may share with earlier ones, its mailboxes empty."""
    shared.begin_anew()
    return shared


def build_settings(server: ImapServer, **settings: Any) -> ImapSettings:
    return ImapSettings.model_validate({**server.settings, **settings})


def build_mailbox(
    desk: Desk,
    server: ImapServer,
    *,
    holder: int = 1,
    bounces: Bounces | None = None,
    **how: Any,
) -> Mailbox:
    return Mailbox(
        build_settings(server, **how),
        bounces or Bounces(desk.store, Reporting(desk.store), SIGNER),
        desk.store,
        holder=holder,
        clock=desk.clock,
        rng=Random(1),
    )


@asynccontextmanager
async def reading(*mailboxes: Mailbox) -> AsyncIterator[None]:
    """Have mailboxes read meanwhile."""
    running = [asyncio.create_task(mailbox.run()) for mailbox in mailboxes]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


@pytest.fixture(autouse=True)
async def consumer(desk: Desk) -> None:
    await desk.register()


async def send(desk: Desk) -> int:
    """Have a message handed over."""
    message_id = await desk.add()
    await desk.settle(await desk.start(message_id), Cause.HANDED_OVER)
    return message_id


def bounce(message_id: int, name: str = "postfix-failed", **fields: str) -> bytes:
    path = build_return_path("bounces@example.org", SIGNER.sign(message_id, n=1, attempt=1))
    return fill(name, path=path, **fields)


async def until_bounced(desk: Desk, *message_ids: int) -> None:
    for message_id in message_ids:
        public = to_public(MESSAGE, message_id)
        statement = "SELECT 1 FROM messages WHERE id = ? AND state = 'bounced'"
        await until(lambda: desk.rows(statement, message_id), within_s=40)  # noqa: B023
        assert await desk.states(message_id) == [State.BOUNCED], public


async def count_bounces(desk: Desk, message_id: int) -> int:
    return (await desk.causes(message_id)).count("bounce_reported")


@pytest.mark.parametrize(
    "options",
    [[], ["--no-move"], ["--no-move", "--no-uidplus"], ["--plain"]],
    ids=" ".join,
)
async def test_what_was_read_is_moved(
    desk: Desk, start_imapd: Start, options: list[str]
) -> None:
    """Into a folder that is made when it is missing; by RFC 6851, 4315 or 3501."""
    server = start_imapd(*options)
    message_id = await send(desk)
    server.deliver(bounce(message_id))
    server.deliver(fill("person"))

    async with reading(build_mailbox(desk, server, folder='Read "mail"')):
        await until_bounced(desk, message_id)
        await until(lambda: not server.contents())

    assert server.contents('Read "mail"') == [bounce(message_id), fill("person")]


@pytest.mark.parametrize("done", ["seen", "delete"])
async def test_or_flagged_or_deleted(desk: Desk, start_imapd: Start, done: str) -> None:
    server = start_imapd()
    message_id = await send(desk)
    server.deliver(bounce(message_id))

    async with reading(build_mailbox(desk, server, done=done)):
        await until_bounced(desk, message_id)
        until_done = (lambda: server.flags() == ["\\Seen"]) if done == "seen" else None
        await until(until_done or (lambda: not server.contents()))
        looks = len([line for line in server.transcript() if "SEARCH" in line])
        await until(lambda: sum("LOGOUT" in line for line in server.transcript()) > looks)

    assert sum("FETCH" in line for line in server.transcript()) == 1


FAULTS = [
    f"{what} {command}"
    for what in ("drop", "no", "bad", "silent", "drip", "garbage", "endless", "drop-after")
    for command in ("banner", "LOGIN", "SELECT", "SEARCH", "FETCH", "MOVE")
    if (what, command) not in {("no", "banner"), ("bad", "banner"), ("drop-after", "banner")}
]


@pytest.mark.parametrize("fault", [*FAULTS, "drop-in FETCH", "huge FETCH", "gone FETCH"])
async def test_whatever_the_server_does_each_bounce_counts_once(
    desk: Desk, imapd: ImapServer, fault: str
) -> None:
    """Drops, refusals, silence, nonsense at every step: the next look finds what is left."""
    server = imapd
    ids = [await send(desk), await send(desk)]
    server.misbehave(*fault.split())
    if fault == "gone FETCH":
        server.deliver(b"From: ann@example.org\r\n\r\nThis one will be gone.\r\n")
    for message_id in ids:
        server.deliver(bounce(message_id))

    async with reading(build_mailbox(desk, server, timeout="400ms")):
        await until_bounced(desk, *ids)
        await until(lambda: not server.contents(), within_s=40)

    assert server.has_misbehaved
    assert sorted(server.contents("Processed")) == sorted(map(bounce, ids))
    assert [await count_bounces(desk, message_id) for message_id in ids] == [1, 1]


async def test_another_numbering_moves_nothing_unread(desk: Desk, start_imapd: Start) -> None:
    """UIDVALIDITY: the connection breaks before the move, and every UID means another one."""
    server = start_imapd()
    ids = [await send(desk) for _ in range(3)]
    for message_id in ids:
        server.deliver(bounce(message_id))
    server.misbehave("drop", "MOVE")

    async with reading(build_mailbox(desk, server)):
        await until(lambda: server.has_misbehaved)
        server.renumber(2)
        await until_bounced(desk, *ids)
        await until(lambda: not server.contents(), within_s=40)

    assert sorted(server.contents("Processed")) == sorted(map(bounce, ids))
    assert [await count_bounces(desk, message_id) for message_id in ids] == [1, 1, 1]


async def test_a_crash_between_applying_and_moving_is_harmless(
    desk: Desk, start_imapd: Start
) -> None:
    server = start_imapd()
    message_id = await send(desk)
    server.deliver(bounce(message_id))
    server.misbehave("silent", "MOVE")

    async with reading(build_mailbox(desk, server, holder=1, timeout="30s")):
        await until_bounced(desk, message_id)
        await until(lambda: server.has_misbehaved)
    assert len(server.contents()) == 1

    async with reading(build_mailbox(desk, server, holder=2)):
        await until(lambda: not server.contents())
    assert await count_bounces(desk, message_id) == 1


async def test_one_reads_at_a_time(desk: Desk, other: Desk, start_imapd: Start) -> None:
    """The other one takes over when the first has ended."""
    server = start_imapd()
    refused = start_imapd()
    first = build_mailbox(desk, server, holder=1)
    second = build_mailbox(other, refused, holder=2)

    async with reading(first):
        await until(lambda: sum("LOGOUT" in line for line in server.transcript()) > 1)
        async with reading(second):
            seen = len(server.transcript())
            await until(lambda: len(server.transcript()) > seen + 20)
            assert refused.transcript() == []
    async with reading(second_again := build_mailbox(other, refused, holder=2)):
        await until(refused.transcript)
    assert second_again is not second


async def test_who_can_t_reach_it_lets_another_try(
    desk: Desk, other: Desk, start_imapd: Start
) -> None:
    server = start_imapd()
    broken = start_imapd()
    broken.stop()

    first = build_mailbox(desk, broken, holder=1)
    second = build_mailbox(other, server, holder=2)
    async with reading(first), reading(second):
        await until(lambda: any("LOGOUT" in line for line in server.transcript()))


async def test_a_huge_message_is_cut_off(desk: Desk, start_imapd: Start) -> None:
    server = start_imapd()
    message_id = await send(desk)
    server.deliver(bounce(message_id).replace(b"Once upon", b"x" * 3 * LARGEST + b"\r\nOnce"))
    server.deliver(bounce(message_id, "exim-report") + b"y" * 3 * LARGEST)

    async with reading(build_mailbox(desk, server, timeout="5s")):
        await until_bounced(desk, message_id)
        await until(lambda: not server.contents(), within_s=40)

    assert len(server.contents("Processed")) == 2


async def test_one_that_trips_us_up_holds_up_nobody(
    desk: Desk, start_imapd: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is logged with its trace; the message stays for whoever mends it."""

    class Tripping(Bounces):
        async def take(self, raw: bytes, **fields: Any) -> Any:
            if b"poison" in raw:
                raise KeyError("a bug")
            return await super().take(raw, **fields)

    server = start_imapd()
    message_id = await send(desk)
    server.deliver(b"From: x@example.org\r\n\r\npoison\r\n")
    server.deliver(bounce(message_id))
    bounces = Tripping(desk.store, Reporting(desk.store), SIGNER)

    with caplog.at_level(logging.ERROR):
        async with reading(build_mailbox(desk, server, bounces=bounces)):
            await until_bounced(desk, message_id)
            await until(lambda: len(server.contents("Processed")) == 1)

    assert server.contents() == [b"From: x@example.org\r\n\r\npoison\r\n"]
    assert "can't be taken" in caplog.text


async def test_a_busy_store_leaves_the_mail_where_it_is(desk: Desk, start_imapd: Start) -> None:
    """F-WI-04: nothing is moved that was not committed."""
    server = start_imapd()
    message_id = await send(desk)

    async with reading(build_mailbox(desk, server)):
        await until(lambda: any("LOGOUT" in line for line in server.transcript()))
        with connect(desk.path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            server.deliver(bounce(message_id))
            await until(lambda: any("FETCH" in line for line in server.transcript()))
            assert len(server.contents()) == 1
            connection.execute("ROLLBACK")
        await until_bounced(desk, message_id)
        await until(lambda: not server.contents(), within_s=40)


async def test_many_are_read_in_windows(start_imapd: Start) -> None:
    """The list of a large mailbox would not fit into one line."""
    server = start_imapd()
    for n in range(1, 1201):
        (server.root / "INBOX" / f"{n}.eml").write_bytes(b"From: x@example.org\r\n\r\n")
    visit = Visit(build_settings(server, timeout="10s"), None)

    def look() -> tuple[list[str], list[str]]:
        visit.begin()
        first = visit.find()
        rest = visit.find(first)
        visit.end()
        return first, rest

    first, rest = await asyncio.to_thread(look)
    assert (len(first), len(rest)) == (1000, 200)


# TLS and credentials


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    folder = tmp_path_factory.mktemp("imap")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem")


def visit_once(settings: ImapSettings) -> list[str]:
    visit = Visit(settings, build_context(settings))
    try:
        visit.begin()
        return visit.find()
    finally:
        visit.end() if visit._connected else None
        visit.close()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_tls_is_verified(
    start_imapd: Start, certificate: tuple[str, str, str], tls: str
) -> None:
    ca, *pair = certificate
    server = start_imapd("--tls", *pair, *(["--implicit-tls"] if tls == "implicit" else []))
    trusting = build_settings(server, tls=tls, ca_file=ca, timeout="5s")
    wary = build_settings(server, tls=tls, timeout="5s")

    assert await asyncio.to_thread(visit_once, trusting) == []
    with pytest.raises(ImapTrouble, match="certificate verify failed"):
        await asyncio.to_thread(visit_once, wary)
    assert sum("LOGIN" in line for line in server.transcript()) == 1


async def test_no_starttls_no_password(start_imapd: Start) -> None:
    server = start_imapd()

    with pytest.raises(ImapTrouble, match="TLS not supported"):
        await asyncio.to_thread(visit_once, build_settings(server, tls="starttls"))
    assert not any("LOGIN" in line for line in server.transcript())


@pytest.mark.parametrize("options", [[], ["--plain"]])
async def test_wrong_credentials_are_said_and_not_shown(
    start_imapd: Start, options: list[str]
) -> None:
    server = start_imapd(*options)

    with pytest.raises(ImapTrouble, match="AUTHENTICATIONFAILED") as caught:
        await asyncio.to_thread(visit_once, build_settings(server, password="s3cret"))
    assert "s3cret" not in str(caught.value)


async def test_a_password_outside_ascii_needs_a_way_to_say_it(start_imapd: Start) -> None:
    with pytest.raises(ImapTrouble, match="takes ASCII alone"):
        await asyncio.to_thread(visit_once, build_settings(start_imapd(), password="pässword"))


def test_certificates_that_are_not_there_are_a_fault_of_the_settings(tmp_path: Path) -> None:
    settings = ImapSettings.model_validate(
        {"host": "h.example", "username": "u", "password": "p", "ca_file": str(tmp_path / "no")}
    )

    with pytest.raises(ConfigurationError, match=r"bounces\.imap\.ca_file"):
        build_context(settings)
