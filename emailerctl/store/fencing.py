"""After a restore: what was open in the backup may have gone out since, and is in doubt.

Nothing of it is sent again by itself: no recipient stays queued, held or sending, and no policy
sends a doubt again.  Operators, look-ups and reports end the doubts.
"""

from collections.abc import Mapping
from typing import Any

from emailerctl.models.event import operator
from emailerctl.models.lifecycle import Cause, State
from emailerctl.store import statements as sql
from emailerctl.store.driver import Tx
from emailerctl.store.steps import (
    EXPIRE,
    RESEND,
    Target,
    end_work_if_done,
    set_timer,
    step,
    summarise,
    to_json,
)

# Followers have seen numbers that the backup does not know; none of them is given again.
_SEQ_JUMP = 1_000_000_000


def fence(
    tx: Tx, *, after_id: int, limit: int, data: Mapping[str, object], now_ms: int
) -> tuple[int, int | None]:
    """Put the open recipients of the next messages in doubt.

    Returns:
        How many recipients stepped, and the last message looked at: None at the end.
    """
    ids: Any = tx.all(sql.OPEN_MESSAGES, {"after": after_id, "limit": limit})
    stepped = 0
    for (message_id,) in ids:
        facts: Any = tx.one(sql.ORDER_FACTS, {"message_id": message_id})
        everyone: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": message_id})
        service, expires_ms = facts[0], facts[1]
        for n, address, state in everyone:
            if state not in (State.QUEUED, State.HELD, State.SENDING):
                continue
            target = Target(message_id, n, address, service)
            step(tx, target, Cause.FENCED, now_ms, expected=State(state), data=data)
            tx.run(sql.END_TIMERS, {"message_id": message_id, "n": n})
            if expires_ms is not None:
                set_timer(tx, message_id, n, EXPIRE, expires_ms)
            stepped += 1
        end_work_if_done(tx, message_id)
        summarise(tx, message_id, now_ms)
    return stepped, ids[-1][0] if ids else None


def seal(tx: Tx, *, data: Mapping[str, object], now_ms: int) -> None:
    """End what would send a doubt again by itself, and write that the store was restored."""
    tx.run(sql.END_TIMERS_OF, {"what": RESEND})
    last: Any = tx.one(sql.LAST_SEQ)
    tx.run(
        sql.ADD_NUMBERED_EVENT,
        {
            "seq": last[0] + _SEQ_JUMP,
            "type": operator("restore"),
            "at": now_ms,
            "message_id": None,
            "n": None,
            "from_state": None,
            "to_state": None,
            "attempt": None,
            "provider": None,
            "reply": None,
            "data": to_json(dict(data)),
        },
    )
