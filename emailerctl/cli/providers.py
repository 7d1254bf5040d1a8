"""`emailerctl providers`: the next hops and whether they take mail."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.completion import complete_hop
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes
from emailerctl.core.hop_view import HopView, list_hop_views
from emailerctl.providers.base import CheckResult
from emailerctl.store.base import BreakerState, HopState

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

app = Typer(help="Next hops: list, check, enable, disable.")

_REFUSED = 69
_CHECK_MS = 60_000

HopName = Annotated[
    str,
    Argument(metavar="NAME", help="As in [providers.NAME].", autocompletion=complete_hop),
]


async def find_hops(opened: "App") -> list[HopView]:
    """Return every next hop."""
    now_ms = opened.clock.now_ms()
    return await list_hop_views(opened.store, opened.describe_hops(), now_ms=now_ms)


@app.command("list")
def list_(ctx: Context) -> None:
    """List the next hops: what they are set to, whether they work, how much they take.

    The state is open, paused (by the program, with the reason) or disabled; the breaker is
    closed while a next hop works, open while it is left alone, half_open while it is tried.

    Example: emailerctl providers list
    """

    async def work(desk: "Desk") -> tuple[Sequence[HopView], int]:
        return await desk.list_hops(), desk.now_ms()

    found, now_ms = session.ask(ctx, work)
    output.listing(
        "Next hops",
        (
            *("name", "kind", "state", "breaker", "until", "failures", "rate", "used"),
            *("default", "reason", "since", "by"),
        ),
        found,
        shape=shapes.next_hop_shape,
        row=lambda view: _row(view, now_ms),
        name="name",
    )


def _row(view: HopView, now_ms: int) -> list[Cell]:
    hop, breaker = view.hop, view.breaker
    rate = view.facts.bounds.rate
    is_open = breaker.state is BreakerState.OPEN
    since_ms = hop.changed_ms
    if hop.state is HopState.OPEN and breaker.state is not BreakerState.CLOSED:
        since_ms = breaker.since_ms
    return [
        hop.name,
        view.facts.kind or "(not in the settings)",
        hop.state,
        breaker.state,
        output.show_time(breaker.until_ms, "%H:%M:%S") if is_open else None,
        breaker.failures or None,
        None if rate is None else str(rate),
        None if rate is None else f"{view.used}/m",
        view.facts.is_default,
        hop.reason or breaker.reason,
        Moment(since_ms or None, now_ms),
        hop.actor,
    ]


@app.command()
def check(
    ctx: Context,
    name: HopName,
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="For all of it; 60s unless given.",
        ),
    ] = None,
) -> None:
    """Talk to a next hop without sending: what works, what does not, and the cure.

    Exits 69 when something is bad.

    Example: emailerctl providers check relay
    """
    from emailerctl.cli.desk import build_hop_not_found

    async def work(opened: "App") -> list[CheckResult]:
        known = {view.hop.name: view for view in await find_hops(opened)}
        if name not in opened.tables:
            raise build_hop_not_found(name, opened.tables)
        return await opened.check_hop(known[name], within_s=(timeout_ms or _CHECK_MS) / 1000)

    results = session.run(ctx, work)
    output.listing(
        f"Next hop {name}",
        ("looked at", "is", "detail", "cure"),
        results,
        shape=lambda one: {
            "name": one.name,
            "good": one.is_good,
            "detail": one.detail,
            "cure": one.cure or None,
        },
        row=lambda one: [one.name, "good" if one.is_good else "BAD", one.detail, one.cure],
        name="name",
    )
    bad = [one.name for one in results if not one.is_good]
    if bad:
        output.error(f"{name}: {', '.join(bad)}", hint="the table says what cures it")
        raise Exit(_REFUSED)


@app.command()
def enable(ctx: Context, name: HopName, reason: options.Reason = None) -> None:
    """Let a next hop take mail again, its breaker too; what waits for it is due now.

    Example: emailerctl providers enable relay
    """
    _set(ctx, name, HopState.OPEN, reason)


@app.command()
def disable(ctx: Context, name: HopName, reason: options.Reason = None) -> None:
    """Give a next hop nothing more: the next in the chain takes over, or messages wait.

    Example: emailerctl providers disable relay --reason "moves tonight"
    """
    _set(ctx, name, HopState.DISABLED, reason)


def _set(ctx: Context, name: str, state: HopState, reason: str | None) -> None:
    async def work(desk: "Desk") -> HopView:
        return await desk.set_hop(name, state, reason=reason or "")

    view = session.ask(ctx, work)
    shape = shapes.next_hop_shape(view)
    output.result(f"{name} is {view.hop.state}", shape | {"id": name})
