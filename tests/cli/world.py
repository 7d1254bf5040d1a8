"""A store of one's own, the program as a child process, and what happens behind its back."""

import asyncio
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from emailerctl.cli import main, output
from emailerctl.models.caller import build_local_caller
from emailerctl.models.clock import boot_id
from emailerctl.models.ids import MESSAGE, build_lease_token, parse_public, to_public
from emailerctl.models.lifecycle import Cause, WaitingFor
from emailerctl.models.outcome import Kind, Outcome, Phase
from emailerctl.settings import load
from emailerctl.store.base import AttemptResult, Claim, Consumer, Settlement
from emailerctl.store.migrations import migrate
from emailerctl.wiring import App, open_app

Answer = TypeVar("Answer")

ROOT = Path(__file__).parents[2]
WITHIN_S = 30.0

SETTINGS = """\
[store]
url = "sqlite:///{folder}/emailer.db"
[providers.relay]
kind = "smtp"
host = "127.0.0.1"
port = 9
tls = "none"
[routing]
default = ["relay"]
[defaults]
from = "Shop <no-reply@example.org>"
"""


def build_environment(**more: str) -> dict[str, str]:
    """Return an environment that says nothing about settings and colours."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("EMAILER_") and key not in {"NO_COLOR", "FORCE_COLOR", "CLICOLOR"}
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        **more,
    }


@cache
def build_empty_store() -> bytes:
    """Return the file of a store that `emailerctl store migrate` has just made."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emailer.db"
        migrate(path)
        return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed, as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What was printed, line by line."""
        return self.out.splitlines()


def call(words: Sequence[str], *, folder: Path, stdin: str = "") -> Result:
    """Run the program in this process, as on pipes: it costs no interpreter's start.

    An error that is not deliberate is not caught: no test may see a traceback.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
    output._manner = output._Manner()
    real, sys.stdin = sys.stdin, given
    try:
        with redirect_stdout(out), redirect_stderr(err), chdir(folder):
            code = main.run(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdin = real
    shown, told = (cast("io.BytesIO", one.buffer).getvalue().decode() for one in (out, err))
    return Result(code, shown, told)


DAEMONS = frozenset({"dev", "serve", "consume"})  # these take signals, and fork


@dataclass(frozen=True, slots=True)
class World:
    """A folder with a settings file and, once migrated, a store."""

    folder: Path

    @property
    def file(self) -> Path:
        """The settings file."""
        return self.folder / "emailer.toml"

    def command(self, *args: str) -> list[str]:
        """Return the words of a command on this store."""
        return [sys.executable, "-m", "emailerctl", "--config", str(self.file), *args]

    def run(self, *args: str, stdin: str = "", **environment: str) -> Result:
        """Run a command on pipes; a daemon, or with an environment, in a process of its own."""
        if not environment and args[0] not in DAEMONS:
            return self.call(*args, stdin=stdin)
        done = subprocess.run(
            self.command(*args),
            input=stdin.encode(),
            capture_output=True,
            cwd=self.folder,
            env=build_environment(**environment),
            timeout=WITHIN_S,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, stdin: str = "", **environment: str) -> Result:
        """Run a command that must succeed."""
        result = self.run(*args, stdin=stdin, **environment)
        assert result.code == 0, result.err
        return result

    def call(self, *args: str, stdin: str = "") -> Result:
        """Run a command on pipes, in this process."""
        return call(["--config", str(self.file), *args], folder=self.folder, stdin=stdin)

    def run_on_terminal(
        self, *args: str, answers: Mapping[str, str] | None = None, **environment: str
    ) -> Result:
        """Run a command on a terminal of 120 columns, typing *answers* to its questions."""
        with Terminal(
            self.command(*args), cwd=self.folder, environment=build_environment(**environment)
        ) as terminal:
            for question, answer in (answers or {}).items():
                terminal.read_until(question)
                terminal.type(f"{answer}\n")
            return terminal.finish()

    def work(self, task: Callable[[App], Awaitable[Answer]]) -> Answer:
        """Do something to the store behind the program's back."""

        async def main() -> Answer:
            async with open_app(load(self.file, environ={})) as app:
                return await task(app)

        return asyncio.run(main())

    def migrate(self) -> None:
        """Make the store: a copy of one that was made once."""
        path = load(self.file, environ={}).store.path
        path.write_bytes(build_empty_store())
        path.chmod(0o600)

    def submit(self, *to: str, **fields: object) -> str:
        """Accept a message; return its public id."""
        wanted: dict[str, object] = {
            "to": list(to) or ["ann@example.org"],
            "subject": "Hello",
            "text": "It works.",
            **fields,
        }

        async def task(app: App) -> str:
            receipt = await app.acceptance.accept(wanted, caller=build_local_caller("test"))
            return to_public(MESSAGE, receipt.message_id)

        return self.work(task)

    def attempt(self, public: str, kind: Kind, reply: str = "", *, asked: str = "") -> None:
        """Let a consumer attempt a message, the next hop answering *kind* to the last byte.

        *asked*: it is that one, and it can be asked what became of it.
        """
        self.work(lambda app: _attempt(app, public, kind, reply, asked))

    def claim(self, public: str) -> None:
        """Let a consumer take a message, and do nothing with it."""
        self.work(lambda app: _claim(app, public))


async def _claim(app: App, public: str) -> Claim:
    now_ms, boot_ms = app.clock.now_ms(), app.clock.boot_ms()
    consumer_id = build_lease_token(app.rng)
    await app.store.register(
        Consumer(
            consumer_id=consumer_id,
            host="here",
            pid=1,
            boot_id=boot_id(),
            version="test",
            started_ms=now_ms,
            heartbeat_ms=now_ms,
            lease_until_ms=boot_ms + 60_000,
        )
    )
    message_id = parse_public(MESSAGE, public)
    assert message_id is not None
    [claim] = await app.store.claim([message_id], consumer_id=consumer_id, now_ms=now_ms)
    return claim


async def _attempt(app: App, public: str, kind: Kind, reply: str, asked: str) -> None:
    now_ms, boot_ms = app.clock.now_ms(), app.clock.boot_ms()
    claim = await _claim(app, public)
    everyone = frozenset(recipient.n for recipient in claim.recipients)
    assert await app.store.mark(
        claim,
        everyone,
        provider=asked or "relay",
        now_ms=now_ms,
        boot_ms=boot_ms,
        final_reply_ms=1,
    )
    cause = {
        Kind.ACCEPTED: Cause.HANDED_OVER,
        Kind.TRANSIENT: Cause.DEFERRED,
        Kind.PERMANENT: Cause.REFUSED,
        Kind.UNKNOWN: Cause.UNANSWERED,
    }[kind]
    outcome = Outcome(kind=kind, phase=Phase.ANSWER, reply=reply)
    settlement = Settlement(cause=cause, outcome=outcome)
    result = AttemptResult(
        settlements=dict.fromkeys(everyone, settlement),
        provider=asked or "relay",
        can_ask=bool(asked),
        phase=Phase.ANSWER,
        started_ms=now_ms,
        marked=everyone,
        dialogue=f"S: {reply}",
        due_ms=now_ms + 3_600_000,
        waiting_for=WaitingFor.RETRY,
        next_hop="relay",
        chain_index=0,
        schedule_step=1,
    )
    assert await app.store.settle(claim, result, now_ms=app.clock.now_ms())


class Terminal:
    """A child process on a pseudo-terminal."""

    def __init__(
        self, command: list[str], *, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        """Start *command*."""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(command[0], command, {**environment, "COLUMNS": "120"})
        self._seen = b""
        self._code: int | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self._terminal, text.encode())

    def read_until(self, text: str) -> str:
        """Read until *text* has been shown; return everything so far."""
        deadline = time.monotonic() + WITHIN_S
        while text.encode() not in self._seen:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} never came: {self._seen.decode()}")
        return self._seen.decode()

    def finish(self) -> Result:
        """Read to the end; return what was shown, and the exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self._read(deadline):
            pass
        _pid, status = os.waitpid(self.pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        shown = self._seen.decode().replace("\r\n", "\n")
        return Result(self._code, shown, "")

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
        assert ready, f"nothing came in time: {self._seen.decode()}"
        try:
            chunk = os.read(self._terminal, 65536)
        except OSError:  # how Linux says that the other side has closed
            return False
        self._seen += chunk
        return bool(chunk)


_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def strip_styles(text: str) -> str:
    """Remove our own colours: what escapes are left came from elsewhere."""
    return _STYLE.sub("", text)


__all__ = ["Kind", "Result", "Terminal", "World", "build_environment", "strip_styles"]
