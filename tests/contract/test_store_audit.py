"""The audit: each invariant, broken on purpose, is seen, and nothing else is."""

from random import Random

import pytest

from emailerctl.models.ids import first_id_at
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.store import auditing
from emailerctl.store.base import AuditPoint, Verb
from tests.contract.test_store_acceptance import token
from tests.desk import Desk, Stores, open_desk
from tests.fakes import FakeClock

EVENT = (
    "INSERT INTO events (type, at, message_id, n, from_state, to_state, attempt)"
    " SELECT '{type}', 0, id, 1, {from_}, {to}, {attempt} FROM messages"
)


def event(
    type_: str, from_: str | None = None, to: str | None = None, attempt: int | None = None
) -> str:
    """Return the statement that forges an event for the first recipient of every message."""

    def literal(value: object) -> str:
        return "NULL" if value is None else f"'{value}'"

    return EVENT.format(
        type=type_, from_=literal(from_), to=literal(to), attempt=literal(attempt)
    )


BREACHES = {
    # what is done to which message -> what the audit says
    "no recipients": (
        State.SENT,
        ["DELETE FROM recipients"],
        {("I1", "a message without recipients")},
    ),
    "no message": (
        State.SENT,
        ["DELETE FROM messages"],
        {("I1", "a recipient without its message")},
    ),
    "sent without an attempt": (
        State.SENT,
        ["DELETE FROM attempts"],
        {("I2", "a recipient is sent without an accepted attempt")},
    ),
    "sent though nobody knows": (
        State.SENT,
        ["UPDATE attempts SET outcome = 'unknown'"],
        {("I2", "a recipient is sent without an accepted attempt")},
    ),
    "two copies": (
        State.SENT,
        [event("recipient.handed_over", "sent", "sent")],
        {("I3", "more than one copy went out under policy ask: recipient 1: 2 hand-overs")},
    ),
    "two copies under resend": (
        State.SENT,
        [
            "UPDATE messages SET on_unknown = 'resend'",
            event("recipient.handed_over", "sent", "sent"),
        ],
        {("I4", "more than one copy went out without an unknown between")},
    ),
    "marked while it was sending": (
        State.SENT,
        [event("recipient.marked", "sent", "sent", 1)],
        {("I5", "an attempt was marked while an earlier one was past its mark")},
    ),
    "two attempts at once": (
        State.SENDING,
        [
            "INSERT INTO recipients SELECT message_id, 2, kind, address, state, reason, 2,"
            " provider, reply, changed_at, asked_at, answer FROM recipients",
            EVENT.format(
                type="recipient.marked", from_="'queued'", to="'sending'", attempt="2"
            ).replace("id, 1,", "id, 2,"),
        ],
        {("I5", "two attempts overlapped past their marks: attempts 1 and 2")},
    ),
    "other bytes": (
        State.SENT,
        ["UPDATE attempts SET hash = x'00'"],
        {("I6", "attempts of one message carry different bytes: attempt 1")},
    ),
    "a key for nobody": (
        State.SENT,
        ["INSERT INTO keys (hash, message_id) VALUES (x'00', 4711)"],
        {("I7", "a key and its message do not name each other: key without its message")},
    ),
    "a message whose key is gone": (
        State.SENT,
        ["UPDATE messages SET key_hash = x'01'"],
        {("I7", "a key and its message do not name each other")},
    ),
    "a recipient that its events contradict": (
        State.SENT,
        [
            "UPDATE recipients SET state = 'delivered'",
            "UPDATE messages SET state = 'delivered'",
        ],
        {("I8", "recipient 1 is delivered, its last event says sent")},
    ),
    "a message that its recipients contradict": (
        State.SENT,
        ["UPDATE messages SET state = 'held'"],
        {("I8", "it is held, its recipients say sent")},
    ),
    "a step that the table does not have": (
        State.SENT,
        [
            event("recipient.deferred", "sent", "queued"),
            event("recipient.handed_over", "sending", "sent"),
        ],
        {
            ("I8", "event 5: recipient.deferred took recipient 1 from sent to queued"),
            ("I3", "more than one copy went out under policy ask"),
        },
    ),
    "a token that was revoked before": (
        State.SENT,
        ["UPDATE messages SET token_id = 7", "UPDATE tokens SET revoked_at = 1"],
        {("I9", "a message was committed by a token after its revocation: web")},
    ),
    "queued and nobody looks": (
        State.QUEUED,
        ["DELETE FROM work"],
        {("I10", "a queued or sending recipient without work")},
    ),
    "work for nothing": (
        State.SENT,
        [
            "INSERT INTO work (message_id, next_hop, priority, due_at, waiting_for, age_from)"
            " SELECT id, '', 1, 0, 'ready', 0 FROM messages"
        ],
        {("I10", "work without a queued or sending recipient: ready")},
    ),
    "sending without a mark": (
        State.SENDING,
        ["UPDATE work SET marked_at = NULL"],
        {("I10", "a sending recipient without a marked lease")},
    ),
    "leased to the dead": (
        State.SENDING,
        ["UPDATE consumers SET ended_at = 1"],
        {("I10", "work is leased to a consumer that has ended")},
    ),
}


@pytest.mark.parametrize("what", BREACHES)
async def test_each_breach_is_seen_and_nothing_else(
    stores: Stores, clock: FakeClock, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    state, statements, expected = BREACHES[what]
    path = stores.create(tmp_path_factory.mktemp("broken") / "emailer.db")
    async with open_desk(path, clock, Random(1)) as desk:
        await desk.store.add_token(token())
        await desk.register(1)
        message_id = await desk.add()
        await desk.bring(message_id, state)
        assert await desk.audit() == []
        for statement in statements:
            desk.change(statement)

        found = await desk.audit()

    assert {breach.invariant for breach in found} == {name for name, _sentence in expected}
    for name, sentence in expected:
        (breach,) = [b for b in found if b.invariant == name]
        assert breach.detail.startswith(sentence)
        assert breach.message_id == (4711 if what == "a key for nobody" else message_id)


async def test_second_copies_that_somebody_answered_for_are_no_breach(desk: Desk) -> None:
    await desk.register(1)
    asked = await desk.add()
    await desk.deliver(asked)
    await desk.report(asked, Cause.BOUNCE_REPORTED)
    await desk.order(Verb.RETRY, asked)
    await desk.deliver(asked)
    by_policy = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.deliver(by_policy, Cause.UNANSWERED)
    desk.clock.advance(h=1)
    await desk.sweep()
    await desk.deliver(by_policy)

    assert await desk.audit() == []


async def test_a_long_list_of_breaches_is_cut(desk: Desk) -> None:
    message_ids = [await desk.add() for _ in range(20)]
    desk.change("UPDATE messages SET state = 'held'")

    assert len(await desk.store.audit(limit=7)) == 7
    assert {b.message_id for b in await desk.store.audit(limit=50)} == set(message_ids)
    desk.change("UPDATE messages SET state = 'queued'")


async def test_the_audit_walks_a_large_store(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emailerctl.store.auditing._CHUNK", 4)
    for _ in range(9):
        await desk.add("ann@example.org", "bob@example.org", "cid@example.org")
    last = await desk.add()
    assert await desk.audit() == []
    desk.change("UPDATE messages SET state = 'held' WHERE id = ?", last)

    (breach,) = await desk.audit()

    assert breach.message_id == last
    desk.change("UPDATE messages SET state = 'queued'")


async def test_the_audit_goes_piece_by_piece_and_leaves_nothing_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is a snapshot of its own; what belongs to no message is found in between."""
    monkeypatch.setattr("emailerctl.store.auditing._CHUNK", 4)
    for _ in range(10):
        await desk.add()
        desk.clock.advance(s=1)
    desk.change("INSERT INTO keys (hash, message_id) VALUES (x'00', 4711)")
    desk.change(
        "INSERT INTO attempts (message_id, n, provider, phase, outcome, started_at, hash)"
        " SELECT id, 1, '', '', '', 0, x'00' FROM messages"
    )
    desk.change(
        "INSERT INTO work (message_id, next_hop, priority, due_at, waiting_for, age_from)"
        " SELECT max(id) + 1, '', 1, 0, 'ready', 0 FROM messages"
    )

    at: AuditPoint | None = AuditPoint()
    found, shares, pieces = [], [], 0
    while at is not None:
        page = await desk.store.audit_page(at, limit=100)
        found += [breach.invariant for breach in page.breaches]
        shares.append(page.share)
        pieces += 1
        at = page.following

    assert sorted(found) == ["I10", *["I6"] * 10, "I7"]
    assert pieces == 4  # three of messages, one of keys
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    half = await desk.store.audit_page(AuditPoint(first_id_at(desk.clock.now_ms())), limit=100)
    assert half.breaches == [b for b in half.breaches if b.invariant == "I10"]
    for statement in ("DELETE FROM keys", "DELETE FROM attempts"):
        desk.change(statement)
    desk.change("DELETE FROM work WHERE message_id NOT IN (SELECT id FROM messages)")


async def test_the_audit_writes_nothing_and_uses_indexes(desk: Desk) -> None:
    """Bounded: no query of a piece reads a table from its beginning."""
    await desk.add()
    for _name, _sentence, query in auditing._QUERIES:
        bound = query.replace(":after", "0").replace(":to", "9")
        plan = desk.rows(f"EXPLAIN QUERY PLAN {bound}")
        scans = [line for *_rest, line in plan if line.startswith("SCAN")]
        assert [s for s in scans if not s.startswith("SCAN t")] == [], query  # tokens are few
