"""The tree: version, help, mistypes, options everywhere, errors."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

import emailerctl
from emailerctl.cli.main import app
from tests.cli.world import ROOT, World, build_environment

HEAVY = (
    "pydantic rich httpx tornado sqlite3 pysqlite3 sqlite_utils email_validator uvloop asyncio"
)


def find_paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from find_paths(inner, (*path, name))


PATHS = list(find_paths(get_command(app)))


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=build_environment(),
        cwd=ROOT,
    ).stdout


def test_the_version_and_the_help_load_nothing_heavy() -> None:
    for word in ("--version", "--help"):
        loaded = python(
            "import sys; from emailerctl.cli.main import main\n"
            f"sys.argv = ['emailerctl', '{word}']\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print('LOADED', *({set(HEAVY.split())!r} & set(sys.modules)))"
        )
        assert loaded.splitlines()[-1] == "LOADED"
    assert emailerctl.__version__ in python("import emailerctl; print(emailerctl.__version__)")


def test_the_version_is_printed(world: World) -> None:
    assert world.ok("--version").out == f"emailerctl {emailerctl.__version__}\n"


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_explains(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each in this process: they are many, and what is shown is the same."""
    from emailerctl.cli import main

    assert main.run([*path, "-h"]) == 0
    shown = capsys.readouterr().out

    assert shown.startswith(f"Usage: {' '.join(['emailerctl', *path])} ")
    is_group = any(other[: len(path)] == path for other in PATHS if len(other) > len(path))
    if not is_group:
        assert "\nExample" in shown
        assert "  emailerctl " in shown
        assert "Everywhere:" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_main_help_lists_the_exit_codes(world: World) -> None:
    shown = world.ok("--help").out

    for code in ("0", "1", "2", "65", "66", "69", "75", "77", "78", "130"):
        assert f" {code}  " in shown


def test_a_mistype_gets_a_suggestion(world: World) -> None:
    for words, said in (
        (("lgos",), "Did you mean 'logs'?"),
        (("queue", "stat"), "Did you mean 'stats'?"),
        (("logs", "--folow"), "--follow"),
    ):
        result = world.run(*words)
        assert result.code == 2
        assert result.out == ""
        assert said in result.err
        assert "hint: emailerctl" in result.err


def test_a_noun_alone_shows_its_commands(world: World) -> None:
    result = world.run("queue")

    assert result.code == 2
    assert "resume" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "json", "queue", "stats"),
        ("queue", "-o", "json", "stats"),
        ("queue", "stats", "-o", "json"),
        ("queue", "stats", "--json"),
        ("--json", "queue", "stats", "--no-color", "-q"),
    ],
)
def test_what_works_everywhere_stands_anywhere(world: World, words: tuple[str, ...]) -> None:
    assert world.ok(*words).json["ready"] == 0


def test_the_settings_file_is_named_before_or_after(world: World, bare: World) -> None:
    other = world.folder / "other.toml"
    other.write_text('[store]\nurl = "sqlite:////nowhere/absent.db"\n')

    result = world.run("queue", "stats", "--config", str(other))

    assert result.code == 78
    assert "/nowhere/absent.db" in result.err


def test_a_wrong_setting_names_file_and_line(world: World) -> None:
    with world.file.open("a") as file:
        file.write("[consumer]\nconcurency = 3\n")

    result = world.run("status")

    assert result.code == 78
    assert "emailer.toml:" in result.err
    assert "did you mean consumer.concurrency?" in result.err
    assert "Traceback" not in result.err


def test_debug_shows_where_an_error_comes_from(world: World) -> None:
    assert "Traceback" not in world.run("show", "zzz").err
    debugged = world.run("show", "zzz", "--debug")
    assert debugged.code == 66
    assert "Traceback" in debugged.err
    assert "error: there is no message" in debugged.err


def test_a_bug_is_called_one(world: World) -> None:
    """Exit 1, with the traceback, and what to do."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, emailerctl.cli.session as s, emailerctl.cli.main as m\n"
            "def broken(ctx, overrides=None): raise ZeroDivisionError('\\x1b[2Jboom')\n"
            "s.load_settings = broken; sys.argv = ['emailerctl', 'status']; m.main()",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=build_environment(),
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "ZeroDivisionError" in done.stderr
    assert "this is a bug" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_locale_without_the_characters_is_no_crash(world: World) -> None:
    world.submit(subject="Grüße 你好")

    result = world.ok("messages", "list", PYTHONUTF8="0", PYTHONIOENCODING="ascii")

    assert "\\u4f60" in result.out


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emailerctl"],
        capture_output=True,
        text=True,
        check=False,
        env=build_environment(),
    )

    assert done.returncode == 2
    assert "Every day:" in done.stderr
