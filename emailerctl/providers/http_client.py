"""One HTTP exchange, with the point of no return: the last byte of the request's body.

    head, and the body but for its last byte → nothing has come back yet → mark granted
    → still nothing → not too late → the last byte → the answer

`Content-Length` is always set, so that a body without its last byte is not a request (RFC 9112
§8).  Before that byte whatever breaks is a definite "not accepted"; after it only an answer
decides.  This is the one module that knows the HTTP client; what an answer means is not its
subject (http.py).
"""

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpcore
import httpx

from emailerctl.models.clock import Clock, SystemClock
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.providers.base import DOT_WITHIN_MS, Mark, MarkRefused
from emailerctl.providers.smtp_reply import clean
from emailerctl.trust import Protocol, trust

# What is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as an adapter wants it sent; credentials are in `headers`.

    Attributes:
        path: added to the base URL.
        query: in the order given; not shown in the dialogue.
        body: never empty where the mark is asked for.
        carries: the recipients that it is about.
        decided: what is said of the others, without asking the next hop.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    carries: tuple[EnvelopeRecipient, ...] = ()
    decided: Mapping[int, Outcome] = field(default_factory=dict)


def build_json(value: object) -> bytes:
    """Return *value* as the body of a request."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def build_basic_auth(user: str, password: str) -> str:
    """Return an Authorization header's value (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def build_multipart(
    fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, str, str, bytes]]
) -> tuple[str, bytes]:
    """Return Content-Type and body of multipart/form-data (RFC 7578).

    The same for the same arguments.  It ends with the closing delimiter itself: without its
    last byte nothing closes the last part.

    Args:
        files: name, file name, content type, content.
    """
    parts = [
        b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (_quote(name), value.encode())
        for name, value in fields
    ]
    parts += [
        b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n'
        b"Content-Type: %b\r\n\r\n%b"
        % (_quote(name), _quote(filename), content_type.encode(), content)
        for name, filename, content_type, content in files
    ]
    salt = 0
    while True:
        digest = blake2b(b"%d" % salt, digest_size=16)
        for part in parts:
            digest.update(part[:4096])
        boundary = digest.hexdigest().encode()
        if not any(boundary in part for part in parts):
            break
        salt += 1
    lines = [b"--%b\r\n%b\r\n" % (boundary, part) for part in parts]
    body = b"".join([*lines, b"--%b--" % boundary])
    return f"multipart/form-data; boundary={boundary.decode()}", body


def _quote(name: str) -> bytes:
    """Escape a parameter as browsers do (HTML, multipart/form-data encoding algorithm)."""
    escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.encode()


# What comes back

_EXCERPT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; bounded, whatever was sent.

    Attributes:
        headers: by lower-case name.
        is_whole: False where the body was cut: too long, too slow, or reset.
        is_early: it came before the last byte of the request, which then was not sent.
        received_ms: on the wall clock.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = True
    is_early: bool = False
    received_ms: int = 0

    @property
    def json(self) -> Mapping[str, Any]:
        """The body, if it is a JSON object; else an empty one."""
        value = self.json_value
        return value if isinstance(value, dict) else {}

    @property
    def json_value(self) -> Any:
        """The body, if it is JSON; else None."""
        if not self.is_whole:
            return None
        return parse_json(self.body)

    @property
    def excerpt(self) -> str:
        """The body's beginning, on one line."""
        return clean(self.body[:_EXCERPT].decode("utf-8", "replace").strip(), _EXCERPT)


def parse_json(body: bytes) -> Any:
    """Return the value, or None where *body* is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# The exchange

_CHUNK = 64 * 1024
_PEEK_S = 0.02  # for what is readable and no answer: a TLS session ticket
_BODY_BYTES = 256 * 1024
_BODY_S = 10.0
_KEPT_S = 30.0
_USER_TIMEOUT_MS = 60_000  # the kernel goes on sending after a SIGKILL, but not for ever


class _TooLate(Exception):
    """The last byte must not leave any more; nothing has been accepted."""


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that can be asked whether something has come back while we still write."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._early = b""
        self._has_ended = False
        self._has_served = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._early:
            data, self._early = self._early[:max_bytes], self._early[max_bytes:]
        else:
            data = b"" if self._has_ended else await self._inner.read(max_bytes, timeout)
        self._has_served = self._has_served or bool(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        wire = _WIRE.get()
        if wire is not None and wire.stream is None:
            wire.stream, wire.is_kept = self, self._has_served
        await self._inner.write(buffer, timeout)

    async def has_answer(self) -> bool:
        """Return whether an answer, or the end, has come; it is kept for `read`."""
        if self._early or self._has_ended:
            return True
        if not self._inner.get_extra_info("is_readable"):
            return False
        try:
            self._early = await self._inner.read(_CHUNK, _PEEK_S)
        except httpcore.ReadTimeout:
            return False
        except httpcore.ReadError:
            self._early = b""
        self._has_ended = not self._early
        return True

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Network(httpcore.AnyIOBackend):
    """The usual connections, as `_Stream`s."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(
            await super().connect_tcp(host, port, timeout, local_address, socket_options)
        )


class _Wire(httpx.AsyncByteStream):
    """One request's body on its way: it stops before the last byte and asks."""

    def __init__(
        self, request: Request, mark: Mark, client: "Client", deadline_boot_ms: int
    ) -> None:
        self._body = memoryview(request.body)
        self._mark = mark
        self._carries = [recipient.n for recipient in request.carries]
        self._client = client
        self._deadline_boot_ms = deadline_boot_ms
        self.timer: asyncio.Timeout | None = None
        self.stream: _Stream | None = None
        self.is_kept = False  # the connection had served another request before
        self.is_asked = False
        self.is_complete = False  # the last byte may have left
        self.answer: Answer | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        last = len(self._body) - 1
        for start in range(0, last, _CHUNK):
            await self._stop_if_answered()
            yield bytes(self._body[start : min(start + _CHUNK, last)])
        await self._stop_if_answered()
        await self._ask()
        # ---- the point of no return ----
        self.is_complete = True
        yield bytes(self._body[last:])

    async def _stop_if_answered(self) -> None:
        """Read the answer instead of writing on: httpcore does so after a failed write."""
        if self.stream is not None and await self.stream.has_answer():
            self._reschedule(self._client.final_reply_s)
            raise httpcore.WriteError("an answer came before the last byte")

    async def _ask(self) -> None:
        clock = self._client.clock
        asked_ms = clock.boot_ms()
        if asked_ms >= self._deadline_boot_ms:
            raise _TooLate("the deadline passed before the last byte")
        self._reschedule(None)
        self.is_asked = True
        if not await self._mark(self._carries):
            raise MarkRefused
        await self._stop_if_answered()
        late_ms = clock.boot_ms() - asked_ms
        if late_ms > DOT_WITHIN_MS:
            raise _TooLate(f"the last byte would have left {late_ms} ms after the mark")
        self._reschedule(self._client.final_reply_s)

    def _reschedule(self, seconds: float | None) -> None:
        if self.timer is not None:
            now = asyncio.get_running_loop().time()
            self.timer.reschedule(None if seconds is None else now + seconds)

    def answered(self, answer: Answer) -> None:
        """Take the status as the decision: what comes after it can only cut the body."""
        self._reschedule(None)
        self.answer = answer


_WIRE: ContextVar[_Wire | None] = ContextVar("wire", default=None)


class Unreachable(Exception):
    """A question to a next hop was not answered; the sentence says why."""


class TlsFailed(Unreachable):
    """There was a connection, and no TLS on it."""


class Client:
    """Connections to one next hop, kept between messages."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        connections: int,
        clock: Clock,
        ca_file: Path | None = None,
        connect_timeout: timedelta,
        final_reply: timedelta,
        secrets: Sequence[str] = (),
    ) -> None:
        """Prepare; nothing is opened before the first message.

        Args:
            secrets: what must not be shown, wherever it turns up.

        Raises:
            ConfigurationError: *ca_file* can't be used.
        """
        self.clock = clock
        self.final_reply_s = final_reply.total_seconds()
        self._base_url = base_url
        self._secrets = tuple(secrets)
        self._connect_s = connect_timeout.total_seconds()
        self._context = trust(
            ca_file, protocol=Protocol.HTTP, setting=f"[providers.{name}] ca_file"
        )
        self._transport = _Transport(self._context, connections)
        self._http = httpx.AsyncClient(
            transport=self._transport,
            timeout=httpx.Timeout(None, connect=self._connect_s),
            headers={"User-Agent": "emailerctl", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._transport.count_open()

    def mask(self, text: str) -> str:
        """Return *text* without the secrets of the settings."""
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text

    async def exchange(
        self,
        request: Request,
        mark: Mark,
        *,
        deadline_boot_ms: int,
        dialogue: list[str],
    ) -> Answer | Outcome:
        """Send *request*, withholding the last byte of its body until *mark* is granted.

        A kept connection that proves dead before the mark was asked for is replaced once.  A
        cancellation passes through before the mark is asked for; after that it ends in an
        outcome, because what happened must not be lost.

        Raises:
            MarkRefused: the connection was closed without the last byte.
        """
        for is_last in (False, True):
            dialogue.append(f"> {request.method} {self._base_url}{request.path}")
            dialogue.append(f"= body of {len(request.body)} bytes")
            wire = _Wire(request, mark, self, deadline_boot_ms)
            came = await self._attempt(request, wire, deadline_boot_ms, dialogue)
            if isinstance(came, Answer):
                said = self.mask(came.excerpt)
                when = " (before the last byte)" if came.is_early else ""
                dialogue.append(f"< {came.status}{when} {said}".rstrip())
                return came
            dialogue.append(f"= {came.reply}")
            if is_last or wire.is_asked or came.is_charged or not wire.is_kept:
                break
            dialogue.append("= the kept connection was dead; a new one")
        return came

    async def _attempt(
        self, request: Request, wire: _Wire, deadline_boot_ms: int, dialogue: list[str]
    ) -> Answer | Outcome:
        try:
            left_s = max((deadline_boot_ms - self.clock.boot_ms()) / 1000, 0)
            async with asyncio.timeout(left_s) as timer:
                wire.timer = timer
                return await self._send(request, wire)
        except MarkRefused:
            dialogue.append("= the mark was refused: closed without the last byte")
            raise
        except asyncio.CancelledError:
            if not wire.is_asked:
                raise
            _swallow_cancellation()
            where = (
                "while waiting for the answer" if wire.is_complete else "before the last byte"
            )
            fault, is_ours = f"stopped {where}", True
        except TimeoutError:
            fault, is_ours = _explain_silence(wire), False
        except _TooLate as error:
            fault, is_ours = str(error), wire.is_asked
        except httpx.HTTPError as error:
            return self._read_fault(wire, error)
        if wire.answer is not None:
            return wire.answer
        return _build_fault(wire, fault, is_charged=wire.is_complete or not is_ours)

    async def _send(self, request: Request, wire: _Wire) -> Answer:
        token = _WIRE.set(wire)
        try:
            response = await self._http.send(
                self._build(request, wire, {"Content-Length": str(len(request.body))}),
                stream=True,
            )
            return await self._read(response, wire)
        finally:
            _WIRE.reset(token)

    def _build(
        self, request: Request, stream: httpx.AsyncByteStream | None, more: Mapping[str, str]
    ) -> httpx.Request:
        built = self._http.build_request(
            request.method,
            self._base_url + request.path,
            headers={**request.headers, **more},
            params=list(request.query) or None,
            content=None if stream is not None else request.body or None,
        )
        if stream is not None:
            built.stream = stream
        return built

    async def _read(self, response: httpx.Response, wire: _Wire | None = None) -> Answer:
        """Read an answer whose status has come; what breaks now can only cut its body.

        Nothing is decompressed: it was asked for as it is (F-PR-10).
        """
        answer = Answer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            is_whole=False,
            is_early=wire is not None and not wire.is_complete,
            received_ms=self.clock.now_ms(),
        )
        if wire is not None:
            wire.answered(answer)
        body = bytearray()
        is_whole = False
        try:
            raw = cast("AsyncGenerator[bytes]", response.aiter_raw())
            async with asyncio.timeout(_BODY_S), aclosing(raw) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > _BODY_BYTES:
                        break
                else:
                    is_whole = True
        except (TimeoutError, httpx.HTTPError):
            pass  # the status has decided
        finally:
            await response.aclose()
        return replace(answer, body=bytes(body[:_BODY_BYTES]), is_whole=is_whole)

    def _read_fault(self, wire: _Wire, error: httpx.HTTPError) -> Outcome:
        sentence = clean(self.mask(f"{type(error).__name__}: {error}".rstrip(": ")))
        if wire.is_complete:
            return _build_fault(wire, sentence)
        if wire.stream is None:
            if find_tls_error(error):
                return replace(_build_fault(wire, sentence), phase=Phase.TLS, alarm=Alarm.TLS)
            return replace(_build_fault(wire, sentence), phase=Phase.CONNECT)
        return _build_fault(wire, sentence, is_charged=not wire.is_kept)

    async def ask(self, request: Request) -> Answer:
        """Send a question (look-up, check), and return the answer.

        Raises:
            Unreachable: there was none.
        """
        try:
            async with asyncio.timeout(self.final_reply_s):
                response = await self._http.send(self._build(request, None, {}), stream=True)
                return await self._read(response)
        except TimeoutError:
            raise Unreachable(f"no answer within {self.final_reply_s:g} s") from None
        except httpx.HTTPError as error:
            sentence = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unreachable(clean(self.mask(sentence))) from error

    async def shake_hands(self) -> str:
        """Open a TLS connection, close it, and say what was agreed.

        Raises:
            TlsFailed, Unreachable: with the reason.
        """
        url = urlsplit(self._base_url)
        try:
            async with asyncio.timeout(self._connect_s):
                _reader, writer = await asyncio.open_connection(
                    url.hostname, url.port or 443, ssl=self._context
                )
        except TimeoutError:
            raise Unreachable(f"no connection within {self._connect_s:g} s") from None
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or error.reason or str(error)
            raise TlsFailed(clean(str(said))) from error
        except OSError as error:
            raise Unreachable(clean(f"{type(error).__name__}: {error}")) from error
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate, cipher = tls.getpeercert(), tls.cipher()
        writer.close()
        ends = (certificate or {}).get("notAfter", "")
        return f"{tls.version()} {cipher[0] if cipher else ''}, certificate until {ends}"

    async def close(self) -> None:
        """Close what is open."""
        await self._http.aclose()


class _Transport(httpx.AsyncHTTPTransport):
    """The client's transport on connections of ours: httpx has no argument for them."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_KEPT_S,
            http1=True,
            http2=False,
            retries=0,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)],
            network_backend=_Network(),
        )

    def count_open(self) -> int:
        """Return how many connections there are."""
        return len(self._pool.connections)


def _build_fault(wire: _Wire, reply: str, *, is_charged: bool = True) -> Outcome:
    """Return what a missing answer means: the last byte draws the line."""
    return Outcome(
        kind=Kind.UNKNOWN if wire.is_complete else Kind.TRANSIENT,
        party=Party.NEXT_HOP,
        phase=Phase.ANSWER if wire.is_complete else Phase.CONTENT,
        reply=reply,
        is_charged=is_charged,
    )


def _explain_silence(wire: _Wire) -> str:
    if wire.is_complete:
        return "no answer in time after the last byte"
    if wire.stream is None:
        return "no connection in time"
    return "the request was not taken in time"


def find_tls_error(error: BaseException | None) -> bool:
    """Return whether TLS is behind *error*: handshake or certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _swallow_cancellation() -> None:
    """Take the cancellation as heard: the caller gets a fact instead."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


# Elsewhere


_ELSEWHERE = timedelta(seconds=10)


async def ask_once(base_url: str, request: Request, *, ca_file: Path | None = None) -> Answer:
    """Ask on a connection that is used for nothing else: within 10 s, bounded, no redirects.

    Raises:
        ConfigurationError: *ca_file* can't be used.
        Unreachable: there was no answer.
    """
    client = Client(
        "",
        base_url=base_url,
        connections=1,
        clock=SystemClock(),
        ca_file=ca_file,
        connect_timeout=_ELSEWHERE,
        final_reply=_ELSEWHERE,
    )
    try:
        return await client.ask(request)
    finally:
        await client.close()


async def post_json(url: str, body: object) -> str:
    """Post *body* once; return why that failed, without the URL; empty when it did not."""
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answer = await client.post(url, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return "" if answer.is_success else f"answered {answer.status_code}"
