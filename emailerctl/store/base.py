"""The message log's contract: verbs in the language of mail; a writing verb is one transaction.

No verb takes or returns a row, a cursor or SQL.  Moments are integer milliseconds; `now_ms` is
the wall clock, `boot_ms` the boot clock (leases only).
"""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from emailerctl.errors import EmailerError
from emailerctl.models.dkim import DomainKey, KeyState
from emailerctl.models.event import Event
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import (
    EnvelopeRecipient,
    MessageView,
    NewMessage,
    Priority,
    Receipt,
    RecipientView,
)
from emailerctl.models.outcome import Outcome, Phase
from emailerctl.models.page import EventFilter, MessageFilter, Page

LOST_ALONE_LIMIT = 3  # leases lost while alone, then the message is held (F-CL-07)


class Claim(NamedTuple):
    """The exclusive right to attempt one message, and what an attempt needs to know.

    Attributes:
        lease_token: the fencing token; every write of the attempt names it.
        attempt: the number that this attempt will have.
        recipients: those that are queued.
        is_whole: the message has no other recipients than `recipients`.
        others: the addresses of those.
        token: the name of the token that sent it; empty for the local operator.
        raw: the bytes; None where they are large (read them with `load_raw`) or gone.
        age_from_ms: since when `max_age` counts.
        is_list: it has `list_unsubscribe`: complaints and unsubscribes keep it back.
    """

    message_id: int
    lease_token: int
    service: str
    attempt: int
    recipients: tuple[EnvelopeRecipient, ...]
    is_whole: bool
    next_hop: str
    chain_index: int
    schedule_step: int
    age_from_ms: int
    due_ms: int
    created_ms: int
    expires_ms: int | None
    priority: Priority
    on_unknown: OnUnknown
    provider: str
    is_test: bool
    is_alone: bool
    envelope_sender: str
    header_from: str
    needs_smtputf8: bool
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    template: str
    content_hash: bytes
    size_bytes: int
    raw: bytes | None
    is_list: bool = False
    others: tuple[str, ...] = ()
    token: str = ""


class Settlement(NamedTuple):
    """What one recipient's outcome means for its life cycle.

    Attributes:
        resend_at_ms: policy `resend`: when an unknown goes out again.
        is_hard: the address is dead: it is suppressed.
    """

    cause: Cause
    outcome: Outcome | None = None
    reason: Reason | None = None
    resend_at_ms: int | None = None
    is_hard: bool = False


class AttemptResult(NamedTuple):
    """One attempt, decided: what `settle` and `testify` write.

    Attributes:
        marked: the recipients for which the mark was granted.
        is_recorded: False where nothing was asked of a next hop (a gate refused): no row.
        due_ms, waiting_for, next_hop, chain_index, schedule_step: where the recipients that
            stay queued go from here.
        route: why it went to this next hop.
    """

    settlements: Mapping[int, Settlement]
    provider: str
    phase: Phase
    started_ms: int
    due_ms: int
    waiting_for: WaitingFor
    next_hop: str
    chain_index: int
    schedule_step: int
    marked: frozenset[int] = frozenset()
    dialogue: str = ""
    is_recorded: bool = True
    route: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is due, and when to look again.

    Attributes:
        message_ids: due and free, in the order of their lanes.
        has_suspects: messages that lost a lease wait to be claimed alone.
        next_ms: the earliest moment after now at which more falls due; None where none does.
        is_paused: the queue is paused.
    """

    message_ids: tuple[int, ...] = ()
    has_suspects: bool = False
    next_ms: int | None = None
    is_paused: bool = False


class IdTaken(Exception):
    """Another message has that id: 21 random bits met within one millisecond."""


class NotAllAdded(Exception):
    """Not all messages of an atomic batch could be stored, so none was.

    Attributes:
        results: what became, or would have become, of each.
    """

    def __init__(self, results: "Sequence[Receipt | EmailerError | IdTaken]") -> None:
        super().__init__("not all of a batch could be stored")
        self.results = results


class Verb(StrEnum):
    """What an operator can do with a message (product.md §4.1)."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    RESOLVE = "resolve"
    RESCHEDULE = "reschedule"


class Resolution(StrEnum):
    """How an operator ends a doubt."""

    SENT = "sent"
    NOT_SENT = "not_sent"
    RESEND = "resend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An operator's order about one message.

    Attributes:
        actor: the token's name, or the local user.
        addresses: those recipients only; None: all that it fits.
        expires_ms: for retry, a new expiry.
        resolution: for resolve.
        send_at_ms: for reschedule, when it is due.
        date_field: for reschedule, what its bytes say then: the whole field.
    """

    verb: Verb
    message_id: int
    actor: str
    service: str | None = None  # None: may act on every service's messages
    reason: str = ""
    addresses: Sequence[str] | None = None
    expires_ms: int | None = None
    resolution: Resolution | None = None
    is_forced: bool = False
    send_at_ms: int | None = None
    date_field: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderResult:
    """What came of an order: every recipient as it stands, and which of them changed."""

    message_id: int
    state: State
    recipients: tuple[RecipientView, ...]
    changed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A consumer process that is, or was, entitled to claim.

    Attributes:
        consumer_id: also the name of its lock file.
        lease_until_ms: on the boot clock of `boot_id`.
    """

    consumer_id: int
    host: str
    pid: int
    boot_id: str
    version: str
    started_ms: int
    heartbeat_ms: int
    lease_until_ms: int
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An API token at rest: everything but its secret."""

    token_id: int
    name: str
    service: str
    secret_hash: bytes
    scopes: frozenset[str]
    is_test: bool
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    last_used_ms: int | None
    limits: Mapping[str, object] = field(default_factory=dict)


class Blocks(StrEnum):
    """Which messages a suppression keeps from an address."""

    ALL = "all"
    LISTS = "lists"  # those with `list_unsubscribe`


# Whoever complains or unsubscribes still gets receipts and password resets (product.md §3.1).
BOUNCE, COMPLAINT, UNSUBSCRIBE = "bounce", "complaint", "unsubscribe"
DETAIL_CHARACTERS = 500  # of a suppression's evidence
LIST_REASONS = frozenset({COMPLAINT, UNSUBSCRIBE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """An address that we will not send to, and why.  Service "" means every service.

    Attributes:
        message_id, provider: the evidence, where a report or an unsubscribe made it.
    """

    address: str
    service: str
    reason: str
    detail: str
    created_ms: int
    expires_ms: int | None
    actor: str
    message_id: int | None = None
    provider: str = ""

    @property
    def blocks(self) -> Blocks:
        """Which messages it keeps from the address."""
        return Blocks.LISTS if self.reason in LIST_REASONS else Blocks.ALL


class NewReport(NamedTuple):
    """What a next hop told of one recipient's copy, as `core.reporting` understands it.

    Attributes:
        event_id: the same whenever the same thing is told again.
        message_id, n, attempt: what it is about, as far as that came along.
        recipient: the address that it names; empty: the message's only one.
        cause: the evidence in it; None: it proves nothing.
        event: the type of the event that it is besides; empty: none.
        suppresses: the reason for which its recipient is suppressed; empty: not.
    """

    event_id: str
    kind: str
    at_ms: int
    recipient: str = ""
    message_id: int | None = None
    n: int | None = None
    attempt: int | None = None
    provider_message_id: str = ""
    cause: Cause | None = None
    event: str = ""
    suppresses: str = ""
    reply: str = ""
    data: Mapping[str, object] = MappingProxyType({})


class Taken(NamedTuple):
    """What became of a call with reports.

    Attributes:
        is_replay: its signature had been used before: nothing in it counts.
        new, repeated: reports that were told for the first time, and those that were not.
        unmatched: of the new ones, those about nothing that is here yet.
    """

    is_replay: bool = False
    new: int = 0
    repeated: int = 0
    unmatched: int = 0


class HopState(StrEnum):
    """Whether a next hop takes mail."""

    OPEN = "open"
    PAUSED = "paused"  # by the program: credentials refused
    DISABLED = "disabled"  # by an operator


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A next hop's standing, shared by all consumers.

    Attributes:
        settings_hash: of the settings that it was paused under: a consumer that starts with
            other ones (a new password) opens it again.
    """

    name: str
    state: HopState
    reason: str = ""
    changed_ms: int = 0
    actor: str = ""
    settings_hash: str = ""


class BreakerState(StrEnum):
    """Whether a next hop works, by what attempts have met."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """A next hop's breaker, shared by all consumers.

    Attributes:
        version: counts its changes; one that was decided on another version is not written.
        since_ms: when it opened; through probes and further pauses until it closes.  Of a
            closed one: when it closed.
        until_ms: open: no probe before.
        openings: in a row, without having closed.
        failures: that opened it and kept it open.
        owner: half-open: the consumer that probes.
    """

    name: str
    state: BreakerState = BreakerState.CLOSED
    version: int = 0
    reason: str = ""
    since_ms: int = 0
    until_ms: int = 0
    openings: int = 0
    failures: int = 0
    owner: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stint:
    """A stretch of a rate's time that a consumer asks for.

    Attributes:
        domain: of recipients; empty: the rate of the next hop as a whole.
        length_us: how long it is.
        ahead_us: if it would begin later than after so long, it is not given.
        count: how many messages it is for, for the record.
    """

    next_hop: str
    domain: str
    length_us: int
    ahead_us: int
    count: int


class Usage(NamedTuple):
    """How much of a next hop's rate was leased in a minute, and in the one before."""

    minute: int  # since 1970
    used: int
    used_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The queue is paused: nothing is claimed."""

    since_ms: int
    until_ms: int | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The queue in numbers: messages, but for `unknown`, which counts recipients."""

    ready: int
    scheduled: int
    retrying: int
    waiting: int
    sending: int
    held: int
    unknown: int
    oldest_due_ms: int | None
    oldest_unknown_ms: int | None
    pause: Pause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """One recipient in doubt.

    Attributes:
        open_until_ms: before it a late answer may still come.
        resend_at_ms: when policy `resend` sends again; None under `ask`.
    """

    message_id: int
    n: int
    address: str
    service: str
    subject: str
    provider: str
    attempt: int
    since_ms: int
    open_until_ms: int | None
    on_unknown: OnUnknown
    resend_at_ms: int | None
    expires_ms: int | None
    is_expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A built-in alert that is raised (product.md §7).

    Attributes:
        notified_ms: when the operator was told; None: not yet.
    """

    name: str
    detail: str
    since_ms: int
    notified_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that does not hold (delivery.md §8), with the message where there is one."""

    invariant: str
    detail: str
    message_id: int | None = None


class KeyFiles(Protocol):
    """The private keys of domains, which are in no store."""

    def find_path(self, domain: str, selector: str) -> Path:
        """Return where a key is, or would be."""
        ...

    def write(self, domain: str, selector: str, pem: bytes) -> Path:
        """Keep a key that is not there yet, on disk.

        Raises:
            StoreUnusable: it can't be kept.
        """
        ...

    def read(self, domain: str, selector: str) -> bytes:
        """Return a key.

        Raises:
            OSError: it can't be read.
        """
        ...

    def remove(self, domain: str, selector: str) -> None:
        """Remove a key."""
        ...


class Store(Protocol):
    """The message log.  Reads see what is committed; writes return after the sync."""

    # acceptance

    async def add(self, message: NewMessage, *, now_ms: int) -> Receipt:
        """Store *message* with its recipients, key, work and events, all or nothing.

        A known key gives the earlier message's receipt (`is_replay`), also to a twin that
        commits at the same moment in another process.

        Raises:
            Unauthorized: the token was revoked meanwhile.
            RecipientRate: the token's limit for one recipient is used up.
            StoreBusy, StorageFull, OutcomeUnknown: see `errors`.
        """
        ...

    async def add_all(
        self, messages: Sequence[NewMessage], *, now_ms: int, is_atomic: bool
    ) -> Sequence[Receipt | EmailerError | IdTaken]:
        """Store *messages* in one commit, each as `add` would; return what became of each.

        Raises:
            NotAllAdded: *is_atomic*, and one could not be stored: none was.
            StoreBusy, StorageFull, OutcomeUnknown: *is_atomic*, as `add` does.
        """
        ...

    async def rehearse(self, message: NewMessage, *, now_ms: int) -> Receipt:
        """Return the receipt that `add` would, and keep nothing.

        Raises:
            Unauthorized, RecipientRate.
        """
        ...

    async def find_by_key(self, key_hash: bytes) -> Receipt | None:
        """Return the receipt of the message with that key."""
        ...

    # delivery

    async def find_due(
        self,
        rooms: Mapping[str, int],
        *,
        now_ms: int,
        is_idle: bool,
        probing: Collection[str] = (),
        urgent: Mapping[str, int] | None = None,
    ) -> Due:
        """Return ids of due, free messages: at most *rooms[hop]* for each next hop.

        Priority high has a room of its own where *urgent* says so.  The room of each lane is
        shared evenly among the services that have something due in it (T-30), and some of it
        is for low priority.  A message that lost its lease is returned only when *is_idle*, and
        then alone.  Of the next hops in *probing* those come first whose policy is `resend`
        (F-CO-07).
        """
        ...

    async def claim(
        self, message_ids: Collection[int], *, consumer_id: int, now_ms: int
    ) -> list[Claim]:
        """Give those of *message_ids* that are due and free to *consumer_id*."""
        ...

    async def load_raw(self, message_id: int) -> bytes | None:
        """Return the bytes of a message, or None where retention removed them."""
        ...

    def mark(
        self,
        claim: Claim,
        accepted: Collection[int],
        *,
        provider: str,
        now_ms: int,
        boot_ms: int,
        final_reply_ms: int,
        may_expire: bool = True,
    ) -> Awaitable[bool]:
        """Commit the point of no return for *accepted*, all or nothing.

        False: the lease is lost, or a recipient was cancelled, held, suppressed or expired
        meanwhile; then suppressed and expired ones are abandoned, the lease is given back, the
        rest is due now and no attempt is charged.
        """
        ...

    async def settle(self, claim: Claim, result: AttemptResult, *, now_ms: int) -> bool:
        """Write an attempt's result and give the lease back.

        False when the lease is no longer ours: the caller then testifies.
        """
        ...

    async def testify(self, claim: Claim, result: AttemptResult, *, now_ms: int) -> None:
        """Write a late answer to a lost lease: keyed by the attempt, stepping as evidence may.

        Only for an attempt whose mark was granted: an unmarked one has nothing to say.
        """
        ...

    async def give_back(
        self,
        claim: Claim,
        *,
        due_ms: int,
        waiting_for: WaitingFor,
        next_hop: str,
        chain_index: int,
    ) -> bool:
        """Give a lease back without an attempt (drain, a shut chain)."""
        ...

    async def report(
        self,
        message_id: int,
        n: int,
        cause: Cause,
        *,
        attempt: int,
        now_ms: int,
        provider: str = "",
        reply: str = "",
        data: Mapping[str, object] | None = None,
    ) -> State | None:
        """Apply a later word about a recipient as the life cycle allows; always an event."""
        ...

    async def record(
        self,
        type_: str,
        *,
        now_ms: int,
        message_id: int | None = None,
        n: int | None = None,
        provider: str = "",
        reply: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Write an event that changes no state."""
        ...

    # reports

    async def take_reports(
        self,
        provider: str,
        reports: Sequence[NewReport],
        *,
        raw: bytes,
        once: str = "",
        fault: str = "",
        now_ms: int,
    ) -> Taken:
        """Apply each of *reports* that was not told before, and keep *raw*.

        What is about no message or attempt that is here is kept and tried again (F-WI-03).

        Args:
            provider: the name of the next hop.
            reports: what its call says.
            raw: the call's body as it came.
            once: what may come once only: the signature's token (F-WI-01).
            fault: why *raw* could not be read.
            now_ms: the wall clock.
        """
        ...

    async def match_reports(self, *, now_ms: int, limit: int) -> int:
        """Try reports again that were about nothing yet; return how many now fitted."""
        ...

    async def unsubscribe(
        self, suppression: Suppression, *, message_id: int, n: int, now_ms: int
    ) -> bool:
        """Enter what a recipient asked for by the link in a message, which may be gone.

        False: it was suppressed already.
        """
        ...

    # consumers

    async def register(self, consumer: Consumer) -> None:
        """Enter a consumer; it may claim from now on."""
        ...

    async def renew(
        self, consumer_id: int, *, now_ms: int, lease_until_ms: int, in_flight: int
    ) -> bool:
        """Renew a consumer's lease; False when it was declared dead meanwhile."""
        ...

    async def list_consumers(self) -> list[Consumer]:
        """Return the consumers that have not ended."""
        ...

    async def void(
        self,
        consumer_id: int,
        *,
        is_dead: bool,
        is_lapsed: bool = True,
        now_ms: int,
        boot_ms: int,
        resend_after_ms: int,
    ) -> int:
        """End the leases of a consumer; return how many messages that touched.

        *is_dead*: the process is gone, all its leases are void and the consumer has ended.
        *is_lapsed*: its right ran out, so unmarked claims are void.  A marked claim is over
        when its own time ended, whatever its consumer does.  Sending recipients become unknown,
        never queued.
        """
        ...

    async def fence(
        self, *, after_id: int, limit: int, data: Mapping[str, object], now_ms: int
    ) -> tuple[int, int | None]:
        """Put open recipients in doubt, after a restore: those of the next *limit* messages.

        Returns how many stepped and the last message looked at, None at the end.
        """
        ...

    async def seal(self, *, data: Mapping[str, object], now_ms: int) -> None:
        """End a restore: no doubt is sent again by itself, no event's number is given twice."""
        ...

    async def sweep(
        self, *, hops: Sequence[str] | None, now_ms: int, max_age_ms: int, may_expire: bool
    ) -> int:
        """Fire the timers that fell due: resend, expiry.

        With *hops*, the names of the next hops that exist, the work of others is routed anew.
        """
        ...

    async def shorten_waits(self, *, now_ms: int, longest_ms: int) -> int:
        """Make due what waits longer than any wait of ours: the wall clock jumped back."""
        ...

    async def retain(
        self, *, content_ms: int, messages_ms: int, events_ms: int, now_ms: int, limit: int
    ) -> int:
        """Remove what retention says, *limit* rows at the most; return how many went."""
        ...

    async def index(self, *, limit: int) -> int:
        """Fill the search tables from the event log; return how many messages were taken."""
        ...

    # operators

    async def order(self, order: Order, *, now_ms: int) -> OrderResult:
        """Carry out an operator's order; an event for every recipient it fits, and one audit.

        Raises:
            NotFound: no such message (or another service's).
            Conflict: no recipient changed; names the states.
            TooEarly: a late answer may still come.
            ContentGone: the bytes to send were removed.
        """
        ...

    async def pause(self, pause: Pause) -> None:
        """Pause claiming."""
        ...

    async def resume(self, *, actor: str, now_ms: int) -> bool:
        """End the pause; False when there was none."""
        ...

    async def find_pause(self, *, now_ms: int) -> Pause | None:
        """Return the pause in force."""
        ...

    # reading

    async def find_message(
        self, message_id: int, *, service: str | None = None, now_ms: int | None = None
    ) -> MessageView | None:
        """Return a message with its recipients and attempts; *service* narrows whose.

        With *now_ms*, what is due waits for nothing any more, or for the end of a pause.
        """
        ...

    async def find_ids(
        self, low: int, high: int, *, service: str | None = None, limit: int = 2
    ) -> list[int]:
        """Return message ids from *low* to *high*, both included; *service* narrows whose."""
        ...

    async def list_messages(
        self,
        filter_: MessageFilter,
        *,
        cursor: str | None,
        limit: int,
        now_ms: int | None = None,
    ) -> Page[MessageView]:
        """Return messages, newest first, with recipients, without attempts."""
        ...

    async def list_events(
        self, filter_: EventFilter, *, after_seq: int, limit: int
    ) -> list[Event]:
        """Return events after *after_seq* in order, led by a `gap` where some were removed."""
        ...

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 where there is none."""
        ...

    async def find_seq_since(self, moment_ms: int) -> int:
        """Return the number after which the events since *moment_ms* come."""
        ...

    async def list_unknown(
        self, *, now_ms: int, service: str | None = None, limit: int = 200
    ) -> list[Unknown]:
        """Return recipients in doubt, oldest first."""
        ...

    async def queue_stats(self, *, now_ms: int) -> QueueStats:
        """Return the queue in numbers."""
        ...

    # tokens

    async def add_token(self, token: Token, *, is_rotation: bool = False) -> None:
        """Enter a token.

        Raises:
            Conflict: the name is taken by a live token, and this is not its rotation.
        """
        ...

    async def load_tokens(self) -> tuple[int, list[Token]]:
        """Return the epoch (changes with every change of a token) and all tokens."""
        ...

    async def token_epoch(self) -> int:
        """Return the epoch alone."""
        ...

    async def end_token(self, token_id: int, *, at_ms: int) -> None:
        """Revoke a token at once; *at_ms* is when, for the record.

        A request that was authenticated before and commits after is refused (F-IN-14).
        """
        ...

    async def expire_token(self, token_id: int, *, at_ms: int) -> None:
        """Let a token expire at *at_ms*, if it would not sooner (a rotation's overlap)."""
        ...

    async def touch_tokens(self, used: Mapping[int, int]) -> None:
        """Write when tokens were last used (token id -> moment)."""
        ...

    # suppressions and next hops

    async def suppress(self, suppression: Suppression) -> None:
        """Enter or replace a suppression."""
        ...

    async def import_suppressions(self, suppressions: Sequence[Suppression]) -> int:
        """Enter those that are not there; return how many that were.

        What is there stays as it is, unless it would end sooner.
        """
        ...

    async def unsuppress(
        self, address: str, service: str, *, blocks: Blocks | None = None
    ) -> bool:
        """Remove a suppression; False when there was none."""
        ...

    async def list_suppressions(
        self, *, service: str | None, address: str, cursor: str | None, limit: int
    ) -> Page[Suppression]:
        """Return suppressions by address (a prefix narrows)."""
        ...

    async def find_suppressed(
        self, addresses: Collection[str], *, service: str, now_ms: int, is_list: bool = False
    ) -> set[str]:
        """Return those of *addresses* that are suppressed for *service*.

        *is_list*: for a message with `list_unsubscribe`.
        """
        ...

    async def list_next_hops(self) -> list[NextHop]:
        """Return the standing of every next hop that has one."""
        ...

    async def set_next_hop(self, hop: NextHop) -> None:
        """Enter a next hop's standing; opening one makes what waits for it due."""
        ...

    async def load_standing(self) -> tuple[list[NextHop], list[Breaker]]:
        """Return the standing and the breaker of every next hop that has one."""
        ...

    async def set_breaker(self, breaker: Breaker, *, now_ms: int) -> Breaker:
        """Write a breaker that was decided on the version before its own; return what holds.

        That is another one where somebody was faster.
        """
        ...

    async def take_stints(self, stints: Sequence[Stint], *, now_ms: int) -> list[int]:
        """Lease a stretch of time for each of *stints*; return where each begins (us).

        Stretches of one rate never overlap.  One that would begin too late is not given; the
        moment says when it would.
        """
        ...

    async def list_usage(self) -> Mapping[str, Usage]:
        """Return how much of the rates of the next hops was leased of late."""
        ...

    async def wake_parked(self, *, now_ms: int, limit: int) -> int:
        """Make due what waits for a next hop, *limit* messages at most; return how many."""
        ...

    # the keys of domains

    async def list_domain_keys(self) -> list[DomainKey]:
        """Return the keys of all domains, oldest first of each."""
        ...

    async def add_domain_keys(self, keys: Sequence[DomainKey]) -> None:
        """Enter new keys.

        Raises:
            Conflict: a selector is taken; none is entered.
        """
        ...

    async def set_key_states(
        self, domain: str, states: Mapping[str, KeyState], *, actor: str, now_ms: int
    ) -> None:
        """Write the states of a domain's keys by selector."""
        ...

    async def remove_domain_keys(
        self, domain: str, selectors: Sequence[str], *, actor: str, now_ms: int
    ) -> None:
        """Forget keys of a domain."""
        ...

    # alerts and health

    async def raise_alert(self, alert: Alert) -> bool:
        """Raise an alert; True when this call raised it (one process notifies)."""
        ...

    async def note_alert_told(self, name: str, *, at_ms: int) -> None:
        """Note that the operator has been told that an alert is raised."""
        ...

    async def clear_alert(self, name: str) -> bool:
        """Clear an alert; True when this call cleared it."""
        ...

    async def list_alerts(self) -> list[Alert]:
        """Return the alerts that are raised."""
        ...

    async def find_note(self, key: str) -> str | None:
        """Return a note that processes leave each other (clock offsets, indexes)."""
        ...

    async def leave_note(self, key: str, value: str) -> None:
        """Leave such a note."""
        ...

    async def keep_note(self, key: str, value: str) -> str:
        """Leave such a note unless there is one; return the one that stands."""
        ...

    async def take_duty(self, name: str, holder: int, *, now_ms: int, until_ms: int) -> bool:
        """Give a duty that one process at a time does to *holder*, until then at most.

        False where another one has it.  Who has it takes it again to keep it, or with an
        *until_ms* in the past to give it up.  Moments are the wall clock's: a jump may give it
        to two, so that it must be one that does no harm done twice.
        """
        ...

    async def audit(self, *, limit: int = 100) -> list[Breach]:
        """Check the invariants I1 to I10 and return what does not hold."""
        ...

    async def close(self) -> None:
        """Finish what was begun and close."""
        ...
