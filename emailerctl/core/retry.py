"""Retry: the schedule, giving up, and what one attempt's outcomes mean for the life cycle."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from emailerctl.core.bounce_codes import judge
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, WaitingFor, resend_wait_ms
from emailerctl.models.outcome import Kind, Outcome, Party
from emailerctl.store.base import Claim, Settlement

_SOON_MS = 1_000  # after what was nobody's fault (a dead pooled connection)
_RETRY_AFTER_MOST_MS = 3_600_000  # no server makes us wait longer than an hour (F-PR-07)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`[retry]`: the waits, then the last again until a message is too old.

    Attributes:
        jitter: a wait is made longer by up to this part of itself, so that what failed together
            does not come back together.
    """

    schedule_ms: Sequence[int]
    max_age_ms: int
    jitter: float = 0.2

    def delay_ms(self, step: int, rng: Random) -> int:
        """Return the wait before the retry number *step*, counted from 0."""
        wait = self.schedule_ms[min(step, len(self.schedule_ms) - 1)]
        return wait + round(wait * self.jitter * rng.random())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of every recipient, and where those that stay queued go from here."""

    settlements: Mapping[int, Settlement]
    due_ms: int
    waiting_for: WaitingFor
    chain_index: int
    schedule_step: int


def decide(
    outcomes: Mapping[int, Outcome],
    claim: Claim,
    *,
    chain_length: int,
    chain_index: int,
    now_ms: int,
    final_reply_ms: int,
    policy: RetryPolicy,
    rng: Random,
    may_expire: bool = True,
) -> Decision:
    """Turn one attempt's outcomes into life-cycle steps.

    A PERMANENT outcome ends the matter, UNKNOWN leaves it open.  What a next hop did not accept
    for its own reasons, for good or not, goes to the next in the chain at once; when the chain
    is exhausted, and for everything else that is TRANSIENT, the schedule advances, until the
    message is too old.  A wait that the server names can only make ours longer.
    """
    deferred = [outcome for outcome in outcomes.values() if _is_for_later(outcome)]
    goes_on = bool(deferred) and all(outcome.party is Party.NEXT_HOP for outcome in deferred)
    if goes_on and chain_index + 1 < chain_length:
        due_ms, waiting_for, step = now_ms, WaitingFor.READY, claim.schedule_step
        chain_index += 1
    else:
        due_ms, step = _wait(deferred, claim, now_ms, policy, rng)
        waiting_for, chain_index = WaitingFor.RETRY, 0
    too_old_ms = claim.age_from_ms + policy.max_age_ms
    is_too_old = may_expire and now_ms >= too_old_ms
    for end_ms in (too_old_ms, claim.expires_ms):
        # One that has passed is believed only where it ends the message (F-CL-01): due at once
        # and not expired would be tried again without a pause.
        if end_ms is not None and (may_expire or end_ms > now_ms):
            due_ms = min(due_ms, max(end_ms, now_ms))
    resend_at_ms = None
    if claim.on_unknown is OnUnknown.RESEND:
        wait_ms = resend_wait_ms(final_reply_ms, expires_ms=claim.expires_ms, now_ms=now_ms)
        resend_at_ms = now_ms + wait_ms
    return Decision(
        settlements={
            n: _settle(outcome, is_too_old=is_too_old, resend_at_ms=resend_at_ms)
            for n, outcome in outcomes.items()
        },
        due_ms=due_ms,
        waiting_for=waiting_for,
        chain_index=chain_index,
        schedule_step=step,
    )


def _is_for_later(outcome: Outcome) -> bool:
    is_refusal = outcome.kind is Kind.PERMANENT
    return outcome.kind is Kind.TRANSIENT or (is_refusal and outcome.party is Party.NEXT_HOP)


def _settle(outcome: Outcome, *, is_too_old: bool, resend_at_ms: int | None) -> Settlement:
    if outcome.kind is Kind.ACCEPTED:
        return Settlement(cause=Cause.HANDED_OVER, outcome=outcome)
    if outcome.kind is Kind.UNKNOWN:
        return Settlement(cause=Cause.UNANSWERED, outcome=outcome, resend_at_ms=resend_at_ms)
    if _is_for_later(outcome):
        if is_too_old:
            return Settlement(cause=Cause.ABANDONED, outcome=outcome, reason=Reason.EXHAUSTED)
        return Settlement(cause=Cause.DEFERRED, outcome=outcome)
    if outcome.party is Party.RECIPIENT:
        is_hard = judge(outcome.enhanced_status, outcome.reply).is_hard
        return Settlement(cause=Cause.REFUSED, outcome=outcome, is_hard=is_hard)
    return Settlement(cause=Cause.ABANDONED, outcome=outcome, reason=Reason.REJECTED)


def _wait(
    deferred: Collection[Outcome], claim: Claim, now_ms: int, policy: RetryPolicy, rng: Random
) -> tuple[int, int]:
    """Return when those that stay queued are due, and their step of the schedule."""
    if not deferred:
        return now_ms, claim.schedule_step
    named_ms = max((outcome.retry_after_ms or 0 for outcome in deferred), default=0)
    named_ms = min(named_ms, _RETRY_AFTER_MOST_MS)
    if not any(outcome.is_charged for outcome in deferred):
        soon_ms = _SOON_MS + round(_SOON_MS * rng.random())
        return now_ms + max(soon_ms, named_ms), claim.schedule_step
    delay_ms = policy.delay_ms(claim.schedule_step, rng)
    return now_ms + max(delay_ms, named_ms), claim.schedule_step + 1
