"""The fields of `POST /v1/messages` (product.md §3.1), and what each may hold: the contract.

A validator here raises `ValueError` with a sentence about one value, or `Several`; pydantic
collects them all, and `submission.py` turns them into faults with pointers.  What concerns more
than one field is there as well.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationInfo,
)

from emailerctl.core import attachments as files
from emailerctl.core.headers import parse_header_name, parse_header_value
from emailerctl.models.address import parse_mailbox
from emailerctl.models.clock import parse_duration, parse_moment, to_ms
from emailerctl.models.message import Mailbox
from emailerctl.models.text import find_unencodable, parse_line, parse_text, shorten

MOST_MEMBERS = 50  # of one object; none has nearly as many

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_LOCALE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,4}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:[/?][!-;=?-~]*)?")
_URL_OCTETS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of everything one message may have."""

    recipients: int = 50
    reply_to: int = 10
    subject_octets: int = 998
    body_octets: int = 12 * 2**20
    headers: int = 50
    header_octets: int = 2_000
    attachments: int = 50
    attachments_octets: int = 9 * 2**20
    tags: int = 10
    tag_characters: int = 64
    metadata: int = 20
    metadata_key_characters: int = 64
    metadata_value_characters: int = 1_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What the validators need to know: the context of `SubmissionBody.model_validate`."""

    limits: Limits
    allow_sandbox: bool
    allow_local_domains: bool


class Several(ValueError):
    """More than one thing is wrong below one field: (path below it, sentence) each."""

    def __init__(self, faults: list[tuple[tuple[str, ...], str]]) -> None:
        super().__init__(faults[0][1])
        self.faults = faults


def _rules(info: ValidationInfo) -> Rules:
    rules = info.context
    if not isinstance(rules, Rules):
        raise TypeError("SubmissionBody is validated by parse_submission")
    return rules


def _parse_list(value: object, what: str, limit: int) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{shorten(value)} is not a list of {what}")  # noqa: TRY004
    if len(value) > limit:
        raise ValueError(f"has {len(value)} {what}; send at most {limit}")
    return value


def _parse_object(value: object, what: str, limit: int) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(value)} is not an object of {what}")  # noqa: TRY004
    if len(value) > limit:
        raise ValueError(f"has {len(value)} {what}; send at most {limit}")
    return value


def _parse_members(
    members: dict[str, object], parse: Callable[[str, object], str]
) -> dict[str, str]:
    """Return what *parse* makes of each member, or raise all its faults."""
    parsed: dict[str, str] = {}
    faults: list[tuple[tuple[str, ...], str]] = []
    for name, value in members.items():
        try:
            parsed[name] = parse(name, value)
        except ValueError as error:
            faults.append(((name,), str(error)))
    if faults:
        raise Several(faults)
    return parsed


def _parse_short(value: object, characters: int) -> str:
    line = parse_line(value)
    if len(line) > characters:
        raise ValueError(
            f"{shorten(line)} has {len(line)} characters; send at most {characters}"
        )
    return line


def _mailbox(value: object, info: ValidationInfo) -> Mailbox:
    rules = _rules(info)
    return parse_mailbox(
        value,
        allow_sandbox=rules.allow_sandbox,
        allow_local_domains=rules.allow_local_domains,
    )


def _mailboxes(value: object, info: ValidationInfo) -> list[object]:
    if not isinstance(value, list):
        return [value]
    limits = _rules(info).limits
    limit = limits.reply_to if info.field_name == "reply_to" else limits.recipients
    return _parse_list(value, "mailboxes", limit)


def _subject(value: object, info: ValidationInfo) -> str:
    subject = parse_line(value)
    limit = _rules(info).limits.subject_octets
    octets = len(subject) if subject.isascii() else len(subject.encode())
    if octets > limit:
        raise ValueError(f"{shorten(subject)} has {octets} octets; send at most {limit}")
    return subject


def _body(value: object, info: ValidationInfo) -> str:
    text = parse_text(value)
    wrong = find_unencodable(text)
    if wrong:
        raise ValueError(f"{shorten(text)} contains {wrong}; remove it")
    limit = _rules(info).limits.body_octets
    octets = len(text) if text.isascii() else len(text.encode())
    if octets > limit:
        raise ValueError(f"has {octets} octets; send at most {limit}")
    return text


def _headers(value: object, info: ValidationInfo) -> dict[str, str]:
    limits = _rules(info).limits
    spelled: dict[str, str] = {}

    def parse(name: str, text: object) -> str:
        parse_header_name(name)
        first = spelled.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{shorten(name)} is the same header as {shorten(first)}")
        return parse_header_value(text, max_octets=limits.header_octets)

    return _parse_members(_parse_object(value, "headers", limits.headers), parse)


def _metadata(value: object, info: ValidationInfo) -> dict[str, str]:
    limits = _rules(info).limits

    def parse(key: str, text: object) -> str:
        if not _parse_short(key, limits.metadata_key_characters):
            raise ValueError("the key is empty; name it")
        return _parse_short(text, limits.metadata_value_characters)

    return _parse_members(_parse_object(value, "keys and texts", limits.metadata), parse)


def _attachments_before(value: object, info: ValidationInfo) -> list[object]:
    items = _parse_list(value, "attachments", _rules(info).limits.attachments)
    for index, item in enumerate(items):
        if isinstance(item, dict) and len(item) > MOST_MEMBERS:
            raise Several([((str(index),), f"has {len(item)} members; there are five")])
    return items


def _attachments(items: "list[AttachmentBody]", info: ValidationInfo) -> "list[AttachmentBody]":
    limit = _rules(info).limits.attachments_octets
    octets = sum(len(item.content) for item in items)
    if octets > limit:
        raise ValueError(f"has {octets} octets of files in all; send at most {limit}")
    ids = [item.content_id for item in items]
    for index, content_id in enumerate(ids):
        if content_id is not None and content_id in ids[:index]:
            detail = f"{shorten(content_id)} is the content id of an earlier attachment"
            raise Several([((str(index), "content_id"), detail)])
    return items


def _tags(value: object, info: ValidationInfo) -> list[object]:
    return _parse_list(value, "tags", _rules(info).limits.tags)


def _tag(value: object, info: ValidationInfo) -> str:
    tag = _parse_short(value, _rules(info).limits.tag_characters)
    if not tag.strip():
        raise ValueError(f"{shorten(tag)} is empty; leave it out")
    return tag


def _name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ValueError(f"{shorten(value)} is not a name; take 1 to 64 of a-z, 0-9, - and _")


def _locale(value: object) -> str:
    if isinstance(value, str) and _LOCALE.fullmatch(value):
        return value
    raise ValueError(f"{shorten(value)} is not a language tag; write it like de-AT")


def _template(value: object) -> dict[str, object]:
    return _parse_object(value, "a template's members", MOST_MEMBERS)


def parse_instant(value: object) -> int:
    """Return milliseconds since 1970 UTC.

    Raises:
        ValueError: not RFC 3339 with an offset.
    """
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return parse_moment(value)
        except (ValueError, OverflowError):
            pass  # the thirtieth of February: the sentence below says what is wanted
    raise ValueError(
        f"{shorten(value)} is not a moment with an offset (RFC 3339); write it like "
        "2026-11-24T10:00:00Z"
    )


def _duration(value: object) -> int:
    try:
        duration_ms = to_ms(parse_duration(parse_text(value)))
    except ValueError:
        duration_ms = 0
    if duration_ms > 0:
        return duration_ms
    raise ValueError(f"{shorten(value)} is not a duration; write for example 30s, 5m, 2h or 3d")


def _unsubscribe(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _URL_OCTETS and _URL.fullmatch(value):
        return value
    raise ValueError(f"{shorten(value)} is neither true, false nor an https URL")


class MailboxObject(BaseModel):
    """A mailbox as an object.  For the schema only: `parse_mailbox` reads it."""

    model_config = ConfigDict(extra="forbid")

    email: str
    name: str | None = None


def _plain(parse: Callable[..., object], sent: object = str) -> PlainValidator:
    """Let *parse* have the whole word about a value; *sent* is what the schema says of it."""
    return PlainValidator(parse, json_schema_input_type=sent)


_OneMailbox = str | MailboxObject
_Texts = dict[str, str]
_Mailbox = Annotated[Mailbox, _plain(_mailbox, _OneMailbox)]
_Mailboxes = Annotated[
    list[_Mailbox],
    BeforeValidator(_mailboxes, json_schema_input_type=_OneMailbox | list[_OneMailbox]),
]
_Name = Annotated[str, _plain(_name)]
_Text = Annotated[str, _plain(_body)]
_Moment = Annotated[int, _plain(parse_instant)]
_Duration = Annotated[int, _plain(_duration)]


class AttachmentBody(BaseModel):
    """One file; with `content_id` it is an inline part that the HTML names with `cid:`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: Annotated[str, _plain(files.parse_filename)]
    content: Annotated[bytes, _plain(files.parse_content)]
    content_type: Annotated[str, _plain(files.parse_content_type)] | None = None
    content_id: Annotated[str, _plain(files.parse_content_id)] | None = None
    disposition: Literal["attachment", "inline"] | None = None


class TemplateBody(BaseModel):
    """A template by name, and what it is rendered with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    variables: dict[str, JsonValue] = Field(default_factory=dict)
    locale: Annotated[str, _plain(_locale)] | None = None


class SubmissionBody(BaseModel):
    """The body of `POST /v1/messages`; null is the same as leaving a field out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header_from: _Mailbox | None = Field(None, alias="from")
    to: _Mailboxes | None = None
    cc: _Mailboxes | None = None
    bcc: _Mailboxes | None = None
    reply_to: _Mailboxes | None = None
    subject: Annotated[str, _plain(_subject)] | None = None
    text: _Text | None = None
    html: _Text | None = None
    template: Annotated[TemplateBody, BeforeValidator(_template)] | None = None
    headers: Annotated[_Texts, _plain(_headers, _Texts)] | None = None
    attachments: (
        Annotated[
            list[AttachmentBody],
            BeforeValidator(_attachments_before),
            AfterValidator(_attachments),
        ]
        | None
    ) = None
    tags: Annotated[list[Annotated[str, _plain(_tag)]], BeforeValidator(_tags)] | None = None
    metadata: Annotated[_Texts, _plain(_metadata, _Texts)] | None = None
    send_at: _Moment | None = None
    send_in: _Duration | None = None
    expires_at: _Moment | None = None
    expires_in: _Duration | None = None
    priority: Literal["high", "normal", "low"] | None = None
    provider: _Name | None = None
    list_unsubscribe: Annotated[bool | str, _plain(_unsubscribe, bool | str)] | None = None
    on_unknown: Literal["ask", "resend"] | None = None


FIELDS = tuple(field.alias or name for name, field in SubmissionBody.model_fields.items())
MEMBERS = {
    "attachments": tuple(AttachmentBody.model_fields),
    "template": tuple(TemplateBody.model_fields),
}
