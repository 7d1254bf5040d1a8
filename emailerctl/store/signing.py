"""The keys of domains: which there are, and which of them sign."""

from collections.abc import Mapping, Sequence
from typing import Any

from emailerctl.errors import Conflict
from emailerctl.models.dkim import Algorithm, DomainKey, KeyState
from emailerctl.models.event import operator
from emailerctl.store import statements as sql
from emailerctl.store.driver import Tx
from emailerctl.store.steps import write_event


def list_domain_keys(tx: Tx) -> list[DomainKey]:
    """Return the keys of all domains, oldest first."""
    rows: Any = tx.all(sql.DOMAIN_KEYS)
    return [
        DomainKey(
            domain=row[0],
            selector=row[1],
            algorithm=Algorithm(row[2]),
            state=KeyState(row[3]),
            public=row[4],
            created_ms=row[5],
            changed_ms=row[6],
            actor=row[7],
        )
        for row in rows
    ]


def add_domain_keys(tx: Tx, keys: Sequence[DomainKey]) -> None:
    """Enter new keys.

    Raises:
        Conflict: a selector is taken.
    """
    for key in keys:
        row = {
            "domain": key.domain,
            "selector": key.selector,
            "algorithm": key.algorithm.value,
            "state": key.state.value,
            "public": key.public,
            "now": key.created_ms,
            "actor": key.actor,
        }
        if not tx.run(sql.ADD_DOMAIN_KEY, row):
            raise Conflict(f"{key.domain} has a key with the selector {key.selector}")
        _write(tx, "domain_key_added", key, key.actor, key.created_ms)


def set_key_states(
    tx: Tx, domain: str, states: Mapping[str, KeyState], actor: str, now_ms: int
) -> None:
    """Write the states of a domain's keys by selector."""
    for key in list_domain_keys(tx):
        state = states.get(key.selector)
        if key.domain != domain or state in (None, key.state):
            continue
        row = {"domain": domain, "selector": key.selector, "state": state, "now": now_ms}
        tx.run(sql.SET_KEY_STATE, {**row, "actor": actor})
        _write(tx, f"domain_key_{state}", key, actor, now_ms)


def remove_domain_keys(
    tx: Tx, domain: str, selectors: Sequence[str], actor: str, now_ms: int
) -> None:
    """Forget keys of a domain."""
    for key in list_domain_keys(tx):
        if key.domain == domain and key.selector in selectors:
            tx.run(sql.END_DOMAIN_KEY, {"domain": domain, "selector": key.selector})
            _write(tx, "domain_key_removed", key, actor, now_ms)


def _write(tx: Tx, verb: str, key: DomainKey, actor: str, now_ms: int) -> None:
    data = {"actor": actor, "domain": key.domain, "selector": key.selector}
    write_event(tx, operator(verb), now_ms, data=data)
