"""The misbehaving SMTP server: it does what a recipient's local part tells it to.

Whatever it accepts is in its journal, written (and synced) at the instant it decides to accept,
before the reply leaves: one JSON line for each copy, that is, for each message and recipient.
What is not in the journal was not accepted, whatever the client was told.

A `+` and what follows it in a local part is ignored, so that addresses can be unique.  `<code>`
is a reply code, `<s>` seconds (`0.5`).  An unknown local part is accepted like `ok@`.

    sender          does
    mail-<code>@    that reply to MAIL; 421 also closes
    tarpit-<s>@     the reply to MAIL takes so long

    recipient               does
    ok@                     accepts
    tempfail@               RCPT: 450 4.2.1
    permfail@               RCPT: 550 5.1.1
    tempfail-once@          RCPT: 450 the first time this address is seen, then accepts
    rcpt-<code>@            that reply to RCPT; 421 also closes; 2yz accepts the recipient
    drop-at-rcpt@           closes the connection instead of an answer to RCPT
    refused-354@            RCPT: 550, and yet DATA gets 354
    tarpit-<s>@             the reply to RCPT takes so long, then all is well
    endless-rcpt@           never stops answering RCPT
    data-<code>@            that reply to DATA; 421 also closes
    drop-at-data@           closes instead of an answer to DATA
    early-<code>@           that reply as soon as body bytes come; 421 also closes
    drop-in-body@           closes as soon as body bytes come
    stall-in-body-<s>@      reads no further for so long once body bytes come
    dot-<code>@             that reply after the dot: accepted if 2yz; 421 also closes
    multiline@              a reply of several lines after the dot
    drop-after-dot@         closes after the dot; not accepted
    reset-after-dot@        the same by RST
    silent-after-dot@       says nothing after the dot; not accepted
    garbage-after-dot@      says no SMTP after the dot; not accepted
    mixed-after-dot@        lines with different codes after the dot; not accepted
    endless-after-dot@      never stops answering after the dot; not accepted
    half-reply@             "250 ok" without a line end, then closes; not accepted
    half-multiline@         "250-ok", then closes; not accepted
    <any of these six>-accepted@   the same, but the copy is accepted: it is in the journal
    late-<s>@               accepts at the dot, says 250 so much later
    late-<s>-<code>@        the same with another reply
    close-idle@             accepts, says 250, then closes the connection
    close-idle-421@         accepts, says 250, then an unsolicited 421, and closes
    stray@                  accepts, says 250 twice
    stray-<s>@              the same, so much later

What is not about a recipient is an option (`python -m tests.smtpd --help`), and can be limited
to one connection with `--only-connection N`.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

_ACCEPTED = "-accepted"
_VERB = re.compile(
    r"(mail|rcpt|data|early|dot|tarpit|late|stray|stall-in-body)-(\d+(?:\.\d+)?)(?:-(\d{3}))?"
)
_ADDRESS = re.compile(rb"^(?:MAIL FROM|RCPT TO):<([^>]*)>(.*)$", re.IGNORECASE | re.DOTALL)
_GARBAGE = b"\x16\x03\x01 this is no SMTP reply\r\n"
_CHUNK = b"250-and another thing\r\n" * 400


@dataclass(frozen=True)
class Options:
    """What the whole server does; the command line's words."""

    refuse: bool = False
    drop_on_connect: bool = False
    no_banner: bool = False
    banner: str = "220 smtpd.test ESMTP"
    ehlo: str = ""
    helo_only: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    implicit_tls: bool = False
    starttls: str = ""
    tls_garbage: bool = False
    auth: tuple[str, ...] = ()
    auth_methods: str = "PLAIN LOGIN CRAM-MD5 XOAUTH2"
    auth_reply: str = ""
    quit_after_auth: bool = False
    no_pipelining: bool = False
    no_8bitmime: bool = False
    no_smtputf8: bool = False
    dsn: bool = False
    lie_8bitmime: bool = False
    lie_smtputf8: bool = False
    size: int | None = 52_428_800
    real_size: int | None = None
    max_messages: int | None = None
    idle_close: float | None = None
    idle_421: bool = False
    delay: float = 0
    only_connection: int | None = None
    fsync: bool = True


@dataclass
class Books:
    """The journal, the transcript, and what outlives a connection."""

    journal: int
    transcript: int | None
    fsync: bool
    connections: int = 0
    seen: set[str] = field(default_factory=set)
    live: set["Connection"] = field(default_factory=set)

    def reset(self) -> None:
        """Begin anew, as if just started: for the next test."""
        for connection in list(self.live):
            connection.vanish()
        self.live.clear()
        self.seen.clear()
        self.connections = 0
        for file in filter(None, (self.journal, self.transcript)):
            os.ftruncate(file, 0)

    def accept(self, connection: int, sender: str, recipients: list[str], body: bytes) -> None:
        """Write one line for each copy, and sync: from here on it is the truth."""
        copy = {
            "connection": connection,
            "sender": sender,
            "sha256": hashlib.sha256(body).hexdigest(),
            "size": len(body),
            "message_id": find_message_id(body),
            "at": time.time(),
        }
        lines = "".join(json.dumps({"recipient": r, **copy}) + "\n" for r in recipients)
        os.write(self.journal, lines.encode())
        if self.fsync:
            os.fsync(self.journal)

    def note(self, connection: int, who: str, what: bytes) -> None:
        """Add a line to the transcript, if there is one."""
        if self.transcript is not None:
            said = " | ".join(what.decode("utf-8", "backslashreplace").splitlines())
            os.write(self.transcript, f"{connection} {who} {said}\n".encode())


def find_message_id(body: bytes) -> str:
    """Return the Message-ID header's value, or nothing."""
    head = body.partition(b"\r\n\r\n")[0]
    match = re.search(rb"(?im)^message-id:\s*(\S+)", head)
    return match[1].decode("utf-8", "replace") if match else ""


def parse_verb(address: str) -> tuple[str, float, str]:
    """Read what a local part asks for: verb, number, code."""
    local = address.rpartition("@")[0].partition("+")[0]
    match = _VERB.fullmatch(local)
    if match is None:
        return local, 0, ""
    return match[1], float(match[2]), match[3] or match[2]


def parse_late(code: str) -> int:
    """Return the reply code that `late-<s>-<code>` or `dot-<code>` asks for; 250 by default."""
    return int(code) if len(code) == 3 and code.isdigit() else 250


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, options: Options, books: Books, tls: ssl.SSLContext | None) -> None:
        books.connections += 1
        self.number = books.connections
        applies = options.only_connection in (None, self.number)
        self.options = options if applies else Options(tls_cert=options.tls_cert)
        self.credentials = dict(pair.split(":", 1) for pair in options.auth)
        self.books = books
        self.tls = tls
        self.is_tls = False
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.out: list[bytes] = []
        self.state = "command"
        self.is_blocked = False
        self.is_authenticated = False
        self.messages = 0
        self.scanned = 0
        self.idle_timer: asyncio.TimerHandle | None = None
        self.challenge = b""
        self.reset()

    def reset(self) -> None:
        """Forget the transaction."""
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.asked: list[str] = []

    # the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        first = self.transport is None
        self.transport = transport  # type: ignore[assignment]
        if not first:
            return
        self.books.live.add(self)
        self.is_tls = self.options.implicit_tls
        if self.options.drop_on_connect:
            self.drop()
        elif not self.options.no_banner:
            self.say(self.options.banner)
            if not self.options.banner.startswith("2"):
                self.drop()
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.books.live:
            self.books.note(self.number, "-", b"lost")
        self.books.live.discard(self)
        self.state = "dead"
        self.stop_idle_timer()

    def vanish(self) -> None:
        """Leave no trace in the books, which are for the next test."""
        self.state = "dead"
        self.books = Books(
            journal=-1, transcript=None, fsync=False
        )  # a late accept would raise
        self.stop_idle_timer()
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.stop_idle_timer()
        self.buffer += data
        self.work()

    def work(self) -> None:
        """Do what the buffer holds, unless a delayed reply must leave first."""
        while not self.is_blocked and self.state != "dead" and self.step():
            pass
        self.flush()

    def step(self) -> bool:
        """Take one command or one body; False when more input is needed."""
        if self.state == "ignore":
            self.buffer.clear()
            return False
        if self.state == "garble" and self.buffer:
            self.say(b"no TLS at all\r\n")
            self.drop()
            return False
        if self.state == "data":
            return self.take_body()
        end = self.buffer.find(b"\n")
        if end < 0:
            return False
        line = bytes(self.buffer[: end + 1]).rstrip(b"\r\n")
        del self.buffer[: end + 1]
        self.books.note(self.number, ">", line)
        if self.state == "command":
            self.command(line)
        else:
            self.continue_auth(line)
        return True

    def say(self, reply: str | bytes, after: float = 0) -> None:
        """Reply, now or *after* seconds; nothing else happens on this connection before."""
        line = reply.encode() if isinstance(reply, str) else reply
        if not line.endswith(b"\n"):
            line += b"\r\n"
        wait = after or self.options.delay
        if not wait:
            self.out.append(line)
            return
        self.flush()
        self.is_blocked = True
        asyncio.get_running_loop().call_later(wait, self.say_late, line)

    def say_late(self, line: bytes) -> None:
        self.is_blocked = False
        self.out.append(line)
        self.work()

    def flush(self) -> None:
        if self.out and self.transport is not None and not self.transport.is_closing():
            for line in self.out:
                self.books.note(self.number, "<", line[:200])
            self.transport.write(b"".join(self.out))
        self.out.clear()
        if self.state == "command" and self.options.idle_close is not None:
            self.stop_idle_timer()
            loop = asyncio.get_running_loop()
            self.idle_timer = loop.call_later(self.options.idle_close, self.close_idle)

    def close_idle(self) -> None:
        if self.options.idle_421:
            self.say("421 4.4.2 idle too long")
        self.drop()

    def stop_idle_timer(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    def drop(self, *, by_reset: bool = False) -> None:
        """Close; what was said before still leaves."""
        assert self.transport is not None
        self.state = "dead"
        self.flush()
        if by_reset:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.transport.abort()
        else:
            self.transport.close()

    def say_code(self, code: float | str, text: str = "as you wish") -> None:
        """Reply with *code*; a 421 also closes."""
        number = int(code)
        enhanced = f"{number // 100}.0.0 " if number // 100 in (2, 4, 5) else ""
        self.say(f"{number} {enhanced}{text}")
        if number == 421:
            self.drop()

    # commands

    def command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"RCPT":
            self.rcpt(line)
        elif verb == b"MAIL":
            self.mail(line)
        elif verb == b"DATA":
            self.data()
        elif verb in (b"EHLO", b"HELO"):
            self.hello(verb)
        elif verb == b"RSET":
            self.reset()
            self.say("250 2.0.0 reset")
        elif verb == b"NOOP":
            self.say("250 2.0.0 nothing done")
        elif verb == b"QUIT":
            self.say("221 2.0.0 bye")
            self.drop()
        elif verb == b"STAR" and self.tls and not self.is_tls:
            self.starttls()
        elif verb == b"AUTH" and self.credentials:
            self.auth(line)
        else:
            self.say("502 5.5.1 not implemented")

    def hello(self, verb: bytes) -> None:
        self.reset()
        if verb == b"HELO":
            self.say("250 smtpd.test")
            return
        if self.options.helo_only:
            self.say("502 5.5.1 no EHLO here")
            return
        if self.options.ehlo:
            self.say_code(self.options.ehlo)
            return
        has_starttls = self.tls is not None and not self.is_tls
        offers = {
            "PIPELINING": not self.options.no_pipelining,
            f"SIZE {self.options.size}": self.options.size is not None,
            "8BITMIME": not self.options.no_8bitmime,
            "SMTPUTF8": not self.options.no_smtputf8,
            "DSN": self.options.dsn,
            "STARTTLS": has_starttls,
            f"AUTH {self.options.auth_methods}": bool(self.credentials),
        }
        names = ["smtpd.test", *(name for name, is_on in offers.items() if is_on)]
        names.append("ENHANCEDSTATUSCODES")
        lines = [f"250-{name}\r\n" for name in names[:-1]] + [f"250 {names[-1]}\r\n"]
        self.say("".join(lines))

    def starttls(self) -> None:
        if self.options.starttls:
            self.say_code(self.options.starttls)
            return
        self.say("220 2.0.0 go ahead")
        self.flush()
        if self.options.tls_garbage:
            self.state = "garble"
            return
        self.is_blocked = True
        self.buffer.clear()
        self.upgrade = asyncio.ensure_future(self.upgrade_to_tls())

    async def upgrade_to_tls(self) -> None:
        assert self.transport is not None
        assert self.tls is not None
        loop = asyncio.get_running_loop()
        try:
            upgraded = await loop.start_tls(self.transport, self, self.tls, server_side=True)
        except (OSError, ssl.SSLError):
            self.books.note(self.number, "-", b"TLS failed")
            return
        self.transport = upgraded
        self.is_tls = True
        self.is_blocked = False
        self.books.note(self.number, "-", b"TLS")
        self.work()

    # AUTH (RFC 4954)

    def auth(self, line: bytes) -> None:
        words = line.decode("ascii", "replace").split()
        method = words[1].upper() if len(words) > 1 else ""
        initial = words[2].encode() if len(words) > 2 else None
        if self.options.auth_reply:
            self.say_code(self.options.auth_reply, "authentication")
        elif method not in self.options.auth_methods.split():
            self.say("504 5.5.4 unknown mechanism")
        elif method == "CRAM-MD5":
            self.challenge = b"<%d.%d@smtpd.test>" % (os.getpid(), self.number)
            self.state = "auth CRAM-MD5"
            self.say(b"334 " + base64.b64encode(self.challenge))
        elif initial is None:
            self.state = f"auth {method}"
            self.say("334 " if method != "LOGIN" else "334 VXNlcm5hbWU6")
        else:
            self.state = f"auth {method}"
            self.continue_auth(initial)

    def continue_auth(self, line: bytes) -> None:
        state, self.state = self.state, "command"
        try:
            said = base64.b64decode(line, validate=True)
        except binascii.Error:
            self.say("501 5.5.2 not base64")
            return
        if state == "auth LOGIN":
            self.login_name = said.decode("utf-8", "replace")
            self.state = "auth LOGIN password"
            self.say("334 UGFzc3dvcmQ6")
        elif state == "auth XOAUTH2 refused":
            self.say("535 5.7.8 token refused")
        else:
            self.finish_auth(state, said)

    def finish_auth(self, state: str, said: bytes) -> None:
        if state == "auth PLAIN":
            parts = said.split(b"\0")
            good = len(parts) == 3 and self.knows(parts[1].decode(), parts[2].decode())
        elif state == "auth LOGIN password":
            good = self.knows(self.login_name, said.decode())
        elif state == "auth XOAUTH2":
            match = re.fullmatch(rb"user=(.*)\x01auth=Bearer (.*)\x01\x01", said)
            good = match is not None and self.knows(match[1].decode(), match[2].decode())
            if not good:
                self.state = "auth XOAUTH2 refused"
                self.say(b"334 " + base64.b64encode(b'{"status":"401"}'))
                return
        else:
            name, _, digest = said.decode().rpartition(" ")
            secret = self.credentials.get(name, "").encode()
            expected = hmac.new(secret, self.challenge, "md5").hexdigest()
            good = name in self.credentials and hmac.compare_digest(digest, expected)
        self.is_authenticated = good
        self.say("235 2.7.0 welcome" if good else "535 5.7.8 credentials refused")
        if good and self.options.quit_after_auth:
            self.say("421 4.3.2 closing after all")
            self.drop()

    def knows(self, name: str, secret: str) -> bool:
        return self.credentials.get(name) == secret

    # the transaction

    def mail(self, line: bytes) -> None:
        match = _ADDRESS.match(line)
        limit = self.options.max_messages
        if limit is not None and self.messages >= limit:
            self.say("421 4.7.0 enough messages on this connection")
            self.drop()
            return
        if self.credentials and not self.is_authenticated:
            self.say("530 5.7.0 authentication required")
            return
        if match is None or self.sender is not None:
            self.say("501 5.5.4 MAIL FROM:<address>, once")
            return
        sender = match[1].decode("utf-8", "backslashreplace")
        parameters = match[2].decode("ascii", "replace").upper().split()
        size = next((int(p[5:]) for p in parameters if p.startswith("SIZE=")), 0)
        if self.options.real_size is not None and size > self.options.real_size:
            self.say("552 5.3.4 too big after all")
        elif self.options.lie_8bitmime and "BODY=8BITMIME" in parameters:
            self.say("555 5.5.4 no 8BITMIME after all")
        elif self.options.lie_smtputf8 and "SMTPUTF8" in parameters:
            self.say("555 5.5.4 no SMTPUTF8 after all")
        elif not match[1].isascii() and "SMTPUTF8" not in parameters:
            self.say("553 5.6.7 SMTPUTF8 was not asked for")
        else:
            verb, number, _ = parse_verb(sender)
            if verb == "mail" and int(number) // 100 != 2:
                self.say_code(number)
                return
            self.sender = sender
            wait = number if verb == "tarpit" else 0
            self.say("250 2.1.0 sender ok", after=wait)

    def rcpt(self, line: bytes) -> None:
        match = _ADDRESS.match(line)
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")
            return
        if match is None or not match[1]:
            self.say("501 5.5.4 RCPT TO:<address>")
            return
        address = match[1].decode("utf-8", "backslashreplace")
        verb, number, _ = parse_verb(address)
        self.asked.append(address)
        if verb == "tempfail":
            self.say("450 4.2.1 mailbox busy, try again in 7 seconds")
        elif verb in ("permfail", "refused-354"):
            self.say("550 5.1.1 no such user")
        elif verb == "tempfail-once" and address not in self.books.seen:
            self.books.seen.add(address)
            self.say("450 4.7.1 greylisted")
        elif verb == "drop-at-rcpt":
            self.drop()
        elif verb == "endless-rcpt":
            self.state = "ignore"
            self.babble()
        elif verb == "rcpt" and int(number) // 100 != 2:
            self.say_code(number)
        else:
            self.recipients.append(address)
            code = int(number) if verb == "rcpt" else 250
            self.say(f"{code} 2.1.5 recipient ok", after=number if verb == "tarpit" else 0)

    def data(self) -> None:
        verbs = {parse_verb(address)[0]: parse_verb(address)[1] for address in self.asked}
        if "data" in verbs and int(verbs["data"]) // 100 != 3:
            self.say_code(verbs["data"])
            self.reset()
        elif "drop-at-data" in verbs:
            self.drop()
        elif not self.recipients and "refused-354" not in verbs:
            self.say("503 5.5.1 no valid recipients")
            self.reset()
        else:
            self.state = "data"
            self.scanned = 0
            self.say("354 go ahead")

    def take_body(self) -> bool:
        if self.buffer and self.misbehave_in_body():
            return False
        if self.buffer.startswith(b".\r\n"):
            end, used = 0, 3
        else:
            found = self.buffer.find(b"\r\n.\r\n", self.scanned)
            if found < 0:
                self.scanned = max(len(self.buffer) - 4, 0)
                return False
            end, used = found + 2, found + 5
        stuffed = bytes(self.buffer[:end])
        del self.buffer[:used]
        body = stuffed.removeprefix(b".").replace(b"\r\n.", b"\r\n")
        self.books.note(self.number, ">", b"(%d bytes and the dot)" % len(body))
        self.state = "command"
        self.messages += 1
        self.take_message(body)
        self.reset()
        return True

    def misbehave_in_body(self) -> bool:
        for address in self.asked:
            verb, number, _ = parse_verb(address)
            if verb == "early":
                self.books.note(self.number, "-", b"body begins")
                self.state = "ignore"
                self.say_code(number, "stop it")
                return True
            if verb == "drop-in-body":
                self.books.note(self.number, "-", b"body begins")
                self.drop()
                return True
            if verb == "stall-in-body" and not self.is_blocked and self.scanned == 0:
                assert self.transport is not None
                self.transport.pause_reading()
                loop = asyncio.get_running_loop()
                loop.call_later(number, self.transport.resume_reading)
        return False

    def take_message(self, body: bytes) -> None:
        real_size = self.options.real_size
        if real_size is not None and len(body) > real_size:
            self.say("552 5.3.4 too big after all")
            return
        special = next((a for a in self.recipients if parse_verb(a)[0] in _AFTER_DOT), "ok@")
        verb, number, code = parse_verb(special)
        if verb in _ACCEPTING or (verb in ("dot", "late") and parse_late(code) // 100 == 2):
            self.accept(body)
        elif verb.endswith(_ACCEPTED):
            self.accept(body)
            verb = verb.removesuffix(_ACCEPTED)
        self.answer_dot(verb, number, code)

    def accept(self, body: bytes) -> None:
        assert self.sender is not None
        self.books.accept(self.number, self.sender, self.recipients, body)

    def answer_dot(self, verb: str, number: float, code: str) -> None:
        if verb == "dot":
            self.say_code(number)
        elif verb == "late":
            reply = parse_late(code)
            self.say(f"{reply} {reply // 100}.0.0 late", after=number)
        elif verb == "multiline":
            self.say("250-2.0.0 accepted\r\n250-2.0.0 and\r\n250 2.0.0 queued as 4711")
        elif verb in ("drop-after-dot", "reset-after-dot"):
            self.drop(by_reset=verb.startswith("reset"))
        elif verb == "silent-after-dot":
            self.state = "ignore"
        elif verb == "garbage-after-dot":
            self.say(_GARBAGE)
        elif verb == "mixed-after-dot":
            self.say(b"250-2.0.0 yes\r\n550 5.0.0 no\r\n")
        elif verb == "endless-after-dot":
            self.state = "ignore"
            self.babble()
        elif verb in ("half-reply", "half-multiline"):
            self.out.append(b"250 ok" if verb == "half-reply" else b"250-ok\r\n")
            self.drop()
        else:
            self.say("250 2.0.0 queued")
            self.answer_more(verb, number)

    def answer_more(self, verb: str, number: float) -> None:
        if verb == "stray" and number:
            loop = asyncio.get_running_loop()
            loop.call_later(number, self.say_late, b"250 2.0.0 stray\r\n")
        elif verb == "stray":
            self.say("250 2.0.0 stray")
        elif verb == "close-idle-421":
            self.say("421 4.4.2 idle too long")
        if verb.startswith("close-idle"):
            self.drop()

    def babble(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(_CHUNK)
        asyncio.get_running_loop().call_later(0.005, self.babble)


_ACCEPTING = frozenset({"ok", "multiline", "close-idle", "close-idle-421", "stray"})
_BREAKING = (
    "drop-after-dot",
    "reset-after-dot",
    "silent-after-dot",
    "garbage-after-dot",
    "mixed-after-dot",
    "endless-after-dot",
    "half-reply",
    "half-multiline",
)
_AFTER_DOT = frozenset(
    {"dot", "late", *_ACCEPTING, *_BREAKING, *(verb + _ACCEPTED for verb in _BREAKING)}
)


async def serve(
    options: Options, *, port: int, journal: Path, ready: Path, transcript: Path | None
) -> None:
    """Listen on 127.0.0.1, write the port to *ready*, and serve until cancelled.

    SIGHUP empties the journal and begins anew; then *ready* is written again.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    books = Books(
        journal=os.open(journal, flags, 0o600),
        transcript=os.open(transcript, flags, 0o600) if transcript else None,
        fsync=options.fsync,
    )
    tls = None
    if options.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # see tests/ports.py
    sock.bind(("127.0.0.1", port))
    server = None
    if not options.refuse:  # a bound socket that does not listen refuses connections
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(options, books, tls),
            sock=sock,
            backlog=512,
            ssl=tls if options.implicit_tls else None,
        )

    def say_ready() -> None:
        fresh = ready.with_suffix(".new")
        fresh.write_text(f"{sock.getsockname()[1]}\n", encoding="ascii")
        fresh.replace(ready)

    def begin_anew() -> None:
        books.reset()
        say_ready()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin_anew)
    say_ready()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        if server is not None:
            server.close()
        sock.close()
