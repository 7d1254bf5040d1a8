"""The invariants of delivery.md §8, checked on a live store in one snapshot.

Each is a query for what must not be; `emailerctl store audit` shows what they find.
"""

from typing import Any

from emailerctl.models.lifecycle import STEPS, State, fold
from emailerctl.store.base import Breach
from emailerctl.store.driver import Tx

_CHUNK = 1000

# invariant -> (sentence, query giving message ids and a detail)
_QUERIES: tuple[tuple[str, str, str], ...] = (
    (
        "I1",
        "a message without recipients",
        """SELECT m.id, m.state FROM messages m
            WHERE NOT EXISTS (SELECT 1 FROM recipients r WHERE r.message_id = m.id)""",
    ),
    (
        "I1",
        "a recipient without its message",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = r.message_id)""",
    ),
    (
        "I2",
        "a recipient is sent without an accepted attempt or a resolution",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE r.state = 'sent'
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
            WHERE e.type = 'recipient.handed_over' AND m.on_unknown = 'ask'
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
            WHERE e.type = 'recipient.handed_over' AND m.on_unknown = 'resend'
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
            WHERE e.type = 'recipient.marked' AND e.from_state <> 'queued'""",
    ),
    (
        "I5",
        "two attempts overlapped past their marks",
        """SELECT e.message_id, 'attempts ' || p.attempt || ' and ' || e.attempt
             FROM events e JOIN events p ON p.message_id = e.message_id AND p.seq < e.seq
            WHERE e.type = 'recipient.marked' AND p.type = 'recipient.marked'
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
             JOIN messages m ON m.id = a.message_id WHERE a.hash <> m.content_hash""",
    ),
    (
        "I7",
        "a key and its message do not name each other",
        """SELECT m.id, m.service FROM messages m
            WHERE m.key_hash IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM keys k
                               WHERE k.hash = m.key_hash AND k.message_id = m.id)
           UNION ALL
           SELECT k.message_id, 'key without its message' FROM keys k
            WHERE NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = k.message_id)""",
    ),
    (
        "I9",
        "a message was committed by a token after its revocation",
        """SELECT m.id, t.name FROM messages m JOIN tokens t ON t.id = m.token_id
             JOIN events e ON e.message_id = m.id AND e.type = 'message.accepted'
            WHERE t.revoked_at IS NOT NULL AND e.at > t.revoked_at + 1000""",
    ),
    (
        "I10",
        "a queued or sending recipient without work",
        """SELECT r.message_id, r.address FROM recipients r
            WHERE r.state IN ('queued', 'sending')
              AND NOT EXISTS (SELECT 1 FROM work w WHERE w.message_id = r.message_id)""",
    ),
    (
        "I10",
        "work without a queued or sending recipient",
        """SELECT w.message_id, w.waiting_for FROM work w
            WHERE NOT EXISTS (SELECT 1 FROM recipients r
                               WHERE r.message_id = w.message_id
                                 AND r.state IN ('queued', 'sending'))""",
    ),
    (
        "I10",
        "a sending recipient without a marked lease",
        """SELECT r.message_id, r.address FROM recipients r JOIN work w USING (message_id)
            WHERE r.state = 'sending' AND (w.lease_token IS NULL OR w.marked_at IS NULL)""",
    ),
    (
        "I10",
        "work is leased to a consumer that has ended: nobody will take it",
        """SELECT w.message_id, w.waiting_for FROM work w
            WHERE w.lease_token IS NOT NULL
              AND NOT EXISTS (SELECT 1 FROM consumers c
                               WHERE c.id = w.lease_owner AND c.ended_at IS NULL)""",
    ),
)

_FOLDS = """
    SELECT m.id, m.state, r.n, r.state,
           (SELECT e.to_state FROM events e
             WHERE e.message_id = m.id AND e.n = r.n AND e.to_state IS NOT NULL
             ORDER BY e.seq DESC LIMIT 1)
      FROM messages m JOIN recipients r ON r.message_id = m.id
     WHERE m.id > :after ORDER BY m.id, r.n LIMIT :limit
"""

_ILLEGAL = """
    SELECT message_id, n, type, from_state, to_state, seq FROM events
     WHERE n IS NOT NULL AND from_state IS NOT NULL AND from_state <> to_state
"""


def audit(tx: Tx, *, limit: int) -> list[Breach]:
    """Return what does not hold, *limit* breaches of each kind at the most."""
    breaches: list[Breach] = []
    for name, sentence, query in _QUERIES:
        rows: Any = tx.all(f"{query} LIMIT :limit", {"limit": limit})
        breaches += [Breach(name, f"{sentence}: {row[1]}", row[0]) for row in rows]
    breaches += _check_folds(tx, limit)
    breaches += _check_steps(tx, limit)
    return breaches


def _check_folds(tx: Tx, limit: int) -> list[Breach]:
    """I8: states equal the fold of their events, and messages the fold of their recipients."""
    breaches: list[Breach] = []
    after = 0
    pending: dict[int, tuple[str, set[State]]] = {}
    while len(breaches) < limit:
        rows: Any = tx.all(_FOLDS, {"after": after, "limit": _CHUNK})
        if not rows:
            break
        last = rows[-1][0]
        if len(rows) == _CHUNK and rows[0][0] != last:
            rows = [row for row in rows if row[0] != last]  # a message is looked at whole
        for message_id, state, n, recipient_state, event_state in rows:
            pending.setdefault(message_id, (state, set()))[1].add(State(recipient_state))
            if event_state is not None and event_state != recipient_state:
                detail = (
                    f"recipient {n} is {recipient_state}, its last event says {event_state}"
                )
                breaches.append(Breach("I8", detail, message_id))
        for message_id, (state, states) in pending.items():
            if fold(states) != state:
                detail = f"it is {state}, its recipients say {fold(states)}"
                breaches.append(Breach("I8", detail, message_id))
        pending.clear()
        after = rows[-1][0]
    return breaches[:limit]


def _check_steps(tx: Tx, limit: int) -> list[Breach]:
    """I8: every step in the log is one of the life cycle's table."""
    legal = {
        (f"recipient.{cause}", state, to_state)
        for cause, (states, to_state) in STEPS.items()
        for state in states
    }
    rows: Any = tx.all(_ILLEGAL)
    return [
        Breach("I8", f"event {seq}: {type_} took recipient {n} from {before} to {after}", id_)
        for id_, n, type_, before, after, seq in rows
        if (type_, before, after) not in legal
    ][:limit]
