"""Taking a person out of the store: addresses and contents go, what counts and proves stays.

A message keeps its ids, states, attempts, moments, codes and hashes, so that every invariant
still holds; see docs/operations.md for what goes and what stays.
"""

import json
from typing import Any

from emailerctl.models.event import operator
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import FINAL, State
from emailerctl.store import reading
from emailerctl.store import statements as sql
from emailerctl.store.base import Deed, Redaction
from emailerctl.store.driver import Tx
from emailerctl.store.steps import write_deed, write_event

DOMAIN = "redacted.invalid"  # RFC 2606: it is nobody's


def redact(tx: Tx, message_id: int, address: str, deed: Deed, now_ms: int) -> Redaction:
    """Take *address* and the content out of one message, unless it may still be sent."""
    tx.one(sql.OVERWRITE_DELETED)
    recipients: Any = tx.all(sql.RECIPIENT_STATES, {"message_id": message_id})
    numbers = [n for n, found, _state in recipients if found.lower() == address.lower()]
    if not numbers:
        return Redaction.ABSENT
    if any(State(state) not in FINAL for _n, _address, state in recipients):
        return Redaction.OPEN
    found = {"message_id": message_id, "needle": _escape(address)}
    tx.run(sql.END_CONTENT, {"message_id": message_id})
    tx.run(sql.REDACT_MESSAGE, {"message_id": message_id})
    for n in numbers:
        hidden = f"redacted-{n}@{DOMAIN}"
        tx.run(sql.REDACT_RECIPIENT, {"message_id": message_id, "n": n, "address": hidden})
        tx.run(sql.REDACT_EVENTS, {"message_id": message_id, "n": n})
    tx.run(sql.REDACT_EVENT_DATA, found)
    tx.run(sql.REDACT_ATTEMPTS, {"message_id": message_id})
    tx.run(sql.REDACT_REPORT_CALLS, {"message_id": message_id, "address": address.lower()})
    tx.run(sql.REDACT_REPORTS, {"message_id": message_id, "address": address.lower()})
    tx.run(sql.END_TERMS, {"message_id": message_id})
    view = reading.load_message(tx, message_id)
    rows = [{"term": term, "message_id": message_id} for term in reading.to_terms(view)]
    tx.many(sql.ADD_TERM, [row for row in rows if DOMAIN not in str(row["term"])])
    write_event(
        tx,
        operator("redact"),
        now_ms,
        message_id=message_id,
        service=view.service,
        data={"actor": deed.actor, "recipients": numbers},
    )
    one = deed._replace(subject=to_public(MESSAGE, message_id), message_id=message_id)
    write_deed(tx, one, now_ms)
    return Redaction.DONE


def redact_rest(tx: Tx, address: str) -> None:
    """Take *address* out of what belongs to no message: rates, reports, the audit trail."""
    tx.one(sql.OVERWRITE_DELETED)
    params = {"address": address.lower(), "needle": _escape(address)}
    tx.run(sql.END_RATES_OF, params)
    tx.run(sql.REDACT_REPORT_CALLS, {**params, "message_id": -1})
    tx.run(sql.REDACT_REPORTS, {**params, "message_id": -1})
    tx.run(sql.REDACT_DEEDS, params)


def _escape(address: str) -> str:
    """Return *address* as it stands inside a JSON text, in lower case."""
    return json.dumps(address.lower(), ensure_ascii=False)[1:-1]
