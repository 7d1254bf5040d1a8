"""How every command reads and explains itself.

What is set at the root (`--config`, `-o`, `--yes`, …) is understood after the command too, as
people write it.  Help has an example first, commands in groups, and no decoration: it is text
on a pipe as on a terminal, and costs no import.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from emailerctl.cli import output

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter
    from typer._click.core import Parameter

EVERYWHERE = (
    "config",
    "url",
    "token",
    "context",
    "form",
    "json",
    "quiet",
    "yes",
    "no_color",
    "debug",
)
_EXAMPLE = re.compile(r"^ *Example: (.+(?:\n .+)*)\n?", re.MULTILINE)


def apply_everywhere(said: Mapping[str, Any]) -> None:
    """Act on the options that work everywhere."""
    form = output.Form.JSON if said.get("json") else said.get("form")
    output.setup(
        form=output.Form(form) if form else None,
        is_quiet=bool(said.get("quiet")),
        has_colour=False if said.get("no_color") else None,
        answers_yes=bool(said.get("yes")),
        shows_traces=bool(said.get("debug")),
    )


def _with_root_options(own: "list[Parameter]", ctx: "Context") -> "list[Parameter]":
    """Return a command's parameters and those of the root that it does not have itself."""
    if ctx.parent is None:
        return own
    names = {param.name for param in own}
    spelled = {opt for param in own for opt in param.opts}
    root = ctx.find_root().command
    return own + [
        param
        for param in root.params
        if param.name in EVERYWHERE and param.name not in names and not spelled & {*param.opts}
    ]


def _take_root_options(command: "TyperCommand | TyperGroup", ctx: "Context") -> None:
    """Move what was said after the command to where it would have been said before it."""
    if ctx.parent is None:
        return
    root = ctx.find_root()
    own = {param.name for param in command.params}
    for name in EVERYWHERE:
        if name not in own:
            value = ctx.params.pop(name, None)
            if value:
                root.params[name] = value
    apply_everywhere(root.params)


class Command(TyperCommand):
    """A command that knows the options of the root."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """Return the parameters, the root's included."""
        return _with_root_options(super().get_params(ctx), ctx)

    def invoke(self, ctx: "Context") -> Any:
        """Run the command."""
        _take_root_options(self, ctx)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """Return what follows the command's name; a required argument has no braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_help_text(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write what the command does, and its examples."""
        _write_help_text(self.help or "", formatter)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the command's own parameters; the root's are named in one line."""
        _write_parameters(self, ctx, formatter)


class Group(TyperGroup):
    """A noun, or the root: its commands in groups."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """Return the parameters, the root's included."""
        return _with_root_options(super().get_params(ctx), ctx)

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Read the arguments; without any, explain."""
        if not args and not ctx.resilient_parsing:
            output.note(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: "Context") -> Any:
        """Run the command that was named."""
        _take_root_options(self, ctx)
        return super().invoke(ctx)

    def format_help_text(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write what the group is about."""
        _write_help_text(self.help or "", formatter)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the commands first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        _write_parameters(self, ctx, formatter)

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the commands under their headings."""
        headings: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            if not command.hidden:
                heading = getattr(command, "rich_help_panel", None)
                rows = headings.setdefault(heading if heading else "Commands", [])
                rows.append((name.ljust(width), _shorten(command.help or "")))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the epilog as it is: it is a table."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(f"{self.epilog}\n")


def _shorten(help_: str) -> str:
    """Return the beginning of a command's first sentence, which says what it does."""
    return re.split(r"[.:;]", " ".join(help_.split("\n\n")[0].split()), maxsplit=1)[0]


def _write_help_text(help_: str, formatter: "HelpFormatter") -> None:
    text = _EXAMPLE.sub("", help_).strip()
    for paragraph in re.split(r"\n\s*\n", text):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(" ".join(paragraph.split()))
    examples = [" ".join(found.split()) for found in _EXAMPLE.findall(help_)]
    if examples:
        with formatter.section("Example" if len(examples) == 1 else "Examples"):
            for example in examples:  # never wrapped: it is there to be copied
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def _write_parameters(
    command: "TyperCommand | TyperGroup", ctx: "Context", formatter: "HelpFormatter"
) -> None:
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for param in command.params:
        record = param.get_help_record(ctx)
        if record is not None:
            (arguments if param.param_type_name == "argument" else options).append(record)
    for heading, rows in (("Arguments", arguments), ("Options", options)):
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
    if ctx.parent is not None:
        with formatter.section("Everywhere"):
            formatter.write_text(
                "--config FILE  --url URL  --token TOKEN  --context NAME  "
                "-o table|json|jsonl|id  --json  -q  -y  --no-color  --debug"
            )
