"""`emailerctl suppressions`: addresses that are not sent to, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.completion import complete_suppressed
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes
from emailerctl.models.page import Page
from emailerctl.store.base import Blocks, Suppression

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

app = Typer(help="Addresses that are not sent to: list, add, rm, import, export.")

Address = Annotated[
    str,
    Argument(
        metavar="ADDRESS",
        help="The address, without a name.",
        autocompletion=complete_suppressed,
    ),
]
ForService = Annotated[
    str, Option("--service", metavar="NAME", help="For this service only; else for all.")
]


@app.command("list")
def list_(
    ctx: Context,
    prefix: Annotated[
        str, Argument(metavar="[PREFIX]", help="Addresses that begin so.", show_default=False)
    ] = "",
    service: options.Service = None,
    limit: options.Limit = options.LIMIT,
    cursor: options.Cursor = None,
) -> None:
    """List the addresses that are not sent to.

    Example: emailerctl suppressions list ann@
    """

    async def work(desk: "Desk") -> tuple[Page[Suppression], int]:
        page = await desk.list_suppressions(
            service=service, prefix=prefix, cursor=cursor, limit=limit
        )
        return page, desk.now_ms()

    page, now_ms = session.ask(ctx, work)

    def row(one: Suppression) -> list[Cell]:
        return [
            one.address,
            one.service or "(all)",
            one.reason,
            one.blocks,
            one.detail,
            Moment(one.created_ms, now_ms),
            Moment(one.expires_ms, now_ms),
            one.actor,
        ]

    output.listing(
        "Suppressions",
        ("address", "service", "reason", "blocks", "detail", "since", "until", "by"),
        page.data,
        shape=shapes.suppression_shape,
        row=row,
        next_cursor=page.next_cursor,
        name="address",
    )


@app.command()
def add(
    ctx: Context,
    address: Address,
    service: ForService = "",
    reason: Annotated[
        str,
        Option(
            metavar="WORD",
            help="complaint and unsubscribe keep back what has list_unsubscribe; others all.",
        ),
    ] = "manual",
    detail: Annotated[str, Option(metavar="TEXT", help="Kept with it.")] = "",
    duration_ms: Annotated[
        int | None,
        Option(
            "--for",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="End by itself: 30d.",
        ),
    ] = None,
) -> None:
    """Send nothing more to an address; what is queued for it fails when its turn comes.

    Example: emailerctl suppressions add ann@example.org --detail "asked by phone"
    """

    async def work(desk: "Desk") -> Suppression:
        return await desk.suppress(
            address, service, reason=reason, detail=detail, lasting_ms=duration_ms
        )

    made = session.ask(ctx, work)
    output.result(f"suppressed {made.address}", shapes.suppression_shape(made))


@app.command("rm")
def remove(
    ctx: Context,
    address: Address,
    service: ForService = "",
    blocks: Annotated[
        Blocks | None,
        Option(help="Only what keeps back all mail, or only what keeps back lists; else both."),
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Send to an address again.

    After a bounce, `--blocks all` leaves alone what its owner unsubscribed from.

    Example: emailerctl suppressions rm ann@example.org --yes
    """
    output.ask(f"Send to {address} again?")

    async def work(desk: "Desk") -> str:
        return await desk.unsuppress(address, service, blocks=blocks, reason=reason or "")

    wire = session.ask(ctx, work)
    output.result(f"{wire} is sent to again", {"address": wire, "service": service or None})


@app.command("import")
def import_(
    ctx: Context,
    file: Annotated[Path, Argument(metavar="FILE", help="CSV with a header; - is stdin.")],
    reason: Annotated[
        str,
        Option(
            metavar="WORD",
            help="Of all lines: bounce, complaint, unsubscribe, manual; else as the file says.",
        ),
    ] = "",
    service: Annotated[
        str | None,
        Option(metavar="NAME", help="For this service only; else as the file says, or all."),
    ] = None,
    *,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Read everything, and change nothing.")
    ] = False,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Import the good lines although others are bad.")
    ] = False,
) -> None:
    """Import a list: our own export, or one of Mailgun, Postmark, Amazon SES, SendGrid.

    The header says which it is.  Every bad line is named; unless told to skip them, nothing is
    imported then.  What is on the list already stays as it is.

    Example: emailerctl suppressions import bounces.csv --dry-run
    """
    from emailerctl.cli.suppression_lists import Reading, import_list

    async def work(opened: "App") -> tuple[str, dict[str, object]]:
        reading = Reading(
            actor=session.build_caller().name,
            now_ms=opened.clock.now_ms(),
            reason=reason,
            service=service,
            allow_local_domains=opened.settings.limits.allow_local_domains,
        )
        return await import_list(opened, file, reading, is_rehearsal=dry_run, may_skip=skip_bad)

    output.result(*session.run(ctx, work))


@app.command()
def export(
    ctx: Context,
    service: options.Service = None,
) -> None:
    """Write the list as CSV, for import elsewhere or a spreadsheet.

    Example: emailerctl suppressions export > suppressions.csv
    """
    from emailerctl.cli.suppression_lists import export_list

    async def work(opened: "App") -> None:
        await export_list(opened, service)

    session.run(ctx, work)
