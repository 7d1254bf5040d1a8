"""Reading the documents as an operator does, and typing what they say."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx

from emailerctl.models.caller import build_local_caller
from emailerctl.models.ids import MESSAGE, parse_public, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import MessageView
from emailerctl.settings import load
from emailerctl.store.base import HopState
from emailerctl.wiring import App, open_app
from tests.cli.world import (
    ROOT,
    WITHIN_S,
    Result,
    Terminal,
    World,
    build_environment,
    call,
)
from tests.house.test_commands import COMMANDS
from tests.smtpd.fixture import SmtpServer

Answer = TypeVar("Answer")

README = "README.md"
RUNBOOK = "docs/operations.md"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTE = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"\[([a-z_.]+)\](?: ([a-z_]+))?")
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|…|\$\w+")

# What the documents tell to set before the first start; tls, since the next hop is this test's.
SETTINGS: Mapping[str, str] = {
    "[store] url": '"sqlite:///{folder}/emailer.db"',
    "[providers.relay] kind": '"smtp"',
    "[providers.relay] host": '"127.0.0.1"',
    "[providers.relay] port": "{relay}",
    "[providers.relay] tls": '"none"',
    "[providers.relay] final_reply": '"3s"',
    "[providers.relay] breaker_failures": "1000",  # the runbook is about doubts: there are many
    "[routing] default": '["relay"]',
    "[defaults] from": '"Shop <shop@example.org>"',
    "[api] port": "0",
    "[dns] servers": '["127.0.0.1:9"]',
    "[dns] timeout": '"100ms"',
}
# Not told there: a free port, and a name server that answers nothing, at once.
OURS = ("[api] port", "[dns] servers", "[dns] timeout")
# Which messages the ID of a command must be of: what the server does with the recipient, and
# how that ends.
SUBJECTS: Mapping[str, tuple[str, State]] = {
    "retry": ("suppressed", State.FAILED),
    "messages list": ("suppressed", State.FAILED),
    "messages cancel": ("tempfail", State.QUEUED),
    "messages reschedule": ("tempfail", State.QUEUED),
    "unknown list": ("drop-after-dot", State.UNKNOWN),
    "unknown show": ("drop-after-dot", State.UNKNOWN),
    "unknown resolve": ("drop-after-dot", State.UNKNOWN),
    "unknown resend": ("drop-after-dot", State.UNKNOWN),
}


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def find_blocks(document: str, language: str) -> list[str]:
    return [block for found, block in _BLOCK.findall(read(document)) if found == language]


def find_quotes(document: str) -> list[str]:
    """Return what stands in backquotes, each once; in a table, a bar is written `\\|`."""
    quotes = _QUOTE.findall(_BLOCK.sub("", read(document)))
    return list(dict.fromkeys(quote.replace("\\|", "|") for quote in quotes))


def split_commands(block: str) -> Iterator[str]:
    """Yield the commands of a shell block, those of several lines whole."""
    command = ""
    for line in block.splitlines():
        command = f"{command}\n{line}" if command else line
        try:
            shlex.split(command, comments=True)
        except ValueError:  # a quotation goes on in the next line, or a backslash says so
            continue
        if not command.endswith("\\"):
            yield command
            command = ""
    assert not command, f"this command has no end: {command}"


def name_command(words: list[str]) -> str:
    """Return the words that name a command: `unknown resolve`, `retry`."""
    names = [word for word in words[1:3] if not word.startswith("-")]
    return " ".join(names if f"emailerctl {' '.join(names)}" in COMMANDS else names[:1])


def shape_of(value: object) -> object:
    """Return what is left of a JSON value without its contents."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape_of(inner) for inner in value]
    return type(value).__name__


def read_curl(command: str) -> tuple[str, str, dict[str, str], str | None]:
    """Return method, URL, headers and body of a curl line."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    url, headers, body = "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word != "-s":
            assert not word.startswith("-"), f"what does {word} mean?"
            url = word
    return "GET" if body is None else "POST", url, headers, body


class Installation:
    """What an operator has at the end of README's "For real": a store and both daemons."""

    def __init__(self, folder: Path, relay: SmtpServer) -> None:
        self.world = World(folder)
        self.relay = relay
        self.token = ""
        self.port = 0
        self.running: list[subprocess.Popen[str]] = []
        self.done: list[str] = []
        self.runner = asyncio.Runner()
        self.open = AsyncExitStack()
        self.app: App
        self.trials: list[str] = []  # what needs everything to run, and so is tried at the end
        self.addresses = 0
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "emailerctl"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m emailerctl "$@"\n')
        program.chmod(0o755)
        self.environment = build_environment(PATH=f"{programs}:{os.environ['PATH']}")

    # filling in

    def build_address(self, does: str = "ok") -> str:
        self.addresses += 1
        return f"{does}+{os.getpid()}-{id(self)}-{self.addresses}@example.org"

    def prepare_list(self) -> str:
        """Write a list of addresses that are not to be written to, and return its name."""
        path = self.world.folder / "bounces.csv"
        path.write_text("address,code,error,created_at\ngone@example.org,550,,\n")
        return path.name

    def fill_in(self, documented: str) -> str:
        """Put something real where the document has something that stands for it."""
        command = documented.partition("  #")[0].rstrip()
        known: dict[str, Callable[[], str]] = {
            "ID": lambda: self.prepare(name_command(shlex.split(command))),
            "NAME": lambda: "relay",
            "ADDRESS": lambda: self.prepare_address(name_command(shlex.split(command))),
            "COMMAND": lambda: "status",
            "FILE": self.prepare_list,
            "PATH": lambda: str(self.world.folder / f"backup-{self.addresses}.db"),
            "$TOKEN": lambda: self.token,
            "…/emailer.toml": lambda: str(self.world.file),
            ".venv/bin/emailerctl": lambda: "emailerctl",
            "127.0.0.1:8080": lambda: f"127.0.0.1:{self.port}",
        }
        filled, rest = command, command
        for placeholder, find in known.items():
            stands = re.compile(rf"(?<![\w$]){re.escape(placeholder)}(?!\w)")
            rest = stands.sub("", rest)
            if stands.search(filled):
                said = find()
                filled = stands.sub(lambda _match, said=said: said, filled)  # type: ignore[misc]
        assert not _PLACEHOLDER.search(rest), f"what does it stand for in {documented!r}?"
        return filled

    def work(self, task: Awaitable[Answer]) -> Answer:
        """Do something to the store behind the programs' backs."""

        async def main() -> Answer:
            return await task

        return self.runner.run(main())

    def prepare(self, name: str) -> str:
        """Return the id of a message of the kind that a command is for."""
        does, state = SUBJECTS.get(name, ("ok", State.SENT))
        return self.submit(does, state)

    def prepare_address(self, name: str) -> str:
        """Return an address; one that is suppressed where a command is for those."""
        address = self.build_address()
        if name == "suppressions rm":
            self.type(f"emailerctl suppressions add {address}")
        return address

    def submit(self, does: str, state: State) -> str:
        """Have a message accepted, and wait until it has come to that."""
        address = self.build_address(does)
        if does == "suppressed":
            self.type(f"emailerctl suppressions add {address}")
        asked = {"to": address, "subject": "Hello", "text": "It works."}
        caller = build_local_caller("test")
        receipt = self.work(self.app.acceptance.accept(asked, caller=caller))
        public = to_public(MESSAGE, receipt.message_id)
        if does == "suppressed":  # by mistake, as it turns out
            self.type(f"emailerctl suppressions rm {address} --yes")

        def is_there() -> bool:
            view = self.look(public)
            return view.state is state and (state is not State.QUEUED or bool(view.attempts))

        self.wait(is_there, saying=lambda: f"{address} is {self.look(public)}")
        return public

    def look(self, public: str) -> MessageView:
        message_id = parse_public(MESSAGE, public)
        assert message_id is not None
        view = self.work(self.app.store.find_message(message_id))
        assert view is not None
        return view

    def wait(
        self, is_so: Callable[[], object], saying: Callable[[], str] = lambda: "it never was so"
    ) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline, saying()
            self.work(asyncio.sleep(0.01))

    # typing

    def type(self, command: str) -> Result:
        """Give a command to the shell; one that needs no shell is run in this process."""
        if re.fullmatch(r"emailerctl [^|&;<>$`\n]*", command):
            return call(shlex.split(command)[1:], folder=self.world.folder)
        done = subprocess.run(
            ["sh", "-c", command],
            input="",
            capture_output=True,
            text=True,
            cwd=self.world.folder,
            env=self.environment,
            timeout=WITHIN_S,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def carry_out(self, documented: str) -> Result:
        """Do what the document says; who is asked, answers yes."""
        name = name_command(shlex.split(documented, comments=True))
        if name in SUBJECTS and " ID" not in documented:
            self.prepare(name)  # a listing that has something to list
        command = self.fill_in(documented)
        result = self.type(command)
        if result.code == 2 and "--yes" in result.err:
            result = self.type(f"{command} --yes")
        return result

    def start(self, documented: str, until: str) -> tuple[subprocess.Popen[str], str]:
        """Start what runs until it is told to stop; return it, and the line *until* is in."""
        log = self.world.folder / f"{len(self.running)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {self.fill_in(documented)}"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.world.folder,
                env=self.environment,
            )
        self.running.append(process)
        self.wait(lambda: until in log.read_text() or process.poll() is not None, log.read_text)
        assert until in log.read_text(), log.read_text()
        line = next(line for line in log.read_text().splitlines() if until in line)
        return process, line

    def stop(self, process: subprocess.Popen[str], number: signal.Signals) -> int:
        process.send_signal(number)
        return process.wait(WITHIN_S)

    def follow(self, documented: str) -> None:
        """Watch the log while a message travels, then press Ctrl-C."""
        process, _ = self.start(documented, "recipient")  # the head of its columns
        log = self.world.folder / f"{len(self.running) - 1}.log"
        public = self.submit("ok", State.SENT)

        def tells_all() -> bool:
            lines = [line for line in log.read_text().splitlines() if public in line]
            told = ("message.accepted", "recipient.marked", "recipient.handed_over")
            return all(any(type_ in line for line in lines) for type_ in told)

        self.wait(tells_all, log.read_text)
        assert self.stop(process, signal.SIGINT) == 130

    def watch(self, documented: str) -> None:
        """Look at a screen that is drawn anew until somebody leaves it."""
        words = ["sh", "-c", f"exec {self.fill_in(documented)}"]
        with Terminal(words, cwd=self.world.folder, environment=self.environment) as terminal:
            terminal.read_until("relay")
            terminal.type("q")
            assert terminal.finish().code == 0

    def call(self, documented: str) -> httpx.Response:
        """Ask as the curl line does, word for word where there is a curl."""
        if not shutil.which("curl", path=self.environment["PATH"]):
            return self.call_without_curl(documented)
        command = self.fill_in(documented).replace("curl", "curl -i", 1)
        result = self.type(command)
        assert result.code == 0, result.err
        head, _, content = result.out.partition("\n\n")
        status, *fields = head.splitlines()
        headers = dict(field.split(": ", 1) for field in fields)
        return httpx.Response(int(status.split()[1]), headers=headers, content=content.encode())

    def call_without_curl(self, documented: str) -> httpx.Response:
        """Ask the same: method, URL, headers and body are those of the line."""
        method, url, headers, body = read_curl(self.fill_in(documented))
        return httpx.request(method, url, headers=headers, content=body, trust_env=False)

    def restore(self) -> None:
        """Undo what commands have stopped: the next one finds everything running."""

        async def open_all() -> bool:
            now_ms = self.app.clock.now_ms()
            await self.app.store.resume(actor="test", now_ms=now_ms)
            for hop in await self.app.store.list_next_hops():
                if hop.state is not HopState.OPEN:
                    opened = replace(hop, state=HopState.OPEN, changed_ms=now_ms)
                    await self.app.store.set_next_hop(opened)
            _epoch, tokens = await self.app.store.load_tokens()
            return any(token.revoked_ms is None for token in tokens)

        if not self.work(open_all()):
            self.type("emailerctl tokens create shop --scope send")

    # the steps of README, "For real"

    def install(self) -> None:
        """Do the shell blocks of README from top to bottom."""
        for block in find_blocks(README, "sh"):
            for command in split_commands(block):
                self.take_step(command)
                self.done.append(command.split("  ")[0])

    def take_step(self, command: str) -> None:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert words[1] in find_targets()
        elif words[0] == "curl":
            self.check_call(command)
        elif words[-2:] == ["logs", "--follow"]:
            self.trials.append(command)
        elif name_command(words) == "serve":
            _, line = self.start(command, "api.started")
            self.port = json.loads(line)["port"]
        elif name_command(words) == "consume":
            self.start(command, "consumer.started")
        else:
            result = self.carry_out(command)
            assert result.code == 0, f"{command}: {result.err}"
            if name_command(words) == "config init":
                self.configure()
            elif name_command(words) == "store migrate":
                settings = load(self.world.file, environ={})
                self.app = self.work(self.open.enter_async_context(open_app(settings)))
            elif name_command(words) == "tokens create":
                self.token = result.out.strip()
                assert "not shown again" in result.err

    def check_call(self, command: str) -> None:
        """Post as README does: its answer, twice; and its mail, once."""
        first, again = self.call(command), self.call_without_curl(command)
        (documented,) = find_blocks(README, "json")
        example = json.loads(documented)

        assert (first.status_code, again.status_code) == (202, 202), first.text
        assert shape_of(first.json()) == shape_of(example)
        assert first.json()["recipients"] == example["recipients"]
        assert (first.json()["state"], first.json()["warnings"]) == ("queued", [])
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["Idempotent-Replayed"] == "true"
        self.wait(lambda: self.look(first.json()["id"]).state is State.SENT)
        assert self.relay.copies("ann@example.com") == 1

    def configure(self) -> None:
        """Set in the new file what README says."""
        said = " ".join(read(README).split())
        lines = self.world.file.read_text().splitlines()
        for name, value in SETTINGS.items():
            found = SETTING.fullmatch(name)
            assert found, name
            is_told = f"`{name}`" in said or f"`[{found[1]}]`" in said
            assert is_told or name in OURS
            at = next(i for i, line in enumerate(lines) if line.strip("#") == f"[{found[1]}]")
            lines[at] = f"[{found[1]}]"
            at = next(
                i
                for i in range(at + 1, len(lines))
                if lines[i].strip("#").startswith(f"{found[2]} = ")
            )
            text = value.format(folder=self.world.folder, relay=self.relay.port)
            lines[at] = f"{found[2]} = {text}"
        self.world.file.write_text("\n".join(lines))

    def end(self) -> list[int]:
        """Stop what still runs; return the exit codes."""
        codes = [
            self.stop(process, signal.SIGTERM)
            for process in self.running
            if process.poll() is None
        ]
        self.work(self.open.aclose())
        self.runner.close()
        return codes


def find_targets() -> set[str]:
    """Return what `make` can be told."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
