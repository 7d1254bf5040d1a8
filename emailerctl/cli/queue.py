"""`emailerctl queue`: what waits, in numbers and by name; pause and resume."""

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Context, Option, Typer

from emailerctl.cli import messages, options, output, session
from emailerctl.core import shapes
from emailerctl.models.clock import to_text
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.message import MessageView
from emailerctl.models.page import MessageFilter, Page
from emailerctl.store.base import Pause, QueueStats

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

app = Typer(help="The queue: list, stats, pause, resume.")

MEANINGS = (
    ("ready", "due now"),
    ("scheduled", "not before its time"),
    ("retrying", "was refused for now, due again later"),
    ("waiting", "every next hop of its chain is shut"),
    ("sending", "the last byte may have left"),
    ("held", "until an operator releases it"),
    ("unknown", "recipients in doubt"),
)


@app.command("list")
def list_(
    ctx: Context,
    state: Annotated[
        Literal["queued", "sending"], Option(help="Waiting, or past the last byte.")
    ] = "queued",
    waiting_for: Annotated[WaitingFor | None, Option(help="Waiting for this only.")] = None,
    limit: options.Limit = options.LIMIT,
    cursor: options.Cursor = None,
) -> None:
    """List the messages that are queued, newest first.

    Example: emailerctl queue list --waiting-for retry
    """

    async def work(desk: "Desk") -> tuple[Page[MessageView], int]:
        filter_ = MessageFilter(state=State(state), waiting_for=waiting_for)
        return await desk.list_messages(filter_, cursor=cursor, limit=limit), desk.now_ms()

    page, now_ms = session.ask(ctx, work)
    messages.write_page("Queue", page, now_ms)


@app.command()
def stats(ctx: Context) -> None:
    """Count what waits.

    Example: emailerctl queue stats -o json
    """

    async def work(desk: "Desk") -> tuple[QueueStats, int]:
        return await desk.queue_stats(), desk.now_ms()

    found, now_ms = session.ask(ctx, work)
    shape = shapes.stats_shape(found)
    if output.form() is not output.Form.TABLE:
        output.result("", shape)
        return
    output.table(
        "Queue",
        ("what", "count", "meaning"),
        [[name, getattr(found, name), meaning] for name, meaning in MEANINGS],
    )
    if found.oldest_due_ms is not None:
        output.note(f"the oldest was due {output.ago(found.oldest_due_ms, now_ms)}")
    if found.pause:
        output.note(describe_pause(found.pause))


@app.command()
def pause(
    ctx: Context,
    duration_ms: Annotated[
        int | None,
        Option(
            "--for",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="End by itself: 30m.",
        ),
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Stop handing over: messages are accepted and wait; what is under way is finished.

    Example: emailerctl queue pause --for 30m --reason "relay moves"
    """

    async def work(opened: "App") -> Pause:
        now_ms = opened.clock.now_ms()
        until_ms = None if duration_ms is None else now_ms + duration_ms
        one = Pause(
            since_ms=now_ms,
            until_ms=until_ms,
            actor=session.build_caller().name,
            reason=reason or "",
        )
        await opened.store.pause(one)
        return one

    made = session.run(ctx, work)
    output.result(describe_pause(made), shapes.pause_shape(made))


@app.command()
def resume(ctx: Context) -> None:
    """End the pause.

    Example: emailerctl queue resume
    """

    async def work(opened: "App") -> bool:
        actor = session.build_caller().name
        return await opened.store.resume(actor=actor, now_ms=opened.clock.now_ms())

    was_paused = session.run(ctx, work)
    text = "the queue runs again" if was_paused else "the queue was not paused"
    output.result(text, {"changed": was_paused})


def describe_pause(one: Pause) -> str:
    """Return a sentence about the pause in force."""
    end = (
        f"until {to_text(one.until_ms)}" if one.until_ms is not None else "until it is resumed"
    )
    why = f": {one.reason}" if one.reason else ""
    return f"the queue is paused {end}, by {one.actor} since {to_text(one.since_ms)}{why}"
