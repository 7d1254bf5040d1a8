"""Ingest: a job that another service published becomes a message, or says why it can't.

Whatever came is in the inbox before anything looks at it.  It is believed only so far as its
signature goes, and then accepted by the same rules as a request to the API, with its own id as
the idempotency key: processing it twice, at once or after a crash, makes one message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from emailerctl.core.accept import Acceptance
from emailerctl.core.answers import JobShape
from emailerctl.core.idempotency import hash_key
from emailerctl.core.strictjson import load_object
from emailerctl.errors import EmailerError, Fault, Invalid, MalformedJson, Unavailable
from emailerctl.models import job as wire
from emailerctl.models.caller import Caller, Scope, TokenLimits
from emailerctl.models.clock import Clock, to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.job import Envelope, Key
from emailerctl.models.message import Receipt
from emailerctl.models.text import shorten
from emailerctl.store.base import InboxJob, Rejection, Store

MOST_TRIES = 5  # of one job that ended its consumer each time
_AHEAD_MS = 300_000  # how far a publisher's clock may be ahead of ours
_MOST_FAULTS = 50
_BURST_MS = 60_000  # so much of the rate may be used at once
_LONGEST_WAIT_MS = 600_000  # beyond it an unsigned job is rejected
_RETRY_MS = 1_000


class Reason(StrEnum):
    """Why a job is rejected before the rules of acceptance see it; those have their codes."""

    MALFORMED = "malformed_json"  # not JSON, or not an object
    FOREIGN = "foreign_topic"  # for somebody else, on our ForestMQ
    ENVELOPE = "bad_envelope"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "bad_signature"
    TOO_OLD = "too_old"
    IN_FUTURE = "in_future"
    RATE = "rate"
    CRASHED = "crashed"  # its consumers ended while they worked on it
    BUG = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRules:
    """What the settings say about jobs.

    Attributes:
        keys: of each service; any of them verifies.
        unsigned_from: From domains of unsigned jobs; empty: unsigned jobs are rejected.
    """

    keys: Mapping[str, tuple[Key, ...]] = field(default_factory=dict)
    unsigned_from: tuple[str, ...] = ()
    unsigned_per_minute: int = 60
    max_age_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that has been verified: what it asks for, and who asks."""

    fields: Mapping[str, object]
    caller: Caller
    job_id: str
    is_signed: bool


class Refused(Exception):
    """A job can't become a message."""

    def __init__(self, rejection: Rejection) -> None:
        """Carry the reason."""
        super().__init__(rejection.reason)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job is a message now, or has been one already."""

    receipt: Receipt
    job_id: str
    service: str
    is_signed: bool


@dataclass(frozen=True, slots=True)
class Deferred:
    """A job has to wait, and nothing is wrong with it."""

    due_ms: int
    detail: str


Verdict = Accepted | Rejection | Deferred


def read_job(raw: bytes, *, topic: str, received_ms: int, rules: IngestRules) -> Job:
    """Verify what came on *topic*, and return what it asks for.

    Its age is that at which it came, so that a later look says the same.

    Raises:
        Refused: with every fault, and as much as is known about whose it is.
    """
    try:
        message = load_object(raw)
    except MalformedJson as error:
        raise Refused(Rejection(reason=Reason.MALFORMED, faults=_say(error.detail))) from None
    job_id, key_id = wire.find_names(message)

    def refuse(reason: str, faults: Iterable[Fault], service: str = "") -> Refused:
        return Refused(
            Rejection(
                reason=reason,
                faults=tuple(faults)[:_MOST_FAULTS],
                service=service,
                key_id=key_id,
                job_id=job_id,
            )
        )

    if isinstance(found := message.get("topic"), str) and found != topic:
        detail = f"{shorten(found)} is another topic than {topic}, which is taken from there"
        raise refuse(Reason.FOREIGN, [Fault("/topic", detail)])
    try:
        envelope = wire.parse_envelope(message)
    except Invalid as error:
        raise refuse(Reason.ENVELOPE, error.faults) from None
    finding = _authenticate(envelope, rules, received_ms)
    if finding:
        is_known = finding[0] in (Reason.TOO_OLD, Reason.IN_FUTURE)
        raise refuse(*finding, service=envelope.key_id if is_known else "")
    caller = _build_caller(envelope.key_id, rules)
    try:
        fields = _read_content(envelope)
    except MalformedJson as error:
        raise refuse(Reason.MALFORMED, _say(error.detail, "/data"), caller.service) from None
    if not envelope.key_id and fields.get("provider") is not None:
        detail = "may not be chosen by an unsigned job; leave it out, or sign"
        raise refuse("forbidden", [Fault("/provider", detail)], caller.service)
    return Job(fields=fields, caller=caller, job_id=job_id, is_signed=bool(envelope.key_id))


def _authenticate(
    envelope: Envelope, rules: IngestRules, received_ms: int
) -> tuple[Reason, list[Fault]] | None:
    """Return what keeps the job from being believed, or None."""
    key_id = envelope.key_id
    if not key_id:
        if rules.unsigned_from:
            return None
        detail = "is missing; sign with a key, or set [ingest.forestmq] allow_unsigned = true"
        return Reason.UNSIGNED, [Fault("/sig", detail)]
    keys = rules.keys.get(key_id)
    if keys is None:
        detail = f"{shorten(key_id)} is no key of [ingest.forestmq.keys]"
        return Reason.UNKNOWN_KEY, [Fault("/kid", detail)]
    if not any(wire.is_signed_with(envelope, key) for key in keys):
        detail = f"is not made with the secret of {key_id} over this job"
        return Reason.SIGNATURE, [Fault("/sig", detail)]
    return _find_bad_age(envelope.at_s, rules, received_ms)


def _find_bad_age(
    at_s: int, rules: IngestRules, received_ms: int
) -> tuple[Reason, list[Fault]] | None:
    age_ms = received_ms - at_s * 1000
    if age_ms > rules.max_age_ms:
        signed, came = to_text(at_s * 1000), to_text(received_ms)
        detail = f"was signed at {signed} and came at {came}: [ingest.forestmq] max_age is over"
        return Reason.TOO_OLD, [Fault("/at", detail)]
    if age_ms < -_AHEAD_MS:
        detail = f"is {-age_ms // 1000} s ahead of this host; set the publisher's clock"
        return Reason.IN_FUTURE, [Fault("/at", detail)]
    return None


def _build_caller(key_id: str, rules: IngestRules) -> Caller:
    """Return who asks: the service of the key, or anybody with an unsigned job."""
    limits = TokenLimits() if key_id else TokenLimits(from_domains=rules.unsigned_from)
    service = key_id or wire.ANONYMOUS
    return Caller(
        token_id=0,
        name=service,
        service=service,
        scopes=frozenset({Scope.SEND}),
        limits=limits,
    )


def _read_content(envelope: Envelope) -> Mapping[str, object]:
    content = envelope.content
    return load_object(content) if isinstance(content, bytes) else content


def _say(detail: str, pointer: str = "") -> tuple[Fault, ...]:
    return (Fault(pointer, detail),)


class Throttle:
    """How fast unsigned jobs of a topic become messages (GCRA), in this process."""

    def __init__(self, per_minute: int) -> None:
        """Take the rate."""
        self._interval_ms = 60_000 / per_minute
        self._next_ms: dict[str, float] = {}

    def plan(self, topic: str, boot_ms: int) -> int | None:
        """Return how long the next one waits, in ms, or None where too many wait already."""
        next_ms = max(self._next_ms.get(topic, 0), boot_ms) + self._interval_ms
        wait_ms = max(round(next_ms - _BURST_MS) - boot_ms, 0)
        if wait_ms > _LONGEST_WAIT_MS:
            return None
        self._next_ms[topic] = next_ms
        return wait_ms


class Ingest:
    """What turns jobs of the inbox into messages."""

    def __init__(
        self, store: Store, acceptance: Acceptance, rules: IngestRules, *, clock: Clock
    ) -> None:
        """Take what it needs."""
        self._store = store
        self._acceptance = acceptance
        self._rules = rules
        self._clock = clock
        self._throttle = Throttle(rules.unsigned_per_minute)
        self._has_turn: set[int] = set()  # unsigned jobs that have waited, or do

    async def process(self, job: InboxJob, *, by_hand: bool = False) -> Verdict:
        """Make a message of *job*, or write why not; safe to call any number of times.

        Args:
            job: as it is in the inbox.
            by_hand: an operator asks: it does not wait for its turn.

        Raises:
            Unavailable and its kinds: the store can't say what came of it.
        """
        verdict = await self._judge(job, by_hand=by_hand)
        match verdict:
            case Accepted():
                await self._store.end_job(job.inbox_id)
            case Rejection():
                await self._store.reject_job(job.inbox_id, verdict, now_ms=self._clock.now_ms())
            case Deferred():
                await self._store.defer_job(job.inbox_id, due_ms=verdict.due_ms)
                return verdict
        self._has_turn.discard(job.inbox_id)
        return verdict

    async def reject(self, job: InboxJob, reason: Reason, detail: str) -> Rejection:
        """Write that *job* is rejected for a reason of ours."""
        rejection = _reject(job, reason, _say(detail))
        await self._store.reject_job(job.inbox_id, rejection, now_ms=self._clock.now_ms())
        return rejection

    async def _judge(self, job: InboxJob, *, by_hand: bool) -> Verdict:
        if job.tries > MOST_TRIES and not by_hand:
            detail = f"{MOST_TRIES} consumers ended while they worked on it"
            return _reject(job, Reason.CRASHED, _say(detail))
        try:
            read = read_job(
                job.raw, topic=job.topic, received_ms=job.received_ms, rules=self._rules
            )
        except Refused as refused:
            return refused.rejection
        known = Rejection(
            reason="",
            service=read.caller.service,
            key_id=read.caller.service if read.is_signed else "",
            job_id=read.job_id,
        )
        if not (read.is_signed or by_hand):
            waits = self._find_wait(job, known)
            if waits:
                return waits
        try:
            receipt = await self._acceptance.accept(
                read.fields, caller=read.caller, key=read.job_id
            )
        except Unavailable as error:
            if by_hand:
                raise
            wait_ms = error.retry_after_s * 1000 if error.retry_after_s else _RETRY_MS
            return Deferred(self._clock.now_ms() + wait_ms, error.detail)
        except EmailerError as error:
            return _reject(known, error.code, _find_faults(error))
        return Accepted(receipt, read.job_id, read.caller.service, read.is_signed)

    def _find_wait(self, job: InboxJob, known: Rejection) -> Verdict | None:
        """Return whether an unsigned job waits for its turn, or is one too many."""
        if job.inbox_id in self._has_turn:
            return None
        wait_ms = self._throttle.plan(job.topic, self._clock.boot_ms())
        if wait_ms is None:
            detail = (
                "too many unsigned jobs wait already: [ingest.forestmq] unsigned_per_minute"
            )
            return _reject(known, Reason.RATE, _say(detail))
        if not wait_ms:
            return None
        self._has_turn.add(job.inbox_id)
        detail = "an unsigned job waits for its turn"
        return Deferred(self._clock.now_ms() + wait_ms, detail)


def _reject(known: Rejection, reason: str, faults: tuple[Fault, ...]) -> Rejection:
    return Rejection(
        reason=reason,
        faults=faults[:_MOST_FAULTS],
        service=known.service,
        key_id=known.key_id,
        job_id=known.job_id,
    )


def _find_faults(error: EmailerError) -> tuple[Fault, ...]:
    """Return all that a refusal says."""
    if isinstance(error, Invalid):
        return tuple(error.faults)
    return _say(error.detail)


# What a service hears of its job.


async def find_status(store: Store, *, service: str, job_id: str) -> JobShape | None:
    """Return what became of a service's job: accepted, rejected, or None: not known (yet).

    An accepted one is known by its idempotency key, whichever way it came.
    """
    receipt = await store.find_by_key(hash_key(service, job_id))
    if receipt is not None:
        public = to_public(MESSAGE, receipt.message_id)
        return {
            "id": job_id,
            "state": "accepted",
            "message_id": public,
            "code": None,
            "errors": [],
        }
    key_id = "" if service == wire.ANONYMOUS else service
    rejected = await store.find_rejection(key_id=key_id, job_id=job_id)
    if rejected is None:
        return None
    return {
        "id": job_id,
        "state": "rejected",
        "message_id": None,
        "code": rejected.reason,
        "errors": [{"pointer": f.pointer, "detail": f.detail} for f in rejected.faults],
    }
