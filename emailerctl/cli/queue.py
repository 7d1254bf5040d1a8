"""`emailerctl queue`: what waits, in numbers and by name; pause and resume."""

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Context, Option, Typer

from emailerctl.cli import messages, options, output, session
from emailerctl.core import shapes
from emailerctl.core.brokers import BrokerFacts
from emailerctl.errors import NotFound, TimedOut
from emailerctl.models.clock import to_text
from emailerctl.models.doorbell import FOREIGN, ForeignMessage, Use
from emailerctl.models.ids import parse_public, to_public
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.message import MessageView
from emailerctl.models.page import MessageFilter, Page
from emailerctl.store.base import Pause, QueueStats

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

app = Typer(help="The queue: list, stats, pause, resume, drain; foreign messages.")

_DRAIN_MS = 660_000  # final_reply, and a minute
_POLL_S = 0.2

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

    async def work(desk: "Desk") -> tuple[QueueStats, BrokerFacts | None, int]:
        return await desk.queue_stats(), await desk.find_broker(), desk.now_ms()

    found, broker, now_ms = session.ask(ctx, work)
    shape = {**shapes.stats_shape(found), "broker": broker.shape() if broker else None}
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
    if broker:
        _write_broker(broker)


def _write_broker(broker: BrokerFacts) -> None:
    output.table(
        "ForestMQ",
        ("url", "carries", "topics", "health", "queued"),
        [
            [
                source.url,
                source.use,
                ", ".join(source.topics),
                source.detail.removeprefix(f"{source.url}: ") or "ok",
                "" if source.length is None else source.length,
            ]
            for source in broker.sources
        ],
    )
    counts = broker.counts
    uses = {source.use for source in broker.sources}
    if Use.DOORBELLS in uses:
        output.note(
            f"in a day: {counts.rung} doorbells rung, {counts.taken} taken out, {counts.lost} "
            f"lost, {counts.take_failed} takes failed; {counts.direct} messages taken without "
            f"one; foreign ones kept: {broker.foreign}"
        )
        output.note(f"fallback: {'on' if broker.is_falling_back else 'off'}")
    if Use.JOBS in uses:
        output.note(
            f"in a day: {counts.jobs_kept} jobs kept, {counts.jobs_accepted} accepted, "
            f"{counts.jobs_unsigned} of them unsigned, {counts.jobs_rejected} rejected, "
            f"{counts.jobs_take_failed} takes failed; in the inbox: {broker.inbox.waiting} "
            f"waiting, {broker.inbox.rejected} rejected"
        )
    for source in broker.refused:
        output.warn(f"{source.url} refuses our name for it: 403 by a wrong --hosts")
    if not broker.alive:
        output.warn("no consumer and no API has reported lately")
    if broker.is_falling_back:
        output.warn("fallback: consumers ask the store, since ForestMQ is of no use")


@app.command()
def foreign(
    ctx: Context, limit: options.Limit = options.LIMIT, cursor: options.Cursor = None
) -> None:
    """List what came out of ForestMQ and is not for us: it is taken out, so it is kept here.

    Example: emailerctl queue foreign -o jsonl
    """

    async def work(opened: "App") -> tuple[Page[ForeignMessage], int]:
        page = await opened.store.list_foreign(cursor=cursor, limit=limit)
        return page, opened.clock.now_ms()

    page, now_ms = session.run(ctx, work)
    output.listing(
        "Foreign messages",
        ("id", "since", "topic", "why", "url", "body"),
        page.data,
        shape=ForeignMessage.shape,
        row=lambda one: [
            to_public(FOREIGN, one.foreign_id),
            output.Moment(one.at_ms, now_ms),
            one.topic,
            one.reason,
            one.url,
            one.body,
        ],
        next_cursor=page.next_cursor,
    )


@app.command()
def discard(
    ctx: Context,
    ids: Annotated[
        list[str], Argument(metavar="ID…", help="Foreign messages; - reads them from input.")
    ],
) -> None:
    """Remove foreign messages for good.

    Example: emailerctl queue foreign -o id | emailerctl queue discard - --yes
    """
    words = list(session.read_ids(ids))
    numbers = [parse_public(FOREIGN, word) for word in words]
    strange = [word for word, number in zip(words, numbers, strict=True) if number is None]
    if strange:
        raise NotFound(f"{strange[0]} is no foreign message; see: emailerctl queue foreign")
    output.ask(f"Remove {len(words)} foreign messages for good?")

    async def work(opened: "App") -> int:
        return await opened.store.end_foreign([one for one in numbers if one is not None])

    count = session.run(ctx, work)
    if not count:
        raise NotFound("there is no such foreign message")
    output.result(f"removed {count}", {"removed": count})


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
def drain(
    ctx: Context,
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="How long to wait; 11m unless given, since an answer may take ten.",
        ),
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Stop handing over, and return when nothing is in flight; the queue stays paused.

    Exits 75 when something is still in flight at the end of the time.

    Example: emailerctl queue drain --timeout 2m --reason "kernel update"
    """
    from asyncio import sleep

    async def work(opened: "App") -> tuple[int, bool]:
        store, clock = opened.store, opened.clock
        now_ms = clock.now_ms()
        actor = session.build_caller().name
        if await store.find_pause(now_ms=now_ms) is None:
            await store.pause(
                Pause(since_ms=now_ms, until_ms=None, actor=actor, reason=reason or "drain")
            )
        ends_ms = clock.boot_ms() + (_DRAIN_MS if timeout_ms is None else timeout_ms)
        most = left = await store.count_in_flight()
        with output.progress("Draining") as show:
            while left and clock.boot_ms() < ends_ms:
                show(most - left, most)
                await sleep(_POLL_S)
                left = await store.count_in_flight()
                most = max(most, left)
        return left, bool(await store.list_consumers())

    left, has_consumers = session.run(ctx, work)
    shape = {"paused": True, "in_flight": left}
    if left:
        output.result(f"{left} messages are still in flight; the queue stays paused", shape)
        hint = "wait longer: --timeout 11m" if has_consumers else (
            "no consumer is there: a daemon that starts ends the leases of the dead ones"
        )  # fmt: skip
        raise TimedOut(f"{left} messages are still in flight", hint=hint)
    output.result("nothing is in flight; the queue is paused: emailerctl queue resume", shape)


@app.command()
def resume(ctx: Context, reason: options.Reason = None) -> None:
    """End the pause.

    Example: emailerctl queue resume
    """

    async def work(opened: "App") -> bool:
        actor = session.build_caller().name
        now_ms = opened.clock.now_ms()
        return await opened.store.resume(actor=actor, now_ms=now_ms, reason=reason or "")

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
