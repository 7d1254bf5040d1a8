"""The shape of a next hop: what it is given, what it must ask, what it answers."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
    """One thing that `providers check` looked at."""

    name: str
    is_good: bool
    detail: str


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

    async def check(self) -> list[CheckResult]:
        """Talk to the next hop without sending, and say what works."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


OnAlarm = Callable[[str, Alarm, str], None]
