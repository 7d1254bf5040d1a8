"""`emailerctl wait`: until a message has come to what was asked for."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Context, Exit, Option

from emailerctl.cli import follow, logs, options, output, session
from emailerctl.core import shapes
from emailerctl.errors import NotFound
from emailerctl.models.event import GAP
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView
from emailerctl.models.page import EventFilter

if TYPE_CHECKING:
    from emailerctl.core.waiting import Verdict
    from emailerctl.wiring import App

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

    async def work(opened: "App") -> int:
        from emailerctl.core import operate, waiting
        from emailerctl.core.route import build_facts, explain_route

        views = []
        for message in ids:  # all of them first: a mistyped one is no reason to wait
            view = await operate.load_message(opened.store, message, service=None)
            chain = explain_route(opened.routing, build_facts(view)).chain
            waiting.refuse_impossible(
                view, wanted, chain=chain, reporting=opened.reporting_hops
            )
            views.append(view)
        ends_ms = opened.clock.boot_ms() + (TIMEOUT_MS if timeout_ms is None else timeout_ms)
        worst = 0
        for view in views:
            left_ms = max(ends_ms - opened.clock.boot_ms(), 0)
            worst = max(worst, await wait_for(opened, view.message_id, wanted, left_ms))
        return worst

    code = session.run(ctx, work)
    if code:
        raise Exit(code)


async def wait_for(
    opened: "App", message_id: int, wanted: Collection[State], limit_ms: int
) -> int:
    """Follow a message until it is in *wanted*, or never will be; return the exit code."""
    import asyncio

    from emailerctl.core.waiting import Verdict, judge

    try:
        async with asyncio.timeout(limit_ms / 1000):
            view, verdict = await _find_end(opened, message_id, wanted)
    except TimeoutError:
        view = await _load(opened, message_id)
        verdict = judge(view, wanted, reporting=opened.reporting_hops)
    public = to_public(MESSAGE, message_id)
    output.result(f"{view.state} {public}", shapes.message_shape(view))
    if verdict is Verdict.OPEN:
        output.error(
            f"after {limit_ms / 1000:g} s it is {view.state}",
            hint=f"emailerctl logs --follow --message {public}",
        )
        return _TIMED_OUT
    return 0 if verdict is Verdict.REACHED else _ENDED_OTHERWISE


async def _find_end(
    opened: "App", message_id: int, wanted: Collection[State]
) -> "tuple[MessageView, Verdict]":
    from emailerctl.core.waiting import Verdict, judge

    async for event in follow.follow(opened.store, EventFilter(message_id=message_id), 0):
        if event is None:
            view = await _load(opened, message_id)
            verdict = judge(view, wanted, reporting=opened.reporting_hops)
            if verdict is not Verdict.OPEN:
                return view, verdict
        elif event.type != GAP:
            output.note("".join(piece for piece, _style in logs.build_line(event)).rstrip())
    raise AssertionError  # following never ends by itself


async def _load(opened: "App", message_id: int) -> MessageView:
    view = await opened.store.find_message(message_id)
    if view is None:
        raise NotFound(f"{to_public(MESSAGE, message_id)} was removed by retention")
    return view
