"""The usual life of a message, for many messages at once: one statement a table for a group.

What waits for the same commit is mostly the same three verbs about messages with one recipient:
add, mark, settle as handed over.  Alone each is a dozen statements; together they share them.
Whatever is not usual (several recipients, a key that is known, a suppression, a lost lease, any
row that a guard did not touch) raises `NotAlike`: the driver then rolls the group's share back
and runs each piece by itself, by the functions of `accepting` and `delivering`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from emailerctl.models.event import MESSAGE_ACCEPTED, RECIPIENT, Event
from emailerctl.models.lifecycle import Cause, State
from emailerctl.models.message import NewMessage, Receipt, RecipientView
from emailerctl.store import accepting, delivering
from emailerctl.store import statements as sql
from emailerctl.store.base import AttemptResult, Claim
from emailerctl.store.driver import NotAlike, Params, Tx
from emailerctl.store.steps import are_some_suppressed, to_json


@dataclass(frozen=True, slots=True)
class Adding:
    """`Store.add`: one message."""

    message: NewMessage
    now_ms: int

    def __call__(self, tx: Tx) -> Receipt:
        """Add it alone."""
        return accepting.add(tx, self.message, self.now_ms)

    @staticmethod
    def run_together(tx: Tx, works: Sequence["Adding"]) -> list[Receipt]:
        """Add messages with one recipient each, of tokens that have not changed."""
        epoch = accepting.read_epoch(tx)
        if not all(_is_usual_message(work.message, epoch) for work in works):
            raise NotAlike
        if are_some_suppressed(tx, (work.message.recipients[0].address for work in works)):
            raise NotAlike
        messages = [work.message for work in works]
        keyed = [
            {"key_hash": message.key_hash, "message_id": message.message_id}
            for message in messages
            if message.key_hash is not None
        ]
        _touch_all(tx, sql.ADD_KEY, keyed)  # a key that is known, or a twin in this group
        _touch_all(
            tx,
            sql.ADD_MESSAGE,
            [accepting.to_message_row(message, State.QUEUED) for message in messages],
        )
        tx.many(sql.ADD_CONTENT, [{"message_id": m.message_id, "raw": m.raw} for m in messages])
        tx.many(
            sql.ADD_RECIPIENT,
            [
                accepting.to_recipient_row(w.message, 1, State.QUEUED, None, w.now_ms)
                for w in works
            ],
        )
        tx.many(sql.ADD_WORK, [accepting.to_work_row(message) for message in messages])
        _write_events(tx, _build_accepted(works, _find_seq(tx)))
        tx.has_new_work = True
        return [_build_receipt(work) for work in works]


def _is_usual_message(message: NewMessage, epoch: int) -> bool:
    return (
        len(message.recipients) == 1
        and message.recipient_rate is None
        and (not message.token_id or message.token_epoch == epoch)
    )


def _build_accepted(works: Iterable[Adding], seq: int) -> Iterator[tuple[Event, int | None]]:
    for work in works:
        message = work.message
        yield (
            Event(
                seq,
                MESSAGE_ACCEPTED,
                work.now_ms,
                message.message_id,
                service=message.service,
                data=accepting.to_accepted_data(message),
            ),
            None,
        )
        yield (
            Event(
                seq + 1,
                RECIPIENT[Cause.ACCEPTED],
                work.now_ms,
                message.message_id,
                message.recipients[0].address,
                to_state=State.QUEUED,
                service=message.service,
            ),
            1,
        )
        seq += 2


def _build_receipt(work: Adding) -> Receipt:
    message = work.message
    recipient = message.recipients[0]
    return Receipt(
        message_id=message.message_id,
        state=State.QUEUED,
        created_ms=message.created_ms,
        on_unknown=message.on_unknown,
        is_test=message.is_test,
        recipients=(
            RecipientView(
                n=1,
                address=recipient.address,
                kind=recipient.kind,
                state=State.QUEUED,
                waiting_for=message.waiting_for,
                due_ms=message.due_ms,
                changed_ms=work.now_ms,
            ),
        ),
        fingerprint=message.fingerprint,
    )


@dataclass(frozen=True, slots=True)
class Marking:
    """`Store.mark`: the point of no return of one attempt."""

    claim: Claim
    accepted: frozenset[int]
    provider: str
    now_ms: int
    boot_ms: int
    final_reply_ms: int
    grace_ms: int
    may_expire: bool

    def __call__(self, tx: Tx) -> bool:
        """Mark it alone."""
        return delivering.mark(
            tx,
            self.claim,
            self.accepted,
            provider=self.provider,
            now_ms=self.now_ms,
            boot_ms=self.boot_ms,
            final_reply_ms=self.final_reply_ms,
            grace_ms=self.grace_ms,
            may_expire=self.may_expire,
        )

    @property
    def is_usual(self) -> bool:
        """Return whether it can be marked together with others."""
        expires_ms = self.claim.expires_ms
        is_late = expires_ms is not None and expires_ms <= self.now_ms and self.may_expire
        return _is_single(self.claim) and len(self.accepted) == 1 and not is_late

    @staticmethod
    def run_together(tx: Tx, works: Sequence["Marking"]) -> list[bool]:
        """Mark attempts of single recipients whose leases hold and who are still queued."""
        if not all(work.is_usual for work in works):
            raise NotAlike
        if are_some_suppressed(tx, (work.claim.recipients[0].address for work in works)):
            raise NotAlike
        _touch_all(
            tx,
            sql.MARK_WORK,
            [
                delivering.to_mark_row(
                    work.claim,
                    work.now_ms,
                    work.boot_ms,
                    open_ms=work.final_reply_ms + work.grace_ms,
                )
                for work in works
            ],
        )
        _step_all(
            tx,
            [
                _Step(work.claim, work.now_ms, Cause.MARKED, work.provider, None)
                for work in works
            ],
            State.QUEUED,
            State.SENDING,
        )
        return [True] * len(works)


@dataclass(frozen=True, slots=True)
class Settling:
    """`Store.settle`: the result of one attempt."""

    claim: Claim
    result: AttemptResult
    now_ms: int

    def __call__(self, tx: Tx) -> bool:
        """Settle it alone."""
        return delivering.settle(tx, self.claim, self.result, self.now_ms)

    @property
    def is_usual(self) -> bool:
        """Return whether it can be settled together with others."""
        settlements = self.result.settlements
        return (
            _is_single(self.claim)
            and self.result.is_recorded
            and self.result.marked == settlements.keys()
            and all(s.cause is Cause.HANDED_OVER for s in settlements.values())
        )

    @staticmethod
    def run_together(tx: Tx, works: Sequence["Settling"]) -> list[bool]:
        """Settle attempts of single recipients that were handed over, whose leases hold."""
        if not all(work.is_usual for work in works):
            raise NotAlike
        _touch_all(
            tx,
            sql.END_LEASED_WORK,
            [
                {"message_id": w.claim.message_id, "lease_token": w.claim.lease_token}
                for w in works
            ],
        )
        _step_all(
            tx,
            [
                _Step(
                    work.claim,
                    work.now_ms,
                    Cause.HANDED_OVER,
                    work.result.provider,
                    next(iter(work.result.settlements.values())).outcome,
                )
                for work in works
            ],
            State.SENDING,
            State.SENT,
        )
        tx.many(
            sql.ADD_ATTEMPT,
            [delivering.to_attempt_row(w.claim, w.result, w.now_ms, None) for w in works],
        )
        return [True] * len(works)


def _is_single(claim: Claim) -> bool:
    return claim.is_whole and len(claim.recipients) == 1


@dataclass(frozen=True, slots=True)
class _Step:
    """The step of a message's only recipient."""

    claim: Claim
    now_ms: int
    cause: Cause
    provider: str
    outcome: Any


def _step_all(tx: Tx, steps: Sequence[_Step], before: State, after: State) -> None:
    """Take one step with every message's only recipient, with its event and summary."""
    _touch_all(
        tx,
        sql.TRANSITION,
        [
            {
                "message_id": step.claim.message_id,
                "n": step.claim.recipients[0].n,
                "from_state": before.value,
                "to_state": after.value,
                "attempt": step.claim.attempt,
                "provider": step.provider,
                "reply": step.outcome.reply if step.outcome else None,
                "reason": None,
                "now": step.now_ms,
            }
            for step in steps
        ],
    )
    tx.many(
        sql.SUMMARISE,
        [
            {"message_id": step.claim.message_id, "state": after.value, "now": step.now_ms}
            for step in steps
        ],
    )
    numbered = enumerate(steps, _find_seq(tx))
    _write_events(
        tx,
        (
            (_build_event(step, before, after, seq), step.claim.recipients[0].n)
            for seq, step in numbered
        ),
    )


def _build_event(step: _Step, before: State, after: State, seq: int) -> Event:
    claim, outcome = step.claim, step.outcome
    data = {}
    if outcome is not None and outcome.enhanced_status:
        data["enhanced_status"] = outcome.enhanced_status
    return Event(
        seq,
        RECIPIENT[step.cause],
        step.now_ms,
        claim.message_id,
        claim.recipients[0].address,
        before,
        after,
        claim.attempt,
        step.provider,
        claim.service,
        outcome.reply if outcome else None,
        data,
    )


def _touch_all(tx: Tx, statement: str, rows: Sequence[Params]) -> None:
    """Run *statement* for every row; each must touch exactly one.

    Raises:
        NotAlike: a guard stopped one of them.
    """
    if rows and tx.many(statement, rows) != len(rows):
        raise NotAlike


def _find_seq(tx: Tx) -> int:
    """Return the number that comes next: this transaction is the only writer."""
    last: Any = tx.one(sql.LAST_SEQ)
    return int(last[0]) + 1


def _write_events(tx: Tx, events: Iterable[tuple[Event, int | None]]) -> None:
    """Write numbered events, each with the number of its recipient."""
    kept = list(events)
    tx.many(
        sql.ADD_NUMBERED_EVENT,
        [
            {
                "seq": event.seq,
                "type": event.type,
                "at": event.at_ms,
                "message_id": event.message_id,
                "n": n,
                "from_state": event.from_state,
                "to_state": event.to_state,
                "attempt": event.attempt,
                "provider": event.provider,
                "reply": event.reply,
                "data": to_json(event.data),
            }
            for event, n in kept
        ],
    )
    tx.events += [event for event, _n in kept]
