"""Mailgun.

    Sending    https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages/post-v3--domain-name--messages-mime
    Errors     https://documentation.mailgun.com/docs/mailgun/api-reference/mg-auth (HTTP codes)
    Events     https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/events
    Webhooks   https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks
    Limits     1000 recipients, 25 MB a message, 16 kB of o: h: v: t: in all, 10 tags
                                                                            (read 2026-11-24)

The raw endpoint: our bytes go out, with our Message-ID and Date; the recipients are the `to`
fields, whatever the header says, so that a retry for some of them is the same message.  Mailgun
adds Received, DKIM-Signature and X-Mailgun-*, and its own envelope sender.

No idempotency: the same request twice is two messages.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator

from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.models.text import shorten
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    Abilities,
    CheckResult,
    Finding,
    LookUp,
    Malformed,
    NotVerified,
    Outgoing,
    RejectReason,
    Report,
    ReportKind,
    select_metadata,
    select_tags,
)
from emailerctl.providers.http import (
    HttpNextHop,
    HttpSettings,
    find_attempt,
    find_moment,
    find_object,
    find_public_id,
    from_status,
    verify_age,
)
from emailerctl.providers.http_client import (
    Answer,
    Request,
    Unreachable,
    build_basic_auth,
    build_multipart,
    parse_json,
)
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings

_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*\.?)+")


class MailgunSettings(HttpSettings):
    """`[providers.NAME]` with kind = "mailgun"."""

    kind: Literal["mailgun"] = "mailgun"
    base_url: Text = Field(
        default="https://api.mailgun.net",
        description="In the EU region: https://api.eu.mailgun.net",
    )
    api_key: SecretStr = Field(description="Of the account, or a sending key of the domain.")
    domain: Text = Field(description="The sending domain, as Mailgun knows it.")
    signing_key: SecretStr = Field(
        default=SecretStr(""), description="HTTP webhook signing key; without one, no reports."
    )

    @field_validator("domain")
    @classmethod
    def _is_a_domain(cls, domain: str) -> str:
        if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
            raise ValueError(
                f"{shorten(domain)} is no domain; write for example mg.example.org"
            )
        return domain


ABILITIES = Abilities(
    recipients=1000,
    size_bytes=25 * 1024 * 1024,
    tags=10,
    tag_octets=128,
    metadata=20,  # with names and values as long as these it stays below 16 kB
    metadata_name_octets=64,
    metadata_value_octets=500,
    has_raw=True,
    has_envelope=True,
    # User manual, event polling: an event may be missing until it is half an hour old.
    look_up_lag_ms=30 * 60_000,
)

# 2 request: our message in their words


def build_request(settings: MailgunSettings, outgoing: Outgoing) -> Request:
    """Render *outgoing* for POST /v3/{domain}/messages.mime."""
    metadata = select_metadata(ABILITIES, outgoing.metadata)
    fields = [
        *(("to", recipient.address) for recipient in outgoing.recipients),
        (f"v:{OUR_ID}", outgoing.public_id),
        (f"v:{OUR_ATTEMPT}", str(outgoing.attempt)),
        *((f"v:{name}", value) for name, value in metadata.items()),
        *(("o:tag", tag) for tag in select_tags(ABILITIES, outgoing.tags)),
    ]
    file = ("message", "message.mime", "message/rfc822", outgoing.raw)
    content_type, body = build_multipart(fields, [file])
    return Request(
        method="POST",
        path=f"/v3/{quote(settings.domain)}/messages.mime",
        headers={"Authorization": _authorize(settings), "Content-Type": content_type},
        body=body,
        carries=outgoing.recipients,
    )


def _authorize(settings: MailgunSettings) -> str:
    return build_basic_auth("api", settings.api_key.get_secret_value())


# 3 classify: their answer in our words

# "402 Request Failed: parameters were valid but request failed" (API reference, status codes).
DEFINITE = frozenset({402})

# Sentences of a 400 or 403 that are about the account or the domain, not about the message
# (support articles "Why is my message not accepted?", "Sandbox domain", read 2026-11-24).
_ABOUT_THE_ACCOUNT = re.compile(
    r"sandbox|free account|not allowed to send|disabled|suspended|probation|upgrade|activate",
    re.IGNORECASE,
)
_ABOUT_TO = re.compile(r"'?\bto\b'? parameter is not a valid", re.IGNORECASE)


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: the status decides, `message` says whom a 400 is about."""
    says = str(answer.json.get("message", ""))
    id_ = answer.json.get("id")
    provider_id = id_.strip("<>") if isinstance(id_, str) else ""
    outcome = from_status(answer, definite=DEFINITE, says=says, provider_id=provider_id)
    if answer.status == 400 and _ABOUT_THE_ACCOUNT.search(says):
        return _about(outcome, Party.NEXT_HOP)
    if answer.status == 400 and _ABOUT_TO.search(says) and len(carries) == 1:
        return _about(outcome, Party.RECIPIENT)
    return outcome


def _about(outcome: Outcome, party: Party) -> Outcome:
    return Outcome(kind=Kind.PERMANENT, party=party, code=outcome.code, reply=outcome.reply)


# 4 send: the only part that touches the network

_EVENTS = 300  # of one answer, at most
_ASKED_ONE_BY_ONE = 20  # of the rest it is not found out


class Mailgun(HttpNextHop[MailgunSettings]):
    """The adapter: build, exchange, classify."""

    kind = "mailgun"
    abilities = ABILITIES

    def build(self, outgoing: Outgoing) -> Request:
        """Say *outgoing* in their words."""
        return build_request(self.settings, outgoing)

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Ask the events API: by Message-ID, then for whom that missed by address.

        Our variable decides in either: a "no" must not hang on a Message-ID that was rewritten.
        """
        events = await self._list_events(wanted, ("message-id", wanted.message_id_header))
        if events is None:
            return {}
        found = dict(read_events(events, wanted))
        missing = [r for r in wanted.recipients if not found[r.n].is_there]
        for recipient in missing:
            del found[recipient.n]
        for recipient in missing[:_ASKED_ONE_BY_ONE]:
            events = await self._list_events(wanted, ("recipient", recipient.address))
            if events is not None:
                found[recipient.n] = read_events(events, wanted)[recipient.n]
        return found

    async def _list_events(self, wanted: LookUp, by: tuple[str, str]) -> list[Any] | None:
        """Return the events since the attempt; None where they can't be had, or not all."""
        request = Request(
            method="GET",
            path=f"/v3/{quote(self.settings.domain)}/events",
            query=(
                by,
                ("begin", str(wanted.since_ms // 1000 - 60)),  # their clock is not ours
                ("ascending", "yes"),
                ("limit", str(_EVENTS)),
            ),
            headers={"Authorization": _authorize(self.settings)},
        )
        try:
            answer = await self.client.ask(request)
        except Unreachable:
            return None
        items = answer.json.get("items")
        if answer.status != 200 or not isinstance(items, list) or len(items) >= _EVENTS:
            return None
        return items

    async def check(self) -> list[CheckResult]:
        """Ask for the domain: GET /v4/domains/{name}."""
        request = Request(
            method="GET",
            path=f"/v4/domains/{quote(self.settings.domain)}",
            headers={"Authorization": _authorize(self.settings)},
        )
        results, answer = await self.knock(request)
        if answer is None and results[-1].name == "credentials":
            cure = "a sending key may not read, and can still send: try a message"
            return [*results[:-1], replace(results[-1], cure=cure)]
        if answer is None and results[-1].name == "connection":
            return results
        if answer is None:
            return [*results[:-1], replace(results[-1], name="domain")]
        domain = find_object(answer.json, "domain")
        state = str(domain.get("state") or "not said")
        bad = [
            f"{record.get('record_type')} {record.get('name')}"
            for record in answer.json.get("sending_dns_records") or ()
            if isinstance(record, dict)
            and record.get("record_type") == "TXT"  # SPF and DKIM; CNAME is for tracking
            and record.get("valid") != "valid"
        ]
        return [
            *results,
            CheckResult("credentials", is_good=True, detail="the key is known"),
            CheckResult("domain", is_good=state == "active", detail=state),
            CheckResult(
                "dns",
                is_good=not bad,
                detail=f"not as they should be: {', '.join(bad)}" if bad else "valid",
                cure="enter the records that Mailgun shows for the domain",
            ),
        ]


def read_events(items: list[Any], wanted: LookUp) -> Mapping[int, Finding]:
    """Say of each recipient whether an event names it: then Mailgun has the message.

    Events of other attempts count too: a copy went out, whichever of them it was.
    """
    found: dict[str, Finding] = {}
    for item in items:
        report = _read_event(item) if isinstance(item, dict) else None
        if report is None or report.public_id != wanted.public_id:
            continue
        if report.kind is ReportKind.REJECTED and report.reject_reason is None:
            continue  # "rejected": not taken (a malformed request, a virus)
        found[report.recipient.casefold()] = Finding(
            is_there=True,
            provider_message_id=report.provider_message_id,
            attempt=report.attempt,
            detail=f"event {item.get('event')}",
        )
    missing = Finding(is_there=False, detail="no event names it")
    return {r.n: found.get(r.address.casefold(), missing) for r in wanted.recipients}


# 5 reports: what they tell us later


class MailgunReports:
    """Webhooks: HMAC-SHA256 of timestamp and token, with the signing key.

    The signature does not cover the body, so a token may come once only: `verify` returns it.
    """

    def __init__(self, settings: MailgunSettings) -> None:
        """Take the signing key."""
        self._key = settings.signing_key.get_secret_value().encode()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the signature in the body; return its token."""
        if not self._key:
            raise NotVerified("no signing_key is configured")
        call = parse_json(body)
        signature = call.get("signature") if isinstance(call, dict) else None
        if not isinstance(signature, dict):
            raise NotVerified("no signature in the report")
        timestamp, token, given = (
            str(signature.get(name, "")) for name in ("timestamp", "token", "signature")
        )
        if not re.fullmatch(r"[0-9]{1,12}", timestamp) or not 0 < len(token) <= 100:
            raise NotVerified("the signature has no timestamp or no token")
        expected = hmac.new(self._key, (timestamp + token).encode(), sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise NotVerified("the signature is wrong")
        verify_age(int(timestamp) * 1000, now_ms)
        return token

    def parse(self, body: bytes) -> list[Report]:
        """Read one webhook call."""
        call = parse_json(body)
        event = call.get("event-data") if isinstance(call, dict) else None
        if not isinstance(event, dict):
            raise Malformed("no event-data in the report")
        return [_read_event(event)]


_KINDS: Mapping[str, ReportKind] = {
    "accepted": ReportKind.QUEUED,
    "rejected": ReportKind.REJECTED,
    "delivered": ReportKind.DELIVERED,
    "opened": ReportKind.OPENED,
    "clicked": ReportKind.CLICKED,
    "unsubscribed": ReportKind.UNSUBSCRIBED,
    "complained": ReportKind.COMPLAINED,
}
# `failed`, severity permanent, by reason: kind, why, and whether the address is dead.
_FAILED: Mapping[str, tuple[ReportKind, RejectReason, bool]] = {
    "bounce": (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    "suppress-bounce": (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    "suppress-complaint": (ReportKind.REJECTED, RejectReason.SPAM, False),
    "suppress-unsubscribe": (ReportKind.REJECTED, RejectReason.UNSUBSCRIBED, False),
    "espblock": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "blocked": (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    "old": (ReportKind.BOUNCED, RejectReason.TIMED_OUT, False),
}


def _read_event(event: dict[str, Any]) -> Report:
    """Read an event: the same shape in webhooks and in the events API."""
    name = str(event.get("event", ""))
    kind = _KINDS.get(name, ReportKind.UNKNOWN)
    reason: RejectReason | None = None
    is_hard = False
    if name == "failed" and event.get("severity") == "temporary":
        kind = ReportKind.DEFERRED
    elif name == "failed":
        kind, reason, is_hard = _FAILED.get(
            str(event.get("reason", "")), (ReportKind.BOUNCED, RejectReason.OTHER, False)
        )
    variables = find_object(event, "user-variables")
    header = str(find_object(event, "message", "headers").get("message-id", ""))
    return Report(
        kind=kind,
        # "unique within a day" (event structure): with its moment, for ever
        event_id=f"{event.get('timestamp', '')}:{event.get('id', '')}",
        recipient=str(event.get("recipient", "")),
        at_ms=find_moment(event.get("timestamp")),
        public_id=find_public_id(variables.get(OUR_ID), header),
        attempt=find_attempt(variables),
        provider_message_id=header.strip("<>"),
        reject_reason=reason,
        is_hard=is_hard,
        reply=_read_reply(event),
        raw=event,
    )


def _read_reply(event: Mapping[str, Any]) -> str:
    status = find_object(event, "delivery-status")
    said = status.get("message") or status.get("description") or ""
    if not said:
        said = find_object(event, "reject").get("reason") or event.get("reason") or ""
    code = status.get("code")
    return clean(f"{code} {said}" if isinstance(code, int) and code else str(said))
