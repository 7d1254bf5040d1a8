"""Amazon SES, API version 2.

    Sending    https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
    Errors     its errors, and …/APIReference-V2/CommonErrors.html; sending quotas:
               https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html
    Headers    https://docs.aws.amazon.com/ses/latest/dg/header-fields.html
    Events     https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
    Limits     https://docs.aws.amazon.com/ses/latest/dg/quotas.html: 50 recipients, 40 MB after
               base64; tags of a-z A-Z 0-9 _ - and 256 characters (API_MessageTag)
                                                                            (read 2026-11-24)

Raw content: our bytes go out, but for Message-ID and Date, which SES writes anew.  The
recipients are `Destination`, whatever the header says, so that a retry for some of them is the
same message.

No idempotency: the same request twice is two messages.  No look-up: message insights are asked
for by SES's own id, which is in the reply that did not come.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party
from emailerctl.models.text import shorten
from emailerctl.providers.aws_sigv4 import Signer
from emailerctl.providers.aws_sns import Topic, parse_topic
from emailerctl.providers.base import (
    OUR_ATTEMPT,
    OUR_ID,
    OUR_TAG,
    Abilities,
    CheckResult,
    Malformed,
    Outgoing,
    RejectReason,
    Report,
    ReportKind,
    find_faults,
    select_metadata,
    select_tags,
)
from emailerctl.providers.content import parse_content
from emailerctl.providers.http import (
    HttpNextHop,
    HttpSettings,
    find_attempt,
    find_moment,
    find_object,
    find_public_id,
    from_status,
    identify,
    refuse,
)
from emailerctl.providers.http_client import Answer, Request, build_json, parse_json
from emailerctl.providers.smtp_reply import clean
from emailerctl.settings import Text

# 1 settings

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+){1,3}-[0-9]{1,2}")


class SesSettings(HttpSettings):
    """`[providers.NAME]` with kind = "ses"."""

    kind: Literal["ses"] = "ses"
    region: Text = Field(description="Where the identities are verified: eu-west-1.")
    base_url: Text = Field(
        default="", description="Empty: https://email.REGION.amazonaws.com; else an endpoint."
    )
    access_key_id: Text = Field(description="Of a user that may ses:SendEmail.")
    secret_access_key: SecretStr = Field(description="Its secret.")
    session_token: SecretStr = Field(
        default=SecretStr(""), description="Of temporary credentials, which nothing renews."
    )
    configuration_set: Text = Field(
        default="", description="Whose events are published; without one they carry no tags."
    )
    topic_arn: Text = Field(
        default="", description="SNS topic that its events come from; without one, no reports."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_at_its_region(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("region") and not table.get("base_url"):
            return {**table, "base_url": f"https://email.{table['region']}.amazonaws.com"}
        return table

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, region: str) -> str:
        if not _REGION.fullmatch(region):
            raise ValueError(f"{shorten(region)} is no region; write for example eu-west-1")
        return region

    @field_validator("topic_arn")
    @classmethod
    def _is_a_topic(cls, arn: str) -> str:
        if arn:
            parse_topic(arn)
        return arn


# "Unsupported attachment types" of the SES developer guide; this is the list as Resend, which
# sends through SES, prints it: https://resend.com/docs/knowledge-base/what-attachment-types-are-
# not-supported (read 2026-11-24)
_DENIED = (
    "adp app asp bas bat cer chm cmd com cpl crt csh der exe fxp gadget hlp hta inf ins "
    "isp its js jse ksh lib lnk mad maf mag mam maq mar mas mat mau mav maw mda mdb mde "
    "mdt mdw mdz msc msh msh1 msh2 mshxml msh1xml msh2xml msi msp mst ops pcd pif plg prf "
    "prg reg scf scr sct shb shs sys ps1 ps1xml ps2 ps2xml psc1 psc2 tmp url vb vbe vbs "
    "vps vsmacros vss vst vsw vxd ws wsc wsf wsh xnk"
)
DENIED_SUFFIXES = frozenset(_DENIED.split())

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
    # They are instructions to SES, not for those who ask us to send.
    denied_headers=frozenset(
        {
            "x-ses-configuration-set",
            "x-ses-from-arn",
            "x-ses-list-management-options",
            "x-ses-message-tags",
            "x-ses-return-path-arn",
            "x-ses-source-arn",
        }
    ),
    has_raw=True,
    has_envelope=True,
    traps=("SES writes a Message-ID and a Date of its own, instead of ours",),
)

# 2 request: our message in their words

_PATH = "/v2/email/outbound-emails"
_CHECK_PATH = "/v2/email/account"


def build_request(settings: SesSettings, outgoing: Outgoing, *, now_ms: int) -> Request:
    """Render *outgoing* for POST /v2/email/outbound-emails, signed at *now_ms*."""
    tag = next(iter(select_tags(ABILITIES, outgoing.tags)), "")
    labels = {
        **select_metadata(ABILITIES, outgoing.metadata),
        **({OUR_TAG: tag} if tag else {}),
        OUR_ID: outgoing.public_id,
        OUR_ATTEMPT: str(outgoing.attempt),
    }
    message: dict[str, object] = {
        "Destination": {"ToAddresses": [r.address for r in outgoing.recipients]},
        "EmailTags": [{"Name": name, "Value": value} for name, value in labels.items()],
        "Content": {"Raw": {"Data": base64.b64encode(outgoing.raw).decode()}},
    }
    if settings.configuration_set:
        message["ConfigurationSetName"] = settings.configuration_set
    body = build_json(message)
    return Request(
        method="POST",
        path=_PATH,
        headers=_sign(settings, "POST", _PATH, body, now_ms),
        body=body,
        carries=outgoing.recipients,
    )


def _sign(
    settings: SesSettings, method: str, path: str, body: bytes, now_ms: int
) -> dict[str, str]:
    signer = Signer(
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key.get_secret_value(),
        session_token=settings.session_token.get_secret_value(),
        region=settings.region,
        service="ses",
    )
    base = urlsplit(settings.base_url)
    headers = {"Host": base.netloc.lower()}
    if body:
        headers["Content-Type"] = "application/json"
    return signer.sign(method, base.path + path, headers=headers, body=body, now_ms=now_ms)


# 3 classify: their answer in our words

_ABOUT_US: Mapping[str, Kind] = {
    "AccountSuspendedException": Kind.PERMANENT,
    "MailFromDomainNotVerifiedException": Kind.PERMANENT,
    # "Wait up to 10 minutes, and then retry": SES has dropped the message.
    "LimitExceededException": Kind.TRANSIENT,
    "SendingPausedException": Kind.TRANSIENT,
    "ThrottlingException": Kind.TRANSIENT,
    "Throttling": Kind.TRANSIENT,
    "TooManyRequestsException": Kind.TRANSIENT,
    # "The request was aborted before a reply was sent back": of a 400 too it says nothing.
    "RequestAbortedException": Kind.UNKNOWN,
    "RequestTimeoutException": Kind.UNKNOWN,
}
# Some services answer 400 with these, CommonErrors says 403.
_CREDENTIALS = frozenset(
    {"AccessDeniedException", "IncompleteSignature", "NotAuthorized", "RequestExpired"}
)
# "Email address is not verified. The following identities failed the check in region …"
_NOT_VERIFIED = re.compile(r"not verified", re.IGNORECASE)
_ABOUT_TO = re.compile(
    r"illegal address|missing final '@domain'|(?:domain|local address) (?:contains|starts)",
    re.IGNORECASE,
)


def classify(answer: Answer, carries: tuple[EnvelopeRecipient, ...]) -> Outcome:
    """Read a reply: x-amzn-ErrorType has the verdict of a 400."""
    error = _find_error(answer)
    says = str(answer.json.get("message") or answer.json.get("Message") or "")
    said = f"{error} {says}".strip()
    provider_id = str(answer.json.get("MessageId") or "")
    outcome = from_status(answer, says=said, provider_id=provider_id)
    if answer.status != 400:
        return outcome
    if error in _CREDENTIALS:
        denied = replace(outcome, alarm=Alarm.CREDENTIALS, is_charged=False)
        return replace(denied, party=Party.NEXT_HOP)
    if error in _ABOUT_US or _NOT_VERIFIED.search(says):
        kind = _ABOUT_US.get(error, Kind.PERMANENT)
        return replace(outcome, kind=kind, party=Party.NEXT_HOP)
    is_about_to = _ABOUT_TO.search(says) and len(carries) == 1
    return replace(outcome, party=Party.RECIPIENT) if is_about_to else outcome


def _find_error(answer: Answer) -> str:
    """Return the error's name: `prefix#Name:url` in the header, or `__type`."""
    said = answer.headers.get("x-amzn-errortype") or str(answer.json.get("__type") or "")
    return said.partition(":")[0].rpartition("#")[2]


# 4 send: the only part that touches the network


class Ses(HttpNextHop[SesSettings]):
    """The adapter: build, exchange, classify."""

    kind = "ses"
    abilities = ABILITIES

    def build(self, outgoing: Outgoing) -> Request | Outcome:
        """Say *outgoing* in their words; not what SES does not take."""
        traits = parse_content(outgoing.raw).find_traits(outgoing)
        faults = find_faults(ABILITIES, traits)
        if faults:
            return refuse("; ".join(faults))
        return build_request(self.settings, outgoing, now_ms=self.clock.now_ms())

    def classify(self, answer: Answer, request: Request) -> Outcome:
        """Say their answer in our words."""
        return classify(answer, request.carries)

    async def check(self) -> list[CheckResult]:
        """Ask for the account: GET /v2/email/account."""
        headers = _sign(self.settings, "GET", _CHECK_PATH, b"", self.clock.now_ms())
        results, answer = await self.knock(
            Request(method="GET", path=_CHECK_PATH, headers=headers)
        )
        if answer is None:
            return [_explain_denial(result) for result in results]
        return [*results, *read_account(answer.json)]


def _explain_denial(result: CheckResult) -> CheckResult:
    if "ses:GetAccount" not in result.detail:
        return result
    return replace(result, detail=f"{result.detail} (it may still send)")


def read_account(account: Mapping[str, Any]) -> list[CheckResult]:
    """Say what the account may do."""
    quota = find_object(account, "SendQuota")
    limits = (
        f"{quota.get('SentLast24Hours', '?')} of {quota.get('Max24HourSend', '?')} in 24 h, "
        f"{quota.get('MaxSendRate', '?')} a second"
    )
    is_out = account.get("ProductionAccessEnabled") is True
    standing = str(account.get("EnforcementStatus", "not said"))
    return [
        CheckResult("credentials", is_good=True, detail="the key is known"),
        CheckResult(
            "sending",
            is_good=account.get("SendingEnabled") is True and standing != "SHUTDOWN",
            detail=standing,
        ),
        CheckResult(
            "production",
            is_good=is_out,
            detail="yes" if is_out else "the account is in the sandbox of SES",
        ),
        CheckResult("limits", is_good=True, detail=limits),
    ]


# 5 reports: what they tell us later


class SesReports:
    """Events of a configuration set, or notifications of an identity, through an SNS topic."""

    def __init__(self, settings: SesSettings, *, sns_url: str = "") -> None:
        """Take the topic.

        Args:
            sns_url: where its SNS is reached; empty: where the topic's ARN says.
        """
        self._topic = Topic(settings.topic_arn, ca_file=settings.ca_file, url=sns_url)

    async def prepare(self, headers: Mapping[str, str], body: bytes) -> None:
        """Fetch the certificate that the call is signed with, from the topic's own SNS."""
        await self._topic.prepare(body)

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the signature; return SNS's id of the message: a repeated call has the same."""
        return self._topic.verify(body, now_ms=now_ms)

    async def confirm(self, body: bytes) -> bool:
        """Confirm the topic's subscription, where that is what the call asks for."""
        return await self._topic.confirm(body)

    def parse(self, body: bytes) -> list[Report]:
        """Read one call: an event, of one recipient or of several."""
        message = self._topic.parse(body)
        if message is None or message.startswith(_GREETING):
            return []
        event = parse_json(message.encode(errors="replace"))
        if not isinstance(event, dict) or not _find_type(event):
            raise Malformed("no event of SES in the envelope")
        return list(read_event(event))


# "Successfully validated SNS topic for Amazon SES event publishing."
_GREETING = "Successfully validated SNS topic"

# Type -> kind, the object that tells of it, the list of those whom it is about.  Without such a
# list it is about everybody in mail.destination (Send, Reject), or SES does not say about whom.
_EVENTS: Mapping[str, tuple[ReportKind, str, str]] = {
    "Send": (ReportKind.SENT, "send", ""),
    "Delivery": (ReportKind.DELIVERED, "delivery", "recipients"),
    "DeliveryDelay": (ReportKind.DEFERRED, "deliveryDelay", "delayedRecipients"),
    "Bounce": (ReportKind.BOUNCED, "bounce", "bouncedRecipients"),
    "Complaint": (ReportKind.COMPLAINED, "complaint", "complainedRecipients"),
    "Reject": (ReportKind.REJECTED, "reject", ""),
    "Rendering Failure": (ReportKind.REJECTED, "failure", ""),
    "Open": (ReportKind.OPENED, "open", ""),
    "Click": (ReportKind.CLICKED, "click", ""),
    "Subscription": (ReportKind.UNSUBSCRIBED, "subscription", ""),
}
_OF_NOBODY_IN_PARTICULAR = frozenset(
    {ReportKind.OPENED, ReportKind.CLICKED, ReportKind.UNSUBSCRIBED, ReportKind.UNKNOWN}
)

_Meaning = tuple[ReportKind, RejectReason | None, bool]
# bounceType, bounceSubType; an unknown sub type is read as General
_BOUNCES: Mapping[tuple[str, str], _Meaning] = {
    ("Permanent", "General"): (ReportKind.BOUNCED, RejectReason.BOUNCED, True),
    ("Permanent", "NoEmail"): (ReportKind.BOUNCED, RejectReason.INVALID, True),
    # SES did not try: the address bounced lately, at whoever's message …
    ("Permanent", "Suppressed"): (ReportKind.REJECTED, RejectReason.BOUNCED, True),
    # … or is on the account's own list, after a bounce or a complaint: it does not say which.
    ("Permanent", "OnAccountSuppressionList"): (
        ReportKind.REJECTED,
        RejectReason.BLOCKED,
        False,
    ),
    ("Permanent", "UnsubscribedRecipient"): (
        ReportKind.REJECTED,
        RejectReason.UNSUBSCRIBED,
        False,
    ),
    ("Transient", "General"): (ReportKind.BOUNCED, RejectReason.BOUNCED, False),
    ("Transient", "ContentRejected"): (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    ("Transient", "AttachmentRejected"): (ReportKind.BOUNCED, RejectReason.BLOCKED, False),
    ("Transient", "CustomTimeoutExceeded"): (
        ReportKind.BOUNCED,
        RejectReason.TIMED_OUT,
        False,
    ),
}
_UNDETERMINED: _Meaning = (ReportKind.BOUNCED, RejectReason.OTHER, False)


def read_bounce(bounce: Mapping[str, Any], *, type_: str, sub_type: str) -> _Meaning:
    """Say kind, reason and whether the address is dead, from the members so named."""
    kind = str(bounce.get(type_, ""))
    found = _BOUNCES.get((kind, str(bounce.get(sub_type, ""))))
    return found or _BOUNCES.get((kind, "General"), _UNDETERMINED)


def read_event(event: dict[str, Any]) -> Iterator[Report]:
    """Read an event, or a notification, which is the same but for its tags: a report each."""
    type_ = _find_type(event)
    kind, name, listed = _EVENTS.get(type_, (ReportKind.UNKNOWN, "", ""))
    what, mail = find_object(event, name), find_object(event, "mail")
    reason: RejectReason | None = None
    is_hard = False
    if type_ == "Bounce":
        kind, reason, is_hard = read_bounce(what, type_="bounceType", sub_type="bounceSubType")
    elif type_ == "Complaint":
        kind, reason = _read_complaint(what)
    elif type_ == "Reject":
        reason = RejectReason.BLOCKED  # "Bad content": a virus
    elif type_ == "Rendering Failure":
        reason = RejectReason.OTHER
    elif type_ == "Subscription":
        kind, reason = _read_subscription(what)
    at = what.get("timestamp") or mail.get("timestamp")
    labels = {
        label: values[0] if isinstance(values, list) and values else ""
        for label, values in find_object(mail, "tags").items()
    }
    for recipient, words in _find_recipients(kind, what, listed, mail):
        yield Report(
            kind=kind,
            event_id=identify(
                type_,
                mail.get("messageId"),
                recipient,
                at,
                what.get("feedbackId"),
                what.get("link"),
            ),
            recipient=recipient,
            at_ms=find_moment(at),
            public_id=find_public_id(labels.get(OUR_ID), *_find_message_ids(mail)),
            attempt=find_attempt(labels),
            provider_message_id=str(mail.get("messageId", "")),
            reject_reason=reason,
            is_hard=is_hard,
            reply=clean(words or _find_words(what)),
            raw=event,
        )


def _find_type(event: Mapping[str, Any]) -> str:
    return str(event.get("eventType") or event.get("notificationType") or "")


def _read_complaint(what: Mapping[str, Any]) -> tuple[ReportKind, RejectReason | None]:
    if what.get("complaintSubType") == "OnAccountSuppressionList":
        return ReportKind.REJECTED, RejectReason.SPAM  # accepted, and not sent
    if what.get("complaintFeedbackType") == "not-spam":  # RFC 6430: the contrary
        return ReportKind.UNKNOWN, None
    return ReportKind.COMPLAINED, RejectReason.SPAM


def _read_subscription(what: Mapping[str, Any]) -> tuple[ReportKind, RejectReason | None]:
    """Only who leaves everything has unsubscribed; topics of SES's lists are not ours."""
    if find_object(what, "newTopicPreferences").get("unsubscribeAll") is True:
        return ReportKind.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED
    return ReportKind.UNKNOWN, None


def _find_recipients(
    kind: ReportKind, what: Mapping[str, Any], listed: str, mail: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Return whom an event is about, and the words about each; "" where it is not said."""
    everybody = mail.get("destination")
    named = what.get(listed) if listed else everybody
    named = named if isinstance(named, list) else []
    if not named or (len(named) > 1 and not listed and kind in _OF_NOBODY_IN_PARTICULAR):
        yield "", ""
        return
    for one in named:
        if isinstance(one, dict):
            yield str(one.get("emailAddress", "")), str(one.get("diagnosticCode") or "")
        else:
            yield str(one), ""


def _find_words(what: Mapping[str, Any]) -> str:
    names = ("smtpResponse", "reason", "errorMessage", "complaintFeedbackType", "delayType")
    said = next((str(what[name]) for name in names if what.get(name)), "")
    return said or " ".join(str(what.get(n) or "") for n in ("bounceType", "bounceSubType"))


def _find_message_ids(mail: Mapping[str, Any]) -> Iterator[object]:
    """Return what the original Message-ID may be in: SES shows the header as it was given."""
    headers = mail.get("headers")
    for header in headers if isinstance(headers, list) else ():
        if isinstance(header, dict) and str(header.get("name")).lower() == "message-id":
            yield header.get("value")
    yield find_object(mail, "commonHeaders").get("messageId")
