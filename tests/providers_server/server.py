"""An HTTP server that speaks every provider's dialect and misbehaves as its recipients ask.

A recipient is `<wish>+<tag>@sink.example.org`; the first one's wish is what happens:

    ok                       taken
    refuse  unauthorized     the dialect's own answers; not taken
    s<code>-before           that status; not taken                    (s500-before)
    s<code>-after            taken, and that status                    (s500-after)
    wait-<seconds|date|past|huge|words>[-<code>]
                             429 or that status, with Retry-After; not taken
    redirect                 307 to /stolen, which is written down if it comes
    silent-before            the request is read, and never answered; not taken
    silent-after             taken, and never answered
    reset-before reset-after reset after the request, without an answer; (not) taken
    early-<code>             an answer before the last byte, which is then not waited for
    early-close  early-reset closed, reset before the last byte
    empty  garbage  list  cut  endless  bomb  slow
                             taken, and 200 with such a body
    head-garbage  head-endless  head-1xx
                             taken, and an answer whose head never ends or is none
    dead                     taken, with an answer; reset when the next request begins

What was taken is in the journal, one line a copy, synced before anything is answered: nobody
may say "not accepted" of a copy that is there.  The transcript tells how requests came.
"""

import asyncio
import gzip
import json
import os
import re
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.providers_server.dialects import DIALECTS
from tests.providers_server.dialects.base import Asked, Dialect, Reply

_WISH = re.compile(rb"([a-z0-9-]+)(?:\+|%2B)[a-z0-9]+(?:@|%40)sink\.example\.org")
_BODIES: Mapping[str, bytes] = {
    "empty": b"",
    "garbage": b"\x00\xff{not json",
    "list": b"[1, null, {}]",
    "bomb": gzip.compress(bytes(64 * 1024 * 1024), 9),
}
_WAITS = {
    "seconds": "17",
    "date": "Fri, 31 Dec 9999 23:59:59 GMT",
    "past": "Thu, 01 Jan 1970 00:00:00 GMT",
    "huge": "9" * 40,
    "words": "soon",
}


@dataclass(frozen=True)
class Head:
    method: str
    target: str
    headers: Mapping[str, str]


class Server:
    """The state that all connections share."""

    def __init__(self, journal: Path, transcript: Path, *, lag_ms: int) -> None:
        self._journal = journal.open("ab", buffering=0)
        self._transcript = transcript.open("ab", buffering=0)
        self._lag_ms = lag_ms
        self._copies: list[dict[str, Any]] = []
        self._answers: dict[tuple[str, str], Reply] = {}

    def tell(self, event: str, wish: str, tag: str = "") -> None:
        line = json.dumps({"event": event, "wish": wish, "tag": tag})
        self._transcript.write(line.encode() + b"\n")

    def take(self, name: str, dialect: Dialect, asked: Asked) -> Reply:
        """Take a message: journal it, and return what to answer."""
        sent = dialect.read(asked)
        number = len(self._copies)
        for recipient in sent.recipients:
            copy = {
                "number": number,
                "dialect": name,
                "recipient": recipient,
                "public_id": sent.public_id,
                "attempt": sent.attempt,
                "key": sent.key,
                "at_ms": time.time_ns() // 1_000_000,
            }
            self._copies.append(copy)
            self._journal.write(json.dumps(copy).encode() + b"\n")
        os.fsync(self._journal.fileno())
        answer = dialect.accept(sent, number)
        if sent.key:
            self._answers[name, sent.key] = answer
        return answer

    def recall(self, name: str, dialect: Dialect, asked: Asked) -> Reply | None:
        """Return what was answered to a request with this idempotency key."""
        key = dialect.read(asked).key
        return self._answers.get((name, key)) if key else None

    def visible(self, name: str) -> list[dict[str, Any]]:
        before_ms = time.time_ns() // 1_000_000 - self._lag_ms
        return [c for c in self._copies if c["dialect"] == name and c["at_ms"] <= before_ms]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        try:
            while await Exchange(self, reader, writer).run():
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Exchange:
    """One request and what is answered."""

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def run(self) -> bool:
        """Read, take or not, answer; True where the connection goes on."""
        head = await self._read_head()
        url = urlsplit(head.target)
        name, _, rest = url.path.lstrip("/").partition("/")
        if name == "stolen":
            self._server.tell("stolen", json.dumps(dict(head.headers)))
            return False
        dialect = DIALECTS[name]
        length = int(head.headers.get("content-length", "0"))
        body = await self._reader.readexactly(max(length - 1, 0))
        wish, tag = find_wish(body)
        if length:
            self._server.tell("all_but_last", wish, tag)
            if wish.startswith("early-"):
                return await self._be_early(wish, tag)
            try:
                body += await self._reader.readexactly(1)
            except (asyncio.IncompleteReadError, ConnectionError):
                self._server.tell("no_last_byte", wish, tag)
                raise
            self._server.tell("complete", wish, tag)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        asked = Asked(head.method, "/" + rest, query, head.headers, body)
        if not dialect.has_access(asked):
            return await self._write(dialect.denied)
        if not dialect.is_send(asked):
            return await self._write(dialect.ask(asked, self._server.visible(name)))
        return await self._grant(wish, name, dialect, asked)

    async def _read_head(self) -> Head:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        return Head(method, target, {n.strip().lower(): v.strip() for n, v in pairs})

    async def _be_early(self, wish: str, tag: str) -> bool:
        what = wish.removeprefix("early-")
        if what == "reset":
            self._reset()
        elif what == "close":
            self._writer.close()
            await self._writer.wait_closed()
        else:
            close = {"Connection": "close"}
            body = {"message": "early", "Message": "early"}
            await self._write(Reply(int(what), body, close))
        self._server.tell("was_early", wish, tag)
        if what not in {"reset", "close"} and await self._reader.read():
            self._server.tell("last_byte_all_the_same", wish, tag)
        return False

    async def _grant(self, wish: str, name: str, dialect: Dialect, asked: Asked) -> bool:
        """Do what the recipient's name asks for; a known key gets the first answer again."""
        known = self._server.recall(name, dialect, asked) or self._find_refusal(wish, dialect)
        if known is not None:
            return await self._write(known)
        if wish in {"silent-before", "reset-before"}:
            return await self._fall_silent(is_reset=wish.startswith("reset"))
        answer = self._server.take(name, dialect, asked)
        if wish in {"silent-after", "reset-after"}:
            return await self._fall_silent(is_reset=wish.startswith("reset"))
        if wish.startswith("head-"):
            return await self._write_no_head(wish)
        if wish in _BODIES or wish in {"cut", "endless", "slow"}:
            return await self._write_odd_body(wish)
        status = re.fullmatch(r"s(\d{3})-after", wish)
        await self._write(Reply(int(status[1]), {"message": "oops"}) if status else answer)
        if wish == "dead":
            await self._reader.read(1)
            self._reset()
            self._server.tell("died", wish, find_wish(asked.body)[1])
        return wish != "dead"

    def _find_refusal(self, wish: str, dialect: Dialect) -> Reply | None:
        """Return the answer to what is not taken."""
        if wish == "refuse":
            return dialect.refused
        if wish == "unauthorized":
            return dialect.denied
        if wish == "redirect":
            port = self._writer.get_extra_info("sockname")[1]
            return Reply(307, None, {"Location": f"http://localhost:{port}/stolen"})
        if wait := re.fullmatch(r"wait-([a-z]+)(?:-(\d{3}))?", wish):
            after = {"Retry-After": _WAITS[wait[1]]}
            return Reply(int(wait[2] or 429), {"message": "wait"}, after)
        if status := re.fullmatch(r"s(\d{3})-before", wish):
            return Reply(int(status[1]), {"message": "no"})
        return None

    async def _fall_silent(self, *, is_reset: bool) -> bool:
        if is_reset:
            self._reset()
        else:
            await self._reader.read()  # until they lose their patience
        return False

    async def _write(self, reply: Reply) -> bool:
        body = reply.encode()
        lines = [
            f"HTTP/1.1 {reply.status} Whatever",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            *(f"{name}: {value}" for name, value in reply.headers.items()),
        ]
        if reply.status in {204, 304}:
            del lines[1]
            body = b""
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()
        return True

    async def _write_odd_body(self, wish: str) -> bool:
        if wish in _BODIES:
            encoding = {"Content-Encoding": "gzip"} if wish == "bomb" else {}
            return await self._write(Reply(200, _BODIES[wish], encoding))
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n{")
        await self._writer.drain()
        if wish == "slow":
            await self._reader.read()
        while wish == "endless":
            self._writer.write(b" " * 65536)
            await self._writer.drain()
        return False

    async def _write_no_head(self, wish: str) -> bool:
        if wish == "head-garbage":
            self._writer.write(b"this is not HTTP\r\n\r\n")
        while wish == "head-endless":
            self._writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 5000)
            await self._writer.drain()
        while wish == "head-1xx":
            self._writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await self._writer.drain()
            await asyncio.sleep(0.01)
        await self._writer.drain()
        return False

    def _reset(self) -> None:
        """Close with RST, as a crashed host or a strict firewall does."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def find_wish(body: bytes) -> tuple[str, str]:
    """Return wish and tag of the first recipient in a request, however it is written."""
    found = _WISH.search(body)
    if found is None:
        return "", ""
    whole = found[0].replace(b"%2B", b"+").replace(b"%40", b"@").decode()
    wish, _, tag = whole.partition("@")[0].partition("+")
    return wish, tag
