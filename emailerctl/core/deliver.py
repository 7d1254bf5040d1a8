"""Delivery: one attempt of one message, read top to bottom.

    claim (commit) -> gate -> the next hop's dialogue -> mark (commit) -> the last byte -> reply
    -> decide -> settle (commit)

No transaction is open while the network is used.  Batching lives in the store's writer: claims,
marks and settlements that wait at the same moment share a commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeVar

from emailerctl.core.retry import RetryPolicy, decide
from emailerctl.core.route import Route, RouteFacts, Routing, explain_route
from emailerctl.core.sealing import KeyUnusable, Sealing
from emailerctl.core.standing import Bounds, Permit, Refusal, Standing
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, Reason, WaitingFor
from emailerctl.models.outcome import Alarm, Kind, Outcome, Phase
from emailerctl.models.verp import Signer
from emailerctl.providers.base import MarkRefused, Outgoing, Provider, Sending
from emailerctl.store.base import AttemptResult, Breaker, Claim, Settlement, Store

_ASIDE_MS = 15_000  # what is for a slow domain goes behind what is due for others
_PARKED_MS = 30_000  # a message whose whole chain is shut looks again after about this long
_AFTER_MS = 2_000  # after a breaker's pause: those that are woken to probe with go first
_BUSY_MS = 1_000  # what waits for a probe to end looks again after this

T = TypeVar("T")
OnAlarm = Callable[[str, Alarm, str], None]


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop and how it is used.

    Attributes:
        deadline_ms: everything before the mark ends within this time.
        final_reply_ms: how long its answer may take after the last byte.
        concurrency: attempts at once.
        bounds: its breaker and its rates.
        is_signed: our signature (DKIM) arrives there as it is.
    """

    provider: Provider
    deadline_ms: int
    final_reply_ms: int
    concurrency: int
    bounds: Bounds = field(default_factory=Bounds)
    is_signed: bool = False


@dataclass(slots=True)
class Attempt:
    """An attempt under way: what the drain must know of it."""

    claim: Claim
    started_ms: int
    marked: frozenset[int] = field(default_factory=frozenset)
    is_mark_unwritten: bool = False
    route: str = ""

    @property
    def is_marked(self) -> bool:
        """Return whether it is past the point of no return."""
        return bool(self.marked)


class Delivery:
    """What turns claims into settled attempts.

    Args:
        may_expire: False for a while after the wall clock jumped (F-CL-01).
        on_alarm: called with the next hop's name when it refuses credentials or TLS.
        on_unwritten: awaited when an outcome could not be written, before it is tried again
            (F-CO-05): stops claiming, says so, waits.
        signer: of return paths; None: what comes back by mail can't be told apart.
        sealing: what signs (DKIM); None: nothing is signed.
    """

    def __init__(
        self,
        store: Store,
        hops: Mapping[str, Hop],
        *,
        routing: Routing,
        policy: RetryPolicy,
        standing: Standing,
        clock: Clock,
        rng: Random,
        may_expire: Callable[[], bool],
        on_alarm: OnAlarm,
        on_unwritten: Callable[[Unavailable], Awaitable[None]],
        signer: Signer | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        """Take what delivery needs."""
        self._store = store
        self._hops = hops
        self._routing = routing
        self._policy = policy
        self._standing = standing
        self._clock = clock
        self._rng = rng
        self._may_expire = may_expire
        self._on_alarm = on_alarm
        self._on_unwritten = on_unwritten
        self._signer = signer
        self._sealing = sealing

    async def deliver(self, attempt: Attempt) -> None:
        """Attempt a claimed message once and write what came of it."""
        settling = await self.hand_over(attempt)
        if settling is not None:
            await asyncio.shield(settling)

    async def hand_over(self, attempt: Attempt) -> Coroutine[None, None, None] | None:
        """Attempt a claimed message once; return what writes the outcome, to be awaited.

        The next hop is free meanwhile.  None: nothing is left to write.  Cancelling it before
        the mark gives the claim back; after it the outcome is that nobody answered.
        """
        claim = attempt.claim
        if self._is_expired(claim):
            await self._abandon(claim, Reason.EXPIRED)
            return None
        chain = self._find_chain(attempt)
        admitted = await self._admit(claim, chain)
        if isinstance(admitted, Refusal) and not admitted.is_pace:
            await self._standing.refresh()  # who opened one has just made this message due
            admitted = await self._admit(claim, chain)
        if isinstance(admitted, Refusal):
            await self._wait_for_turn(claim, chain, admitted)
            return None
        index, permit = admitted
        try:
            return await self._send(attempt, chain, index, permit)
        finally:
            self._standing.end(permit)

    async def _send(
        self, attempt: Attempt, chain: Sequence[str], index: int, permit: Permit
    ) -> Coroutine[None, None, None] | None:
        """Hand a message to the next hop that takes it; return what writes the outcome."""
        claim = attempt.claim
        try:
            raw = claim.raw or await self._store.load_raw(claim.message_id)
        except Unavailable as error:  # nothing was asked of a next hop: as if never claimed
            await self._on_unwritten(error)
            await self._give_back(claim, chain, index)
            return None
        if raw is None:  # removed by retention: there is nothing to send
            await self._abandon(claim, Reason.REJECTED)
            return None
        hop = self._hops[chain[index]]
        try:
            if hop.is_signed:
                raw = await self._seal(claim, raw) + raw
            sending = await hop.provider.send(
                self._build_outgoing(claim, raw, hop),
                lambda accepted: self._mark(attempt, hop, accepted),
            )
        except KeyUnusable:
            await self._wait_for_turn(claim, chain, Refusal(None))
            return None
        except MarkRefused:
            if attempt.is_mark_unwritten:
                await self._give_back(claim, chain, index)
            return None  # otherwise the store has the lease back, and wrote what became of it
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(claim, chain, index))
            raise
        change = self._standing.learn(permit, sending.outcomes)
        return self._settle(attempt, hop, chain, index, sending, change)

    async def _seal(self, claim: Claim, raw: bytes) -> bytes:
        """Return the signatures of this message, the same on every attempt.

        Their moment is the one since which its age counts, which is never in the future.
        """
        if self._sealing is None:
            return b""
        return await self._sealing.sign(
            raw, header_from=claim.header_from, signed_at_ms=claim.age_from_ms
        )

    async def _admit(self, claim: Claim, chain: Sequence[str]) -> tuple[int, Permit] | Refusal:
        """Find the next hop that takes it: from its place in the chain on, or any.

        One that is shut passes it on at once; for its turn at a rate it waits where it is.
        """
        until_ms: list[int] = []
        for index in _go_round(claim, chain):
            answer = await self._standing.admit(chain[index], claim)
            if isinstance(answer, Permit):
                return index, answer
            if answer.is_pace:
                return answer
            if answer.until_ms is not None:
                until_ms.append(answer.until_ms)
        return Refusal(min(until_ms, default=None))

    def _find_hop(self, claim: Claim) -> tuple[str, int] | None:
        """Return the next hop that would take it, and how long it must wait there (ms)."""
        chain = find_route(self._routing, claim).chain
        for index in _go_round(claim, chain):
            wait_ms = self._standing.find_wait_ms(chain[index], claim)
            if wait_ms is not None:
                return chain[index], wait_ms
        busy = next((name for name in chain if self._standing.is_busy(name)), None)
        return None if busy is None else (busy, _BUSY_MS)

    def find_wait_ms(self, claim: Claim) -> int:
        """Return how long a claim had better wait for its turn (ms); 0: not at all."""
        found = None if self._standing.is_plain else self._find_hop(claim)
        return found[1] if found else 0

    def find_late(self, claims: Collection[Claim]) -> Mapping[int, int]:
        """Return those whose domain's turn is far off, and when to look again (ms)."""
        if self._standing.is_plain:
            return {}
        claims_of: dict[str, list[Claim]] = {}
        for claim in claims:
            found = self._find_hop(claim)
            if found is not None:
                claims_of.setdefault(found[0], []).append(claim)
        late: dict[int, int] = {}
        for name, some in claims_of.items():
            late |= self._standing.find_late(name, some)
        return late

    async def renew(self) -> None:
        """Ask for the turns that messages wait for."""
        await self._standing.renew()

    def find_room(self, name: str, room: int) -> int:
        """Return how many claims to hold for a next hop that has *room*."""
        return self._standing.find_room(name, room)

    def is_probing(self, name: str) -> bool:
        """Return whether a next hop is tried with a few messages."""
        return self._standing.is_probing(name)

    def _find_chain(self, attempt: Attempt) -> tuple[str, ...]:
        """Return the next hops of a claim, and note why it is these."""
        route = find_route(self._routing, attempt.claim)
        attempt.route = route.reason
        return route.chain

    def _find_end(self, chain: Sequence[str], index: int) -> int:
        """Return where the chain ends: what is shut has not accepted, without an attempt."""
        goes_on = self._standing.find_open(chain, index + 1) is not None
        return len(chain) if goes_on else index + 1

    def _is_expired(self, claim: Claim) -> bool:
        expires_ms = claim.expires_ms
        is_past = expires_ms is not None and expires_ms <= self._clock.now_ms()
        return is_past and self._may_expire()

    def _build_outgoing(self, claim: Claim, raw: bytes, hop: Hop) -> Outgoing:
        return Outgoing(
            message_id=claim.message_id,
            public_id=to_public(MESSAGE, claim.message_id),
            attempt=claim.attempt,
            envelope_sender=claim.envelope_sender,
            recipients=claim.recipients,
            raw=raw,
            needs_smtputf8=claim.needs_smtputf8,
            deadline_boot_ms=self._clock.boot_ms() + hop.deadline_ms,
            tags=claim.tags,
            metadata=claim.metadata,
            return_id=self._sign(claim),
        )

    def _sign(self, claim: Claim) -> str:
        """Return the id of the return path.

        One transaction takes all recipients, so that it has one return path: it names the
        recipient where there is one, else the bounce does.
        """
        if self._signer is None:
            return ""
        n = claim.recipients[0].n if len(claim.recipients) == 1 else None
        return self._signer.sign(claim.message_id, n=n, attempt=claim.attempt)

    async def _mark(self, attempt: Attempt, hop: Hop, accepted: Collection[int]) -> bool:
        try:
            # Shielded: a mark that was asked for is committed, whoever stops waiting for it.
            granted = await asyncio.shield(
                self._store.mark(
                    attempt.claim,
                    accepted,
                    provider=hop.provider.name,
                    now_ms=self._clock.now_ms(),
                    boot_ms=self._clock.boot_ms(),
                    final_reply_ms=hop.final_reply_ms,
                    may_expire=self._may_expire(),
                )
            )
        except Unavailable as error:
            attempt.is_mark_unwritten = True
            await self._on_unwritten(error)
            return False
        if granted:
            attempt.marked = frozenset(accepted)
        return granted

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write an outcome, again while the store can't take it: it must not be lost."""
        while True:
            try:
                return await write()
            except Unavailable as error:
                await self._on_unwritten(error)

    async def _settle(
        self,
        attempt: Attempt,
        hop: Hop,
        chain: Sequence[str],
        index: int,
        sending: Sending,
        change: Breaker | None = None,
    ) -> None:
        claim = attempt.claim
        if change is not None:
            await self._standing.write(change)
        now_ms = self._clock.now_ms()
        name = hop.provider.name
        for outcome in sending.outcomes.values():
            if outcome.alarm is not None:
                alarm, reply = outcome.alarm, outcome.reply
                self._on_alarm(name, alarm, reply)
                if alarm is Alarm.CREDENTIALS:
                    await self._persist(partial(self._standing.pause, name, alarm, reply))
                break
        decision = decide(
            sending.outcomes,
            claim,
            chain_length=self._find_end(chain, index),
            chain_index=index,
            now_ms=now_ms,
            final_reply_ms=hop.final_reply_ms,
            policy=self._policy,
            rng=self._rng,
            may_expire=self._may_expire(),
        )
        result = AttemptResult(
            settlements=decision.settlements,
            provider=name,
            phase=_find_phase(sending.outcomes),
            started_ms=attempt.started_ms,
            marked=attempt.marked,
            dialogue=sending.dialogue,
            due_ms=decision.due_ms,
            waiting_for=decision.waiting_for,
            next_hop=chain[decision.chain_index],
            chain_index=decision.chain_index,
            schedule_step=decision.schedule_step,
            route=attempt.route,
        )
        is_ours = await self._persist(lambda: self._store.settle(claim, result, now_ms=now_ms))
        if not is_ours and attempt.marked:
            await self._persist(lambda: self._store.testify(claim, result, now_ms=now_ms))
        for n, cause in sending.reported.items():
            await self._persist(partial(self._report, claim, n, cause, name, now_ms))

    async def fail(self, attempt: Attempt, error: Exception) -> None:
        """Settle an attempt that ended in a bug of ours: unknown if marked, later if not."""
        is_marked = attempt.is_marked
        outcome = Outcome(
            kind=Kind.UNKNOWN if is_marked else Kind.TRANSIENT,
            phase=Phase.ANSWER if is_marked else Phase.GATE,
            reply=f"internal error: {type(error).__name__}",
        )
        claim = attempt.claim
        chain = self._find_chain(attempt)
        index = self._standing.find_open(chain, 0) or 0
        sending = Sending(outcomes={recipient.n: outcome for recipient in claim.recipients})
        await self._settle(attempt, self._hops[chain[index]], chain, index, sending)

    async def _report(
        self, claim: Claim, n: int, cause: Cause | str, provider: str, now_ms: int
    ) -> None:
        """Write what the next hop already says of a recipient beyond its acceptance."""
        if isinstance(cause, Cause):
            await self._store.report(
                claim.message_id,
                n,
                cause,
                attempt=claim.attempt,
                now_ms=now_ms,
                provider=provider,
            )
        else:
            await self._store.record(
                cause, now_ms=now_ms, message_id=claim.message_id, n=n, provider=provider
            )

    async def _abandon(self, claim: Claim, reason: Reason) -> None:
        """Give up before anything was asked of a next hop."""
        settlement = Settlement(cause=Cause.ABANDONED, reason=reason)
        result = AttemptResult(
            settlements={recipient.n: settlement for recipient in claim.recipients},
            provider="",
            phase=Phase.GATE,
            started_ms=self._clock.now_ms(),
            is_recorded=False,
            due_ms=self._clock.now_ms(),
            waiting_for=WaitingFor.READY,
            next_hop=claim.next_hop,
            chain_index=claim.chain_index,
            schedule_step=claim.schedule_step,
        )
        await self._persist(
            lambda: self._store.settle(claim, result, now_ms=self._clock.now_ms())
        )

    async def _wait_for_turn(
        self, claim: Claim, chain: Sequence[str], refusal: Refusal
    ) -> None:
        """Let a message wait whose whole chain is shut, or for a rate: no attempt is charged.

        It is due again when a next hop opens, and looks by itself now and then, not all at
        once; one that has meanwhile become too old is given up.
        """
        now_ms = self._clock.now_ms()
        if self._may_expire() and now_ms >= claim.age_from_ms + self._policy.max_age_ms:
            await self._abandon(claim, Reason.EXHAUSTED)
            return
        until_ms = refusal.until_ms
        if refusal.is_pace and until_ms is not None:
            await self.put_aside(claim, until_ms)
            return
        at_ms = now_ms + _PARKED_MS if until_ms is None else max(until_ms, now_ms) + _AFTER_MS
        next_hop = chain[0] if chain else ""
        await self._wait_for_next_hop(claim, at_ms, _PARKED_MS, next_hop=next_hop, index=0)

    async def put_aside(self, claim: Claim, due_ms: int | None = None) -> None:
        """Let a message for a slow recipient domain wait: no attempt is charged (F-CO-06).

        With *due_ms* it is over a rate, and its turn comes then.
        """
        spread_ms = _ASIDE_MS if due_ms is None else 0
        at_ms = self._clock.now_ms() + _ASIDE_MS if due_ms is None else due_ms
        await self._wait_for_next_hop(
            claim, at_ms, spread_ms, next_hop=claim.next_hop, index=claim.chain_index
        )

    async def _wait_for_next_hop(
        self, claim: Claim, at_ms: int, spread_ms: int, *, next_hop: str, index: int
    ) -> None:
        """Give a claim back, due within *spread_ms* after *at_ms*, or in time to expire."""
        now_ms = self._clock.now_ms()
        due_ms = at_ms + round(spread_ms * self._rng.random())
        if claim.expires_ms is not None and claim.expires_ms > now_ms:
            due_ms = min(due_ms, claim.expires_ms)
        await self._release(claim, due_ms, WaitingFor.NEXT_HOP, next_hop=next_hop, index=index)

    async def _give_back(self, claim: Claim, chain: Sequence[str], index: int) -> None:
        """Give back a claim of which nothing has left."""
        await self._release(
            claim, claim.due_ms, WaitingFor.READY, next_hop=chain[index], index=index
        )

    async def give_back(self, claim: Claim) -> None:
        """Give back a claim that was not begun (drain)."""
        await self._release(
            claim,
            claim.due_ms,
            WaitingFor.READY,
            next_hop=claim.next_hop,
            index=claim.chain_index,
        )

    async def _release(
        self, claim: Claim, due_ms: int, waiting_for: WaitingFor, *, next_hop: str, index: int
    ) -> None:
        await self._persist(
            lambda: self._store.give_back(
                claim,
                due_ms=due_ms,
                waiting_for=waiting_for,
                next_hop=next_hop,
                chain_index=index,
            )
        )


def _go_round(claim: Claim, chain: Sequence[str]) -> Sequence[int]:
    """Return the places of a chain, beginning with the message's own."""
    start = min(claim.chain_index, len(chain))
    return (*range(start, len(chain)), *range(start))


def find_route(routing: Routing, claim: Claim) -> Route:
    """Return the route of a claimed message under the settings of today."""
    addresses = [recipient.address for recipient in claim.recipients]
    facts = RouteFacts(
        message_id=claim.message_id,
        header_from=claim.header_from,
        recipients=[*addresses, *claim.others],
        service=claim.service,
        priority=claim.priority,
        tags=claim.tags,
        template=claim.template,
        token=claim.token,
        provider=claim.provider,
        is_test=claim.is_test,
    )
    return explain_route(routing, facts)


_PHASES = tuple(Phase)


def _find_phase(outcomes: Mapping[int, Outcome]) -> Phase:
    """Return how far the attempt came: the furthest phase of any recipient."""
    return max((outcome.phase for outcome in outcomes.values()), key=_PHASES.index)
