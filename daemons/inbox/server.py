"""A small SMTP server for this machine: accepts everything, keeps it as `.eml`, tells.

    RFC 5321, PIPELINING (2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531),
    ENHANCEDSTATUSCODES (2034)

For trying things: no TLS, no authentication, nothing is ever sent on.  A mail is accepted once
its file is whole; only CRLF.CRLF ends it.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email import policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.parser import HeaderParser
from itertools import count
from pathlib import Path

MAX_BYTES = 50 * 1024 * 1024
_MAX_RECIPIENTS = 1000
_MAX_LINE = 1024 * 1024  # one line of content; RFC 5321 allows 1000 bytes
_MAX_COMMAND = 2048
_IDLE_S = 300.0  # RFC 5321 §4.5.3.2.7
_PATH = re.compile(
    r"(?:FROM|TO):\s*<([^<>\x00-\x20\x7f]*)>((?: [^\x00-\x1f\x7f]*)?)", re.IGNORECASE
)
_SIZE = re.compile(r"\bSIZE=(\d{1,20})\b", re.IGNORECASE)
_NOT_FOR_NAMES = re.compile(r"[^A-Za-z0-9@._+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMail:
    """A mail as it arrived.

    Attributes:
        sender: the envelope's; empty for a bounce.
        header_from: decoded, like the subject; one printable line each.
        path: the file with its bytes.
    """

    received_ms: int
    sender: str
    recipients: tuple[str, ...]
    header_from: str
    subject: str
    size_bytes: int
    path: Path


OnMail = Callable[[ReceivedMail], None]


async def run(
    host: str, port: int, folder: Path, on_mail: OnMail, ready: Callable[[int], None]
) -> None:
    """Serve until cancelled.

    Args:
        host: where to listen.
        port: 0 takes a free one.
        folder: made if it does not exist.
        on_mail: called for each mail, after its file is whole and before the sender knows.
        ready: called with the port once it listens.
    """
    box = _Box(folder, on_mail)
    open_now: set[asyncio.StreamWriter] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        try:
            await _Conversation(reader, writer, box).hold()
        except (OSError, EOFError, TimeoutError):  # gone, in the middle of it or in silence
            pass
        finally:
            open_now.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve_one, host, port, limit=_MAX_LINE)
    ready(server.sockets[0].getsockname()[1])
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        for writer in list(open_now):
            writer.transport.abort()


class _Box:
    """The folder: one file a mail."""

    def __init__(self, folder: Path, on_mail: OnMail) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._on_mail = on_mail
        self._numbers = count(1)

    def keep(self, sender: str, recipients: tuple[str, ...], content: bytes) -> str:
        """Write the file, tell, and return its name."""
        now = time.time_ns() // 1_000_000
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now / 1000))
        whom = _NOT_FOR_NAMES.sub("_", recipients[0])[:80].lstrip(".")
        name = f"{stamp}-{os.getpid()}-{next(self._numbers):05d}-{whom}.eml"
        path = self._folder / name
        unfinished = path.with_suffix(".part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(content)
        unfinished.rename(path)
        header_from, subject = read_headers(content)
        self._on_mail(
            ReceivedMail(
                received_ms=now,
                sender=sender,
                recipients=recipients,
                header_from=header_from,
                subject=subject,
                size_bytes=len(content),
                path=path,
            )
        )
        return name


def read_headers(content: bytes) -> tuple[str, str]:
    """Return From and Subject, decoded, on one printable line each."""
    head = content.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    headers = HeaderParser(policy=policy.compat32).parsestr(head)
    return _decode(headers.get("from", "")), _decode(headers.get("subject", ""))


def _decode(text: str) -> str:
    # No such charset, or not as declared: as it stands, then.
    with contextlib.suppress(LookupError, ValueError, MessageError):
        text = str(make_header(decode_header(text)))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass(slots=True)
class _Envelope:
    sender: str
    recipients: list[str] = field(default_factory=list)


class _TooLong(Exception):
    """A line without end, which leaves no way to go on."""


class _Conversation:
    """One client."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, box: _Box
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._box = box
        self._envelope: _Envelope | None = None
        self._is_greeted = False

    async def hold(self) -> None:
        """Talk until one side has enough."""
        self._say("220 inbox.localhost ESMTP, takes everything and sends nothing")
        try:
            while True:
                await self._writer.drain()
                line = await self._read_line()
                if len(line) > _MAX_COMMAND:
                    self._say("500 5.5.2 line too long")
                    continue
                verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
                if verb.upper() == "QUIT":
                    self._say("221 2.0.0 bye")
                    return
                await self._obey(verb.upper(), rest.strip())
        except _TooLong:
            self._say("500 5.5.2 line too long, closing")
        finally:
            await self._writer.drain()

    def _say(self, reply: str) -> None:
        self._writer.write(f"{reply}\r\n".encode())

    async def _read_line(self) -> bytes:
        """Return a line with its CRLF; a bare LF does not end it."""
        try:
            async with asyncio.timeout(_IDLE_S):
                return await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError as error:
            raise _TooLong from error

    async def _obey(self, verb: str, rest: str) -> None:
        match verb:
            case "EHLO" | "HELO":
                self._greet(verb)
            case "MAIL":
                self._mail(rest)
            case "RCPT":
                self._rcpt(rest)
            case "DATA":
                await self._data()
            case "RSET":
                self._envelope = None
                self._say("250 2.0.0 forgotten")
            case "NOOP":
                self._say("250 2.0.0 nothing done")
            case "VRFY":
                self._say("252 2.1.5 everybody is welcome")
            case "HELP":
                self._say("214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT")
            case _:
                self._say("500 5.5.1 unknown command")

    def _greet(self, verb: str) -> None:
        self._envelope = None
        self._is_greeted = True
        if verb == "HELO":
            self._say("250 inbox.localhost")
            return
        names = ("PIPELINING", f"SIZE {MAX_BYTES}", "8BITMIME", "SMTPUTF8")
        for line in ("inbox.localhost", *names):
            self._say(f"250-{line}")
        self._say("250 ENHANCEDSTATUSCODES")

    def _mail(self, rest: str) -> None:
        match = _PATH.fullmatch(rest)
        size = _SIZE.search(match[2]) if match else None
        if not self._is_greeted:
            self._say("503 5.5.1 EHLO first")
        elif self._envelope is not None:
            self._say("503 5.5.1 one MAIL at a time")
        elif match is None or not rest.upper().startswith("FROM"):
            self._say("501 5.5.4 MAIL FROM:<address>")
        elif size is not None and int(size[1]) > MAX_BYTES:
            self._say(f"552 5.3.4 at most {MAX_BYTES} bytes")
        else:
            self._envelope = _Envelope(match[1])
            self._say("250 2.1.0 sender ok")

    def _rcpt(self, rest: str) -> None:
        match = _PATH.fullmatch(rest)
        if self._envelope is None:
            self._say("503 5.5.1 MAIL first")
        elif match is None or not match[1] or not rest.upper().startswith("TO"):
            self._say("501 5.5.4 RCPT TO:<address>")
        elif len(self._envelope.recipients) >= _MAX_RECIPIENTS:
            self._say(f"452 4.5.3 at most {_MAX_RECIPIENTS} recipients")
        else:
            self._envelope.recipients.append(match[1])
            self._say("250 2.1.5 recipient ok")

    async def _data(self) -> None:
        envelope = self._envelope
        if envelope is None or not envelope.recipients:
            self._say("503 5.5.1 MAIL and RCPT first")
            return
        self._say("354 end with <CRLF>.<CRLF>")
        await self._writer.drain()
        content = await self._read_content()
        self._envelope = None
        if content is None:
            self._say(f"552 5.3.4 at most {MAX_BYTES} bytes")
            return
        try:
            name = self._box.keep(envelope.sender, tuple(envelope.recipients), content)
        except OSError as error:
            self._say(f"452 4.3.1 can't keep it: {error.strerror}")
        else:
            self._say(f"250 2.0.0 kept as {name}")

    async def _read_content(self) -> bytes | None:
        """Return the content, dots undone; None if it is too large, after reading all of it."""
        lines: list[bytes] = []
        size = 0
        while (line := await self._read_line()) != b".\r\n":
            line = line.removeprefix(b".")
            size += len(line)
            if size <= MAX_BYTES:
                lines.append(line)
        return b"".join(lines) if size <= MAX_BYTES else None
