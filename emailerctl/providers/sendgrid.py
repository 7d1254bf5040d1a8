"""SendGrid, v3 Mail Send.

    Sending    https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send
    Errors     https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors, and
               https://support.sendgrid.com/hc/en-us/articles/18322114821403 (4XX API errors)
    Events     https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
    Signature  https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/
               getting-started-event-webhook-security-features
    Limits     1000 recipients, 30 MB, 10 categories of 255 characters, 10,000 bytes of
               custom_args                                                  (read 2026-11-24)

It has no raw endpoint: the message is taken apart and they write it anew, with our Message-ID,
which is a header like any other to them.  Who is in to, cc and bcc is who gets it.

No idempotency: the same request twice is two messages.  Its look-up (Email Activity) is sold
apart and lags; nothing here hangs on it.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import Field, SecretStr, field_validator

from emailerctl.models.message import Attachment, EnvelopeRecipient, Mailbox
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.models.text import shorten
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    Abilities,
    CheckResult,
    Malformed,
    NotVerified,
    Outgoing,
    RejectReason,
    Report,
    ReportKind,
    select_metadata,
    select_tags,
)
from emailerctl.providers.content import Addressed, Content
from emailerctl.providers.http import (
    HttpSettings,
    PartsNextHop,
    find_attempt,
    find_moment,
    find_public_id,
    from_status,
    identify,
    parse_retry_after,
    verify_age,
)
from emailerctl.providers.http_client import Answer, Request, build_json, parse_json
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings


class SendGridSettings(HttpSettings):
    """`[providers.NAME]` with kind = "sendgrid"."""

    kind: Literal["sendgrid"] = "sendgrid"
    base_url: Text = Field(
        default="https://api.sendgrid.com",
        description="Subusers of the EU region: https://api.eu.sendgrid.com",
    )
    api_key: SecretStr = Field(description="A key that may mail.send.")
    verification_key: Text = Field(
        default="",
        description="Public key of its signed Event Webhook; without one, no reports.",
    )

    @field_validator("verification_key")
    @classmethod
    def _is_a_key(cls, key: str) -> str:
        if key:
            _load_key(key)
        return key


def _load_key(text: str) -> EllipticCurvePublicKey:
    """Read SubjectPublicKeyInfo, DER in base64, as SendGrid shows it.

    Raises:
        ValueError: it is none, or of another curve.
    """
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            return key
    except (binascii.Error, ValueError):
        pass
    raise ValueError(f"{shorten(text)} is no public key of SendGrid's, which begins with MFkw")


ABILITIES = Abilities(
    recipients=1000,
    size_bytes=30 * 1024 * 1024,
    tags=10,
    tag_octets=255,
    metadata=20,  # with names and values as long as these it stays below 10,000 bytes
    metadata_name_octets=64,
    metadata_value_octets=400,
    reply_to=1000,
    denied_headers=frozenset({"x-sg-id", "x-sg-eid", "received", "dkim-signature"}),
    traps=(
        "click and open tracking of the account's settings rewrite links and add an image",
        "bounces that come late by mail carry no id of ours: they are matched by address",
    ),
)

# 2 request: our message in their words


def build_request(
    settings: SendGridSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /v3/mail/send."""
    envelope = {
        "to": [_name(mailbox) for mailbox in addressed.to],
        "cc": [_name(mailbox) for mailbox in addressed.cc],
        "bcc": [_name(mailbox) for mailbox in addressed.bcc],
    }
    # Text before HTML, and neither empty: "must be the first indices of the content array".
    bodies = [("text/plain", content.text), ("text/html", content.html)]
    parts = [{"type": type_, "value": body} for type_, body in bodies if body]
    message: dict[str, object] = {
        "personalizations": [{name: who for name, who in envelope.items() if who}],
        "from": _name(content.header_from),
        "reply_to_list": [_name(mailbox) for mailbox in content.reply_to],
        "subject": content.subject,
        "content": parts or [{"type": "text/plain", "value": "\n"}],
        "attachments": [_attach(file) for file in content.attachments],
        "headers": {**dict(content.headers), "Message-ID": content.message_id_header},
        "categories": list(dict.fromkeys(select_tags(ABILITIES, outgoing.tags))),
        "custom_args": {
            **select_metadata(ABILITIES, outgoing.metadata),
            OUR_ID: outgoing.public_id,
            OUR_ATTEMPT: str(outgoing.attempt),
        },
    }
    return Request(
        method="POST",
        path="/v3/mail/send",
        headers={**_authorize(settings), "Content-Type": "application/json"},
        body=build_json({name: value for name, value in message.items() if value}),
    )


def _name(mailbox: Mailbox) -> dict[str, str]:
    return {"email": mailbox.address} | ({"name": mailbox.name} if mailbox.name else {})


def _attach(file: Attachment) -> dict[str, str]:
    attached = {
        "content": base64.b64encode(file.content).decode(),
        "type": file.content_type,
        "filename": file.filename,
    }
    if file.content_id:
        attached |= {"disposition": "inline", "content_id": file.content_id}
    return attached


def _authorize(settings: SendGridSettings) -> dict[str, str]:
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


# 3 classify: their answer in our words

# A 401 all the same; the key is good again when the day or the month is over.
_CREDITS = "maximum credits exceeded"
# A 403: "The from address does not match a verified Sender Identity."
_SENDER = re.compile(r"verified sender identity", re.IGNORECASE)
_ABOUT_TO = re.compile(r"personalizations\.0\.(?:to|cc|bcc)\b")


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: the status decides, `errors` say whom it is about."""
    errors = list(_read_errors(answer))
    says = "; ".join(f"{field}: {message}" if field else message for message, field in errors)
    provider_id = answer.headers.get("x-message-id", "")
    outcome = from_status(answer, says=says, provider_id=provider_id)
    if answer.status == 401 and _CREDITS in says.lower():
        return replace(outcome, kind=Kind.TRANSIENT, alarm=None, is_charged=True)
    if answer.status == 403 and _SENDER.search(says):
        return replace(outcome, alarm=None, is_charged=True)
    if answer.status == 429 and outcome.retry_after_ms is None:
        return replace(outcome, retry_after_ms=_read_reset(answer))
    is_about_to = any(_ABOUT_TO.match(field) for _, field in errors)
    if answer.status == 400 and is_about_to and len(carries) == 1:
        return replace(outcome, party=Party.RECIPIENT)
    return outcome


def _read_errors(answer: Answer) -> Iterable[tuple[str, str]]:
    errors = answer.json.get("errors")
    for error in errors if isinstance(errors, list) else ():
        if isinstance(error, dict):
            yield str(error.get("message") or ""), str(error.get("field") or "")


def _read_reset(answer: Answer) -> int | None:
    """Read X-RateLimit-Reset, a second since 1970, into a wait."""
    reset = answer.headers.get("x-ratelimit-reset", "")
    if not re.fullmatch(r"[0-9]{1,12}", reset):
        return None
    wait_s = max(int(reset) - answer.received_ms // 1000, 0)
    return parse_retry_after(str(wait_s), answer.received_ms)


# 4 send: the only part that touches the network


class SendGrid(PartsNextHop[SendGridSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "sendgrid"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def check(self) -> list[CheckResult]:
        """Ask what the key may do: GET /v3/scopes."""
        results, answer = await self.knock(
            Request(method="GET", path="/v3/scopes", headers=_authorize(self.settings))
        )
        if answer is None:
            return results
        scopes = answer.json.get("scopes")
        may_send = isinstance(scopes, list) and "mail.send" in scopes
        return [
            *results,
            CheckResult("credentials", is_good=True, detail="the key is known"),
            CheckResult(
                "scope",
                is_good=may_send,
                detail="mail.send" if may_send else "the key may not mail.send",
            ),
        ]


# 5 reports: what they tell us later

# What was refused is repeated for up to 24 hours; whether it is signed anew then is not said.
# The signature covers the body, and each event comes once by its own id: a replay is nothing.
_REPEATED_MS = 24 * 3_600_000 + 5 * 60_000

_SIGNATURE = "x-twilio-email-event-webhook-signature"
_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"


class SendGridReports:
    """The signed Event Webhook: ECDSA P-256 with SHA-256 over timestamp and raw body."""

    def __init__(self, settings: SendGridSettings) -> None:
        """Take the public key."""
        key = settings.verification_key
        self._key = _load_key(key) if key else None

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the signature; return what names this call."""
        if self._key is None:
            raise NotVerified("no verification_key is configured")
        timestamp, given = headers.get(_TIMESTAMP, ""), headers.get(_SIGNATURE, "")
        if not re.fullmatch(r"[0-9]{1,12}", timestamp) or not given:
            raise NotVerified("no timestamp or signature with the report")
        try:
            signature = base64.b64decode(given, validate=True)
            self._key.verify(signature, timestamp.encode() + body, ECDSA(SHA256()))
        except (binascii.Error, ValueError, InvalidSignature):
            raise NotVerified("the signature is wrong") from None
        verify_age(int(timestamp) * 1000, now_ms, within_ms=_REPEATED_MS)
        return identify(timestamp, body)

    def parse(self, body: bytes) -> list[Report]:
        """Read one call: a list of events."""
        events = parse_json(body)
        if not isinstance(events, list):
            raise Malformed("no list of events in the report")
        return [_read_event(event) for event in events if isinstance(event, dict)]


_KINDS: Mapping[str, ReportKind] = {
    "processed": ReportKind.QUEUED,
    "deferred": ReportKind.DEFERRED,
    "delivered": ReportKind.DELIVERED,
    "bounce": ReportKind.BOUNCED,
    "dropped": ReportKind.REJECTED,
    "open": ReportKind.OPENED,
    "click": ReportKind.CLICKED,
    "spamreport": ReportKind.COMPLAINED,
    "unsubscribe": ReportKind.UNSUBSCRIBED,
    "group_unsubscribe": ReportKind.UNSUBSCRIBED,
    "group_resubscribe": ReportKind.SUBSCRIBED,
}
# `dropped`, by reason, lower case: why, and whether the address is dead.
_DROPPED: Mapping[str, tuple[RejectReason, bool]] = {
    "bounced address": (RejectReason.BOUNCED, True),
    "invalid": (RejectReason.INVALID, True),
    "unsubscribed address": (RejectReason.UNSUBSCRIBED, False),
    "spam reporting address": (RejectReason.SPAM, False),
    "spam content": (RejectReason.BLOCKED, False),
}
# `bounce`, by type
_BOUNCED: Mapping[str, tuple[RejectReason, bool]] = {
    "bounce": (RejectReason.BOUNCED, True),
    "blocked": (RejectReason.BLOCKED, False),
    "expired": (RejectReason.TIMED_OUT, False),
}


def _read_event(event: dict[str, Any]) -> Report:
    name = str(event.get("event", ""))
    kind = _KINDS.get(name, ReportKind.UNKNOWN)
    reason: RejectReason | None = None
    is_hard = False
    if name == "dropped":
        said = str(event.get("reason", "")).lower()
        reason, is_hard = _DROPPED.get(said, (RejectReason.OTHER, False))
    elif name == "bounce":
        said = str(event.get("type", ""))
        reason, is_hard = _BOUNCED.get(said, (RejectReason.OTHER, False))
        if is_hard and event.get("bounce_classification") == "Invalid Address":
            reason = RejectReason.INVALID
    elif kind is ReportKind.COMPLAINED:
        reason = RejectReason.SPAM
    message_id = str(event.get("sg_message_id") or "")
    return Report(
        kind=kind,
        event_id=str(event.get("sg_event_id") or "")
        or identify(*sorted(map(str, event.items()))),
        recipient=str(event.get("email", "")),
        at_ms=find_moment(event.get("timestamp")),
        public_id=find_public_id(event.get(OUR_ID), event.get("smtp-id")),
        attempt=find_attempt(event),
        provider_message_id=message_id.partition(".")[0],  # as in X-Message-Id
        reject_reason=reason,
        is_hard=is_hard,
        reply=clean(_find_words(event)),
        raw=event,
    )


def _find_words(event: Mapping[str, Any]) -> str:
    said = str(event.get("response") or event.get("reason") or "")
    status = str(event.get("status") or "")
    return said if not status or status in said else f"{status} {said}"
