"""Doubt that ends by itself: the next hop is asked what became of an attempt without an answer.

Two ways, where it has them: its request again, with the same key, which changes nothing where
the first one was taken (a *replay*); and a *look-up*.  That a copy is there counts whenever it
is seen.  That there is none counts only of a look-up, after its lag, while the next hop still
keeps what it is asked about, of the account that was asked to send, and for the newest attempt:
everything else leaves the doubt as it is.

What decides about times is the boot clock: a wall clock that jumps must not make a "no" count
too early, nor a key be used that its next hop has forgotten.

After a restore nobody knows what was attempted since the backup: then every next hop that has a
look-up is asked, and only a copy that is there counts.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from emailerctl.core.deliver import Hop
from emailerctl.core.outlook import Patience, Way, find_look_up_end
from emailerctl.core.standing import Standing
from emailerctl.errors import Unavailable
from emailerctl.models.clock import Clock
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause
from emailerctl.models.outcome import Kind
from emailerctl.models.text import bound
from emailerctl.providers.base import (
    Abilities,
    CanLookUp,
    Finding,
    LookUp,
    MarkRefused,
    Outgoing,
    Sending,
)
from emailerctl.store.base import Answered, Conclusion, Doubt, Store

_AT_ONCE = 4  # questions to one next hop; a quarter of its connections at most
_LOOK_UP_S = 60.0
_HELD_MS = 30_000  # beyond what a replay may take: then its process is taken for dead
_LATER_ATTEMPTS = 3  # so many that a restored store does not know are looked for
_ANSWER = 300  # characters that are kept of one


@dataclass(frozen=True, slots=True)
class Moment:
    """What of now the decision depends on.

    Attributes:
        account: whose account the next hop would be asked with.
        may_expire: the wall clock is believed (F-CL-01).
    """

    now_ms: int
    boot_ms: int
    boot_id: str
    account: str
    may_expire: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How to ask now, and when again if nothing is learnt.

    Attributes:
        way: None: not now, or it can't be asked.
        next_ms: None: not any more.
        replay_until_boot_ms: a replay's last byte leaves before this.
        since_ms: a look-up begins here.
        objection: why a look-up's "no" does not count; empty: it does.
        silence: why nobody is asked, without a way.
    """

    way: Way | None
    next_ms: int | None
    replay_until_boot_ms: int = 0
    since_ms: int = 0
    objection: str = ""
    silence: str = ""


def decide(
    doubt: Doubt, abilities: Abilities | None, moment: Moment, patience: Patience
) -> Question:
    """Choose how to ask, and when again.

    A request is repeated once it can't be under way any more.  Where there is a look-up too,
    that comes before and after: an answer to the repetition may say nothing of the first.
    """
    elapsed_ms = _find_elapsed_ms(doubt, moment)
    age_ms = _find_age_ms(doubt, moment)
    wait_ms = min(max(elapsed_ms, patience.least_ms), patience.most_ms)
    is_last = doubt.resend_at_ms is not None and doubt.resend_at_ms <= moment.now_ms
    lag_ms = None if abilities is None else abilities.look_up_lag_ms
    if abilities is None:  # its table may come back
        is_over = is_last or age_ms > patience.asking_ms
        return Question(
            way=None,
            next_ms=None if is_over else _bound_next(doubt, moment.now_ms + wait_ms),
            silence="its next hop is not in the settings",
        )
    replay_end_ms = _find_replay_end(doubt, abilities, moment, patience)
    if lag_ms is not None and doubt.replayed:
        replay_end_ms = None
    can_replay = replay_end_ms is not None and moment.boot_ms < replay_end_ms
    is_settled = elapsed_ms >= patience.settling_ms
    no_from_ms = None if lag_ms is None else lag_ms + patience.settling_ms
    look_up_end_ms = find_look_up_end(abilities, patience)
    can_look_up = look_up_end_ms is not None and age_ms <= look_up_end_ms
    way: Way | None = None
    if can_replay and (is_settled or is_last):
        way = Way.REPLAY
    elif can_look_up:
        way = Way.LOOK_UP
    if can_replay and not is_settled:
        settled_in_ms = patience.settling_ms - elapsed_ms
        wait_ms = min(wait_ms, settled_in_ms) if can_look_up else settled_in_ms
    if no_from_ms is not None and elapsed_ms < no_from_ms:
        wait_ms = min(wait_ms, no_from_ms - elapsed_ms)
    will_replay = replay_end_ms is not None and moment.boot_ms + wait_ms < replay_end_ms
    will_look_up = look_up_end_ms is not None and age_ms + wait_ms <= look_up_end_ms
    next_ms = moment.now_ms + wait_ms if will_replay or will_look_up else None
    return Question(
        way=way,
        next_ms=None if is_last or next_ms is None else _bound_next(doubt, next_ms),
        replay_until_boot_ms=replay_end_ms or 0,
        since_ms=_find_since_ms(doubt, moment, patience, age_ms),
        objection=_find_objection(doubt, abilities, moment, patience),
        silence="" if way else _explain_silence(doubt, abilities, moment, can_wait=can_replay),
    )


def decide_restored(doubt: Doubt, moment: Moment, patience: Patience, lag_ms: int) -> Question:
    """Choose when to ask again about what was attempted since a backup, if it was.

    The wall clock will do: nothing but a copy that is there counts.
    """
    elapsed_ms = max(moment.now_ms - doubt.doubted_ms, 0)
    wait_ms = min(max(elapsed_ms, patience.least_ms), patience.most_ms)
    goes_on = elapsed_ms + wait_ms <= lag_ms + patience.asking_ms
    return Question(
        way=Way.LOOK_UP,
        next_ms=moment.now_ms + wait_ms if goes_on else None,
        since_ms=doubt.since_ms - patience.skew_ms,
        objection="the store was restored: nobody knows what was attempted since",
    )


def _bound_next(doubt: Doubt, next_ms: int) -> int:
    """Return when to ask: a last time before the policy sends again."""
    return next_ms if doubt.resend_at_ms is None else min(next_ms, doubt.resend_at_ms)


def _find_elapsed_ms(doubt: Doubt, moment: Moment) -> int:
    """Return how long ago, at least, its request left for the last time."""
    if doubt.marked_boot_ms is None or doubt.boot_id is None:
        return 0
    if doubt.boot_id != moment.boot_id:
        return moment.boot_ms  # before this boot
    return moment.boot_ms - (doubt.replayed_boot_ms or doubt.marked_boot_ms)


def _find_age_ms(doubt: Doubt, moment: Moment) -> int:
    """Return how long ago its request left first; from before this boot by the wall clock."""
    if doubt.marked_boot_ms is not None and doubt.boot_id == moment.boot_id:
        return moment.boot_ms - doubt.marked_boot_ms
    age_ms = moment.now_ms - doubt.since_ms
    return age_ms if doubt.boot_id is None else max(age_ms, moment.boot_ms)


def _find_since_ms(doubt: Doubt, moment: Moment, patience: Patience, age_ms: int) -> int:
    """Return when a look-up begins: before the attempt, whichever clock was ahead."""
    is_same_boot = doubt.boot_id == moment.boot_id
    skew_ms = patience.skew_ms * (1 if is_same_boot else 24)
    return min(doubt.since_ms, moment.now_ms - max(age_ms, 0)) - skew_ms


def _find_objection(
    doubt: Doubt, abilities: Abilities, moment: Moment, patience: Patience
) -> str:
    """Say why a look-up's "no" does not count yet, or not at all; the same for a long time."""
    if abilities.look_up_lag_ms is None:
        return "it has no look-up"
    if not doubt.account or doubt.account != moment.account:
        return "it is another account that was asked to send"
    if doubt.marked_boot_ms is None or doubt.boot_id is None or moment.now_ms < doubt.since_ms:
        return "nobody knows when it left"
    no_from_ms = abilities.look_up_lag_ms + patience.settling_ms
    if _find_elapsed_ms(doubt, moment) < no_from_ms:
        return "it may take so long to show"
    if _find_age_ms(doubt, moment) > (find_look_up_end(abilities, patience) or 0):
        return "it is not kept for so long"
    return ""


def _explain_silence(
    doubt: Doubt, abilities: Abilities, moment: Moment, *, can_wait: bool
) -> str:
    is_whole = {r.n for r in doubt.carried} == {r.n for r in doubt.recipients}
    is_expired = _is_expired(doubt, moment)
    has_key = abilities.idempotency is not None and doubt.marked_boot_ms is not None
    reasons = (
        (can_wait, "its request may still be under way"),
        (not has_key, "there is nothing more to learn there"),
        (
            not doubt.account or doubt.account != moment.account,
            "it is another account that was asked to send",
        ),
        (
            doubt.boot_id != moment.boot_id,
            "the host was restarted: its key may be forgotten there",
        ),
        (not is_whole, "its request names others, who are not in doubt"),
        (is_expired, "it has expired"),
    )
    found = (text for holds, text in reasons if holds)
    return next(found, "its key may be forgotten there")


def _is_expired(doubt: Doubt, moment: Moment) -> bool:
    is_past = doubt.expires_ms is not None and doubt.expires_ms <= moment.now_ms
    return is_past and moment.may_expire


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
    is_expired = _is_expired(doubt, moment)
    is_whole = bool(doubt.carried) and {r.n for r in doubt.carried} == {
        r.n for r in doubt.recipients
    }
    if not (is_same_boot and is_same_account and is_whole) or is_expired:
        return None
    window_ms = abilities.idempotency.window_ms
    return doubt.marked_boot_ms + round(window_ms * (1 - patience.margin))


@dataclass(frozen=True, slots=True)
class Learnt:
    """What came of a question: who is in doubt no more, and what was said of the others."""

    conclusions: Mapping[int, Conclusion]
    answers: Mapping[int, Answered]


def read_findings(
    doubt: Doubt, findings: Mapping[int, Finding], *, objection: str = "", provider: str = ""
) -> Learnt:
    """Say what a look-up means: nothing of who is missing from its answer.

    Args:
        doubt: what was asked about.
        findings: by recipient.
        objection: why a "no" does not count; empty: it does.
        provider: who was asked, where all are.
    """
    conclusions, answers = {}, {}
    for recipient in doubt.recipients:
        finding = findings.get(recipient.n)
        if finding is None:
            answers[recipient.n] = Answered(Way.LOOK_UP, "no answer that says anything")
            continue
        if not finding.is_there and objection:
            said = bound(finding.detail, _ANSWER) or "not there"
            text = f"{said}; that does not count: {objection}"
            answers[recipient.n] = Answered(Way.LOOK_UP, text)
            continue
        attempt = finding.attempt or doubt.attempt
        is_ours = doubt.is_restored or attempt <= doubt.attempt
        conclusions[recipient.n] = Conclusion(
            cause=Cause.RESOLVED_SENT if finding.is_there else Cause.RESOLVED_NOT_SENT,
            attempt=max(attempt, 1) if is_ours else doubt.attempt,
            evidence={"by": Way.LOOK_UP, "detail": bound(finding.detail, _ANSWER)},
            provider_message_id=bound(finding.provider_message_id, _ANSWER),
            provider=provider,
        )
    return Learnt(conclusions, answers)


def read_replay(doubt: Doubt, sending: Sending) -> Learnt:
    """Say what the answer to a repeated request means: only "accepted" says something.

    A refusal is about the second request, and may come before its key is looked at.
    """
    conclusions, answers = {}, {}
    for recipient in doubt.recipients:
        outcome = sending.outcomes.get(recipient.n)
        if outcome is None:
            continue
        if outcome.kind is not Kind.ACCEPTED:
            said = bound(outcome.reply, _ANSWER) or "no answer"
            text = f"{said}; that says nothing of the first request"
            answers[recipient.n] = Answered(Way.REPLAY, text)
            continue
        conclusions[recipient.n] = Conclusion(
            cause=Cause.RESOLVED_SENT,
            attempt=doubt.attempt,
            evidence={"by": Way.REPLAY},
            provider_message_id=outcome.provider_message_id,
            reply=outcome.reply,
            code=outcome.code,
        )
    return Learnt(conclusions, answers)


def _say(doubt: Doubt, text: str, by: str = "") -> Learnt:
    """Say the same of everybody."""
    return Learnt({}, {r.n: Answered(by, text) for r in doubt.recipients})


class Resolver:
    """Asks about doubts, side by side for each next hop; any number of consumers may.

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
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def resolve(self) -> None:
        """Begin to ask whoever is to be asked and is not being asked yet.

        A next hop that hangs delays nobody but itself.  What went wrong since the last time is
        raised here, once; what it was about is asked again.
        """
        ended = [
            self._asking.pop(name) for name, task in [*self._asking.items()] if task.done()
        ]
        for name in await self._store.find_hops_to_ask(now_ms=self._clock.now_ms()):
            if name not in self._asking:
                self._asking[name] = asyncio.create_task(self._ask_all(name))
        for task in ended:
            task.result()

    async def settle(self) -> None:
        """Wait until nobody is being asked."""
        await asyncio.gather(*self._asking.values())

    async def close(self) -> None:
        """Stop asking; what is not answered is asked about again, by whoever comes next."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask_all(self, name: str) -> None:
        """Ask one next hop about all that is due there."""
        hop = self._hops.get(name)
        at_once = _AT_ONCE if hop is None else max(1, min(_AT_ONCE, hop.concurrency // 4))
        while True:
            now_ms = self._clock.now_ms()
            until_ms = now_ms + self._find_held_ms(hop)
            doubts = await self._store.take_doubts(
                name, now_ms=now_ms, until_ms=until_ms, limit=at_once
            )
            if not doubts:
                return
            ended = await asyncio.gather(
                *(self._resolve(doubt) for doubt in doubts), return_exceptions=True
            )
            for error in ended:
                if isinstance(error, BaseException):
                    raise error  # the others are done; its own is asked about again

    def _find_held_ms(self, hop: Hop | None) -> int:
        held_ms = _HELD_MS + round(_LOOK_UP_S * 1000)
        return held_ms if hop is None else held_ms + hop.deadline_ms + hop.final_reply_ms

    async def _resolve(self, doubt: Doubt) -> None:
        question = self._decide(doubt)
        if doubt.is_restored:
            learnt = await self._ask_everybody(doubt, question)
        else:
            learnt = await self._ask(doubt, question)
        await self._store.conclude(
            doubt,
            learnt.conclusions,
            learnt.answers,
            next_ms=question.next_ms,
            now_ms=self._clock.now_ms(),
        )

    def _decide(self, doubt: Doubt) -> Question:
        hop = self._hops.get(doubt.provider)
        moment = Moment(
            now_ms=self._clock.now_ms(),
            boot_ms=self._clock.boot_ms(),
            boot_id=self._boot_id,
            account=self._accounts.get(doubt.provider, ""),
            may_expire=self._may_expire(),
        )
        if not doubt.is_restored:
            return decide(doubt, hop.abilities if hop else None, moment, self._patience)
        lags_ms = [
            hop.abilities.look_up_lag_ms or 0 for hop in self._hops.values() if hop.abilities
        ]
        return decide_restored(doubt, moment, self._patience, max(lags_ms, default=0))

    async def _ask(self, doubt: Doubt, question: Question) -> Learnt:
        hop = self._hops.get(doubt.provider)
        if hop is None or question.way is None:
            return _say(doubt, f"not asked: {question.silence}")
        if question.way is Way.LOOK_UP:
            findings = await self._look_up(doubt, hop, question)
            return read_findings(doubt, findings, objection=question.objection)
        if self._standing.find_open([doubt.provider], 0) is None:
            return _say(
                doubt, "not asked: the next hop is paused, disabled, or its breaker open"
            )
        return await self._replay(doubt, hop, question)

    async def _ask_everybody(self, doubt: Doubt, question: Question) -> Learnt:
        """Ask all next hops that have a look-up, until one has a copy for each."""
        hops = {
            name: hop
            for name, hop in self._hops.items()
            if hop.abilities is not None and hop.abilities.look_up_lag_ms is not None
        }
        if not hops:
            return _say(doubt, "not asked: no next hop has a look-up")
        found = await asyncio.gather(
            *(self._look_up(doubt, hop, question) for hop in hops.values())
        )
        conclusions: dict[int, Conclusion] = {}
        said: dict[int, list[str]] = {r.n: [] for r in doubt.recipients}
        for name, findings in zip(hops, found, strict=True):
            learnt = read_findings(doubt, findings, objection=question.objection, provider=name)
            conclusions |= learnt.conclusions
            for n, answer in learnt.answers.items():
                said[n].append(f"{name}: {answer.text.partition(';')[0]}")
        answers = {
            n: Answered(Way.LOOK_UP, "; ".join([*texts, question.objection]))
            for n, texts in said.items()
            if n not in conclusions
        }
        return Learnt(conclusions, answers)

    async def _replay(self, doubt: Doubt, hop: Hop, question: Question) -> Learnt:
        raw = await self._store.load_raw(doubt.message_id)
        if raw is None:
            return _say(doubt, "not asked: its content was removed")
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
            return _say(
                doubt, "not asked: paused, suppressed, expired, or somebody else decided"
            )

    async def _look_up(
        self, doubt: Doubt, hop: Hop, question: Question
    ) -> Mapping[int, Finding]:
        if not isinstance(hop.provider, CanLookUp):
            return {}
        public = to_public(MESSAGE, doubt.message_id)
        wanted = LookUp(
            public_id=public,
            message_id_header=f"{public}@{doubt.header_from.rpartition('@')[2]}",
            attempt=doubt.attempt + (_LATER_ATTEMPTS if doubt.is_restored else 0),
            recipients=doubt.recipients,
            since_ms=max(question.since_ms, 0),
        )
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                return await hop.provider.look_up(wanted)
        except TimeoutError:
            return {}
