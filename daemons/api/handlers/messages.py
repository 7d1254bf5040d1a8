"""`/v1/messages`: accept, list, show, and the operator's verbs."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Any, ClassVar

from daemons.api.feed import read_timeline
from daemons.api.handlers.base import CONTENT_READERS, OPERATORS, READERS, SENDERS, Handler
from daemons.api.openapi import Operation, Schema
from daemons.api.schemas import (
    DRY_RUN,
    MESSAGE_FILTERS,
    RAW,
    Parse,
    parse_dry_run,
    parse_form,
    parse_limit,
    parse_listing,
    parse_query,
    parse_seq,
)
from emailerctl.core import operate, shapes
from emailerctl.core.answers import (
    BatchShape,
    EventShape,
    MessageShape,
    OrderShape,
    ReceiptShape,
    RehearsalShape,
)
from emailerctl.core.batch import MOST_VALUES, parse_batch
from emailerctl.core.fields import SubmissionBody
from emailerctl.core.reread import read_content
from emailerctl.errors import (
    AmbiguousId,
    Conflict,
    ContentGone,
    EmailerError,
    RecipientRate,
)
from emailerctl.metrics.registry import ACCEPTANCE_SECONDS, ACCEPTANCES, ACCEPTED, REPLAYED
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import Receipt
from emailerctl.models.page import PAGE_LIMIT
from emailerctl.store.base import Resolution, Verb

_FORM: Mapping[str, Parse] = {"format": parse_form}
_TIMELINE: Mapping[str, Parse] = {"after": parse_seq, "limit": parse_limit}

BATCH_BYTES = 50 * 1024 * 1024
_LONG_BYTES = 256 * 1024


class Messages(Handler):
    """`/v1/messages`."""

    scopes: ClassVar = {"POST": SENDERS, "GET": READERS}
    operations: ClassVar = {
        "POST": Operation(
            body=SubmissionBody,
            answer=ReceiptShape,
            status=HTTPStatus.ACCEPTED,
            also={HTTPStatus.OK: RehearsalShape},
            query=DRY_RUN,
            headers={"Idempotency-Key": "1 to 255 printable ASCII; the same one: one message"},
            refusals=(RecipientRate,),
        ),
        "GET": Operation(query=MESSAGE_FILTERS, answer=MessageShape, is_listing=True),
    }

    async def post(self) -> None:
        """Accept a message: 202 once it is committed."""
        if parse_dry_run(self.request.query_arguments):
            await self._rehearse()
            return
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

    async def _rehearse(self) -> None:
        """Say what would come of a message, and keep nothing."""
        receipt, prepared = await self.app.acceptance.rehearse(
            self.parse_object(),
            caller=self.caller,
            key=self.request.headers.get("Idempotency-Key"),
        )
        self.reply(shapes.rehearsal_shape(receipt, prepared))

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


class MessageBatch(Handler):
    """`/v1/messages/batch`."""

    scopes: ClassVar = {"POST": SENDERS}
    body_limit: ClassVar = BATCH_BYTES
    operations: ClassVar = {
        "POST": Operation(
            body={
                "messages": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/SubmissionBody"},
                    "minItems": 1,
                    "maxItems": 1000,
                },
                "atomic": {"type": ["boolean", "null"]},
            },
            required=("messages",),
            answer=BatchShape,
            status=HTTPStatus.ACCEPTED,
            also={HTTPStatus.OK: BatchShape},
            query=DRY_RUN,
            headers={"Idempotency-Key": "for all of them; or idempotency_key in each"},
            refusals=(RecipientRate,),
        )
    }

    async def post(self) -> None:
        """Accept up to a thousand messages: what became of each, in order."""
        is_dry = parse_dry_run(self.request.query_arguments)
        if len(self.request.body) > _LONG_BYTES:  # others have their turn meanwhile
            fields = await asyncio.to_thread(self.parse_object, most_values=MOST_VALUES)
        else:
            fields = self.parse_object(most_values=MOST_VALUES)
        answers = await self.app.batches.accept(
            parse_batch(fields),
            caller=self.caller,
            key=self.request.headers.get("Idempotency-Key"),
            keeps=not is_dry,
        )
        if not is_dry:
            for answer in answers:
                self._count(answer)
        if all(isinstance(answer, Receipt) and answer.is_replay for answer in answers):
            self._headers["Idempotent-Replayed"] = "true"
        status = HTTPStatus.OK if is_dry else HTTPStatus.ACCEPTED
        self.reply(shapes.batch_shape(answers, is_dry=is_dry), status)

    def _count(self, answer: Receipt | EmailerError) -> None:
        if isinstance(answer, EmailerError):
            outcome = answer.code
        else:
            outcome = REPLAYED if answer.is_replay else ACCEPTED
        self.app.meter.add(ACCEPTANCES, outcome)


class Message(Handler):
    """`/v1/messages/{id}`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(answer=MessageShape, refusals=(AmbiguousId,))}

    async def get(self, text: str) -> None:
        """Show a message with its recipients and attempts."""
        view = await operate.load_message(
            self.app.store,
            text,
            service=self.caller.sees,
            now_ms=self.app.clock.now_ms(),
        )
        self.reply(shapes.message_shape(view))


class MessageContent(Handler):
    """`/v1/messages/{id}/content`."""

    scopes: ClassVar = {"GET": CONTENT_READERS}
    operations: ClassVar = {
        "GET": Operation(
            query=_FORM,
            answer=dict[str, Any],
            or_text="message/rfc822",
            refusals=(AmbiguousId, ContentGone),
        )
    }

    async def get(self, text: str) -> None:
        """Show what a message says, or its bytes as they are sent (`?format=raw`)."""
        query = parse_query(self.request.query_arguments, _FORM)
        view, raw = await operate.load_content(self.app.store, text, service=self.caller.sees)
        self._headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if query.get("format") == RAW:
            self.reply_bytes(raw, "message/rfc822")
        else:
            self.reply(read_content(raw, view))


class MessageEvents(Handler):
    """`/v1/messages/{id}/events`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {
        "GET": Operation(
            query=_TIMELINE, answer=EventShape, is_listing=True, refusals=(AmbiguousId,)
        )
    }

    async def get(self, text: str) -> None:
        """Show what happened to a message, in order."""
        query = parse_query(self.request.query_arguments, _TIMELINE)
        store = self.app.store
        message_id = await operate.resolve_id(store, text, service=self.caller.sees)
        after, limit = query.get("after", 0), query.get("limit", PAGE_LIMIT)
        self.reply(await read_timeline(store, message_id, after_seq=after, limit=limit))


class MessageVerb(Handler):
    """`/v1/messages/{id}/cancel`, `/hold`, `/release`, `/retry`, `/resolve`, `/reschedule`."""

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


def describe_order(verb: Verb) -> Operation:
    """Return what an operator's verb takes and answers."""
    return Operation(
        summary=_ORDERS.get(verb, ""),
        body={name: _ORDER_FIELDS[name] for name in operate.list_fields(verb)},
        required=("outcome",) if verb is Verb.RESOLVE else (),
        answer=OrderShape,
        refusals=(Conflict,),
    )


_ORDERS: Mapping[Verb, str] = {
    Verb.CANCEL: "Withdraw what is queued or held, for good.",
    Verb.HOLD: "Park what is queued until it is released.",
    Verb.RELEASE: "Let go what is held.",
    Verb.RETRY: "Queue again what failed, bounced or was cancelled; what is queued is due now.",
    Verb.RESCHEDULE: "Have it due at another time.",
    Verb.RESOLVE: "End a doubt: it was sent, it was not, or a second copy is accepted.",
}
_MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
_DURATION: Schema = {"type": ["string", "null"], "examples": ["2h"]}
_ORDER_FIELDS: Mapping[str, Schema] = {
    "recipients": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "minItems": 1,
        "description": "These only; else all that it fits.",
    },
    "reason": {"type": ["string", "null"]},
    "expires_at": _MOMENT,
    "expires_in": _DURATION,
    "send_at": _MOMENT,
    "send_in": _DURATION,
    "outcome": {"enum": [resolution.value for resolution in Resolution]},
    "force": {"type": ["boolean", "null"], "description": "Needs a reason."},
}
