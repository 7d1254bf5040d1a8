"""The shape of a next hop: what it is given, what it must ask, what it answers."""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from emailerctl.models.lifecycle import Cause
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Outcome

# The numbers (`EnvelopeRecipient.n`) of the recipients that the server has accepted -> may the
# last byte be written?  Awaited exactly once at most, immediately before the last byte.
Mark = Callable[[Collection[int]], Awaitable[bool]]

# The dot leaves within this time of asking for the mark, measured on CLOCK_BOOTTIME, else the
# connection is closed without it: a definite "not accepted" (F-CL-09).
DOT_WITHIN_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message for one attempt; the same bytes on every attempt.

    Attributes:
        raw: RFC 5322, CRLF line ends, 7-bit unless `needs_smtputf8`; no Bcc; not dot-stuffed.
        deadline_boot_ms: on the boot clock; everything before the mark ends by then, as a
            definite "not accepted".
    """

    message_id: int
    public_id: str
    attempt: int
    envelope_sender: str
    recipients: tuple[EnvelopeRecipient, ...]
    raw: bytes
    needs_smtputf8: bool
    deadline_boot_ms: int
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What came of one attempt.

    Attributes:
        outcomes: by recipient number, one for each recipient of the `Outgoing`.
        dialogue: the conversation, one line each (`> ` ours, `< ` theirs), secrets masked,
            bounded.
        reported: what the next hop already says of a recipient beyond its acceptance (the
            sandbox does): a cause, or the type of an event that changes no state; written after
            the outcome is settled.
    """

    outcomes: Mapping[int, Outcome]
    dialogue: str = ""
    reported: Mapping[int, Cause | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that `providers check` looked at.

    Attributes:
        cure: what to do where it is bad; empty: what its name commonly asks for.
    """

    name: str
    is_good: bool
    detail: str
    cure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a next hop would be asked, to be read by people; nothing was asked.

    Attributes:
        target: where it would go: `POST https://…`, `smtp.example.org:587`.
        head: header fields, or the envelope's commands, one a line; secrets masked.
        body: bounded, what is long in it cut.
        size_bytes: of the whole body.
        refusal: why nothing would be asked; then all else is empty.
        traps: what this next hop does to such a message.
    """

    target: str = ""
    head: tuple[str, ...] = ()
    body: str = ""
    size_bytes: int = 0
    refusal: str = ""
    traps: tuple[str, ...] = ()


class MarkRefused(Exception):
    """The mark was not granted: nothing more may be sent on this connection."""


class Provider(Protocol):
    """A next hop.

    `send` returns, it does not raise: whatever breaks becomes an outcome.  It raises
    `MarkRefused` when the mark was refused, after closing the connection without the last byte.
    """

    name: str
    kind: str

    async def send(self, outgoing: Outgoing, mark: Mark) -> Sending:
        """Attempt once.

        *mark* is awaited before the last byte of the content; False means: send nothing more.
        """
        ...

    def plan(self, outgoing: Outgoing) -> Planned:
        """Say what an attempt would ask, without asking."""
        ...

    async def check(self) -> list[CheckResult]:
        """Talk to the next hop without sending, and say what works."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


@runtime_checkable
class SpeaksTls(Protocol):
    """A next hop whose `check` leaves TLS to be looked at apart."""

    async def check_tls(self) -> CheckResult | None:
        """Shake hands, on a connection that is used for nothing else; None: there is none."""
        ...


OnAlarm = Callable[[str, Alarm, str], None]


# What a next hop can carry


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """How a repeated request is known for what it is: the key is `<public id>.<attempt>`.

    Attributes:
        field: the header or the field of the body that carries the key.
        window_ms: so long after the first request a second one with its key changes nothing.
    """

    field: str
    window_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a next hop can express, and its limits: data, with its source in the adapter.

    Attributes:
        recipients: of one message, at most.
        size_bytes: of the finished message, at most.
        denied_suffixes: of attached files' names, lower case, without the dot.
        allowed_suffixes: likewise, where all others are refused.
        has_inline: parts of the HTML (multipart/related) stay that.
        tags: how many travel along; further ones stay with us.
        tag_octets: a longer tag stays with us.
        metadata: how many pairs travel along, our own two not counted.
        has_plain_labels: tags and metadata consist of ASCII letters, digits, _ and -; any other
            one stays with us.
        reply_to: addresses in Reply-To, at most.
        denied_headers: header fields of the caller that it refuses or overwrites, lower case.
        has_utf8_headers: encodes what is not ASCII in header fields of the caller.
        has_raw: takes our bytes as they are; else it writes the message from its parts, with a
            Message-ID, Date and boundaries of its own.
        has_envelope: recipients are named apart from the header.  Without it To and Cc name
            only those that this attempt is for, and blind copies go one at a time where nobody
            else is left.
        has_smtputf8: takes addresses outside ASCII.
        look_up_lag_ms: a "no" of `look_up` counts only so long after the attempt; None: it has
            no look-up.
        traps: what it does to every message that a sender may not expect: sentences.
    """

    recipients: int | None = None
    size_bytes: int | None = None
    denied_suffixes: frozenset[str] = frozenset()
    allowed_suffixes: frozenset[str] | None = None
    has_inline: bool = True
    tags: int = 0
    tag_octets: int = 255
    metadata: int = 0
    metadata_name_octets: int = 255
    metadata_value_octets: int = 2000
    has_plain_labels: bool = False
    reply_to: int | None = None
    denied_headers: frozenset[str] = frozenset()
    has_utf8_headers: bool = True
    has_raw: bool = False
    has_envelope: bool = False
    has_smtputf8: bool = False
    idempotency: Idempotency | None = None
    look_up_lag_ms: int | None = None
    traps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a message asks of whoever carries it.

    Attributes:
        files: names of the attached files.
        headers: names of the header fields that the caller set.
        utf8_headers: those of them whose value is not ASCII.
    """

    recipients: int
    size_bytes: int
    files: tuple[str, ...] = ()
    has_inline: bool = False
    headers: tuple[str, ...] = ()
    utf8_headers: tuple[str, ...] = ()
    reply_to: int = 0
    needs_smtputf8: bool = False
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def find_faults(abilities: Abilities, traits: Traits) -> list[str]:
    """Say what of a message the next hop can't carry: sentences, none where it can.

    Each is about something that its recipients would miss: such a message is not for this next
    hop (422 at acceptance if no other in the chain can, else it is skipped).
    """
    faults = []
    most = abilities.recipients
    if most is not None and traits.recipients > most:
        faults.append(f"{traits.recipients} recipients; it takes at most {most}")
    most = abilities.size_bytes
    if most is not None and traits.size_bytes > most:
        faults.append(f"{traits.size_bytes} bytes; it takes at most {most}")
    for name in traits.files:
        suffix = name.rpartition(".")[2].lower() if "." in name else ""
        allowed = abilities.allowed_suffixes
        if suffix in abilities.denied_suffixes or (
            allowed is not None and suffix not in allowed
        ):
            faults.append(
                f"it takes no {f'.{suffix} file' if suffix else 'file without suffix'}"
            )
    if traits.has_inline and not abilities.has_inline:
        faults.append("it has no inline images")
    most = abilities.reply_to
    if most is not None and traits.reply_to > most:
        faults.append(f"{traits.reply_to} addresses in Reply-To; it takes at most {most}")
    faults += [
        f"it refuses the header {name}"
        for name in traits.headers
        if name.lower() in abilities.denied_headers
    ]
    if not abilities.has_utf8_headers:
        faults += [f"it garbles the header {n}: not ASCII" for n in traits.utf8_headers]
    if traits.needs_smtputf8 and not abilities.has_smtputf8:
        faults.append("it takes no address outside ASCII before the @")
    return faults


def find_losses(abilities: Abilities, traits: Traits) -> list[str]:
    """Say which labels of a message stay with us: no recipient sees the difference."""
    carried = select_tags(abilities, traits.tags)
    losses = [f"tag {tag} does not travel along" for tag in traits.tags if tag not in carried]
    pairs = select_metadata(abilities, traits.metadata)
    losses += [
        f"metadata {name} does not travel along"
        for name in traits.metadata
        if name not in pairs
    ]
    return losses


def select_tags(abilities: Abilities, tags: Collection[str]) -> list[str]:
    """Return the tags that the next hop carries."""
    fitting = [tag for tag in tags if _fits(abilities, tag, abilities.tag_octets)]
    return fitting[: abilities.tags]


def select_metadata(abilities: Abilities, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that the next hop carries."""
    fitting = [
        (name, value)
        for name, value in metadata.items()
        if _fits(abilities, name, abilities.metadata_name_octets)
        and _fits(abilities, value, abilities.metadata_value_octets)
        and name not in OURS
    ]
    return dict(fitting[: abilities.metadata])


def _fits(abilities: Abilities, label: str, octets: int) -> bool:
    is_spelt = not abilities.has_plain_labels or bool(_PLAIN.fullmatch(label))
    return is_spelt and len(label.encode()) <= octets


_PLAIN = re.compile(r"[A-Za-z0-9_-]+")

# Our id travels along under these names, so that a report can answer an attempt whose reply
# never came.
OUR_ID = "emailer_id"
OUR_ATTEMPT = "emailer_attempt"
# The number of the only recipient, at a provider whose reports don't name whom they are about.
OUR_RECIPIENT = "emailer_recipient"
# The tag, at a provider that has names and values alone.
OUR_TAG = "emailer_tag"
OURS = frozenset({OUR_ID, OUR_ATTEMPT, OUR_RECIPIENT, OUR_TAG})


# What it says when it is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What to look for: one attempt whose answer never came.

    Attributes:
        message_id_header: without angle brackets.
        since_ms: when the attempt began; nothing older is of interest.
    """

    public_id: str
    message_id_header: str
    attempt: int
    recipients: tuple[EnvelopeRecipient, ...]
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the next hop has of one recipient's copy.

    Attributes:
        is_there: False counts only after `Abilities.look_up_lag_ms`; the caller sees to that.
        attempt: whose copy it is, where that is known.
    """

    is_there: bool
    provider_message_id: str = ""
    attempt: int | None = None
    detail: str = ""


@runtime_checkable
class CanLookUp(Protocol):
    """A next hop that can be asked what became of an attempt."""

    async def look_up(self, wanted: LookUp) -> Mapping[int, Finding]:
        """Ask; by recipient number.  Whoever is missing: it could not be found out."""
        ...


# What it tells us later


class ReportKind(StrEnum):
    """What is reported: the vocabulary of django-anymail."""

    QUEUED = "queued"
    SENT = "sent"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    REJECTED = "rejected"
    COMPLAINED = "complained"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    SUBSCRIBED = "subscribed"
    UNKNOWN = "unknown"


class RejectReason(StrEnum):
    """Why a copy was bounced or rejected."""

    INVALID = "invalid"  # no such address
    BOUNCED = "bounced"  # by the receiving side
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"  # by policy or reputation
    SPAM = "spam"  # a complaint, now or earlier
    UNSUBSCRIBED = "unsubscribed"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that a provider tells of one recipient's copy, in our words.

    Attributes:
        event_id: the same whenever the same thing is told again.
        recipient: the address; empty: the message's only one.
        public_id: our message, where our id came along; else empty.
        n: the recipient's number, where that came along.
        is_hard: for `bounced`: later mail to that address is pointless.
        reply: the receiving server's or the provider's words, bounded.
        raw: as it came.
    """

    kind: ReportKind
    event_id: str
    recipient: str = ""
    at_ms: int = 0
    public_id: str = ""
    n: int | None = None
    attempt: int | None = None
    provider_message_id: str = ""
    reject_reason: RejectReason | None = None
    is_hard: bool = False
    reply: str = ""
    raw: Mapping[str, object] = field(default_factory=dict)


class NotVerified(Exception):
    """A report is forged, too old, or signed with another key; the sentence says which."""


class Malformed(Exception):
    """A report is verified and yet not what the provider documents."""


class Reports(Protocol):
    """What comes in at `POST /v1/reports/{provider}`."""

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check where a report comes from, over the raw body.

        Args:
            headers: by lower-case name.

        Returns:
            What may come once only (the signature's token): to be stored with the report, and
            a second one to be answered 2xx and dropped.  Empty where there is no such thing.

        Raises:
            NotVerified: it is not the provider's, or too old.
        """
        ...

    def parse(self, body: bytes) -> list[Report]:
        """Read a verified report; what it says of nothing we know becomes `unknown`.

        Raises:
            Malformed: it is not what the provider documents.
        """
        ...


@runtime_checkable
class HasSecretPath(Protocol):
    """Reports that come to `/v1/reports/{provider}/{path_secret}`, where a secret is set.

    Who calls `verify` has compared it: another path is refused before.
    """

    path_secret: str


@runtime_checkable
class AsksBack(Protocol):
    """Reports that can't be read without asking their provider (Amazon SNS)."""

    async def prepare(self, headers: Mapping[str, str], body: bytes) -> None:
        """Fetch what `verify` needs (a certificate): nothing in *body* is trusted yet.

        Raises:
            NotVerified: it points elsewhere than to the provider.
            Unavailable: the provider can't be reached now; it will repeat its call.
        """
        ...

    async def confirm(self, body: bytes) -> bool:
        """Answer a verified call that is a question (confirm a subscription).

        Returns:
            True where it was one: then it has no reports.

        Raises:
            Unavailable: the provider can't be reached now; it will repeat its call.
        """
        ...
