"""`emailerctl unknown`: what may or may not have gone out, and how the doubt ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Context, Option, Typer

from emailerctl.cli import messages as messages_
from emailerctl.cli import options, output, session
from emailerctl.cli.orders import Command, Query, act
from emailerctl.cli.output import Cell, Form, Moment
from emailerctl.core import shapes
from emailerctl.core.answers import UnknownShape
from emailerctl.core.outlook import Doubt
from emailerctl.errors import Conflict
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView
from emailerctl.store.base import Resolution, Unknown, Verb

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk

app = Typer(help="Messages in doubt: list, show, resolve, resend.")

_MOST = 200
_QUESTIONS = {
    Resolution.SENT: "Say that it went out to {whom}?",
    Resolution.NOT_SENT: "Queue {whom} again? If it did go out, it arrives twice.",
    Resolution.RESEND: "Send to {whom} again? If it did go out, it arrives twice.",
}

Force = Annotated[
    bool, Option("--force", help="Even while a late answer may still come; needs --reason.")
]


@app.command("list")
def list_(ctx: Context, service: options.Service = None) -> None:
    """List the recipients in doubt, oldest first.

    Example: emailerctl unknown list
    """

    async def work(desk: "Desk") -> tuple[Sequence[Doubt], int]:
        return await desk.list_doubts(service=service, limit=_MOST), desk.now_ms()

    found, now_ms = session.ask(ctx, work)

    def row(doubt: Doubt) -> list[Cell]:
        one = doubt.unknown
        next_, at_ms = _find_next(one)
        return [
            to_public(MESSAGE, one.message_id),
            one.address,
            Moment(one.since_ms, now_ms),
            one.provider,
            next_,
            Moment(at_ms, now_ms),
            one.answer,
            one.subject,
        ]

    columns = ("id", "recipient", "since", "provider", "next", "when", "last answer", "subject")

    def shape(doubt: Doubt) -> UnknownShape:
        return shapes.unknown_shape(*doubt)

    output.listing("In doubt", columns, found, shape=shape, row=row)


def _find_next(doubt: Unknown) -> tuple[str, int | None]:
    """Say what happens next to a recipient in doubt, and when."""
    ask_ms, resend_ms = doubt.ask_at_ms, doubt.resend_at_ms
    if ask_ms is not None and (resend_ms is None or ask_ms <= resend_ms):
        return "asked", ask_ms
    return ("waits for you", None) if resend_ms is None else ("sent again", resend_ms)


@app.command()
def show(ctx: Context, message: options.MessageId) -> None:
    """Show a message in doubt: what was said, what is asked next, and what can be done.

    Example: emailerctl unknown show 1C6K9Q
    """

    async def work(desk: "Desk") -> tuple[MessageView, Sequence[Doubt], int]:
        view = await desk.load_message(message)
        public = to_public(MESSAGE, view.message_id)
        return view, await desk.list_doubts(message=public, limit=_MOST), desk.now_ms()

    view, doubts, now_ms = session.ask(ctx, work)
    public = to_public(MESSAGE, view.message_id)
    if view.state is not State.UNKNOWN:
        raise Conflict(f"{public} is {view.state}: no recipient is in doubt")
    if output.form() is not Form.TABLE:
        said = [shapes.unknown_shape(*doubt) for doubt in doubts]
        output.result("", {**shapes.message_shape(view), "doubts": said})
        return
    messages_.write_message(view, now_ms, has_dialogue=True)
    output.write_painted([("doubt", "bold")])
    for doubt in doubts:
        for line in _describe(doubt, now_ms):
            output.write_painted([(f"  {line}", "")])
    open_until_ms = max((a.open_until_ms or 0 for a in view.attempts), default=0)
    if open_until_ms > now_ms:
        output.write_text(f"a late answer may still come until {to_text(open_until_ms)}")
    domain = view.header_from.rpartition("@")[2]
    output.write_text(
        f"look for the Message-ID <{public}@{domain}> in the log of the next hop, then:\n"
        f"  emailerctl unknown resolve {public} --outcome sent       it went out\n"
        f"  emailerctl unknown resolve {public} --outcome not-sent   it did not: again\n"
        f"  emailerctl unknown resend {public}      nobody can know: risk two copies"
    )


def _describe(one: Doubt, now_ms: int) -> list[str]:
    """Say of a recipient what was answered, who is asked next, and who decides else."""

    def when(moment_ms: int | None) -> str:
        return messages_.say_when(moment_ms, now_ms)

    doubt, outlook = one
    lines = [f"{doubt.address}  in doubt since {when(doubt.since_ms)}"]
    if doubt.answer:
        asked = f"asked last {when(doubt.asked_ms)}: " if doubt.asked_ms is not None else ""
        lines.append(f"  {asked}{doubt.answer}")
    if doubt.ask_at_ms is not None and outlook.asks:
        by = f" by {' or '.join(outlook.ways)}" if outlook.ways else ""
        lines.append(f"  asked next: {', '.join(outlook.asks)}{by}, {when(doubt.ask_at_ms)}")
        lines.append(f"  given up {when(outlook.until_ms)}")
    else:
        lines.append(f"  nobody {'is asked any more' if doubt.answer else 'can be asked'}")
    if doubt.resend_at_ms is not None:
        lines.append(f"  sent again {when(doubt.resend_at_ms)}, by its policy")
    else:
        lines.append("  else it waits for a report, or for you")
    return lines


@app.command()
def resolve(
    ctx: Context,
    outcome: Annotated[
        Literal["sent", "not-sent", "resend"],
        Option(help="It went out; it did not: queue it again; or accept a second copy."),
    ],
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    force: Force = False,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    all_: options.All = False,
    dry_run: options.DryRun = False,
) -> None:
    """End the doubt about messages with what you found out.

    Example: emailerctl unknown resolve 1C6K9Q --outcome sent --reason "relay log 10:31"

    Example: emailerctl unknown resolve --outcome sent --provider relay --since 2h --dry-run
    """
    query = Query(
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
        is_all=all_,
    )  # fmt: skip
    _end_doubt(ctx, outcome, messages, query, recipients, reason, force, dry_run)


@app.command()
def resend(
    ctx: Context,
    messages: options.MaybeIds = None,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    force: Force = False,
    to: options.To = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
    all_: options.All = False,
    dry_run: options.DryRun = False,
) -> None:
    """Send again what may have gone out: a second copy is accepted knowingly.

    Example: emailerctl unknown resend 1C6K9Q --reason "customer has nothing"
    """
    query = Query(
        since=since, until=until, to=to, tag=tag, provider=provider, service=service or "",
        is_all=all_,
    )  # fmt: skip
    _end_doubt(ctx, "resend", messages, query, recipients, reason, force, dry_run)


def _end_doubt(
    ctx: Context,
    outcome: str,
    messages: list[str] | None,
    query: Query,
    recipients: list[str] | None,
    reason: str | None,
    force: bool,
    dry_run: bool,
) -> None:
    resolution = Resolution(outcome.replace("-", "_"))
    command = Command(
        verb=Verb.RESOLVE,
        resolution=resolution,
        question=_QUESTIONS[resolution],
        hint="give ids, or --tag, --to, --provider, --service, --since, --until or --all",
        asks_of_one=resolution is not Resolution.SENT,
    )
    fields = {
        "outcome": resolution.value,
        "recipients": recipients,
        "reason": reason,
        "force": force,
    }
    act(ctx, command, messages, query, fields, is_rehearsal=dry_run)
