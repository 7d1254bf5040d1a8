"""`logs` of an API from afar: the same as of the store, and across its restarts."""

import json
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.cli.world import Kind, Result, World, build_environment, call


class Relay(socketserver.ThreadingTCPServer):
    """A port that stays, before an API whose port changes."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: who is killed leaves broken connections."""


class _Passing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        relay = self.server
        assert isinstance(relay, Relay)
        with socket.create_connection(("127.0.0.1", relay.port)) as there:
            other = {self.request: there, there: self.request}
            while True:
                for end in select.select(list(other), [], [])[0]:
                    octets = end.recv(65536)
                    if not octets:
                        return
                    other[end].sendall(octets)


@contextmanager
def serving(world: World, relay: Relay) -> Iterator[subprocess.Popen[str]]:
    """Run the API behind *relay* until the block ends, or it is killed."""
    with subprocess.Popen(
        world.command("serve", "--port", "0"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=world.folder,
        env=build_environment(),
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "api.started" in line)
        relay.port = int(re.findall(r'"port":(\d+)', line)[0])
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay
        relay.shutdown()


def create_token(world: World, *scopes: str) -> str:
    words = [word for scope in scopes for word in ("--scope", scope)]
    return str(world.ok("tokens", "create", "eye", *words, "-o", "json").json["token"])


def ask(world: World, url: str, token: str, *words: str) -> Result:
    """Run `logs` by way of an API."""
    return call(["--url", url, "--token", token, "logs", *words], folder=world.folder)


def test_the_same_as_of_the_store(world: World, relay: Relay) -> None:
    first = world.submit("ann@example.org", tags=["a"])
    world.submit("bob@example.org")
    world.attempt(first, Kind.ACCEPTED, "250 ok")
    token = create_token(world, "read:all")
    with serving(world, relay):
        for words in (
            ("--since", "1h", "--message", first[:12], "-o", "json"),
            ("--state", "sent", "--tag", "a", "-n", "5"),
        ):
            here = world.ok("logs", *words)
            there = ask(world, relay.url, token, *words)
            assert (there.code, there.out) == (0, here.out), there.err

        wrong = ask(world, relay.url, "nonsense")
        assert wrong.code == 77
    gone = ask(world, "http://127.0.0.1:9", token)
    assert (gone.code, "can't be reached" in gone.err) == (75, True)


def test_followed_across_restarts_of_the_api(world: World, relay: Relay) -> None:
    """Nothing is missed and nothing comes twice, however it ends."""
    token = create_token(world, "read:all")
    world.submit()
    seen: list[int] = []
    environment = build_environment(EMAILER_URL=relay.url, EMAILER_TOKEN=token)
    # No --config: it would mean the store here.
    words = [sys.executable, "-m", "emailerctl", "logs", "-f", "-o", "jsonl"]
    with (
        ExitStack() as again,
        serving(world, relay) as api,
        subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, cwd=world.folder, env=environment
        ) as following,
    ):
        assert following.stdout is not None
        lines = following.stdout

        def read(count: int) -> None:
            seen.extend(json.loads(lines.readline())["seq"] for _ in range(count))

        try:
            read(2)
            world.submit()
            read(2)
            for end in (signal.SIGKILL, signal.SIGTERM):
                relay.port = 0  # somebody else may get that port
                api.send_signal(end)
                api.wait(30)
                world.submit()
                api = again.enter_context(serving(world, relay))
                world.submit()
                read(4)
        finally:
            following.kill()

    assert seen == list(range(1, 13))
