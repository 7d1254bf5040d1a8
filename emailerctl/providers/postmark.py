"""Postmark.

    Sending    https://postmarkapp.com/developer/api/email-api
    Errors     https://postmarkapp.com/developer/api/overview#error-codes
    Search     https://postmarkapp.com/developer/api/messages-api#outbound-message-search
    Webhooks   https://postmarkapp.com/developer/webhooks/webhooks-overview
    Limits     50 recipients, 10 MB a message, one tag, 10 metadata of 20 and 80 characters
                                                                            (read 2026-11-24)

It has no raw endpoint: the message is taken apart and they write it anew, with our Message-ID
(X-PM-KeepID).  Who is in To, Cc and Bcc is who gets it.  No idempotency: the same request twice
is two messages.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr

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
    blame,
    find_attempt,
    find_moment,
    find_object,
    find_public_id,
    from_status,
    identify,
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


class PostmarkSettings(HttpSettings):
    """`[providers.NAME]` with kind = "postmark"."""

    kind: Literal["postmark"] = "postmark"
    base_url: Text = Field(
        default="https://api.postmarkapp.com", description="Where its API is."
    )
    server_token: SecretStr = Field(description="API token of the server.")
    message_stream: Text = Field(default="outbound", description="Where messages go.")
    report_user: Text = Field(default="emailer", description="User name of its webhooks.")
    report_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password of its webhooks; without it and report_secret, no reports.",
    )
    report_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Last part of its webhooks' URL: /v1/reports/NAME/<secret>; empty: none.",
    )


# https://postmarkapp.com/developer/user-guide/send-email-with-api#attachments
_DENIED = (
    "vbs exe bin bat chm com cpl crt hlp hta inf ins isp jse lnk mdb pcd pif reg scr sct shs "
    "vbe vba wsf wsh wsl msc msi msp mst"
)

ABILITIES = Abilities(
    recipients=50,
    size_bytes=10 * 1024 * 1024,
    denied_suffixes=frozenset(_DENIED.split()),
    tags=1,
    tag_octets=1000,
    metadata=8,  # ten, with our two
    metadata_name_octets=20,
    metadata_value_octets=80,
    # Nothing is promised; in practice a message can be found within seconds.
    look_up_lag_ms=10 * 60_000,
)

# 2 request: our message in their words


def build_request(
    settings: PostmarkSettings, outgoing: Outgoing, content: Content, addressed: Addressed
) -> Request:
    """Render *outgoing* for POST /email."""
    message: dict[str, object] = {
        "From": write_mailbox(content.header_from),
        "To": _write(addressed.to),
        "Cc": _write(addressed.cc),
        "Bcc": _write(addressed.bcc),
        "ReplyTo": _write(content.reply_to),
        "Subject": content.subject,
        "TextBody": content.text,
        "HtmlBody": content.html,
        "Tag": next(iter(select_tags(ABILITIES, outgoing.tags)), None),
        "Attachments": [_attach(file) for file in content.attachments],
    }
    headers = [
        ("Message-ID", content.message_id_header),
        ("X-PM-KeepID", "true"),
        *content.headers,
    ]
    body = {name: value for name, value in message.items() if value} | {
        "Headers": [{"Name": name, "Value": value} for name, value in headers],
        "Metadata": {
            **select_metadata(ABILITIES, outgoing.metadata),
            OUR_ID: outgoing.public_id,
            OUR_ATTEMPT: str(outgoing.attempt),
        },
        "MessageStream": settings.message_stream,
    }
    return Request(
        method="POST",
        path="/email",
        headers={**_authorize(settings), "Content-Type": "application/json"},
        body=build_json(body),
    )


def _write(mailboxes: Iterable[Mailbox]) -> str:
    return ", ".join(map(write_mailbox, mailboxes))


def _attach(file: Attachment) -> dict[str, str]:
    attached = {
        "Name": file.filename,
        "Content": base64.b64encode(file.content).decode(),
        "ContentType": file.content_type,
    }
    return attached | ({"ContentID": f"cid:{file.content_id}"} if file.content_id else {})


def _authorize(settings: PostmarkSettings) -> dict[str, str]:
    return {
        "X-Postmark-Server-Token": settings.server_token.get_secret_value(),
        "Accept": "application/json",
    }


# 3 classify: their answer in our words

_INVALID_REQUEST, _INACTIVE_RECIPIENT = 300, 406
_MAINTENANCE = 100

# ErrorCodes of POST /email that are about the account, the sender's signature or the stream:
# another next hop may well take the message (API overview, error codes, read 2026-11-24).
_ABOUT_THE_NEXT_HOP = frozenset(
    {
        400,  # sender signature not found
        401,  # sender signature not confirmed
        402,  # invalid JSON
        403,  # incompatible JSON
        405,  # not allowed to send: out of credits
        409,  # JSON required
        412,  # not allowed to send: account pending
        413,  # not allowed to send: account may not
        1226,  # message stream not found
        1235,  # message stream archived or of the wrong kind
    }
)
# What names them, in a 200 that took only some recipients and in a 406 that took none.
_INACTIVE = "inactive addresses:"
_ILLEGAL_RECIPIENT = re.compile(r"'(?:To|Cc|Bcc)'|recipient", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s'\",;:<>()]+")


def classify(
    answer: Answer, carries: tuple[EnvelopeRecipient, ...]
) -> Outcome | Mapping[int, Outcome]:
    """Read a reply: the verdict is in ErrorCode, also on 422."""
    code = answer.json.get("ErrorCode")
    says = str(answer.json.get("Message", ""))
    if not isinstance(code, int):
        return from_status(answer)
    said = f"{code} {says}" if code else says
    provider_id = str(answer.json.get("MessageID") or "")
    is_down = answer.status == 503 and code == _MAINTENANCE
    outcome = from_status(
        answer, definite={503} if is_down else (), says=said, provider_id=provider_id
    )
    if outcome.kind is Kind.ACCEPTED:
        named = _find_named(says.partition(_INACTIVE)[2], carries)
        refused = refuse_recipient(outcome)
        return {r.n: refused if r.n in named else outcome for r in carries}
    if answer.status == 422 and code in _ABOUT_THE_NEXT_HOP:
        return replace(outcome, party=Party.NEXT_HOP)
    if answer.status == 422 and code == _INACTIVE_RECIPIENT:
        return _blame(outcome, carries, _find_named(says.partition(_INACTIVE)[2], carries))
    if answer.status == 422 and code == _INVALID_REQUEST and _ILLEGAL_RECIPIENT.search(says):
        return _blame(outcome, carries, _find_named(says, carries))
    return outcome


def _find_named(says: str, carries: tuple[EnvelopeRecipient, ...]) -> set[int]:
    """Return the recipients whose addresses are words of *says*; Postmark writes lower case."""
    words = {word.strip(".") for word in _BETWEEN_WORDS.split(says.casefold())}
    return {r.n for r in carries if r.address.casefold() in words}


def _blame(
    outcome: Outcome, carries: tuple[EnvelopeRecipient, ...], named: set[int]
) -> Outcome | Mapping[int, Outcome]:
    return refuse_recipient(outcome) if len(carries) == 1 else blame(outcome, carries, named)


# 4 send: the only part that touches the network


class Postmark(PartsNextHop[PostmarkSettings]):
    """The adapter: compose, exchange, classify."""

    kind = "postmark"
    abilities = ABILITIES

    def compose(self, outgoing: Outgoing, content: Content, addressed: Addressed) -> Request:
        """Say the parts in their words."""
        return build_request(self.settings, outgoing, content, addressed)

    def classify(self, answer: Answer, request: Request) -> Outcome | Mapping[int, Outcome]:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Search for messages with our id in their metadata."""
        request = Request(
            method="GET",
            path="/messages/outbound",
            query=(("count", "500"), ("offset", "0"), (f"metadata_{OUR_ID}", wanted.public_id)),
            headers=_authorize(self.settings),
        )
        try:
            answer = await self.client.ask(request)
        except Unreachable:
            return {}
        messages = answer.json.get("Messages")
        if answer.status != 200 or not isinstance(messages, list):
            return {}
        return read_messages(messages, wanted)

    async def check(self) -> list[CheckResult]:
        """Ask for the server that the token is of: GET /server."""
        request = Request(method="GET", path="/server", headers=_authorize(self.settings))
        results, answer = await self.knock(request, says="Message")
        if answer is None:
            return results
        kind = str(answer.json.get("DeliveryType", ""))
        return [
            *results,
            CheckResult("credentials", is_good=True, detail=str(answer.json.get("Name", ""))),
            CheckResult(
                "delivery",
                is_good=kind == "Live",
                detail=kind or "not said",
                cure="this server drops what it takes: use the token of a live one",
            ),
            await self._check_stream(),
        ]

    async def _check_stream(self) -> CheckResult:
        """Ask for the message stream: GET /message-streams/{id}."""
        stream = self.settings.message_stream
        request = Request(
            method="GET",
            path=f"/message-streams/{quote(stream, safe='')}",
            headers=_authorize(self.settings),
        )
        results, answer = await self.knock(request, says="Message")
        if answer is None:
            cure = "name a stream of this server in message_stream"
            return replace(results[-1], name="stream", cure=cure)
        is_archived = answer.json.get("ArchivedAt") is not None
        kind = str(answer.json.get("MessageStreamType", ""))
        detail = f"{stream}, archived" if is_archived else f"{stream}, {kind}"
        return CheckResult(
            "stream",
            is_good=not is_archived and kind != "Inbound",
            detail=detail,
            cure="name an outbound stream that is not archived in message_stream",
        )


def read_messages(messages: list[Any], wanted: LookUp) -> Mapping[int, Finding]:
    """Say of each recipient whether a message names it: then Postmark has taken it.

    Messages of other attempts count too: a copy went out, whichever of them it was.
    """
    found: dict[str, Finding] = {}
    for message in messages:
        metadata = find_object(message, "Metadata")
        if metadata.get(OUR_ID) != wanted.public_id:
            continue
        finding = Finding(
            is_there=True,
            provider_message_id=str(message.get("MessageID", "")),
            attempt=find_attempt(metadata),
            detail=f"status {message.get('Status')}",
        )
        recipients = message.get("Recipients")
        for recipient in recipients if isinstance(recipients, list) else ():
            found[str(recipient).casefold()] = finding
    missing = Finding(is_there=False, detail="no message names it")
    return {r.n: found.get(r.address.casefold(), missing) for r in wanted.recipients}


# 5 reports: what they tell us later


class PostmarkReports:
    """Webhooks: not signed; their URL carries Basic credentials, a secret path, or both."""

    def __init__(self, settings: PostmarkSettings) -> None:
        """Take the credentials."""
        self.path_secret = settings.report_secret.get_secret_value()
        self._user = settings.report_user
        self._password = settings.report_password.get_secret_value()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the credentials; nothing in a call comes once only."""
        if self._password or not self.path_secret:
            verify_basic_auth(headers, self._user, self._password)
        return ""

    def parse(self, body: bytes) -> list[Report]:
        """Read one webhook call."""
        record = parse_json(body)
        if not isinstance(record, dict) or not isinstance(record.get("RecordType"), str):
            raise Malformed("no RecordType in the report")
        return [_read_record(record)]


# RecordType -> kind, and the field that has its moment.
_RECORDS: Mapping[str, tuple[ReportKind, str]] = {
    "Delivery": (ReportKind.DELIVERED, "DeliveredAt"),
    "Bounce": (ReportKind.BOUNCED, "BouncedAt"),
    "SpamComplaint": (ReportKind.COMPLAINED, "BouncedAt"),
    "Open": (ReportKind.OPENED, "ReceivedAt"),
    "Click": (ReportKind.CLICKED, "ReceivedAt"),
    "SubscriptionChange": (ReportKind.UNSUBSCRIBED, "ChangedAt"),
}

# https://postmarkapp.com/developer/api/bounce-api#bounce-types (read 2026-11-24)
_B = ReportKind.BOUNCED
_R = ReportKind.REJECTED
_BOUNCES: Mapping[str, tuple[ReportKind, RejectReason | None, bool]] = {
    "HardBounce": (_B, RejectReason.BOUNCED, True),
    "Transient": (ReportKind.DEFERRED, None, False),
    "Unsubscribe": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
    "Subscribe": (ReportKind.SUBSCRIBED, None, False),
    "AutoResponder": (ReportKind.UNKNOWN, None, False),
    "AddressChange": (ReportKind.UNKNOWN, None, False),
    "DnsError": (ReportKind.DEFERRED, None, False),
    "SpamNotification": (_B, RejectReason.BLOCKED, False),
    "OpenRelayTest": (ReportKind.UNKNOWN, None, False),
    "Unknown": (ReportKind.UNKNOWN, None, False),
    "SoftBounce": (_B, RejectReason.BOUNCED, False),
    "VirusNotification": (_B, RejectReason.BLOCKED, False),
    "ChallengeVerification": (ReportKind.UNKNOWN, None, False),
    "BadEmailAddress": (_R, RejectReason.INVALID, True),
    "SpamComplaint": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "ManuallyDeactivated": (_R, RejectReason.BLOCKED, False),
    "Unconfirmed": (_R, RejectReason.OTHER, False),
    "Blocked": (_B, RejectReason.BLOCKED, False),
    "SMTPApiError": (_R, RejectReason.OTHER, False),
    "InboundError": (ReportKind.UNKNOWN, None, False),
    "DMARCPolicy": (_R, RejectReason.BLOCKED, False),
    "TemplateRenderingFailed": (_R, RejectReason.OTHER, False),
}
_SUBSCRIPTIONS: Mapping[str, tuple[ReportKind, RejectReason, bool]] = {
    "HardBounce": (_B, RejectReason.BOUNCED, True),
    "SpamComplaint": (ReportKind.COMPLAINED, RejectReason.SPAM, False),
    "ManualSuppression": (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
}


def _read_record(record: dict[str, Any]) -> Report:
    type_ = record["RecordType"]
    kind, at = _RECORDS.get(type_, (ReportKind.UNKNOWN, "ReceivedAt"))
    reason: RejectReason | None = None
    is_hard = False
    if type_ == "Bounce":
        kind, reason, is_hard = _BOUNCES.get(
            str(record.get("Type")), (ReportKind.UNKNOWN, None, False)
        )
    elif type_ == "SpamComplaint":
        reason = RejectReason.SPAM
    elif type_ == "SubscriptionChange" and record.get("SuppressSending") is False:
        kind = ReportKind.SUBSCRIBED
    elif type_ == "SubscriptionChange":
        kind, reason, is_hard = _SUBSCRIPTIONS.get(
            str(record.get("SuppressionReason")),
            (ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, False),
        )
    metadata = find_object(record, "Metadata")
    return Report(
        kind=kind,
        event_id=_identify(record, at),
        recipient=str(record.get("Recipient") or record.get("Email") or ""),
        at_ms=find_moment(record.get(at)),
        public_id=find_public_id(metadata.get(OUR_ID)),
        attempt=find_attempt(metadata),
        provider_message_id=str(record.get("MessageID", "")),
        reject_reason=reason,
        is_hard=is_hard,
        reply=clean(str(record.get("Details") or record.get("Description") or "")),
        raw=record,
    )


def _identify(record: Mapping[str, Any], at: str) -> str:
    """Return what is the same when a record is told again; only bounces have a number."""
    if isinstance(record.get("ID"), int):
        return f"{record['RecordType']}:{record['ID']}"
    names = (
        "MessageID",
        "Recipient",
        at,
        "OriginalLink",
        "SuppressSending",
        "SuppressionReason",
    )
    return f"{record['RecordType']}:{identify(*(record.get(name, '') for name in names))}"
