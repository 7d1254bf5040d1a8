"""Every setting: its name, its unit, its default, its bounds, and what it is for."""

import re
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from emailerctl.models.address import AddressInvalid, domain_of, parse_address
from emailerctl.models.clock import duration_to_text, parse_duration
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.models.message import Priority
from emailerctl.models.text import find_unsafe, shorten
from emailerctl.settings.secret import NAME, is_secret

MIB = 1024 * 1024
_URL_PATH = re.compile(r"(/[A-Za-z0-9._~-]*)*")
_URL_CHARACTERS = 250


def _read_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    msg = 'is no duration: that is text with a unit; write for example "30s"'
    raise ValueError(msg)


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(duration_to_text),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["30s"]}),
]


def _read_whole(value: object) -> object:
    if isinstance(value, bool):
        msg = "should be a whole number"
        raise ValueError(msg)  # noqa: TRY004 (pydantic collects ValueErrors)
    return value


Whole = Annotated[int, BeforeValidator(_read_whole)]


def _read_list(value: object) -> object:
    """Take `a, b` for a list, which is how a variable or a flag says it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_read_list)]
Durations = Annotated[tuple[Duration, ...], BeforeValidator(_read_list)]


def _one_line(value: str) -> str:
    unsafe = find_unsafe(value)
    if unsafe:
        msg = f"{shorten(value)} contains {unsafe}; remove it"
        raise ValueError(msg)
    return value


Text = Annotated[str, AfterValidator(_one_line)]


class Section(BaseModel):
    """One table of `emailer.toml`; an unknown key in it is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )


class StoreSettings(Section):
    """Where messages are kept."""

    url: Text = Field(
        default="sqlite:////var/lib/emailer/emailer.db",
        description="sqlite:// and the path of the file: four slashes for an absolute one.",
    )
    busy_timeout: Duration = Field(
        default=timedelta(seconds=5),
        ge=timedelta(milliseconds=10),
        le=timedelta(minutes=5),
        description="How long to wait for another process's write before answering 503.",
    )
    low_water_bytes: Whole = Field(
        default=64 * MIB,
        ge=0,
        description="Free bytes on the store's disk below which nothing more is accepted, "
        "so that outcomes can still be written.",
    )

    @field_validator("url")
    @classmethod
    def _of_this_version(cls, url: str) -> str:
        if url.startswith(("postgresql:", "postgres:")):
            msg = "PostgreSQL is not in this version; write sqlite:////path/to/emailer.db"
            raise ValueError(msg)
        if not url.startswith("sqlite:///") or url == "sqlite:///":
            msg = "is no store; write sqlite:////path/to/emailer.db"
            raise ValueError(msg)
        return url

    @property
    def path(self) -> Path:
        """The database file."""
        return Path(self.url.removeprefix("sqlite:///"))


class ApiSettings(Section):
    """The API daemon, `emailerctl serve`."""

    host: Text = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all."
    )
    port: Whole = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    workers: Whole = Field(
        default=1, ge=1, le=256, description="Processes on that port; more pay on idle cores."
    )
    public_url: Text = Field(
        default="",
        description="Where recipients reach this API, for links in mail: "
        "https://mail.example.org; only /u/ needs to be public.",
    )
    require_idempotency_key: bool = Field(
        default=False, description="Refuse requests without an Idempotency-Key (400)."
    )
    cors_origins: Words = Field(
        default=(),
        description="Origins whose pages may read the event stream: https://ops.example.org.",
    )
    body_limit_bytes: Whole = Field(
        default=12 * MIB, ge=1024, le=1024 * MIB, description="Largest request body; else 413."
    )
    header_limit_bytes: Whole = Field(
        default=16 * 1024, ge=1024, le=MIB, description="Largest request head; else closed."
    )
    header_timeout: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        description="How long a client may take to send a request's head.",
    )
    body_timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        description="How long a client may take to send a request's body.",
    )
    max_connections: Whole = Field(
        default=1024, ge=1, description="Open connections from one address, in one process."
    )
    max_waiting: Whole = Field(
        default=2000,
        ge=1,
        description="Requests that wait for their commit, in one process; beyond it 503.",
    )
    shutdown: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a stop waits for requests under way.",
    )

    @field_validator("public_url")
    @classmethod
    def _is_public(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        is_plain = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if not parts.hostname or not (parts.scheme == "https" or is_plain):
            msg = f"{shorten(url)} is no https URL; write for example https://mail.example.org"
            raise ValueError(msg)
        if not _URL_PATH.fullmatch(parts.path) or url != f"{parts.scheme}://" + (
            parts.netloc + parts.path
        ):
            msg = f"{shorten(url)} has more than host and path; write it without"
            raise ValueError(msg)
        if parts.username or parts.password or len(url) > _URL_CHARACTERS:
            msg = f"{shorten(url)} has a user or is too long; write it without"
            raise ValueError(msg)
        return url.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
                msg = (
                    f"{shorten(origin)} is no origin; write for example https://ops.example.org"
                )
                raise ValueError(msg)
        return origins


class LimitSettings(Section):
    """What one client may ask for."""

    requests_per_second: Whole = Field(
        default=10_000,
        ge=1,
        description="Requests of one token, in one process; beyond it 429.",
    )
    failed_authentications: Whole = Field(
        default=60, ge=1, description="Failed ones from one address in a minute; beyond it 429."
    )
    allow_local_domains: bool = Field(
        default=False,
        description="Take addresses in special-use domains (.test, .local, .localhost; "
        "RFC 6761) and hosts without a dot.",
    )


class ConsumerSettings(Section):
    """The consumer daemon, `emailerctl consume`."""

    concurrency: Whole = Field(
        default=16,
        ge=1,
        le=1000,
        description="Connections to a next hop, unless that one says otherwise.",
    )
    workers: Whole = Field(default=1, ge=1, le=256, description="Processes.")
    batch: Whole = Field(default=200, ge=1, le=1000, description="Messages claimed at once.")
    poll: Duration = Field(
        default=timedelta(seconds=1),
        ge=timedelta(milliseconds=10),
        le=timedelta(seconds=5),
        description="How often to look for due messages that nobody announced.",
    )
    shutdown: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a stop waits for hand-overs under way; the rest is given back.",
    )


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        msg = "is empty: nothing would ever match; name at least one, or remove the line"
        raise ValueError(msg)
    return values


def _domains(values: tuple[str, ...]) -> tuple[str, ...]:
    """Take domains as addresses have them: lower case, A-labels; `*.` stands for all below."""
    known = []
    for value in values:
        domain = value.removeprefix("*.")
        try:
            address = parse_address(f"x@{domain}", allow_sandbox=True, allow_local_domains=True)
        except AddressInvalid:
            msg = f"{shorten(value)} is no domain; write example.org, or *.example.org"
            raise ValueError(msg) from None
        known.append(value[: -len(domain)] + domain_of(address))
    return tuple(known)


def _priorities(values: tuple[str, ...]) -> tuple[str, ...]:
    names = [priority.name.lower() for priority in Priority]
    for value in values:
        if value not in names:
            near = get_close_matches(value, names, 1)
            cure = f'did you mean "{near[0]}"?' if near else f"write one of {', '.join(names)}"
            msg = f"{shorten(value)} is no priority; {cure}"
            raise ValueError(msg)
    return values


Some = Annotated[Words, AfterValidator(_some)]
Domains = Annotated[Some, AfterValidator(_domains)]
Priorities = Annotated[Some, AfterValidator(_priorities)]


class RuleSettings(Section):
    """A rule: every condition that it has must hold, one of its values each.

    The first rule that matches wins; `default` takes what none did.
    """

    name: Text = Field(
        default="", description="For people; else it goes by its number.", examples=["bulk"]
    )
    tag: Some | None = Field(
        default=None, description="One of the message's tags.", examples=[["newsletter"]]
    )
    template: Some | None = Field(
        default=None, description="Name of its template.", examples=[["welcome"]]
    )
    from_domain: Domains | None = Field(
        default=None,
        description="Domain of From; *.example.org is every one below it.",
        examples=[["example.org", "*.example.org"]],
    )
    recipient_domain: Domains | None = Field(
        default=None,
        description="Likewise; the domains of all its recipients must be among them.",
        examples=[["example.com"]],
    )
    priority: Priorities | None = Field(
        default=None, description="high, normal or low.", examples=[["low"]]
    )
    token: Some | None = Field(
        default=None, description="Name of the token that sent it.", examples=[["shop"]]
    )
    service: Some | None = Field(
        default=None, description="The token's service.", examples=[["shop"]]
    )
    percent: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Of what matches so many percent, chosen by the message's id; the rest "
        "goes on to the next rule.",
        examples=[5],
    )
    chain: Some = Field(
        description='Its next hops: the next one only after a definite "not accepted".',
        examples=[["relay"]],
    )

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.conditions and self.percent in (None, 100):
            msg = "has no condition, so it takes everything; write that as [routing] default"
            raise ValueError(msg)
        return self

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """Its conditions by name, but for `percent`."""
        names = set(RuleSettings.model_fields) - {"name", "percent", "chain"}
        return {name: values for name in names if (values := getattr(self, name))}

    def covers(self, other: "RuleSettings") -> bool:
        """Return whether whatever *other* matches is taken by this rule already."""
        if self.percent not in (None, 100):
            return False
        return all(
            name in other.conditions
            and all(
                value in values or any(_is_below(value, pattern) for pattern in values)
                for value in other.conditions[name]
            )
            for name, values in self.conditions.items()
        )


def _is_below(value: str, pattern: str) -> bool:
    return pattern.startswith("*.") and value.removeprefix("*").endswith(pattern[1:])


def _read_rules(value: object) -> object:
    if not isinstance(value, list | tuple):
        msg = "is a list of tables in emailer.toml, each under [[routing.rules]]"
        raise ValueError(msg)  # noqa: TRY004 (pydantic collects ValueErrors)
    return value


class RoutingSettings(Section):
    """Which next hop takes a message."""

    default: Words = Field(
        default=(),
        description='A chain of next hops, ["relay", "backup"]: the next one only after a '
        'definite "not accepted".',
    )
    rules: Annotated[tuple[RuleSettings, ...], BeforeValidator(_read_rules)] = Field(
        default=(), description="Tried in this order before the default."
    )


class QueueSettings(Section):
    """How a consumer learns that a message is due."""

    kind: Text = Field(
        default="embedded", description="embedded: no broker, the store is asked."
    )

    @field_validator("kind")
    @classmethod
    def _of_this_version(cls, kind: str) -> str:
        if kind in {"forestmq", "nats"}:
            msg = 'is not in this version; write "embedded"'
            raise ValueError(msg)
        if kind != "embedded":
            msg = 'is no kind of queue; write "embedded"'
            raise ValueError(msg)
        return kind


class LeaseSettings(Section):
    """How long a consumer owns a message it is attempting."""

    duration: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="Renewed while its consumer lives; bounds everything before the mark.",
    )


class RetrySettings(Section):
    """When a message that was not accepted is tried again."""

    schedule: Durations = Field(
        default=(
            timedelta(seconds=10),
            timedelta(minutes=1),
            timedelta(minutes=5),
            timedelta(minutes=30),
            timedelta(hours=2),
            timedelta(hours=8),
        ),
        min_length=1,
        description="Waits between attempts; then the last one again until max_age.",
    )
    max_age: Duration = Field(
        default=timedelta(days=3),
        gt=timedelta(0),
        description="After this a message that nobody took has failed: reason exhausted.",
    )
    jitter: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of a wait that chance may add or take, so that retries spread.",
    )

    @field_validator("schedule")
    @classmethod
    def _waits(cls, schedule: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
        if timedelta(0) in schedule:
            msg = "has a wait of 0s, which would try again without end"
            raise ValueError(msg)
        return schedule


class RetentionSettings(Section):
    """How long what is finished is kept."""

    content: Duration = Field(
        default=timedelta(days=7),
        description="Bytes of a message after it is final; then a retry is 409 content_gone. "
        "Never longer than messages.",
    )
    messages: Duration = Field(
        default=timedelta(days=90),
        description="Messages after they are final; one with an Idempotency-Key stays 30 days "
        "at least.",
    )
    events: Duration = Field(default=timedelta(days=90), description="Rows of the event log.")


class AlertSettings(Section):
    """The built-in alerts, for an installation without Prometheus."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="Each alert is posted there as JSON; empty: none.  Such URLs are secrets.",
    )
    allow_http: bool = Field(
        default=False, description="Allow plain http to other hosts than this one."
    )
    mail_to: Text = Field(default="", description="Each alert is mailed there; empty: none.")
    via: Text = Field(
        default="", description="Next hop for that mail; empty: the first of [routing] default."
    )

    @model_validator(mode="after")
    def _is_https(self) -> Self:
        url = self.url.get_secret_value()
        if not url:
            return self
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            msg = "url is no http(s) URL"
            raise ValueError(msg)
        if parts.scheme == "http" and not (self.allow_http or _is_loopback(parts.hostname)):
            msg = (
                "url is plain http to another host: write https, or set allow_http = true "
                "beside it"
            )
            raise ValueError(msg)
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class ImapSettings(Section):
    """The mailbox that bounces come back to, read by the consumer over IMAP."""

    host: Text = Field(default="", description="Server of the mailbox; empty: none is read.")
    port: Whole = Field(
        default=0, ge=0, le=65535, description="0: 993 for implicit, 143 otherwise."
    )
    tls: Literal["implicit", "starttls", "none"] = Field(
        default="implicit",
        description="implicit or starttls, both verified; none: in clear, on loopback only.",
    )
    ca_file: Text = Field(
        default="", description="Certificates to trust, PEM; without it the system's."
    )
    username: Text = Field(default="", description="Who has the mailbox.")
    password: SecretStr = Field(default=SecretStr(""), description="Their password.")
    mailbox: Text = Field(
        default="INBOX", min_length=1, description="Where bounces arrive, and nothing else."
    )
    done: Literal["move", "seen", "delete"] = Field(
        default="move", description="What becomes of a message that was read."
    )
    folder: Text = Field(
        default="Processed", min_length=1, description="Where done = move puts it."
    )
    poll: Duration = Field(
        default=timedelta(minutes=1),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=6),
        description="How often to look; one consumer at a time does.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(minutes=10),
        description="How long the server may say nothing.",
    )

    @field_validator("mailbox", "folder")
    @classmethod
    def _is_ascii(cls, name: str) -> str:
        if not name.isascii():
            msg = (
                f"{shorten(name)} is not ASCII; write the server's own form, modified UTF-7 "
                "(RFC 3501)"
            )
            raise ValueError(msg)
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.host:
            return self
        if not (self.username and self.password.get_secret_value()):
            msg = 'host without username and password; set username and password_file = "/path"'
            raise ValueError(msg)
        if self.tls == "none" and not _is_loopback(self.host):
            msg = 'tls = "none" would show the password to a listener; write "implicit"'
            raise ValueError(msg)
        if self.done == "move" and self.folder == self.mailbox:
            msg = "folder is the mailbox itself: each message would be read for ever"
            raise ValueError(msg)
        return self

    @property
    def effective_port(self) -> int:
        """The port, the usual one where none is set."""
        return self.port or (993 if self.tls == "implicit" else 143)


class SubmissionSettings(Section):
    """Submission by SMTP beside the API, `emailerctl serve --smtp`: docs/submission.md."""

    enabled: bool = Field(default=False, description="Take mail by SMTP, too.")
    host: Text = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all."
    )
    port: Whole = Field(
        default=2587, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    certificate: Text = Field(
        default="",
        description="PEM file with the certificate and its chain; without TLS no password.",
    )
    key: Text = Field(
        default="", description="PEM file of its private key; empty: in the same file."
    )
    hostname: Text = Field(default="", description="What the greeting says; empty: this host.")
    connections: Whole = Field(
        default=200, ge=1, description="At once, in one process; beyond it 421."
    )
    timeout: Duration = Field(
        default=timedelta(minutes=5),
        gt=timedelta(0),
        description="How long a client may say nothing.",
    )

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        if self.enabled and not self.certificate:
            msg = "enabled without certificate: a password is never taken in clear; set both"
            raise ValueError(msg)
        return self


class DkimSettings(Section):
    """Signing what is sent by SMTP: docs/sending.md."""

    keys: Text = Field(
        default="",
        description="Folder of the private keys; empty: beside the store, with the suffix "
        ".dkim.  Back it up apart: no key is in the store.",
    )


def _name_servers(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        host, _, port = value.rpartition(":") if value.count(":") == 1 else (value, "", "53")
        try:
            ip_address(host)
            is_port = port.isdecimal() and 0 < int(port) < 65536
        except ValueError:
            is_port = False
        if not is_port:
            msg = f"{shorten(value)} is no address of a server; write 192.0.2.1 or 192.0.2.1:53"
            raise ValueError(msg)
    return values


class DnsSettings(Section):
    """Who is asked about domains, by `emailerctl domains verify`."""

    servers: Annotated[Words, AfterValidator(_name_servers)] = Field(
        default=(), description="Addresses of name servers; empty: the system's."
    )
    timeout: Duration = Field(
        default=timedelta(seconds=5), gt=timedelta(0), description="For one question."
    )


class BounceSettings(Section):
    """Mail that comes back: docs/bounces.md."""

    imap: ImapSettings = ImapSettings()


class DefaultSettings(Section):
    """What a request may leave out."""

    header_from: Text = Field(
        default="",
        alias="from",
        description='From of messages that name none: "Example <no-reply@example.org>".',
    )
    envelope_sender: Text = Field(
        default="", description="Where bounces go; empty: the From address."
    )
    on_unknown: OnUnknown = Field(
        default=OnUnknown.ASK,
        description='"ask": an operator decides.  "resend": a second copy is accepted.',
    )
    redirect_all_to: Text = Field(
        default="", description="For staging: every recipient becomes this one."
    )


class LogSettings(Section):
    """The process log: one JSON object a line on standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, json elsewhere."
    )
    addresses: Literal["full", "masked", "hashed"] = Field(
        default="full", description="How e-mail addresses are written."
    )
    hash_key: SecretStr = Field(
        default=SecretStr(""),
        description="Key of hashed addresses; without one they can be guessed.",
    )


def _next_hop_name(name: str) -> str:
    if not NAME.fullmatch(name):
        msg = "is no name of a next hop; write a-z, 0-9, _ and -, at most 64 characters"
        raise ValueError(msg)
    return name


def _next_hop(table: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(table.get("kind"), str):
        msg = 'has no kind; write for example kind = "smtp"'
        raise ValueError(msg)  # noqa: TRY004 (pydantic collects ValueErrors)
    return {
        key: SecretStr(value) if is_secret(key) and isinstance(value, str) else value
        for key, value in table.items()
    }


NextHopName = Annotated[str, AfterValidator(_next_hop_name)]
NextHopTable = Annotated[dict[str, Any], AfterValidator(_next_hop)]


class Settings(BaseSettings):
    """Everything that can be set.  Made by `load`; without arguments, the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="EMAILER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    store: StoreSettings = StoreSettings()
    api: ApiSettings = ApiSettings()
    smtp: SubmissionSettings = SubmissionSettings()
    limits: LimitSettings = LimitSettings()
    consumer: ConsumerSettings = ConsumerSettings()
    # The table of each goes to its adapter's own model; secrets in it are `SecretStr`.
    providers: dict[NextHopName, NextHopTable] = Field(
        default_factory=dict, description="The next hops, a table each."
    )
    routing: RoutingSettings = RoutingSettings()
    queue: QueueSettings = QueueSettings()
    lease: LeaseSettings = LeaseSettings()
    retry: RetrySettings = RetrySettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()
    bounces: BounceSettings = BounceSettings()
    dkim: DkimSettings = DkimSettings()
    dns: DnsSettings = DnsSettings()
    defaults: DefaultSettings = DefaultSettings()
    log: LogSettings = LogSettings()

    # Set by `load`: where each key was written, and what is legal and unwise.
    _places: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)
    _warnings: list[str] = PrivateAttr(default_factory=list)

    @property
    def places(self) -> dict[tuple[str, ...], str]:
        """Where what is not a default was written: file and line, variable or flag."""
        return self._places

    @property
    def warnings(self) -> list[str]:
        """What is legal and unwise: for `config check` and the daemons' logs."""
        return self._warnings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given and nothing else: `load` reads the surroundings, and says so."""
        return (init_settings,)
