"""Brevo (Sendinblue until 2023).

    Sending      https://developers.brevo.com/reference/sendtransacemail
    Idempotency  https://developers.brevo.com/docs/heterogenous-versions-batch-emails
    Errors       https://developers.brevo.com/docs/how-it-works
    Waits        https://developers.brevo.com/docs/limit-headers
    Events       https://developers.brevo.com/reference/getemaileventreport-1
    Webhooks     https://developers.brevo.com/docs/transactional-webhooks
                 https://developers.brevo.com/docs/secured-webhooks
    Limits       99 recipients; suffixes of attachments by an allow-list; no size is named
                                                                            (read 2026-11-24)

It has no raw endpoint, and takes no Message-ID: it gives one of its own.  Who is in To, Cc and
Bcc is who gets it.

A key that was used within 30 minutes (15, says the changelog of 2021-11-10: the smaller one
counts here) is answered `duplicate_parameter`, and nothing is done.  Whether a request that was
refused uses up its key is not said, so that answer leaves the doubt where it was, and the
look-up ends it.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from email.header import Header
from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import Field, SecretStr

from emailerctl.models.message import EnvelopeRecipient, Mailbox
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    Abilities,
    CheckResult,
    Finding,
    Idempotency,
    LookUp,
    Malformed,
    Outgoing,
    RejectReason,
    Report,
    ReportKind,
    select_tags,
)
from emailerctl.providers.content import Addressed, Content
from emailerctl.providers.http import (
    HttpSettings,
    PartsNextHop,
    build_key,
    from_status,
    identify,
    parse_key,
    parse_retry_after,
    read_ours,
    refuse_recipient,
    verify_basic_auth,
    verify_bearer,
)
from emailerctl.providers.http_client import (
    Answer,
    Request,
    Unreachable,
    build_json,
    parse_json,
)
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings


class BrevoSettings(HttpSettings):
    """`[providers.NAME]` with kind = "brevo"."""

    kind: Literal["brevo"] = "brevo"
    base_url: Text = Field(default="https://api.brevo.com", description="Where its API is.")
    api_key: SecretStr = Field(description="API key (v3), xkeysib-…")
    report_user: Text = Field(default="emailer", description="User name of its webhooks.")
    report_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password in the webhook's URL: https://user:…@host/…",
    )
    report_token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token of its webhooks; where it is set no password is asked for.",
    )


# "Supported file extensions", reference of POST /smtp/email
_ALLOWED = (
    "xlsx xls ods docx docm doc csv pdf txt gif jpg jpeg png tif tiff rtf bmp cgm css shtml "
    "html htm zip xml ppt pptx tar ez ics mobi msg pub eps odt mp3 m4a m4v wma ogg flac wav "
    "aif aifc aiff mp4 mov avi mkv mpeg mpg wmv pkpass xlsm"
)

ABILITIES = Abilities(
    recipients=99,
    allowed_suffixes=frozenset(_ALLOWED.split()),
    has_inline=False,  # no field for a Content-ID
    tags=10,  # no limit is named
    # Its only carrier, X-Mailin-custom, is a header field: recipients may see it, and metadata
    # is never sent to them.
    metadata=0,
    reply_to=1,
    # django-anymail 15.2, backends/brevo.py: what is not ASCII leaves as raw 8-bit.
    has_utf8_headers=False,
    idempotency=Idempotency(field="headers.idempotencyKey", window_ms=15 * 60_000),
    # Nothing is promised.  Answers fail to come during an incident, and that is when an index
    # is hours behind.
    look_up_lag_ms=24 * 3_600_000,
    traps=(
        "the Message-ID is Brevo's own, another one on every attempt",
        "where the account tracks opens and clicks, links lead through Brevo",
    ),
)

# 2 request: our message in their words

# A key is a UUID: ours is derived, so that a replay has the same one.
_KEYS = UUID("6f1c2a52-5b0e-5d3c-9a55-0d3b3c6a7b61")


def build_request(
    settings: BrevoSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /v3/smtp/email."""
    key = build_key(outgoing)
    ours = {OUR_ID: outgoing.public_id, OUR_ATTEMPT: str(outgoing.attempt)}
    message: dict[str, object] = {
        "sender": _write_one(content.header_from),
        "to": _write(addressed.to),
        "cc": _write(addressed.cc),
        "bcc": _write(addressed.bcc),
        "replyTo": next(iter(_write(content.reply_to)), None),
        "subject": content.subject,
        "htmlContent": content.html,
        "textContent": content.text,
        "attachment": [
            {"name": file.filename, "content": base64.b64encode(file.content).decode()}
            for file in content.attachments
        ],
        "headers": {
            **dict(content.headers),
            "X-Mailin-custom": build_json(ours).decode(),
            "idempotencyKey": str(uuid5(_KEYS, key)),
        },
        "tags": [key, *select_tags(ABILITIES, outgoing.tags)],  # the first is what is looked up
    }
    return Request(
        method="POST",
        path="/v3/smtp/email",
        headers={**_authorize(settings), "Content-Type": "application/json"},
        body=build_json({name: value for name, value in message.items() if value}),
    )


_SPECIALS = frozenset('()<>@,;:\\".[]')


def _write_one(mailbox: Mailbox) -> dict[str, str]:
    """Return a mailbox; a name that Brevo would drop is encoded beforehand.

    It drops names that have both a special character and one outside ASCII (django-anymail
    15.2, backends/brevo.py).
    """
    name = mailbox.name
    if not name.isascii() and _SPECIALS & set(name):
        name = Header(name, "utf-8", maxlinelen=10_000).encode()
    return {"email": mailbox.address} | ({"name": name} if name else {})


def _write(mailboxes: Iterable[Mailbox]) -> list[dict[str, str]]:
    return [_write_one(mailbox) for mailbox in mailboxes]


def _authorize(settings: BrevoSettings) -> dict[str, str]:
    return {"api-key": settings.api_key.get_secret_value(), "Accept": "application/json"}


# 3 classify: their answer in our words

# 402 not_enough_credits: nothing is sent without them ("Payment required", how it works).
DEFINITE = frozenset({402})
_DUPLICATE = "duplicate_parameter"
_ABOUT_THE_ACCOUNT = re.compile(r"sender|domain|credit|account|plan|ip address", re.IGNORECASE)
_ABOUT_A_RECIPIENT = re.compile(r"valid in (?:to|cc|bcc)\b", re.IGNORECASE)


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: `code` says what the status leaves open."""
    code, says = str(answer.json.get("code") or ""), str(answer.json.get("message") or "")
    id_ = answer.json.get("messageId")
    outcome = from_status(
        answer,
        definite=DEFINITE,
        says=f"{code}: {says}" if code else says,
        provider_id=id_.strip("<>") if isinstance(id_, str) else "",
    )
    if code == _DUPLICATE:
        return replace(outcome, kind=Kind.UNKNOWN, party=Party.NEXT_HOP)
    if answer.status == 429 and outcome.retry_after_ms is None:
        wait = answer.headers.get("x-sib-ratelimit-reset", "")
        return replace(outcome, retry_after_ms=parse_retry_after(wait, answer.received_ms))
    if answer.status == 400 and _ABOUT_A_RECIPIENT.search(says) and len(carries) == 1:
        return refuse_recipient(outcome)
    if answer.status == 400 and _ABOUT_THE_ACCOUNT.search(says):
        return replace(outcome, party=Party.NEXT_HOP)
    return outcome


# 4 send: the only part that touches the network

_EVENTS = 2500  # of one answer, at most
_ATTEMPTS = 5  # so many of the last ones are asked for


class Brevo(PartsNextHop[BrevoSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "brevo"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Ask for the events of our tag, which names an attempt."""
        found: dict[int, Finding] = {}
        for attempt in range(wanted.attempt, max(wanted.attempt - _ATTEMPTS, 0), -1):
            request = Request(
                method="GET",
                path="/v3/smtp/statistics/events",
                query=(("tags", f"{wanted.public_id}.{attempt}"), ("limit", str(_EVENTS))),
                headers=_authorize(self.settings),
            )
            try:
                answer = await self.client.ask(request)
            except Unreachable:
                return {}
            events = answer.json.get("events", [])  # left out where there are none
            is_answer = answer.status == 200 and isinstance(answer.json_value, dict)
            if not is_answer or not isinstance(events, list) or len(events) >= _EVENTS:
                return {}
            for n, finding in read_events(events, wanted).items():
                if n not in found or (finding.is_there and not found[n].is_there):
                    found[n] = finding
        return found

    async def check(self) -> list[CheckResult]:
        """Ask for the account and the domains: GET /v3/account, /v3/senders/domains."""
        headers = _authorize(self.settings)
        results, answer = await self.knock(
            Request(method="GET", path="/v3/account", headers=headers)
        )
        if answer is None:
            return results
        email = clean(str(answer.json.get("email") or "the key is known"))
        results.append(CheckResult("credentials", is_good=True, detail=email))
        results.append(_read_plan(answer))
        question = Request(method="GET", path="/v3/senders/domains", headers=headers)
        failed, answer = await self.knock(question)
        if answer is None:
            return [*results, replace(failed[-1], name="domain")]
        return [*results, _read_domains(answer)]


def _read_plan(answer: Answer) -> CheckResult:
    plans = [plan for plan in answer.json.get("plan") or () if isinstance(plan, dict)]
    credits_ = [
        f"{plan.get('type')}: {plan.get('credits')} {plan.get('creditsType', '')}".strip()
        for plan in plans
    ]
    relay = answer.json.get("relay")
    is_enabled = not isinstance(relay, dict) or relay.get("enabled") is not False
    return CheckResult(
        "limits",
        is_good=is_enabled,
        detail=clean(", ".join(credits_))
        if is_enabled
        else "transactional mail is not activated",
        cure="ask Brevo to activate transactional mail for the account",
    )


def _read_domains(answer: Answer) -> CheckResult:
    domains = [one for one in answer.json.get("domains") or () if isinstance(one, dict)]
    good = [str(one.get("domain_name")) for one in domains if one.get("authenticated")]
    others = [str(one.get("domain_name")) for one in domains if not one.get("authenticated")]
    detail = f"authenticated: {', '.join(good) or 'none'}"
    detail += f"; not authenticated: {', '.join(others)}" if others else ""
    return CheckResult("domain", is_good=bool(good), detail=clean(detail))


def read_events(events: list[Any], wanted: LookUp) -> Mapping[int, Finding]:
    """Say of each recipient whether an event names it: then Brevo has taken the message.

    Only those count that bear our tag: the question may have been ignored.
    """
    found: dict[str, Finding] = {}
    for event in events:
        if not isinstance(event, dict):
            continue
        labels = f"{event.get('tag', '')} {event.get('tags', '')}"
        keys = (parse_key(word) for word in re.split(r"[\s\[\]\"',]+", labels))
        attempts = [attempt for public_id, attempt in keys if public_id == wanted.public_id]
        if attempts:
            found[str(event.get("email", "")).casefold()] = Finding(
                is_there=True,
                provider_message_id=str(event.get("messageId", "")).strip("<>"),
                attempt=attempts[0],
                detail=f"event {event.get('event')}",
            )
    missing = Finding(is_there=False, detail="no event names it")
    return {r.n: found.get(r.address.casefold(), missing) for r in wanted.recipients}


# 5 reports: what they tell us later


class BrevoReports:
    """Webhooks: not signed; a bearer token, or Basic credentials in the URL given to Brevo.

    Beyond that a firewall can let in Brevo's addresses alone.
    """

    def __init__(self, settings: BrevoSettings) -> None:
        """Take the secrets."""
        self._user = settings.report_user
        self._password = settings.report_password.get_secret_value()
        self._token = settings.report_token.get_secret_value()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the secret; nothing in a call comes once only."""
        if self._token:
            verify_bearer(headers, self._token)
        else:
            verify_basic_auth(headers, self._user, self._password)
        return ""

    def parse(self, body: bytes) -> list[Report]:
        """Read one webhook call: an event, or several ("batched webhooks")."""
        call = parse_json(body)
        events = call if isinstance(call, list) else [call]
        reports = [
            _read_event(event)
            for event in events
            if isinstance(event, dict) and isinstance(event.get("event"), str)
        ]
        if len(reports) != len(events) or not reports:
            raise Malformed("no event in the report")
        return reports


_BOUNCED = RejectReason.BOUNCED
# Event -> kind, why, and whether the address is dead.  They are spelled so in webhooks.
_KINDS: Mapping[str, tuple[ReportKind, RejectReason | None, bool]] = {
    "request": (ReportKind.QUEUED, None, False),
    "delivered": (ReportKind.DELIVERED, None, False),
    "deferred": (ReportKind.DEFERRED, None, False),
    "soft_bounce": (ReportKind.BOUNCED, _BOUNCED, False),
    "hard_bounce": (ReportKind.BOUNCED, _BOUNCED, True),
    "invalid_email": (ReportKind.REJECTED, RejectReason.INVALID, True),
    "blocked": (ReportKind.REJECTED, RejectReason.BLOCKED, False),
    "error": (ReportKind.REJECTED, RejectReason.OTHER, False),
    "spam": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "complaint": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "opened": (ReportKind.OPENED, None, False),
    "unique_opened": (ReportKind.OPENED, None, False),
    "proxy_open": (ReportKind.OPENED, None, False),
    "unique_proxy_open": (ReportKind.OPENED, None, False),
    "click": (ReportKind.CLICKED, None, False),
    "unsubscribe": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "unsubscribed": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "list_addition": (ReportKind.SUBSCRIBED, None, False),
}


def _read_event(event: dict[str, Any]) -> Report:
    unknown = (ReportKind.UNKNOWN, None, False)
    kind, reason, is_hard = _KINDS.get(event["event"], unknown)
    public_id, attempt = _find_ours(event)
    return Report(
        kind=kind,
        event_id=_identify(event),
        recipient=str(event.get("email") or ""),
        at_ms=_read_moment(event),
        public_id=public_id,
        attempt=attempt,
        provider_message_id=str(event.get("message-id") or "").strip("<>"),
        reject_reason=reason,
        is_hard=is_hard,
        reply=clean(str(event.get("reason") or "")),
        raw=event,
    )


def _find_ours(event: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return our id and attempt: from the header, else from the tag."""
    custom = event.get("X-Mailin-custom")
    value = parse_json(custom.encode("utf-8", "replace")) if isinstance(custom, str) else None
    public_id, attempt = read_ours(value if isinstance(value, dict) else {})
    if public_id:
        return public_id, attempt
    tags = event.get("tags")
    keys = (parse_key(tag) for tag in (tags if isinstance(tags, list) else ()))
    return next((key for key in keys if key[0]), ("", None))


def _identify(event: Mapping[str, Any]) -> str:
    """Return what is the same when an event is told again; its `id` is the webhook's."""
    names = ("event", "email", "message-id", "ts_epoch", "ts_event", "link")
    return identify(*(event.get(name, "") for name in names))


def _read_moment(event: Mapping[str, Any]) -> int:
    """Return UTC milliseconds: `ts_epoch` has them, and seconds in the documentation's example.

    `ts` and `date` are in the time zone of the account.
    """
    for name in ("ts_epoch", "ts_event"):
        value = event.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**14:
            return value if value >= 10**11 else value * 1000
    return 0
