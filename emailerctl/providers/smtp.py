"""Any SMTP host: a relay, a provider's submission port, the sandbox inbox.

RFC 5321 (SMTP), 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8),
3207 (STARTTLS), 8314 (implicit TLS), 4954 (AUTH), 3463 (enhanced status codes)

smtp_connect.py       open: TCP, banner, EHLO, TLS, AUTH
smtp_session.py       an open connection; smtp_reply.py what it hears
smtp_transaction.py   one message on it, with the point of no return
smtp_pool.py          kept connections
"""

import re
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from emailerctl.log import log
from emailerctl.models.clock import Clock
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.models.text import shorten
from emailerctl.models.verp import ID_CHARACTERS, LOCAL_PART_OCTETS, build_return_path
from emailerctl.providers.base import (
    CheckResult,
    Conversation,
    Mark,
    Outgoing,
    Planned,
    Sending,
)
from emailerctl.providers.hop_settings import HopSettings
from emailerctl.providers.smtp_connect import Auth, Door, NotOpened, Opened, Tls, open_session
from emailerctl.providers.smtp_pool import Pool, Taken
from emailerctl.providers.smtp_reply import (
    SERVICE_CLOSING,
    Fault,
    Lack,
    Reply,
    Stage,
    Verdict,
)
from emailerctl.providers.smtp_transaction import (
    Dialogue,
    Envelope,
    Patience,
    Transaction,
    stuff,
)
from emailerctl.settings import Duration
from emailerctl.settings.model import Text
from emailerctl.trust import Protocol, trust, trust_anybody

# 1 settings

_PORTS = {Tls.STARTTLS: 587, Tls.IMPLICIT: 465, Tls.OPPORTUNISTIC: 25, Tls.NONE: 25}
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_HELLO = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Za-z:.]{2,60}\]")
# RFC 5321 path, unquoted: what our own strict parser lets through, and nothing else (T-05).
_ADDRESS = re.compile(
    r"[^\s\x00-\x20\x7f-\x9f<>@\"\\\ud800-\udfff]{1,64}@[^\s\x00-\x20\x7f-\x9f<>@\ud800-\udfff]{1,255}"
)


def _seconds(default: float, description: str) -> Duration:
    """A time-out that must end."""
    field: Duration = Field(
        default=timedelta(seconds=default), gt=timedelta(0), description=description
    )
    return field


class SmtpSettings(HopSettings):
    """`[providers.NAME]` with kind = "smtp"."""

    kind: Literal["smtp"] = "smtp"
    host: Text = Field(description="Name or address of the server.")
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="0: 587 for starttls, 465 for implicit, 25 otherwise.",
    )
    tls: Tls = Field(
        default=Tls.STARTTLS,
        description="starttls: required and verified; implicit: TLS from the first byte; "
        "opportunistic: where offered, not verified; none: in clear.",
    )
    tls_verify: bool = Field(
        default=True,
        description="false takes any certificate, whoever shows it; logged at every start.",
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust, PEM; without it the system's."
    )
    username: Text = Field(default="", description="Empty: no authentication.")
    password: SecretStr = Field(
        default=SecretStr(""), description="Password, or access token for xoauth2."
    )
    auth: Auth = Field(
        default=Auth.AUTO,
        description="auto takes what is offered: plain, login, cram-md5; xoauth2 by name only.",
    )
    return_path: Text = Field(
        default="", description="Envelope sender of everything sent here; empty: the message's."
    )
    verp: bool = Field(
        default=False,
        description="Sign the return path of each message: bounces+<signed id>@example.org; "
        "the mailbox must take what follows the +.",
    )
    dkim: bool = Field(
        default=True,
        description="Sign with the key of the From domain, where it has one: docs/sending.md.",
    )
    final_reply: Duration = _seconds(600, "How long to wait for the answer after the dot.")
    connections: int | None = Field(
        default=None, ge=1, le=1000, description="At most so many; else [consumer] concurrency."
    )
    idle_limit: Duration = _seconds(30, "An idle connection is closed after this.")
    messages_per_connection: int = Field(
        default=100, ge=1, description="A connection is closed after so many."
    )
    local_hostname: Text = Field(
        default="", description="What EHLO says; empty: this host's name."
    )
    connect_timeout: Duration = _seconds(30, "For TCP, for each address of the host.")
    greeting_timeout: Duration = _seconds(300, "For the banner, EHLO, STARTTLS and AUTH.")
    mail_timeout: Duration = _seconds(300, "For the reply to MAIL.")
    rcpt_timeout: Duration = _seconds(300, "For the reply to each RCPT.")
    data_timeout: Duration = _seconds(120, "For the reply to DATA.")
    block_timeout: Duration = _seconds(180, "For the server to take a block of content.")

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        if not _HOST.fullmatch(host):
            raise ValueError(
                f"{shorten(host)} is no host name; write for example smtp.example.org"
            )
        return host

    @field_validator("local_hostname")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not _HELLO.fullmatch(name):
            raise ValueError(
                f"{shorten(name)} is no host name; write for example mx.example.org"
            )
        return name

    @field_validator("return_path")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if address and not _ADDRESS.fullmatch(address):
            raise ValueError(
                f"{shorten(address)} is no address; write for example bounces@example.org"
            )
        return address

    @model_validator(mode="after")
    def _has_room_for_an_id(self) -> Self:
        local = self.return_path.rpartition("@")[0]
        if self.verp and not local:
            raise ValueError(
                'verp without return_path; set return_path = "bounces@example.org"'
            )
        room = LOCAL_PART_OCTETS - len("+") - ID_CHARACTERS
        octets = len(local.encode())
        if self.verp and octets > room:
            raise ValueError(
                f"return_path {shorten(self.return_path)} has {octets} octets before the @; "
                f"with verp = true at most {room}"
            )
        return self

    @model_validator(mode="after")
    def _credentials_are_safe(self) -> Self:
        """Refuse what could show the password to a listener."""
        if self.username and not self.password.get_secret_value():
            raise ValueError('username without password; set password_file = "/path"')
        if self.password.get_secret_value() and not self.username:
            raise ValueError("password without username; set username")
        is_open = self.tls in {Tls.NONE, Tls.OPPORTUNISTIC}
        if self.username and is_open and not _is_loopback(self.host):
            raise ValueError(
                f'tls = "{self.tls}" would show the password to a listener; '
                'write "starttls" or "implicit"'
            )
        return self

    @property
    def effective_port(self) -> int:
        """The port, the usual one where none is set."""
        return self.port or _PORTS[self.tls]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# 2 request: our message in their words


class Request(NamedTuple):
    """What to say on a connection, and who was refused before anything was said.

    Attributes:
        envelope: None where nobody is left.
    """

    envelope: Envelope | None
    refused: Mapping[int, Outcome]


def build_request(
    settings: SmtpSettings, outgoing: Outgoing, extensions: Mapping[str, str]
) -> Request:
    """Turn *outgoing* into commands for a server that announced *extensions*.

    Nothing is changed to fit: what the server can't take is refused here, for good (F-SM-17).
    """
    sender = _find_sender(settings, outgoing)
    # Bounces that come back to a mailbox of ours shall name what they are about (RFC 3461).
    returns = bool(settings.return_path and outgoing.return_id and "dsn" in extensions)
    fault = _find_fault(outgoing, sender, extensions)
    if fault is not None:
        return Request(None, dict.fromkeys((r.n for r in outgoing.recipients), fault))
    refused = {
        r.n: outcome
        for r in outgoing.recipients
        if (outcome := _find_recipient_fault(r, extensions)) is not None
    }
    rcpts = {
        r.n: f"RCPT TO:<{r.address}>" + (_ask_for_reports(r.address) if returns else "")
        for r in outgoing.recipients
        if r.n not in refused
    }
    if not rcpts:
        return Request(None, refused)
    mail = [f"MAIL FROM:<{sender}>"]
    if "size" in extensions:
        mail.append(f"SIZE={len(outgoing.raw)}")
    if not outgoing.raw.isascii():
        mail.append("BODY=8BITMIME")
    if outgoing.needs_smtputf8 or not (
        sender.isascii() and all(map(str.isascii, rcpts.values()))
    ):
        mail.append("SMTPUTF8")
    if returns:
        mail.append(f"RET=HDRS ENVID={outgoing.return_id}")
    envelope = Envelope(mail=" ".join(mail), rcpts=rcpts, content=stuff(outgoing.raw))
    return Request(envelope, refused)


def _find_sender(settings: SmtpSettings, outgoing: Outgoing) -> str:
    """Return the envelope sender: signed, the next hop's own, or the message's."""
    if settings.verp and outgoing.return_id:
        return build_return_path(settings.return_path, outgoing.return_id)
    return settings.return_path or outgoing.envelope_sender


def _ask_for_reports(address: str) -> str:
    """Return the parameters of RCPT (RFC 3461 4.1, 4.2): no word of a delivery is asked for.

    An address outside ASCII would need RFC 6533's form, which few know: the id has to do.
    """
    if not address.isascii():
        return " NOTIFY=FAILURE,DELAY"
    xtext = address.replace("+", "+2B").replace("=", "+3D")
    return f" NOTIFY=FAILURE,DELAY ORCPT=rfc822;{xtext}"


def _find_fault(
    outgoing: Outgoing, sender: str, extensions: Mapping[str, str]
) -> Outcome | None:
    """Say why the message as a whole can't be said to this server, or return None."""
    raw = outgoing.raw
    if sender and not _ADDRESS.fullmatch(sender):
        return _refuse("5.1.7", f"{shorten(sender)} can't be an envelope sender")
    line_ends = raw.count(b"\r\n")
    if raw.count(b"\n") != line_ends or raw.count(b"\r") != line_ends:
        return _refuse("5.6.0", "the content has a line end that is not CRLF")
    if (outgoing.needs_smtputf8 or not sender.isascii()) and "smtputf8" not in extensions:
        return _refuse("5.6.7", "needs SMTPUTF8, which the next hop does not offer")
    if "8bitmime" not in extensions and not raw.isascii():
        return _refuse("5.6.3", "has 8-bit content; the next hop does not offer 8BITMIME")
    limit = extensions.get("size", "")
    if limit.isdecimal() and 0 < int(limit) < len(raw):
        return _refuse("5.3.4", f"{len(raw)} bytes; the next hop takes at most {limit}")
    return None


def _find_recipient_fault(
    recipient: EnvelopeRecipient, extensions: Mapping[str, str]
) -> Outcome | None:
    address = recipient.address
    if not _ADDRESS.fullmatch(address):
        return _refuse("5.1.3", f"{shorten(address)} can't be a recipient", Party.RECIPIENT)
    if not address.isascii() and "smtputf8" not in extensions:
        sentence = f"{shorten(address)} needs SMTPUTF8, which the next hop does not offer"
        return _refuse("5.6.7", sentence, Party.RECIPIENT)
    return None


def _refuse(status: str, sentence: str, party: Party = Party.MESSAGE) -> Outcome:
    return Outcome(
        kind=Kind.PERMANENT,
        party=party,
        phase=Phase.ENVELOPE,
        enhanced_status=status,
        reply=sentence,
    )


# 3 classify: their answer in our words

_PHASES = {
    Stage.CONNECT: Phase.CONNECT,
    Stage.EHLO: Phase.CONNECT,
    Stage.TLS: Phase.TLS,
    Stage.AUTH: Phase.AUTH,
    Stage.MAIL: Phase.ENVELOPE,
    Stage.RCPT: Phase.ENVELOPE,
    Stage.DATA: Phase.CONTENT,
    Stage.BODY: Phase.CONTENT,
    Stage.ANSWER: Phase.ANSWER,
}
_OPENING = frozenset({Stage.CONNECT, Stage.EHLO, Stage.TLS, Stage.AUTH})
_OUR_OWN = frozenset({Lack.BUSY, Lack.LATE, Lack.CANCELLED})
_TRANSIENT, _PERMANENT = 4, 5
_AUTHENTICATION_REQUIRED = 530  # RFC 4954 §6, in reply to any command
_TOO_MANY_RECIPIENTS = 552  # RFC 5321 §4.5.3.1.10: in reply to RCPT, to be read as 452
# RFC 3463: X.1.x is about the address, X.2.x about the mailbox.
_ABOUT_THE_RECIPIENT = re.compile(r"[45]\.[12]\.")
_NAMED_WAIT = re.compile(
    r"\b(?:in|after|for|wait)\s+(\d{1,6})\s*(s|sec|secs|seconds?|m|min|mins|minutes?|h|hours?)\b",
    re.IGNORECASE,
)
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000}
_LONGEST_WAIT_MS = 3_600_000


def classify(verdict: Verdict) -> Outcome:
    """Read the answer that decides about a recipient.

    Only a reply after the dot can accept, and only its lack leaves a doubt; before the dot
    nothing has been accepted, whatever breaks.
    """
    answer = verdict.answer
    if isinstance(answer, Fault):
        return _read_fault(verdict.stage, answer)
    if verdict.stage in _OPENING or answer.code in {SERVICE_CLOSING, _AUTHENTICATION_REQUIRED}:
        return _read_service_refusal(verdict.stage, answer)
    return _read_reply(verdict.stage, answer)


def _read_fault(stage: Stage, fault: Fault) -> Outcome:
    alarm = Alarm.TLS if stage is Stage.TLS else None
    if stage is Stage.AUTH and fault.lack is Lack.NOT_OFFERED:
        alarm = Alarm.CREDENTIALS
    return Outcome(
        kind=Kind.UNKNOWN if stage is Stage.ANSWER else Kind.TRANSIENT,
        party=Party.NEXT_HOP,
        phase=_PHASES[stage],
        reply=fault.detail,
        is_charged=fault.lack not in _OUR_OWN and alarm is not Alarm.CREDENTIALS,
        alarm=alarm,
    )


def _read_service_refusal(stage: Stage, reply: Reply) -> Outcome:
    """Read a refusal that is about the next hop: while opening, 421, 530."""
    alarm = None
    is_credentials = stage is Stage.AUTH and reply.severity == _PERMANENT
    if is_credentials or reply.code == _AUTHENTICATION_REQUIRED:
        alarm = Alarm.CREDENTIALS
    elif stage is Stage.TLS and reply.code != SERVICE_CLOSING:
        alarm = Alarm.TLS
    return Outcome(
        kind=Kind.TRANSIENT,
        party=Party.NEXT_HOP,
        phase=_PHASES[stage],
        code=reply.code,
        enhanced_status=reply.enhanced_status,
        reply=str(reply),
        retry_after_ms=_find_wait(reply),
        is_charged=alarm is not Alarm.CREDENTIALS,
        alarm=alarm,
    )


def _read_reply(stage: Stage, reply: Reply) -> Outcome:
    status = reply.enhanced_status
    kind, party = Kind.PERMANENT, Party.MESSAGE
    if stage is Stage.ANSWER and reply.severity not in (2, _TRANSIENT, _PERMANENT):
        kind, party = Kind.UNKNOWN, Party.NEXT_HOP
    elif stage is Stage.ANSWER and reply.severity == 2:
        kind = Kind.ACCEPTED
    elif reply.severity not in (_TRANSIENT, _PERMANENT):  # a yes or a "go on" out of place
        kind, party = Kind.TRANSIENT, Party.NEXT_HOP
    elif reply.severity == _TRANSIENT:
        kind = Kind.TRANSIENT
    if stage is Stage.RCPT and party is Party.MESSAGE:
        party = Party.RECIPIENT
        if reply.code == _TOO_MANY_RECIPIENTS and not _ABOUT_THE_RECIPIENT.match(status):
            kind = Kind.TRANSIENT
    elif stage is Stage.ANSWER and kind is Kind.PERMANENT:
        party = (
            Party.RECIPIENT
        )  # the receiving side has seen it all, and won't have it (F-SM-12)
    return Outcome(
        kind=kind,
        party=party,
        phase=_PHASES[stage],
        code=reply.code,
        enhanced_status=status,
        reply=str(reply),
        retry_after_ms=_find_wait(reply),
    )


def _find_wait(reply: Reply) -> int | None:
    """Return the wait that a 4yz names ("try again in 300 seconds"), an hour at most."""
    if reply.severity != _TRANSIENT:
        return None
    match = _NAMED_WAIT.search(reply.text)
    if match is None:
        return None
    return min(int(match[1]) * _UNIT_MS[match[2][0].lower()], _LONGEST_WAIT_MS)


# 4 send: the only part that touches the network


class Smtp:
    """The adapter: take a connection, build, transact, classify."""

    kind = "smtp"

    def __init__(
        self, name: str, settings: SmtpSettings, *, connections: int, clock: Clock
    ) -> None:
        """Prepare; nothing is opened before the first message.

        Args:
            name: of the next hop, as in `[providers.NAME]`.
            settings: its table.
            connections: how many, unless the table says so itself.
            clock: deadlines are on its boot clock.

        Raises:
            ConfigurationError: `ca_file` can't be used.
        """
        self.name = name
        self._settings = settings
        self._clock = clock
        self._door = _build_door(name, settings)
        self._patience = Patience(
            mail=settings.mail_timeout.total_seconds(),
            rcpt=settings.rcpt_timeout.total_seconds(),
            data=settings.data_timeout.total_seconds(),
            block=settings.block_timeout.total_seconds(),
            final_reply=settings.final_reply.total_seconds(),
        )
        self._pool = Pool(
            self._open,
            size=settings.connections or connections,
            idle_seconds=settings.idle_limit.total_seconds(),
            messages_per_connection=settings.messages_per_connection,
        )

    async def send(self, outgoing: Outgoing, mark: Mark) -> Sending:
        """Attempt once; one outcome for every envelope recipient.

        A cancellation passes through before *mark* is asked for: nothing has left.  From then
        on it ends in an outcome: not accepted before the dot, unknown after it.

        Raises:
            MarkRefused: the connection was closed without the dot.
        """
        dialogue = Dialogue()
        try:
            taken = await self._pool.take(self._left(outgoing))
        except NotOpened as error:
            return self._report_failure(outgoing, error, dialogue)
        session = taken.session
        try:
            request = build_request(self._settings, outgoing, session.extensions)
            verdicts = await self._transact(taken, request, outgoing, mark, dialogue)
            if taken.is_kept and _was_dead(verdicts.values()):
                dialogue.note("the kept connection was dead; a new one")
                taken = await self._pool.replace(session, self._left(outgoing))
                session = taken.session
                request = build_request(self._settings, outgoing, session.extensions)
                verdicts = await self._transact(taken, request, outgoing, mark, dialogue)
        except NotOpened as error:
            return self._report_failure(outgoing, error, dialogue)
        finally:
            self._pool.give_back(session)
        outcomes = dict(request.refused)
        for n, verdict in verdicts.items():
            outcome = classify(verdict)
            if taken.is_kept and _is_silence(verdict):
                outcome = replace(outcome, is_charged=False)
            outcomes[n] = outcome
        return Sending(outcomes=outcomes, dialogue=str(dialogue))

    def plan(self, outgoing: Outgoing) -> Planned:
        """Say what an attempt would ask of a server that offers all it needs."""
        settings = self._settings
        request = build_request(settings, outgoing, _EVERYTHING)
        refusals = [outcome.reply for outcome in request.refused.values()]
        if request.envelope is None:
            return Planned(refusal="; ".join(dict.fromkeys(refusals)))
        envelope = request.envelope
        traps = [f"refused beforehand: {reply}" for reply in refusals]
        if "BODY=8BITMIME" in envelope.mail:
            traps.append("it has 8-bit content: a server without 8BITMIME does not get it")
        if "SMTPUTF8" in envelope.mail:
            traps.append("it needs SMTPUTF8: a server without that does not get it")
        if settings.tls is Tls.OPPORTUNISTIC:
            traps.append("TLS is opportunistic: whoever is in between can read it")
        elif settings.tls is Tls.NONE and not _is_loopback(settings.host):
            traps.append("there is no TLS: whoever is in between can read it")
        elif not settings.tls_verify:
            traps.append("tls_verify = false: whoever is in between can read it")
        auth = f"AUTH as {settings.username}" if settings.username else "no AUTH"
        return Planned(
            target=f"smtp {settings.host}:{settings.effective_port} ({settings.tls}, {auth})",
            head=(envelope.mail, *envelope.rcpts.values(), "DATA"),
            body=_show_content(outgoing.raw),
            size_bytes=len(outgoing.raw),
            traps=tuple(traps),
        )

    async def check(self) -> list[CheckResult]:
        """Connect, EHLO, TLS, AUTH, what it announces, NOOP, QUIT."""
        return (await self.converse()).results

    async def converse(self, sender: str = "", recipients: Sequence[str] = ()) -> Conversation:
        """Check it, and write down what was said; with *recipients* ask whether it takes them.

        An envelope is begun and taken back (RSET): no DATA, so that nothing is sent.
        """
        seconds = self._settings.greeting_timeout.total_seconds()
        try:
            opened = await self._open(seconds)
        except NotOpened as error:
            results = [CheckResult(s.stage, is_good=True, detail=s.detail) for s in error.steps]
            verdict = error.verdict
            bad = CheckResult(verdict.stage, is_good=False, detail=str(verdict.answer))
            return Conversation([*results, bad], error.dialogue)
        session = opened.session
        results = [CheckResult(s.stage, is_good=True, detail=s.detail) for s in opened.steps]
        limits = _show_extensions(session.extensions)
        results.append(CheckResult("limits", is_good=True, detail=limits))
        dialogue = Dialogue()
        dialogue.add(session.opening)
        rcpts = [(f"rcpt {address}", f"RCPT TO:<{address}>") for address in recipients]
        envelope = [("mail", f"MAIL FROM:<{sender}>"), *rcpts, ("rset", "RSET")]
        for name, line in (*(envelope if recipients else ()), ("noop", "NOOP"), ("quit", "")):
            dialogue.ours(line or "QUIT")
            if line:
                session.write(f"{line}\r\n".encode())
                answer = await session.reply(seconds, line)
            else:
                answer = await session.quit(seconds)
            dialogue.theirs(answer)
            is_good = isinstance(answer, Reply) and answer.severity == 2
            results.append(CheckResult(name, is_good=is_good, detail=str(answer)))
        return Conversation(results, str(dialogue).splitlines())

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._pool.connections

    async def close(self) -> None:
        """Close what is open: what is in use, when its message is done."""
        await self._pool.close()

    async def _open(self, seconds: float) -> Opened:
        return await open_session(self._door, seconds)

    def _left(self, outgoing: Outgoing) -> float:
        """Return the seconds until the deadline."""
        return (outgoing.deadline_boot_ms - self._clock.boot_ms()) / 1000

    async def _transact(
        self, taken: Taken, request: Request, outgoing: Outgoing, mark: Mark, dialogue: Dialogue
    ) -> Mapping[int, Verdict]:
        if request.envelope is None:
            return {}
        session = taken.session
        if taken.is_kept:
            dialogue.note(f"kept connection, message {session.messages + 1} on it")
        else:
            dialogue.add(session.opening)
        transaction = Transaction(
            session,
            request.envelope,
            patience=self._patience,
            deadline_boot_ms=outgoing.deadline_boot_ms,
            clock=self._clock,
            dialogue=dialogue,
        )
        return await transaction.run(mark)

    def _report_failure(
        self, outgoing: Outgoing, error: NotOpened, dialogue: Dialogue
    ) -> Sending:
        dialogue.add(error.dialogue)
        outcome = classify(error.verdict)
        outcomes = dict.fromkeys((r.n for r in outgoing.recipients), outcome)
        return Sending(outcomes=outcomes, dialogue=str(dialogue))


def _build_door(name: str, settings: SmtpSettings) -> Door:
    is_verified = settings.tls_verify and settings.tls is not Tls.OPPORTUNISTIC
    if not settings.tls_verify:
        log("next_hop.unverified", "warning", provider=name, setting="tls_verify = false")
    return Door(
        host=settings.host,
        port=settings.effective_port,
        tls=settings.tls,
        context=_build_context(name, settings, is_verified=is_verified),
        auth=settings.auth,
        username=settings.username,
        password=settings.password.get_secret_value(),
        local_hostname=settings.local_hostname or _find_hostname(),
        connect=settings.connect_timeout.total_seconds(),
        greeting=settings.greeting_timeout.total_seconds(),
    )


# What a message may need of a server (`plan`).
_EVERYTHING: Mapping[str, str] = {"size": "", "8bitmime": "", "smtputf8": ""}
_SHOWN = 4000


def _show_content(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").replace("\r\n", "\n")
    more = len(text) - _SHOWN
    return text if more <= 0 else f"{text[:_SHOWN]}\n… {more} characters more"


def _show_extensions(extensions: Mapping[str, str]) -> str:
    """Say what the server announced of what matters here."""
    size = extensions.get("size", "")
    most = f"at most {size} bytes" if size.isdecimal() and int(size) else "no size announced"
    has = [
        name.upper() for name in ("pipelining", "8bitmime", "smtputf8") if name in extensions
    ]
    return ", ".join([most, *has])


def _find_hostname() -> str:
    """Return this host's name, without asking the network; RFC 5321 §4.1.3 without one."""
    name = socket.gethostname()
    return name if _HELLO.fullmatch(name) else "[127.0.0.1]"


def _build_context(
    name: str, settings: SmtpSettings, *, is_verified: bool
) -> ssl.SSLContext | None:
    if settings.tls is Tls.NONE:
        return None
    verifying = trust(
        settings.ca_file, protocol=Protocol.SMTP, setting=f"[providers.{name}] ca_file"
    )
    return verifying if is_verified else trust_anybody()


def _was_dead(verdicts: Collection[Verdict]) -> bool:
    """Say whether a kept connection had ended before it heard anything (F-SM-18)."""
    return bool(verdicts) and all(
        verdict.stage is Stage.MAIL
        and (
            verdict.answer.lack is Lack.LOST
            if isinstance(verdict.answer, Fault)
            else verdict.answer.code == SERVICE_CLOSING
        )
        for verdict in verdicts
    )


def _is_silence(verdict: Verdict) -> bool:
    """Say whether a kept connection may have been dead, by the look of it."""
    is_silent = isinstance(verdict.answer, Fault) and verdict.answer.lack is Lack.SILENT
    return verdict.stage is Stage.MAIL and is_silent
