"""Mailjet, Send API v3.1.

    Sending    https://dev.mailjet.com/email/guides/send-api-v31/
    Errors     https://dev.mailjet.com/email/guides/send-api-v31/#send-api-errors
    Messages   https://dev.mailjet.com/email/reference/messages/
    Webhooks   https://dev.mailjet.com/email/guides/webhooks/
    Limits     50 recipients; 15 MB a request; 50 files, 50 headers; a campaign instead of tags
                                                                            (read 2026-11-24)

It has no raw endpoint, and takes no Message-ID: it gives one of its own.  Who is in To, Cc and
Bcc is who gets it.  No idempotency: the same request twice is two messages (DeduplicateCampaign
blocks later mail of one campaign to one contact, whatever it says: not ours to use).

`CustomID` names message and attempt; it is what can be searched for.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, SecretStr

from emailerctl.models.message import Attachment, Mailbox
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
from emailerctl.providers.content import Addressed, Content
from emailerctl.providers.http import (
    HttpSettings,
    PartsNextHop,
    blame,
    build_key,
    find_moment,
    from_status,
    identify,
    parse_key,
    read_ours,
    verify_basic_auth,
)
from emailerctl.providers.http_client import (
    Answer,
    Request,
    Unreachable,
    build_basic_auth,
    build_json,
    parse_json,
)
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings


class MailjetSettings(HttpSettings):
    """`[providers.NAME]` with kind = "mailjet"."""

    kind: Literal["mailjet"] = "mailjet"
    base_url: Text = Field(
        default="https://api.mailjet.com", description="In the US: https://api.us.mailjet.com"
    )
    api_key: SecretStr = Field(description="The API key.")
    secret_key: SecretStr = Field(description="The secret key that belongs to it.")
    report_user: Text = Field(default="emailer", description="User name of its webhooks.")
    report_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password in the webhook's URL: https://user:…@host/…",
    )


# send-0011, "forbidden headers (headers that have a property alternative)": no list is given;
# these were met.
_DENIED = (
    "sender return-path delivered-to dkim-signature domainkey-status received-spf user-agent "
    "authentication-results received message-id x-mailer list-id x-csa-complaints "
    "x-feedback-id x-mailjet-prio x-mailjet-debug x-mailjet-campaign x-mailjet-segmentation "
    "x-mailjet-trackopen x-mailjet-trackclick x-mj-customid x-mj-eventpayload x-mj-vars "
    "x-mj-templateid x-mj-mid x-mj-templatelanguage x-mj-templateerrordeliver "
    "x-mj-templateerrorreporting x-mj-workflowid x-mj-errormessage "
    "x-mj-statisticscontactslistid"
)

ABILITIES = Abilities(
    recipients=50,
    size_bytes=15 * 1024 * 1024,
    tags=1,  # the campaign
    metadata=20,
    reply_to=1,
    denied_headers=frozenset(_DENIED.split()),
    # Nothing is promised.  Answers fail to come during an incident, and that is when an index
    # is hours behind.
    look_up_lag_ms=24 * 3_600_000,
    traps=(
        "the Message-ID is Mailjet's own, another one on every attempt",
        "an attached text is announced as UTF-8, whatever it is",
        "where the account tracks opens and clicks, links lead through Mailjet",
    ),
)

# 2 request: our message in their words


def build_request(
    settings: MailjetSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /v3.1/send."""
    payload = {
        **select_metadata(ABILITIES, outgoing.metadata),
        OUR_ID: outgoing.public_id,
        OUR_ATTEMPT: str(outgoing.attempt),
    }
    message: dict[str, object] = {
        "From": _write_one(content.header_from),
        "To": _write(addressed.to),
        "Cc": _write(addressed.cc),
        "Bcc": _write(addressed.bcc),
        "ReplyTo": next(iter(_write(content.reply_to)), None),
        "Subject": content.subject,
        "TextPart": content.text,
        "HTMLPart": content.html,
        "Attachments": [_attach(f) for f in content.attachments if not f.content_id],
        "InlinedAttachments": [
            {**_attach(f), "ContentID": f.content_id}
            for f in content.attachments
            if f.content_id
        ],
        "Headers": dict(content.headers),
        "CustomCampaign": next(iter(select_tags(ABILITIES, outgoing.tags)), None),
    }
    inside = {name: value for name, value in message.items() if value} | {
        "CustomID": build_key(outgoing),
        "EventPayload": build_json(payload).decode(),
    }
    return Request(
        method="POST",
        path="/v3.1/send",
        headers={**_authorize(settings), "Content-Type": "application/json"},
        body=build_json({"Messages": [inside]}),
    )


def _write_one(mailbox: Mailbox) -> dict[str, str]:
    return {"Email": mailbox.address} | ({"Name": mailbox.name} if mailbox.name else {})


def _write(mailboxes: Iterable[Mailbox]) -> list[dict[str, str]]:
    return [_write_one(mailbox) for mailbox in mailboxes]


def _attach(file: Attachment) -> dict[str, str]:
    """Return a file; its type without parameters: Mailjet adds a charset of its own."""
    return {
        "ContentType": file.content_type.partition(";")[0].strip(),
        "Filename": file.filename or "attachment",
        "Base64Content": base64.b64encode(file.content).decode(),
    }


def _authorize(settings: MailjetSettings) -> dict[str, str]:
    key, secret = settings.api_key.get_secret_value(), settings.secret_key.get_secret_value()
    return {"Authorization": build_basic_auth(key, secret), "Accept": "application/json"}


# 3 classify: their answer in our words

# 403 about the From of this message: the key is good (Send API errors).
_ABOUT_THE_SENDER = frozenset({"send-0006", "send-0007", "send-0008"})
_BAD_ADDRESS = "mj-0013"
_PLACE = re.compile(r"(To|Cc|Bcc)\[([0-9]+)\]", re.IGNORECASE)


def classify(answer: Answer, request: Request) -> Outcome | Mapping[int, Outcome]:
    """Read a reply: one message, its errors, or the ids of each recipient's copy."""
    message = _find_message(answer)
    errors = _list_errors(message)
    codes = {str(error.get("ErrorCode", "")) for error in errors}
    says = "; ".join(
        f"{error.get('ErrorCode', '')} {error.get('ErrorMessage', '')}".strip()
        for error in errors or [dict(answer.json)]
    )
    ids = _find_ids(message)
    outcome = from_status(
        answer, says=says or "ok" * bool(ids), provider_id=next(iter(ids.values()), "")
    )
    if outcome.kind is Kind.ACCEPTED and message.get("Status") == "error":
        return replace(
            outcome, kind=Kind.PERMANENT, party=Party.MESSAGE, provider_message_id=""
        )
    if outcome.kind is Kind.ACCEPTED:
        return {
            r.n: replace(outcome, provider_message_id=ids.get(r.address.casefold(), ""))
            if ids
            else outcome
            for r in request.carries
        }
    if answer.status == 403 and codes and codes <= _ABOUT_THE_SENDER:
        return replace(outcome, alarm=None, is_charged=True)
    if answer.status == 400 and codes == {_BAD_ADDRESS}:
        return blame(outcome, request.carries, _find_blamed(errors, request))
    return outcome


def _find_message(answer: Answer) -> Mapping[str, Any]:
    messages = answer.json.get("Messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    return first if isinstance(first, dict) else {}


def _list_errors(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    errors = message.get("Errors")
    return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []


def _find_ids(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the id of each recipient's copy, by address."""
    ids = {}
    for place in ("To", "Cc", "Bcc"):
        copies = message.get(place)
        for one in copies if isinstance(copies, list) else ():
            if isinstance(one, dict) and one.get("MessageID"):
                ids[str(one.get("Email", "")).casefold()] = str(one["MessageID"])
    return ids


def _find_blamed(errors: list[dict[str, Any]], request: Request) -> set[int]:
    """Return whom the errors' places (`To[0].Email`) are; nobody where one is elsewhere."""
    asked = parse_json(request.body)["Messages"][0]
    named = set()
    for error in errors:
        related = error.get("ErrorRelatedTo")
        for place in related if isinstance(related, list) and related else [""]:
            found = _PLACE.match(str(place))
            mailboxes = asked.get(found[1].capitalize(), []) if found else []
            if found is None or int(found[2]) >= len(mailboxes):
                return set()
            named.add(mailboxes[int(found[2])]["Email"].casefold())
    return {r.n for r in request.carries if r.address.casefold() in named}


# 4 send: the only part that touches the network

_MESSAGES = 1000  # of one answer, at most
_ATTEMPTS = 5  # so many of the last ones are asked for


class Mailjet(PartsNextHop[MailjetSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "mailjet"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome | Mapping[int, Outcome]:
        """Say their answer in our words."""
        return classify(answer, request)

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Ask for the messages of our CustomID, which names an attempt."""
        found: dict[int, Finding] = {}
        for attempt in range(wanted.attempt, max(wanted.attempt - _ATTEMPTS, 0), -1):
            request = Request(
                method="GET",
                path="/v3/REST/message",
                query=(
                    ("CustomID", f"{wanted.public_id}.{attempt}"),
                    ("ShowContactAlt", "true"),
                    ("ShowCustomID", "true"),
                    ("Limit", str(_MESSAGES)),
                ),
                headers=_authorize(self.settings),
            )
            try:
                answer = await self.client.ask(request)
            except Unreachable:
                return {}
            messages = answer.json.get("Data")
            if answer.status != 200 or not isinstance(messages, list):
                return {}
            for n, finding in read_messages(messages, wanted).items():
                if n not in found or (finding.is_there and not found[n].is_there):
                    found[n] = finding
        return found

    async def check(self) -> list[CheckResult]:
        """Ask for the senders: GET /v3/REST/sender."""
        question = Request(
            method="GET",
            path="/v3/REST/sender",
            query=(("Limit", "1000"),),
            headers=_authorize(self.settings),
        )
        results, answer = await self.knock(question, says="ErrorMessage")
        if answer is None:
            return results
        return [
            *results,
            CheckResult("credentials", is_good=True, detail="the keys are known"),
            _read_senders(answer),
        ]


def _read_senders(answer: Answer) -> CheckResult:
    """Say which senders are validated; `*@example.org` is a whole domain."""
    senders = answer.json.get("Data")
    good: list[str] = []
    others: list[str] = []
    for one in senders if isinstance(senders, list) else ():
        if isinstance(one, dict):
            (good if one.get("Status") == "Active" else others).append(str(one.get("Email")))
    detail = f"active: {', '.join(good) or 'none'}"
    detail += f"; not active: {', '.join(others)}" if others else ""
    return CheckResult("domain", is_good=bool(good), detail=clean(detail))


def read_messages(messages: list[Any], wanted: LookUp) -> Mapping[int, Finding]:
    """Say of each recipient whether a message is its: then Mailjet has taken it.

    Only those count that bear our CustomID: the question may have been ignored.
    """
    found: dict[str, Finding] = {}
    for message in messages:
        if not isinstance(message, dict):
            continue
        public_id, attempt = parse_key(message.get("CustomID"))
        if public_id == wanted.public_id:
            found[str(message.get("ContactAlt", "")).casefold()] = Finding(
                is_there=True,
                provider_message_id=str(message.get("ID", "")),
                attempt=attempt,
                detail=f"status {message.get('Status')}",
            )
    missing = Finding(is_there=False, detail="no message is its")
    return {r.n: found.get(r.address.casefold(), missing) for r in wanted.recipients}


# 5 reports: what they tell us later


class MailjetReports:
    """Webhooks: not signed; the URL given to Mailjet carries Basic credentials."""

    def __init__(self, settings: MailjetSettings) -> None:
        """Take the credentials."""
        self._user = settings.report_user
        self._password = settings.report_password.get_secret_value()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the credentials; nothing in a call comes once only."""
        verify_basic_auth(headers, self._user, self._password)
        return ""

    def parse(self, body: bytes) -> list[Report]:
        """Read one webhook call: an event (version 1), or those of a second (version 2)."""
        call = parse_json(body)
        events = call if isinstance(call, list) else [call]
        reports = [
            _read_event(event)
            for event in events
            if isinstance(event, dict) and isinstance(event.get("event"), str)
        ]
        if len(reports) != len(events):
            raise Malformed("no event in the report")
        return reports


_KINDS: Mapping[str, ReportKind] = {
    "sent": ReportKind.DELIVERED,  # "the destination SMTP server has accepted the message"
    "open": ReportKind.OPENED,
    "click": ReportKind.CLICKED,
    "bounce": ReportKind.BOUNCED,
    "blocked": ReportKind.REJECTED,
    "spam": ReportKind.COMPLAINED,
    "unsub": ReportKind.UNSUBSCRIBED,
}
_REASONS: Mapping[str, RejectReason] = {
    "user unknown": RejectReason.INVALID,
    "mailbox inactive": RejectReason.BOUNCED,
    "quota exceeded": RejectReason.BOUNCED,
    "blacklisted": RejectReason.BLOCKED,
    "spam reporter": RejectReason.SPAM,
    "invalid domain": RejectReason.INVALID,
    "no mail host": RejectReason.BOUNCED,
    "relay/access denied": RejectReason.BLOCKED,
    "typofix": RejectReason.INVALID,
    "sender blocked": RejectReason.BLOCKED,
    "content blocked": RejectReason.BLOCKED,
    "policy issue": RejectReason.BLOCKED,
    "preblocked": RejectReason.BLOCKED,
}
# Whoever is hard bounced for one of these is not there.
_DEAD = frozenset({"user unknown", "mailbox inactive", "invalid domain", "no mail host"})
# "temporary": delivery goes on, unless it says that the bounce is hard.
_FOR_NOW = frozenset({"greylisted", "system issue", "protocol issue", "connection issue"})


def _read_event(event: dict[str, Any]) -> Report:
    kind = _KINDS.get(event["event"], ReportKind.UNKNOWN)
    error = str(event.get("error") or "")
    is_hard = event.get("hard_bounce") is True
    reason: RejectReason | None = None
    if kind is ReportKind.BOUNCED and error in _FOR_NOW and not is_hard:
        kind = ReportKind.DEFERRED
    elif kind in (ReportKind.BOUNCED, ReportKind.REJECTED):
        reason = _REASONS.get(error, RejectReason.OTHER)
    elif kind is ReportKind.COMPLAINED:
        reason = RejectReason.SPAM
    elif kind is ReportKind.UNSUBSCRIBED:
        reason = RejectReason.UNSUBSCRIBED
    public_id, attempt = _find_ours(event)
    return Report(
        kind=kind,
        event_id=_identify(event),
        recipient=str(event.get("email") or ""),
        at_ms=find_moment(event.get("time")),
        public_id=public_id,
        attempt=attempt,
        provider_message_id=str(event.get("MessageID") or event.get("mj_message_id") or ""),
        reject_reason=reason,
        is_hard=is_hard and kind is ReportKind.BOUNCED and error in _DEAD,
        reply=clean(str(event.get("smtp_reply") or event.get("comment") or error)),
        raw=event,
    )


def _find_ours(event: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return our id and attempt: from the CustomID, else from the payload."""
    public_id, attempt = parse_key(event.get("CustomID"))
    if public_id:
        return public_id, attempt
    payload = event.get("Payload")
    value = parse_json(payload.encode("utf-8", "replace")) if isinstance(payload, str) else None
    return read_ours(value if isinstance(value, dict) else {})


def _identify(event: Mapping[str, Any]) -> str:
    """Return what is the same when an event is told again: it has no number."""
    names = ("event", "time", "MessageID", "mj_message_id", "email", "url", "error")
    return identify(*(event.get(name, "") for name in names))
