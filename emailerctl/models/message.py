"""Message, recipient, attachment: what was accepted, as plain values.

What is made for every message is a NamedTuple: a frozen dataclass takes four times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor


class RecipientKind(StrEnum):
    """Which header field names the recipient; a bcc is in none of them."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"


class Priority(IntEnum):
    """The lane; smaller goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address in wire form (ASCII domain) and the name to show, which may be empty."""

    address: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that travels along.

    Attributes:
        content: the decoded bytes.
        content_id: without angle brackets; makes it part of multipart/related.
    """

    filename: str
    content_type: str
    content: bytes
    content_id: str = ""
    is_inline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a message says: everything that becomes bytes, by `core.mime`."""

    header_from: Mailbox
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    list_unsubscribe: str = ""  # a URL


@dataclass(frozen=True, slots=True)
class EnvelopeRecipient:
    """One RCPT TO: the recipient's number within its message, and the address on the wire."""

    n: int
    address: str


@dataclass(frozen=True, slots=True)
class NewRecipient:
    """One envelope recipient of a message about to be stored."""

    address: str
    kind: RecipientKind


class NewMessage(NamedTuple):
    """Everything that one acceptance stores, complete before the commit.

    Attributes:
        key_hash: 16 bytes over (service, idempotency key), or None without a key.
        fingerprint: a digest for each top-level field of the parsed request.
        envelope_sender: RFC 5321 MAIL FROM.
        next_hop: where the first attempt goes: the chain's first name.
        route: why that chain: the rule that matched.
        is_announced: a broker is told of it right after the commit.
    """

    message_id: int
    service: str
    token_id: int
    token_epoch: int
    created_ms: int
    due_ms: int
    waiting_for: WaitingFor
    expires_ms: int | None
    priority: Priority
    on_unknown: OnUnknown
    provider: str
    next_hop: str
    is_test: bool
    envelope_sender: str
    header_from: str
    subject: str
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    recipients: tuple[NewRecipient, ...]
    raw: bytes
    content_hash: bytes
    needs_smtputf8: bool = False
    list_unsubscribe: str = ""
    template: str = ""
    template_version: str = ""
    route: str = ""
    key_hash: bytes | None = None
    fingerprint: bytes | None = None
    recipient_rate: tuple[int, int] | None = None  # (count, window in ms), a limit of the token
    is_announced: bool = False


class RecipientView(NamedTuple):
    """One recipient as it stands."""

    n: int
    address: str
    kind: RecipientKind
    state: State
    waiting_for: WaitingFor | None = None
    reason: Reason | None = None
    due_ms: int | None = None
    provider: str = ""
    reply: str = ""
    attempt: int = 0
    changed_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt as recorded.

    Attributes:
        open_until_ms: before this moment a late answer may still come (delivery.md §2).
        dialogue: the conversation with the next hop, secrets masked.
        route: why it went to that next hop: the rule that matched.
    """

    n: int
    provider: str
    phase: str
    outcome: str
    code: int | None
    enhanced_status: str
    reply: str
    started_ms: int
    ended_ms: int | None
    content_hash: bytes
    recipients: tuple[int, ...] = ()
    open_until_ms: int | None = None
    provider_message_id: str = ""
    dialogue: str = ""
    route: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageView:
    """A message as it stands, for display."""

    message_id: int
    service: str
    token_id: int
    state: State
    created_ms: int
    expires_ms: int | None
    priority: Priority
    on_unknown: OnUnknown
    provider: str
    is_test: bool
    envelope_sender: str
    header_from: str
    subject: str
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    size_bytes: int
    content_hash: bytes
    has_content: bool
    template: str = ""
    template_version: str = ""
    token: str = ""
    recipients: tuple[RecipientView, ...] = ()
    attempts: tuple[AttemptView, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the sender should know about an accepted message."""

    code: str
    detail: str


class Receipt(NamedTuple):
    """What acceptance answers.

    Attributes:
        is_replay: the key was known: this is the earlier message, as it stands now.
        fingerprint: of the request that made it, to tell a replay from a conflict.
    """

    message_id: int
    state: State
    created_ms: int
    on_unknown: OnUnknown
    is_test: bool
    recipients: tuple[RecipientView, ...]
    warnings: tuple[Notice, ...] = ()
    is_replay: bool = False
    fingerprint: bytes | None = None
