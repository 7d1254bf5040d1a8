"""`emailerctl sendmail`: what cron, PHP and mail(1) call, with the switches that they use.

The arguments are read here and not by Typer: sendmail's grammar (`-oi`, `-fann@example.org`) is
another one, and `-o`, `-q`, `-y` mean other things in it.  The exit codes are those of
sysexits.h, which callers go by: 75 is "try again".
"""

import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typer import Context, Exit

from emailerctl.cli import errors, output, session
from emailerctl.cli.grammar import Command
from emailerctl.errors import EmailerError, UsageError

if TYPE_CHECKING:
    from typer._click import Context as ClickContext

    from emailerctl.wiring import App

EX_USAGE = 64
_WITH_VALUE = frozenset("BCFLNORVXbfhopqr")  # sendmail(8) of Sendmail, Postfix and Exim
_SILENT = frozenset("BCLNORVXhopAGUnvm")  # accepted, and mean nothing here


@dataclass(slots=True)
class _Switches:
    """What the caller wants."""

    reads_headers: bool = False
    ignores_dots: bool = False
    sender: str = ""
    full_name: str = ""
    recipients: list[str] = field(default_factory=list)


class RawCommand(Command):
    """A command that reads its arguments itself; of Typer it has a help that stands alone."""

    def parse_args(self, ctx: "ClickContext", args: list[str]) -> list[str]:
        """Keep the arguments as they are."""
        if args in (["-h"], ["--help"]):
            return super().parse_args(ctx, args)
        super().parse_args(ctx, [])
        ctx.args = list(args)
        return ctx.args


def sendmail(ctx: Context) -> None:
    """Take a mail from standard input, as sendmail does: a drop-in for cron and PHP.

    Recipients are the arguments, and with -t those of To, Cc and Bcc.  -i takes a line with a
    single dot for text, -f names the sender where the mail has no From, -F its name; other
    switches of sendmail are accepted and ignored.  Names without a domain get that of
    [sendmail] domain, or are looked up in [sendmail] aliases.

    A mail with a Message-ID is sent once, however often a caller that was told to try later
    hands it in again; without one, two equal mails are two.  Exit codes: 0 accepted, 64 usage,
    65 refused, 75 try again, 77 not allowed, 78 configuration.

    Example: emailerctl sendmail -t -i < mail.eml
    """
    try:
        switches = _read_switches(ctx.args)
        raw = _read_input(ignores_dots=switches.ignores_dots)
        session.run(ctx, lambda opened: _accept(opened, switches, raw))
    except UsageError as error:
        errors.report(error)
        raise Exit(EX_USAGE) from error
    except EmailerError as error:
        raise Exit(errors.report(error)) from error


async def _accept(opened: "App", switches: _Switches, raw: bytes) -> None:
    from emailerctl.core.raw_mail import Envelope, read_mail
    from emailerctl.models.address import domain_of
    from emailerctl.models.ids import MESSAGE, to_public

    settings = opened.settings.sendmail
    settings_from = opened.settings.defaults.header_from
    domain = settings.domain or domain_of(opened.find_default_sender())
    if not domain:
        domain = os.uname().nodename
    envelope = Envelope(
        recipients=switches.recipients,
        reads_headers=switches.reads_headers,
        sender=switches.sender or ("" if settings_from else _find_user()),
        full_name=switches.full_name,
        domain=domain,
        aliases=dict(alias.split("=", 1) for alias in settings.aliases),
    )
    mail = read_mail(raw, envelope)
    receipt = await opened.acceptance.accept(
        mail.fields, caller=session.build_caller(), key=mail.key
    )
    for warning in receipt.warnings:
        output.warn(warning.detail)
    output.note(f"{receipt.state} {to_public(MESSAGE, receipt.message_id)}")


def _read_switches(words: Sequence[str]) -> _Switches:
    """Read sendmail's switches.

    Raises:
        UsageError: one that asks for something else than taking a mail.
    """
    found = _Switches()
    rest = iter(words)
    for word in rest:
        if word == "--":
            found.recipients += rest
        elif not word.startswith("-") or word == "-":
            found.recipients.append(word)
        else:
            _read_switch(word, rest, found)
    if not found.recipients and not found.reads_headers:
        raise UsageError("no recipients", hint="give addresses, or -t")
    return found


def _read_switch(word: str, rest: Iterator[str], found: _Switches) -> None:
    letter, value = word[1:2], word[2:]
    if letter in _WITH_VALUE and not value and letter not in "qo":
        value = next(rest, "")
    if letter == "t":
        found.reads_headers = True
    elif letter == "i" or word == "-oi":
        found.ignores_dots = True
    elif letter in "fr":
        found.sender = value
    elif letter == "F":
        found.full_name = value
    elif letter == "b":
        if value not in {"m", ""}:
            raise UsageError(
                f"-b{value} is not what this does", hint="emailerctl queue list; serve; consume"
            )
    elif letter == "q":
        raise UsageError("-q: the queue runs by itself", hint="emailerctl queue stats")
    elif letter not in _SILENT:
        raise UsageError(f"{word} is no switch of sendmail", hint="emailerctl sendmail --help")


def _read_input(*, ignores_dots: bool) -> bytes:
    """Return the mail: to the end, or to a line with a single dot."""
    raw = sys.stdin.buffer.read()
    if not ignores_dots:
        for line in (b"\n.\n", b"\n.\r\n"):
            at = raw.find(line)
            if at >= 0:
                raw = raw[: at + 1]
    if not raw.strip():
        raise UsageError("no mail came from standard input", hint="emailerctl sendmail --help")
    return raw


def _find_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def main() -> None:
    """Be `sendmail`, where a program insists on a path without a command behind it."""
    from emailerctl.cli.main import run

    sys.excepthook = output.report_bug
    sys.exit(run(["sendmail", *sys.argv[1:]]))
