"""An HTTP server with one FIFO that behaves, and misbehaves, as ForestMQ 0.6.5 was seen to.

`POST /provider` puts, `POST /consumer` takes, `GET /health` counts; almost every answer is 200.
What ends the real process ends this one (by SIGSEGV), unless --restart-after is given: then
every connection is closed without a byte, everything queued is gone, and connections are
refused for so long, as under a restart policy.

Faults of one's own choice come on top: as options at the start, and by the control port, which
takes one JSON object a line and answers with one:

    {"set": {"drop": 0.5}}   change options that are numbers or flags
    {"do": "die"}            die now
    {"do": "put", "message": {...}, "times": 50}
    {"do": "clear"}          lose everything queued, without dying
    {"do": "stats"}          what happened so far
"""

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.forestmq.texts import Dies, dump, misprint, parse
from tests.ports import keep_port

_METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD"}
_ALL_METHODS = {*_METHODS, "PATCH", "OPTIONS", "TRACE", "CONNECT"}
_JSON = "application/json"
_HTML = "text/html; charset=ISO-8859-1"
_NO_MESSAGE = {"error": "expected 'message' key in JSON"}
_EMPTY = {"error": "Queue is empty!"}
_SLACK = 16  # bytes over the limit that mostly give an error; beyond them the process dies
_MOST_HEAD = 64 * 1024


@dataclass(frozen=True)
class Options:
    """What it is like.  Shares are between 0 and 1.

    Attributes:
        restart_after: seconds until it is back; None: its process ends.
        kill_every: seconds between two deaths, each varied by half.
        stall: seconds that every request takes, one after the other.
        hang: nothing is answered at all; what was asked is done.
        drop: share of what is put that is answered as queued, and is not.
        repeat: how often each message is taken.
        reorder: any message may be the next one.
        abandon: share of the takes that are done, with the connection closed unanswered.
        unanswered: share of the puts that are done, with the connection closed unanswered.
        error: share of the requests that get 200 with an error body, undone.
        other_echo: what is put is answered with something else, and queued as it is.
        mangle, invent: share of the takes that give a changed message, one of nobody's.
        cost: putting takes longer the more is queued, as in the real one.
    """

    hosts: tuple[str, ...] = ("localhost", "0.0.0.0", "127.0.0.1", "host.docker.internal")
    msg_size: int = 5120
    restart_after: float | None = None
    kill_every: float = 0
    stall: float = 0
    hang: bool = False
    drop: float = 0
    repeat: int = 1
    reorder: bool = False
    abandon: float = 0
    unanswered: float = 0
    error: float = 0
    other_echo: bool = False
    mangle: float = 0
    invent: float = 0
    cost: bool = False
    seed: int = 1


@dataclass
class Request:
    """One request, read in full."""

    method: str
    target: str
    version: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def stays_open(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return wish == "keep-alive" if self.version == "HTTP/1.0" else wish != "close"


@dataclass
class Answer:
    """What is written back; `body` None: the connection closes without a byte."""

    body: bytes | None
    status: int = 200
    reason: str = "OK"
    type: str = _JSON


class Server:
    """The queue, its faults, and its listening socket."""

    def __init__(
        self, options: Options, *, log: Path | None, address: str = "127.0.0.1"
    ) -> None:
        self.options = options
        self._address = address
        self.counts: Counter[str] = Counter()
        self.port = 0
        self._kept: socket.socket | None = None
        self._queue: list[str] = []
        self._chance = random.Random(options.seed)
        self._log = log.open("a", buffering=1) if log else None
        self._listening: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._asked: asyncio.Queue[tuple[Connection, Request]] = asyncio.Queue()

    # life and death

    async def listen(self, port: int) -> None:
        """Listen; on the same port again after a death."""
        if self._kept is None:
            self._kept = keep_port(port, self._address)
            self.port = self._kept.getsockname()[1]
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), self._address, self.port, reuse_port=True
        )

    async def run(self) -> None:
        """Answer one request after the other, for ever."""
        while True:
            connection, request = await self._asked.get()
            try:
                await self._serve(connection, request)
            except Dies as death:
                await self.die(str(death))

    async def be_killed(self) -> None:
        """Die every now and then."""
        while True:
            every_s = self.options.kill_every
            await asyncio.sleep(every_s * self._chance.uniform(0.5, 1.5) if every_s else 0.1)
            if every_s and self.options.kill_every:
                await self.die("killed")

    async def die(self, why: str) -> None:
        """Lose everything; end the process, or come back a little later."""
        self.counts["deaths"] += 1
        self._write_log(f"dies: {why}")
        if self.options.restart_after is None:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.counts["lost"] += len(self._queue)
        self._queue.clear()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in list(self._connections):
            connection.drop()
        while not self._asked.empty():
            self._asked.get_nowait()
        await asyncio.sleep(self.options.restart_after or 0)
        await self.listen(self.port)

    # requests

    def attach(self, connection: "Connection") -> None:
        self.counts["connections"] += 1
        self._connections.add(connection)

    def detach(self, connection: "Connection") -> None:
        self._connections.discard(connection)

    def ask(self, connection: "Connection", request: Request) -> None:
        """Take a request; it is executed whether or not anybody waits for the answer."""
        self._asked.put_nowait((connection, request))

    async def _serve(self, connection: "Connection", request: Request) -> None:
        if self.options.stall:
            await asyncio.sleep(self.options.stall)
        answer = self._answer(request)
        if self.options.hang:
            return
        if answer.body is None:
            connection.drop()
        else:
            connection.answer(request, answer)

    def _answer(self, request: Request) -> Answer:
        if request.method not in _METHODS:
            return _refuse(501, "Not Implemented")
        host = request.headers.get("host")
        if host is None:
            raise Dies("no Host header")
        if host.partition(":")[0] not in self.options.hosts:
            return Answer(b"", 403, "Host not allowed", _HTML)
        does = {
            ("POST", "/provider"): self._put,
            ("POST", "/consumer"): self._take,
            ("GET", "/health"): self._health,
        }.get((request.method, request.target))
        if does is None:
            return Answer(b"NULL")
        if request.method == "POST" and self._chance.random() < self.options.error:
            self.counts["errors"] += 1
            return _reply(_NO_MESSAGE if request.target == "/provider" else _EMPTY)
        return does(request.body)

    def _health(self, _body: bytes) -> Answer:
        now = f"{time.asctime()}\n"
        shape = {
            "queue_empty": not self._queue,
            "queue_length": len(self._queue),
            "status": "OK",
            "request_start": now,
            "request_end": now,
        }
        return Answer(dump(shape, indent=4).encode())

    def _put(self, body: bytes) -> Answer:
        limit = self.options.msg_size
        if len(body) > limit + _SLACK:
            raise Dies(f"a body of {len(body)} bytes")
        try:
            asked = parse(body) if len(body) < limit else None
        except ValueError:
            asked = None
        if not isinstance(asked, dict) or "message" not in asked:
            return _reply(_NO_MESSAGE)
        message = asked["message"]
        is_container = isinstance(message, dict | list)
        if asked.get("destroy") is True:
            return _reply(message) if is_container else Answer(b"")
        if not is_container:
            raise Dies(f"a message that is {message!r:.20}")
        text = dump(message)
        if len(text.encode()) > limit - 1:
            raise Dies("a message that grew beyond the limit")
        self.put(text)
        answer = self._reply_with({} if self.options.other_echo else message)
        if self._chance.random() < self.options.unanswered:
            return Answer(None)
        return answer

    def put(self, text: str) -> None:
        """Queue a message, which may be lost on the way."""
        self.counts["put"] += 1
        if self.options.cost:
            time.sleep(8e-6 * len(self._queue) / 1000)
        if self._chance.random() < self.options.drop:
            self.counts["dropped"] += 1
        else:
            self._queue += [text] * self.options.repeat

    def _take(self, _body: bytes) -> Answer:
        self.counts["asked"] += 1
        if self._chance.random() < self.options.invent:
            self.counts["invented"] += 1
            return self._reply_with(self._invent())
        if not self._queue:
            return _reply(_EMPTY)
        at = self._chance.randrange(len(self._queue)) if self.options.reorder else 0
        text = self._queue.pop(at)
        self.counts["taken"] += 1
        self._write_log(f"taken: {text}")
        message = parse(text.encode())
        if self._chance.random() < self.options.mangle:
            self.counts["mangled"] += 1
            message = self._mangle(message)
        answer = self._reply_with(message)
        if self._chance.random() < self.options.abandon:
            self.counts["abandoned"] += 1
            return Answer(None)
        return answer

    def _invent(self) -> Any:
        return self._chance.choice(
            [
                {"topic": "email.send", "v": 1, "id": "msg_0000000000001"},
                {"topic": "email.send", "v": 1, "id": "nobody's"},
                {"topic": "email.send", "v": 1, "id": 12},
                {"topic": "email.send", "v": 1},
                {"topic": "email.send", "v": True, "id": "msg_0000000000001"},
                {"topic": ["email.send"], "v": 1, "id": "msg_0000000000001"},
                {"topic": "email.send", "v": 1, "id": "m" * 4000},
                [1, 2, 3],
                {},
            ]
        )

    def _mangle(self, message: Any) -> Any:
        if isinstance(message, dict) and isinstance(message.get("id"), str):
            return {**message, "id": message["id"][:-2] + "~"}
        return [message]

    def _reply_with(self, message: Any) -> Answer:
        length = {"queue_length": len(self._queue), "message_size": self.options.msg_size}
        return _reply({**length, "message": message})

    def _write_log(self, line: str) -> None:
        if self._log:
            self._log.write(f"{line}\n")

    # control

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what the test says."""
        while line := await reader.readline():
            order = json.loads(line)
            self.options = replace(self.options, **order.get("set", {}))
            match order.get("do"):
                case "die":
                    await self.die("told to")
                case "put":
                    for _ in range(order.get("times", 1)):
                        self.put(dump(order["message"]))
                case "clear":
                    self.counts["lost"] += len(self._queue)
                    self._queue.clear()
            writer.write(
                json.dumps({**self.counts, "length": len(self._queue)}).encode() + b"\n"
            )
            await writer.drain()
        writer.close()


def _reply(shape: Any) -> Answer:
    return Answer(misprint(dump(shape, indent=4)).encode())


def _refuse(status: int, reason: str) -> Answer:
    html = f"<html><head><title>{status} {reason}</title></head></html>\n"
    return Answer(html.encode(), status, reason, _HTML)


class Connection(asyncio.Protocol):
    """One client: its requests go to the server in order, also after it has left."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._buffer = b""
        self._request: Request | None = None
        self._read_body: Callable[[], bytes | None]
        self._chunks = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.attach(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.detach(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._transport.is_closing() and self._read():
            pass

    def eof_received(self) -> bool:
        return True  # what was asked is still answered, to nobody

    def _read(self) -> bool:
        """Read one request more; False: it has not come yet."""
        if self._request is None and not self._read_head():
            return False
        assert self._request is not None
        body = self._read_body()
        if body is None:
            return False
        request, self._request = self._request, None
        request.body = body
        self._server.ask(self, request)
        return True

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _MOST_HEAD:
                self._refuse_head()
            return False
        self._buffer = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return self._refuse_head()
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                return self._refuse_head()
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return self._refuse_head()
        self._request = Request(words[0], words[1], words[2], headers)
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._chunks = b""
        is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._read_body = self._read_chunks if is_chunked else lambda: self._cut(int(length))
        return True

    def _refuse_head(self) -> bool:
        answer = _refuse(400, "Bad Request")
        self.answer(Request("GET", "", "HTTP/1.1", {"connection": "close"}), answer)
        return False

    def _cut(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body

    def _read_chunks(self) -> bytes | None:
        while True:
            size, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return None
            length = int(size.partition(b";")[0], 16)
            if len(rest) < length + 2:
                return None
            self._chunks += rest[:length]
            self._buffer = rest[length + 2 :]
            if length == 0:
                return self._chunks

    def answer(self, request: Request, answer: Answer) -> None:
        """Write the answer; nobody may be there to read it."""
        assert answer.body is not None
        if self._transport.is_closing():
            return
        is_old = request.version == "HTTP/1.0"
        lines = [f"{request.version} {answer.status} {answer.reason}"]
        lines += [f"Content-Type: {answer.type}"]
        if not is_old:
            lines += [f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}"]
        if request.method != "HEAD" and (not is_old or request.stays_open):
            lines += [f"Content-Length: {len(answer.body)}"]
        stays_open = request.stays_open and answer.status not in {400, 501}
        if not stays_open:
            lines += ["Connection: close"]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body)
        if not stays_open:
            self._transport.close()

    def drop(self) -> None:
        """Close without a byte."""
        self._transport.abort()
