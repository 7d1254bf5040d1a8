"""The one implementation of the store, over any driver: each verb is one transaction.

The functions given to the driver are ordinary synchronous functions of a transaction and live
by subject in the files beside this one; they run on the driver's thread.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from typing import cast

from emailerctl.errors import EmailerError
from emailerctl.models.clock import to_text
from emailerctl.models.dkim import DomainKey, KeyState
from emailerctl.models.event import Event
from emailerctl.models.ids import build_lease_token
from emailerctl.models.lifecycle import Cause, State, WaitingFor
from emailerctl.models.message import MessageView, NewMessage, Receipt
from emailerctl.models.page import EventFilter, MessageFilter, Page
from emailerctl.store import (
    accepting,
    administering,
    auditing,
    claiming,
    delivering,
    fencing,
    keeping,
    operating,
    pacing,
    reading,
    reporting,
    signing,
)
from emailerctl.store import statements as sql
from emailerctl.store.base import (
    Alert,
    AttemptResult,
    Blocks,
    Breach,
    Breaker,
    Claim,
    Consumer,
    Due,
    IdTaken,
    NewReport,
    NextHop,
    Order,
    OrderResult,
    Pause,
    QueueStats,
    Stint,
    Suppression,
    Taken,
    Token,
    Unknown,
    Usage,
)
from emailerctl.store.driver import Driver, Tx
from emailerctl.store.steps import (
    end_work_if_done,
    is_suppressed,
    summarise,
    suppress,
    to_json,
    write_event,
)
from emailerctl.store.together import Adding, Marking, Settling

GRACE_MS = 60_000  # how long after the final reply's time a marked lease still stands


class SqlStore:
    """The message log over a driver.

    Args:
        grace_ms: what `mark` adds to the time of the final reply (60 s).
        rng: where lease tokens come from.
    """

    def __init__(self, driver: Driver, *, rng: Random, grace_ms: int = GRACE_MS) -> None:
        """Take the driver; nothing is read yet."""
        self.driver = driver
        self._grace_ms = grace_ms
        self._rng = rng

    async def close(self) -> None:
        """Finish what was begun and close."""
        await self.driver.close()

    # acceptance

    async def add(self, message: NewMessage, *, now_ms: int) -> Receipt:
        """Store *message*, or return the earlier one that its key belongs to."""
        return await self.driver.write(Adding(message, now_ms))

    async def add_all(
        self, messages: Sequence[NewMessage], *, now_ms: int, is_atomic: bool
    ) -> Sequence[Receipt | EmailerError | IdTaken]:
        """Store *messages* in one commit, all or, unless *is_atomic*, those that can be."""
        if is_atomic:
            return await self.driver.write(lambda tx: accepting.add_all(tx, messages, now_ms))
        futures = self.driver.write_all([Adding(message, now_ms) for message in messages])
        results: list[Receipt | EmailerError | IdTaken] = []
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if not isinstance(result, Receipt | EmailerError | IdTaken):
                raise result
            results.append(result)
        return results

    async def rehearse(self, message: NewMessage, *, now_ms: int) -> Receipt:
        """Return the receipt that `add` would, and keep nothing."""
        return await self.driver.read(lambda tx: accepting.rehearse(tx, message, now_ms))

    async def find_by_key(self, key_hash: bytes) -> Receipt | None:
        """Return the receipt of the message with that key."""
        return await self.driver.read(lambda tx: accepting.find_by_key(tx, key_hash))

    # delivery

    async def find_due(
        self,
        rooms: Mapping[str, int],
        *,
        now_ms: int,
        is_idle: bool,
        probing: Collection[str] = (),
        urgent: Mapping[str, int] | None = None,
    ) -> Due:
        """Return what is due, at most *rooms[hop]* for each next hop."""
        return await self.driver.read(
            lambda tx: claiming.find_due(
                tx, rooms, now_ms, is_idle=is_idle, probing=probing, urgent=urgent
            )
        )

    async def claim(
        self, message_ids: Collection[int], *, consumer_id: int, now_ms: int
    ) -> list[Claim]:
        """Give those that are due and free to the consumer."""
        return await self.driver.write(
            lambda tx: claiming.claim(
                tx, message_ids, consumer_id, now_ms, lambda: build_lease_token(self._rng)
            )
        )

    async def load_raw(self, message_id: int) -> bytes | None:
        """Return the bytes of a message, or None where retention removed them."""
        row = await self.driver.read(lambda tx: tx.one(sql.RAW, {"message_id": message_id}))
        return cast("bytes", row[0]) if row else None

    def mark(
        self,
        claim: Claim,
        accepted: Collection[int],
        *,
        provider: str,
        now_ms: int,
        boot_ms: int,
        final_reply_ms: int,
        may_expire: bool = True,
    ) -> Awaitable[bool]:
        """Commit the point of no return for *accepted*, all or nothing."""
        return self.driver.write(
            Marking(
                claim,
                frozenset(accepted),
                provider,
                now_ms,
                boot_ms,
                final_reply_ms,
                self._grace_ms,
                may_expire,
            )
        )

    async def settle(self, claim: Claim, result: AttemptResult, *, now_ms: int) -> bool:
        """Write an attempt's result and give the lease back; False when it is not ours."""
        return await self.driver.write(Settling(claim, result, now_ms))

    async def testify(self, claim: Claim, result: AttemptResult, *, now_ms: int) -> None:
        """Write a late answer to a lost lease."""
        await self.driver.write(lambda tx: delivering.testify(tx, claim, result, now_ms))

    async def give_back(
        self,
        claim: Claim,
        *,
        due_ms: int,
        waiting_for: WaitingFor,
        next_hop: str,
        chain_index: int,
    ) -> bool:
        """Give a lease back without an attempt."""
        return await self.driver.write(
            lambda tx: claiming.give_back(
                tx,
                claim,
                due_ms=due_ms,
                waiting_for=waiting_for,
                next_hop=next_hop,
                chain_index=chain_index,
            )
        )

    async def report(
        self,
        message_id: int,
        n: int,
        cause: Cause,
        *,
        attempt: int,
        now_ms: int,
        provider: str = "",
        reply: str = "",
        data: Mapping[str, object] | None = None,
    ) -> State | None:
        """Apply a later word about a recipient as the life cycle allows; always an event."""

        def work(tx: Tx) -> State | None:
            state = delivering.apply_evidence(
                tx,
                message_id,
                n,
                cause,
                attempt=attempt,
                now_ms=now_ms,
                provider=provider,
                reply=reply,
                data=data,
            )
            if state is not None:
                end_work_if_done(tx, message_id)
                summarise(tx, message_id, now_ms)
            return state

        return await self.driver.write(work)

    async def record(
        self,
        type_: str,
        *,
        now_ms: int,
        message_id: int | None = None,
        n: int | None = None,
        provider: str = "",
        reply: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Write an event that changes no state."""

        def work(tx: Tx) -> None:
            row = tx.one(sql.RECIPIENT, {"message_id": message_id, "n": n})
            write_event(
                tx,
                type_,
                now_ms,
                message_id=message_id,
                n=n,
                address=cast("str", row[1]) if row else None,
                service=cast("str", row[3]) if row else None,
                provider=provider or None,
                reply=reply or None,
                data=data,
            )

        await self.driver.write(work)

    # reports

    async def take_reports(
        self,
        provider: str,
        reports: Sequence[NewReport],
        *,
        raw: bytes,
        once: str = "",
        fault: str = "",
        now_ms: int,
    ) -> Taken:
        """Apply each of *reports* that was not told before, and keep *raw*."""
        call = reporting.Call(provider, raw, once, fault, now_ms)
        return await self.driver.write(lambda tx: reporting.take(tx, call, reports))

    async def match_reports(self, *, now_ms: int, limit: int) -> int:
        """Try reports again that were about nothing yet; return how many now fitted."""
        if not await self.driver.read(lambda tx: tx.one(sql.HAS_DUE_REPORTS, {"now": now_ms})):
            return 0  # no commit for nothing
        return await self.driver.write(lambda tx: reporting.match(tx, now_ms, limit))

    async def unsubscribe(
        self, suppression: Suppression, *, message_id: int, n: int, now_ms: int
    ) -> bool:
        """Enter what a recipient asked for by the link in a message, which may be gone."""
        return await self.driver.write(
            lambda tx: reporting.unsubscribe(tx, suppression, message_id, n, now_ms)
        )

    # consumers

    async def register(self, consumer: Consumer) -> None:
        """Enter a consumer; it may claim from now on."""
        await self.driver.write(lambda tx: administering.register(tx, consumer))

    async def renew(
        self, consumer_id: int, *, now_ms: int, lease_until_ms: int, in_flight: int
    ) -> bool:
        """Renew a consumer's lease; False when it was declared dead meanwhile."""
        params = {
            "id": consumer_id,
            "now": now_ms,
            "lease_until": lease_until_ms,
            "in_flight": in_flight,
        }
        return await self.driver.write(lambda tx: tx.run(sql.RENEW, params)) == 1

    async def list_consumers(self) -> list[Consumer]:
        """Return the consumers that have not ended."""
        return await self.driver.read(administering.list_consumers)

    async def void(
        self,
        consumer_id: int,
        *,
        is_dead: bool,
        is_lapsed: bool = True,
        now_ms: int,
        boot_ms: int,
        resend_after_ms: int,
    ) -> int:
        """End the leases of a consumer; return how many messages that touched."""
        if not is_dead and not await self.driver.read(
            lambda tx: claiming.find_leases_over(
                tx, consumer_id, is_dead=False, is_lapsed=is_lapsed, boot_ms=boot_ms
            )
        ):
            return 0  # no commit for nothing
        return await self.driver.write(
            lambda tx: claiming.void(
                tx,
                consumer_id,
                is_dead=is_dead,
                is_lapsed=is_lapsed,
                now_ms=now_ms,
                boot_ms=boot_ms,
                resend_after_ms=resend_after_ms,
            )
        )

    async def fence(
        self, *, after_id: int, limit: int, data: Mapping[str, object], now_ms: int
    ) -> tuple[int, int | None]:
        """Put open recipients in doubt, after a restore: those of the next *limit* messages."""
        return await self.driver.write(
            lambda tx: fencing.fence(
                tx, after_id=after_id, limit=limit, data=data, now_ms=now_ms
            )
        )

    async def seal(self, *, data: Mapping[str, object], now_ms: int) -> None:
        """End a restore: no doubt is sent again by itself, no event's number is given twice."""
        await self.driver.write(lambda tx: fencing.seal(tx, data=data, now_ms=now_ms))

    async def sweep(
        self, *, hops: Sequence[str] | None, now_ms: int, max_age_ms: int, may_expire: bool
    ) -> int:
        """Fire the timers that fell due; with *hops*, route the work of others anew."""
        if not await self.driver.read(
            lambda tx: operating.has_something_due(tx, hops, now_ms, may_expire=may_expire)
        ):
            return 0  # no commit for nothing
        return await self.driver.write(
            lambda tx: operating.sweep(
                tx, hops=hops, now_ms=now_ms, max_age_ms=max_age_ms, may_expire=may_expire
            )
        )

    async def shorten_waits(self, *, now_ms: int, longest_ms: int) -> int:
        """Make due what waits longer than any wait of ours: the wall clock jumped back."""
        params = {"now": now_ms, "latest": now_ms + longest_ms}
        return await self.driver.write(lambda tx: tx.run(sql.SHORTEN_WAITS, params))

    async def retain(
        self, *, content_ms: int, messages_ms: int, events_ms: int, now_ms: int, limit: int
    ) -> int:
        """Remove what retention says, *limit* rows of each kind at the most."""
        return await self.driver.write(
            lambda tx: keeping.retain(
                tx,
                content_ms=content_ms,
                messages_ms=messages_ms,
                events_ms=events_ms,
                now_ms=now_ms,
                limit=limit,
            )
        )

    async def index(self, *, limit: int) -> int:
        """Fill the search tables from the event log; return how many messages were taken."""
        found = await self.driver.read(lambda tx: keeping.find_unindexed(tx, limit=limit))
        if found is None:
            return 0
        await self.driver.write(lambda tx: keeping.index(tx, found))
        return found.messages

    # operators

    async def order(self, order: Order, *, now_ms: int) -> OrderResult:
        """Carry out an operator's order."""
        return await self.driver.write(lambda tx: operating.obey(tx, order, now_ms))

    async def pause(self, pause: Pause) -> None:
        """Pause claiming."""

        def work(tx: Tx) -> None:
            administering.leave_note(tx, claiming.PAUSE, to_json(pause) or "")
            data: dict[str, object] = {"actor": pause.actor, "reason": pause.reason}
            if pause.until_ms is not None:
                data["until"] = to_text(pause.until_ms)
            write_event(tx, "queue.paused", pause.since_ms, data=data)

        await self.driver.write(work)

    async def resume(self, *, actor: str, now_ms: int) -> bool:
        """End the pause; False when there was none."""

        def work(tx: Tx) -> bool:
            was_paused = claiming.find_pause(tx, now_ms) is not None
            tx.run(sql.END_NOTE, {"key": claiming.PAUSE})
            if was_paused:
                write_event(tx, "queue.resumed", now_ms, data={"actor": actor})
            tx.has_new_work = True
            return was_paused

        return await self.driver.write(work)

    async def find_pause(self, *, now_ms: int) -> Pause | None:
        """Return the pause in force."""
        return await self.driver.read(lambda tx: claiming.find_pause(tx, now_ms))

    # reading

    async def find_message(
        self, message_id: int, *, service: str | None = None, now_ms: int | None = None
    ) -> MessageView | None:
        """Return a message with its recipients and attempts; *service* narrows whose."""
        return await self.driver.read(
            lambda tx: reading.find_message(tx, message_id, service, now_ms=now_ms)
        )

    async def find_ids(
        self, low: int, high: int, *, service: str | None = None, limit: int = 2
    ) -> list[int]:
        """Return message ids from *low* to *high*, both included; *service* narrows whose."""
        params = {"low": low, "high": high, "service": service, "limit": limit}
        statement = sql.IDS_BETWEEN if service is None else sql.IDS_OF_SERVICE
        rows = await self.driver.read(lambda tx: tx.all(statement, params))
        return [cast("int", row[0]) for row in rows]

    async def list_messages(
        self,
        filter_: MessageFilter,
        *,
        cursor: str | None,
        limit: int,
        now_ms: int | None = None,
    ) -> Page[MessageView]:
        """Return messages, newest first, with recipients, without attempts."""
        return await self.driver.read(
            lambda tx: reading.list_messages(tx, filter_, cursor, limit, now_ms)
        )

    async def list_events(
        self, filter_: EventFilter, *, after_seq: int, limit: int
    ) -> list[Event]:
        """Return events after *after_seq* in order, led by a `gap` where some were removed."""
        while True:  # until something fits or nothing more is there: each look is bounded
            work = partial(
                reading.look_for_events, filter_=filter_, after_seq=after_seq, limit=limit
            )
            look = await self.driver.read(work)
            if look.events or look.is_end:
                return look.events
            after_seq = look.seen_to

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 where there is none."""
        row = await self.driver.read(lambda tx: tx.one(sql.LAST_SEQ))
        return cast("int", row[0]) if row else 0

    async def find_seq_since(self, moment_ms: int) -> int:
        """Return the number after which the events since *moment_ms* come."""

        def work(tx: Tx) -> int:
            params = {"after": 0, "since": moment_ms}
            row = tx.one(sql.FIRST_SEQ_SINCE, params)
            if row is not None:
                return cast("int", row[0]) - 1
            last = tx.one(sql.LAST_SEQ)
            return cast("int", last[0]) if last else 0

        return await self.driver.read(work)

    async def list_unknown(
        self, *, now_ms: int, service: str | None = None, limit: int = 200
    ) -> list[Unknown]:
        """Return recipients in doubt, oldest first."""
        return await self.driver.read(
            lambda tx: reading.list_unknown(tx, service, limit, now_ms)
        )

    async def queue_stats(self, *, now_ms: int) -> QueueStats:
        """Return the queue in numbers."""
        return await self.driver.read(
            lambda tx: reading.queue_stats(tx, now_ms, claiming.find_pause(tx, now_ms))
        )

    # tokens

    async def add_token(self, token: Token, *, is_rotation: bool = False) -> None:
        """Enter a token; its name must be free unless it rotates the one that has it."""

        def work(tx: Tx) -> None:
            if not is_rotation:
                administering.require_free_name(tx, token.name, token.created_ms)
            administering.add_token(tx, token)

        await self.driver.write(work)

    async def load_tokens(self) -> tuple[int, list[Token]]:
        """Return the epoch (changes with every change of a token) and all tokens."""
        return await self.driver.read(administering.load_tokens)

    async def token_epoch(self) -> int:
        """Return the epoch alone."""
        return await self.driver.read(accepting.read_epoch)

    async def end_token(self, token_id: int, *, at_ms: int) -> None:
        """Revoke a token at once; *at_ms* is when, for the record."""
        await self.driver.write(lambda tx: administering.end_token(tx, token_id, at_ms))

    async def expire_token(self, token_id: int, *, at_ms: int) -> None:
        """Let a token expire at *at_ms*, if it would not sooner."""
        await self.driver.write(lambda tx: administering.expire_token(tx, token_id, at_ms))

    async def touch_tokens(self, used: Mapping[int, int]) -> None:
        """Write when tokens were last used (token id -> moment)."""
        await self.driver.write(lambda tx: administering.touch_tokens(tx, used))

    # suppressions and next hops

    async def suppress(self, suppression: Suppression) -> None:
        """Enter or replace a suppression."""
        await self.driver.write(lambda tx: suppress(tx, suppression, replaces=True))

    async def import_suppressions(self, suppressions: Sequence[Suppression]) -> int:
        """Enter those that are not there; return how many that were."""
        return await self.driver.write(
            lambda tx: sum(suppress(tx, one, replaces=False) for one in suppressions)
        )

    async def unsuppress(
        self, address: str, service: str, *, blocks: Blocks | None = None
    ) -> bool:
        """Remove a suppression; False when there was none."""
        params = {"address": address.lower(), "service": service, "blocks": blocks}
        return await self.driver.write(lambda tx: tx.run(sql.UNSUPPRESS, params)) > 0

    async def list_suppressions(
        self, *, service: str | None, address: str, cursor: str | None, limit: int
    ) -> Page[Suppression]:
        """Return suppressions by address (a prefix narrows)."""
        return await self.driver.read(
            lambda tx: administering.list_suppressions(tx, service, address, cursor, limit)
        )

    async def find_suppressed(
        self, addresses: Collection[str], *, service: str, now_ms: int, is_list: bool = False
    ) -> set[str]:
        """Return those of *addresses* that are suppressed for *service*."""
        return await self.driver.read(
            lambda tx: {
                a for a in addresses if is_suppressed(tx, a, service, now_ms, is_list=is_list)
            }
        )

    async def list_next_hops(self) -> list[NextHop]:
        """Return the standing of every next hop that has one."""
        return await self.driver.read(administering.list_next_hops)

    async def set_next_hop(self, hop: NextHop) -> None:
        """Enter a next hop's standing; opening one makes what waits for it due."""

        def work(tx: Tx) -> None:
            administering.set_next_hop(tx, hop)
            data = {"state": hop.state, "reason": hop.reason, "actor": hop.actor}
            write_event(tx, "next_hop.changed", hop.changed_ms, provider=hop.name, data=data)

        await self.driver.write(work)

    async def load_standing(self) -> tuple[list[NextHop], list[Breaker]]:
        """Return the standing and the breaker of every next hop that has one."""
        return await self.driver.read(
            lambda tx: (administering.list_next_hops(tx), pacing.list_breakers(tx))
        )

    async def set_breaker(self, breaker: Breaker, *, now_ms: int) -> Breaker:
        """Write a breaker that was decided on the version before its own; return what holds."""
        return await self.driver.write(lambda tx: pacing.set_breaker(tx, breaker, now_ms))

    async def take_stints(self, stints: Sequence[Stint], *, now_ms: int) -> list[int]:
        """Lease a stretch of time for each of *stints*; return where each begins (us)."""
        return await self.driver.write(lambda tx: pacing.take_stints(tx, stints, now_ms))

    async def list_usage(self) -> Mapping[str, Usage]:
        """Return how much of the rates of the next hops was leased of late."""
        return await self.driver.read(pacing.list_usage)

    async def wake_parked(self, *, now_ms: int, limit: int) -> int:
        """Make due what waits for a next hop, *limit* messages at most; return how many."""
        return await self.driver.write(lambda tx: pacing.wake_parked(tx, now_ms, limit))

    # alerts and notes

    async def list_domain_keys(self) -> list[DomainKey]:
        """Return the keys of all domains, oldest first of each."""
        return await self.driver.read(signing.list_domain_keys)

    async def add_domain_keys(self, keys: Sequence[DomainKey]) -> None:
        """Enter new keys."""
        await self.driver.write(lambda tx: signing.add_domain_keys(tx, keys))

    async def set_key_states(
        self, domain: str, states: Mapping[str, KeyState], *, actor: str, now_ms: int
    ) -> None:
        """Write the states of a domain's keys by selector."""
        await self.driver.write(
            lambda tx: signing.set_key_states(tx, domain, states, actor, now_ms)
        )

    async def remove_domain_keys(
        self, domain: str, selectors: Sequence[str], *, actor: str, now_ms: int
    ) -> None:
        """Forget keys of a domain."""
        await self.driver.write(
            lambda tx: signing.remove_domain_keys(tx, domain, selectors, actor, now_ms)
        )

    async def raise_alert(self, alert: Alert) -> bool:
        """Raise an alert; True when this call raised it (one process notifies)."""
        return await self.driver.write(lambda tx: administering.raise_alert(tx, alert))

    async def note_alert_told(self, name: str, *, at_ms: int) -> None:
        """Note that the operator has been told that an alert is raised."""
        params = {"name": name, "at": at_ms}
        await self.driver.write(lambda tx: tx.run(sql.NOTE_ALERT_TOLD, params))

    async def clear_alert(self, name: str) -> bool:
        """Clear an alert; True when this call cleared it."""
        return await self.driver.write(lambda tx: tx.run(sql.CLEAR_ALERT, {"name": name})) == 1

    async def list_alerts(self) -> list[Alert]:
        """Return the alerts that are raised."""
        return await self.driver.read(administering.list_alerts)

    async def find_note(self, key: str) -> str | None:
        """Return a note that processes leave each other."""
        return await self.driver.read(lambda tx: administering.find_note(tx, key))

    async def leave_note(self, key: str, value: str) -> None:
        """Leave such a note."""
        await self.driver.write(lambda tx: administering.leave_note(tx, key, value))

    async def keep_note(self, key: str, value: str) -> str:
        """Leave such a note unless there is one; return the one that stands."""
        return await self.driver.write(lambda tx: administering.keep_note(tx, key, value))

    async def take_duty(self, name: str, holder: int, *, now_ms: int, until_ms: int) -> bool:
        """Give a duty to *holder* until then; False where another one has it."""
        return await self.driver.write(
            lambda tx: administering.take_duty(
                tx, name, holder, now_ms=now_ms, until_ms=until_ms
            )
        )

    async def audit(self, *, limit: int = 100) -> list[Breach]:
        """Check the invariants I1 to I10 and return what does not hold."""
        return await self.driver.read(lambda tx: auditing.audit(tx, limit=limit))
