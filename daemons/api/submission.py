"""Submission by SMTP (RFC 6409), for programs that can't speak HTTP: a token is the password.

The rules and the promise are those of `POST /v1/messages`: 250 leaves after the commit, and a
refusal is the one that a request would get.  No password is taken in clear (RFC 8314).
"""

import asyncio
import base64
import binascii
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, auth_mechanism

from emailerctl.core.foreign_mail import read_foreign_mail
from emailerctl.errors import (
    ConfigurationError,
    EmailerError,
    Forbidden,
    Invalid,
    RecipientRate,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from emailerctl.models.caller import Caller, Scope
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.text import shorten
from emailerctl.settings.model import SubmissionSettings
from emailerctl.wiring import App

_log = logging.getLogger(__name__)
# It writes whole mails at level debug (T-18).
logging.getLogger("mail.log").setLevel(logging.WARNING)

_MOST_RECIPIENTS = 50
_FAULTS = 3  # that one reply names
_REPLY_CHARACTERS = 400
_BUG = "451 4.3.0 this is a bug of ours; the log has it"

# By class, the nearest first.
_REPLIES: Sequence[tuple[type[EmailerError], str]] = (
    (Unauthorized, "535 5.7.8"),
    (Forbidden, "550 5.7.1"),
    (RecipientRate, "450 4.7.1"),
    (TooManyRequests, "450 4.7.0"),
    (Unavailable, "451 4.3.0"),
)
_REFUSED = "554 5.6.0"


class Desk:
    """What answers one connection: aiosmtpd calls its methods by their names."""

    def __init__(self, app: App) -> None:
        """Take what accepts messages."""
        self._app = app
        self._caller: Caller | None = None

    @auth_mechanism("PLAIN")
    async def auth_PLAIN(self, server: Any, args: Sequence[str]) -> AuthResult:  # noqa: N802
        """Take user and password in one (RFC 4616)."""
        blob = await _read_blob(server, args, "")
        parts = blob.split(b"\0") if blob is not None else []
        return await self._admit(parts[2] if len(parts) == 3 else None, server)

    @auth_mechanism("LOGIN")
    async def auth_LOGIN(self, server: Any, args: Sequence[str]) -> AuthResult:  # noqa: N802
        """Take user and password one after the other."""
        if await _read_blob(server, args, "User Name\0") is None:
            return AuthResult(success=False)
        return await self._admit(await _read_blob(server, (), "Password\0"), server)

    async def _admit(self, password: bytes | None, server: Any) -> AuthResult:
        """Find out whose token the password is; the user may be anything."""
        if password is None:
            return AuthResult(success=False)
        try:
            caller = await self._app.tokens.authenticate(
                password.decode(), remote=str(server.session.peer[0])
            )
            if Scope.SEND not in caller.scopes:
                raise Forbidden(f"this token lacks the scope {Scope.SEND}")
        except UnicodeDecodeError:
            return AuthResult(success=False)
        except EmailerError as error:
            return AuthResult(success=False, handled=False, message=_build_reply(error))
        self._caller = caller
        return AuthResult(success=True, auth_data=caller.name)

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, options: Sequence[str]
    ) -> str:
        """Take a recipient; what is wrong with the address is said after the content."""
        if options:
            return "555 5.5.4 parameters of RCPT are not taken"
        if len(envelope.rcpt_tos) >= _MOST_RECIPIENTS:
            return f"452 4.5.3 at most {_MOST_RECIPIENTS} recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Accept a message: 250 once it is committed."""
        if self._caller is None:
            return "530 5.7.0 authentication required"
        try:
            # Revoked, expired or over its rate since the connection began?
            if not await self._app.tokens.is_still_good(self._caller):
                raise Unauthorized("the token was revoked")
            fields, key = await asyncio.to_thread(
                read_foreign_mail,
                envelope.content,
                sender=envelope.mail_from or "",
                recipients=envelope.rcpt_tos,
            )
            receipt = await self._app.acceptance.accept(fields, caller=self._caller, key=key)
        except EmailerError as error:
            return _build_reply(error)
        public = to_public(MESSAGE, receipt.message_id)
        return f"250 2.0.0 {receipt.state} as {public}"

    async def handle_exception(self, error: Exception) -> str:
        """Say that it was our fault: what is not known to be stored is tried again."""
        _log.error("a submission by SMTP failed", exc_info=error)
        return _BUG


async def _read_blob(server: Any, args: Sequence[str], challenge: str) -> bytes | None:
    if len(args) > 1:
        try:
            return base64.b64decode(args[1], validate=True)
        except (binascii.Error, ValueError):
            return None
    answer = await server.challenge_auth(challenge)
    return None if answer is MISSING else bytes(answer)


def _build_reply(error: EmailerError) -> str:
    """Return an error as one line of SMTP: code, and the sentence made safe."""
    code = next((reply for kind, reply in _REPLIES if isinstance(error, kind)), _REFUSED)
    said = error.detail
    if isinstance(error, Invalid):
        faults = error.faults[:_FAULTS]
        said = "; ".join(f"{f.pointer.strip('/') or 'mail'}: {f.detail}" for f in faults)
    plain = "".join(c if c.isprintable() and c.isascii() else "?" for c in said)
    return f"{code} {plain[:_REPLY_CHARACTERS]}"


class Connection(SMTP):
    """One client."""

    def __init__(self, submission: "Submission", **options: Any) -> None:
        """Take whom to tell when it comes and goes."""
        super().__init__(Desk(submission.app), **options)
        self._submission = submission

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse where there are too many."""
        live = self._submission.live
        if len(live) >= self._submission.settings.connections:
            if isinstance(transport, asyncio.Transport):
                transport.write(b"421 4.3.2 too many connections\r\n")
            transport.close()
            return
        live.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        if self in self._submission.live:
            self._submission.live.discard(self)
            super().connection_lost(error)


class Submission:
    """The SMTP server beside the API.

    Attributes:
        live: the connections there are.
    """

    def __init__(self, app: App, sockets: Sequence[socket.socket]) -> None:
        """Take bound sockets; nothing is served yet.

        Raises:
            ConfigurationError: certificate or key can't be used.
        """
        self.app = app
        self.settings = app.settings.smtp
        self.live: set[Connection] = set()
        self._sockets = sockets
        self._context = build_context(app.settings.smtp)
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            self._servers.append(await loop.create_server(self._build, sock=one))

    def _build(self) -> Connection:
        settings = self.settings
        return Connection(
            self,
            data_size_limit=self.app.settings.api.body_limit_bytes,
            enable_SMTPUTF8=True,
            hostname=settings.hostname or socket.gethostname(),
            ident="emailerctl",
            tls_context=self._context,
            require_starttls=True,
            auth_required=True,
            auth_require_tls=True,
            timeout=settings.timeout.total_seconds(),
            loop=asyncio.get_running_loop(),
        )

    async def stop(self) -> None:
        """Take no more connections, and end those there are: what was accepted was answered."""
        for server in self._servers:
            server.close()
        for one in list(self.live):
            if one.transport is not None:
                one.transport.close()


@asynccontextmanager
async def serve_mail(app: App, doors: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Take mail on bound sockets until the end of the block.

    Raises:
        ConfigurationError: certificate or key can't be used.
    """
    submission = Submission(app, doors)
    await submission.start()
    try:
        yield
    finally:
        await submission.stop()


def build_context(settings: SubmissionSettings) -> ssl.SSLContext:
    """Return what encrypts: TLS 1.2 at least (T-16).

    Raises:
        ConfigurationError: certificate or key can't be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(
            Path(settings.certificate), Path(settings.key) if settings.key else None
        )
    except OSError as error:
        raise ConfigurationError(
            f"[smtp] certificate {shorten(settings.certificate)} can't be used: {error}",
            hint="name a PEM file with the chain, and in key its private key",
        ) from error
    return context
