"""`emailerctl providers`: the next hops and whether they take mail."""

import difflib
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Moment
from emailerctl.core import shapes
from emailerctl.errors import NotFound
from emailerctl.store.base import HopState, NextHop

if TYPE_CHECKING:
    from emailerctl.wiring import App

app = Typer(help="Next hops: list, enable, disable.")

HopName = Annotated[str, Argument(metavar="NAME", help="As in [providers.NAME].")]


async def find_hops(opened: "App") -> list[tuple[NextHop, str | None, bool]]:
    """Return every next hop, its kind (None: not in the settings), and if it is default."""
    known = {hop.name: hop for hop in await opened.store.list_next_hops()}
    kinds = {
        name: str(opened.settings.providers.get(name, {}).get("kind", name))
        for name in opened.tables
    }
    names = [*kinds, *(name for name in known if name not in kinds)]
    return [
        (
            known.get(name, NextHop(name=name, state=HopState.OPEN)),
            kinds.get(name),
            name in opened.settings.routing.default,
        )
        for name in names
    ]


@app.command("list")
def list_(ctx: Context) -> None:
    """List the next hops: open, paused (by the program, with the reason) or disabled.

    Example: emailerctl providers list
    """

    async def work(opened: "App") -> tuple[list[tuple[NextHop, str | None, bool]], int]:
        return await find_hops(opened), opened.clock.now_ms()

    found, now_ms = session.run(ctx, work)
    output.listing(
        "Next hops",
        ("name", "kind", "state", "default", "reason", "since", "by"),
        found,
        shape=lambda one: shapes.next_hop_shape(one[0], kind=one[1], is_default=one[2]),
        row=lambda one: [
            one[0].name,
            one[1] or "(not in the settings)",
            one[0].state,
            one[2],
            one[0].reason,
            Moment(one[0].changed_ms or None, now_ms),
            one[0].actor,
        ],
        name="name",
    )


@app.command()
def enable(ctx: Context, name: HopName, reason: options.Reason = None) -> None:
    """Let a next hop take mail again; what waits for it is due now.

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
    async def work(opened: "App") -> tuple[NextHop, str | None, bool]:
        known = {
            hop.name: (hop, kind, is_default)
            for hop, kind, is_default in await find_hops(opened)
        }
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise NotFound(
                f"there is no next hop {name}",
                hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
            )
        hop = NextHop(
            name=name,
            state=state,
            reason=reason or "",
            changed_ms=opened.clock.now_ms(),
            actor=session.build_caller().name,
        )
        await opened.store.set_next_hop(hop)
        return hop, *known[name][1:]

    hop, kind, is_default = session.run(ctx, work)
    shape = shapes.next_hop_shape(hop, kind=kind, is_default=is_default)
    output.result(f"{hop.name} is {hop.state}", shape | {"id": hop.name})
