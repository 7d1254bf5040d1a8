"""`emailerctl messages`, `show`, `retry`: look at messages, and act on them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option, Typer

from emailerctl.cli import errors, options, output, session
from emailerctl.cli.output import Cell, Form, Moment
from emailerctl.core import shapes
from emailerctl.errors import EmailerError, NotFound
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.message import AttemptView, MessageView, RecipientView
from emailerctl.models.page import MessageFilter, Page
from emailerctl.store.base import OrderResult, Verb

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.core.route import Route
    from emailerctl.wiring import App

app = Typer(help="Messages: list, show, cancel, hold, release, reschedule.")

_DONE = {
    Verb.CANCEL: "cancelled",
    Verb.HOLD: "held",
    Verb.RELEASE: "released",
    Verb.RETRY: "queued",
    Verb.RESOLVE: "resolved",
    Verb.RESCHEDULE: "rescheduled",
}
COLUMNS = ("id", "state", "accepted", "to", "subject", "from", "details")


@app.command("list")
def list_(
    ctx: Context,
    state: Annotated[State | None, Option(help="In this state.")] = None,
    waiting_for: Annotated[
        WaitingFor | None, Option(help="Queued, and waiting for this.")
    ] = None,
    to: Annotated[str, Option(metavar="ADDRESS", help="To this recipient.")] = "",
    sender: Annotated[str, Option("--from", metavar="ADDRESS", help="From this address.")] = "",
    tag: Annotated[str, Option(metavar="TAG", help="With this tag.")] = "",
    provider: Annotated[str, Option(metavar="NAME", help="Through this next hop.")] = "",
    service: options.Service = None,
    since: Annotated[
        int | None,
        Option(
            metavar="WHEN", parser=options.parse_since, help="Accepted since: 1h, or RFC 3339."
        ),
    ] = None,
    until: Annotated[
        int | None,
        Option(metavar="WHEN", parser=options.parse_since, help="Accepted before: likewise."),
    ] = None,
    search: Annotated[
        str,
        Option(
            metavar="TEXT", help="An id, or the beginning of an address, tag, subject's word."
        ),
    ] = "",
    limit: options.Limit = options.LIMIT,
    cursor: options.Cursor = None,
) -> None:
    """List messages, newest first.

    Example: emailerctl messages list --state failed --since 1h
    """

    async def work(desk: "Desk") -> tuple[Page[MessageView], int]:
        now_ms = desk.now_ms()
        filter_ = MessageFilter(
            state=state,
            waiting_for=waiting_for,
            recipient=to,
            header_from=sender,
            tag=tag,
            provider=provider,
            service=service or "",
            since_ms=options.to_moment(since, now_ms),
            until_ms=options.to_moment(until, now_ms),
            q=search,
        )
        return await desk.list_messages(filter_, cursor=cursor, limit=limit), now_ms

    page, now_ms = session.ask(ctx, work)
    write_page("Messages", page, now_ms)


def write_page(title: str, page: Page[MessageView], now_ms: int) -> None:
    """Write a page of messages."""
    output.listing(
        title,
        COLUMNS,
        page.data,
        shape=lambda view: shapes.message_shape(view, with_attempts=False),
        row=lambda view: _row(view, now_ms),
        next_cursor=page.next_cursor,
    )


def _row(view: MessageView, now_ms: int) -> list[Cell]:
    first, others = view.recipients[0], len(view.recipients) - 1
    shown = next((r for r in view.recipients if r.state is view.state), first)
    why = shown.reason or shown.waiting_for or ""
    due = Moment(shown.due_ms, now_ms)
    details = [
        f"{why} {output.show_moment(due)}" if why in {"retry", "send_at"} else why,
        shown.reply,
    ]
    return [
        to_public(MESSAGE, view.message_id),
        view.state,
        Moment(view.created_ms, now_ms),
        shown.address + (f" +{others}" if others else ""),
        view.subject,
        view.header_from,
        ": ".join(filter(None, details)),
    ]


def show(
    ctx: Context,
    message: options.MessageId,
    dialogue: Annotated[
        bool, Option("--dialogue", help="And what was said with the next hop.")
    ] = False,
    raw: Annotated[
        bool, Option("--raw", help="The bytes of the message, nothing else.")
    ] = False,
) -> None:
    """Show a message: its recipients, its attempts, the last reply to each.

    Example: emailerctl show 1C6K9Q
    """
    if raw:
        _show_raw(ctx, message)
        return

    async def work(desk: "Desk") -> tuple[MessageView, "Route | None", int]:
        view = await desk.load_message(message)
        return view, desk.explain_route(view), desk.now_ms()

    view, route, now_ms = session.ask(ctx, work)
    if output.form() is Form.TABLE:
        write_message(view, now_ms, route=route, has_dialogue=dialogue)
    else:
        output.result("", shapes.message_shape(view))


app.command("show")(show)


def _show_raw(ctx: Context, message: str) -> None:
    from emailerctl.core import operate

    async def work(opened: "App") -> bytes | None:
        message_id = await operate.resolve_id(opened.store, message, service=None)
        return await opened.store.load_raw(message_id)

    octets = session.run(ctx, work)
    if octets is None:
        raise NotFound(
            "the content of this message was removed",
            hint="[retention] content says how long it is kept",
        )
    output.write_raw(octets)


def write_message(
    view: MessageView,
    now_ms: int,
    *,
    route: "Route | None" = None,
    has_dialogue: bool = False,
) -> None:
    """Write all about a message, for people; *route* is where it goes if it goes now."""
    public = to_public(MESSAGE, view.message_id)
    kind = "   test" if view.is_test else ""
    output.write_painted(
        [(public, "bold"), ("  ", ""), (view.state, output.COLOURS[view.state]), (kind, "dim")]
    )
    for name, value in (
        ("subject", view.subject),
        ("from", view.header_from),
        (
            "bounces to",
            view.envelope_sender if view.envelope_sender != view.header_from else "",
        ),
        ("service", view.service),
        ("accepted", _at(view.created_ms, now_ms)),
        ("expires", _at(view.expires_ms, now_ms)),
        ("if in doubt", view.on_unknown),
        ("provider", view.provider),
        ("next hops", _describe_route(route) if view.state is State.QUEUED else ""),
        ("tags", ", ".join(view.tags)),
        ("metadata", ", ".join(f"{key}={value}" for key, value in view.metadata.items())),
        (
            "size",
            f"{view.size_bytes} bytes" + ("" if view.has_content else ", content removed"),
        ),
    ):
        if value:
            output.write_painted([(f"  {name:<12}", "dim"), (value, "")])
    output.write_painted([("recipients", "bold")])
    for recipient in view.recipients:
        _write_recipient(recipient, now_ms)
    if view.attempts:
        output.write_painted([("attempts", "bold")])
    for attempt in view.attempts:
        _write_attempt(attempt, view, has_dialogue=has_dialogue)
    if view.state is State.UNKNOWN:
        output.note(f"it may or may not have gone out: emailerctl unknown show {public}")


def _describe_route(route: "Route | None") -> str:
    if route is None:
        return ""
    return f"{', then '.join(route.chain) or 'none that there is'} ({route.reason})"


def _write_recipient(recipient: RecipientView, now_ms: int) -> None:
    details = [
        str(recipient.waiting_for or recipient.reason or ""),
        f"due {_at(recipient.due_ms, now_ms)}" if recipient.due_ms is not None else "",
        f"attempt {recipient.attempt}" if recipient.attempt else "",
        f"via {recipient.provider}" if recipient.provider else "",
        _at(recipient.changed_ms, now_ms),
    ]
    output.write_painted(
        [
            (f"  {recipient.kind:<4}", "dim"),
            (f"{recipient.address}  ", ""),
            (recipient.state, output.COLOURS[recipient.state]),
            (f"  {', '.join(filter(None, details))}", "dim"),
        ]
    )
    if recipient.reply:
        output.write_painted([(f"      {recipient.reply}", "")])


def _write_attempt(attempt: AttemptView, view: MessageView, *, has_dialogue: bool) -> None:
    took = "" if attempt.ended_ms is None else f"  {attempt.ended_ms - attempt.started_ms} ms"
    names = {r.n: r.address for r in view.recipients}
    whom = ", ".join(names.get(n, "?") for n in attempt.recipients)
    output.write_painted(
        [
            (f"  {attempt.n:<4}", "dim"),
            (f"{attempt.provider}  {attempt.outcome}", ""),
            (f" ({attempt.phase})  {to_text(attempt.started_ms)}{took}  {whom}", "dim"),
            (f"  by {attempt.route}" if attempt.route else "", "dim"),
        ]
    )
    if attempt.reply:
        output.write_painted([(f"      {attempt.reply}", "")])
    if has_dialogue and attempt.dialogue:
        for line in attempt.dialogue.splitlines():
            output.write_painted([(f"      {line}", "dim")])


def _at(moment_ms: int | None, now_ms: int) -> str:
    if moment_ms is None:
        return ""
    return f"{to_text(moment_ms)} ({output.ago(moment_ms, now_ms)})"


# Acting


@app.command()
def cancel(
    ctx: Context,
    messages: options.MessageIds,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
) -> None:
    """Withdraw queued or held messages, for good; what has left is not touched.

    Example: emailerctl messages cancel 1C6K9Q --reason "wrong price"
    """
    ids = list(session.read_ids(messages))
    output.ask(f"Cancel {_count(ids)}?")
    act(ctx, Verb.CANCEL, ids, {"recipients": recipients, "reason": reason})


@app.command()
def hold(
    ctx: Context,
    messages: options.MessageIds,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
) -> None:
    """Park queued messages until they are released.

    Example: emailerctl messages hold 1C6K9Q --reason "legal asks"
    """
    ids = list(session.read_ids(messages))
    act(ctx, Verb.HOLD, ids, {"recipients": recipients, "reason": reason})


@app.command()
def release(
    ctx: Context,
    messages: options.MessageIds,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
) -> None:
    """Let held messages go.

    Example: emailerctl messages list --state held -o id | emailerctl messages release -
    """
    ids = list(session.read_ids(messages))
    act(ctx, Verb.RELEASE, ids, {"recipients": recipients, "reason": reason})


@app.command()
def reschedule(
    ctx: Context,
    messages: options.MessageIds,
    send_at: Annotated[
        str | None, Option(metavar="WHEN", help="Not before: 2026-12-24T18:00:00+01:00.")
    ] = None,
    send_in: Annotated[
        str | None, Option(metavar="DURATION", help="Not before so long from now: 2h.")
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Set another time for queued messages; one that has passed means now.

    Example: emailerctl messages reschedule 1C6K9Q --send-in 2h
    """
    ids = list(session.read_ids(messages))
    fields = {"send_at": send_at, "send_in": send_in, "reason": reason}
    act(ctx, Verb.RESCHEDULE, ids, fields)


def retry(
    ctx: Context,
    messages: options.MessageIds,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    expires_in: Annotated[
        str | None,
        Option(metavar="DURATION", help="A new expiry, for messages that have expired: 1h."),
    ] = None,
) -> None:
    """Queue failed, bounced or cancelled messages again; queued ones are due now.

    Goes on after a refusal and exits with the worst code. What may have gone out is refused:
    see emailerctl unknown resend.

    Example: emailerctl retry 1C6K9Q --reason "mailbox was full"

    Example: emailerctl messages list --state failed --since 1h -o id | emailerctl retry -
    """
    ids = list(session.read_ids(messages))
    fields = {"recipients": recipients, "reason": reason, "expires_in": expires_in}
    act(ctx, Verb.RETRY, ids, fields)


def act(ctx: Context, verb: Verb, ids: list[str], fields: Mapping[str, object]) -> None:
    """Carry out one order for each of *ids*, saying what came of it.

    Raises:
        Exit: the worst exit code, where one was refused.
    """
    given = {name: value for name, value in fields.items() if value}
    results: list[OrderResult] = []

    async def work(desk: "Desk") -> int:
        worst = 0
        for message in ids:
            try:
                done = await desk.carry_out(verb, message, given)
            except EmailerError as error:
                if len(ids) == 1:
                    raise
                output.note(f"{message}:")
                worst = max(worst, errors.report(error))
            else:
                results.append(done)
                if output.form() is not Form.JSON:
                    output.result(_describe(verb, done), shapes.order_shape(done))
        return worst

    worst = session.ask(ctx, work)
    if output.form() is Form.JSON:
        found = [shapes.order_shape(done) for done in results]
        output.write_json(found[0] if len(ids) == 1 else shapes.listing_shape(found))
    if worst:
        raise Exit(worst)


def _describe(verb: Verb, done: OrderResult) -> str:
    changed = [r.address for r in done.recipients if r.n in done.changed]
    others = [f"{r.address} is {r.state}" for r in done.recipients if r.n not in done.changed]
    rest = f"; unchanged: {', '.join(others)}" if others else ""
    return f"{_DONE[verb]} {to_public(MESSAGE, done.message_id)}: {', '.join(changed)}{rest}"


def _count(ids: list[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{len(ids)} messages"
