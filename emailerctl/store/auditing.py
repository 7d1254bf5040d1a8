"""The invariants of the life cycle (I1 to I10), checked on a live store, a piece at a time.

Each is a query for what must not be among the messages of a piece; each piece is one snapshot,
so that no transaction is open for long.  `emailerctl store audit` shows what they find.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from emailerctl.models.lifecycle import STEPS, State, fold
from emailerctl.store.base import AuditPage, AuditPoint, Breach
from emailerctl.store.driver import Tx

_CHUNK = 500  # messages, or keys, of one snapshot
_MAX_ID = 2**63 - 1
_LEGAL = {
    (f"recipient.{cause}", state, to_state)
    for cause, (states, to_state) in STEPS.items()
    for state in states
}

# invariant -> (sentence, query giving message ids and a detail)
_QUERIES: tuple[tuple[str, str, str], ...] = (
    (
        "I1",
        "a message without recipients",
        """SELECT m.id, m.state FROM messages m
            WHERE m.id > :after AND m.id <= :to
              AND NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id)""",
    ),
    (
        "I1",
        "a recipient without its message",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE r.message_id > :after AND r.message_id <= :to
              AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = r.message_id)""",
    ),
    (
        "I2",
        "a recipient is sent without an accepted attempt or a resolution",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE r.message_id > :after AND r.message_id <= :to AND r.state = 'sent'
              AND NOT EXISTS (SELECT 1 FROM attempts a
                               WHERE a.message_id = r.message_id AND a.outcome = 'accepted')
              AND NOT EXISTS (SELECT 1 FROM events e
                               WHERE e.message_id = r.message_id AND e.n = r.n
                                 AND e.type = 'recipient.resolved_sent')
              AND EXISTS (SELECT 1 FROM events e
                           WHERE e.message_id = r.message_id
                             AND e.type = 'message.accepted')""",
    ),
    (
        "I3",
        "more than one copy went out under policy ask",
        """SELECT e.message_id, 'recipient ' || e.n || ': ' || count(*) || ' hand-overs'
             FROM events e JOIN messages m ON m.id = e.message_id
            WHERE e.message_id > :after AND e.message_id <= :to
              AND e.type = 'recipient.handed_over' AND m.on_unknown = 'ask'
            GROUP BY e.message_id, e.n
           HAVING count(*) > 1 + (SELECT count(*) FROM events o
                                   WHERE o.message_id = e.message_id AND o.n = e.n
                                     AND o.type IN ('recipient.retried', 'recipient.resent',
                                                    'recipient.resolved_not_sent'))""",
    ),
    (
        "I4",
        "more than one copy went out without an unknown between",
        """SELECT e.message_id, 'recipient ' || e.n || ': ' || count(*) || ' hand-overs'
             FROM events e JOIN messages m ON m.id = e.message_id
            WHERE e.message_id > :after AND e.message_id <= :to
              AND e.type = 'recipient.handed_over' AND m.on_unknown = 'resend'
            GROUP BY e.message_id, e.n
           HAVING count(*) > 1 + (SELECT count(*) FROM events o
                                   WHERE o.message_id = e.message_id AND o.n = e.n
                                     AND o.type IN ('recipient.retried', 'recipient.resent',
                                                    'recipient.resolved_not_sent',
                                                    'recipient.unanswered',
                                                    'recipient.interrupted'))""",
    ),
    (
        "I5",
        "an attempt was marked while an earlier one was past its mark",
        """SELECT e.message_id, 'recipient ' || e.n || ' marked twice at event ' || e.seq
             FROM events e
            WHERE e.message_id > :after AND e.message_id <= :to
              AND e.type = 'recipient.marked' AND e.from_state <> 'queued'""",
    ),
    (
        "I5",
        "two attempts overlapped past their marks",
        """SELECT e.message_id, 'attempts ' || p.attempt || ' and ' || e.attempt
             FROM events e JOIN events p ON p.message_id = e.message_id AND p.seq < e.seq
            WHERE e.message_id > :after AND e.message_id <= :to
              AND e.type = 'recipient.marked' AND p.type = 'recipient.marked'
              AND p.attempt <> e.attempt
              AND NOT EXISTS (SELECT 1 FROM events x
                               WHERE x.message_id = p.message_id AND x.n = p.n
                                 AND x.seq > p.seq AND x.seq < e.seq
                                 AND x.from_state = 'sending' AND x.to_state <> 'sending')""",
    ),
    (
        "I6",
        "attempts of one message carry different bytes",
        """SELECT a.message_id, 'attempt ' || a.n FROM attempts a
             JOIN messages m ON m.id = a.message_id
            WHERE a.message_id > :after AND a.message_id <= :to AND a.hash <> m.content_hash""",
    ),
    (
        "I7",
        "a key and its message do not name each other",
        """SELECT m.id, m.service FROM messages m
            WHERE m.id > :after AND m.id <= :to AND m.key_hash IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM keys k
                               WHERE k.hash = m.key_hash AND k.message_id = m.id)""",
    ),
    (
        "I9",
        "a message was committed by a token after its revocation",
        """SELECT m.id, t.name FROM messages m JOIN tokens t ON t.id = m.token_id
             JOIN events e ON e.message_id = m.id AND e.type = 'message.accepted'
            WHERE m.id > :after AND m.id <= :to
              AND t.revoked_at IS NOT NULL AND e.at > t.revoked_at + 1000""",
    ),
    (
        "I10",
        "a queued or sending recipient without work",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE r.message_id > :after AND r.message_id <= :to
              AND r.state IN ('queued', 'sending')
              AND NOT EXISTS (SELECT 1 FROM work w WHERE w.message_id = r.message_id)""",
    ),
    (
        "I10",
        "work without a queued or sending recipient",
        """SELECT w.message_id, w.waiting_for FROM work w
            WHERE w.message_id > :after AND w.message_id <= :to
              AND NOT EXISTS (SELECT 1 FROM recipients r
                               WHERE r.message_id = w.message_id
                                 AND r.state IN ('queued', 'sending'))""",
    ),
    (
        "I10",
        "a sending recipient without a marked lease",
        """SELECT r.message_id, r.address FROM recipients r JOIN work w USING (message_id)
            WHERE r.message_id > :after AND r.message_id <= :to
              AND r.state = 'sending' AND (w.lease_token IS NULL OR w.marked_at IS NULL)""",
    ),
    (
        "I10",
        "work is leased to a consumer that has ended: nobody will take it",
        """SELECT w.message_id, w.waiting_for FROM work w
            WHERE w.message_id > :after AND w.message_id <= :to AND w.lease_token IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM consumers c
                               WHERE c.id = w.lease_owner AND c.ended_at IS NULL)""",
    ),
)

_KEYS = """
    SELECT k.hash, k.message_id, EXISTS (SELECT 1 FROM messages m WHERE m.id = k.message_id)
      FROM keys k WHERE k.hash > :after ORDER BY k.hash LIMIT :limit
"""

_FOLDS = """
    SELECT m.id, m.state, r.n, r.state,
           (SELECT e.to_state FROM events e
             WHERE e.message_id = m.id AND e.n = r.n AND e.to_state IS NOT NULL
             ORDER BY e.seq DESC LIMIT 1)
      FROM messages m JOIN recipients r ON r.message_id = m.id
     WHERE m.id > :after AND m.id <= :to ORDER BY m.id, r.n
"""

_STEPS = """
    SELECT message_id, n, type, from_state, to_state, seq FROM events
     WHERE message_id > :after AND message_id <= :to
       AND n IS NOT NULL AND from_state IS NOT NULL AND from_state <> to_state
"""

_NEXT = """
    SELECT max(id), count(*) FROM (
        SELECT id FROM messages WHERE id > :after ORDER BY id LIMIT :limit)
"""

_BOUNDS = "SELECT min(id), max(id) FROM messages"


def audit_page(tx: Tx, after: AuditPoint, *, limit: int) -> AuditPage:
    """Check the next piece of the store in one snapshot, and say where the one after begins.

    A message is looked at whole.  What belongs to no message any more is found too: pieces
    leave nothing out between them.  Of each kind *limit* breaches are told at the most.
    """
    if after.key is not None:
        return _audit_keys(tx, after, limit)
    row: Any = tx.one(_NEXT, {"after": after.message_id, "limit": _CHUNK})
    is_last = row[1] < _CHUNK
    to_id = _MAX_ID if is_last else row[0]
    span = {"after": after.message_id, "to": to_id}
    breaches: list[Breach] = []
    for name, sentence, query in _QUERIES:
        rows: Any = tx.all(f"{query} LIMIT :limit", {**span, "limit": limit})
        breaches += [Breach(name, f"{sentence}: {row[1]}", row[0]) for row in rows]
    breaches += _check_folds(tx, span)[:limit]
    breaches += _check_steps(tx, span)[:limit]
    messages = after.messages + row[1]
    following = AuditPoint(to_id, b"" if is_last else None, messages)
    return AuditPage(breaches, following, _measure(tx, to_id))


def audit(tx: Tx, *, limit: int) -> list[Breach]:
    """Return what does not hold, *limit* breaches of each kind at the most, in one snapshot."""
    breaches: list[Breach] = []
    at: AuditPoint | None = AuditPoint()
    while at is not None:
        page = audit_page(tx, at, limit=limit)
        breaches += page.breaches
        at = page.following
    counts: Counter[tuple[str, str]] = Counter()
    kept = []
    for breach in breaches:
        kind = (breach.invariant, breach.detail.partition(":")[0])
        counts[kind] += 1
        if counts[kind] <= limit:
            kept.append(breach)
    return kept


def _audit_keys(tx: Tx, after: AuditPoint, limit: int) -> AuditPage:
    """I7, from the other side: no key names a message that is not there."""
    rows: Any = tx.all(_KEYS, {"after": after.key, "limit": _CHUNK})
    sentence = "a key and its message do not name each other: key without its message"
    breaches = [Breach("I7", sentence, id_) for _hash, id_, is_there in rows if not is_there]
    is_last = len(rows) < _CHUNK
    following = None if is_last else after._replace(key=rows[-1][0])
    return AuditPage(breaches[:limit], following, 1.0)


def _measure(tx: Tx, to_id: int) -> float:
    """Return how much of the messages has been looked at: ids are by time."""
    row: Any = tx.one(_BOUNDS)
    first, last = row
    if last is None or to_id >= last:
        return 1.0
    return float((to_id - first) / max(last - first, 1))


def _check_folds(tx: Tx, span: Mapping[str, int]) -> list[Breach]:
    """I8: states equal the fold of their events, and messages the fold of their recipients."""
    breaches: list[Breach] = []
    rows: Any = tx.all(_FOLDS, span)
    for message_id, group in groupby(rows, key=itemgetter(0)):
        found = list(group)
        state, states = found[0][1], set[State]()
        for _id, _state, n, recipient_state, event_state in found:
            states.add(State(recipient_state))
            if event_state is not None and event_state != recipient_state:
                detail = (
                    f"recipient {n} is {recipient_state}, its last event says {event_state}"
                )
                breaches.append(Breach("I8", detail, message_id))
        if fold(states) != state:
            detail = f"it is {state}, its recipients say {fold(states)}"
            breaches.append(Breach("I8", detail, message_id))
    return breaches


def _check_steps(tx: Tx, span: Mapping[str, int]) -> list[Breach]:
    """I8: every step in the log is one of the life cycle's table."""
    rows: Any = tx.all(_STEPS, span)
    return [
        Breach("I8", f"event {seq}: {type_} took recipient {n} from {before} to {after}", id_)
        for id_, n, type_, before, after, seq in rows
        if (type_, before, after) not in _LEGAL
    ]
