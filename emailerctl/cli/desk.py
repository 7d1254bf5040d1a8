"""What a command can ask for, whether of the store on this host or of an API elsewhere.

A command that is written against `Desk` (`session.ask`) works in both places; one that is
written against the opened store (`session.run`) works where the store is.
"""

import difflib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emailerctl.cli import follow
from emailerctl.core import operate
from emailerctl.core.brokers import BrokerFacts
from emailerctl.core.bulk import walk_messages
from emailerctl.core.hop_view import HopView, list_hop_views
from emailerctl.core.outlook import Doubt, foresee
from emailerctl.core.route import Route, build_facts, explain_route
from emailerctl.errors import NotFound
from emailerctl.models.caller import Caller, build_local_caller
from emailerctl.models.event import Event
from emailerctl.models.message import MessageView, Receipt
from emailerctl.models.page import EventFilter, MessageFilter, Page
from emailerctl.store.base import (
    Blocks,
    Deed,
    HopState,
    NextHop,
    OrderResult,
    QueueStats,
    Suppression,
    Verb,
)
from emailerctl.templates.base import decode_head

if TYPE_CHECKING:
    from emailerctl.wiring import App


class Desk(Protocol):
    """Where commands are carried out."""

    def now_ms(self) -> int:
        """Return the wall clock."""
        ...

    async def accept(self, fields: Mapping[str, object], *, key: str | None) -> Receipt:
        """Have a message accepted."""
        ...

    async def list_messages(
        self, filter_: MessageFilter, *, cursor: str | None, limit: int
    ) -> Page[MessageView]:
        """Return a page of messages, newest first."""
        ...

    def walk_messages(self, filter_: MessageFilter) -> AsyncIterator[MessageView]:
        """Yield every message that fits, newest first."""
        ...

    async def load_message(self, text: str) -> MessageView:
        """Return the message with this id, or the beginning of one.

        Raises:
            NotFound, AmbiguousId: see `operate.resolve_id`.
        """
        ...

    async def load_raw(self, text: str) -> bytes:
        """Return the bytes of a message.

        Raises:
            ContentGone: retention removed them.
        """
        ...

    async def carry_out(
        self, verb: Verb, text: str, fields: Mapping[str, object]
    ) -> OrderResult:
        """Carry out an operator's order about one message."""
        ...

    def follow_message(self, message_id: int) -> AsyncIterator[Event | None]:
        """Yield a message's events, those that come too, for ever; None: none for now."""
        ...

    def explain_route(self, view: MessageView) -> Route | None:
        """Return where a message goes if it goes now; None: that can't be known here."""
        ...

    async def queue_stats(self) -> QueueStats:
        """Count what waits."""
        ...

    async def find_broker(self) -> BrokerFacts | None:
        """Return what is known of the broker; None: there is none, or it is not known here."""
        ...

    async def list_doubts(
        self, *, service: str | None = None, message: str = "", limit: int
    ) -> Sequence[Doubt]:
        """Return the recipients in doubt, oldest first: of all messages, or of one."""
        ...

    async def find_reporting(self) -> frozenset[str]:
        """Return the next hops that report what became of a message."""
        ...

    async def find_schema(self, template: str) -> Mapping[str, Any]:
        """Return what variables a template has; nothing where that can't be known."""
        ...

    async def list_hops(self) -> Sequence[HopView]:
        """Return every next hop."""
        ...

    async def set_hop(self, name: str, state: HopState, *, reason: str) -> HopView:
        """Open or shut a next hop, and return it."""
        ...

    async def list_suppressions(
        self, *, service: str | None, prefix: str, cursor: str | None, limit: int
    ) -> Page[Suppression]:
        """Return a page of the addresses that are not sent to."""
        ...

    async def suppress(
        self, address: str, service: str, *, reason: str, detail: str, lasting_ms: int | None
    ) -> Suppression:
        """Send nothing more to an address."""
        ...

    async def unsuppress(
        self, address: str, service: str, *, blocks: Blocks | None, reason: str
    ) -> str:
        """Send to an address again; return it as it was listed.

        Raises:
            NotFound: it was not listed.
        """
        ...


class LocalDesk:
    """The store on this host; who asks has been authenticated by the operating system."""

    def __init__(self, app: "App", actor: str) -> None:
        """Take the opened store, and who asks."""
        self.app = app
        self.caller: Caller = build_local_caller(actor)

    def now_ms(self) -> int:
        """See `Desk`."""
        return self.app.clock.now_ms()

    async def accept(self, fields: Mapping[str, object], *, key: str | None) -> Receipt:
        """See `Desk`."""
        return await self.app.acceptance.accept(fields, caller=self.caller, key=key)

    async def list_messages(
        self, filter_: MessageFilter, *, cursor: str | None, limit: int
    ) -> Page[MessageView]:
        """See `Desk`."""
        return await self.app.store.list_messages(
            filter_, cursor=cursor, limit=limit, now_ms=self.now_ms()
        )

    def walk_messages(self, filter_: MessageFilter) -> AsyncIterator[MessageView]:
        """See `Desk`."""
        return walk_messages(self.app.store, filter_, now_ms=self.now_ms())

    async def load_raw(self, text: str) -> bytes:
        """See `Desk`."""
        _view, raw = await operate.load_content(self.app.store, text, service=None)
        return raw

    async def load_message(self, text: str) -> MessageView:
        """See `Desk`."""
        store = self.app.store
        return await operate.load_message(store, text, service=None, now_ms=self.now_ms())

    async def carry_out(
        self, verb: Verb, text: str, fields: Mapping[str, object]
    ) -> OrderResult:
        """See `Desk`."""
        app = self.app
        return await operate.carry_out(app.store, app.clock, self.caller, verb, text, fields)

    def follow_message(self, message_id: int) -> AsyncIterator[Event | None]:
        """See `Desk`."""
        return follow.follow(self.app.store, EventFilter(message_id=message_id), 0)

    def explain_route(self, view: MessageView) -> Route | None:
        """See `Desk`."""
        return explain_route(self.app.routing, build_facts(view))

    async def queue_stats(self) -> QueueStats:
        """See `Desk`."""
        return await self.app.store.queue_stats(now_ms=self.now_ms())

    async def find_broker(self) -> BrokerFacts | None:
        """See `Desk`: it is asked."""
        return await self.app.find_broker(asks=True)

    async def list_doubts(
        self, *, service: str | None = None, message: str = "", limit: int
    ) -> Sequence[Doubt]:
        """See `Desk`."""
        store = self.app.store
        found = await store.list_unknown(
            now_ms=self.now_ms(),
            service=service,
            message_id=await operate.resolve_id(store, message, service=None)
            if message
            else None,
            limit=limit,
        )
        return [Doubt(one, foresee(one, self.app.abilities)) for one in found]

    async def find_reporting(self) -> frozenset[str]:
        """See `Desk`."""
        return self.app.reporting_hops

    async def find_schema(self, template: str) -> Mapping[str, Any]:
        """See `Desk`."""
        stored = await self.app.store.find_template(template)
        return decode_head(stored.bundle).schema if stored else {}

    async def list_hops(self) -> Sequence[HopView]:
        """See `Desk`."""
        hops = self.app.describe_hops()
        return await list_hop_views(self.app.store, hops, now_ms=self.now_ms())

    async def set_hop(self, name: str, state: HopState, *, reason: str) -> HopView:
        """See `Desk`."""
        known = [view.hop.name for view in await self.list_hops()]
        if name not in known:
            raise build_hop_not_found(name, known)
        hop = NextHop(
            name=name,
            state=state,
            reason=reason,
            changed_ms=self.now_ms(),
            actor=self.caller.name,
        )
        verb = "provider.enable" if state is HopState.OPEN else "provider.disable"
        deed = Deed(hop.actor, verb, name, reason)
        await self.app.store.set_next_hop(hop, deed=deed)
        return next(view for view in await self.list_hops() if view.hop.name == name)

    async def list_suppressions(
        self, *, service: str | None, prefix: str, cursor: str | None, limit: int
    ) -> Page[Suppression]:
        """See `Desk`."""
        return await self.app.store.list_suppressions(
            service=service, address=prefix, cursor=cursor, limit=limit
        )

    async def suppress(
        self, address: str, service: str, *, reason: str, detail: str, lasting_ms: int | None
    ) -> Suppression:
        """See `Desk`."""
        now_ms = self.now_ms()
        one = Suppression(
            address=self._parse(address),
            service=service,
            reason=reason,
            detail=detail,
            created_ms=now_ms,
            expires_ms=None if lasting_ms is None else now_ms + lasting_ms,
            actor=self.caller.name,
        )
        deed = Deed(one.actor, "suppression.add", one.address, detail, data={"as": reason})
        await self.app.store.suppress(one, deed=deed)
        return one

    async def unsuppress(
        self, address: str, service: str, *, blocks: Blocks | None, reason: str
    ) -> str:
        """See `Desk`."""
        wire = self._parse(address)
        deed = Deed(self.caller.name, "suppression.remove", wire, reason)
        if not await self.app.store.unsuppress(
            wire, service, blocks=blocks, deed=deed, now_ms=self.now_ms()
        ):
            whose = f"for the service {service}" if service else "for all services"
            raise NotFound(
                f"{wire} is not suppressed {whose}",
                hint=f"emailerctl suppressions list {wire}",
            )
        return wire

    def _parse(self, address: str) -> str:
        local = self.app.settings.limits.allow_local_domains
        return operate.parse_recipient(address, allow_local_domains=local)


def build_hop_not_found(name: str, known: Iterable[str]) -> NotFound:
    """Return the complaint about a next hop that is none."""
    near = difflib.get_close_matches(name, known, 1)
    return NotFound(
        f"there is no next hop {name}",
        hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
    )
