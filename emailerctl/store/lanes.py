"""A lane of a next hop: what is due in it, each service having its share."""

import itertools
from collections.abc import Mapping
from typing import Any, cast

from emailerctl.store import statements as sql
from emailerctl.store.driver import Tx

_SERVICES_AT_ONCE = 500  # that one look shares a lane's room among


def find_in_lane(tx: Tx, statement: str, lane: Mapping[str, object], room: int) -> list[Any]:
    """Return rows of what is due in a lane, its room shared evenly among the services (T-30).

    What one does not use is shared among the others, so that the room is always used.

    Args:
        statement: selects what is due of one service.
        lane: its parameters, but for service and limit.
        room: rows at most.
    """
    if room <= 0:
        return []
    hungry = list_services(tx, lane)
    found: dict[str, list[Any]] = {service: [] for service in hungry}
    while hungry and room > 0:
        share = -(-room // len(hungry))
        still: list[str] = []
        for service in hungry:
            wanted = len(found[service]) + min(share, room)
            rows = tx.all(statement, {**lane, "service": service, "limit": wanted})
            room -= len(rows) - len(found[service])
            found[service] = list(rows)
            if len(rows) == wanted:
                still.append(service)
        hungry = still
    turns = itertools.zip_longest(*found.values())
    return [row for turn in turns for row in turn if row is not None]


def list_services(tx: Tx, lane: Mapping[str, object]) -> list[str]:
    """Return the services that have something due in a lane, some of them if there are many."""
    services: list[str] = []
    row = tx.one(sql.FIRST_SERVICE, lane)
    while row is not None and len(services) < _SERVICES_AT_ONCE:
        services.append(cast("str", row[0]))
        row = tx.one(sql.NEXT_SERVICE, {**lane, "service": row[0]})
    return services
