"""`emailerctl reports`: what is told of mail that went out, by hand or from a mail server."""

import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

from typer import Context, Exit, Option, Typer

from emailerctl.cli import errors, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.core.dissect import LARGEST, split_mbox
from emailerctl.errors import EmailerError

if TYPE_CHECKING:
    from emailerctl.core.bounces import Received
    from emailerctl.wiring import App

app = Typer(help="What is told of mail that went out: ingest.")

_TRY_AGAIN = 75  # EX_TEMPFAIL: a mail server keeps the message and comes again
_LINE = 64 * 1024


@app.command()
def ingest(
    ctx: Context,
    mbox: Annotated[
        bool, Option("--mbox", help="Standard input is a mailbox file with many messages.")
    ] = False,
    recipient: Annotated[
        str,
        Option(
            "--recipient",
            metavar="ADDRESS",
            envvar=["ORIGINAL_RECIPIENT", "RECIPIENT"],
            help="Whom the message came to, where the mail server knows it.",
        ),
    ] = "",
) -> None:
    """Read a bounce or a complaint from standard input; a pipe for a mail server.

    Example: emailerctl reports ingest < bounce.eml

    Ends with 0 whatever the message was, and with 75 when it could not be taken: the mail
    server then keeps it.
    """

    async def work(opened: "App") -> "list[Received]":
        bounces = await opened.load_bounces()
        received = []
        for raw in _read(sys.stdin.buffer, is_mbox=mbox):
            one = await bounces.take(
                raw, delivered_to="" if mbox else recipient, now_ms=opened.clock.now_ms()
            )
            output.note(_describe(one))
            received.append(one)
        return received

    try:
        received = session.run(ctx, work)
    except EmailerError as error:
        errors.report(error)
        raise Exit(_TRY_AGAIN) from error
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise Exit(_TRY_AGAIN) from error  # no mail is lost to a bug of ours
    _write(received, is_mbox=mbox)


def _read(stream: IO[bytes], *, is_mbox: bool) -> Iterator[bytes]:
    """Yield messages, of each no more than is looked at."""
    if is_mbox:
        yield from split_mbox(iter(lambda: stream.readline(_LINE), b""))
        return
    yield stream.read(LARGEST)
    while stream.read(_LINE):  # who writes to us must not find the pipe shut
        pass


def _describe(received: "Received") -> str:
    about = received.public_id or "nothing that we sent, as far as it proves"
    sentence = f"{received.sort.replace('_', ' ')}, about {about}"
    for report in received.reports:
        hard = ", for good" if report.is_hard else ""
        sentence += f"; {report.recipient or 'somebody'}: {report.kind}{hard} ({report.reply})"
    if received.is_forged:
        sentence += "; its return path is not signed by us"
    if received.repeated:
        sentence += f"; {received.repeated} told before"
    return sentence


def _write(received: "list[Received]", *, is_mbox: bool) -> None:
    if output.form() is Form.TABLE:
        if is_mbox:
            proven = sum(bool(one.public_id) for one in received)
            output.note(f"{len(received)} messages, {proven} about mail that we sent")
    elif output.form() is Form.ID:
        for one in received:
            if one.public_id:
                output.write_text(one.public_id)
    elif is_mbox:
        output.listing(
            "Received",
            ("sort", "message"),
            received,
            shape=shapes.received_shape,
            row=lambda one: [one.sort, one.public_id],
            name="message_id",
        )
    else:
        (one,) = received
        output.result(one.public_id, shapes.received_shape(one))
