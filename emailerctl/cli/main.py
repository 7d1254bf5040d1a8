"""The command tree: the short verbs of every day, the daemons, and the nouns."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Context, Exit, Option, Typer
from typer.main import get_command

import emailerctl
from emailerctl.cli import (
    audit,
    config,
    contexts,
    daemons,
    doctor,
    domains,
    errors,
    explain,
    inbox,
    logs,
    messages,
    output,
    providers,
    publish,
    queue,
    reports,
    send,
    sendmail,
    smtp,
    status,
    store,
    suppressions,
    templates,
    tokens,
    top,
    unknown,
    wait,
)
from emailerctl.cli.grammar import Command, Group, apply_everywhere
from emailerctl.cli.output import Form
from emailerctl.errors import EmailerError

_EPILOG = """\
Exit codes:
    0  done                              69  a service refused for good
    1  a bug: the traceback is shown     75  try again later
    2  wrong usage                       77  not allowed
   65  refused by request or state       78  configuration
   66  no such thing                    130  interrupted

First steps:
  emailerctl dev                         try everything on a throw-away store
  emailerctl config init                 write a settings file to start from
  emailerctl COMMAND -h                  what a command does, with an example"""

_DAILY, _PROGRAMS, _NOUNS = "Every day", "Programs", "Everything else"


def _build() -> Typer:
    """Return the command tree."""
    app = Typer(
        cls=Group,
        name="emailerctl",
        help="Outbound e-mail that is never lost, never sent twice, and explains itself.",
        epilog=_EPILOG,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 92},
    )
    app.callback()(root)
    for heading, verbs in (
        (
            _DAILY,
            (
                send.send,
                publish.publish,
                logs.logs,
                messages.show,
                explain.explain,
                wait.wait,
                messages.retry,
                status.status,
                top.top,
                doctor.doctor,
            ),
        ),
        (_PROGRAMS, (daemons.dev, daemons.serve, daemons.consume, sendmail.sendmail)),
    ):
        for verb in verbs:
            app.command(rich_help_panel=heading)(verb)
    for name, noun in (
        ("messages", messages.app),
        ("unknown", unknown.app),
        ("queue", queue.app),
        ("inbox", inbox.app),
        ("tokens", tokens.app),
        ("templates", templates.app),
        ("suppressions", suppressions.app),
        ("reports", reports.app),
        ("providers", providers.app),
        ("domains", domains.app),
        ("smtp", smtp.app),
        ("store", store.app),
        ("audit", audit.app),
        ("config", config.app),
        ("context", contexts.app),
    ):
        app.add_typer(noun, name=name, cls=Group, rich_help_panel=_NOUNS)
        for command in noun.registered_commands:
            command.cls = Command
    for command in app.registered_commands:
        command.cls = sendmail.RawCommand if command.callback is sendmail.sendmail else Command
    return app


def _show_version(value: bool) -> None:
    if value:
        output.write_text(f"emailerctl {emailerctl.__version__}")
        raise Exit


def root(
    ctx: Context,
    config: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Settings; else EMAILER_CONFIG, ./emailer.toml, /etc/emailer/emailer.toml.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        Option(metavar="URL", help="An API elsewhere instead of the store; else EMAILER_URL."),
    ] = None,
    token: Annotated[
        str | None,
        Option(metavar="TOKEN", help="For it; better EMAILER_TOKEN, which nobody can list."),
    ] = None,
    context: Annotated[
        str | None,
        Option(metavar="NAME", help="The API of that name; local is the store here."),
    ] = None,
    form: Annotated[
        Form | None,
        Option(
            "-o",
            "--output",
            metavar="FORM",
            help="table (for people), json, jsonl (one object a line) or id.",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="The same as -o json.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="No notes; data and errors.")] = False,
    yes: Annotated[bool, Option("-y", "--yes", help="Answer yes to every question.")] = False,
    no_color: Annotated[
        bool, Option("--no-color", help="No colours; NO_COLOR=1 does the same.")
    ] = False,
    debug: Annotated[
        bool, Option("--debug", help="The traceback of deliberate errors too.")
    ] = False,
    version: Annotated[
        bool,
        Option(
            "--version",
            is_eager=True,
            callback=_show_version,
            help="The version, nothing else.",
        ),
    ] = False,
) -> None:
    """Act on what holds for every command."""
    apply_everywhere(ctx.params)


app = _build()


def main() -> None:
    """Run the command line and exit with its code."""
    sys.excepthook = output.report_bug
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    command = get_command(app)
    try:
        code = command.main(arguments, prog_name="emailerctl", standalone_mode=False)
    except EmailerError as error:
        return errors.report(error)
    except typer.TyperException as error:
        return errors.report_usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return errors.INTERRUPTED
    return code if isinstance(code, int) else 0
