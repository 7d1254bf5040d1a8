"""`emailerctl smtp`: a conversation with a next hop, word for word."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.completion import complete_hop
from emailerctl.cli.output import Form
from emailerctl.errors import UsageError

if TYPE_CHECKING:
    from emailerctl.providers.base import Conversation
    from emailerctl.wiring import App

app = Typer(help="SMTP by hand: check.")

_REFUSED = 69
_CHECK_MS = 60_000


@app.command()
def check(
    ctx: Context,
    name: Annotated[
        str,
        Argument(
            metavar="NEXT_HOP", help="As in [providers.NAME].", autocompletion=complete_hop
        ),
    ],
    to: Annotated[
        list[str] | None,
        Option(metavar="ADDRESS", help="Ask whether it takes this recipient; may be repeated."),
    ] = None,
    sender: Annotated[
        str | None,
        Option("--from", metavar="ADDRESS", help="The envelope sender; else [defaults] from."),
    ] = None,
    transcript: Annotated[
        bool, Option("--transcript", help="And every line that was said; secrets are masked.")
    ] = False,
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
    """Talk SMTP with a next hop: connect, TLS, AUTH, with --to the envelope; send nothing.

    Exits 69 when something is bad.

    Example: emailerctl smtp check relay --to ann@example.org --transcript
    """
    if sender is not None and not to:
        raise UsageError("--from goes with --to", hint="name a recipient: --to ADDRESS")

    async def work(opened: "App") -> "Conversation":
        from emailerctl.cli.desk import build_hop_not_found
        from emailerctl.core.operate import parse_recipient

        if name not in opened.tables:
            raise build_hop_not_found(name, opened.tables)
        local = opened.settings.limits.allow_local_domains
        recipients = [parse_recipient(one, allow_local_domains=local) for one in to or ()]
        said = sender if sender is not None else opened.find_default_sender()
        from_ = parse_recipient(said, allow_local_domains=local) if said else ""
        within_s = (_CHECK_MS if timeout_ms is None else timeout_ms) / 1000
        return await opened.converse(name, from_, recipients, within_s=within_s)

    found = session.run(ctx, work)
    bad = [one.name for one in found.results if not one.is_good]
    if output.form() is Form.TABLE:
        output.table(
            f"Next hop {name}",
            ("looked at", "is", "detail"),
            [[one.name, "good" if one.is_good else "BAD", one.detail] for one in found.results],
        )
        if transcript:
            output.write_text("\n".join(found.transcript))
    else:
        shape = {
            "next_hop": name,
            "good": not bad,
            "results": [
                {"name": one.name, "good": one.is_good, "detail": one.detail}
                for one in found.results
            ],
            "transcript": list(found.transcript) if transcript else None,
        }
        output.result("", shape | {"id": name})
    if bad:
        hint = f"what cures it: emailerctl providers check {name}"
        output.error(f"{name}: {', '.join(bad)}", hint=hint)
        raise Exit(_REFUSED)
