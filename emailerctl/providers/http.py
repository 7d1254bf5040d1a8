"""The shape of a next hop that is reached over HTTP, and what an answer's status means.

An adapter fills in `HttpNextHop` (http_client.py is what asks):

    class Postmark(HttpNextHop[PostmarkSettings]):
        kind = "postmark"
        abilities = ABILITIES

        def build(self, outgoing): ...              # our message in their words -> Request
        def classify(self, answer, request): ...    # their answer in ours -> Outcome

Before the last byte whatever breaks is a definite "not accepted"; after it the answer's status
decides, and that alone (delivery.md §3).
"""

import asyncio
import base64
import binascii
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from emailerctl.models.clock import Clock, parse_moment
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.models.text import shorten
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    Abilities,
    CheckResult,
    Mark,
    NotVerified,
    Outgoing,
    Planned,
    Sending,
    Traits,
    find_faults,
)
from emailerctl.providers.content import (
    Addressed,
    Content,
    address,
    address_all,
    parse_content,
)
from emailerctl.providers.hop_settings import HopSettings
from emailerctl.providers.http_client import Answer, Client, Request, TlsFailed, Unreachable
from emailerctl.providers.http_legible import show_body, show_head
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Duration, Text

# 1 settings: what every next hop over HTTP has


class HttpSettings(HopSettings):
    """`[providers.NAME]` of a kind that is reached over HTTP."""

    base_url: Text = Field(default="", description="Where its API is.")
    allow_http: bool = Field(
        default=False,
        description="true takes a base_url without TLS; else on the loopback interface only.",
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust, PEM; without it the system's."
    )
    connections: int | None = Field(
        default=None, ge=1, le=1000, description="At most so many; else [consumer] concurrency."
    )
    connect_timeout: Duration = Field(
        default=timedelta(seconds=10), gt=timedelta(0), description="For TCP and TLS."
    )
    send_timeout: Duration = Field(
        default=timedelta(seconds=60),
        gt=timedelta(0),
        description="For everything before the last byte of the request.",
    )
    final_reply: Duration = Field(
        default=timedelta(seconds=60),
        gt=timedelta(0),
        description="How long to wait for the answer after the last byte.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_a_base(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{shorten(url)} is no URL; write for example https://api.example")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(f"{shorten(url)} has more than host and path; write it without")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _is_not_in_clear(self) -> "HttpSettings":
        parts = urlsplit(self.base_url)
        if parts.scheme == "http" and not self.allow_http and not is_loopback(parts.hostname):
            raise ValueError(
                f"base_url {shorten(self.base_url)} would show credentials and mail to a "
                "listener; write https, or allow_http = true"
            )
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets in it: what must not be shown, wherever it turns up."""
        values = (value for _, value in self if isinstance(value, SecretStr))
        return tuple(secret for v in values if (secret := v.get_secret_value()))


def is_loopback(host: str | None) -> bool:
    """Return whether *host* is this one, by its name alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


# 2 request


def build_key(outgoing: Outgoing) -> str:
    """Return the idempotency key of an attempt: the same when it is replayed."""
    return f"{outgoing.public_id}.{outgoing.attempt}"


def parse_key(text: object) -> tuple[str, int | None]:
    """Return id and attempt from what `build_key` made; an empty id from anything else."""
    found = _KEY.fullmatch(text) if isinstance(text, str) else None
    if found is None or parse_public(MESSAGE, found[1]) is None:
        return "", None
    return found[1], int(found[2])


_KEY = re.compile(r"(msg_[0-9A-Za-z]{1,20})\.([0-9]{1,9})")


def refuse(reply: str, *, party: Party = Party.NEXT_HOP) -> Outcome:
    """Return what is said of a message that this next hop can't carry: nothing was asked."""
    return Outcome(kind=Kind.PERMANENT, party=party, phase=Phase.GATE, reply=reply)


# 3 classify

_HOUR_MS = 3_600_000

_DEFINITE = Outcome(kind=Kind.PERMANENT, party=Party.NEXT_HOP)
_ABOUT_THE_MESSAGE = replace(_DEFINITE, party=Party.MESSAGE)
_CREDENTIALS = replace(_DEFINITE, alarm=Alarm.CREDENTIALS, is_charged=False)
_REDIRECT = replace(_DEFINITE, kind=Kind.TRANSIENT, alarm=Alarm.REDIRECT)
_LATER = replace(_DEFINITE, kind=Kind.TRANSIENT)
_UNDECIDED = replace(_DEFINITE, kind=Kind.UNKNOWN)

# F-PR-05: for good.  Only 400, 413 and 422 are about the message; the rest say that we ask in
# the wrong way or place, which the next in the chain need not mind.
_MEANINGS: Mapping[int, Outcome] = {
    **dict.fromkeys((400, 413, 422), _ABOUT_THE_MESSAGE),
    **dict.fromkeys((404, 405, 410, 411, 415), _DEFINITE),
    **dict.fromkeys((401, 403), _CREDENTIALS),
    **dict.fromkeys((425, 429), _LATER),
}
_UNAVAILABLE = 503


def from_status(
    answer: Answer, *, definite: Collection[int] = (), says: str = "", provider_id: str = ""
) -> Outcome:
    """Read the status alone: the general table (F-PR-03…09).

    Args:
        definite: further statuses that mean "not accepted", as the provider's documentation
            has it; again later.
        says: the provider's sentence, where the adapter has found it.
        provider_id: its id of the message, for a 2xx.
    """
    status = answer.status
    said = says or answer.excerpt
    meaning = _MEANINGS.get(status, _UNDECIDED)
    if status // 100 == 2:
        meaning = replace(meaning, kind=Kind.ACCEPTED, provider_message_id=clean(provider_id))
        said = said if provider_id else f"accepted, and no id in the answer: {said}"
    elif status // 100 == 3:
        meaning = _REDIRECT
    elif status in definite or (status == _UNAVAILABLE and "retry-after" in answer.headers):
        meaning = _LATER
    if meaning is _LATER:
        wait = answer.headers.get("retry-after", "")
        meaning = replace(meaning, retry_after_ms=parse_retry_after(wait, answer.received_ms))
    return replace(meaning, code=status, reply=clean(f"{status} {said}".strip()))


def blame(
    outcome: Outcome, carries: tuple[EnvelopeRecipient, ...], named: Collection[int]
) -> Outcome | Mapping[int, Outcome]:
    """Refuse the recipients that a refusal is about; the rest goes again at once without them.

    Where it names nobody it is everybody's, as it came.
    """
    if not named:
        return outcome
    again = replace(outcome, kind=Kind.TRANSIENT, party=Party.MESSAGE, is_charged=False)
    refused = refuse_recipient(outcome)
    return {r.n: refused if r.n in named else again for r in carries}


def refuse_recipient(outcome: Outcome) -> Outcome:
    """Return *outcome* as a refusal of one recipient, for good."""
    return replace(
        outcome, kind=Kind.PERMANENT, party=Party.RECIPIENT, provider_message_id="", alarm=None
    )


def parse_retry_after(value: str, now_ms: int) -> int | None:
    """Read seconds or a date (RFC 9110 §10.2.3) into a wait of an hour at most.

    None where there is none, or none that can be read.
    """
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        return min(int(value[:12]) * 1000, _HOUR_MS)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        at_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return min(max(at_ms - now_ms, 0), _HOUR_MS)


def _read_early(outcome: Outcome) -> Outcome:
    """Read an answer that came before the last byte: nothing can have been accepted."""
    is_refusal = outcome.kind in (Kind.TRANSIENT, Kind.PERMANENT)
    kind = outcome.kind if is_refusal else Kind.TRANSIENT
    party = outcome.party if is_refusal else Party.NEXT_HOP
    return replace(outcome, kind=kind, party=party, phase=Phase.CONTENT)


# 4 send

_LARGE = 512 * 1024

S = TypeVar("S", bound=HttpSettings)


class HttpNextHop(ABC, Generic[S]):
    """What the adapters have in common: guard, build, exchange, classify."""

    kind: str
    abilities: ClassVar[Abilities]

    def __init__(self, name: str, settings: S, *, connections: int, clock: Clock) -> None:
        """Prepare; nothing is opened before the first message.

        Raises:
            ConfigurationError: `ca_file` can't be used.
        """
        self.name = name
        self.settings = settings
        self.clock = clock
        self.client = Client(
            name,
            base_url=settings.base_url,
            connections=settings.connections or connections,
            clock=clock,
            ca_file=settings.ca_file,
            connect_timeout=settings.connect_timeout,
            final_reply=settings.final_reply,
            secrets=settings.secrets,
        )

    @abstractmethod
    def build(self, outgoing: Outgoing) -> Request | Outcome:
        """Say *outgoing* in their words; an outcome where that can't be done."""

    @abstractmethod
    def classify(self, answer: Answer, request: Request) -> Outcome | Mapping[int, Outcome]:
        """Say their answer in our words; by recipient number where they differ."""

    @abstractmethod
    async def check(self) -> list[CheckResult]:
        """Talk to the next hop without sending, and say what works."""

    async def knock(
        self, question: Request, says: str = "message"
    ) -> tuple[list[CheckResult], Answer | None]:
        """Begin a check: was *question* answered, and are we let in?

        Args:
            says: the member of an answer that has its sentence.

        Returns:
            What can be said by now, and the answer of 2xx to read on.
        """
        try:
            answer = await self.client.ask(question)
        except Unreachable as error:
            return [CheckResult("connection", is_good=False, detail=str(error))], None
        connected = CheckResult("connection", is_good=True, detail=self.settings.base_url)
        outcome = from_status(answer, says=str(answer.json.get(says) or ""))
        if outcome.kind is Kind.ACCEPTED:
            return [connected], answer
        name = "credentials" if outcome.alarm is Alarm.CREDENTIALS else "answer"
        detail = self.client.mask(outcome.reply)
        return [connected, CheckResult(name, is_good=False, detail=detail)], None

    async def check_tls(self) -> CheckResult | None:
        """Shake hands, on a connection that is used for nothing else."""
        if not self.settings.base_url.startswith("https:"):
            is_here = is_loopback(urlsplit(self.settings.base_url).hostname)
            where = "this host" if is_here else "allow_http = true"
            return CheckResult("tls", is_good=True, detail=f"none: {where}")
        try:
            agreed = await self.client.shake_hands()
        except TlsFailed as error:
            return CheckResult("tls", is_good=False, detail=str(error))
        except Unreachable:
            return None
        return CheckResult("tls", is_good=True, detail=agreed)

    def plan(self, outgoing: Outgoing) -> Planned:
        """Say what an attempt would ask, without asking."""
        request = self._find_fault(outgoing)
        if request is None:
            request = self.build(outgoing)
        if isinstance(request, Outcome):
            return Planned(refusal=request.reply)
        later = [r.address for r in outgoing.recipients if r.n in request.decided]
        query = "?…" if request.query else ""
        return Planned(
            target=f"{request.method} {self.settings.base_url}{request.path}{query}",
            head=show_head(request.headers, self.client.mask),
            body=show_body(request.body, self.client.mask),
            size_bytes=len(request.body),
            traps=tuple(f"{address} is for an attempt of its own" for address in later),
        )

    async def send(self, outgoing: Outgoing, mark: Mark) -> Sending:
        """Attempt once; one outcome for every envelope recipient.

        Raises:
            MarkRefused: the connection was closed without the last byte.
        """
        everybody = [recipient.n for recipient in outgoing.recipients]
        request = self._find_fault(outgoing)
        if request is None and len(outgoing.raw) > _LARGE:
            request = await asyncio.to_thread(self.build, outgoing)  # others go on meanwhile
        elif request is None:
            request = self.build(outgoing)
        if isinstance(request, Outcome):
            reply = request.reply
            return Sending(outcomes=dict.fromkeys(everybody, request), dialogue=f"= {reply}")
        dialogue: list[str] = []
        came = await self.client.exchange(
            request, mark, deadline_boot_ms=outgoing.deadline_boot_ms, dialogue=dialogue
        )
        outcomes = dict(request.decided)
        read = self.classify(came, request) if isinstance(came, Answer) else came
        for recipient in request.carries:
            outcome = read if isinstance(read, Outcome) else read[recipient.n]
            if isinstance(came, Answer) and came.is_early:
                outcome = _read_early(outcome)
            reply = self.client.mask(outcome.reply)
            outcomes[recipient.n] = replace(outcome, reply=reply)
        return Sending(outcomes=outcomes, dialogue="\n".join(dialogue))

    def _find_fault(self, outgoing: Outgoing) -> Request | Outcome | None:
        """Say why the message is not for this next hop, as far as its envelope tells."""
        traits = Traits(
            recipients=len(outgoing.recipients),
            size_bytes=len(outgoing.raw),
            needs_smtputf8=outgoing.needs_smtputf8,
        )
        faults = find_faults(self.abilities, traits)
        return refuse("; ".join(faults)) if faults else None

    async def close(self) -> None:
        """Close what is open."""
        await self.client.close()


class PartsNextHop(HttpNextHop[S]):
    """An adapter without a raw endpoint: it gets the message in parts.

    Where the provider has no envelope apart from the header (`has_envelope`), To and Cc are cut
    to those whom this attempt is for, and somebody is always in To.
    """

    def build(self, outgoing: Outgoing) -> Request | Outcome:
        """Take the message apart, and say whether it fits before it is composed."""
        content = parse_content(outgoing.raw)
        faults = find_faults(self.abilities, content.find_traits(outgoing))
        if faults:
            return refuse("; ".join(faults))
        name = address_all if self.abilities.has_envelope else address
        addressed = name(content, outgoing.recipients)
        request = self.compose(outgoing, content, addressed)
        if isinstance(request, Outcome):
            return request
        later = dict.fromkeys((recipient.n for recipient in addressed.later), _ONE_AT_A_TIME)
        return replace(request, carries=addressed.carried, decided=later)

    @abstractmethod
    def compose(
        self, outgoing: Outgoing, content: Content, addressed: Addressed
    ) -> Request | Outcome:
        """Say the parts in their words; `carries` and `decided` are filled in afterwards."""


_ONE_AT_A_TIME = Outcome(
    kind=Kind.TRANSIENT,
    party=Party.MESSAGE,
    phase=Phase.GATE,
    reply="this next hop shows recipients to each other: blind copies go one at a time",
    is_charged=False,
)


# 5 reports: what several providers have in common


def verify_bearer(headers: Mapping[str, str], token: str) -> None:
    """Check a report's token (RFC 6750), in constant time.

    Raises:
        NotVerified: missing or wrong; also when none is configured.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(), token.encode())
    if not token or scheme.lower() != "bearer" or not is_right:
        raise NotVerified("the report's token is missing or wrong")


def verify_basic_auth(headers: Mapping[str, str], user: str, password: str) -> None:
    """Check a report's credentials (RFC 7617), in constant time.

    Raises:
        NotVerified: missing or wrong; also when none are configured, since anybody could send.
    """
    if not password:
        raise NotVerified("no credentials are configured for reports")
    scheme, _, given = headers.get("authorization", "").partition(" ")
    try:
        said = base64.b64decode(given.strip(), validate=True)
    except (ValueError, binascii.Error):
        said = b""
    is_right = hmac.compare_digest(said, f"{user}:{password}".encode())
    if scheme.lower() != "basic" or not is_right:
        raise NotVerified("the report's credentials are missing or wrong")


_SKEW_MS = 5 * 60_000


def verify_age(moment_ms: int, now_ms: int, *, within_ms: int = _SKEW_MS) -> None:
    """Check when a report was signed (F-WI-01): clocks differ by five minutes at most.

    Args:
        within_ms: how old it may be: more where the moment stays the same when it is repeated.

    Raises:
        NotVerified: it is too old, or from the future.
    """
    if not -_SKEW_MS <= now_ms - moment_ms <= within_ms:
        old = f"more than {within_ms // 60_000} minutes old"
        raise NotVerified(f"the report is {old}, or from the future")


def find_object(value: object, *names: str) -> Mapping[str, Any]:
    """Return the object below *names*; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def find_public_id(*candidates: object) -> str:
    """Return the first that is an id of ours, or the left side of a Message-ID of ours."""
    for candidate in candidates:
        said = str(candidate or "").strip("<>").partition("@")[0]
        if parse_public(MESSAGE, said) is not None:
            return said
    return ""


def read_ours(labels: Mapping[str, object]) -> tuple[str, int | None]:
    """Return id and attempt from what travelled along as OUR_ID and OUR_ATTEMPT."""
    return find_public_id(labels.get(OUR_ID)), find_attempt(labels)


def find_attempt(labels: Mapping[str, Any]) -> int | None:
    """Return the attempt that came along."""
    return find_number(labels.get(OUR_ATTEMPT))


def find_number(value: object) -> int | None:
    """Return *value* as a number of ours: an attempt's, a recipient's."""
    return int(str(value)) if re.fullmatch(r"[0-9]{1,9}", str(value)) else None


def find_moment(value: object) -> int:
    """Read RFC 3339, or seconds since 1970; 0 where it is neither.

    Fractions have up to nine digits, more than Python takes.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(value * 1000) if 0 <= value < 1e11 else 0
    try:
        return parse_moment(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", str(value)))
    except (ValueError, OverflowError):
        return 0


def identify(*parts: object) -> str:
    """Return what is the same for the same parts: the id of a report that has none."""
    text = "\0".join(map(str, parts))
    return blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()
