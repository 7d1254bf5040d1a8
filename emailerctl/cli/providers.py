"""`emailerctl providers`: the next hops and whether they take mail."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Moment
from emailerctl.core import shapes
from emailerctl.errors import NotFound
from emailerctl.providers.base import CheckResult
from emailerctl.store.base import HopState, NextHop

if TYPE_CHECKING:
    from emailerctl.wiring import App

app = Typer(help="Next hops: list, check, enable, disable.")

_REFUSED = 69
_CHECK_MS = 60_000

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

    async def work(opened: "App") -> list[CheckResult]:
        known = {hop.name: hop for hop, _kind, _default in await find_hops(opened)}
        if name not in opened.tables:
            raise _build_not_found(name, opened.tables)
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
            raise _build_not_found(name, known)
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


def _build_not_found(name: str, known: Iterable[str]) -> NotFound:
    near = difflib.get_close_matches(name, known, 1)
    return NotFound(
        f"there is no next hop {name}",
        hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
    )
