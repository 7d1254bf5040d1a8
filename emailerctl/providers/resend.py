"""Resend.

    Sending    https://resend.com/docs/api-reference/emails/send-email, and
               github.com/resend/resend-openapi
    Keys       https://resend.com/docs/dashboard/emails/idempotency-keys: 24 h, 256 characters
    Errors     https://resend.com/docs/api-reference/errors
    Files      https://resend.com/docs/knowledge-base/what-attachment-types-are-not-supported
    Webhooks   https://resend.com/docs/webhooks/event-types; signatures:
               https://docs.svix.com/receiving/verifying-payloads/how-manual
    Limits     50 recipients, 40 MB after base64; tags of a-z A-Z 0-9 _ - and 256 characters
                                                                            (read 2026-11-24)

It has no raw endpoint: the message is taken apart, and they write it anew, with a Message-ID of
their own (they send through Amazon SES).  Who is in to, cc and bcc is who gets it.  A second
request with the key of the first changes nothing for 24 hours: doubt ends by asking again.

Their events say which message, and not which of its recipients they are about
(github.com/resend/resend-python/issues/68): a request for one recipient carries his number.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parseaddr
from hashlib import sha256
from mimetypes import MimeTypes
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from emailerctl.models.message import Attachment, EnvelopeRecipient
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    OUR_RECIPIENT,
    OUR_TAG,
    Abilities,
    CheckResult,
    Idempotency,
    Malformed,
    NotVerified,
    Outgoing,
    RejectReason,
    Report,
    ReportKind,
    select_metadata,
    select_tags,
)
from emailerctl.providers.content import Addressed, Content, write_mailbox
from emailerctl.providers.http import (
    HttpSettings,
    PartsNextHop,
    build_key,
    find_attempt,
    find_moment,
    find_number,
    find_object,
    find_public_id,
    from_status,
    identify,
    verify_age,
)
from emailerctl.providers.http_client import Answer, Request, build_json, parse_json
from emailerctl.providers.ses import DENIED_SUFFIXES, read_bounce
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings


class ResendSettings(HttpSettings):
    """`[providers.NAME]` with kind = "resend"."""

    kind: Literal["resend"] = "resend"
    base_url: Text = Field(default="https://api.resend.com", description="Where its API is.")
    api_key: SecretStr = Field(description="A key with sending access.")
    signing_secret: SecretStr = Field(
        default=SecretStr(""), description="Of its webhook, whsec_…; without one, no reports."
    )

    @field_validator("signing_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr) -> SecretStr:
        try:
            _decode(secret)
        except binascii.Error:
            raise ValueError("is no signing secret; it begins with whsec_") from None
        return secret


def _decode(secret: SecretStr) -> bytes:
    said = secret.get_secret_value().removeprefix("whsec_")
    return base64.b64decode(said, validate=True)


ABILITIES = Abilities(
    recipients=50,
    size_bytes=40 * 1024 * 1024,
    denied_suffixes=DENIED_SUFFIXES,
    tags=1,
    tag_octets=256,
    metadata=20,  # how many is not said
    metadata_name_octets=256,
    metadata_value_octets=256,
    has_plain_labels=True,
    idempotency=Idempotency(field="Idempotency-Key", window_ms=24 * 3_600_000),
    traps=(
        "Resend writes a Message-ID of its own, instead of ours",
        "of a message to several recipients Resend's reports do not say whom they are about",
    ),
)

# 2 request: our message in their words

_TYPES = MimeTypes()  # Python's own table: the same on every host


def build_request(
    settings: ResendSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /emails."""
    message: dict[str, object] = {
        "from": write_mailbox(content.header_from),
        "to": [write_mailbox(mailbox) for mailbox in addressed.to],
        "cc": [write_mailbox(mailbox) for mailbox in addressed.cc],
        "bcc": [mailbox.address for mailbox in addressed.bcc],
        "reply_to": [write_mailbox(mailbox) for mailbox in content.reply_to],
        "text": content.text,
        "html": content.html,
        "headers": dict(content.headers),
        "attachments": [_attach(file) for file in content.attachments],
    }
    tag = next(iter(select_tags(ABILITIES, outgoing.tags)), "")
    labels = {
        **select_metadata(ABILITIES, outgoing.metadata),
        **({OUR_TAG: tag} if tag else {}),
        OUR_ID: outgoing.public_id,
        OUR_ATTEMPT: str(outgoing.attempt),
    }
    if len(addressed.carried) == 1:
        labels[OUR_RECIPIENT] = str(addressed.carried[0].n)
    body = {name: value for name, value in message.items() if value} | {
        "subject": content.subject,
        "tags": [{"name": name, "value": value} for name, value in labels.items()],
    }
    return Request(
        method="POST",
        path="/emails",
        headers={
            **_authorize(settings),
            "Content-Type": "application/json",
            "Idempotency-Key": build_key(outgoing),
        },
        body=build_json(body),
    )


def _attach(file: Attachment) -> dict[str, str]:
    """Describe a file; no type that its name contradicts, and no file without a name.

    Resend takes messages with either and then drops them without a word (django-anymail 15.2,
    backends/resend.py, read 2026-11-24).
    """
    type_ = file.content_type.partition(";")[0].strip().lower()
    filename = file.filename or f"attachment{_TYPES.guess_extension(type_) or '.bin'}"
    attached = {"filename": filename, "content": base64.b64encode(file.content).decode()}
    if _TYPES.guess_type(filename)[0] in (None, type_):
        attached["content_type"] = file.content_type
    return attached | ({"content_id": file.content_id} if file.content_id else {})


def _authorize(settings: ResendSettings) -> dict[str, str]:
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


# 3 classify: their answer in our words

_SECURITY = 451  # "We may have found a security issue with the request"
# A 403 that is not about the key: the From domain is not verified, or only testing is allowed.
_ABOUT_THE_DOMAIN = frozenset({"validation_error", "invalid_from_address"})
_ABOUT_THE_ACCOUNT = frozenset({"invalid_region", "invalid_access"})
_ABOUT_TO = ("`to`", "`cc`", "`bcc`")


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: the status decides, `name` says whom it is about."""
    name = str(answer.json.get("name") or "")
    says = str(answer.json.get("message") or "")
    outcome = from_status(
        answer, says=f"{name} {says}".strip(), provider_id=str(answer.json.get("id") or "")
    )
    if answer.status == _SECURITY and name:
        return replace(outcome, kind=Kind.PERMANENT, party=Party.NEXT_HOP)
    if answer.status == 403 and name in _ABOUT_THE_DOMAIN:
        return replace(outcome, alarm=None, is_charged=True)
    if answer.status == 422 and name in _ABOUT_THE_ACCOUNT:
        return replace(outcome, party=Party.NEXT_HOP)
    is_refusal = answer.status in (400, 422)
    if is_refusal and len(carries) == 1 and any(field in says for field in _ABOUT_TO):
        return replace(outcome, party=Party.RECIPIENT)
    return outcome


# 4 send: the only part that touches the network

# "This API key is restricted to only send emails": the best key to have.
_SENDING_KEY = "restricted to only send"


class Resend(PartsNextHop[ResendSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "resend"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def check(self) -> list[CheckResult]:
        """Ask for the domains: GET /domains."""
        results, answer = await self.knock(
            Request(method="GET", path="/domains", headers=_authorize(self.settings))
        )
        if answer is None and _SENDING_KEY in results[-1].detail:
            said = "a key that may only send: the domains can't be listed"
            return [*results[:-1], CheckResult("credentials", is_good=True, detail=said)]
        if answer is None:
            return results
        domains = answer.json.get("data")
        return [
            *results,
            CheckResult("credentials", is_good=True, detail="the key is known"),
            *(
                CheckResult(
                    "domain",
                    is_good=domain.get("status") == "verified",
                    detail=f"{domain.get('name')}: {domain.get('status')}",
                )
                for domain in (domains if isinstance(domains, list) else ())
                if isinstance(domain, dict)
            ),
        ]


# 5 reports: what they tell us later


class ResendReports:
    """Webhooks by Svix: HMAC-SHA256 over id, timestamp and body."""

    def __init__(self, settings: ResendSettings) -> None:
        """Take the signing secret."""
        self._key = _decode(settings.signing_secret)

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the signature; return the call's id: a repeated call has the same."""
        if not self._key:
            raise NotVerified("no signing_secret is configured")
        id_, timestamp, given = (
            headers.get(f"svix-{name}") or headers.get(f"webhook-{name}", "")
            for name in ("id", "timestamp", "signature")
        )
        is_moment = re.fullmatch(r"[0-9]{1,12}", timestamp)
        if not 0 < len(id_) <= 100 or not is_moment or not given:
            raise NotVerified("no id, timestamp or signature with the report")
        signed = b"%b.%b." % (id_.encode(errors="replace"), timestamp.encode()) + body
        expected = base64.b64encode(hmac.digest(self._key, signed, sha256))
        versions = (one.partition(",") for one in given.split(" "))
        matches = [
            hmac.compare_digest(expected, signature.encode(errors="replace"))
            for version, _, signature in versions
            if version == "v1"
        ]
        if not any(matches):
            raise NotVerified("the signature is wrong")
        verify_age(int(timestamp) * 1000, now_ms)
        return id_

    def parse(self, body: bytes) -> list[Report]:
        """Read one webhook call."""
        event = parse_json(body)
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise Malformed("no type in the report")
        return [_read_event(event)]


_KINDS: Mapping[str, ReportKind] = {
    "email.scheduled": ReportKind.QUEUED,
    "email.sent": ReportKind.SENT,
    "email.delivered": ReportKind.DELIVERED,
    "email.delivery_delayed": ReportKind.DEFERRED,
    "email.complained": ReportKind.COMPLAINED,
    "email.bounced": ReportKind.BOUNCED,
    "email.failed": ReportKind.REJECTED,
    "email.suppressed": ReportKind.REJECTED,
    "email.opened": ReportKind.OPENED,
    "email.clicked": ReportKind.CLICKED,
}


def _read_event(event: dict[str, Any]) -> Report:
    type_ = event["type"]
    kind = _KINDS.get(type_, ReportKind.UNKNOWN)
    data = find_object(event, "data")
    what = find_object(data, type_.removeprefix("email."))
    reason: RejectReason | None = None
    is_hard = False
    if kind is ReportKind.BOUNCED:
        what = find_object(data, "bounce")
        kind, reason, is_hard = read_bounce(what, type_="type", sub_type="subType")
    elif kind is ReportKind.COMPLAINED:
        reason = RejectReason.SPAM
    elif type_ == "email.suppressed":
        reason = RejectReason.BLOCKED
    elif type_ == "email.failed":
        reason = RejectReason.OTHER
    labels = _read_tags(data.get("tags"))
    n = find_number(labels.get(OUR_RECIPIENT))
    to = data.get("to") if n is not None else None
    return Report(
        kind=kind,
        event_id=identify(
            type_, data.get("email_id"), event.get("created_at"), find_object(data, "click")
        ),
        recipient=parseaddr(str(to[0]))[1] if isinstance(to, list) and to else "",
        at_ms=find_moment(event.get("created_at")),
        public_id=find_public_id(labels.get(OUR_ID)),
        n=n,
        attempt=find_attempt(labels),
        provider_message_id=str(data.get("email_id", "")),
        reject_reason=reason,
        is_hard=is_hard,
        reply=clean(_find_words(what)),
        raw=event,
    )


def _find_words(what: Mapping[str, Any]) -> str:
    code = what.get("diagnosticCode")
    said = code[0] if isinstance(code, list) and code else code
    return str(said or what.get("message") or what.get("reason") or "")


def _read_tags(tags: object) -> Mapping[str, Any]:
    """Read tags: an object, or as they were sent."""
    if isinstance(tags, list):
        return {str(t.get("name")): t.get("value") for t in tags if isinstance(t, dict)}
    return tags if isinstance(tags, dict) else {}
