"""`emailerctl unknown`: what may or may not have gone out, and how the doubt ends."""

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Context, Option, Typer

from emailerctl.cli import messages as messages_
from emailerctl.cli import options, output, session
from emailerctl.cli.orders import Command, Query, act
from emailerctl.cli.output import Cell, Form, Moment
from emailerctl.core import shapes
from emailerctl.errors import Conflict, NotFound
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView
from emailerctl.store.base import Resolution, Unknown, Verb

if TYPE_CHECKING:
    from emailerctl.wiring import App

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

    async def work(opened: "App") -> tuple[list[Unknown], int]:
        now_ms = opened.clock.now_ms()
        found = await opened.store.list_unknown(now_ms=now_ms, service=service, limit=_MOST)
        return found, now_ms

    found, now_ms = session.run(ctx, work)

    def row(one: Unknown) -> list[Cell]:
        return [
            to_public(MESSAGE, one.message_id),
            one.address,
            Moment(one.since_ms, now_ms),
            one.provider,
            one.attempt,
            one.on_unknown,
            Moment(one.open_until_ms, now_ms),
            Moment(one.resend_at_ms, now_ms),
            one.subject,
        ]

    columns = (
        "id",
        "recipient",
        "since",
        "provider",
        "attempt",
        "policy",
        "answer until",
        "resent",
        "subject",
    )
    output.listing("In doubt", columns, found, shape=shapes.unknown_shape, row=row)


@app.command()
def show(ctx: Context, message: options.MessageId) -> None:
    """Show a message in doubt: what was said, and what can be done.

    Example: emailerctl unknown show 1C6K9Q
    """
    from emailerctl.core import operate

    async def work(opened: "App") -> tuple[MessageView, int]:
        message_id = await operate.resolve_id(opened.store, message, service=None)
        view = await opened.store.find_message(message_id)
        if view is None:
            raise NotFound(f"there is no message {message}")
        return view, opened.clock.now_ms()

    view, now_ms = session.run(ctx, work)
    public = to_public(MESSAGE, view.message_id)
    doubtful = [r for r in view.recipients if r.state is State.UNKNOWN]
    if not doubtful:
        raise Conflict(f"{public} is {view.state}: no recipient is in doubt")
    if output.form() is not Form.TABLE:
        output.result("", shapes.message_shape(view))
        return
    messages_.write_message(view, now_ms, has_dialogue=True)
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
