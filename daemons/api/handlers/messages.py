"""`/v1/messages`: accept, list, show, and the operator's verbs."""

from collections.abc import Mapping
from http import HTTPStatus
from time import perf_counter
from typing import ClassVar

from daemons.api.feed import read_timeline
from daemons.api.handlers.base import OPERATORS, READERS, SENDERS, Handler
from daemons.api.schemas import Parse, parse_limit, parse_listing, parse_query, parse_seq
from emailerctl.core import operate, shapes
from emailerctl.errors import EmailerError
from emailerctl.metrics.registry import ACCEPTANCE_SECONDS, ACCEPTANCES, ACCEPTED, REPLAYED
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.page import PAGE_LIMIT
from emailerctl.store.base import Verb


class Messages(Handler):
    """`/v1/messages`."""

    scopes: ClassVar = {"POST": SENDERS, "GET": READERS}

    async def post(self) -> None:
        """Accept a message: 202 once it is committed."""
        began_s = perf_counter()
        receipt = await self.app.acceptance.accept(
            self.parse_object(),
            caller=self.caller,
            key=self.request.headers.get("Idempotency-Key"),
        )
        self._headers["Location"] = f"/v1/messages/{to_public(MESSAGE, receipt.message_id)}"
        if receipt.is_replay:
            self._headers["Idempotent-Replayed"] = "true"
        self.reply(shapes.receipt_shape(receipt), HTTPStatus.ACCEPTED)
        meter = self.app.meter
        meter.add(ACCEPTANCES, REPLAYED if receipt.is_replay else ACCEPTED)
        meter.observe(ACCEPTANCE_SECONDS, perf_counter() - began_s)

    def _write_problem(self, error: EmailerError) -> None:
        """Count what was not accepted, whoever refused it."""
        if self.request.method == "POST":
            self.app.meter.add(ACCEPTANCES, error.code)
        super()._write_problem(error)

    async def get(self) -> None:
        """List messages, newest first."""
        filter_, cursor, limit = parse_listing(self.request.query_arguments, self.caller)
        now_ms = self.app.clock.now_ms()
        page = await self.app.store.list_messages(
            filter_, cursor=cursor, limit=limit, now_ms=now_ms
        )
        self.reply(
            shapes.page_shape(
                page, lambda view: shapes.message_shape(view, with_attempts=False)
            )
        )


class Message(Handler):
    """`/v1/messages/{id}`."""

    scopes: ClassVar = {"GET": READERS}

    async def get(self, text: str) -> None:
        """Show a message with its recipients and attempts."""
        view = await operate.load_message(
            self.app.store,
            text,
            service=self.caller.sees,
            now_ms=self.app.clock.now_ms(),
        )
        self.reply(shapes.message_shape(view))


class MessageEvents(Handler):
    """`/v1/messages/{id}/events`."""

    scopes: ClassVar = {"GET": READERS}

    async def get(self, text: str) -> None:
        """Show what happened to a message, in order."""
        known: Mapping[str, Parse] = {"after": parse_seq, "limit": parse_limit}
        query = parse_query(self.request.query_arguments, known)
        store = self.app.store
        message_id = await operate.resolve_id(store, text, service=self.caller.sees)
        after, limit = query.get("after", 0), query.get("limit", PAGE_LIMIT)
        self.reply(await read_timeline(store, message_id, after_seq=after, limit=limit))


class MessageVerb(Handler):
    """`/v1/messages/{id}/cancel`, `/hold`, `/release`, `/retry`, `/resolve`."""

    scopes: ClassVar = {"POST": OPERATORS}

    async def post(self, text: str, verb: str) -> None:
        """Carry out an operator's order; 200 if at least one recipient changed."""
        result = await operate.carry_out(
            self.app.store,
            self.app.clock,
            self.caller,
            Verb(verb),
            text,
            self.parse_object(is_optional=True),
        )
        self.reply(shapes.order_shape(result))
