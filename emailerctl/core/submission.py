"""From the fields of a request (product.md §3.1) to a submission, or to all its faults.

`fields.py` says which fields there are and what each may hold; `parse_submission` adds the
rules between fields, and answers with a `Submission` or with all faults at once.
Nothing here asks the store or the settings, and what depends on the time is apart
(`plan_times`), so that a repeated request is recognised before any of it (delivery.md §6).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from emailerctl.core import attachments as files
from emailerctl.core.fields import (
    FIELDS,
    MEMBERS,
    MOST_MEMBERS,
    AttachmentBody,
    Limits,
    Rules,
    Several,
    SubmissionBody,
    parse_instant,
)
from emailerctl.errors import Fault, Invalid
from emailerctl.models.address import AddressInvalid, needs_smtputf8
from emailerctl.models.clock import to_text
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.models.message import (
    Attachment,
    Draft,
    Mailbox,
    NewRecipient,
    Priority,
    RecipientKind,
)
from emailerctl.models.text import shorten

__all__ = [
    "NOT_AVAILABLE",
    "Limits",
    "Submission",
    "TemplateUse",
    "Times",
    "find_far",
    "parse_submission",
    "plan_times",
]

# What this version refuses to do, with the values that ask for nothing.  Everything below this
# gate is there: a version that can do one of them removes its line.
NOT_AVAILABLE: Mapping[str, tuple[str, ...]] = {
    "template": (),
}

LONGEST_WAIT_MS = 366 * 86_400_000  # `send_at` is a date somebody means, not a slip of the pen

_ELSEWHERE = {
    "idempotency_key": "is a field of batch items only; send the header Idempotency-Key",
    "envelope_sender": "is set by [defaults] envelope_sender or the next hop's return_path",
}


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """Which template is to be rendered, with what."""

    name: str
    variables: Mapping[str, object]
    locale: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request, validated: everything in it can become a message.

    Attributes:
        recipients: the envelope; each address once, the first kind wins (to, cc, bcc).
        provider: the next hop that the caller names, or an empty string.
        list_unsubscribe: True asks for our own address, text is the caller's.
    """

    draft: Draft
    recipients: tuple[NewRecipient, ...]
    on_unknown: OnUnknown
    priority: Priority = Priority.NORMAL
    provider: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    send_at_ms: int | None = None
    send_in_ms: int | None = None
    expires_at_ms: int | None = None
    expires_in_ms: int | None = None
    list_unsubscribe: bool | str = False
    template: TemplateUse | None = None

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address in the envelope or the header is not ASCII."""
        draft = self.draft
        shown = (draft.header_from, *draft.to, *draft.cc, *draft.reply_to)
        return any(needs_smtputf8(mailbox.address) for mailbox in shown) or any(
            needs_smtputf8(recipient.address) for recipient in self.recipients
        )


@dataclass(frozen=True, slots=True)
class Times:
    """When a message is due, and when it is too late."""

    due_ms: int
    expires_ms: int | None


def parse_submission(
    fields: Mapping[str, object],
    limits: Limits,
    *,
    now_ms: int,
    allow_sandbox: bool = False,
    allow_local_domains: bool = False,
    default_from: Mailbox | None = None,
    default_on_unknown: OnUnknown = OnUnknown.ASK,
    has_public_url: bool = False,
) -> Submission:
    """Return what *fields*, one JSON object, asks for.

    Args:
        fields: the object as parsed, without defaults.
        limits: how much of everything.
        now_ms: only to complete the list of faults: that a time has passed is no fault by
            itself here, but of `plan_times`.
        allow_sandbox: take `@sandbox.test` (test tokens).
        allow_local_domains: take `.test`, `.local` and names without a dot (development).
        default_from: stands in for a missing `from`.
        default_on_unknown: stands in for a missing `on_unknown`.
        has_public_url: recipients can reach this API.

    Raises:
        Invalid: with every fault.
    """
    if len(fields) > MOST_MEMBERS:
        raise Invalid([Fault("", f"has {len(fields)} fields; there are {len(FIELDS)}")])
    rules = Rules(limits, allow_sandbox, allow_local_domains)
    faults = list(
        _find_faults_between(
            fields,
            limits,
            has_default_from=default_from is not None,
            has_public_url=has_public_url,
        )
    )
    body = None
    try:
        body = SubmissionBody.model_validate(fields, context=rules)
    except ValidationError as error:
        faults += (
            fault
            for details in error.errors(include_url=False)
            if details["loc"][0] not in NOT_AVAILABLE  # that has been said already
            for fault in _to_faults(details, fields)
        )
    sender = body.header_from or default_from if body else None
    if faults or body is None or sender is None:
        with suppress(ValueError):
            faults += _find_passed(parse_instant(fields.get("expires_at")), now_ms)
        raise Invalid(faults)
    return _build_submission(body, sender, default_on_unknown)


def plan_times(submission: Submission, now_ms: int) -> Times:
    """Return when the message is due and when it expires; durations count from *now_ms*.

    A `send_at` that has passed is due now.

    Raises:
        Invalid: it would be too late before it is due, or is due in more than a year.
    """
    due_ms = max(now_ms + (submission.send_in_ms or 0), submission.send_at_ms or 0)
    far = find_far(due_ms, now_ms)
    if far:
        raise Invalid([Fault("/send_at" if submission.send_in_ms is None else "/send_in", far)])
    expires_ms = submission.expires_at_ms
    if expires_ms is not None:
        passed = _find_passed(expires_ms, now_ms)
        if passed:
            raise Invalid(passed)
    if submission.expires_in_ms is not None:
        expires_ms = now_ms + submission.expires_in_ms
    if expires_ms is not None and expires_ms <= due_ms:
        name = "expires_at" if submission.expires_in_ms is None else "expires_in"
        detail = (
            f"ends at {to_text(expires_ms)}, before the message is due at {to_text(due_ms)}; "
            "give it more time"
        )
        raise Invalid([Fault(f"/{name}", detail)])
    return Times(due_ms, expires_ms)


def find_far(due_ms: int, now_ms: int) -> str:
    """Say that *due_ms* is too far off, or nothing."""
    if due_ms - now_ms <= LONGEST_WAIT_MS:
        return ""
    return f"is at {to_text(due_ms)}, more than a year from now; send it nearer to that time"


# Faults: between fields, in time, and pydantic's in our words.


def _find_faults_between(
    fields: Mapping[str, object],
    limits: Limits,
    *,
    has_default_from: bool,
    has_public_url: bool,
) -> Iterator[Fault]:
    """Yield what is wrong with the fields together, whatever each of them holds."""
    given = {name for name, value in fields.items() if value is not None}
    for name, harmless in NOT_AVAILABLE.items():
        if name in given and fields[name] not in harmless:
            yield Fault(f"/{name}", "is not available in this version; leave it out")
    if "from" not in given and not has_default_from:
        yield Fault("/from", "is missing; name the sender, or set [defaults] from")
    envelope = [fields[name] for name in ("to", "cc", "bcc") if name in given]
    count = sum(len(value) if isinstance(value, list) else 1 for value in envelope)
    if count == 0:
        yield Fault("/to", "is missing; name at least one recipient in to, cc or bcc")
    elif count > limits.recipients and len(envelope) > 1:
        yield Fault(
            "/to",
            f"has with cc and bcc {count} recipients; send at most {limits.recipients}",
        )
    if fields.get("list_unsubscribe") is True:
        yield from _find_link_faults(count, has_public_url=has_public_url)
    if given.isdisjoint(("text", "html", "template")):
        yield Fault("/text", "is missing; send at least one of text, html and template")
    for at, duration in (("send_at", "send_in"), ("expires_at", "expires_in")):
        if at in given and duration in given:
            yield Fault(f"/{duration}", f"is given together with {at}; send one of them")
    yield from _find_header_conflicts(fields)


def _find_link_faults(recipients: int, *, has_public_url: bool) -> Iterator[Fault]:
    """Yield why no link of ours can be in the message, whose bytes are the same for all."""
    if not has_public_url:
        yield Fault(
            "/list_unsubscribe",
            "needs [api] public_url, where recipients reach this API; or send an https URL of "
            "your own",
        )
    if recipients > 1:
        yield Fault(
            "/list_unsubscribe",
            f"makes a link for one recipient, and this message has {recipients}; send one "
            "message to each, or an https URL of your own",
        )


def _find_header_conflicts(fields: Mapping[str, object]) -> Iterator[Fault]:
    headers = fields.get("headers")
    asks = fields.get("list_unsubscribe") not in (None, False)
    if asks and isinstance(headers, dict):
        for name in headers:
            if name.lower().startswith("list-unsubscribe"):
                yield Fault(_pointer("headers", name), "is written by list_unsubscribe")


def _find_passed(expires_at_ms: int, now_ms: int) -> list[Fault]:
    if expires_at_ms > now_ms:
        return []
    detail = (
        f"{to_text(expires_at_ms)} has passed (it is {to_text(now_ms)}); name a later moment"
    )
    return [Fault("/expires_at", detail)]


def _to_faults(details: ErrorDetails, fields: Mapping[str, object]) -> Iterator[Fault]:
    """Yield pydantic's finding with a pointer into what was sent, and our sentence."""
    kind = details["type"]
    path = _path(details["loc"], fields, is_missing=kind == "missing")
    if kind == "extra_forbidden":
        yield Fault(_pointer(*path), _explain_unknown(path))
        return
    if kind == "missing":
        yield Fault(_pointer(*path), "is missing")
        return
    if kind == "literal_error":
        expected = details["ctx"]["expected"].replace("'", '"')
        yield Fault(_pointer(*path), f"{shorten(details['input'])} is not {expected}")
        return
    error = details.get("ctx", {}).get("error")
    if isinstance(error, Several):
        for below, detail in error.faults:
            yield Fault(_pointer(*path, *below), detail)
    elif isinstance(error, ValueError):
        member = error.member if isinstance(error, AddressInvalid) else ""
        yield Fault(_pointer(*path, *filter(None, [member])), str(error))
    else:
        yield Fault(_pointer(*path), f"{shorten(details['input'])} is not an object")


def _path(
    loc: tuple[int | str, ...], fields: Mapping[str, object], *, is_missing: bool
) -> list[str]:
    """Return where in *fields* pydantic's *loc* is: a mailbox alone is no list there."""
    path: list[str] = []
    here: object = fields
    for part in loc:
        if isinstance(here, list) and isinstance(part, int):  # noqa: SIM114  (mypy tells them apart)
            here = here[part]
        elif isinstance(here, Mapping) and part in here:
            here = here[part]
        elif not (is_missing and part == loc[-1]):
            break
        path.append(str(part))
    return path


def _explain_unknown(path: list[str]) -> str:
    name = path[-1]
    if len(path) == 1 and name in _ELSEWHERE:
        return _ELSEWHERE[name]
    known = FIELDS if len(path) == 1 else MEMBERS[path[0]]
    near = get_close_matches(name.lower()[:40], known, n=1)
    return f'is unknown; did you mean "{near[0]}"?' if near else "is unknown; leave it out"


def _pointer(*path: str) -> str:
    """Return the RFC 6901 pointer; a part that is longer than any of ours is cut."""
    parts = (part if len(part) <= 100 else f"{part[:100]}…" for part in path)
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)


# The answer.


def _build_submission(
    body: SubmissionBody, sender: Mailbox, default_on_unknown: OnUnknown
) -> Submission:
    to, cc, bcc = body.to or (), body.cc or (), body.bcc or ()
    kinds: dict[str, RecipientKind] = {}
    for kind, mailboxes in (
        (RecipientKind.TO, to),
        (RecipientKind.CC, cc),
        (RecipientKind.BCC, bcc),
    ):
        for mailbox in mailboxes:
            kinds.setdefault(mailbox.address, kind)
    headers = body.headers or {}
    if not any(name.lower() == "auto-submitted" for name in headers):
        headers = headers | {
            "Auto-Submitted": "auto-generated"
        }  # RFC 3834: no vacation replies
    draft = Draft(
        header_from=sender,
        to=tuple(to),
        cc=tuple(cc),
        reply_to=tuple(body.reply_to or ()),
        subject=body.subject or "",
        text=body.text,
        html=body.html,
        headers=headers,
        attachments=tuple(map(_build_attachment, body.attachments or ())),
    )
    template = body.template
    return Submission(
        draft=draft,
        recipients=tuple(NewRecipient(address, kind) for address, kind in kinds.items()),
        on_unknown=OnUnknown(body.on_unknown) if body.on_unknown else default_on_unknown,
        priority=Priority[body.priority.upper()] if body.priority else Priority.NORMAL,
        provider=body.provider or "",
        tags=tuple(dict.fromkeys(body.tags or ())),
        metadata=body.metadata or {},
        send_at_ms=body.send_at,
        send_in_ms=body.send_in,
        expires_at_ms=body.expires_at,
        expires_in_ms=body.expires_in,
        list_unsubscribe=body.list_unsubscribe or False,
        template=(
            TemplateUse(template.name, template.variables, template.locale or "")
            if template
            else None
        ),
    )


def _build_attachment(body: AttachmentBody) -> Attachment:
    return Attachment(
        filename=body.filename,
        content_type=body.content_type or files.guess_content_type(body.filename),
        content=body.content,
        content_id=body.content_id or "",
        is_inline=(body.disposition or ("inline" if body.content_id else "attachment"))
        == "inline",
    )
