"""Random verbs from two consumers, with crashes, against a simple model of what may be sent.

After every step the audit is empty; what a next hop may have got (a mark that was granted) is
counted by the model, and no recipient is marked a second time unless the first attempt was
definitely not accepted, or an operator (under `resend` also the policy) answered for it.

Twice the same play: Hypothesis explores it and makes what it finds small; long walks of a plain
random source go deeper.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from emailerctl.errors import EmailerError
from emailerctl.models.lifecycle import FINAL, Cause, OnUnknown, State, WaitingFor
from emailerctl.store.base import Claim, Resolution, Verb
from emailerctl.store.sqlite import SqliteDriver
from emailerctl.store.sqlstore import SqlStore
from tests.desk import FINAL_REPLY_MS, GRACE_MS, RETRY_MS, Desk, Stores, numbers
from tests.fakes import FakeClock

T = TypeVar("T")
Pick = Callable[[Sequence[Any]], Any]

BEFORE_MARK = (Cause.DEFERRED, Cause.REFUSED, Cause.ABANDONED)
AFTER_MARK = (*BEFORE_MARK, Cause.HANDED_OVER, Cause.UNANSWERED)
# After these another copy may go out: a definite "no", or somebody who answers for it.
ALLOWING = {
    f"recipient.{cause}"
    for cause in (*BEFORE_MARK, Cause.RESOLVED_NOT_SENT, Cause.RESENT, Cause.RETRIED)
}
ORDERS = [
    *((verb, None) for verb in Verb if verb is not Verb.RESOLVE),
    *((Verb.RESOLVE, resolution) for resolution in Resolution),
]


class Play:
    """Two consumers, an operator, a provider that reports, a clock; two messages.

    Attributes:
        claimed, marked: what each consumer believes to have, rightly or not.
        lost: what was marked by consumers that died; the answers may still come.
    """

    def __init__(self, stores: Stores, policies: Sequence[OnUnknown], lives_for_ms: int | None):
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self._loop = asyncio.new_event_loop()
        self._run(self._open(stores.create(self._folder / "emailer.db")))
        self._policies = dict(
            zip(self._run(self._begin(lives_for_ms, policies)), policies, strict=True)
        )
        self._ids = list(self._policies)
        self._consumers = [1, 2]
        self._fresh = itertools.count(3)
        self.claimed: list[tuple[int, Claim]] = []
        self.marked: list[tuple[int, Claim, tuple[int, ...]]] = []
        self.lost: list[tuple[Claim, tuple[int, ...]]] = []
        self._seen_to = 0
        self._last_marks: dict[tuple[int, str], int | None] = {}  # until more is allowed

    async def _open(self, path: Path) -> None:
        store = SqlStore(SqliteDriver(path), rng=Random(1), grace_ms=GRACE_MS)
        self.desk = Desk(store, path, FakeClock(), Random(2))

    async def _begin(
        self, lives_for_ms: int | None, policies: Sequence[OnUnknown]
    ) -> list[int]:
        for consumer_id in (1, 2):
            await self.desk.register(consumer_id)
        expires_ms = lives_for_ms and self.desk.clock.now_ms() + lives_for_ms
        return [
            await self.desk.add(
                *(f"user{n}@example.org" for n in range(count)),
                on_unknown=policy,
                expires_ms=expires_ms,
            )
            for count, policy in enumerate(policies, 1)
        ]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def end(self) -> None:
        self._run(self.desk.store.close())
        self._run(self._loop.shutdown_default_executor())
        self._loop.close()
        shutil.rmtree(self._folder)

    def accept(self, pick: Pick) -> None:
        """Have a new message in the place of one of which nothing more is to be expected."""
        for place, message_id in enumerate(self._ids):
            if set(self._run(self.desk.states(message_id))) <= FINAL:
                policy = pick(list(OnUnknown))
                addresses = [f"user{n}@example.org" for n in range(pick([1, 2, 2]))]
                lives_for_ms = pick([None, None, 60_000, 3_600_000])
                expires_ms = lives_for_ms and self.desk.clock.now_ms() + lives_for_ms
                adding = self.desk.add(*addresses, on_unknown=policy, expires_ms=expires_ms)
                self._ids[place] = self._run(adding)
                self._policies[self._ids[place]] = policy
                return

    # consumers

    def claim(self, pick: Pick) -> None:
        consumer_id = pick(self._consumers)
        claims = self._run(self.desk.find_claims(*self._ids, consumer_id=consumer_id))
        self.claimed += [(consumer_id, claim) for claim in claims]

    def proceed(self, pick: Pick) -> None:
        """Mark, fail before the mark, or give back; with a lease or without one any more."""
        if not self.claimed:
            return
        consumer_id, claim = self._take(pick, self.claimed)
        everyone = list(numbers(claim))
        how = pick(["mark"] * 6 + ["fail"] * 2 + ["give back"])
        if how == "mark":
            accepted = tuple(n for n in everyone if pick([True, True, False])) or (everyone[0],)
            if self._run(self.desk.mark(claim, accepted)):
                self.marked.append((consumer_id, claim, accepted))
        elif how == "fail":
            causes = {n: pick(BEFORE_MARK) for n in everyone}
            self._run(self.desk.settle(claim, causes, marked=[]))
        else:
            self._run(
                self.desk.store.give_back(
                    claim,
                    due_ms=self.desk.clock.now_ms(),
                    waiting_for=WaitingFor.READY,
                    next_hop="relay",
                    chain_index=0,
                )
            )

    def answer(self, pick: Pick) -> None:
        """The next hop's word about what was marked: settled, or testified."""
        if not self.marked:
            return
        _consumer_id, claim, accepted = self._take(pick, self.marked)
        causes = {n: pick(AFTER_MARK if n in accepted else BEFORE_MARK) for n in numbers(claim)}
        if not self._run(self.desk.settle(claim, causes, marked=accepted)):
            self._run(self.desk.testify(claim, causes, marked=accepted))

    def testify(self, pick: Pick) -> None:
        if not self.lost:
            return
        claim, accepted = self._take(pick, self.lost)
        cause = pick(AFTER_MARK)
        assert not self._run(self.desk.settle(claim, cause, marked=accepted))
        self._run(self.desk.testify(claim, cause, marked=accepted))

    def crash(self, pick: Pick) -> None:
        """Kill a consumer; one that was only paused goes on as if nothing had been."""
        consumer_id = pick(self._consumers)
        self._run(self.desk.void(consumer_id))
        if not pick([True, False]):
            self.claimed = [c for c in self.claimed if c[0] != consumer_id]
            self.lost += [(c[1], c[2]) for c in self.marked if c[0] == consumer_id]
            self.marked = [c for c in self.marked if c[0] != consumer_id]
        self._consumers.remove(consumer_id)
        self._consumers.append(next(self._fresh))
        self._run(self.desk.register(self._consumers[-1]))

    def lapse(self, pick: Pick) -> None:
        is_lapsed = pick([True, False])
        self._run(self.desk.void(pick(self._consumers), is_dead=False, is_lapsed=is_lapsed))

    # everybody else

    def order(self, pick: Pick) -> None:
        verb, resolution = pick(ORDERS)
        fields: dict[str, Any] = {"is_forced": pick([True, False]), "reason": "because"}
        named = pick([None, None, 0, 1])
        if named is not None:
            fields["addresses"] = [f"user{named}@example.org"]
        if verb is Verb.RETRY and pick([True, False]):
            fields["expires_ms"] = self.desk.clock.now_ms() + 3_600_000
        # The state may forbid it; the invariants say whether it did so rightly.
        with contextlib.suppress(EmailerError):
            self._run(self.desk.order(verb, pick(self._ids), resolution, **fields))

    def report(self, pick: Pick) -> None:
        cause = pick([Cause.DELIVERY_REPORTED, Cause.BOUNCE_REPORTED, Cause.BOUNCE_REPORTED])
        message_id, n = pick(self._ids), pick([1, 2])
        newest = max(r.attempt for r in self._run(self.desk.load(message_id)).recipients)
        attempt = pick([newest, newest, newest - 1, newest + 1, 0])
        self._run(self.desk.report(message_id, cause, n, attempt))

    def wait(self, pick: Pick) -> None:
        waits = [1, RETRY_MS, RETRY_MS, 60_000, FINAL_REPLY_MS, FINAL_REPLY_MS + GRACE_MS]
        self.desk.clock.advance(ms=pick(waits))

    def sweep(self, pick: Pick) -> None:
        self._run(self.desk.sweep(may_expire=pick([True, True, False])))

    @staticmethod
    def _take(pick: Pick, items: list[Any]) -> Any:
        return items.pop(pick(range(len(items))))

    # what must hold

    def check(self) -> None:
        """Fail where an invariant is broken, a copy is a second one, or something is stuck."""
        assert self._run(self.desk.audit()) == []
        for event in self._run(self.desk.events(after_seq=self._seen_to)):
            self._seen_to = event.seq
            if event.message_id is None or event.recipient is None:
                continue
            who = (event.message_id, event.recipient)
            if event.type == "recipient.marked":
                assert (event.from_state, event.to_state) == (State.QUEUED, State.SENDING)
                assert who not in self._last_marks, f"{event} is a second copy"
                self._last_marks[who] = event.attempt
            elif event.type in ALLOWING and event.from_state is not event.to_state:
                if event.type == "recipient.resent" and event.data["actor"] == "policy":
                    assert self._policies[event.message_id] is OnUnknown.RESEND
                # A word about an earlier attempt says nothing about the last one.
                if event.attempt in (None, self._last_marks.get(who)):
                    self._last_marks.pop(who, None)
        rows = self.desk.rows("SELECT lease_owner, due_at FROM work")
        for owner, due_ms in rows:
            assert owner in self._consumers if owner is not None else due_ms < 2**43


VERBS = {
    Play.accept: 3,
    Play.claim: 5,
    Play.proceed: 6,
    Play.answer: 3,
    Play.testify: 1,
    Play.crash: 1,
    Play.lapse: 1,
    Play.order: 4,
    Play.report: 1,
    Play.wait: 3,
    Play.sweep: 1,
}


class Machine(RuleBasedStateMachine):
    """The play as Hypothesis explores it."""

    stores: Stores
    play: Play | None = None

    @initialize(
        policies=st.tuples(st.sampled_from(OnUnknown), st.sampled_from(OnUnknown)),
        lives_for_ms=st.sampled_from([None, 60_000, 3_600_000]),
    )
    def begin(self, policies: tuple[OnUnknown, ...], lives_for_ms: int | None) -> None:
        self.play = Play(self.stores, policies, lives_for_ms)

    @rule(
        verb=st.sampled_from([v for v, weight in VERBS.items() for _ in range(weight)]),
        data=st.data(),
    )
    def act(self, verb: Callable[[Play, Pick], None], data: st.DataObject) -> None:
        assert self.play is not None
        verb(self.play, lambda items: data.draw(st.sampled_from(items)))

    @invariant()
    def hold(self) -> None:
        if self.play is not None:
            self.play.check()

    def teardown(self) -> None:
        if self.play is not None:
            self.play.end()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_verbs_break_nothing(stores: Stores) -> None:
    Machine.stores = stores
    case: Any = Machine.TestCase
    case.settings = settings(
        max_examples=80,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(12))
def test_long_walks_break_nothing(stores: Stores, seed: int) -> None:
    rng = Random(seed)
    policies = [OnUnknown.ASK, rng.choice(list(OnUnknown))]
    play = Play(stores, policies, rng.choice([None, None, 3_600_000]))
    try:
        for verb in rng.choices(list(VERBS), list(VERBS.values()), k=600):
            verb(play, rng.choice)
            play.check()
    finally:
        play.end()
