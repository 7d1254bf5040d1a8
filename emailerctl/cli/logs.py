"""`emailerctl logs`: the event log of the store, past and present."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Context, Option

from emailerctl.cli import follow as following
from emailerctl.cli import options, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.core.eventlog import EventLog, read_fitting, read_last
from emailerctl.models.clock import SystemClock, to_ms, to_text
from emailerctl.models.event import GAP, Event
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.page import EventFilter

if TYPE_CHECKING:
    from emailerctl.cli.contexts import Place
    from emailerctl.wiring import App

_COLUMNS = (
    "at",
    "message",
    "state",
    "event",
    "recipient",
    "provider",
    "attempt",
    "reply",
    "details",
)
_RECIPIENT_WIDTH = 26
_LAST = 50


def logs(
    ctx: Context,
    follow: Annotated[
        bool, Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    since: Annotated[
        int | None,
        Option(
            metavar="WHEN", parser=options.parse_since, help="From there on: 10m, or RFC 3339."
        ),
    ] = None,
    message: Annotated[str | None, Option(metavar="ID", help="Of this message.")] = None,
    state: Annotated[State | None, Option(help="Steps into this state.")] = None,
    to: Annotated[str, Option(metavar="ADDRESS", help="Of this recipient.")] = "",
    provider: Annotated[str, Option(metavar="NAME", help="Through this next hop.")] = "",
    tag: Annotated[str, Option(metavar="TAG", help="Of messages with this tag.")] = "",
    service: options.Service = None,
    last: Annotated[
        int | None,
        Option("-n", "--last", metavar="N", min=0, help="The last N; 50 without --since."),
    ] = None,
) -> None:
    """Show what happened, in order: the last events, or all since a moment.

    Nothing is missing and nothing comes twice, whatever is restarted meanwhile; what retention
    removed is named.

    Example: emailerctl logs --follow

    Example: emailerctl logs --message 1C6K9Q -o jsonl

    Example: emailerctl --url https://mail.example.org logs -f
    """
    asked = _Asked(
        EventFilter(
            service=service or "", state=state, provider=provider, recipient=to, tag=tag
        ),
        message=message or "",
        since=since,
        last=last,
        follows=follow,
    )
    place = session.find_place(ctx)
    if place is not None:
        _show_remote(place, asked)
        return

    async def work(opened: "App") -> None:
        from emailerctl.core import operate

        store = opened.store
        wanted = asked.wanted
        if message:
            message_id = await operate.resolve_id(store, message, service=None)
            wanted = replace(wanted, message_id=message_id)
        await _show_log(
            store,
            asked,
            wanted,
            now_ms=opened.clock.now_ms(),
            kept_ms=to_ms(opened.settings.retention.events),
            follow=partial(following.follow, store),
        )

    session.run(ctx, work)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line asks for."""

    wanted: EventFilter
    message: str
    since: int | None
    last: int | None
    follows: bool


def _show_remote(place: "Place", asked: _Asked) -> None:
    import asyncio

    from emailerctl.cli.remote_log import RemoteLog

    async def work() -> None:
        wanted = asked.wanted
        async with RemoteLog(place, tag=wanted.tag) as log:
            if asked.message:
                wanted = replace(wanted, message_id=await log.load_message_id(asked.message))
            now_ms = SystemClock().now_ms()
            await _show_log(log, asked, wanted, now_ms=now_ms, kept_ms=None, follow=log.follow)

    asyncio.run(work())


async def _show_log(
    log: EventLog,
    asked: _Asked,
    wanted: EventFilter,
    *,
    now_ms: int,
    kept_ms: int | None,
    follow: Callable[[EventFilter, int], AsyncIterator[Event | None]],
) -> None:
    """Write what was, and what comes."""
    seen = await log.last_seq()
    start_ms = options.to_moment(asked.since, now_ms)
    found: list[Event] = []
    if start_ms is None or asked.last is not None:
        found += await read_last(log, wanted, _LAST if asked.last is None else asked.last)
    else:
        found += await _find_gap(log, start_ms, kept_ms)
        after = await log.find_seq_since(start_ms)
        found += [event async for event in read_fitting(log, wanted, after, seen)]
    if start_ms is not None:
        found = [event for event in found if event.at_ms >= start_ms]
    _write_past(found, follows=asked.follows)
    if asked.follows:
        async for event in follow(wanted, max([seen, *(e.seq for e in found)])):
            if event is not None:
                write_event(event)


async def _find_gap(log: EventLog, start_ms: int, kept_ms: int | None) -> Sequence[Event]:
    """Return the gap that retention left, if it removed events since *start_ms*.

    Without the settings that say for how long events are kept, what is left tells.
    """
    first = await log.list_events(EventFilter(), after_seq=0, limit=2)
    if not first or first[0].type != GAP:
        return []
    if kept_ms is None:
        kept_ms = first[0].at_ms - min(event.at_ms for event in first)
    return [first[0]] if start_ms < first[0].at_ms - kept_ms else []


def _write_past(events: Sequence[Event], *, follows: bool) -> None:
    if output.form() is Form.JSON and not follows:
        output.write_json(shapes.listing_shape(event.shape() for event in events))
        return
    if output.form() is Form.TABLE and not output.is_terminal():
        output.write_row(_COLUMNS)
    for event in events:
        write_event(event)


def write_event(event: Event) -> None:
    """Write one event: a line for people, or its public shape."""
    form = output.form()
    if form in (Form.JSON, Form.JSONL):
        output.write_json(event.shape(), is_line=True)
    elif form is Form.ID:
        if event.message_id is not None:
            output.write_text(to_public(MESSAGE, event.message_id))
    elif output.is_terminal():
        output.write_painted(build_line(event))
    else:
        output.write_row(_cells(event))


def _cells(event: Event) -> list[str]:
    return [
        to_text(event.at_ms),
        "" if event.message_id is None else to_public(MESSAGE, event.message_id),
        event.to_state or "",
        event.type,
        event.recipient or "",
        event.provider or "",
        str(event.attempt or ""),
        event.reply or "",
        _details(event),
    ]


def build_line(event: Event) -> list[tuple[str, str]]:
    """Return the pieces, and their styles, of an event's line for people, in local time."""
    seconds = output.show_time(event.at_ms, "%m-%d %H:%M:%S")
    at = f"{seconds}.{event.at_ms % 1000:03d}  "
    if event.type == GAP:
        removed = f"{event.data.get('from_seq')} to {event.data.get('to_seq')}"
        return [(at, "dim"), (f"… events {removed} were removed by retention", "yellow")]
    public = "" if event.message_id is None else to_public(MESSAGE, event.message_id)
    state = event.to_state or ""
    attempt = f"#{event.attempt}" if event.attempt else ""
    return [
        (at, "dim"),
        (f"{public:<17}  ", ""),
        (f"{state:<9}  ", output.COLOURS.get(state, "")),
        (f"{event.type.removeprefix('recipient.'):<16}  ", ""),
        (f"{event.recipient or '':<{_RECIPIENT_WIDTH}}  ", ""),
        (f"{(event.provider or '') + attempt:<9}  ", "dim"),
        (event.reply or "", ""),
        (f"{'  ' if event.reply else ''}{_details(event)}", "dim"),
    ]


def _details(event: Event) -> str:
    return ", ".join(f"{name} {_show(value)}" for name, value in event.data.items())


def _show(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
