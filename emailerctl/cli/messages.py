"""`emailerctl messages`, `show`, `retry`: look at messages, and act on them."""

from typing import TYPE_CHECKING, Annotated

from typer import Context, Option, Typer

from emailerctl.cli import message_export, options, output, session
from emailerctl.cli.orders import Command, Query, act
from emailerctl.cli.output import Cell, Form, Moment
from emailerctl.core import shapes
from emailerctl.errors import UsageError
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.message import AttemptView, MessageView, RecipientView
from emailerctl.models.page import MessageFilter, Page
from emailerctl.store.base import Verb

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.core.route import Route

app = Typer(help="Messages: list, show, cancel, hold, release, reschedule, export, redact.")

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
    async def work(desk: "Desk") -> bytes:
        return await desk.load_raw(message)

    output.write_raw(session.ask(ctx, work))


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
        ("accepted", say_when(view.created_ms, now_ms)),
        ("expires", say_when(view.expires_ms, now_ms)),
        ("if in doubt", view.on_unknown),
        ("provider", view.provider),
        ("next hops", _describe_route(route) if view.state is State.QUEUED else ""),
        ("template", f"{view.template} {view.template_version}".strip()),
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
        f"due {say_when(recipient.due_ms, now_ms)}" if recipient.due_ms is not None else "",
        f"attempt {recipient.attempt}" if recipient.attempt else "",
        f"via {recipient.provider}" if recipient.provider else "",
        say_when(recipient.changed_ms, now_ms),
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


def say_when(moment_ms: int | None, now_ms: int) -> str:
    """Return a moment and how far off it is; empty where there is none."""
    if moment_ms is None:
        return ""
    return f"{to_text(moment_ms)} ({output.ago(moment_ms, now_ms)})"


# Acting

_CANCEL = Command(
    verb=Verb.CANCEL,
    question="Cancel {whom}?",
    hint="give ids, or --tag, --to, --provider, --service, --since, --until or --all",
    asks_of_one=True,
)
_HOLD = Command(verb=Verb.HOLD, question="Hold {whom}?", hint=_CANCEL.hint)
_RELEASE = Command(verb=Verb.RELEASE, question="Let {whom} go?", hint=_CANCEL.hint)
_RESCHEDULE = Command(
    verb=Verb.RESCHEDULE,
    question="Set another time for {whom}?",
    hint="name them by id, or - for ids from the standard input",
)
_RETRY = Command(
    verb=Verb.RETRY,
    question="Queue {whom} again?",
    hint="give ids, or --failed, --bounced (and --since, --provider, …)",
)


@app.command()
def cancel(
    ctx: Context,
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    all_: options.All = False,
    dry_run: options.DryRun = False,
) -> None:
    """Withdraw queued or held messages, for good; what has left is not touched.

    Example: emailerctl messages cancel 1C6K9Q --reason "wrong price"

    Example: emailerctl messages cancel --tag newsletter-47 --dry-run
    """
    query = Query(
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
        is_all=all_,
    )  # fmt: skip
    fields = {"recipients": recipients, "reason": reason}
    act(ctx, _CANCEL, messages, query, fields, is_rehearsal=dry_run)


@app.command()
def hold(
    ctx: Context,
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    all_: options.All = False,
    dry_run: options.DryRun = False,
) -> None:
    """Park queued messages until they are released.

    Example: emailerctl messages hold 1C6K9Q --reason "legal asks"
    """
    query = Query(
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
        is_all=all_,
    )  # fmt: skip
    fields = {"recipients": recipients, "reason": reason}
    act(ctx, _HOLD, messages, query, fields, is_rehearsal=dry_run)


@app.command()
def release(
    ctx: Context,
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    all_: options.All = False,
    dry_run: options.DryRun = False,
) -> None:
    """Let held messages go.

    Example: emailerctl messages list --state held -o id | emailerctl messages release -
    """
    query = Query(
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
        is_all=all_,
    )  # fmt: skip
    fields = {"recipients": recipients, "reason": reason}
    act(ctx, _RELEASE, messages, query, fields, is_rehearsal=dry_run)


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
    fields = {"send_at": send_at, "send_in": send_in, "reason": reason}
    act(ctx, _RESCHEDULE, messages, Query(), fields)


def retry(
    ctx: Context,
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    expires_in: Annotated[
        str | None,
        Option(metavar="DURATION", help="A new expiry, for messages that have expired: 1h."),
    ] = None,
    failed: Annotated[bool, Option("--failed", help="Recipients that were given up.")] = False,
    bounced: Annotated[
        bool, Option("--bounced", help="Recipients that were refused for good.")
    ] = False,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    dry_run: options.DryRun = False,
) -> None:
    """Queue failed, bounced or cancelled messages again; queued ones are due now.

    Goes on after a refusal and exits with the worst code. What may have gone out is refused:
    see emailerctl unknown resend.

    Example: emailerctl retry 1C6K9Q --reason "mailbox was full"

    Example: emailerctl retry --failed --since 1h --provider relay --dry-run
    """
    states = {State.FAILED: failed, State.BOUNCED: bounced}
    query = Query(
        states=frozenset(state for state, is_meant in states.items() if is_meant),
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
    )  # fmt: skip
    if query.is_given and not query.states:
        raise UsageError("which recipients shall be queued again?", hint=_RETRY.hint)
    fields = {"recipients": recipients, "reason": reason, "expires_in": expires_in}
    act(ctx, _RETRY, messages, query, fields, is_rehearsal=dry_run)


app.command("export")(message_export.export)
app.command("redact")(message_export.redact)
