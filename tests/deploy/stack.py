"""The stack as `docker compose` runs it, and what is seen of it from outside."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email import message_from_string
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.engine import ROOT, Engine

# Looked at more often than in earnest, so that tests are short; and the stand-in in the place
# of ForestMQ's image, which can't be fetched everywhere.
OVERRIDE = f"""\
services:
  api: {{healthcheck: {{interval: 2s, retries: 10}}}}
  consumer: {{healthcheck: {{interval: 2s, retries: 10}}}}
  inbox: {{healthcheck: {{interval: 2s, retries: 10}}}}
  forestmq: &stand_in
    image: emailerctl:latest
    entrypoint:
      [python3, -m, tests.forestmq, --address, 0.0.0.0, --port, "8005", --log, /dev/stdout]
    working_dir: /src
    volumes: ["{ROOT}:/src:ro"]
    healthcheck: {{interval: 2s, retries: 10}}
  forestmq-jobs: *stand_in
"""


def eventually(
    is_so: Callable[[], object], *, within_s: float, saying: Callable[[], str]
) -> Any:
    """Wait until *is_so* gives something true, and return that."""
    deadline = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, saying()
        time.sleep(0.2)
    return found


@dataclass
class Stack:
    """A project of `docker compose` with the profile `dev`, and others."""

    engine: Engine
    folder: Path
    port: int
    project: str = "emailer-test"
    environ: dict[str, str] = field(default_factory=dict)
    token: str = ""
    profiles: tuple[str, ...] = ("dev",)

    def __post_init__(self) -> None:
        (self.folder / "override.yml").write_text(OVERRIDE)
        self.environ.setdefault("EMAILER_LISTEN", f"127.0.0.1:{self.port}")

    def compose(self, *words: str, must: bool = True) -> str:
        """Run `docker compose` on the project; return what it said."""
        files = (
            "-f",
            str(ROOT / "docker-compose.yml"),
            "-f",
            str(self.folder / "override.yml"),
        )
        done = self.engine.run(
            *("docker", "compose", "-p", self.project, *files),
            *(word for profile in self.profiles for word in ("--profile", profile)),
            *words,
            must=must,
            environ=self.environ,
        )
        return done.stdout + (done.stderr if not must else "")

    def up(self) -> None:
        """Start what is down, and wait until all is healthy."""
        words = ("up", "--detach", "--wait", "--wait-timeout", "120")
        if "unhealthy" in self.compose(*words, must=False):
            raise AssertionError(self.tell_health())

    def tell_health(self) -> str:
        """Say what the health checks said last."""
        containers = self.compose("ps", "--all", "--quiet").split()
        layout = "{{.Name}} {{json .State}}"
        return self.engine.run("docker", "inspect", "--format", layout, *containers).stdout

    def cli(self, *words: str) -> str:
        """Run the command line in the API's container."""
        return self.compose("exec", "-T", "api", "emailerctl", *words)

    def kill(self, service: str) -> None:
        """Send SIGKILL to a service's container."""
        self.compose("kill", "--signal", "KILL", service)

    def create_token(self) -> None:
        """Make the token that `post` uses."""
        made = self.cli(
            "tokens", "create", "t", "--scope", "send", "--scope", "read", "-o", "json"
        )
        self.token = json.loads(made)["token"]

    def post(self, key: str) -> str:
        """Have a message accepted, repeating the request until it is; return its id."""
        body = {"to": f"{key}@example.org", "subject": key, "text": "Hello"}
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key}

        def ask() -> str:
            try:
                answer = httpx.post(
                    f"http://127.0.0.1:{self.port}/v1/messages", json=body, headers=headers
                )
            except httpx.TransportError:
                return ""
            return answer.json()["id"] if answer.status_code == 202 else ""

        found: str = eventually(ask, within_s=90, saying=lambda: f"{key} is not accepted")
        return found

    def states(self) -> Mapping[str, str]:
        """Return every message's state by its id."""
        found: dict[str, str] = {}
        cursor: list[str] = []
        while True:
            words = ("messages", "list", "--limit", "200", *cursor, "-o", "json")
            page = json.loads(self.cli(*words))
            found |= {message["id"]: message["state"] for message in page["data"]}
            if page["next_cursor"] is None:
                return found
            cursor = ["--cursor", page["next_cursor"]]

    def copies(self) -> Counter[str]:
        """Return how many copies of each message the inbox has."""
        program = (
            "import sys,pathlib;"
            "[print(p.read_text('latin-1').partition('\\r\\n\\r\\n')[0], end='\\0')"
            " for p in pathlib.Path('/var/lib/emailer').glob('*.eml')]"
        )
        heads = self.compose("exec", "-T", "inbox", "python3", "-c", program)
        ids = (
            message_from_string(head)["Message-ID"] or ""
            for head in heads.split("\0")
            if head.strip()
        )
        return Counter(name.strip("<>").partition("@")[0] for name in ids)

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self.compose("down", "--volumes", "--timeout", "20", must=False)
