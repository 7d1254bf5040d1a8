"""A client of the API, for those who send: one file that needs nothing but httpx.

    from emailerctl.client import Client

    with Client("http://127.0.0.1:8080", token) as emailer:
        accepted = emailer.send(to="ann@example.org", subject="Hello", text="It works.")

*Never twice* starts with the caller: every call has a key of its own, which goes along on each
of its repetitions, so that a connection that breaks is no reason for a second mail.
Whoever wants to repeat a call himself, perhaps after a crash of his own, names the key.

Copy this file where it is needed, or import it: it imports nothing else of emailerctl.
"""

import asyncio
import base64
import mimetypes
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

PATIENCE_S = 60.0  # for one call and all its repetitions
TIMEOUT_S = 30.0  # for one answer
FINAL = frozenset({"sent", "delivered", "bounced", "failed", "cancelled"})
REACHED = frozenset({"sent", "delivered"})

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 2.0
# Nothing was done where these are answered; where the other ones are, nobody knows.
_NOT_NOW = frozenset({429, 503})
_IN_DOUBT = frozenset({408, 500, 502, 504})
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class EmailerError(Exception):
    """What every error of this client derives from."""


class Refused(EmailerError):
    """The API refused: the same call again would be refused again.

    Attributes:
        code: what is wrong, for programs; docs/problems.md has a section for each.
        status: of HTTP.
        detail: what is wrong, for people.
        errors: every fault: `{"pointer", "detail"}`.
        retry_after_s: when it may be accepted; None: it says nothing.
        key: the call's.
        problem: the whole document (RFC 9457).
    """

    def __init__(
        self, problem: Json, status: int, key: str, retry_after_s: float | None
    ) -> None:
        """Say what the problem document says."""
        self.problem = problem
        self.status = status
        self.code = str(problem.get("code", "error"))
        self.detail = str(problem.get("detail") or f"HTTP {status}")
        self.errors: list[Json] = problem.get("errors") or []
        self.request_id = str(problem.get("request_id", ""))
        self.retry_after_s = retry_after_s
        self.key = key
        super().__init__(f"{self.code}: {self.detail}")


class NoAnswer(EmailerError):
    """No answer came that says what became of the call, in all the time that it had.

    Attributes:
        key: the call's: repeated with this key it is done once, whatever became of this one.
        reason: of the last try.
    """

    def __init__(self, reason: str, key: str) -> None:
        """Name the reason."""
        super().__init__(f"no answer: {reason}")
        self.reason = reason
        self.key = key


class WaitedInVain(EmailerError):
    """A message did not come to where it was waited for.

    Attributes:
        message: as it stands.
        is_over: it has ended otherwise; else only the time is over.
    """

    def __init__(self, message: Json, *, is_over: bool) -> None:
        """Say where it stands."""
        word = "ended" if is_over else "is still"
        super().__init__(f"{message.get('id')} {word} {message.get('state')}")
        self.message = message
        self.is_over = is_over


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on the service's disk.

    Attributes:
        key: under which it was accepted.
        is_replay: it had been accepted before under this key.
        warnings: what is worth knowing: `{"code", "detail"}`.
        data: the whole answer.
    """

    id: str
    state: str
    key: str
    is_replay: bool = False
    warnings: tuple[Json, ...] = ()
    data: Json = field(default_factory=dict)


def build_key() -> str:
    """Return an idempotency key that no other call has."""
    return f"py-{uuid.uuid4().hex}"


def build_attachment(
    filename: str, content: bytes, content_type: str = "", *, content_id: str = ""
) -> Json:
    """Return an item of `attachments`; with *content_id* it is inline: `cid:` in the HTML."""
    guessed = content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    attachment = {
        "filename": filename,
        "content": base64.b64encode(content).decode(),
        "content_type": guessed,
    }
    return attachment | ({"content_id": content_id} if content_id else {})


@dataclass(slots=True)
class _Call:
    """One call with all its repetitions.

    Attributes:
        is_repeatable: doing it twice does it once.
        until_s: no repetition after this moment of the monotonic clock.
    """

    method: str
    path: str
    is_repeatable: bool
    until_s: float
    key: str = ""
    params: Mapping[str, Any] | None = None
    json: Any = None
    failures: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """What goes along beside the token."""
        return {"Idempotency-Key": self.key} if self.key else {}

    def judge(self, answer: httpx.Response | httpx.RequestError) -> float | None:
        """Return after how many seconds to ask again; None: it is answered.

        Raises:
            Refused, NoAnswer: it makes no sense to ask again, or the time is over.
        """
        if isinstance(answer, httpx.RequestError):
            reason = f"{type(answer).__name__}: {answer}".removesuffix(": ")
            is_hopeless = isinstance(answer, _HOPELESS) or "CERTIFICATE" in reason
            if is_hopeless or not (self.is_repeatable or isinstance(answer, _NEVER_LEFT)):
                raise NoAnswer(reason, self.key) from answer
            return self._wait(NoAnswer(reason, self.key))
        if answer.is_success:
            return None
        problem, status = _read_problem(answer), answer.status_code
        after_s = _read_retry_after(answer.headers.get("Retry-After", ""))
        if status in _IN_DOUBT or problem.get("code") == "outcome_unknown":
            error = NoAnswer(str(problem.get("detail") or f"HTTP {status}"), self.key)
            if not self.is_repeatable:
                raise error
            return self._wait(error, after_s)
        refused = Refused(problem, status, self.key, after_s)
        if status not in _NOT_NOW or not (self.is_repeatable or "code" in problem):
            raise refused
        return self._wait(refused, after_s)

    def _wait(self, error: EmailerError, after_s: float | None = None) -> float:
        """Return how long to wait; longer each time, never in step with others.

        Raises:
            EmailerError: *error*, where that would be too long.
        """
        longest_s = min(_FIRST_WAIT_S * 2**self.failures, _LONGEST_WAIT_S)
        wait_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311  (no secret)
        self.failures += 1
        wait_s = max(wait_s, after_s or 0.0)
        if time.monotonic() + wait_s > self.until_s:
            raise error
        return wait_s


class _Common:
    """What both clients share: where to ask, how calls are made and answers are read."""

    def __init__(self, url: str | None, token: str | None, patience_s: float) -> None:
        url = url or os.environ.get("EMAILER_URL", "")
        token = token or os.environ.get("EMAILER_TOKEN", "")
        if not url or not token:
            raise ValueError("name url and token, or set EMAILER_URL and EMAILER_TOKEN")
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "emailerctl-client"}

    def _call(
        self,
        method: str,
        path: str,
        *,
        key: str = "",
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        is_repeatable: bool | None = None,
    ) -> _Call:
        if is_repeatable is None:
            is_repeatable = method == "GET" or bool(key)
        given = {n: v for n, v in (params or {}).items() if v is not None}
        until_s = time.monotonic() + self.patience_s
        return _Call(method, path, is_repeatable, until_s, key, given, json)

    def _sending(
        self, message: Mapping[str, Any] | None, fields: Mapping[str, Any], key: str | None
    ) -> _Call:
        body = {**(message or {}), **{n.removesuffix("_"): v for n, v in fields.items()}}
        given = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", "/v1/messages", json=given, key=key or build_key())

    def _sending_batch(
        self, messages: Sequence[Mapping[str, Any]], *, is_atomic: bool
    ) -> _Call:
        items = [{"idempotency_key": build_key(), **message} for message in messages]
        body = {"messages": items, "atomic": is_atomic}
        return self._call("POST", "/v1/messages/batch", json=body, is_repeatable=True)

    def _acting(self, verb: str, id_: str, fields: Mapping[str, Any]) -> _Call:
        given = {name: value for name, value in fields.items() if value is not None}
        return self._call("POST", f"{_path(id_)}/{verb}", json=given)


def _path(id_: str) -> str:
    return f"/v1/messages/{quote(id_, safe='')}"


def _read_accepted(call: _Call, answer: httpx.Response) -> Accepted:
    data = _read_json(answer, call.key)
    return Accepted(
        id=data["id"],
        state=data["state"],
        key=call.key,
        is_replay=answer.headers.get("Idempotent-Replayed") == "true",
        warnings=tuple(data.get("warnings", ())),
        data=data,
    )


def _read_batch(call: _Call, answer: httpx.Response) -> list[Accepted | Refused]:
    """Return what became of each item, in the order of the request."""
    results: list[Accepted | Refused] = []
    items = call.json["messages"]
    for item, found in zip(items, _read_json(answer, "")["data"], strict=True):
        key, status = item["idempotency_key"], int(found["status"])
        if "id" in found and status < 300:
            is_replay = bool(found.get("idempotent_replayed"))
            warnings = tuple(found.get("warnings", ()))
            state = str(found.get("state", "queued"))
            results.append(Accepted(found["id"], state, key, is_replay, warnings, found))
        else:
            results.append(Refused(found, status, key, None))
    return results


def _judge_wait(
    message: Json, wanted: frozenset[str], until_s: float, looks: int
) -> float | None:
    """Return after how many seconds to look again; None: every recipient is there.

    Raises:
        WaitedInVain: it ended otherwise, or the time is over.
    """
    states = [recipient["state"] for recipient in message["recipients"]]
    if all(state in wanted for state in states):
        return None
    # What is sent may still be delivered, or bounce; nothing else that is final changes.
    settled = FINAL if wanted & {"sent"} else FINAL - {"sent"}
    if any(state in settled - wanted for state in states):
        raise WaitedInVain(message, is_over=True)
    wait_s = min(_FIRST_LOOK_S * 1.5**looks, _LONGEST_LOOK_S)
    if time.monotonic() + wait_s > until_s:
        raise WaitedInVain(message, is_over=False)
    return wait_s


def _read_json(answer: httpx.Response, key: str) -> Json:
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise NoAnswer(f"HTTP {answer.status_code} with a body that is not of this API", key)
    return data


def _read_problem(answer: httpx.Response) -> Json:
    """Return the problem document; empty where somebody else answered, a proxy perhaps."""
    if "problem+json" not in answer.headers.get("Content-Type", ""):
        return {}
    try:
        problem = answer.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _read_retry_after(text: str) -> float | None:
    """Read seconds, or a date (RFC 9110 10.2.3)."""
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


class Client(_Common):
    """Asks and waits.  To be kept and shared: it keeps its connections, and threads may use it.

    Args:
        url: where the API is; else EMAILER_URL.
        token: what it is asked with; else EMAILER_TOKEN.
        patience_s: how long one call may take with all its repetitions.
        options: of `httpx.Client`: `timeout`, `verify`, `trust_env`, …
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        **options: Any,
    ) -> None:
        """Connect at the first call."""
        super().__init__(url, token, patience_s)
        options.setdefault("timeout", TIMEOUT_S)
        self._http = httpx.Client(base_url=self.url, headers=self._headers, **options)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _carry_out(self, call: _Call) -> httpx.Response:
        while True:
            answer: httpx.Response | httpx.RequestError
            try:
                answer = self._http.request(
                    call.method,
                    call.path,
                    params=call.params,
                    json=call.json,
                    headers=call.headers,
                )
            except httpx.RequestError as error:
                answer = error
            wait_s = call.judge(answer)
            if isinstance(answer, httpx.Response) and wait_s is None:
                return answer
            time.sleep(wait_s or 0.0)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Call anything: *params*, *json*, *key*, *is_repeatable*; return a 2xx answer.

        Raises:
            Refused: it was not one.
            NoAnswer: there was none.
        """
        return self._carry_out(self._call(method, path, **more))

    def send(
        self, message: Mapping[str, Any] | None = None, *, key: str | None = None, **fields: Any
    ) -> Accepted:
        """Send one message: the fields of `POST /v1/messages`; `from_` stands for `from`.

        Args:
            message: the fields, or some of them.
            key: the message's idempotency key; one is made unless it is given.
            fields: more of them.

        Raises:
            Refused: with every fault.
            NoAnswer: has the key to go on with.
        """
        call = self._sending(message, fields, key)
        return _read_accepted(call, self._carry_out(call))

    def send_batch(
        self, messages: Sequence[Mapping[str, Any]], *, atomic: bool = False
    ) -> list[Accepted | Refused]:
        """Send up to 1000 messages in one request; return what became of each.

        Each has a key of its own: `idempotency_key`, or one that is made.

        Raises:
            Refused: none was accepted; with *atomic*, one was bad.
            NoAnswer: none came.
        """
        call = self._sending_batch(messages, is_atomic=atomic)
        return _read_batch(call, self._carry_out(call))

    def load(self, id_: str) -> Json:
        """Return a message with its recipients and attempts."""
        return _read_json(self.request("GET", _path(id_)), "")

    def search(self, **filters: Any) -> Iterator[Json]:
        """Yield messages, newest first: `state`, `to`, `tag`, `since`, …; `from_`."""
        asked = {name.removesuffix("_"): value for name, value in filters.items()}
        while True:
            page = _read_json(self.request("GET", "/v1/messages", params=asked), "")
            yield from page["data"]
            if not page["next_cursor"]:
                return
            asked["cursor"] = page["next_cursor"]

    def act(self, verb: str, id_: str, **fields: Any) -> Json:
        """Give an operator's order: cancel, hold, release, retry, resolve.

        Repeated by itself only where it was certainly not carried out.
        """
        return _read_json(self._carry_out(self._acting(verb, id_, fields)), "")

    def wait(
        self, id_: str, *, states: Collection[str] = REACHED, timeout_s: float = 60.0
    ) -> Json:
        """Return the message once every recipient is in one of *states*.

        Raises:
            WaitedInVain: it ended otherwise, or the time is over.
        """
        until_s, looks = time.monotonic() + timeout_s, 0
        while True:
            message = self.load(id_)
            wait_s = _judge_wait(message, frozenset(states), until_s, looks)
            if wait_s is None:
                return message
            time.sleep(wait_s)
            looks += 1


class AsyncClient(_Common):
    """The same as `Client`, for asyncio."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        **options: Any,
    ) -> None:
        """Connect at the first call."""
        super().__init__(url, token, patience_s)
        options.setdefault("timeout", TIMEOUT_S)
        self._http = httpx.AsyncClient(base_url=self.url, headers=self._headers, **options)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _carry_out(self, call: _Call) -> httpx.Response:
        while True:
            answer: httpx.Response | httpx.RequestError
            try:
                answer = await self._http.request(
                    call.method,
                    call.path,
                    params=call.params,
                    json=call.json,
                    headers=call.headers,
                )
            except httpx.RequestError as error:
                answer = error
            wait_s = call.judge(answer)
            if isinstance(answer, httpx.Response) and wait_s is None:
                return answer
            await asyncio.sleep(wait_s or 0.0)

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """See `Client.request`."""
        return await self._carry_out(self._call(method, path, **more))

    async def send(
        self, message: Mapping[str, Any] | None = None, *, key: str | None = None, **fields: Any
    ) -> Accepted:
        """See `Client.send`."""
        call = self._sending(message, fields, key)
        return _read_accepted(call, await self._carry_out(call))

    async def send_batch(
        self, messages: Sequence[Mapping[str, Any]], *, atomic: bool = False
    ) -> list[Accepted | Refused]:
        """See `Client.send_batch`."""
        call = self._sending_batch(messages, is_atomic=atomic)
        return _read_batch(call, await self._carry_out(call))

    async def load(self, id_: str) -> Json:
        """See `Client.load`."""
        return _read_json(await self.request("GET", _path(id_)), "")

    async def search(self, **filters: Any) -> AsyncIterator[Json]:
        """See `Client.search`."""
        asked = {name.removesuffix("_"): value for name, value in filters.items()}
        while True:
            page = _read_json(await self.request("GET", "/v1/messages", params=asked), "")
            for message in page["data"]:
                yield message
            if not page["next_cursor"]:
                return
            asked["cursor"] = page["next_cursor"]

    async def act(self, verb: str, id_: str, **fields: Any) -> Json:
        """See `Client.act`."""
        return _read_json(await self._carry_out(self._acting(verb, id_, fields)), "")

    async def wait(
        self, id_: str, *, states: Collection[str] = REACHED, timeout_s: float = 60.0
    ) -> Json:
        """See `Client.wait`."""
        until_s, looks = time.monotonic() + timeout_s, 0
        while True:
            message = await self.load(id_)
            wait_s = _judge_wait(message, frozenset(states), until_s, looks)
            if wait_s is None:
                return message
            await asyncio.sleep(wait_s)
            looks += 1
