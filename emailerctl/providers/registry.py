"""Kinds of next hops to their adapters: one line each."""

import difflib
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import SecretStr, ValidationError

from emailerctl.errors import ConfigurationError
from emailerctl.models.clock import Clock, to_ms
from emailerctl.providers.base import Abilities, Provider, Reports
from emailerctl.providers.brevo import Brevo, BrevoReports, BrevoSettings
from emailerctl.providers.hop_settings import HopSettings
from emailerctl.providers.http import HttpNextHop, HttpSettings
from emailerctl.providers.mailgun import Mailgun, MailgunReports, MailgunSettings
from emailerctl.providers.mailjet import Mailjet, MailjetReports, MailjetSettings
from emailerctl.providers.postmark import Postmark, PostmarkReports, PostmarkSettings
from emailerctl.providers.resend import Resend, ResendReports, ResendSettings
from emailerctl.providers.sandbox import Sandbox, SandboxSettings
from emailerctl.providers.sendgrid import SendGrid, SendGridReports, SendGridSettings
from emailerctl.providers.ses import Ses, SesReports, SesSettings
from emailerctl.providers.smtp import Smtp, SmtpSettings
from emailerctl.providers.sparkpost import SparkPost, SparkPostReports, SparkPostSettings
from emailerctl.settings import Section

# Kinds of the contract that later versions bring.
NOT_YET: frozenset[str] = frozenset()

_PRE_MARK_MS = (
    300_000  # everything before the mark, unless the adapter's settings say otherwise
)


@dataclass(frozen=True, slots=True)
class Built:
    """A next hop ready for use, and what delivery must know of it.

    Attributes:
        is_doubtful: it can neither be looked up nor replayed: an unknown waits for an operator.
        is_signed: what goes there is signed with the key of its From domain (DKIM).
    """

    provider: Provider
    final_reply_ms: int
    deadline_ms: int
    concurrency: int
    is_doubtful: bool
    is_signed: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of next hop: its settings' model, and what is built from them.

    Attributes:
        build: from name, settings, connections and clock.
        reports: from settings; None: it tells nothing later.
        abilities: None: it takes whatever can be a message, or says so when it is connected.
    """

    settings: type[HopSettings]
    build: Callable[[str, Any, int, Clock], Built]
    reports: Callable[[Any], Reports] | None = None
    abilities: Abilities | None = None


def _build_smtp(name: str, settings: SmtpSettings, concurrency: int, clock: Clock) -> Built:
    connections = settings.connections or concurrency
    return Built(
        provider=Smtp(name, settings, clock=clock, connections=connections),
        final_reply_ms=to_ms(settings.final_reply),
        deadline_ms=_PRE_MARK_MS,
        concurrency=connections,
        is_doubtful=True,
        is_signed=settings.dkim,
    )


def _build_sandbox(name: str, _settings: SandboxSettings, concurrency: int, _: Clock) -> Built:
    return Built(
        provider=Sandbox(name),
        final_reply_ms=to_ms(timedelta(seconds=1)),
        deadline_ms=_PRE_MARK_MS,
        concurrency=concurrency,
        is_doubtful=False,
    )


def _over_http(
    adapter: type[HttpNextHop[Any]],
    settings: type[HttpSettings],
    reports: Callable[[Any], Reports] | None = None,
) -> Kind:
    """Return the kind of an adapter that is reached over HTTP: they are all built alike."""

    def build(name: str, table: HttpSettings, concurrency: int, clock: Clock) -> Built:
        connections = table.connections or concurrency
        abilities = adapter.abilities
        return Built(
            provider=adapter(name, table, connections=connections, clock=clock),
            final_reply_ms=to_ms(table.final_reply),
            deadline_ms=to_ms(table.send_timeout),
            concurrency=connections,
            is_doubtful=abilities.look_up_lag_ms is None and abilities.idempotency is None,
        )

    return Kind(settings, build, reports, adapter.abilities)


KINDS: Mapping[str, Kind] = {
    "smtp": Kind(SmtpSettings, _build_smtp),
    "sandbox": Kind(SandboxSettings, _build_sandbox),
    "mailgun": _over_http(Mailgun, MailgunSettings, MailgunReports),
    "postmark": _over_http(Postmark, PostmarkSettings, PostmarkReports),
    "brevo": _over_http(Brevo, BrevoSettings, BrevoReports),
    "sparkpost": _over_http(SparkPost, SparkPostSettings, SparkPostReports),
    "mailjet": _over_http(Mailjet, MailjetSettings, MailjetReports),
    "resend": _over_http(Resend, ResendSettings, ResendReports),
    "sendgrid": _over_http(SendGrid, SendGridSettings, SendGridReports),
    "ses": _over_http(Ses, SesSettings, SesReports),
}


def parse_tables(
    tables: Mapping[str, Mapping[str, Any]],
    *,
    locate: Callable[[str], str] = lambda _key: "",
) -> dict[str, tuple[Kind, HopSettings]]:
    """Give each next hop's table to its own model.

    Args:
        locate: says where a dotted key was set, for the error.

    Raises:
        ConfigurationError: every fault of every table, with key and place.
    """
    parsed: dict[str, tuple[Kind, HopSettings]] = {}
    faults: list[str] = []
    for name, table in tables.items():
        key = f"providers.{name}"
        kind = KINDS.get(str(table.get("kind", "")))
        if kind is None:
            faults.append(_place(f"{key}.kind", locate) + _explain_kind(table.get("kind")))
            continue
        try:
            parsed[name] = (kind, kind.settings.model_validate(dict(table)))
        except ValidationError as error:
            faults += [
                _place(".".join([key, *(str(part) for part in e["loc"])]), locate)
                + _explain(e["type"], e["msg"], e["loc"], kind.settings)
                for e in error.errors(include_url=False, include_input=False)
            ]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return parsed


def _place(key: str, locate: Callable[[str], str]) -> str:
    place = locate(key) or locate(key.rpartition(".")[0])
    return f"{place}: {key}: " if place else f"{key}: "


def _explain_kind(kind: object) -> str:
    if not kind:
        return f"is missing; write one of {', '.join(sorted(KINDS))}"
    if kind in NOT_YET:
        return f'"{kind}" is not in this version; it has {", ".join(sorted(KINDS))}'
    near = difflib.get_close_matches(str(kind), [*KINDS, *NOT_YET], n=1)
    suggestion = f'; did you mean "{near[0]}"?' if near else ""
    return f'"{kind}" is no kind of next hop{suggestion}'


def _explain(type_: str, message: str, loc: tuple[Any, ...], model: type[Section]) -> str:
    if type_ == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[0]), model.model_fields, n=1)
        return "is not a setting" + (f'; did you mean "{near[0]}"?' if near else "")
    if type_ == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")


def hash_settings(settings: Section, salt: str) -> str:
    """Return what tells a next hop's settings apart without showing them, secrets included."""
    values = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings
    }
    text = repr(sorted(values.items())).encode()
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:16]
