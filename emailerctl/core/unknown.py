"""Doubt that ends by itself: the next hop is asked what became of an attempt without an answer.

Two ways, where it has them: its request again, with the same key, which changes nothing where
the first one was taken (a *replay*); and a *look-up*.  That a copy is there counts whenever it
is seen.  That there is none counts only of a look-up, after its lag, of the account that was
asked to send, and for the newest attempt: everything else leaves the doubt as it is.

What decides about times is the boot clock: a wall clock that jumps must not make a "no" count
too early, nor a key be used that its next hop has forgotten.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from emailerctl.core.deliver import Hop
from emailerctl.core.standing import Standing
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause
from emailerctl.models.outcome import Kind
from emailerctl.providers.base import (
    Abilities,
    CanLookUp,
    Finding,
    LookUp,
    MarkRefused,
    Outgoing,
    Sending,
)
from emailerctl.store.base import Conclusion, Doubt, Store

_AT_ONCE = 16
_LOOK_UP_S = 60.0
_HELD_MS = 30_000  # beyond what a replay may take: then its process is taken for dead


class Way(StrEnum):
    """How the next hop is asked."""

    REPLAY = "replay"
    LOOK_UP = "look-up"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and for how long.

    Attributes:
        least_ms: between two questions; each wait is as long as all before it, up to `most_ms`.
        settling_ms: after the mark the last byte leaves, and the kernel brings it there, within
            this time, also of a process that was killed (TCP_USER_TIMEOUT).
        asking_ms: for so long after its lag a look-up goes on, and its "no" counts: shorter
            than what any provider keeps.
        margin: the part of a key's window that is not used: clocks, and what is under way.
    """

    least_ms: int = 5_000
    most_ms: int = 3_600_000
    settling_ms: int = 70_000
    asking_ms: int = 12 * 3_600_000
    margin: float = 0.1


@dataclass(frozen=True, slots=True)
class Moment:
    """What of now the decision depends on.

    Attributes:
        account: whose account the next hop would be asked with.
    """

    now_ms: int
    boot_ms: int
    boot_id: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How to ask now, and when again if nothing is learnt.

    Attributes:
        way: None: it can't be asked.
        next_ms: None: not any more.
        replay_until_boot_ms: a replay's last byte leaves before this.
        no_counts: a look-up's "no" is one.
    """

    way: Way | None
    next_ms: int | None
    replay_until_boot_ms: int = 0
    no_counts: bool = False


def find_ways(abilities: Abilities | None) -> Collection[Way]:
    """Return how a next hop can be asked."""
    ways = []
    if abilities is not None and abilities.idempotency is not None:
        ways.append(Way.REPLAY)
    if abilities is not None and abilities.look_up_lag_ms is not None:
        ways.append(Way.LOOK_UP)
    return ways


def is_resolved_within(abilities: Abilities | None, within_ms: int) -> bool:
    """Return whether a doubt there usually ends by itself within this time."""
    lag_ms = None if abilities is None else abilities.look_up_lag_ms
    if abilities is None or (abilities.idempotency is None and lag_ms is None):
        return False
    return abilities.idempotency is not None or (lag_ms or 0) <= within_ms


def decide(
    doubt: Doubt, abilities: Abilities | None, moment: Moment, patience: Patience
) -> Question:
    """Choose how to ask, and when again: while the key is known by replay, else by look-up."""
    if abilities is None:
        return Question(way=None, next_ms=None)
    elapsed_ms = _find_elapsed_ms(doubt, moment)
    wait_ms = min(max(elapsed_ms, patience.least_ms), patience.most_ms)
    until_ms = _find_replay_end(doubt, abilities, moment, patience)
    no_from_ms = no_until_ms = None
    if abilities.look_up_lag_ms is not None:
        no_from_ms = abilities.look_up_lag_ms + patience.settling_ms
        no_until_ms = no_from_ms + patience.asking_ms
    can_replay = until_ms is not None and moment.boot_ms < until_ms
    # On the wall clock: an age from before a restart is known by nothing else.
    can_look_up = no_until_ms is not None and moment.now_ms - doubt.since_ms <= no_until_ms
    if not can_replay and not can_look_up:
        return Question(way=None, next_ms=None)
    if no_from_ms is not None and elapsed_ms < no_from_ms:
        wait_ms = min(wait_ms, no_from_ms - elapsed_ms)
    next_ms: int | None = moment.now_ms + wait_ms
    is_replayed_again = until_ms is not None and moment.boot_ms + wait_ms < until_ms
    if no_until_ms is None and not is_replayed_again:
        next_ms = None
    if doubt.resend_at_ms is not None and next_ms is not None:
        is_last = doubt.resend_at_ms <= moment.now_ms  # then policy sends again
        next_ms = None if is_last else min(next_ms, doubt.resend_at_ms)
    return Question(
        way=Way.REPLAY if can_replay else Way.LOOK_UP,
        next_ms=next_ms,
        replay_until_boot_ms=until_ms or 0,
        no_counts=no_from_ms is not None
        and elapsed_ms >= no_from_ms
        and doubt.account == moment.account != ""
        and moment.now_ms >= doubt.since_ms,
    )


def _find_elapsed_ms(doubt: Doubt, moment: Moment) -> int:
    """Return how long ago, at least, its request left for the last time."""
    if doubt.marked_boot_ms is None or doubt.boot_id is None:
        return 0
    if doubt.boot_id != moment.boot_id:
        return moment.boot_ms  # before this boot
    return moment.boot_ms - (doubt.replayed_boot_ms or doubt.marked_boot_ms)


def _find_replay_end(
    doubt: Doubt, abilities: Abilities, moment: Moment, patience: Patience
) -> int | None:
    """Return until when the request may be repeated, on the boot clock; None: it may not.

    Whoever it names must be in doubt about it, or he would have a second copy.
    """
    if abilities.idempotency is None or doubt.marked_boot_ms is None:
        return None
    is_same_boot = doubt.boot_id == moment.boot_id
    is_same_account = doubt.account == moment.account != ""
    is_expired = doubt.expires_ms is not None and doubt.expires_ms <= moment.now_ms
    is_whole = bool(doubt.carried) and {r.n for r in doubt.carried} == {
        r.n for r in doubt.recipients
    }
    if not (is_same_boot and is_same_account and is_whole) or is_expired:
        return None
    window_ms = abilities.idempotency.window_ms
    return doubt.marked_boot_ms + round(window_ms * (1 - patience.margin))


def read_findings(
    doubt: Doubt, findings: Mapping[int, Finding], *, no_counts: bool
) -> dict[int, Conclusion]:
    """Say what a look-up means: nothing of who is missing from its answer."""
    conclusions = {}
    for recipient in doubt.recipients:
        finding = findings.get(recipient.n)
        if finding is None or (not finding.is_there and not no_counts):
            continue
        attempt = finding.attempt or doubt.attempt
        conclusions[recipient.n] = Conclusion(
            cause=Cause.RESOLVED_SENT if finding.is_there else Cause.RESOLVED_NOT_SENT,
            attempt=attempt if attempt <= doubt.attempt else doubt.attempt,
            evidence={"by": Way.LOOK_UP, "detail": finding.detail},
            provider_message_id=finding.provider_message_id,
        )
    return conclusions


def read_replay(doubt: Doubt, sending: Sending) -> dict[int, Conclusion]:
    """Say what the answer to a repeated request means: only "accepted" says something.

    A refusal is about the second request, and may come before its key is looked at.
    """
    return {
        n: Conclusion(
            cause=Cause.RESOLVED_SENT,
            attempt=doubt.attempt,
            evidence={"by": Way.REPLAY},
            provider_message_id=outcome.provider_message_id,
            reply=outcome.reply,
            code=outcome.code,
        )
        for n, outcome in sending.outcomes.items()
        if outcome.kind is Kind.ACCEPTED and n in {r.n for r in doubt.recipients}
    }


class Resolver:
    """Asks about doubts; any number of consumers may.

    Args:
        accounts: what tells apart whose account each next hop is used with.
        may_expire: False for a while after the wall clock jumped (F-CL-01).
    """

    def __init__(
        self,
        store: Store,
        hops: Mapping[str, Hop],
        *,
        accounts: Mapping[str, str],
        standing: Standing,
        clock: Clock,
        boot_id: str,
        may_expire: Callable[[], bool],
        patience: Patience | None = None,
    ) -> None:
        """Take what asking needs."""
        self._store = store
        self._hops = hops
        self._accounts = accounts
        self._standing = standing
        self._clock = clock
        self._boot_id = boot_id
        self._may_expire = may_expire
        self._patience = patience or Patience()
        self._held_ms = _HELD_MS + round(_LOOK_UP_S * 1000)
        if hops:
            self._held_ms += max(hop.deadline_ms + hop.final_reply_ms for hop in hops.values())

    async def resolve(self) -> int:
        """Ask about what is due; return how many doubts that were."""
        now_ms = self._clock.now_ms()
        doubts = await self._store.take_doubts(
            now_ms=now_ms, until_ms=now_ms + self._held_ms, limit=_AT_ONCE
        )
        ended = await asyncio.gather(
            *(self._resolve(doubt) for doubt in doubts), return_exceptions=True
        )
        for error in ended:
            if isinstance(error, BaseException):
                raise error  # the others are done; its own is asked about again
        return len(doubts)

    async def _resolve(self, doubt: Doubt) -> None:
        hop = self._hops.get(doubt.provider)
        moment = Moment(
            now_ms=self._clock.now_ms(),
            boot_ms=self._clock.boot_ms(),
            boot_id=self._boot_id,
            account=self._accounts.get(doubt.provider, ""),
        )
        question = decide(doubt, hop.abilities if hop else None, moment, self._patience)
        conclusions: dict[int, Conclusion] = {}
        if hop is not None and question.way is Way.REPLAY:
            if self._standing.find_open([doubt.provider], 0) is None:
                if question.next_ms is not None:  # paused, disabled, its breaker open: later
                    await self._store.put_off(doubt, at_ms=question.next_ms)
                    return
            else:
                conclusions = await self._replay(doubt, hop, question)
        elif hop is not None and question.way is Way.LOOK_UP:
            conclusions = await self._look_up(doubt, hop, question)
        await self._store.conclude(
            doubt, conclusions, next_ms=question.next_ms, now_ms=self._clock.now_ms()
        )

    async def _replay(
        self, doubt: Doubt, hop: Hop, question: Question
    ) -> dict[int, Conclusion]:
        raw = await self._store.load_raw(doubt.message_id)
        if raw is None:
            return {}
        deadline_ms = self._clock.boot_ms() + hop.deadline_ms
        outgoing = Outgoing(
            message_id=doubt.message_id,
            public_id=to_public(MESSAGE, doubt.message_id),
            attempt=doubt.attempt,
            envelope_sender=doubt.envelope_sender,
            recipients=doubt.carried,
            raw=raw,
            needs_smtputf8=doubt.needs_smtputf8,
            deadline_boot_ms=min(deadline_ms, question.replay_until_boot_ms),
            tags=doubt.tags,
            metadata=doubt.metadata,
        )

        async def mark(accepted: Collection[int]) -> bool:
            if {r.n for r in doubt.carried} != set(accepted):
                return False  # it is not the same request
            try:
                return await asyncio.shield(
                    self._store.mark_replay(
                        doubt,
                        now_ms=self._clock.now_ms(),
                        boot_ms=self._clock.boot_ms(),
                        final_reply_ms=hop.final_reply_ms,
                        may_expire=self._may_expire(),
                    )
                )
            except Unavailable:
                return False

        try:
            return read_replay(doubt, await hop.provider.send(outgoing, mark))
        except MarkRefused:
            return {}

    async def _look_up(
        self, doubt: Doubt, hop: Hop, question: Question
    ) -> dict[int, Conclusion]:
        if not isinstance(hop.provider, CanLookUp):
            return {}
        public = to_public(MESSAGE, doubt.message_id)
        wanted = LookUp(
            public_id=public,
            message_id_header=f"{public}@{doubt.header_from.rpartition('@')[2]}",
            attempt=doubt.attempt,
            recipients=doubt.recipients,
            since_ms=doubt.since_ms,
        )
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                findings = await hop.provider.look_up(wanted)
        except TimeoutError:
            return {}
        return read_findings(doubt, findings, no_counts=question.no_counts)
