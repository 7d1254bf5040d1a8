"""`emailerctl unknown`: what may or may not have gone out, and how the doubt ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Context, Option, Typer

from emailerctl.cli import messages as messages_
from emailerctl.cli import options, output, session
from emailerctl.cli.output import Cell, Form, Moment
from emailerctl.core import shapes
from emailerctl.errors import Conflict
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView
from emailerctl.store.base import Unknown, Verb

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk

app = Typer(help="Messages in doubt: list, show, resolve, resend.")

_MOST = 200
_QUESTIONS = {
    "not-sent": "{} queued again; if it did go out, it arrives twice. Go on?",
    "resend": "{} sent again; if it did go out, it arrives twice. Go on?",
}

Force = Annotated[
    bool, Option("--force", help="Even while a late answer may still come; needs --reason.")
]


@app.command("list")
def list_(ctx: Context, service: options.Service = None) -> None:
    """List the recipients in doubt, oldest first.

    Example: emailerctl unknown list
    """

    async def work(desk: "Desk") -> tuple[Sequence[Unknown], int]:
        return await desk.list_unknown(service=service, limit=_MOST), desk.now_ms()

    found, now_ms = session.ask(ctx, work)

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

    async def work(desk: "Desk") -> tuple[MessageView, int]:
        return await desk.load_message(message), desk.now_ms()

    view, now_ms = session.ask(ctx, work)
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
    messages: options.MessageIds,
    outcome: Annotated[
        Literal["sent", "not-sent", "resend"],
        Option(help="It went out; it did not: queue it again; or accept a second copy."),
    ],
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    force: Force = False,
) -> None:
    """End the doubt about messages with what you found out.

    Example: emailerctl unknown resolve 1C6K9Q --outcome sent --reason "relay log 10:31"
    """
    ids = list(session.read_ids(messages))
    if outcome in _QUESTIONS:
        whom = f"{ids[0]} is" if len(ids) == 1 else f"{len(ids)} messages are"
        output.ask(_QUESTIONS[outcome].format(whom))
    fields = {
        "outcome": outcome.replace("-", "_"),
        "recipients": recipients,
        "reason": reason,
        "force": force,
    }
    messages_.act(ctx, Verb.RESOLVE, ids, fields)


@app.command()
def resend(
    ctx: Context,
    messages: options.MessageIds,
    recipients: options.Recipients = None,
    reason: options.Reason = None,
    force: Force = False,
) -> None:
    """Send again what may have gone out: a second copy is accepted knowingly.

    Example: emailerctl unknown resend 1C6K9Q --reason "customer has nothing"
    """
    resolve(ctx, messages, "resend", recipients, reason, force)
