"""Acceptance: a request becomes a committed message, or is refused with all its faults.

Everything that can be known is checked here, before the commit (P6).  What depends on the state
of the store (the key, suppressions, the token's end, its rate) is checked inside the commit.
"""

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from typing import NamedTuple

from emailerctl.core.idempotency import check_key, differing_fields, fingerprint, hash_key
from emailerctl.core.mime import build_raw
from emailerctl.core.route import Route, RouteFacts, Routing, explain_route
from emailerctl.core.submission import Limits, Submission, Times, parse_submission, plan_times
from emailerctl.core.unsubscribe import ONE_CLICK, Subject, Unsubscribing
from emailerctl.errors import (
    EmailerError,
    Fault,
    Forbidden,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    Invalid,
    OutcomeUnknown,
    Overloaded,
    StorageFull,
)
from emailerctl.models.caller import Caller, Scope
from emailerctl.models.clock import Clock
from emailerctl.models.ids import MESSAGE, build_message_id, to_public
from emailerctl.models.lifecycle import OnUnknown, Reason, WaitingFor
from emailerctl.models.message import (
    Draft,
    Mailbox,
    NewMessage,
    NewRecipient,
    Notice,
    Receipt,
    RecipientKind,
)
from emailerctl.providers.base import Abilities, Traits, find_faults, find_losses
from emailerctl.store.base import IdTaken, Store

_SOON_MS = 3_600_000  # an expiry within the hour leaves an operator little time
_ORIGINAL_TO = "X-Emailer-Original-To"
_LIST_FIELDS = ("List-Unsubscribe", "List-Unsubscribe-Post")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRules:
    """What the settings say about acceptance.

    Attributes:
        envelope_sender: used instead of the From address, unless empty.
        redirect_all_to: every message goes there instead (staging), unless empty.
        doubtful_hops: next hops that can neither be looked up nor replayed: an unknown there
            waits for an operator.
        abilities: of the next hops that can't carry everything.
        max_backlog: pieces of work waiting for a commit beyond which requests are refused.
    """

    limits: Limits
    routing: Routing
    requires_key: bool = False
    default_from: Mailbox | None = None
    default_on_unknown: OnUnknown = OnUnknown.ASK
    envelope_sender: str = ""
    redirect_all_to: str = ""
    allow_local_domains: bool = False
    doubtful_hops: frozenset[str] = frozenset()
    abilities: Mapping[str, Abilities] = field(default_factory=dict)
    max_backlog: int = 5_000


@dataclass(frozen=True, slots=True)
class Key:
    """The request's idempotency key, hashed, and what it asked for; both None without a key."""

    hash: bytes | None = None
    fingerprint: bytes | None = None


class Prepared(NamedTuple):
    """A message ready to be stored, and what was found out on the way.

    Attributes:
        route: where it goes, where after that, and why.
        notices: what of it which next hop can't carry.
    """

    message: NewMessage
    submission: Submission
    route: Route
    notices: tuple[Notice, ...]


class Acceptance:
    """What turns requests into committed messages.

    Args:
        is_storage_low: whether the disk is below its low-water mark: acceptance stops, so that
            outcomes can still be written.
        backlog: how many pieces of work wait for a commit.
        unsubscribing: what makes links; None: nothing does.
    """

    def __init__(
        self,
        store: Store,
        rules: AcceptRules,
        *,
        clock: Clock,
        rng: Random,
        is_storage_low: Callable[[], bool],
        backlog: Callable[[], int],
        unsubscribing: Unsubscribing | None = None,
    ) -> None:
        """Take what acceptance needs."""
        self._store = store
        self._rules = rules
        self._clock = clock
        self._rng = rng
        self._is_storage_low = is_storage_low
        self._backlog = backlog
        self._unsubscribing = unsubscribing

    async def accept(
        self, fields: Mapping[str, object], *, caller: Caller, key: str | None = None
    ) -> Receipt:
        """Commit the message that *fields* ask for, and return its receipt.

        Raises:
            Invalid, Forbidden, IdempotencyKeyInvalid, IdempotencyKeyReused, RecipientRate,
            Unauthorized, Unavailable and its kinds.
        """
        self.check_room()
        known = self.read_key(fields, caller, key)
        now_ms = self._clock.now_ms()
        read = await self.read(fields, caller, now_ms, known)
        while isinstance(read, Prepared):
            try:
                receipt = await self._store.add(read.message, now_ms=now_ms)
            except IdTaken:
                read = await self.read(fields, caller, now_ms, known)
                continue
            except OutcomeUnknown as error:  # one for a whole group: each names its own
                raise name_outcome(error, read.message) from error
            return self.complete(receipt, read, known)
        return read

    async def read(
        self, fields: Mapping[str, object], caller: Caller, now_ms: int, key: Key
    ) -> Prepared | Receipt:
        """Return the message that *fields* ask for, or the receipt that its key has already.

        The rules may have changed since: a replay is a replay all the same (P4).

        Raises:
            Invalid, Forbidden, IdempotencyKeyReused.
        """
        try:
            return await self._prepare(fields, caller, now_ms, key)
        except EmailerError:
            replay = await self._store.find_by_key(key.hash) if key.hash else None
            if replay is None:
                raise
            return _recognise(replay, key)

    def complete(self, receipt: Receipt, prepared: Prepared, key: Key) -> Receipt:
        """Return what is answered for a message that was just stored, or was before.

        Raises:
            IdempotencyKeyReused: its key belongs to another request.
        """
        if receipt.is_replay:
            return _recognise(receipt, key)
        warned = self._warn(prepared.message, receipt, prepared.route.chain)
        warnings = (*warned, *prepared.notices)
        return receipt._replace(warnings=warnings) if warnings else receipt

    async def prepare(self, fields: Mapping[str, object], *, caller: Caller) -> Prepared:
        """Do what `accept` does, but for the store: nothing is kept.

        Raises:
            Invalid, Forbidden.
        """
        return await self._prepare(fields, caller, self._clock.now_ms(), Key())

    async def rehearse(
        self, fields: Mapping[str, object], *, caller: Caller, key: str | None = None
    ) -> tuple[Receipt, Prepared | None]:
        """Do all that `accept` does, and keep nothing: what it would answer, and why.

        None instead of the message: the key is known, and this would be a replay.

        Raises:
            What `accept` raises, but for what only a commit can meet.
        """
        self.check_room()
        known = self.read_key(fields, caller, key)
        now_ms = self._clock.now_ms()
        read = await self.read(fields, caller, now_ms, known)
        if isinstance(read, Receipt):
            return read, None
        receipt = await self._store.rehearse(read.message, now_ms=now_ms)
        return self.complete(receipt, read, known), None if receipt.is_replay else read

    async def _prepare(
        self, fields: Mapping[str, object], caller: Caller, now_ms: int, key: Key
    ) -> Prepared:
        submission = self._parse(fields, caller, now_ms)
        times = plan_times(submission, now_ms)
        link_key = await self._load_link_key(submission)
        message, route = self._build(submission, caller, times, now_ms, key, link_key)
        notices = tuple(self._find_incapable(submission, message, route.chain))
        return Prepared(message, submission, route, notices)

    def check_room(self) -> None:
        """Refuse more where the disk is nearly full, or too much waits for its commit.

        Raises:
            StorageFull, Overloaded.
        """
        if self._is_storage_low():
            raise StorageFull(
                "the disk of the store is nearly full; nothing was stored", retry_after_s=60
            )
        if self._backlog() >= self._rules.max_backlog:
            raise Overloaded("too many messages wait to be committed", retry_after_s=1)

    def read_key(
        self, fields: Mapping[str, object], caller: Caller, key: str | None, place: int = 0
    ) -> Key:
        """Return the key of a request, or of the item at *place* of a batch with one key.

        Raises:
            IdempotencyKeyInvalid: it is none, or is missing and required.
        """
        if key is not None:
            # No key can hold a NUL: those of a batch's later items are nobody else's.
            named = f"{check_key(key)}\0{place}" if place else check_key(key)
            return Key(hash_key(caller.service, named), fingerprint(fields))
        if self._rules.requires_key or caller.limits.requires_key:
            raise IdempotencyKeyInvalid("an Idempotency-Key is required here")
        return Key()

    def _parse(self, fields: Mapping[str, object], caller: Caller, now_ms: int) -> Submission:
        limits = caller.limits
        if limits.fixed_to and not any(fields.get(kind) for kind in RecipientKind):
            fields = {**fields, "to": list(limits.fixed_to)}
        submission = parse_submission(
            fields,
            self._rules.limits,
            now_ms=now_ms,
            allow_sandbox=caller.is_test,
            allow_local_domains=self._rules.allow_local_domains,
            default_from=self._rules.default_from,
            default_on_unknown=self._rules.default_on_unknown,
            has_public_url=(
                self._unsubscribing is not None and self._unsubscribing.is_possible
            ),
        )
        _check_limits(submission, caller)
        return submission

    def _choose_route(
        self,
        submission: Submission,
        caller: Caller,
        message_id: int,
        recipients: tuple[NewRecipient, ...],
    ) -> Route:
        """Return the chain of next hops, and why it is that one.

        Raises:
            Invalid: the named provider does not exist, or nothing is set up to send with.
        """
        routing = self._rules.routing
        if submission.provider and submission.provider not in routing.names:
            known = ", ".join(sorted(routing.names)) or "none"
            detail = f"there is no provider {submission.provider!r}; known: {known}"
            raise Invalid([Fault("/provider", detail)])
        facts = RouteFacts(
            message_id=message_id,
            header_from=submission.draft.header_from.address,
            recipients=[recipient.address for recipient in recipients],
            service=caller.service,
            priority=submission.priority,
            tags=submission.tags,
            template=submission.template.name if submission.template else "",
            token=caller.name if caller.token_id else "",
            provider=submission.provider,
            is_test=caller.is_test,
        )
        route = explain_route(routing, facts)
        if not route.chain:
            raise Invalid(
                [Fault("", "no next hop is set up: [routing] default names no provider")]
            )
        return route

    def _build(
        self,
        submission: Submission,
        caller: Caller,
        times: Times,
        now_ms: int,
        key: Key,
        link_key: bytes | None,
    ) -> tuple[NewMessage, Route]:
        """Return the message and its route, which may depend on its id."""
        message_id = build_message_id(now_ms, self._rng)
        draft, recipients = self._redirect(submission)
        route = self._choose_route(submission, caller, message_id, recipients)
        list_unsubscribe = submission.list_unsubscribe or ""
        if link_key is not None and self._unsubscribing is not None:
            subject = Subject(message_id, 1, caller.service, recipients[0].address)
            url = self._unsubscribing.build_url(link_key, subject)
            draft = replace(draft, list_unsubscribe=url)
            list_unsubscribe = ONE_CLICK
        elif isinstance(list_unsubscribe, str):
            draft = replace(draft, list_unsubscribe=list_unsubscribe)
        header_from = draft.header_from.address
        domain = header_from.rpartition("@")[2]
        raw = build_raw(
            draft,
            message_id_header=f"<{to_public(MESSAGE, message_id)}@{domain}>",
            date_ms=times.due_ms,
        )
        message = NewMessage(
            message_id=message_id,
            service=caller.service,
            token_id=caller.token_id,
            token_epoch=caller.epoch,
            created_ms=now_ms,
            due_ms=times.due_ms,
            waiting_for=WaitingFor.READY if times.due_ms <= now_ms else WaitingFor.SEND_AT,
            expires_ms=times.expires_ms,
            priority=submission.priority,
            on_unknown=submission.on_unknown,
            provider=submission.provider,
            next_hop=route.chain[0],
            route=route.reason,
            is_test=caller.is_test,
            envelope_sender=self._rules.envelope_sender or header_from,
            header_from=header_from,
            subject=draft.subject,
            tags=submission.tags,
            metadata=submission.metadata,
            recipients=recipients,
            raw=raw,
            content_hash=sha256(raw).digest(),
            needs_smtputf8=submission.needs_smtputf8,
            list_unsubscribe=str(list_unsubscribe),
            key_hash=key.hash,
            fingerprint=key.fingerprint,
            recipient_rate=caller.limits.recipient_rate,
        )
        return message, route

    async def _load_link_key(self, submission: Submission) -> bytes | None:
        """Return the key of unsubscribe links where this message is to have one of ours."""
        if submission.list_unsubscribe is not True or self._unsubscribing is None:
            return None
        return await self._unsubscribing.load_key()

    def _redirect(self, submission: Submission) -> tuple[Draft, tuple[NewRecipient, ...]]:
        """Send to one address instead of all, naming the others in a header (staging)."""
        target = self._rules.redirect_all_to
        if not target:
            return submission.draft, submission.recipients
        original = ", ".join(
            recipient.address
            for recipient in submission.recipients
            if recipient.kind is not RecipientKind.BCC
        )
        headers = {**submission.draft.headers, **({_ORIGINAL_TO: original} if original else {})}
        draft = replace(submission.draft, headers=headers)
        return draft, (NewRecipient(target, RecipientKind.TO),)

    def _find_incapable(
        self, submission: Submission, message: NewMessage, chain: tuple[str, ...]
    ) -> Iterator[Notice]:
        """Yield a warning for every next hop that is skipped, or that drops labels.

        Raises:
            Invalid: none of the chain can carry the message.
        """
        abilities = self._rules.abilities
        limited = [name for name in chain if name in abilities]
        if not limited:
            return
        traits = find_traits(submission, message)
        faults = {name: find_faults(abilities[name], traits) for name in limited}
        said = [f"{name}: {'; '.join(found)}" for name, found in faults.items() if found]
        if len(said) == len(chain):
            raise Invalid([Fault("", f"no next hop can carry it: {' / '.join(said)}")])
        for each in said:
            yield Notice("not_expressible", f"skipped for this message: {each}")
        for name in limited:
            # Metadata is for the sender's eyes: nobody expects it to travel (product.md §3.1).
            labels = replace(traits, metadata={})
            losses = [] if faults[name] else find_losses(abilities[name], labels)
            if losses:
                yield Notice("not_expressible", f"{name}: {'; '.join(losses)}")

    def _warn(
        self, message: NewMessage, receipt: Receipt, chain: tuple[str, ...]
    ) -> Iterator[Notice]:
        for recipient in receipt.recipients:
            if recipient.reason is Reason.SUPPRESSED:
                detail = f"{recipient.address} is on the suppression list and is not sent to"
                yield Notice("suppressed", detail)
        expires_ms = message.expires_ms
        is_soon = expires_ms is not None and expires_ms - message.created_ms <= _SOON_MS
        doubtful = [name for name in chain if name in self._rules.doubtful_hops]
        if message.on_unknown is OnUnknown.ASK and is_soon and doubtful:
            yield Notice(
                "may_wait_for_operator",
                f"if {doubtful[0]} does not answer after the message left, an operator must "
                'decide, perhaps after the expiry; on_unknown = "resend" sends again instead',
            )


def _recognise(replay: Receipt, key: Key) -> Receipt:
    """Return the earlier receipt if it answers the same request.

    Raises:
        IdempotencyKeyReused: it does not; names the fields that differ.
    """
    if replay.fingerprint == key.fingerprint:
        return replay
    fields = differing_fields(replay.fingerprint or b"", key.fingerprint or b"")
    public = to_public(MESSAGE, replay.message_id)
    raise IdempotencyKeyReused(
        f"this key belongs to {public}, which was asked for with other values of: "
        + ", ".join(fields),
        errors=[
            {
                "pointer": f"/{field}",
                "detail": f"differs from the request that made {public}",
            }
            for field in fields
        ],
        message_id=public,
    )


def name_outcome(error: OutcomeUnknown, message: NewMessage) -> OutcomeUnknown:
    """Return the error of a whole group as one message's own, which names it (F-IN-06)."""
    return OutcomeUnknown(
        error.detail,
        retry_after_s=error.retry_after_s,
        id=to_public(MESSAGE, message.message_id),
    )


def find_traits(submission: Submission, message: NewMessage) -> Traits:
    """Return what the message asks of whoever carries it."""
    draft = submission.draft
    return Traits(
        recipients=len(message.recipients),
        size_bytes=len(message.raw),
        files=tuple(attachment.filename for attachment in draft.attachments),
        has_inline=any(attachment.content_id for attachment in draft.attachments),
        headers=(*draft.headers, *(_LIST_FIELDS if submission.list_unsubscribe else ())),
        utf8_headers=tuple(n for n, value in draft.headers.items() if not value.isascii()),
        reply_to=len(draft.reply_to),
        needs_smtputf8=message.needs_smtputf8,
        tags=submission.tags,
        metadata=submission.metadata,
    )


def _check_limits(submission: Submission, caller: Caller) -> None:
    """Refuse what the token may not send.

    Raises:
        Forbidden: a limit of the token (product.md §6), named.
    """
    limits = caller.limits
    if Scope.SEND not in caller.scopes:
        raise Forbidden(f"this token lacks the scope {Scope.SEND}")
    if limits.templates_only and submission.template is None:
        raise Forbidden(
            "this token sends templates only: give template instead of text or html"
        )
    sender = submission.draft.header_from.address
    domain = sender.rpartition("@")[2].lower()
    if limits.from_domains and domain not in limits.from_domains:
        allowed = ", ".join(limits.from_domains)
        raise Forbidden(f"this token sends from {allowed} only, not from {sender}")
    addresses = [recipient.address.lower() for recipient in submission.recipients]
    if limits.fixed_to:
        fixed = {address.lower() for address in limits.fixed_to}
        strangers = [address for address in addresses if address not in fixed]
        if strangers:
            raise Forbidden(
                f"this token sends to its fixed recipients only, not {strangers[0]}"
            )
    if limits.recipients:
        for address in addresses:
            if not any(fnmatch.fnmatchcase(address, p.lower()) for p in limits.recipients):
                allowed = ", ".join(limits.recipients)
                raise Forbidden(f"this token sends to {allowed} only, not to {address}")
