"""The sandbox inbox, with our own next hop and with foreign clients."""

import asyncio
import contextlib
import smtplib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemons.inbox import main, server
from daemons.inbox.server import ReceivedMail, read_headers
from emailerctl.models.outcome import Kind
from tests.contract.smtp_client import RAW, build_next_hop, send, until


@dataclass
class Inbox:
    port: int
    folder: Path
    mails: list[ReceivedMail]


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    mails: list[ReceivedMail] = []
    listening = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        server.run("127.0.0.1", 0, tmp_path / "mails", mails.append, listening.set_result)
    )
    yield Inbox(await listening, tmp_path / "mails", mails)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def test_a_mail_of_ours_is_kept_byte_for_byte(inbox: Inbox) -> None:
    hop = build_next_hop(inbox.port)

    first = await send(hop, "ann", "bob")
    second = await send(
        hop, "käthe", raw="Subject: Grüße\r\n\r\nü\r\n".encode(), needs_smtputf8=True
    )
    await hop.close()

    assert [o.kind for o in first.outcomes.values()] == [Kind.ACCEPTED] * 2
    assert second.outcomes[0].kind is Kind.ACCEPTED
    mail = inbox.mails[0]
    assert mail.path.read_bytes() == RAW
    assert mail.path.stat().st_mode & 0o777 == 0o600
    assert mail.recipients == ("ann@example.org", "bob@example.org")
    assert (mail.sender, mail.subject) == ("bounces@example.org", "hello")
    assert mail.header_from == "Ann <ann@example.org>"
    assert mail.size_bytes == len(RAW)
    assert inbox.mails[1].subject == "Grüße"
    assert sorted(inbox.folder.iterdir()) == sorted(m.path for m in inbox.mails)


async def test_it_checks_out(inbox: Inbox) -> None:
    hop = build_next_hop(inbox.port)

    results = await hop.check()

    assert [(r.name, r.is_good) for r in results] == [
        ("connect", True),
        ("ehlo", True),
        ("limits", True),
        ("noop", True),
        ("quit", True),
    ]


async def test_a_foreign_client_is_understood(inbox: Inbox) -> None:
    def talk() -> tuple[int, bytes]:
        with smtplib.SMTP("127.0.0.1", inbox.port, timeout=10) as client:
            client.sendmail("a@example.org", ["b@example.org"], "Subject: one\n\n.dot\n")
            client.sendmail("", ["b@example.org"], "Subject: two\n\n")
            return client.docmd("VRFY b")

    code, _ = await asyncio.to_thread(talk)

    assert code == 252
    assert [m.subject for m in inbox.mails] == ["one", "two"]
    assert inbox.mails[0].path.read_bytes() == b"Subject: one\r\n\r\n.dot\r\n"


async def say(inbox: Inbox, text: bytes) -> list[bytes]:
    """Say everything at once, and return the replies until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", inbox.port)
    writer.write(text)
    writer.write_eof()
    replies = (await reader.read()).splitlines()
    writer.close()
    return [line[:3] for line in replies if line[3:4] != b"-"]


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        (b"HELO x\r\nQUIT\r\nNOOP\r\n", [b"220", b"250", b"221"]),
        (b"MAIL FROM:<a@x.example>\r\n", [b"220", b"503"]),
        (b"HELO x\r\nRCPT TO:<a@x.example>\r\nDATA\r\n", [b"220", b"250", b"503", b"503"]),
        (b"HELO x\r\nMAIL FROM:a@x.example\r\n", [b"220", b"250", b"501"]),
        (b"HELO x\r\nMAIL TO:<a@x.example>\r\n", [b"220", b"250", b"501"]),
        (b"HELO x\r\nMAIL FROM:<a@x> SIZE=99999999999\r\n", [b"220", b"250", b"552"]),
        (b"HELO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", [b"220", b"250", b"250", b"503"]),
        (b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\n", [b"220", b"250", b"250", b"501"]),
        (b"XYZZY\r\nHELP\r\n\xff\xfe\r\n\r\n", [b"220", b"500", b"214", b"500", b"500"]),
        (b"NOOP " + b"x" * 5000 + b"\r\nRSET\r\n", [b"220", b"500", b"250"]),
    ],
    ids=range(10),
)
async def test_nonsense_is_answered(inbox: Inbox, said: bytes, codes: list[bytes]) -> None:
    assert await say(inbox, said) == codes
    assert inbox.mails == []


async def test_a_line_without_end_ends_the_conversation(inbox: Inbox) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", inbox.port)
    with contextlib.suppress(ConnectionError):
        writer.write(b"x" * 8_000_000)
        await writer.drain()
        await reader.read()
    writer.close()

    assert await say(inbox, b"NOOP\r\n") == [b"220", b"250"], "the others go on"


async def test_only_crlf_dot_crlf_ends_a_mail(inbox: Inbox) -> None:
    """T-07: no smuggling."""
    content = b"Subject: x\r\n\r\na\n.\nMAIL FROM:<evil@x.example>\r\n.\n\r\nb\r\r\n"
    envelope = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n"

    codes = await say(inbox, envelope + content + b".\r\nQUIT\r\n")

    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert len(inbox.mails) == 1
    assert inbox.mails[0].path.read_bytes() == content.replace(b"\r\n.\n", b"\r\n\n")


async def test_a_mail_without_its_end_is_not_kept(inbox: Inbox) -> None:
    await say(inbox, b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\nSubject: x\r\n")

    assert inbox.mails == []
    assert list(inbox.folder.iterdir()) == []


async def test_one_that_is_too_large_is_refused_at_its_end(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_BYTES", 1000)
    envelope = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\n"

    codes = await say(inbox, envelope + b"line\r\n" * 400 + b".\r\nNOOP\r\n")

    assert codes[-2:] == [b"552", b"250"]
    assert inbox.mails == []


async def test_a_folder_that_is_gone_is_said(inbox: Inbox) -> None:
    inbox.folder.rmdir()
    hop = build_next_hop(inbox.port)

    sending = await send(hop, "ann")
    await hop.close()

    assert (sending.outcomes[0].kind, sending.outcomes[0].code) == (Kind.TRANSIENT, 452)


async def test_a_hostile_recipient_stays_in_the_folder(inbox: Inbox) -> None:
    await say(
        inbox,
        b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<../../etc/\xc3\xa4>\r\nDATA\r\n.\r\nQUIT\r\n",
    )

    assert [m.path.parent for m in inbox.mails] == [inbox.folder]
    assert inbox.mails[0].path.exists()


@pytest.mark.parametrize(
    ("content", "subject"),
    [
        (b"Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n\r\n", "Grüße"),
        ("Subject: Grüße\r\n\r\n".encode(), "Grüße"),
        (b"Subject: =?nonsense?B?R3LDvMOfZQ==?=\r\n\r\n", "=?nonsense?B?R3LDvMOfZQ==?="),
        (b"Subject: =?utf-8?B?R3L!?= x\r\n\r\n", "=?utf-8?B?R3L!?= x"),
        (b"Subject: a\r\n b\x1b[31mred\r\n\r\n", "a b [31mred"),
        (b"Subject: =?utf-8?B?4oCu?=evil\r\n\r\n", "evil"),
        (b"\r\nno headers", ""),
        (b"", ""),
    ],
)
def test_a_subject_is_one_printable_line(content: bytes, subject: str) -> None:
    """T-19."""
    assert read_headers(content)[1] == subject


async def test_it_runs_with_an_event(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ready, mails = asyncio.Event(), list[main.Arrival]()
    serving = asyncio.ensure_future(main.run("127.0.0.1", port, tmp_path, mails.append, ready))
    await ready.wait()
    hop = build_next_hop(port)

    await send(hop, "ann")
    await hop.close()
    await until(lambda: mails, "the mail")
    serving.cancel()

    assert mails[0].subject == "hello"
