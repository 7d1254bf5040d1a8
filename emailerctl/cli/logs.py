"""`emailerctl logs`: the event log of the store, past and present."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Context, Option

from emailerctl.cli import follow as following
from emailerctl.cli import options, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.models.clock import to_ms, to_text
from emailerctl.models.event import GAP, Event
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.page import EventFilter

if TYPE_CHECKING:
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
    """

    async def work(opened: "App") -> None:
        from emailerctl.core import operate

        store = opened.store
        filter_ = EventFilter(
            message_id=await operate.resolve_id(store, message, service=None)
            if message
            else None,
            service=service or "",
            state=state,
            provider=provider,
            recipient=to,
        )
        seen = await store.last_seq()
        start_ms = options.to_moment(since, opened.clock.now_ms())
        found: list[Event] = []
        if start_ms is None or last is not None:
            found += await following.read_last(store, filter_, _LAST if last is None else last)
        else:
            found += await _find_gap(opened, start_ms)
            after = await store.find_seq_since(start_ms)
            async for event in following.read_after(store, filter_, after, until_seq=seen):
                if filter_.admits(event):
                    found.append(event)
        if start_ms is not None:
            found = [event for event in found if event.at_ms >= start_ms]
        _write_past(found, follows=follow)
        if follow:
            await _write_what_comes(opened, filter_, max([seen, *(e.seq for e in found)]))

    session.run(ctx, work)


async def _find_gap(opened: "App", start_ms: int) -> Sequence[Event]:
    """Return the gap that retention left, if it removed events since *start_ms*."""
    first = await opened.store.list_events(EventFilter(), after_seq=0, limit=1)
    kept_ms = to_ms(opened.settings.retention.events)
    return [e for e in first if e.type == GAP and start_ms < e.at_ms - kept_ms]


def _write_past(events: Sequence[Event], *, follows: bool) -> None:
    if output.form() is Form.JSON and not follows:
        output.write_json(shapes.listing_shape(event.shape() for event in events))
        return
    if output.form() is Form.TABLE and not output.is_terminal():
        output.write_row(_COLUMNS)
    for event in events:
        write_event(event)


async def _write_what_comes(opened: "App", filter_: EventFilter, after_seq: int) -> None:
    async for event in following.follow(opened.store, filter_, after_seq):
        if event is not None:
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
