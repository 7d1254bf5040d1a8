"""The event log of an API from afar: its pages, and its stream across restarts."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import httpx

from emailerctl.cli import output
from emailerctl.cli.contexts import Place
from emailerctl.errors import (
    BadRequest,
    EmailerError,
    Forbidden,
    NotFound,
    Unauthorized,
    Unavailable,
)
from emailerctl.models.clock import to_text
from emailerctl.models.event import Event, parse_event
from emailerctl.models.ids import MESSAGE, parse_public, to_public
from emailerctl.models.page import PAGE_LIMIT, EventFilter

_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # before a stream that ended is asked for again
_SILENT_S = 40.0  # without a sign of life, which comes every 15 s, the connection is dead
_ANSWER_S = 30.0
_TRY_AGAIN = frozenset({408, 425, 429})
_ERRORS: Mapping[int, type[EmailerError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound}


class RemoteLog:
    """The event log of an API: what `core.eventlog` needs to read it, and the stream.

    Args:
        tag: of the messages; events do not say it, so that the API must look.
    """

    def __init__(self, place: Place, *, tag: str = "") -> None:
        """Prepare; nothing is asked yet."""
        self._tag = tag
        self._http = httpx.AsyncClient(
            base_url=place.url,
            headers={"Authorization": f"Bearer {place.token}"},
            timeout=httpx.Timeout(_ANSWER_S),
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def list_events(
        self, filter_: EventFilter, *, after_seq: int, limit: int
    ) -> list[Event]:
        """Return events after *after_seq* in order, led by a `gap` where some were removed."""
        found: list[Event] = []
        cursor: str | None = str(after_seq)
        while cursor is not None and len(found) < limit:
            most = min(limit - len(found), PAGE_LIMIT)
            query = _build_query(replace(filter_, tag=self._tag))
            page = await self._ask({**query, "after": cursor, "limit": str(most)})
            found += [self._parse(shape) for shape in page["data"]]
            cursor = page["next_cursor"]
        return found

    def _parse(self, shape: Mapping[str, Any]) -> Event:
        return parse_event(shape)._replace(tags=(self._tag,) if self._tag else ())

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 where there is none."""
        return int((await self._ask({"last": "0"}))["next_cursor"])

    async def find_seq_since(self, moment_ms: int) -> int:
        """Return the number after which the events since *moment_ms* come."""
        page = await self._ask({"since": to_text(moment_ms), "limit": "1"})
        if not page["data"]:
            return await self.last_seq()
        return int(page["data"][0]["seq"]) - 1

    async def load_message_id(self, text: str) -> int:
        """Return the id of the message that *text* means: its id, or a prefix of no other's."""
        shape = await self._ask({}, path=f"/v1/messages/{text}")
        message_id = parse_public(MESSAGE, shape["id"])
        if message_id is None:
            raise Unavailable("what answers there is no API of emailerctl")
        return message_id

    async def _ask(self, query: Mapping[str, str], path: str = "/v1/events") -> dict[str, Any]:
        try:
            answer = await self._http.get(path, params=dict(query))
        except httpx.HTTPError as error:
            raise Unavailable(f"the API can't be reached: {_describe(error)}") from error
        if answer.status_code != httpx.codes.OK:
            raise _build_error(answer)
        try:
            return dict(answer.json())
        except ValueError as error:
            raise Unavailable("what answers there is no API of emailerctl") from error

    async def follow(self, wanted: EventFilter, after_seq: int) -> AsyncIterator[Event | None]:
        """Yield the events after *after_seq* that fit, and gaps, for ever; None: none for now.

        A stream that ends is asked for again from where it was: nothing is missed or repeated,
        however often the API restarts.

        Raises:
            EmailerError: the API refuses for good.
        """
        failures = 0
        while True:
            try:
                async with self._http.stream(
                    "GET",
                    "/v1/events/stream",
                    params=_build_query(wanted),
                    headers={"Last-Event-ID": str(after_seq)},
                    timeout=httpx.Timeout(_ANSWER_S, read=_SILENT_S),
                ) as answer:
                    await _require_stream(answer)
                    async for seq, event in _read_stream(answer):
                        failures = 0
                        after_seq = seq
                        yield event
            except (httpx.HTTPError, Unavailable) as error:
                if failures == 1:
                    output.note(f"the stream ended ({_describe(error)}); trying again")
            yield None
            await asyncio.sleep(_WAITS_S[min(failures, len(_WAITS_S) - 1)])
            failures += 1


async def _require_stream(answer: httpx.Response) -> None:
    if answer.status_code == httpx.codes.OK:
        return
    await answer.aread()
    raise _build_error(answer)


async def _read_stream(answer: httpx.Response) -> AsyncIterator[tuple[int, Event | None]]:
    """Yield positions, with the event that is there, if the client was to see it."""
    seq, data = None, ""
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and seq is not None:
            yield seq, parse_event(json.loads(data)) if data else None
            seq, data = None, ""


def _build_query(wanted: EventFilter) -> dict[str, str]:
    said = {
        "message": to_public(MESSAGE, wanted.message_id) if wanted.message_id else "",
        "service": wanted.service,
        "state": wanted.state or "",
        "provider": wanted.provider,
        "recipient": wanted.recipient,
        "tag": wanted.tag,
    }
    return {name: value for name, value in said.items() if value}


def _build_error(answer: httpx.Response) -> EmailerError:
    """Return what the API's problem document says, as an error of ours."""
    try:
        problem = dict(answer.json())
    except ValueError:
        problem = {}
    detail = str(problem.get("detail") or f"the API answered {answer.status_code}")
    hint = str(problem.get("hint") or "")
    status = answer.status_code
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _TRY_AGAIN:
        return Unavailable(detail, hint=hint)
    return _ERRORS.get(status, BadRequest)(detail, hint=hint)


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
