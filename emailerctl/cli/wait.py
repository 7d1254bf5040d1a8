"""`emailerctl wait`: until a message has come to what was asked for."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Context, Exit, Option

from emailerctl.cli import logs, options, output, session
from emailerctl.core import shapes
from emailerctl.models.clock import SystemClock
from emailerctl.models.event import GAP
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.core.waiting import Verdict

TIMEOUT_MS = 60_000
_ENDED_OTHERWISE = 65
_TIMED_OUT = 75


def _parse_states(text: str) -> str:
    """Check a list of states; it stays text, which a default value of an option can be."""
    for word in text.split(","):
        if word.strip() not in set(State):
            names = ", ".join(State)
            raise BadParameter(f"{word.strip()!r} is no state; there are {names}")
    return text


def wait(
    ctx: Context,
    messages: options.MessageIds,
    states: Annotated[
        str,
        Option(
            "--for",
            metavar="STATE,…",
            parser=_parse_states,
            help="What every recipient must have come to.",
            show_default=True,
        ),
    ] = "sent",
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="For all of them; 60s unless given.",
        ),
    ] = None,
) -> None:
    """Wait until every recipient is in one of the states; delivered counts as sent.

    Exits 0 when it is so, 65 when it ended otherwise, 75 when the time is over.  What can't
    happen is refused at once: `delivered`, where no next hop reports.

    Example: emailerctl wait 1C6K9Q --for delivered,failed --timeout 30s
    """
    wanted = frozenset(State(word.strip()) for word in states.split(","))
    ids = list(session.read_ids(messages))

    async def work(desk: "Desk") -> int:
        from emailerctl.core import waiting

        reporting = await desk.find_reporting()
        views = []
        for message in ids:  # all of them first: a mistyped one is no reason to wait
            view = await desk.load_message(message)
            route = desk.explain_route(view)
            if route is not None:
                waiting.refuse_impossible(view, wanted, chain=route.chain, reporting=reporting)
            views.append(view)
        clock = SystemClock()
        ends_ms = clock.boot_ms() + (TIMEOUT_MS if timeout_ms is None else timeout_ms)
        worst = 0
        for view in views:
            left_ms = max(ends_ms - clock.boot_ms(), 0)
            worst = max(worst, await wait_for(desk, view.message_id, wanted, left_ms))
        return worst

    code = session.ask(ctx, work)
    if code:
        raise Exit(code)


async def wait_for(
    desk: "Desk", message_id: int, wanted: Collection[State], limit_ms: int
) -> int:
    """Follow a message until it is in *wanted*, or never will be; return the exit code."""
    import asyncio

    from emailerctl.core.waiting import Verdict, judge

    public = to_public(MESSAGE, message_id)
    reporting = await desk.find_reporting()
    try:
        async with asyncio.timeout(limit_ms / 1000):
            view, verdict = await _find_end(desk, message_id, wanted, reporting)
    except TimeoutError:
        view = await desk.load_message(public)
        verdict = judge(view, wanted, reporting=reporting)
    output.result(f"{view.state} {public}", shapes.message_shape(view))
    if verdict is Verdict.OPEN:
        output.error(
            f"after {limit_ms / 1000:g} s it is {view.state}",
            hint=f"emailerctl logs --follow --message {public}",
        )
        return _TIMED_OUT
    return 0 if verdict is Verdict.REACHED else _ENDED_OTHERWISE


async def _find_end(
    desk: "Desk", message_id: int, wanted: Collection[State], reporting: Collection[str]
) -> "tuple[MessageView, Verdict]":
    from emailerctl.core.waiting import Verdict, judge

    seen: tuple[MessageView, Verdict] | None = None
    async for event in desk.follow_message(message_id):
        if event is None:
            # Once more after the end was seen: its event may be newer than the last look.
            if seen is not None and seen[1] is not Verdict.OPEN:
                return seen
            view = await desk.load_message(to_public(MESSAGE, message_id))
            seen = view, judge(view, wanted, reporting=reporting)
        elif event.type != GAP:
            output.note("".join(piece for piece, _style in logs.build_line(event)).rstrip())
    raise AssertionError  # following never ends by itself
