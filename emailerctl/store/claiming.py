"""Claiming: what is due, who may work on it, and what becomes of a lease that is lost.

One rule above all: a lease that ends on *queued* recipients is void, one that ends on *sending*
recipients makes them *unknown*, never queued.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import msgspec

from emailerctl.models.lifecycle import (
    Cause,
    OnUnknown,
    State,
    WaitingFor,
)
from emailerctl.models.message import EnvelopeRecipient, Priority
from emailerctl.models.outcome import Kind, Phase
from emailerctl.store import statements as sql
from emailerctl.store.base import (
    LOST_ALONE_LIMIT,
    Claim,
    Due,
    Pause,
)
from emailerctl.store.driver import Tx
from emailerctl.store.steps import (
    EXPIRE,
    Target,
    end_work_if_done,
    set_doubt_timers,
    set_timer,
    step,
    summarise,
    to_json,
)

# Bytes up to this size travel with the claim; larger ones are read when their turn comes.
SMALL_BYTES = 262_144
PAUSE = "pause"
_PROBES_AMONG = 200  # of each priority: where a probe is looked for
_LOW_OF = 8  # one place in so many is for low priority, however much there is at normal
_SERVICES_AT_ONCE = 500  # that one look shares a lane's room among

_decode = msgspec.json.decode


def find_pause(tx: Tx, now_ms: int) -> Pause | None:
    """Return the pause in force."""
    row = tx.one(sql.NOTE, {"key": PAUSE})
    if row is None:
        return None
    pause = _decode(cast("str", row[0]), type=Pause)
    return pause if pause.until_ms is None or pause.until_ms > now_ms else None


def find_due(
    tx: Tx,
    rooms: Mapping[str, int],
    now_ms: int,
    *,
    is_idle: bool,
    probing: Collection[str] = (),
    urgent: Mapping[str, int] | None = None,
) -> Due:
    """Return what is due; a suspect only when idle, and then alone."""
    if find_pause(tx, now_ms) is not None:
        return Due(is_paused=True)
    suspect = tx.one(sql.SUSPECTS, {"now": now_ms})
    if suspect is not None and is_idle:
        return Due(message_ids=(cast("int", suspect[0]),), has_suspects=True)
    found: list[int] = []
    for next_hop in probing:
        found += _find_probes(tx, next_hop, rooms.get(next_hop, 0), now_ms)
    others: list[int] = []
    for next_hop, room in rooms.items():
        if next_hop in probing:
            continue
        first = _find_in_lane(
            tx, next_hop, Priority.HIGH, (urgent or rooms).get(next_hop, 0), now_ms
        )
        found += first
        others += _find_others(
            tx, next_hop, room if urgent is not None else room - len(first), now_ms
        )
    found += others
    next_ms = None if found else _find_next(tx, rooms, now_ms)
    return Due(message_ids=tuple(found), has_suspects=suspect is not None, next_ms=next_ms)


def _find_others(tx: Tx, next_hop: str, room: int, now_ms: int) -> list[int]:
    """Return what is due at normal priority, and at low: a part of the room is for that."""
    normal = _find_in_lane(tx, next_hop, Priority.NORMAL, room, now_ms)
    low = _find_in_lane(tx, next_hop, Priority.LOW, room, now_ms)
    kept = max(room // _LOW_OF, room - len(normal))
    low = low[:kept]
    return [*normal[: room - len(low)], *low]


def _find_in_lane(
    tx: Tx, next_hop: str, priority: Priority, room: int, now_ms: int
) -> list[int]:
    """Return what is due in a lane, its room shared evenly among the services (T-30).

    What one does not use is shared among the others, so that the room is always used.
    """
    if room <= 0:
        return []
    lane = {"next_hop": next_hop, "priority": int(priority), "now": now_ms}
    hungry = _list_services(tx, lane)
    found: dict[str, list[int]] = {service: [] for service in hungry}
    while hungry and room > 0:
        share = -(-room // len(hungry))
        still: list[str] = []
        for service in hungry:
            wanted = len(found[service]) + min(share, room)
            rows = tx.all(sql.DUE, {**lane, "service": service, "limit": wanted})
            room -= len(rows) - len(found[service])
            found[service] = [cast("int", row[0]) for row in rows]
            if len(rows) == wanted:
                still.append(service)
        hungry = still
    turns = itertools.zip_longest(*found.values())
    return [id_ for turn in turns for id_ in turn if id_ is not None]


def _list_services(tx: Tx, lane: Mapping[str, object]) -> list[str]:
    services: list[str] = []
    row = tx.one(sql.FIRST_SERVICE, lane)
    while row is not None and len(services) < _SERVICES_AT_ONCE:
        services.append(cast("str", row[0]))
        row = tx.one(sql.NEXT_SERVICE, {**lane, "service": row[0]})
    return services


def _find_probes(tx: Tx, next_hop: str, room: int, now_ms: int) -> list[int]:
    """Return what is due for a next hop that is probed: policy `resend` first (F-CO-07)."""
    found: list[tuple[int, str]] = []
    for priority in Priority:
        lane = {"next_hop": next_hop, "priority": int(priority), "now": now_ms}
        services = _list_services(tx, lane)
        for service in services:
            limit = -(-_PROBES_AMONG // len(services))
            rows: Any = tx.all(
                sql.DUE_WITH_POLICY, {**lane, "service": service, "limit": limit}
            )
            found += rows
    found.sort(key=lambda row: row[1] != OnUnknown.RESEND)
    return [message_id for message_id, _policy in found[: max(room, 0)]]


def _find_next(tx: Tx, rooms: Mapping[str, int], now_ms: int) -> int | None:
    rows = []
    for hop, priority in itertools.product(rooms, Priority):
        lane = {"next_hop": hop, "priority": int(priority), "now": now_ms}
        rows += [
            tx.one(sql.NEXT_DUE, {**lane, "service": service})
            for service in _list_services(tx, lane)
        ]
    rows.append(tx.one(sql.NEXT_SUSPECT, {"now": now_ms}))
    return min((cast("int", row[0]) for row in rows if row), default=None)


def claim(
    tx: Tx,
    message_ids: Collection[int],
    consumer_id: int,
    now_ms: int,
    make_token: Callable[[], int],
) -> list[Claim]:
    """Give those that are due and free to the consumer.

    Nothing to one that was declared dead, and nothing during a pause, whoever sent the tickets.
    """
    if tx.one(sql.IS_ENTITLED, {"consumer_id": consumer_id}) is None:
        return []
    if find_pause(tx, now_ms) is not None:
        return []
    token = make_token()
    wanted = {"ids": to_json(list(message_ids)) or "[]"}
    taken: Any = tx.all(
        sql.LEASE,
        {**wanted, "lease_token": token, "consumer_id": consumer_id, "now": now_ms},
    )
    leases = {row[7]: row for row in taken}  # the others are taken, not due, or finished
    wanted = {"ids": to_json(list(leases)) or "[]"}
    facts: Any = tx.all(sql.CLAIM_FACTS, {**wanted, "small": SMALL_BYTES})
    facts_of = {row[16]: row for row in facts}
    everyone: dict[int, list[tuple[int, str, str]]] = {}
    recipients: Any = tx.all(sql.CLAIM_RECIPIENTS, wanted)
    for message_id, *recipient in recipients:
        everyone.setdefault(message_id, []).append(tuple(recipient))
    return [
        _build_claim(id_, token, leases[id_], facts_of[id_], everyone[id_])
        for id_ in dict.fromkeys(message_ids)
        if id_ in facts_of and id_ in everyone
    ]


def _build_claim(
    message_id: int,
    token: int,
    lease: Any,
    facts: Any,
    everyone: Sequence[tuple[int, str, str]],
) -> Claim:
    queued = tuple(EnvelopeRecipient(n, address) for n, address, s in everyone if s == "queued")
    is_whole = len(queued) == len(everyone)
    return Claim(
        message_id=message_id,
        lease_token=token,
        service=facts[0],
        attempt=lease[6],
        recipients=queued,
        is_whole=is_whole,
        next_hop=lease[0],
        chain_index=lease[1],
        schedule_step=lease[2],
        age_from_ms=lease[3],
        due_ms=lease[4],
        created_ms=facts[1],
        expires_ms=facts[2],
        priority=Priority(facts[3]),
        on_unknown=OnUnknown(facts[4]),
        provider=facts[5],
        is_test=bool(facts[6]),
        is_alone=bool(lease[5]),
        envelope_sender=facts[7],
        header_from=facts[8],
        needs_smtputf8=bool(facts[9]),
        tags=tuple(_decode(facts[10])) if facts[10] else (),
        metadata=_decode(facts[11]) if facts[11] else {},
        template=facts[12],
        content_hash=facts[13],
        size_bytes=facts[14],
        raw=facts[15],
        is_list=bool(facts[17]),
        others=() if is_whole else tuple(a for _, a, state in everyone if state != "queued"),
        token=facts[18] or "",
    )


def give_back(
    tx: Tx,
    claim: Claim,
    *,
    due_ms: int,
    waiting_for: WaitingFor,
    next_hop: str,
    chain_index: int,
) -> bool:
    """Give a lease back without an attempt; False when it is not ours, or marked."""
    count = tx.run(
        sql.RETURN,
        {
            "message_id": claim.message_id,
            "lease_token": claim.lease_token,
            "due_at": due_ms,
            "waiting_for": waiting_for,
            "next_hop": next_hop,
            "chain_index": chain_index,
        },
    )
    tx.has_new_work = True
    return count == 1


def void(
    tx: Tx,
    consumer_id: int,
    *,
    is_dead: bool,
    is_lapsed: bool,
    now_ms: int,
    boot_ms: int,
    resend_after_ms: int,
) -> int:
    """End the leases of a consumer that died or lapsed, and those that ended by themselves."""
    leases = find_leases_over(
        tx, consumer_id, is_dead=is_dead, is_lapsed=is_lapsed, boot_ms=boot_ms
    )
    for lease in leases:
        _lose_lease(tx, lease, now_ms, resend_after_ms)
    if is_dead:
        tx.run(sql.END_CONSUMER, {"id": consumer_id, "now": now_ms})
    return len(leases)


def find_leases_over(
    tx: Tx, consumer_id: int, *, is_dead: bool, is_lapsed: bool, boot_ms: int
) -> Any:
    """Return the leases of a consumer that are over."""
    return tx.all(
        sql.LEASES_OVER,
        {
            "consumer_id": consumer_id,
            "is_dead": int(is_dead),
            "is_lapsed": int(is_lapsed),
            "boot": boot_ms,
        },
    )


def _lose_lease(tx: Tx, lease: Any, now_ms: int, resend_after_ms: int) -> None:
    message_id, marked_ms, open_until_ms, attempt, is_alone, lost, token = lease[:7]
    content_hash, service, expires_ms, on_unknown = lease[7:]
    lost += 1 if is_alone else 0
    tx.run(sql.LOSE_LEASE, {"message_id": message_id, "lease_token": token, "lost": lost})
    everyone: Any = tx.all(sql.RECIPIENTS, {"message_id": message_id})
    sending = [row for row in everyone if row[3] == State.SENDING]
    # Not the work's next hop: the attempt may have gone to another one of the chain.
    provider = next((row[5] for row in everyone if row[7] == attempt), "")
    for row in sending:
        n, address = row[0], row[1]
        step(
            tx,
            Target(message_id, n, address, service),
            Cause.INTERRUPTED,
            now_ms,
            expected=State.SENDING,
            attempt=attempt,
            provider=provider,
        )
        set_doubt_timers(
            tx,
            message_id,
            n,
            on_unknown=OnUnknown(on_unknown),
            expires_ms=expires_ms,
            now_ms=now_ms,
            final_reply_ms=resend_after_ms,
        )
    if marked_ms is not None:
        _write_interrupted(
            tx,
            message_id,
            attempt,
            provider,
            marked_ms,
            open_until_ms,
            content_hash,
            [row[0] for row in everyone if row[7] == attempt],
        )
    if lost >= LOST_ALONE_LIMIT:
        queued = [(row[0], row[1]) for row in everyone if row[3] == State.QUEUED]
        _hold_killer(tx, message_id, queued, service, expires_ms, now_ms)
    end_work_if_done(tx, message_id)
    summarise(tx, message_id, now_ms)
    tx.has_new_work = True


def _write_interrupted(
    tx: Tx,
    message_id: int,
    attempt: int,
    provider: str,
    marked_ms: int,
    open_until_ms: int | None,
    content_hash: bytes,
    marked: list[int],
) -> None:
    """Write the row of an attempt that was marked and will never settle."""
    tx.run(
        sql.ADD_ATTEMPT,
        {
            "message_id": message_id,
            "n": attempt,
            "provider": provider,
            "phase": Phase.ANSWER,
            "outcome": Kind.UNKNOWN,
            "code": None,
            "enhanced_status": "",
            "reply": "",
            "provider_message_id": "",
            "started_at": marked_ms,
            "ended_at": None,
            "open_until_at": open_until_ms,
            "hash": content_hash,
            "recipients": to_json(marked),
            "dialogue": "",
            "route": "",
        },
    )


def _hold_killer(
    tx: Tx,
    message_id: int,
    queued: list[tuple[int, str]],
    service: str,
    expires_ms: int | None,
    now_ms: int,
) -> None:
    """Hold a message that has ended its consumer time and again while alone (F-CL-07)."""
    for n, address in queued:
        step(
            tx,
            Target(message_id, n, address, service),
            Cause.HELD,
            now_ms,
            expected=State.QUEUED,
            data={"reason": f"its consumer died {LOST_ALONE_LIMIT} times while alone with it"},
        )
        if expires_ms is not None:
            set_timer(tx, message_id, n, EXPIRE, expires_ms)
