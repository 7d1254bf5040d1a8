"""What every handler shares: authentication, scopes, bodies, answers, errors, request ids.

Tornado's `RequestHandler` is not among it: for each request it prepares cookies, arguments,
transforms and ETags that nothing here uses, at a third of what Tornado costs (ADR 0012).
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Mapping
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from tornado import httputil

from daemons.api.openapi import Operation
from emailerctl.core.strictjson import MAX_VALUES, load_object
from emailerctl.errors import (
    EmailerError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    Unauthorized,
    UnsupportedMediaType,
)
from emailerctl.models.caller import Caller, Scope
from emailerctl.models.text import shorten
from emailerctl.wiring import App

if TYPE_CHECKING:
    from daemons.api.app import Api
    from daemons.api.exchange import Exchange

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder(enc_hook=str).encode

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_RETRY_AFTER_S = 5  # where an error says "later" and not when
_ID_CHARACTERS = 128

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")

_id_prefix = secrets.token_hex(4)
_id_numbers = itertools.count(1)

READERS = frozenset({Scope.READ, Scope.READ_ALL})
SENDERS = frozenset({Scope.SEND})
CONTENT_READERS = frozenset({Scope.CONTENT})
OPERATORS = frozenset({Scope.OPERATE})
ADMINS = frozenset({Scope.ADMIN})


class _Date:
    """The Date header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, httputil.format_timestamp(second)
        return self._text


_date = _Date()


class Handler:
    """One path: its methods, and which scopes each asks for.

    A method is a coroutine of its name in lower case; it gets what the path says.

    Attributes:
        scopes: by method, any one of them suffices; a method without needs no token.
        body_limit: bytes; None: the setting's.
        challenge: how to authenticate, for a 401.
        operations: by method, what it takes and answers (openapi.py).
    """

    scopes: ClassVar[Mapping[str, frozenset[Scope]]] = {}
    body_limit: ClassVar[int | None] = None
    challenge: ClassVar[str] = 'Bearer realm="emailerctl"'
    methods: ClassVar[tuple[str, ...]] = ()
    operations: ClassVar[Mapping[str, Operation]] = {}
    caller: Caller

    def __init_subclass__(cls) -> None:
        """Note which methods there are; what can be got can be asked about (RFC 9110 9.3.2)."""
        super().__init_subclass__()
        if "get" in vars(cls) and "head" not in vars(cls):
            cls.head = cls.get  # type: ignore[attr-defined]
        cls.methods = tuple(
            method for method in _METHODS if getattr(cls, method.lower(), None) is not None
        )

    def __init__(
        self,
        api: "Api",
        request: httputil.HTTPServerRequest,
        exchange: "Exchange",
        arguments: tuple[str, ...],
    ) -> None:
        """Take the request, its exchange, and what the path says."""
        self.application = api
        self.app: App = api.app
        self.request = request
        self.request_id = _choose_request_id(request.headers.get("X-Request-Id"))
        self._exchange = exchange
        self._arguments = arguments
        self._identity: Caller | EmailerError | None = None
        self._headers = self.build_headers()  # of the answer, beside those that all have
        self._is_begun = self._is_finished = False

    @property
    def connection(self) -> Any:
        """Return Tornado's side of the connection."""
        return self.request.connection

    def start(self) -> None:
        """Run: the body is here."""
        self._task = asyncio.ensure_future(self._run())
        self.application.running.add(self._task)

    async def _run(self) -> None:
        """Let the method answer, or say what went wrong."""
        try:
            await self.prepare()
            await getattr(self, (self.request.method or "").lower())(*self._arguments)
        except EmailerError as error:
            self._fail(error)
        except BaseException as error:
            if not self._task.cancelling():
                _log.error(
                    "request %s to %s failed",
                    self.request_id,
                    type(self).__name__,
                    exc_info=error,
                )
            self._fail(EmailerError("this is a bug of ours; the log has the request id"))
            if not isinstance(error, Exception):  # cancelled, in a stop that takes too long
                raise
        finally:
            self.application.running.discard(self._task)
            if not self._is_finished:
                self.finish()

    # before

    async def prepare(self) -> None:
        """Let only those in who may come in."""
        method = self.request.method or ""
        if method not in self.methods:
            raise MethodNotAllowed(
                f"{shorten(method)} is not possible here; {', '.join(self.methods)} are"
            )
        if self._identity is None:
            await self.is_admitted()
        if isinstance(self._identity, EmailerError):
            raise self._identity

    async def is_admitted(self) -> bool:
        """Find out who asks and whether they may; also called before a long body is read."""
        needed = self.scopes.get(
            "GET" if self.request.method == "HEAD" else self.request.method or ""
        )
        if needed is None:
            return True
        try:
            self.caller = self._identity = await self.app.tokens.authenticate(
                self._find_token(), remote=self.request.remote_ip or ""
            )
            if needed.isdisjoint(self.caller.scopes):
                raise Forbidden(f"this token lacks the scope {' or '.join(sorted(needed))}")
        except EmailerError as error:
            self._identity = error
        return not isinstance(self._identity, EmailerError)

    def _find_token(self) -> str:
        header = self.request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def parse_object(
        self, *, is_optional: bool = False, most_values: int = MAX_VALUES
    ) -> dict[str, object]:
        """Return the JSON object that the body is.

        Raises:
            UnsupportedMediaType: it is not declared as JSON in UTF-8, or is compressed.
            MalformedJson: it is not one.
        """
        if is_optional and not self.request.body:
            return {}
        headers = self.request.headers
        declared = headers.get("Content-Type", "")
        if declared != _JSON and not _is_json(declared):
            raise UnsupportedMediaType(f"the body is declared as {shorten(declared)}")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("the body is compressed", hint="send it as it is")
        return load_object(self.request.body, most_values=most_values)

    # after

    def reply(self, body: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Answer with *body* as JSON; headers set before go along."""
        self._write(status, _JSON, _encode(body))
        self.finish()

    def reply_bytes(self, body: bytes, content_type: str) -> None:
        """Answer with *body* as it is."""
        self._write(HTTPStatus.OK, content_type, body)
        self.finish()

    def reply_empty(self) -> None:
        """Answer that it is done, without a body."""
        self._write_headers(HTTPStatus.NO_CONTENT, {}, b"")
        self.finish()

    def _write(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        """Write an answer, mostly in one piece, at a third of what `write_headers` costs.

        Nothing in it but what is ours or was checked: no header can be injected.
        """
        request = self.request
        asked = request.headers.get("Connection")
        if (
            request.method == "HEAD"
            or request.version != "HTTP/1.1"
            or (asked is not None and asked.lower() != "keep-alive")
        ):
            described = {"Content-Type": content_type, "Content-Length": str(len(body))}
            self._write_headers(status, described, b"" if request.method == "HEAD" else body)
            return
        self._is_begun = True
        more = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items()])
        head = (
            f"{_build_start(status, content_type)}Date: {_date()}\r\n"
            f"X-Request-Id: {self.request_id}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        )
        self.connection.write(head.encode("latin1") + body)

    def _write_headers(
        self, status: HTTPStatus, more: Mapping[str, str], chunk: bytes
    ) -> Awaitable[None]:
        """Let Tornado write the head: it knows about old versions, ends and chunks."""
        self._is_begun = True
        headers = httputil.HTTPHeaders(
            {
                "Server": "emailerctl",
                "Date": _date(),
                "X-Request-Id": self.request_id,
                **self._headers,
                **more,
            }
        )
        line = httputil.ResponseStartLine("HTTP/1.1", status.value, status.phrase)
        written: Awaitable[None] = self.connection.write_headers(line, headers, chunk)
        return written

    def finish(self) -> None:
        """Give the body's room back, and end the answer."""
        self._is_finished = True
        self._exchange.release()
        self.connection.finish()

    def refuse(self, error: EmailerError, *, is_last: bool) -> None:
        """Answer before the body is read; without *is_last* the rest of it is still coming."""
        self._write_problem(error)
        if is_last:
            self.finish()

    # errors

    def _fail(self, error: EmailerError) -> None:
        """Answer with a problem, unless the answer has begun and can only end."""
        if not self._is_begun:
            self._headers = self.build_headers()
            self._write_problem(error)
            self.finish()

    def build_headers(self) -> dict[str, str]:
        """Return what every answer of this path has, errors included."""
        return {}

    def _write_problem(self, error: EmailerError) -> None:
        """Write an RFC 9457 document: the one place where an error meets HTTP."""
        status, headers = error.status, self._headers
        problem: dict[str, object] = {
            "type": f"urn:emailerctl:problem:{error.code}",
            "title": error.title,
            "status": status.value,
            "detail": error.detail,
            "code": error.code,
            "request_id": self.request_id,
        }
        if error.cure:
            problem["hint"] = error.cure
        if error.retry_after_s is not None or status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(error.retry_after_s or _RETRY_AFTER_S)
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(self.methods)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = self.challenge
        if isinstance(error, OutcomeUnknown) and "id" in error.members:
            headers["Location"] = f"/v1/messages/{error.members['id']}"
        self._write(status, _PROBLEM, _encode(problem | dict(error.members)))


class Unknown(Handler):
    """Every path that is not there."""

    async def prepare(self) -> None:
        """Refuse."""
        raise NotFound(f"there is nothing at {shorten(self.request.path)}")


@cache
def _build_start(status: HTTPStatus, content_type: str) -> str:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: emailerctl\r\n"
        f"Content-Type: {content_type}\r\n"
    )


def _choose_request_id(sent: str | None) -> str:
    """Return what the client calls its request, if that may be echoed; else a name of ours."""
    if sent and len(sent) <= _ID_CHARACTERS and sent.isascii() and sent.isprintable():
        return sent
    return f"{_id_prefix}-{next(_id_numbers)}"


def _is_json(content_type: str) -> bool:
    """Tell whether a Content-Type means JSON; the charset can only be UTF-8 (RFC 8259 8.1)."""
    essence, _, parameters = content_type.partition(";")
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2]
    return essence.strip().lower() == _JSON and charset.partition(";")[0] in (
        "",
        "utf-8",
        "utf8",
    )
