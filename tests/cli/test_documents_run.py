"""README.md and docs/operations.md, followed to the letter: what they tell to type, works.

The commands are read from the documents and given to a shell, in their order, in a folder of
one's own, from `config init` on.  What stands for something (ID, NAME …) is filled in from a
table; what the table does not know, or is no command any more, fails.
"""

import ast
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from emailerctl.core.alerts import AlertName
from emailerctl.settings.loading import known_keys, open_tables
from tests.cli.installation import (
    README,
    RUNBOOK,
    SETTING,
    Installation,
    find_blocks,
    find_quotes,
    find_targets,
    read,
    shape_of,
    split_commands,
)
from tests.house.sources import find_files, find_strings, name_of, our_modules, parse
from tests.house.test_commands import COMMANDS
from tests.smtpd.fixture import SmtpServer

# What the runbook says is refused just now: a late answer may still come.
REFUSED = {
    "emailerctl unknown resolve ID --outcome not-sent": 65,
    "emailerctl unknown resend ID": 65,
}
# What it says depends on where the test runs: here too it has to say it.
EITHER = {"emailerctl doctor": 69, "emailerctl doctor --selector mail2026": 69}
_MENTION = re.compile(r"(?<![\w/.])emailerctl ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?(?![\w(:])")
_VARIABLES = {
    *("EMAILER_CONFIG", "EMAILER_URL", "EMAILER_TOKEN"),
    "EMAILER_<SECTION>__<KEY>",
}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """An installation as README tells to make one."""
    (tmp_path / "relay").mkdir()
    with SmtpServer(folder=tmp_path / "relay") as relay:
        installation = Installation(tmp_path, relay)
        try:
            installation.install()
            yield installation
        finally:
            codes = installation.end()
        assert codes == [0] * len(codes)
        assert installation.world.ok("store", "audit", "-o", "id").out == ""


def test_the_first_steps_of_the_readme(installation: Installation) -> None:
    """What it prints, and that its curl line is accepted once, is looked at on the way."""
    steps = [step.split("\n")[0].split(" \\")[0] for step in installation.done]

    assert steps == [
        "make run",
        ".venv/bin/emailerctl --config …/emailer.toml logs --follow",
        "emailerctl config init emailer.toml",
        "emailerctl config check",
        "emailerctl store migrate",
        "emailerctl tokens create shop --scope send --scope read",
        "emailerctl serve",
        "emailerctl consume",
        "curl -s http://127.0.0.1:8080/v1/messages",
    ]
    for command in installation.trials:
        installation.follow(command)


@pytest.mark.slow
@pytest.mark.parametrize("document", [README, RUNBOOK])
def test_what_an_operator_is_told_to_type_works(
    installation: Installation, document: str
) -> None:
    commands = [q for q in find_quotes(document) if re.match("(emailerctl|curl) .", q)]
    assert len(commands) > 15
    wrong = []
    for command in commands:
        installation.restore()
        if command.endswith("logs --follow"):
            installation.follow(command)
        elif command.endswith(" top"):
            installation.watch(command)
        elif re.match("emailerctl (serve|consume)", command):
            until = "api.started" if "serve" in command else "consumer.started"
            process, _ = installation.start(command, until)
            assert installation.stop(process, signal.SIGTERM) == 0
        elif command.startswith("curl"):
            answer = installation.call(command)
            assert answer.json()["ready"] is True
        else:
            result = installation.carry_out(command)
            is_as_said = "an answer may still come until" in result.err
            codes = {REFUSED.get(command, 0), EITHER.get(command, REFUSED.get(command, 0))}
            if result.code not in codes or is_as_said != (command in REFUSED):
                wrong.append(f"{command}: {result.code}, {result.err}")

    assert wrong == []


@pytest.mark.parametrize("document", [README, RUNBOOK])
def test_settings_targets_options_and_variables_that_are_named_exist(document: str) -> None:
    keys = {(".".join(key[:-1]), key[-1]) for key in known_keys() | open_tables()}
    options = {
        opt for command in COMMANDS.values() for one in command.params for opt in one.opts
    }
    dead = []
    for quote in find_quotes(document):
        setting = SETTING.fullmatch(quote)
        if setting:
            table, key = setting[1], setting[2]
            is_there = table == "providers.relay" or any(
                table == ".".join(known[:-1]) and key in (None, known[-1]) for known in keys
            )
        elif quote.startswith("--"):
            is_there = quote in options
        elif quote.startswith("EMAILER_"):
            is_there = quote in _VARIABLES
        elif quote.startswith("make "):
            is_there = quote.split()[1] in find_targets()
        else:
            continue
        if not is_there:
            dead.append(quote)

    assert dead == []


def test_the_runbook_has_a_line_for_every_alert() -> None:
    table = read(RUNBOOK).partition("## For every alert")[2].partition("## Doubt")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(AlertName)


def test_what_is_not_in_this_version_is_not() -> None:
    """Else the document is behind: what is there is told elsewhere."""
    lines = read(README).partition("## Not in this version")[2].partition("## Figures")[0]
    said = {
        line.partition(":")[0]: set(re.findall(r"`([^`]+)`", line))
        for line in lines.replace("\n  ", " ").splitlines()
        if line.startswith("- ")
    }

    for name in said["- Of the command line"]:
        assert f"emailerctl {name}" not in COMMANDS


def find_mentions() -> Iterator[tuple[str, str]]:
    """Yield where a command is named, in code and documents, and its words."""
    for path in our_modules():
        tree = parse(path)
        texts = [(node.lineno, str(node.value)) for node in find_strings(tree)]
        texts += [
            (node.lineno, line)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for line in (ast.get_docstring(node) or "").splitlines()
            if "Example: " in line
        ]
        for number, text in texts:
            for match in _MENTION.finditer(text):
                yield f"{name_of(path)}:{number}", match[0]
    for path in find_files():
        if path.suffix == ".md" or path.parent.name == "etc":
            text = path.read_text(encoding="utf-8")
            code = re.findall(r"^```.*?^```$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL)
            for match in _MENTION.finditer("\n".join(code)):
                yield name_of(path), match[0]


def test_every_command_that_is_named_exists() -> None:
    mentions = list(find_mentions())
    dead = []
    for where, mention in mentions:
        _, first, *second = mention.split()
        noun = COMMANDS.get(f"emailerctl {first}")
        is_there = noun is not None
        if second and hasattr(noun, "commands"):
            is_there = f"emailerctl {first} {second[0]}" in COMMANDS
        if not is_there:
            dead.append(f"{where}: {mention}")

    assert len(mentions) > 60
    assert dead == []


def test_the_reader_of_documents_finds_what_is_there() -> None:
    """Without this, a document in another form would pass by being overlooked."""
    assert list(split_commands("a 'b\nc'\nd \\\n  e # f\n")) == ["a 'b\nc'", "d \\\n  e # f"]
    assert len(find_blocks(README, "sh")) == 5
    assert shape_of({"a": [1, {"b": None}], "c": "x"}) == {
        "a": ["int", {"b": "NoneType"}],
        "c": "str",
    }
    assert "emailerctl messages list --state failed -o id | emailerctl retry -" in (
        find_quotes(README)
    )


def test_an_unknown_placeholder_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="what does it stand for"):
        Installation(tmp_path, relay=None).fill_in("emailerctl show WHATEVER")  # type: ignore[arg-type]
