"""The example of every command's help, typed as it stands there."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

import pytest

from tests.cli.conftest import Runner
from tests.cli.test_providers_check import point_to
from tests.cli.world import Kind, World
from tests.house.manual import find_examples
from tests.smtpd.fixture import SmtpServer

# Run until they are stopped, want a terminal, or what is no file and no message: a test each.
ELSEWHERE = (
    *(
        "emailerctl dev",
        "emailerctl serve",
        "emailerctl consume",
    ),  # test_documents_run, test_dev
    *("emailerctl logs --follow", "emailerctl --url"),  # test_documents_run, test_remote
    "emailerctl top",  # test_top
    "emailerctl templates preview",  # test_template_preview
    "emailerctl templates rollback",  # test_templates
    *("emailerctl domains verify", "emailerctl domains rm"),  # test_sending, test_signing
    "emailerctl context",  # test_elsewhere
    "emailerctl publish",  # test_publish
    *(
        "emailerctl queue foreign -o id |",
        "emailerctl inbox",
    ),  # test_queue_by_forestmq, test_inbox
)
EXAMPLES = [one for one in find_examples() if not one.startswith(ELSEWHERE)]
BOUNCES = "address,code,error,created_at\ngone@example.org,550,,\n"
MAIL = "To: ann@example.org\nSubject: Hello\n\nHi\n"
# What stands before the first pipe and is not ours, and what it prints.
OTHERS = {"uptime": "up 3 days"}


def queued(world: World) -> str:
    return world.submit()


def failed(world: World) -> str:
    public = world.submit()
    world.attempt(public, Kind.PERMANENT, "550 no")
    return public


def sent(world: World) -> str:
    public = world.submit()
    world.attempt(public, Kind.ACCEPTED, "250 ok")
    return public


def doubtful(world: World) -> str:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)
    return public


# Which message `1C6K9Q` must be; which files and which things must be there before.
MESSAGES: Mapping[str, Callable[[World], str]] = {
    "emailerctl retry": failed,
    "emailerctl unknown": doubtful,
    "emailerctl wait": sent,
}
TEMPLATES = (("templates", "init", "templates"), ("templates", "push", "templates"))
KEY = (("domains", "add", "example.org"), ("domains", "verify", "example.org", "--unchecked"))
BEFORE: Mapping[str, Sequence[tuple[str, ...]]] = {
    **dict.fromkeys(
        (
            f"emailerctl templates {verb} "
            for verb in ("versions", "show", "put", "push", "diff", "rm", "render", "lint")
        ),
        TEMPLATES,
    ),
    "emailerctl send --to ann@example.org --template": TEMPLATES,
    "emailerctl domains dns": KEY,
    "emailerctl domains rotate": KEY,
    "emailerctl suppressions rm": (("suppressions", "add", "ann@example.org"),),
    "emailerctl tokens rotate": (("tokens", "create", "shop", "--scope", "send"),),
    "emailerctl tokens revoke": (("tokens", "create", "shop", "--scope", "send"),),
    "emailerctl store restore": (("store", "backup", "emailer-2026-11-24.db"),),
}
# What is no success where nothing else runs, and why.
CODES = {
    "emailerctl status --short": 69,  # there is no consumer
    "emailerctl doctor": 69,  # there is no consumer
    "emailerctl doctor --domain example.org --selector mail2026 -o json": 69,
    "emailerctl wait 1C6K9Q --for delivered,failed --timeout 30s": 65,  # SMTP reports nothing
    'emailerctl send --to ann@example.org --subject Hello --text "It works." --wait': 75,
    'emailerctl unknown resend 1C6K9Q --reason "customer has nothing"': 65,  # too early
}


def prepare(example: str, world: World, cli: Runner) -> list[str]:
    """Put the files and things there that it needs; return the words with a real id."""
    for start, commands in BEFORE.items():
        for words in commands if example.startswith(start) else ():
            cli.ok(*words)
    if "1C6K9Q" in example:
        make = next((m for s, m in MESSAGES.items() if example.startswith(s)), queued)
        example = example.replace("1C6K9Q", make(world))
    for name, text in (("mail.eml", MAIL), ("bounces.csv", BOUNCES), ("bounce.eml", MAIL)):
        (world.folder / name).write_text(text)
    if "--state held" in example:
        cli.ok("messages", "hold", queued(world))
    if "config init" in example:
        example = example.replace("emailer.toml", "fresh.toml")
    for folder in ("/var/backups", "/etc/emailer"):
        example = example.replace(f"{folder}/", f"{world.folder}/")
    return shlex.split(example)


def run(words: list[str], world: World, cli: Runner) -> tuple[int, str]:
    """Run the commands between the pipes, each with the output of the one before it."""
    stdin, code, err = "", 0, ""
    for part in " \0".join(words).split(" \0|"):
        command = [word for word in part.split(" \0") if word]
        if command[0] in OTHERS:
            stdin = OTHERS[command[0]]
            continue
        assert command.pop(0) == "emailerctl"
        for sign in (">", "<"):
            if sign in command:
                at = command.index(sign)
                _sign, name = command[at : at + 2]
                del command[at : at + 2]
                stdin = (world.folder / name).read_text() if sign == "<" else stdin
        done = cli(*command, stdin=stdin)
        if done.code == 2 and "--yes" in done.err:
            done = cli(*command, "--yes", stdin=stdin)
        stdin, code, err = done.out, done.code, done.err
    return code, err


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_works(
    world: World, cli: Runner, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emailerctl.cli.send.TIMEOUT_MS", 50)  # nothing consumes here
    if re.match(r"emailerctl (providers check|smtp|doctor)", example):
        with SmtpServer() as server:
            point_to(world, server.port)
            words = prepare(example, world, cli)
            words += ["--offline"] if "doctor" in words else []
            code, err = run(words, world, cli)
    else:
        code, err = run(prepare(example, world, cli), world, cli)

    assert code == CODES.get(example, 0), err
    assert "Traceback" not in err


def test_there_are_examples_for_every_command() -> None:
    assert len(EXAMPLES) > 50
    assert set(CODES) <= set(EXAMPLES)
