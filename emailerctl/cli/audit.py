"""`emailerctl audit`: what operators did, who, when and why."""

from typing import TYPE_CHECKING, Annotated

from typer import Context, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes
from emailerctl.models.page import Page
from emailerctl.store.base import DeedFilter, DeedView

if TYPE_CHECKING:
    from emailerctl.wiring import App

app = Typer(help="The audit trail: list.")


@app.command("list")
def list_(
    ctx: Context,
    actor: Annotated[
        str, Option("--by", metavar="NAME", help="By this token, or local user.")
    ] = "",
    verb: Annotated[
        str,
        Option(metavar="VERB", help="message.cancel, queue.pause, …; or a noun: token, store."),
    ] = "",
    message: Annotated[str | None, Option(metavar="ID", help="About this message.")] = None,
    since: Annotated[
        int | None,
        Option(
            metavar="WHEN", parser=options.parse_since, help="From there on: 10m, or RFC 3339."
        ),
    ] = None,
    limit: options.Limit = options.LIMIT,
    cursor: options.Cursor = None,
) -> None:
    """List what operators did, newest first: by the command line and by tokens.

    Example: emailerctl audit list --since 1d

    Example: emailerctl audit list --verb token -o jsonl
    """
    from emailerctl.core import operate

    async def work(opened: "App") -> tuple[Page[DeedView], int]:
        now_ms = opened.clock.now_ms()
        filter_ = DeedFilter(
            actor=actor,
            verb=verb,
            message_id=await operate.resolve_id(opened.store, message, service=None)
            if message
            else None,
            since_ms=options.to_moment(since, now_ms),
        )
        page = await opened.store.list_deeds(filter_, cursor=cursor, limit=limit)
        return page, now_ms

    page, now_ms = session.run(ctx, work)

    def row(view: DeedView) -> list[Cell]:
        deed = view.deed
        more = ", ".join(f"{name} {_show(value)}" for name, value in deed.data.items())
        return [
            view.deed_id,
            Moment(view.at_ms, now_ms),
            deed.actor,
            deed.verb,
            deed.subject,
            deed.reason,
            more,
        ]

    output.listing(
        "What operators did",
        ("id", "when", "who", "what", "to what", "why", "details"),
        page.data,
        shape=shapes.deed_shape,
        row=row,
        next_cursor=page.next_cursor,
    )


def _show(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
