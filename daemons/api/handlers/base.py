"""What every handler shares: authentication, scopes, bodies, answers, errors, request ids."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from tornado import httputil
from tornado.web import HTTPError, RequestHandler

from emailerctl.core.strictjson import load_object
from emailerctl.errors import (
    BadRequest,
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

_STATUS_LINES = {
    status: f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: emailerctl\r\n"
    f"Content-Type: {_JSON}\r\n"
    for status in HTTPStatus
}

_id_prefix = secrets.token_hex(4)
_id_numbers = itertools.count(1)

READERS = frozenset({Scope.READ, Scope.READ_ALL})
SENDERS = frozenset({Scope.SEND})
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


class Handler(RequestHandler):
    """One path: its methods, and which scopes each asks for.

    Attributes:
        scopes: by method, any one of them suffices; a method without needs no token.
    """

    scopes: ClassVar[Mapping[str, frozenset[Scope]]] = {}
    methods: ClassVar[tuple[str, ...]] = ()
    application: "Api"
    caller: Caller

    def __init_subclass__(cls) -> None:
        """Note which methods there are; what can be got can be asked about (RFC 9110 9.3.2)."""
        super().__init_subclass__()
        if "get" in vars(cls) and "head" not in vars(cls):
            cls.head = cls.get
        cls.methods = tuple(
            method
            for method in cls.SUPPORTED_METHODS
            if getattr(cls, method.lower()) is not getattr(RequestHandler, method.lower())
        )

    def initialize(self, exchange: "Exchange", arguments: tuple[str, ...]) -> None:
        """Take the request's exchange and what the path says."""
        self._exchange = exchange
        self._identity: Caller | EmailerError | None = None
        self._arguments = arguments
        self._transforms = []  # a refusal may come before Tornado sets them
        self.request_id = _choose_request_id(self.request.headers.get("X-Request-Id"))

    @property
    def app(self) -> App:
        """Return everything that the daemon has."""
        return self.application.app

    def start(self) -> None:
        """Run: the body is here."""
        arguments: Any = self._arguments  # text already, which Tornado takes as well
        task = asyncio.ensure_future(self._execute([], *arguments))
        self.application.running.add(task)
        task.add_done_callback(self.application.running.discard)

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

    def parse_object(self, *, is_optional: bool = False) -> dict[str, object]:
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
        return load_object(self.request.body)

    # after

    def clear(self) -> None:
        """Begin the answer anew."""
        self._headers = httputil.HTTPHeaders()
        self._write_buffer = []
        self._status_code = 200
        self._reason = "OK"

    def reply(self, body: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Answer with *body* as JSON; headers set before go along."""
        encoded = _encode(body)
        self._status_code = status.value
        request = self.request
        connection = request.headers.get("Connection")
        if (
            request.method != "HEAD"
            and request.version == "HTTP/1.1"
            and (connection is None or connection.lower() == "keep-alive")
        ):
            self._send(status, encoded)
            return
        self._reason = status.phrase
        self._set_headers({"Content-Type": _JSON, "Content-Length": str(len(encoded))})
        self._write_buffer.append(encoded)
        self.finish()

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        """Write an answer in one piece: what `finish` does, at a third of its cost.

        Nothing in it but what is ours or was checked: no header can be injected.
        """
        more = "".join([f"{name}: {value}\r\n" for name, value in self._headers.get_all()])
        head = (
            f"{_STATUS_LINES[status]}Date: {_date()}\r\nX-Request-Id: {self.request_id}\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n"
        )
        connection: Any = self.request.connection
        connection.set_close_callback(None)
        connection.write(head.encode("latin1") + body)
        connection.finish()
        self._headers_written = self._finished = True
        self.on_finish()

    def reply_empty(self) -> None:
        """Answer that it is done, without a body."""
        self._status_code, self._reason = HTTPStatus.NO_CONTENT.value, "No Content"
        self._set_headers({})
        self.finish()

    def _set_headers(self, headers: Mapping[str, str]) -> None:
        self._headers["Server"] = "emailerctl"
        self._headers["Date"] = _date()
        self._headers["X-Request-Id"] = self.request_id
        for name, value in headers.items():
            self._headers[name] = value

    def compute_etag(self) -> None:
        """Have none: what is asked for changes all the time."""

    def on_finish(self) -> None:
        """Give the body's room back."""
        self._exchange.release()

    def refuse(self, error: EmailerError, *, is_last: bool) -> None:
        """Answer before the body is read; without *is_last* the rest of it is still coming."""
        self._write_problem(error)
        if is_last:
            self.finish()
        else:
            self.flush()

    # errors

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the problem document of whatever went wrong."""
        raised = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(raised, EmailerError):
            raised = _ERRORS.get(status_code, EmailerError)(
                _SENTENCES.get(status_code, "this is a bug of ours; the log has the request id")
            )
        self._write_problem(raised)
        self.finish()

    def _write_problem(self, error: EmailerError) -> None:
        """Write an RFC 9457 document: the one place where an error meets HTTP."""
        status = error.status
        self._status_code, self._reason = status.value, status.phrase
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
        encoded = _encode(problem | dict(error.members))
        self._set_headers({"Content-Type": _PROBLEM, "Content-Length": str(len(encoded))})
        if error.retry_after_s is not None or status is HTTPStatus.SERVICE_UNAVAILABLE:
            self._headers["Retry-After"] = str(error.retry_after_s or _RETRY_AFTER_S)
        if isinstance(error, MethodNotAllowed):
            self._headers["Allow"] = ", ".join(self.methods)
        if isinstance(error, Unauthorized):
            self._headers["WWW-Authenticate"] = 'Bearer realm="emailerctl"'
        if isinstance(error, OutcomeUnknown) and "id" in error.members:
            self._headers["Location"] = f"/v1/messages/{error.members['id']}"
        self._write_buffer = [encoded]

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what nobody raised on purpose: a bug."""
        if not isinstance(value, EmailerError | HTTPError):
            _log.error(
                "request %s to %s failed",
                self.request_id,
                type(self).__name__,
                exc_info=(typ, value, tb),
            )

    def _log(self) -> None:
        """Write no line for a request: the message log has what happened."""


class Unknown(Handler):
    """Every path that is not there."""

    async def prepare(self) -> None:
        """Refuse."""
        raise NotFound(f"there is nothing at {shorten(self.request.path)}")


_ERRORS: Mapping[int, type[EmailerError]] = {
    400: BadRequest,
    404: NotFound,
    405: MethodNotAllowed,
}
_SENTENCES: Mapping[int, str] = {
    400: "the request is not well formed",
    404: "there is nothing here",
    405: "this method is not possible here",
}


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
