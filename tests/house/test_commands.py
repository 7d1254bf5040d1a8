"""Every command says what it does, and shows an example."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from emailerctl.cli.main import app


def find_commands(command: Any, path: str = "emailerctl") -> Iterator[tuple[str, Any]]:
    """Yield every command and group with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from find_commands(inner, f"{path} {name}")


COMMANDS = dict(find_commands(get_command(app)))


def test_the_commands_of_every_day_are_there() -> None:
    """product.md §5, as far as this version goes."""
    for name in (
        "serve",
        "consume",
        "dev",
        "send",
        "publish",
        "logs",
        "retry",
        "show",
        "status",
    ):
        assert f"emailerctl {name}" in COMMANDS
    for noun, verb in (
        ("inbox", "list show retry rm"),
        ("queue", "list stats pause resume"),
        ("tokens", "create list rotate revoke"),
        ("unknown", "list show resolve resend"),
        ("store", "migrate check audit"),
        ("config", "show check init schema"),
        ("suppressions", "list add rm import export"),
        ("reports", "ingest"),
        ("templates", "list show versions put push pull diff rollback rm render lint preview"),
        ("providers", "list enable disable"),
        ("context", "add use list rm"),
    ):
        for name in verb.split():
            assert f"emailerctl {noun} {name}" in COMMANDS


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_help_and_an_example(path: str) -> None:
    command = COMMANDS[path]

    assert command.help
    if not hasattr(command, "commands"):
        assert f"Example: {path.split()[0]} " in command.help


@pytest.mark.parametrize("path", COMMANDS)
def test_an_option_has_help(path: str) -> None:
    silent = [
        parameter.name
        for parameter in COMMANDS[path].params
        if not getattr(parameter, "help", None) and not getattr(parameter, "hidden", False)
    ]

    assert silent == []
