"""SparkPost (Bird).

    Sending    https://developers.sparkpost.com/api/transmissions
    Errors     https://developers.sparkpost.com/api/#header-errors
               https://support.sparkpost.com/docs/tech-resources/extended-error-codes
    Events     https://developers.sparkpost.com/api/events
    Webhooks   https://developers.sparkpost.com/api/webhooks
    Bounces    https://support.sparkpost.com/docs/deliverability/bounce-classification-codes
    Limits     20 MB of text, HTML and files; 1000 bytes of metadata; a campaign of 64 bytes
                                                                            (read 2026-11-24)

Its raw endpoint (content.email_rfc822) applies the template language to the message, and that
can be switched off for inline content alone: so it gets the parts, and `{{` stays what it is.
The recipients are apart from the header, which names everybody on every attempt.

No idempotency: none is documented for transmissions; the same request twice is two messages.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, SecretStr

from emailerctl.models.clock import parse_moment
from emailerctl.models.message import Attachment, EnvelopeRecipient, Mailbox
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    Abilities,
    CheckResult,
    Finding,
    LookUp,
    Malformed,
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
    find_object,
    from_status,
    read_ours,
    refuse_recipient,
    verify_basic_auth,
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


class SparkPostSettings(HttpSettings):
    """`[providers.NAME]` with kind = "sparkpost"."""

    kind: Literal["sparkpost"] = "sparkpost"
    base_url: Text = Field(
        default="https://api.sparkpost.com",
        description="In the EU: https://api.eu.sparkpost.com",
    )
    api_key: SecretStr = Field(
        description="With Transmissions: Read/Write; Events and Sending Domains: Read-only."
    )
    subaccount: int | None = Field(
        default=None, ge=0, description="Its number, if there is one."
    )
    report_user: Text = Field(default="emailer", description="User name of its webhooks.")
    report_password: SecretStr = Field(
        default=SecretStr(""), description="Password of its webhooks; without one, no reports."
    )


ABILITIES = Abilities(
    size_bytes=20 * 1024 * 1024,
    denied_suffixes=frozenset({"bat", "exe"}),
    tags=1,  # the campaign
    tag_octets=64,
    metadata=4,  # with our two, names and values as long as these: below 1000 bytes
    metadata_name_octets=40,
    metadata_value_octets=160,
    # "Content-Type and Content-Transfer-Encoding are not allowed"
    denied_headers=frozenset({"content-type", "content-transfer-encoding"}),
    has_envelope=True,
    # Nothing is promised.  Answers fail to come during an incident, and that is when an index
    # is hours behind; events are kept for ten days.
    look_up_lag_ms=24 * 3_600_000,
    traps=(
        "the Message-ID and the envelope sender are SparkPost's own",
        "what is on SparkPost's own suppression list is taken and bounces later (class 25)",
        "where the account tracks opens and clicks, links lead through SparkPost",
    ),
)

# 2 request: our message in their words


def build_request(
    settings: SparkPostSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /api/v1/transmissions."""
    header_to = _write(addressed.to)
    is_bulk = any(name.lower() == "list-unsubscribe" for name, _ in content.headers)
    inside: dict[str, object] = {
        "from": _write_sender(content.header_from),
        "subject": content.subject,
        "text": content.text,
        "html": content.html,
        "reply_to": _write(content.reply_to),
        "headers": {
            **dict(content.headers),
            **({"Cc": _write(addressed.cc)} if addressed.cc else {}),
        },
        "attachments": [
            _attach(file.filename, file) for file in content.attachments if not file.content_id
        ],
        "inline_images": [
            _attach(file.content_id, file) for file in content.attachments if file.content_id
        ],
    }
    body: dict[str, object] = {
        "recipients": [
            {
                "address": {"email": recipient.address}
                | ({"header_to": header_to} if header_to else {})
            }
            for recipient in addressed.carried
        ],
        "content": {name: value for name, value in inside.items() if value},
        "metadata": {
            **select_metadata(ABILITIES, outgoing.metadata),
            OUR_ID: outgoing.public_id,
            OUR_ATTEMPT: str(outgoing.attempt),
        },
        "options": {"perform_substitutions": False, "transactional": not is_bulk},
    }
    for tag in select_tags(ABILITIES, outgoing.tags):
        body["campaign_id"] = tag
    return Request(
        method="POST",
        path="/api/v1/transmissions",
        headers={**_authorize(settings), "Content-Type": "application/json"},
        body=build_json(body),
    )


def _write_sender(mailbox: Mailbox) -> dict[str, str]:
    return {"email": mailbox.address} | ({"name": mailbox.name} if mailbox.name else {})


def _write(mailboxes: Iterable[Mailbox]) -> str:
    return ", ".join(map(write_mailbox, mailboxes))


def _attach(name: str, file: Attachment) -> dict[str, str]:
    return {
        "name": name,
        "type": file.content_type,
        "data": base64.b64encode(file.content).decode(),
    }


def _authorize(settings: SparkPostSettings) -> dict[str, str]:
    headers = {
        "Authorization": settings.api_key.get_secret_value(),
        "Accept": "application/json",
    }
    if settings.subaccount is not None:
        headers["X-MSYS-SUBACCOUNT"] = str(settings.subaccount)
    return headers


# 3 classify: their answer in our words

# 420: "If a transmission will push you over the … sending limit, an error with the status code
# 420 is returned …  If this happens, no messages are sent" (transmissions, sending limits).
DEFINITE = frozenset({420})
# Extended error codes that say more than their status.
_NOT_AVAILABLE = "1900"  # 503, "message generation module not available"
_LATER = frozenset({"1502"})  # 400, "server resources unavailable: retry later"
_ABOUT_THE_NEXT_HOP = frozenset({"1910", "7000", "7001"})  # generation, sending domain
_ABOUT_RECIPIENTS = frozenset({"1902", "5002"})  # generation rejected, no valid recipients


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: a 2xx counts who was taken, the codes say whom a refusal is about."""
    codes, says = _read_errors(answer)
    results = answer.json.get("results")
    results = results if isinstance(results, dict) else {}
    definite = {*DEFINITE, 503} if _NOT_AVAILABLE in codes else DEFINITE
    outcome = from_status(
        answer, definite=definite, says=says, provider_id=str(results.get("id") or "")
    )
    if outcome.kind is Kind.ACCEPTED and results.get("total_rejected_recipients"):
        return _read_rejections(outcome, results, carries)
    if answer.status == 400 and codes & _LATER:
        return replace(outcome, kind=Kind.TRANSIENT, party=Party.NEXT_HOP)
    if answer.status in (400, 422) and codes & _ABOUT_THE_NEXT_HOP:
        return replace(outcome, party=Party.NEXT_HOP)
    if answer.status in (400, 422) and codes & _ABOUT_RECIPIENTS and len(carries) == 1:
        return refuse_recipient(outcome)
    return outcome


def _read_errors(answer: Answer) -> tuple[set[str], str]:
    """Return the codes and a sentence."""
    errors = answer.json.get("errors")
    errors = (
        [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    )
    sentences = [
        " ".join(str(one[name]) for name in ("code", "message", "description") if one.get(name))
        for one in errors
    ]
    return {str(one.get("code", "")) for one in errors}, "; ".join(sentences)


def _read_rejections(
    outcome: Outcome, results: Mapping[str, Any], carries: tuple[EnvelopeRecipient, ...]
) -> Outcome:
    """Read a 2xx that did not take everybody; whom it left out it does not say."""
    if results.get("total_accepted_recipients"):
        reply = clean(f"{outcome.reply}: some recipients were rejected, not said which")
        return replace(outcome, kind=Kind.UNKNOWN, party=Party.NEXT_HOP, reply=reply)
    reply = clean(f"{outcome.reply}: every recipient was rejected")
    party = Party.RECIPIENT if len(carries) == 1 else Party.MESSAGE
    return replace(
        outcome, kind=Kind.PERMANENT, party=party, reply=reply, provider_message_id=""
    )


# 4 send: the only part that touches the network

_EVENTS = 10_000  # of one answer, at most
_ASKED_AT_ONCE = 20  # recipients: a URI has 4096 characters at most


class SparkPost(PartsNextHop[SparkPostSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "sparkpost"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Ask for the recipients' events; our id in their metadata decides."""
        found: dict[int, Finding] = {}
        for start in range(0, len(wanted.recipients), _ASKED_AT_ONCE):
            some = wanted.recipients[start : start + _ASKED_AT_ONCE]
            events = await self._list_events(some, wanted.since_ms)
            if events is not None:
                found |= read_events(events, replace(wanted, recipients=some))
        return found

    async def _list_events(
        self, recipients: tuple[EnvelopeRecipient, ...], since_ms: int
    ) -> list[Any] | None:
        """Return the events since then; None where they can't be had, or not all."""
        since = datetime.fromtimestamp(since_ms / 1000 - 60, UTC)  # their clock is not ours
        request = Request(
            method="GET",
            path="/api/v1/events/message",
            query=(
                ("recipients", ",".join(recipient.address for recipient in recipients)),
                ("from", since.strftime("%Y-%m-%dT%H:%MZ")),
                ("per_page", str(_EVENTS)),
            ),
            headers=_authorize(self.settings),
        )
        try:
            answer = await self.client.ask(request)
        except Unreachable:
            return None
        events = answer.json.get("results")
        if answer.status != 200 or not isinstance(events, list) or len(events) >= _EVENTS:
            return None
        return events

    async def check(self) -> list[CheckResult]:
        """Ask for the account and the domains: GET /api/v1/account, …/sending-domains."""
        headers = _authorize(self.settings)
        question = Request(
            method="GET", path="/api/v1/account", query=(("include", "usage"),), headers=headers
        )
        results, answer = await self.knock(question)
        if answer is None:
            return results
        results += _read_account(answer)
        question = Request(method="GET", path="/api/v1/sending-domains", headers=headers)
        failed, answer = await self.knock(question)
        if answer is None:
            return [*results, replace(failed[-1], name="domain")]
        return [*results, _read_domains(answer)]


def _read_account(answer: Answer) -> list[CheckResult]:
    account = find_object(answer.json, "results")
    status = str(account.get("status") or "not said")
    usage = find_object(account, "usage")
    used = [
        f"{spent.get('used')} of {spent.get('limit')} a {span}"
        for span in ("day", "month")
        if (spent := find_object(usage, span))
    ]
    return [
        CheckResult("credentials", is_good=True, detail="the key is known"),
        CheckResult(
            "account",
            is_good=status in ("active", "not said"),
            detail=clean(status),
            cure="ask SparkPost what is wrong with the account",
        ),
        CheckResult("limits", is_good=True, detail=clean(", ".join(used)) or "not said"),
    ]


def _read_domains(answer: Answer) -> CheckResult:
    """Say which sending domains may be used: owned, and not blocked."""
    domains = answer.json.get("results")
    good: list[str] = []
    others: list[str] = []
    for one in domains if isinstance(domains, list) else ():
        status = find_object(one, "status") if isinstance(one, dict) else {}
        is_usable = status.get("ownership_verified") and status.get("compliance_status") in (
            None,
            "valid",
        )
        if status:
            (good if is_usable else others).append(str(one.get("domain")))
    detail = f"verified: {', '.join(good) or 'none'}"
    detail += f"; not verified: {', '.join(others)}" if others else ""
    return CheckResult("domain", is_good=bool(good), detail=clean(detail))


def read_events(events: list[Any], wanted: LookUp) -> Mapping[int, Finding]:
    """Say of each recipient whether an event names it: then SparkPost has taken the message.

    Events of other attempts count too: a copy went out, whichever of them it was.
    """
    found: dict[str, Finding] = {}
    for event in events:
        report = _read_event(event) if isinstance(event, dict) else None
        if report is None or report.public_id != wanted.public_id:
            continue
        found[report.recipient.casefold()] = Finding(
            is_there=True,
            provider_message_id=report.provider_message_id,
            attempt=report.attempt,
            detail=f"event {event.get('type')}",
        )
    missing = Finding(is_there=False, detail="no event names it")
    return {r.n: found.get(r.address.casefold(), missing) for r in wanted.recipients}


# 5 reports: what they tell us later


class SparkPostReports:
    """Webhooks: not signed; Basic credentials (`auth_type` basic).

    A batch has a number: `verify` returns it, so that one told again is dropped.
    """

    def __init__(self, settings: SparkPostSettings) -> None:
        """Take the credentials."""
        self._user = settings.report_user
        self._password = settings.report_password.get_secret_value()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the credentials; return the batch's number."""
        verify_basic_auth(headers, self._user, self._password)
        return headers.get("x-messagesystems-batch-id", "")[:100]

    def parse(self, body: bytes) -> list[Report]:
        """Read a batch; the test call (`{"msys": {}}`) has nothing in it."""
        batch = parse_json(body)
        if not isinstance(batch, list):
            raise Malformed("the report is no list")
        events: list[dict[str, Any]] = []
        for item in batch:
            classes = item.get("msys") if isinstance(item, dict) else None
            if not isinstance(classes, dict) or not all(
                isinstance(event, dict) for event in classes.values()
            ):
                raise Malformed("no msys in the report")
            events += classes.values()
        return [_read_event(event) for event in events]


_KINDS: Mapping[str, ReportKind] = {
    "injection": ReportKind.QUEUED,
    "delivery": ReportKind.DELIVERED,
    "delay": ReportKind.DEFERRED,
    "bounce": ReportKind.BOUNCED,
    "out_of_band": ReportKind.BOUNCED,
    "policy_rejection": ReportKind.REJECTED,
    "generation_failure": ReportKind.REJECTED,
    "generation_rejection": ReportKind.REJECTED,
    "spam_complaint": ReportKind.COMPLAINED,
    "open": ReportKind.OPENED,
    "amp_open": ReportKind.OPENED,
    "click": ReportKind.CLICKED,
    "amp_click": ReportKind.CLICKED,
    "list_unsubscribe": ReportKind.UNSUBSCRIBED,
    "link_unsubscribe": ReportKind.UNSUBSCRIBED,
    # initial_open, amp_initial_open: the same opening is told as `open`
}
_B = ReportKind.BOUNCED
_R = ReportKind.REJECTED
# bounce_class -> kind, why, and whether the address is dead ("Hard").
_CLASSES: Mapping[str, tuple[ReportKind, RejectReason | None, bool]] = {
    "1": (_B, RejectReason.OTHER, False),
    "10": (_B, RejectReason.INVALID, True),
    "20": (_B, RejectReason.BOUNCED, False),
    "21": (_B, RejectReason.BOUNCED, False),
    "22": (_B, RejectReason.BOUNCED, False),
    "23": (_B, RejectReason.BOUNCED, False),
    "24": (_B, RejectReason.TIMED_OUT, False),
    "25": (_R, RejectReason.BLOCKED, False),
    "26": (_R, RejectReason.BLOCKED, False),
    "30": (_B, RejectReason.BOUNCED, True),
    "40": (_B, RejectReason.BOUNCED, False),
    "50": (_B, RejectReason.BLOCKED, False),
    "51": (_B, RejectReason.BLOCKED, False),
    "52": (_B, RejectReason.BLOCKED, False),
    "53": (_B, RejectReason.OTHER, False),
    "54": (_B, RejectReason.BLOCKED, False),
    "60": (ReportKind.UNKNOWN, None, False),
    "70": (_B, RejectReason.BOUNCED, False),
    "80": (ReportKind.SUBSCRIBED, None, False),
    "90": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "100": (ReportKind.UNKNOWN, None, False),
}
_REASONS: Mapping[ReportKind, RejectReason] = {
    ReportKind.REJECTED: RejectReason.OTHER,
    ReportKind.COMPLAINED: RejectReason.SPAM,
    ReportKind.UNSUBSCRIBED: RejectReason.UNSUBSCRIBED,
}


def _read_event(event: dict[str, Any]) -> Report:
    """Read an event: the same shape in webhooks and in the events API."""
    kind = _KINDS.get(str(event.get("type")), ReportKind.UNKNOWN)
    reason = _REASONS.get(kind)
    is_hard = False
    if kind is ReportKind.BOUNCED:
        kind, reason, is_hard = _CLASSES.get(
            str(event.get("bounce_class")), (_B, RejectReason.OTHER, False)
        )
    public_id, attempt = read_ours(find_object(event, "rcpt_meta"))
    return Report(
        kind=kind,
        event_id=str(event.get("event_id") or ""),
        recipient=str(event.get("raw_rcpt_to") or event.get("rcpt_to") or ""),
        at_ms=_read_moment(event.get("timestamp")),
        public_id=public_id,
        attempt=attempt,
        provider_message_id=str(event.get("transmission_id") or ""),
        reject_reason=reason,
        is_hard=is_hard,
        reply=clean(str(event.get("raw_reason") or event.get("reason") or "")),
        raw=event,
    )


def _read_moment(value: object) -> int:
    """Read seconds as text (webhooks) or RFC 3339 (events API)."""
    text = str(value)
    if re.fullmatch(r"[0-9]{1,11}", text):
        return int(text) * 1000
    try:
        return parse_moment(text)
    except (ValueError, OverflowError):
        return 0
