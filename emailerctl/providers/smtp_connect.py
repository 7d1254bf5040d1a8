"""Open an SMTP connection: TCP, banner, EHLO, TLS, AUTH, by aiosmtplib; then it is ours.

aiosmtplib drops what comes unasked (a 421 right after AUTH): the loss then shows at MAIL.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import aiosmtplib
from aiosmtplib.typing import SMTPStatus

from emailerctl.providers.smtp_reply import Answer, Fault, Lack, Reply, Stage, Verdict, clean
from emailerctl.providers.smtp_session import Session

# The kernel goes on sending after a SIGKILL: not for longer than this (delivery.md §2).
_TCP_USER_TIMEOUT_MS = 60_000
_MASK = "********"


class Tls(StrEnum):
    """How a connection is protected."""

    STARTTLS = "starttls"  # required, verified
    IMPLICIT = "implicit"  # from the first byte, verified
    OPPORTUNISTIC = "opportunistic"  # where offered, not verified (RFC 7435)
    NONE = "none"


class Auth(StrEnum):
    """How the user is proved."""

    AUTO = "auto"
    PLAIN = "plain"
    LOGIN = "login"
    CRAM_MD5 = "cram-md5"
    XOAUTH2 = "xoauth2"  # the password is an access token


# What `auto` takes: the first one offered.  In clear (loopback only) the secret is not said.
_PREFERRED = (Auth.PLAIN, Auth.LOGIN, Auth.CRAM_MD5)
_PREFERRED_IN_CLEAR = (Auth.CRAM_MD5, Auth.PLAIN, Auth.LOGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where to connect, and how.

    Attributes:
        context: shared by all connections; None without TLS.
        connect: seconds for TCP, for each address that the name has.
        greeting: seconds for the banner, and for each reply after it.
    """

    host: str
    port: int
    tls: Tls
    context: ssl.SSLContext | None
    auth: Auth
    username: str
    password: str
    local_hostname: str
    connect: float
    greeting: float


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that worked while opening."""

    stage: Stage
    detail: str


class NotOpened(Exception):
    """The connection could not be opened.

    Attributes:
        verdict: what went wrong, at which stage.
        dialogue: what was said until then.
        steps: what had worked.
    """

    def __init__(
        self, verdict: Verdict, dialogue: Sequence[str] = (), steps: Sequence[Step] = ()
    ) -> None:
        super().__init__(str(verdict.answer))
        self.verdict = verdict
        self.dialogue = dialogue
        self.steps = steps


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, and what worked on the way."""

    session: Session
    steps: Sequence[Step]


async def open_session(door: Door, seconds: float) -> Opened:
    """Connect within *seconds*.

    Opportunistic TLS that fails is tried again in clear, on a connection of its own: there is
    no username then, the settings see to that.

    Raises:
        NotOpened: with the verdict.
    """
    end = asyncio.get_running_loop().time() + seconds
    opening = _Opening(door)
    try:
        return await opening.run(seconds, use_tls=door.tls is not Tls.NONE)
    except NotOpened as error:
        if door.tls is not Tls.OPPORTUNISTIC or error.verdict.stage is not Stage.TLS:
            raise
        again = _Opening(door)
        again.lines += [*error.dialogue, "= again without TLS, which is opportunistic here"]
        return await again.run(end - asyncio.get_running_loop().time(), use_tls=False)


class _Opening:
    """The steps, top to bottom."""

    def __init__(self, door: Door) -> None:
        self.lines: list[str] = []
        self._door = door
        self._stage = Stage.CONNECT
        self._steps: list[Step] = []
        self._client: aiosmtplib.SMTP | None = None

    async def run(self, seconds: float, *, use_tls: bool) -> Opened:
        try:
            async with asyncio.timeout(seconds):
                return await self._run(use_tls=use_tls)
        except (
            aiosmtplib.SMTPException,
            OSError,
            ValueError,
        ) as error:  # TimeoutError is an OSError
            self._close()
            raise self._build_failure(error, seconds) from error
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _run(self, *, use_tls: bool) -> Opened:
        door = self._door
        client = self._client = await self._connect()
        await self._greet(client)
        if use_tls and door.tls is not Tls.IMPLICIT:
            await self._start_tls(client)
        elif use_tls:
            self._note_tls(client)
        if door.username:
            await self._authenticate(client)
        protocol, transport = client.protocol, client.transport
        if protocol is None or transport is None:
            raise aiosmtplib.SMTPServerDisconnected("the connection was closed")
        # No await from here to the end of `Session.__init__`: nothing may come in between.
        session = Session(
            cast("asyncio.Transport", transport),
            buffered=bytes(protocol._buffer),  # noqa: SLF001  (what came with the last reply)
            extensions=dict(client.esmtp_extensions),
            opening=self.lines,
        )
        return Opened(session, self._steps)

    # TCP and the banner

    async def _connect(self) -> aiosmtplib.SMTP:
        door = self._door
        sock = await self._open_socket()
        client = aiosmtplib.SMTP(
            hostname=door.host,
            sock=sock,
            local_hostname=door.local_hostname,
            timeout=door.greeting,
            use_tls=door.tls is Tls.IMPLICIT,
            start_tls=False,
            tls_context=door.context,
        )
        try:
            banner = await client.connect()
        except BaseException:
            sock.close()
            raise
        self._reply(banner)
        self._steps.append(
            Step(Stage.CONNECT, f"{door.host}:{door.port}, {self._said(banner)}")
        )
        return client

    async def _open_socket(self) -> socket.socket:
        """Connect to the first address of the name that answers."""
        door = self._door
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError(f"{door.host} has no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)  # noqa: FBT003  (the standard library's own)
                sock.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS
                )
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(door.connect):
                    await loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                self.lines.append(f"= connected to {sock.getpeername()[0]} port {door.port}")
                return sock
        raise failure

    # EHLO

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        """Say EHLO, or HELO to a server that does not know it (RFC 5321 §3.2)."""
        self._stage = Stage.EHLO
        self.lines.append(f"> EHLO {self._door.local_hostname}")
        try:
            reply = await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code // 100 != 5 or not client.is_connected:
                raise
            self._reply(aiosmtplib.SMTPResponse(error.code, error.message))
            self.lines.append(f"> HELO {self._door.local_hostname}")
            reply = await client.helo()
        self._reply(reply)
        self._steps.append(Step(Stage.EHLO, self._said(reply)))

    # TLS

    async def _start_tls(self, client: aiosmtplib.SMTP) -> None:
        if not client.supports_extension("starttls"):
            if self._door.tls is Tls.OPPORTUNISTIC:
                self.lines.append("= STARTTLS is not offered: in clear")
                return
            self._stage = Stage.TLS
            raise _Refused(Fault(Lack.NOT_OFFERED, "the next hop does not offer STARTTLS"))
        self._stage = Stage.TLS
        self.lines.append("> STARTTLS")
        self._reply(await client.starttls(server_hostname=self._door.host))
        self._note_tls(client)
        await self._greet(client)

    def _note_tls(self, client: aiosmtplib.SMTP) -> None:
        tls = client.get_transport_info("ssl_object")
        name, bits = tls.cipher()[0], tls.cipher()[2]
        is_verified = self._door.context and self._door.context.verify_mode is ssl.CERT_REQUIRED
        detail = f"{tls.version()} {name} {bits} bits, {'' if is_verified else 'not '}verified"
        self.lines.append(f"= {detail}")
        self._steps.append(Step(Stage.TLS, detail))

    # AUTH

    async def _authenticate(self, client: aiosmtplib.SMTP) -> None:
        self._stage = Stage.AUTH
        method = self._choose(client)
        self.lines.append(f"> AUTH {method.upper()} {_MASK}")
        door = self._door
        if method is Auth.PLAIN:
            reply = await client.auth_plain(door.username, door.password)
        elif method is Auth.LOGIN:
            reply = await client.auth_login(door.username, door.password)
        elif method is Auth.CRAM_MD5:
            reply = await client.auth_crammd5(door.username, door.password)
        else:
            reply = await client.auth_xoauth2(door.username, door.password)
        self._reply(reply)
        self._steps.append(Step(Stage.AUTH, f"{method.upper()} as {door.username}"))

    def _choose(self, client: aiosmtplib.SMTP) -> Auth:
        """Return the one mechanism to try: several tries lock accounts."""
        offered = client.server_auth_methods
        is_tls = client.get_transport_info("sslcontext") is not None
        wanted: tuple[Auth, ...] = (self._door.auth,)
        if self._door.auth is Auth.AUTO:
            wanted = _PREFERRED if is_tls else _PREFERRED_IN_CLEAR
        for method in wanted:
            if method in offered:
                return method
        names = " or ".join(method.upper() for method in wanted)
        has = clean(" ".join(offered).upper()) or "no AUTH at all"
        raise _Refused(Fault(Lack.NOT_OFFERED, f"the next hop offers {has}, not {names}"))

    # what was said

    def _said(self, response: aiosmtplib.SMTPResponse) -> str:
        return str(_build_reply(response.code, response.message))

    def _reply(self, response: aiosmtplib.SMTPResponse) -> None:
        self.lines.append(f"< {self._said(response)}")

    def _build_failure(self, error: Exception, seconds: float) -> NotOpened:
        answer = _read_error(error, seconds)
        stage = self._stage
        if isinstance(answer, Fault) and answer.lack is Lack.TLS:
            stage = Stage.TLS  # implicit TLS fails while connecting
        self.lines.append(f"< {answer}" if isinstance(answer, Reply) else f"= {answer}")
        return NotOpened(Verdict(stage, answer), self.lines, self._steps)


class _Refused(ValueError):
    """We do not go on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def _build_reply(code: int, text: str) -> Reply:
    return Reply(code, clean(" ".join(text.split())))


def _read_error(error: BaseException, seconds: float) -> Answer:
    """Turn what aiosmtplib or the system raised into an answer."""
    if isinstance(error, _Refused):
        return error.fault
    if isinstance(error, aiosmtplib.SMTPResponseException):
        if error.code != SMTPStatus.invalid_response:
            return _build_reply(error.code, error.message)
        return Fault(Lack.GARBLED, clean(error.message))
    tls = error if isinstance(error, ssl.SSLError) else error.__cause__
    if isinstance(tls, ssl.SSLError):
        return Fault(
            Lack.TLS, clean(f"TLS failed: {getattr(tls, 'verify_message', '') or tls}")
        )
    lack = Lack.UNREACHABLE
    if isinstance(error, TimeoutError):
        lack = Lack.SILENT
    elif isinstance(error, aiosmtplib.SMTPException):
        lack = Lack.LOST
    said = str(error)
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        said = f"can't connect: {os.strerror(error.errno)}"
    elif isinstance(error, socket.gaierror):
        said = f"can't find the host: {error.strerror}"
    return Fault(lack, clean(said) or f"not connected within {seconds:.3g} s")
