"""An API elsewhere, asked as the store here would be: the same commands, the same output."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from emailerctl import errors
from emailerctl.cli import received
from emailerctl.cli.contexts import Place
from emailerctl.client import AsyncClient, NoAnswer, Refused, build_key
from emailerctl.core.brokers import BrokerFacts
from emailerctl.core.hop_view import HopView
from emailerctl.core.outlook import Doubt
from emailerctl.core.route import SANDBOX, Route
from emailerctl.models.clock import SystemClock, to_text
from emailerctl.models.event import Event
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import MessageView, Receipt
from emailerctl.models.page import PAGE_LIMIT, MessageFilter, Page
from emailerctl.providers.registry import KINDS
from emailerctl.store.base import (
    Blocks,
    HopState,
    OrderResult,
    QueueStats,
    Suppression,
    Verb,
)

Item = TypeVar("Item")

_PATIENCE_S = 10.0  # somebody sits in front of it
_POLL_S = 0.25
_NAMES = {"recipient": "to", "header_from": "from", "since_ms": "since", "until_ms": "until"}

_BY_CODE = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.EmailerError)
}
# Of an API that is newer than this program, or of a proxy in front of it.
_BY_STATUS: Mapping[int, type[errors.EmailerError]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.PayloadTooLarge,
    429: errors.TooManyRequests,
    503: errors.Unavailable,
}


def to_error(refused: Refused) -> errors.EmailerError:
    """Return the error that the API meant: its sentence, its cure, its exit code."""
    faults = [
        errors.Fault(str(one.get("pointer", "")), str(one.get("detail", "")))
        for one in refused.errors
    ]
    kind = _BY_CODE.get(refused.code)
    if kind is errors.Invalid:
        return errors.Invalid(faults, refused.detail)
    if kind is None:
        other = errors.BadRequest if refused.status < 500 else errors.NextHopRefused
        kind = _BY_STATUS.get(refused.status, other)
    return kind(refused.detail, hint=str(refused.problem.get("hint", "")))


class RemoteDesk:
    """See `Desk`: one that asks an API."""

    def __init__(self, place: Place, **options: Any) -> None:
        """Connect at the first question; *options* are those of httpx."""
        self.place = place
        self._client = AsyncClient(place.url, place.token, patience_s=_PATIENCE_S, **options)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _request(
        self, method: str, path: str, **more: Any
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return an answer's body and headers.

        Raises:
            EmailerError: what the API says, or that it does not answer.
        """
        try:
            answer = await self._client.request(method, path, **more)
        except Refused as refused:
            raise to_error(refused) from refused
        except NoAnswer as silence:
            key = f"; with --key {silence.key} it is done once" if silence.key else ""
            raise errors.Unavailable(
                f"no answer from {self.place.url}: {silence.reason}",
                hint=f"is that the right URL, and does it run? Repeat it later{key}",
            ) from silence
        return answer.content, answer.headers

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[Any, Mapping[str, str]]:
        """Return what JSON an answer has, and its headers.

        Raises:
            EmailerError: see `_request`; or what answers is no API of ours.
        """
        octets, headers = await self._request(method, path, **more)
        try:
            return (json.loads(octets) if octets else None), headers
        except ValueError:
            raise errors.NextHopRefused(
                f"{self.place.url} answers, but it is no API of ours",
                hint="is that the URL of the API?",
            ) from None

    async def _list(
        self, path: str, read: Callable[[Any], Item], params: Mapping[str, object]
    ) -> Page[Item]:
        found, _ = await self._ask("GET", path, params=params)
        return Page([read(one) for one in found["data"]], found["next_cursor"])

    def now_ms(self) -> int:
        """See `Desk`."""
        return SystemClock().now_ms()

    async def accept(self, fields: Mapping[str, object], *, key: str | None) -> Receipt:
        """See `Desk`."""
        shape, headers = await self._ask(
            "POST", "/v1/messages", json=fields, key=key or build_key()
        )
        is_replay = headers.get("Idempotent-Replayed") == "true"
        return received.read_receipt(shape, is_replay=is_replay)

    async def list_messages(
        self, filter_: MessageFilter, *, cursor: str | None, limit: int
    ) -> Page[MessageView]:
        """See `Desk`."""
        params: dict[str, object] = {"limit": limit, "cursor": cursor}
        for name in MessageFilter.__slots__:
            value = getattr(filter_, name)
            if value not in ("", None):
                params[_NAMES.get(name, name)] = (
                    to_text(value) if name.endswith("_ms") else str(value)
                )
        return await self._list("/v1/messages", received.read_message, params)

    async def walk_messages(self, filter_: MessageFilter) -> AsyncIterator[MessageView]:
        """See `Desk`."""
        cursor: str | None = None
        while True:
            page = await self.list_messages(filter_, cursor=cursor, limit=PAGE_LIMIT)
            for view in page.data:
                yield view
            cursor = page.next_cursor
            if cursor is None:
                return

    async def load_raw(self, text: str) -> bytes:
        """See `Desk`."""
        path = f"/v1/messages/{quote(text, safe='')}/content"
        octets, _ = await self._request("GET", path, params={"format": "raw"})
        return octets

    async def load_message(self, text: str) -> MessageView:
        """See `Desk`."""
        shape, _ = await self._ask("GET", f"/v1/messages/{quote(text, safe='')}")
        return received.read_message(shape)

    async def carry_out(
        self, verb: Verb, text: str, fields: Mapping[str, object]
    ) -> OrderResult:
        """See `Desk`."""
        path = f"/v1/messages/{quote(text, safe='')}/{verb}"
        shape, _ = await self._ask("POST", path, json=dict(fields))
        return received.read_order(shape)

    async def follow_message(self, message_id: int) -> AsyncIterator[Event | None]:
        """See `Desk`."""
        path, after = f"/v1/messages/{to_public(MESSAGE, message_id)}/events", 0
        while True:
            page = await self._list(path, received.read_event, {"after": after})
            for event in page.data:
                after = event.seq
                yield event
            if not page.data:
                yield None
                await asyncio.sleep(_POLL_S)

    def explain_route(self, view: MessageView) -> Route | None:
        """See `Desk`: the settings are elsewhere."""
        return None

    async def queue_stats(self) -> QueueStats:
        """See `Desk`."""
        shape, _ = await self._ask("GET", "/v1/queue")
        return received.read_queue(shape)

    async def find_broker(self) -> BrokerFacts | None:
        """See `Desk`: the API does not say it."""
        return None

    async def list_doubts(
        self, *, service: str | None = None, message: str = "", limit: int
    ) -> Sequence[Doubt]:
        """See `Desk`."""
        params = {"service": service, "message": message or None, "limit": limit}
        return (await self._list("/v1/unknown", received.read_doubt, params)).data

    async def find_reporting(self) -> frozenset[str]:
        """See `Desk`: its kind tells."""
        kinds = {
            view.hop.name: KINDS.get(view.facts.kind or "") for view in await self.list_hops()
        }
        named = {name for name, kind in kinds.items() if kind is not None and kind.reports}
        return frozenset(named | {SANDBOX})

    async def find_schema(self, template: str) -> Mapping[str, Any]:
        """See `Desk`: a token that may only send can't know it."""
        try:
            shape, _ = await self._ask("GET", f"/v1/templates/{quote(template, safe='')}")
        except (errors.NotFound, errors.Forbidden):
            return {}
        schema: Mapping[str, Any] = shape["schema"]
        return schema

    async def list_hops(self) -> Sequence[HopView]:
        """See `Desk`."""
        return (await self._list("/v1/providers", received.read_hop, {})).data

    async def set_hop(self, name: str, state: HopState, *, reason: str) -> HopView:
        """See `Desk`."""
        verb = "enable" if state is HopState.OPEN else "disable"
        path = f"/v1/providers/{quote(name, safe='')}/{verb}"
        shape, _ = await self._ask(
            "POST", path, json={"reason": reason or None}, is_repeatable=True
        )
        return received.read_hop(shape)

    async def list_suppressions(
        self, *, service: str | None, prefix: str, cursor: str | None, limit: int
    ) -> Page[Suppression]:
        """See `Desk`."""
        params = {"service": service, "address": prefix, "cursor": cursor, "limit": limit}
        return await self._list("/v1/suppressions", received.read_suppression, params)

    async def suppress(
        self, address: str, service: str, *, reason: str, detail: str, lasting_ms: int | None
    ) -> Suppression:
        """See `Desk`."""
        body = {
            "address": address,
            "service": service,
            "reason": reason,
            "detail": detail,
            "expires_in": None if lasting_ms is None else f"{lasting_ms}ms",
        }
        shape, _ = await self._ask("POST", "/v1/suppressions", json=body, is_repeatable=True)
        return received.read_suppression(shape)

    async def unsuppress(
        self, address: str, service: str, *, blocks: Blocks | None, reason: str
    ) -> str:
        """See `Desk`."""
        params = {"service": service or None, "blocks": blocks, "reason": reason or None}
        path = f"/v1/suppressions/{quote(address, safe='')}"
        await self._ask("DELETE", path, params=params)
        return address
