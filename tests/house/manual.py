"""The command line's reference (docs/cli.md) and its man page, written from the commands."""

import re
from collections.abc import Iterator
from typing import Any

from typer import Context
from typer.main import get_command

from emailerctl.cli.main import app
from emailerctl.errors import EmailerError

_WIDTH = 88
_EXAMPLE = re.compile(r"^ *Example: (.+(?:\n .+)*)\n?", re.MULTILINE)

ENVIRONMENT = (
    ("EMAILER_CONFIG", "The settings file."),
    (
        "EMAILER_<SECTION>__<KEY>",
        "A setting; with _FILE after it, the file that a secret is in.",
    ),
    ("NO_COLOR, FORCE_COLOR, CLICOLOR", "Whether there are colours."),
)
FILES = (
    ("./emailer.toml, /etc/emailer/emailer.toml", "The settings, where none are named."),
    ("/var/lib/emailer/emailer.db", "The store, unless [store] url says otherwise."),
)


def find_tree() -> list[tuple[str, Any, Any]]:
    """Return every command: its words, itself, a context to ask it with; groups first."""
    return list(_walk(get_command(app), "emailerctl", None))


def _walk(command: Any, path: str, above: Any) -> Iterator[tuple[str, Any, Any]]:
    made = Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=above,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield path, command, made
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _walk(inner, f"{path} {name}", made)


def build_reference(_present: str) -> str:
    """Return docs/cli.md."""
    parts = [
        "# The command line\n\n"
        "Written by `make docs` from the commands themselves; the same is a man page, "
        "`man -l docs/man/emailerctl.1`.\nWhat is under *Everywhere* stands before the command "
        "or after it.  Each example is run by a test.\n"
    ]
    for path, command, context in find_tree():
        level = "##" if path.count(" ") < 2 else "###"
        shown = command.get_help(context).rstrip()
        parts.append(f"{level} {path}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def find_examples() -> list[str]:
    """Return the examples of all commands, as they are written."""
    return [
        " ".join(example.split())
        for _path, command, _context in find_tree()
        for example in _EXAMPLE.findall(command.help or "")
    ]


# The man page: man(7)


def build_page(_present: str) -> str:
    """Return docs/man/emailerctl.1."""
    (path, command, context), *inner = find_tree()
    lines = [
        '.\\" Written by `make docs` from the commands themselves.',
        '.TH EMAILERCTL 1 "" "emailerctl" "User Commands"',
        ".SH NAME",
        "emailerctl \\- outbound e\\-mail that is never lost, and never sent twice",
        ".SH SYNOPSIS",
        f".B {_escape(' '.join([path, *command.collect_usage_pieces(context)]))}",
        ".SH DESCRIPTION",
        *_describe(command),
        ".SH OPTIONS",
        *_tell_parameters(command, context),
        ".SH COMMANDS",
    ]
    for words, one, its in inner:
        usage = " ".join([words, *one.collect_usage_pieces(its)])
        lines += [f".SS {_escape(usage)}", *_describe(one), *_tell_parameters(one, its)]
    lines += [".SH EXIT STATUS", *_tell_codes()]
    for heading, rows in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {heading}")
        for term, said in rows:
            lines += [".TP", f".B {_escape(term)}", _escape(said)]
    return "\n".join(lines) + "\n"


def _tell_codes() -> Iterator[str]:
    codes: dict[int, list[str]] = {0: ["done"], 1: ["a bug"], 130: ["interrupted"]}
    waiting = [EmailerError]
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        if kind is not EmailerError and kind.title not in codes.get(kind.exit_code, []):
            codes.setdefault(kind.exit_code, []).append(kind.title)
    for code, titles in sorted(codes.items()):
        yield from (".TP", f".B {code}", _escape("; ".join(titles)))


def _describe(command: Any) -> Iterator[str]:
    text = _EXAMPLE.sub("", command.help or "").strip()
    for n, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        if n:
            yield ".PP"
        yield _escape(" ".join(paragraph.split()))
    for example in _EXAMPLE.findall(command.help or ""):
        yield from (".PP", ".RS", ".nf", _escape(" ".join(example.split())), ".fi", ".RE")


def _tell_parameters(command: Any, context: Any) -> Iterator[str]:
    rows = [row for one in command.params if (row := one.get_help_record(context))]
    for term, said in rows:
        yield from (".TP", f".B {_escape(term)}", _escape(" ".join(said.split())))


def _escape(text: str) -> str:
    """Return *text* so that man shows it as it is: no escapes, no requests, real hyphens."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    shown = re.sub(r"[^ -~]", lambda found: f"\\[u{ord(found[0]):04X}]", shown)
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown
