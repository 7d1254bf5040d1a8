"""Random verbs from two consumers, with crashes, against a simple model of what may be sent.

The store runs on one event loop that lives as long as the machine.  After every step the audit
is empty; what a next hop may have got (a mark that was granted) is counted by the model, and
under `ask` no recipient is marked a second time unless the first attempt was definitely not
accepted, or an operator answered for it.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emailerctl.errors import EmailerError
from emailerctl.models.lifecycle import Cause, OnUnknown, State, WaitingFor
from emailerctl.store.base import Claim, Resolution, Verb
from emailerctl.store.sqlite import SqliteDriver
from emailerctl.store.sqlstore import SqlStore
from tests.desk import (
    FINAL_REPLY_MS,
    GRACE_MS,
    RETRY_MS,
    Desk,
    Stores,
    numbers,
)
from tests.fakes import FakeClock

T = TypeVar("T")
AFTER_MARK = (
    Cause.HANDED_OVER,
    Cause.UNANSWERED,
    Cause.DEFERRED,
    Cause.REFUSED,
    Cause.ABANDONED,
)
BEFORE_MARK = (Cause.DEFERRED, Cause.REFUSED, Cause.ABANDONED)
# After these another copy may go out: a definite "no", or somebody who answers for it.
ALLOWING = {
    f"recipient.{cause}"
    for cause in (
        *(Cause.DEFERRED, Cause.RESOLVED_NOT_SENT, Cause.RESENT, Cause.RETRIED),
        *(Cause.REFUSED, Cause.ABANDONED),
    )
}
ORDERS = st.sampled_from(
    [
        (Verb.CANCEL, None),
        (Verb.HOLD, None),
        (Verb.RELEASE, None),
        (Verb.RETRY, None),
        *((Verb.RESOLVE, resolution) for resolution in Resolution),
    ]
)
SLOT = st.integers(0, 1)


class Machine(RuleBasedStateMachine):
    """Two consumers, an operator, a provider that reports, and a clock."""

    model: Stores

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = Path(
            tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        path = self.model.create(self._folder / "emailer.db")
        self._run(self._open(path))
        self._ids: list[int] = []
        self._consumers = {1: 1, 2: 2}
        self._fresh = itertools.count(3)
        for consumer_id in (1, 2):
            self._run(self.desk.register(consumer_id))
        self._claimed: list[tuple[int, Claim]] = []
        self._marked: list[tuple[int, Claim, tuple[int, ...]]] = []
        self._lost: list[tuple[Claim, tuple[int, ...]]] = []  # marked; their answers may come
        self._seq = 0
        self._open_marks: dict[tuple[int, int], int] = {}  # recipient -> marks not answered for
        self._policies: dict[int, OnUnknown] = {}

    async def _open(self, path: Path) -> None:
        store = SqlStore(SqliteDriver(path), rng=Random(1), grace_ms=GRACE_MS)
        self.desk = Desk(store, path, FakeClock(), Random(2))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def teardown(self) -> None:
        self._run(self.desk.store.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        shutil.rmtree(self._folder)

    # acceptance

    @initialize(
        lives_for_ms=st.sampled_from([None, None, 60_000, 3_600_000]),
        policies=st.tuples(st.sampled_from(OnUnknown), st.sampled_from(OnUnknown)),
    )
    def accept(self, lives_for_ms: int | None, policies: tuple[OnUnknown, OnUnknown]) -> None:
        """Few messages, much happening to each."""
        expires_ms = lives_for_ms and self.desk.clock.now_ms() + lives_for_ms
        for count, policy in enumerate(policies, 1):
            message_id = self._run(
                self.desk.add(
                    *(f"user{n}@example.org" for n in range(count)),
                    on_unknown=policy,
                    expires_ms=expires_ms,
                )
            )
            self._ids.append(message_id)
            self._policies[message_id] = policy

    # consumers

    @rule(which=st.sampled_from([1, 2]))
    def claim(self, which: int) -> None:
        consumer_id = self._consumers[which]
        claims = self._run(self.desk.find_claims(*self._ids, consumer_id=consumer_id))
        self._claimed += [(consumer_id, claim) for claim in claims]

    @rule(data=st.data())
    @precondition(lambda self: self._claimed)
    def mark(self, data: st.DataObject) -> None:
        consumer_id, claim = self._take(data, self._claimed)
        everyone = list(numbers(claim))
        accepted = data.draw(st.sets(st.sampled_from(everyone), min_size=1))
        if self._run(self.desk.mark(claim, accepted)):
            self._marked.append((consumer_id, claim, tuple(sorted(accepted))))

    @rule(data=st.data())
    @precondition(lambda self: self._claimed)
    def fail_before_the_mark(self, data: st.DataObject) -> None:
        _consumer_id, claim = self._take(data, self._claimed)
        causes = {n: data.draw(st.sampled_from(BEFORE_MARK)) for n in numbers(claim)}
        self._run(self.desk.settle(claim, causes, marked=[]))

    @rule(data=st.data())
    @precondition(lambda self: self._claimed)
    def give_back(self, data: st.DataObject) -> None:
        _consumer_id, claim = self._take(data, self._claimed)
        self._run(
            self.desk.store.give_back(
                claim,
                due_ms=self.desk.clock.now_ms(),
                waiting_for=WaitingFor.READY,
                next_hop="relay",
                chain_index=0,
            )
        )

    @rule(data=st.data())
    @precondition(lambda self: self._marked)
    def settle(self, data: st.DataObject) -> None:
        _consumer_id, claim, accepted = self._take(data, self._marked)
        causes = {
            n: data.draw(st.sampled_from(AFTER_MARK if n in accepted else BEFORE_MARK))
            for n in numbers(claim)
        }
        if not self._run(self.desk.settle(claim, causes, marked=accepted)):
            self._run(self.desk.testify(claim, causes, marked=accepted))

    @rule(data=st.data())
    @precondition(lambda self: self._lost)
    def testify(self, data: st.DataObject) -> None:
        claim, accepted = self._take(data, self._lost)
        cause = data.draw(st.sampled_from(AFTER_MARK))
        assert not self._run(self.desk.settle(claim, cause, marked=accepted))
        self._run(self.desk.testify(claim, cause, marked=accepted))

    @rule(which=st.sampled_from([1, 2]), does_come_back=st.booleans())
    def crash(self, which: int, does_come_back: bool) -> None:
        """Kill a consumer; what it had claimed is void, what it had marked is in doubt.

        One that comes back was only paused: it goes on with what it believes to have.
        """
        consumer_id = self._consumers[which]
        self._run(self.desk.void(consumer_id))
        if not does_come_back:
            self._claimed = [c for c in self._claimed if c[0] != consumer_id]
            self._lost += [(c[1], c[2]) for c in self._marked if c[0] == consumer_id]
            self._marked = [c for c in self._marked if c[0] != consumer_id]
        self._consumers[which] = next(self._fresh)
        self._run(self.desk.register(self._consumers[which]))

    @rule(which=st.sampled_from([1, 2]), is_lapsed=st.booleans())
    def lapse(self, which: int, is_lapsed: bool) -> None:
        self._run(self.desk.void(self._consumers[which], is_dead=False, is_lapsed=is_lapsed))

    # everybody else

    @rule(
        slot=SLOT,
        order=ORDERS,
        is_forced=st.booleans(),
        named=st.none() | st.integers(0, 1),
        more_ms=st.none() | st.just(3_600_000),
    )
    def order(
        self,
        slot: int,
        order: tuple[Verb, Resolution | None],
        is_forced: bool,
        named: int | None,
        more_ms: int | None,
    ) -> None:
        fields: dict[str, Any] = {"is_forced": is_forced, "reason": "because"}
        if named is not None:
            fields["addresses"] = [f"user{named}@example.org"]
        if more_ms and order[0] is Verb.RETRY:
            fields["expires_ms"] = self.desk.clock.now_ms() + more_ms
        # The state may forbid it; the invariants say whether it did so rightly.
        with contextlib.suppress(EmailerError):
            self._run(self.desk.order(order[0], self._ids[slot], order[1], **fields))

    @rule(
        slot=SLOT,
        n=st.integers(1, 2),
        cause=st.sampled_from([Cause.DELIVERY_REPORTED, Cause.BOUNCE_REPORTED]),
        attempt=st.integers(0, 3),
    )
    def report(self, slot: int, n: int, cause: Cause, attempt: int) -> None:
        self._run(self.desk.report(self._ids[slot], cause, n, attempt))

    @rule(ms=st.sampled_from([1, RETRY_MS, 60_000, FINAL_REPLY_MS, FINAL_REPLY_MS + GRACE_MS]))
    def wait(self, ms: int) -> None:
        self.desk.clock.advance(ms=ms)

    @rule(may_expire=st.booleans())
    def sweep(self, may_expire: bool) -> None:
        self._run(self.desk.sweep(may_expire=may_expire))

    def _take(self, data: st.DataObject, items: list[Any]) -> Any:
        return items.pop(data.draw(st.integers(0, len(items) - 1)))

    # what must hold

    @invariant()
    def no_invariant_of_the_store_is_broken(self) -> None:
        assert self._run(self.desk.audit()) == []

    @invariant()
    def nobody_is_sent_to_twice(self) -> None:
        for event in self._run(self.desk.events(after_seq=self._seq)):
            self._seq = event.seq
            assert (
                event.from_state is None
                or event.type != "recipient.marked"
                or (
                    event.from_state,
                    event.to_state,
                )
                == (State.QUEUED, State.SENDING)
            )
            if event.message_id is None or event.recipient is None:
                continue
            who = (event.message_id, int(event.recipient[4]))
            if event.type == "recipient.marked":
                assert not self._open_marks.get(who), f"{event} is a second copy"
                self._open_marks[who] = 1
            elif event.type in ALLOWING and event.from_state is not event.to_state:
                if event.type == "recipient.resent" and event.data.get("actor") == "policy":
                    assert self._policies[event.message_id] is OnUnknown.RESEND
                self._open_marks[who] = 0

    @invariant()
    def nothing_is_stuck(self) -> None:
        """What is queued is leased to somebody who lives, or due at a moment that comes."""
        live = set(self._consumers.values())
        rows = self.desk.rows("SELECT lease_owner, due_at FROM work")
        assert all(
            owner in live if owner is not None else due_ms < 2**43 for owner, due_ms in rows
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_verbs_break_nothing(stores: Stores) -> None:
    Machine.model = stores
    case: Any = Machine.TestCase
    case.settings = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()
