"""ForestMQ's HTTP, and the one place of its rules: what may be put on the wire, what came back.

Observed on releases 0.6.2 and 0.6.5 (2026-02-24), which differ in nothing here.  Almost every
answer is 200, so the body decides (F-BR-06).  Content that others put in may come back changed,
and some content ends the server's process with everything queued: a string as message, a body
over the limit, percent signs, decimals.  So only flat objects of whole numbers and of text in
`[A-Za-z0-9._:-]` go out, and what it says it has queued is compared with what was sent.

There is no acknowledgement: a take whose answer is lost has lost the message.  So nothing here
is cancelled from outside while it is under way: see `queues.forestmq`.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import httpx

from emailerctl.models.clock import Clock
from emailerctl.models.text import shorten

DOORBELL_BYTES = 512
MOST_BYTES = 5_000  # of any body: from 5 137 on the server dies

_TEXT = re.compile(r"[A-Za-z0-9._:-]*")
_MOST_ANSWER = 256 * 1024
_CONNECT_S = 1.0
_EMPTY = "Queue is empty!"
_REST_MS = (100, 15_000)  # after the first fault, and at most
_FORBIDDEN = 403


class Unsendable(ValueError):
    """This content must not meet a ForestMQ: it would be changed, or end the server."""


class Trouble(StrEnum):
    """What can be wrong with a ForestMQ, or with what is said to be one."""

    DOWN = "down"  # no connection, or closed without an answer
    TIMED_OUT = "timed_out"
    HOST_REFUSED = "host_refused"  # 403: the name in the URL is not in its --hosts
    ERROR_BODY = "error_body"  # 200, and it has not done what was asked
    WRONG_ECHO = "wrong_echo"  # it says that it queued something else
    UNREADABLE = "unreadable"  # an answer that is none of ForestMQ's, or a mangled one
    RESTING = "resting"  # not asked: it failed a moment ago


class ForestMqError(Exception):
    """A call came to nothing, or nobody knows.

    Attributes:
        body: what was answered, as far as it was read.
    """

    def __init__(self, trouble: Trouble, detail: str, *, body: bytes = b"") -> None:
        """Say what is wrong."""
        super().__init__(detail)
        self.trouble = trouble
        self.detail = detail
        self.body = body


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that was taken out: nobody else gets it any more.

    Attributes:
        length: how many are still queued.
    """

    message: object
    length: int


@dataclass(frozen=True, slots=True)
class Health:
    """What `/health` says."""

    length: int


def build_body(message: Mapping[str, object], *, most_bytes: int = DOORBELL_BYTES) -> bytes:
    """Return the body that puts *message*: the only way from our values to ForestMQ.

    Raises:
        Unsendable: names what the server would change, or die of.
    """
    for key, value in message.items():
        if not _TEXT.fullmatch(key):
            raise Unsendable(f"the key {shorten(key)} has other characters than A-Za-z0-9._:-")
        if isinstance(value, str):
            if not _TEXT.fullmatch(value):
                raise Unsendable(
                    f"{key} has other characters than A-Za-z0-9._:-: {shorten(value)}"
                )
        elif not isinstance(value, int) or isinstance(value, bool):
            raise Unsendable(
                f"{key} is neither text nor a whole number: {shorten(repr(value))}"
            )
        elif not -(2**63) <= value < 2**63:
            raise Unsendable(f"{key} is a number of more than 64 bits")
    body = json.dumps({"message": dict(message)}, separators=(",", ":")).encode("ascii")
    if len(body) > most_bytes:
        raise Unsendable(f"it has {len(body)} bytes, and at most {most_bytes} may have")
    return body


class Breaker:
    """When to ask again after a fault: 0.1 s, doubling to 15 s, with jitter."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        """Begin closed."""
        self._clock = clock
        self._rng = rng
        self._faults = 0
        self._until_ms = 0

    @property
    def rest_s(self) -> float:
        """Return how long not to ask; 0 when asking is allowed."""
        if not self._faults:
            return 0.0
        return max(self._until_ms - self._clock.boot_ms(), 0) / 1000

    def succeed(self) -> None:
        """Close: an answer came."""
        self._faults = 0

    def fail(self, trouble: Trouble) -> None:
        """Open, longer each time; at once for long where only an operator can help."""
        first_ms, most_ms = _REST_MS
        grown_ms = min(first_ms << min(self._faults, 20), most_ms)
        rest_ms = most_ms if trouble is Trouble.HOST_REFUSED else grown_ms
        self._faults += 1
        self._until_ms = self._clock.boot_ms() + round(rest_ms * self._rng.uniform(0.5, 1.0))


class ForestMqClient:
    """One kept connection to one ForestMQ; for one caller at a time.

    Args:
        host: the Host header where the server's list lacks the name in *url*; empty: that name.
        timeout_s: of each call, from connecting to the last byte of the answer.
    """

    def __init__(
        self, url: str, *, clock: Clock, rng: Random, timeout_s: float, host: str = ""
    ) -> None:
        """Prepare; nothing is opened yet."""
        self.url = url
        self.breaker = Breaker(clock, rng)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=60),
            headers={"Host": host} if host else {},
            follow_redirects=False,
            trust_env=False,
        )

    async def put(
        self, message: Mapping[str, object], *, most_bytes: int = DOORBELL_BYTES
    ) -> int:
        """Queue *message*, and return how many are queued then.

        Raises:
            Unsendable: it must not be sent, and was not.
            ForestMqError: it is not known to be queued; it may be all the same.
        """
        body = build_body(message, most_bytes=most_bytes)
        shape, raw = await self._ask("POST", "/provider", body)
        length = shape.get("queue_length")
        if "error" in shape and length is None:
            raise self._fail(Trouble.ERROR_BODY, f"it answered: {_quote(raw)}", raw)
        if not _is_count(length) or "message" not in shape:
            raise self._fail(Trouble.UNREADABLE, f"it answered: {_quote(raw)}", raw)
        if shape["message"] != message:
            raise self._fail(
                Trouble.WRONG_ECHO, f"it queued something else: {_quote(raw)}", raw
            )
        self.breaker.succeed()
        return int(str(length))

    async def take(self) -> Taken | None:
        """Take the first message out, or return None where there is none.

        Raises:
            ForestMqError: if there was a message it may be lost; `body` has what came.
        """
        shape, raw = await self._ask("POST", "/consumer", b"")
        length = shape.get("queue_length")
        if "message" in shape and _is_count(length):
            self.breaker.succeed()
            return Taken(shape["message"], int(str(length)))
        if shape.get("error") == _EMPTY:
            self.breaker.succeed()
            return None
        if "error" in shape and "message" not in shape:
            raise self._fail(Trouble.ERROR_BODY, f"it answered: {_quote(raw)}", raw)
        detail = f"an answer of {len(raw)} bytes that is not ForestMQ's"
        raise self._fail(Trouble.UNREADABLE, detail, raw)

    async def load_health(self) -> Health:
        """Return its own word about itself, which says nothing about what it has lost.

        Raises:
            ForestMqError: there is none.
        """
        shape, raw = await self._ask("GET", "/health", b"")
        length = shape.get("queue_length")
        if shape.get("status") != "OK" or not _is_count(length):
            raise self._fail(Trouble.UNREADABLE, f"it answered: {_quote(raw)}", raw)
        self.breaker.succeed()
        return Health(int(str(length)))

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def _ask(
        self, method: str, path: str, body: bytes
    ) -> tuple[dict[str, object], bytes]:
        if self.breaker.rest_s:
            raise ForestMqError(Trouble.RESTING, "it failed a moment ago and is not asked yet")
        try:
            async with asyncio.timeout(self._timeout_s):
                status, raw = await self._exchange(method, path, body)
        except (TimeoutError, httpx.TimeoutException) as error:
            detail = f"no answer within {self._timeout_s:g} s"
            raise self._fail(Trouble.TIMED_OUT, detail) from error
        except httpx.HTTPError as error:
            detail = str(error) or type(error).__name__
            raise self._fail(Trouble.DOWN, detail) from error
        except BaseException:
            self.breaker.fail(Trouble.DOWN)  # cancelled: the connection's state is not known
            raise
        if status == _FORBIDDEN:
            detail = "403: its --hosts lacks the name in our URL (or set host beside topics)"
            raise self._fail(Trouble.HOST_REFUSED, detail, raw)
        try:
            shape = json.loads(raw)
        except (ValueError, RecursionError):
            shape = None
        if status != httpx.codes.OK or not isinstance(shape, dict):
            # Of a 200 only the size: it may be somebody's message, mangled on its way.
            said = f"{len(raw)} bytes" if status == httpx.codes.OK else _quote(raw)
            detail = f"{status} and an answer that is not ForestMQ's: {said}"
            raise self._fail(Trouble.UNREADABLE, detail, raw)
        return shape, raw

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        raw = b""
        async with self._http.stream(method, path, content=body) as answer:
            async for piece in answer.aiter_raw():
                raw += piece
                if len(raw) > _MOST_ANSWER:
                    break
            return answer.status_code, raw

    def _fail(self, trouble: Trouble, detail: str, body: bytes = b"") -> ForestMqError:
        self.breaker.fail(trouble)
        return ForestMqError(trouble, f"{self.url}: {detail}", body=body)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _quote(raw: bytes) -> str:
    return shorten(raw[:200].decode("utf-8", "replace"))
