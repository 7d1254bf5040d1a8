"""The same commands by way of an API: the same output, the same exit codes; contexts."""

import asyncio
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from emailerctl.cli import main, output, remote_desk
from emailerctl.core import tokens
from emailerctl.models.caller import Scope
from emailerctl.settings import load
from emailerctl.wiring import open_app
from tests.api.serving import ApiProcess
from tests.cli.world import SETTINGS, Kind, Result, World

Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: they are many."""

    def run(*args: str, stdin: str = "") -> Result:
        monkeypatch.setattr(output, "_manner", output._Manner())
        monkeypatch.setattr("sys.stdin", _Stdin(stdin))
        code = main.run([*args])
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return run


class _Stdin:
    def __init__(self, text: str) -> None:
        self._lines = iter(text.splitlines(keepends=True))

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        return next(self._lines, "")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where contexts are kept; nothing in the environment says where to go."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("EMAILER_URL", "EMAILER_TOKEN", "EMAILER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A settings file and a store, for all tests here."""
    world = World(tmp_path_factory.mktemp("remote"))
    world.file.write_text(SETTINGS.format(folder=world.folder))
    world.migrate()
    return world


@pytest.fixture(scope="module")
def elsewhere(world: World) -> Iterator[tuple[str, str]]:
    """URL and token of an API over the store of *world*."""
    settings = load(world.file, environ={})

    async def make() -> str:
        async with open_app(settings) as app:
            minted = await tokens.create(
                app.store, app.clock, SystemRandom(), name="ops", scopes=list(Scope)
            )
            return minted.text

    token = asyncio.run(make())
    process = ApiProcess(settings)
    yield process.url, token
    assert process.stop() == 0


LISTINGS = (
    "messages list",
    "messages list --state queued --to ann@example.org",
    "messages list --since 1h --limit 2",
    "queue list",
    "queue stats",
    "unknown list",
    "suppressions list gone@",
    "providers list",
)


def test_what_is_listed_there_is_what_is_listed_here(
    world: World, elsewhere: tuple[str, str], run: Run
) -> None:
    url, token = elsewhere
    here, there = ("--config", str(world.file)), ("--url", url, "--token", token)
    first = world.submit(tags=["a"], metadata={"k": "v"}, expires_in="2h")
    failed = world.submit("ann@example.org", "bob@example.org")
    world.attempt(failed, Kind.PERMANENT, "550 5.1.1 nobody here")
    doubtful = world.submit()
    world.attempt(doubtful, Kind.UNKNOWN)
    assert run(*here, "suppressions", "add", "gone@example.org", "--for", "30d").code == 0
    assert run(*here, "providers", "disable", "relay", "--reason", "moves").code == 0
    assert run(*here, "queue", "pause", "--for", "2h", "--reason", "moves").code == 0

    for command in (
        *(f"{command} -o json" for command in LISTINGS),
        *("messages list", "queue stats -o jsonl", "unknown list", "suppressions list -o id"),
        *(f"show {public[:-1]} -o json" for public in (first, failed, doubtful)),
    ):
        words = command.split()
        local, distant = run(*here, *words), run(*there, *words)
        assert (local.code, distant.code) == (0, 0), (words, distant.err)
        assert distant.out == local.out, words
    assert run(*here, "queue", "resume").code == 0
    assert run(*here, "providers", "enable", "relay").code == 0
    assert "550 5.1.1 nobody here" in run(*there, "show", failed).out
    assert "may or may not" in run(*there, "show", doubtful).err
    assert "--outcome not-sent" in run(*there, "unknown", "show", doubtful).out


def test_what_is_done_there_is_done(world: World, elsewhere: tuple[str, str], run: Run) -> None:
    url, token = elsewhere
    here, there = ("--config", str(world.file)), ("--url", url, "--token", token)

    def state(public: str) -> object:
        return run(*here, "show", public, "--json").json["state"]

    words = ["send", "--to", "ann@example.org", "--from", "shop@example.org", "--text", "Hi"]
    sent = run(*there, *words, "--key", "k", "--json").json
    again = run(*there, *words, "--key", "k")
    assert "accepted earlier under this key" in again.out
    assert sent["id"] in again.out
    assert set(sent) == set(run(*here, *words, "--json").json)
    assert run(*here, "show", sent["id"], "--json").json["service"] == "ops"

    done = run(*there, "messages", "hold", sent["id"], "--reason", "legal", "--json")
    assert done.json["changed"] == ["ann@example.org"]
    assert state(sent["id"]) == "held"
    raw = run(*here, "show", sent["id"], "--raw").out
    assert run(*there, "show", sent["id"], "--raw").out == raw != ""
    assert run(*there, "messages", "release", "-", stdin=sent["id"]).code == 0
    like = run(*there, "send", "--like", sent["id"], "--to", "eve@example.org", "--json").json
    many = run(*there, "messages", "cancel", "--to", "eve@example.org", "--dry-run", "--json")
    assert [one["id"] for one in many.json["data"]] == [like["id"]]
    assert run(*there, "messages", "cancel", "--to", "eve@example.org", "--yes").code == 0
    assert state(like["id"]) == "cancelled"
    assert run(*there, "messages", "cancel", sent["id"], "--yes").code == 0
    assert state(sent["id"]) == "cancelled"
    assert run(*there, "retry", sent["id"]).code == 0
    assert state(sent["id"]) == "queued"

    doubtful = world.submit()
    world.attempt(doubtful, Kind.UNKNOWN)
    assert run(*there, "unknown", "resolve", doubtful, "--outcome", "sent").code == 0
    assert state(doubtful) == "sent"

    assert run(*there, "suppressions", "add", "lost@example.org", "--for", "30d").code == 0
    words[2] = "lost@example.org"
    ended = run(*there, *words, "--wait", "--json")
    assert (ended.code, ended.json["recipients"][0]["reason"]) == (65, "suppressed")
    assert (
        run(*there, "suppressions", "rm", "lost@example.org", "--yes", "--reason", "back").code
        == 0
    )
    assert run(*here, "suppressions", "list", "lost@", "-o", "id").out == ""

    assert run(*there, "providers", "disable", "relay", "--reason", "moves").code == 0
    assert '"reason":"moves"' in run(*here, "providers", "list", "--json").out
    assert run(*there, "providers", "enable", "relay").out == "relay is open\n"
    deeds = run(*here, "audit", "list", "--json").json["data"]
    ours = {(one["verb"], one["reason"]) for one in deeds if one["actor"].startswith("ops")}
    assert {
        ("suppression.remove", "back"),
        ("provider.disable", "moves"),
        ("provider.enable", None),
    } <= ours


def test_refusals_are_the_same_there(
    world: World, elsewhere: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, token = elsewhere
    here, there = ("--config", str(world.file)), ("--url", url, "--token", token)
    public = world.submit()
    for words, code in (
        (("show", "msg_0000000000000"), 66),
        (("send", "--to", "nobody", "--from", "@", "--subject", "x" * 2000), 65),
        (("messages", "release", public), 65),
        (("suppressions", "rm", "ann@example.org", "--yes"), 66),
        (("messages", "list", "--cursor", "?"), 65),
        (("show", "--raw", "msg_0000000000000"), 66),
    ):
        local, distant = run(*here, *words), run(*there, *words)
        assert (local.code, distant.code) == (code, code), (words, local.err, distant.err)
        if "rm" not in words:
            assert distant.err == local.err

    monkeypatch.setattr(remote_desk, "_PATIENCE_S", 0.1)
    wrong = run("--url", url, "--token", "emk_no", "messages", "list")
    nobody = run("--url", "http://127.0.0.1:1", "--token", token, "messages", "list")
    assert (wrong.code, nobody.code) == (77, 75)
    assert "http://127.0.0.1:1" in nobody.err
    for words in (
        *("status", "queue pause", "doctor", "messages export", "store audit"),
        *("store migrate", "store check", "store backup x.db", "store restore x.db --yes"),
    ):
        refused = run(*there, *words.split())
        assert refused.code == 2, refused.err
        assert "works where the store is" in refused.err
        assert "--context local" in refused.err


def test_contexts(
    world: World,
    elsewhere: tuple[str, str],
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T-17: kept for the owner alone, and refused where others may read."""
    url, token = elsewhere
    monkeypatch.chdir(world.folder)  # ./emailer.toml is the store here
    public = world.submit()
    file = home / "emailerctl/contexts.json"

    added = run("context", "add", "prod", "--url", url + "/", stdin=f"{token}\n")
    assert added.out == f"added prod: {url}\n"
    assert token not in added.out + added.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("show", public, "-o", "id").out == f"{public}\n"
    assert run("status").code == 2  # it goes there
    assert run("--context", "local", "status").code == 0
    assert run("status", "--config", str(world.file)).code == 0
    monkeypatch.setenv("EMAILER_CONFIG", str(world.file))
    assert run("status").code == 0
    monkeypatch.setenv("EMAILER_URL", "http://127.0.0.1:1")
    assert "there is no token" in run("messages", "list").err
    monkeypatch.setenv("EMAILER_TOKEN", token)
    assert run("--context", "prod", "show", public, "-o", "id").out == f"{public}\n"
    monkeypatch.delenv("EMAILER_URL")
    monkeypatch.delenv("EMAILER_CONFIG")

    listed = run("context", "list", "--json")
    assert token not in listed.out
    assert [one["name"] for one in listed.json["data"] if one["current"]] == ["prod"]
    assert run("context", "use", "nowhere").code == 66
    assert run("--url", url, "--context", "prod", "status").code == 2
    assert run("--url", "ftp://x", "messages", "list").code == 2
    for host in ("mail.example.org", "localhost.example.org", "10.0.0.1"):
        clear = run("--url", f"http://{host}", "--token", token, "messages", "list")
        assert (clear.code, "ssh -L" in clear.err) == (2, True)
    assert run("context", "use", "local").code == 0
    assert run("status").code == 0
    assert run("context", "rm", "prod", "--yes").code == 0
    assert run("context", "list", "-o", "id").out == "local\n"

    file.chmod(0o644)
    refused = run("messages", "list")
    assert (refused.code, "chmod 600" in refused.err) == (78, True)
