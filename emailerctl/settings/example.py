"""The commented `emailer.toml`, and its JSON Schema for editors: both from the model."""

import inspect
import json
import textwrap
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from emailerctl.settings.loading import is_table, known_keys, tables
from emailerctl.settings.model import RuleSettings, Section, Settings

_HEAD = """\
# Settings of emailerctl.  Every line that starts with "#" and a name is a setting with its
# default: take the "#" away to change it.  `emailerctl config check` looks at the whole file,
# `emailerctl config show --origin` says where each value comes from.
#
# Order: flags > environment > this file > defaults.  The variable of a setting is
# EMAILER_<TABLE>__<NAME>: EMAILER_API__PORT, EMAILER_PROVIDERS__RELAY__HOST.
# Durations have a unit: 500ms 30s 5m 2h 3d.  A secret can be in a file of mode 0600 instead:
# password_file for password, EMAILER_PROVIDERS__RELAY__PASSWORD_FILE for its variable.
"""

_PROVIDERS = """\
# The next hops, a table each: [providers.NAME].  NAME is yours: a-z, 0-9, _ and -.
#
# kind = "smtp": any SMTP host.
#[providers.relay]
#kind = "smtp"
#host = "smtp.example.org"
#port = 587
# starttls (required, verified), implicit (TLS from the first byte), opportunistic, or none.
#tls = "starttls"
#username = "mailer"
#password_file = "/run/secrets/smtp_password"
# Envelope sender; empty: what the message or [defaults] envelope_sender says.
#return_path = "bounces@example.org"
# Sign it, bounces+<signed id>@example.org, so that a bounce says what it is about and a forged
# one is known for what it is.  The mailbox must take what follows the +; docs/bounces.md.
#verp = false
# How long to wait for the reply after the last byte (RFC 5321: ten minutes).
#final_reply = "600s"
# Of every kind: connection-level failures in a row that open the breaker, and how long the next
# hop is left alone at first.
#breaker_failures = 5
#breaker_pause = "30s"
# Of every kind: so many messages in a time, of all consumers together: 100/s, 1000/h, 5/10m.
#rate = "100/s"
# The same by recipient domain, and for each of the others.
#[providers.relay.domain_rates]
#"gmail.com" = "20/s"
#"*" = "10/s"

# kind = "mailgun": over its HTTP API.
#[providers.mg]
#kind = "mailgun"
#domain = "mg.example.org"
#api_key_file = "/run/secrets/mailgun_api_key"
#base_url = "https://api.eu.mailgun.net"

# kind = "postmark": over its HTTP API.
#[providers.pm]
#kind = "postmark"
#server_token_file = "/run/secrets/postmark_server_token"
#message_stream = "outbound"

# kind = "resend": over its HTTP API.  What it reports needs the webhook's signing secret.
#[providers.rs]
#kind = "resend"
#api_key_file = "/run/secrets/resend_api_key"
#signing_secret_file = "/run/secrets/resend_signing_secret"

# kind = "sendgrid": over its HTTP API.  What it reports needs the public key of its signed
# Event Webhook.
#[providers.sg]
#kind = "sendgrid"
#api_key_file = "/run/secrets/sendgrid_api_key"
#verification_key = "MFkwEwYHKoZIzj0CAQYI..."

# kind = "ses": Amazon SES, API version 2.  What it reports comes through an SNS topic; it knows
# our messages best where a configuration set publishes it.
#[providers.aws]
#kind = "ses"
#region = "eu-west-1"
#access_key_id = "AKIAIOSFODNN7EXAMPLE"
#secret_access_key_file = "/run/secrets/ses_secret_access_key"
#configuration_set = "emailer"
#topic_arn = "arn:aws:sns:eu-west-1:123456789012:ses-events"

# kind = "sandbox": sends nothing, keeps everything, fails on request.
#[providers.try]
#kind = "sandbox"
"""


def build_example() -> str:
    """Return an `emailer.toml` that sets nothing and shows everything."""
    parts = [_HEAD]
    for name in Settings.model_fields:
        if name == "providers":
            parts.append(_PROVIDERS)
        else:
            parts += [
                _build_table(".".join(path), table)
                for path, table in tables().items()
                if path[0] == name and any(key[:-1] == path for key in known_keys())
            ]
    return "\n".join(parts)


def build_schema() -> dict[str, Any]:
    """Return the JSON Schema of `emailer.toml`, for editors."""
    schema = Settings.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "emailer.toml"
    for definition in schema["$defs"].values():
        properties = definition.get("properties", {})
        for key, description in list(properties.items()):
            if description.get("format") == "password":
                properties[f"{key}_file"] = {
                    "type": "string",
                    "description": f"Path of a file of mode 0600 that holds {key}.",
                }
    schema["properties"]["providers"]["additionalProperties"] |= {
        "required": ["kind"],
        "properties": {"kind": {"type": "string"}},
    }
    return schema


def _build_table(name: str, section: type[Section]) -> str:
    lines = [f"# {(section.__doc__ or '').strip()}", f"[{name}]"]
    written = section().model_dump(mode="json", by_alias=True)
    below: list[str] = []
    for field_name, field in section.model_fields.items():
        key = field.alias or field_name
        if is_table(field.annotation):
            continue
        if isinstance(written[key], dict):  # its keys are the operator's
            examples = [f"# {example}" for example in field.examples or ()]
            below.append("\n".join([*_build_comment(field), f"[{name}.{key}]", *examples, ""]))
            continue
        if field_name == "rules":
            lines += _build_rule()
            continue
        lines += _build_comment(field)
        value = "" if field.annotation is SecretStr else written[key]
        lines.append(f"#{key} = {json.dumps(value, ensure_ascii=False)}")
        if field.annotation is SecretStr:
            lines.append(f'#{key}_file = ""')
    return "\n".join(["\n".join(lines) + "\n", *below])


def _build_rule() -> list[str]:
    """Return a commented rule with all that one can have."""
    said = inspect.cleandoc(RuleSettings.__doc__ or "").replace("\n\n", "\n").splitlines()
    lines = [*(f"# {line}" for line in said), "#[[routing.rules]]"]
    for name, field in RuleSettings.model_fields.items():
        lines += _build_comment(field)
        lines.append(f"#{name} = {json.dumps((field.examples or [''])[0])}")
    return lines


def _build_comment(field: FieldInfo) -> list[str]:
    said = field.description or ""
    return textwrap.wrap(
        said, 94, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
