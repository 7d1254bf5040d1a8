"""Start, question and stop the stand-in for ForestMQ; a pytest fixture for it.

>>> def test_something(start_forestmq):
...     forestmq = start_forestmq("--restart-after", "0.2")
...     forestmq.set(drop=0.5)
...     forestmq.stats()["dropped"]
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import keep_port
from tests.smtpd.fixture import ROOT, START_WITHIN_S, has_ended


class ForestMq:
    """The stand-in as a child process."""

    def __init__(self, *options: str, folder: Path) -> None:
        self.folder = folder
        self._kept = keep_port()
        self.port: int = self._kept.getsockname()[1]
        self._options = options
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.forestmq", "--port", str(self.port)]
        command += ["--control-port", "0", "--ready-file", str(ready)]
        command += ["--log", str(self.folder / "log")]
        process = subprocess.Popen([*command, *self._options], cwd=ROOT)
        deadline = time.monotonic() + START_WITHIN_S
        while not ready.exists():
            if has_ended(process, within_s=0.01):
                raise RuntimeError(f"the stand-in ended with {process.returncode}")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError(f"the stand-in is not up after {START_WITHIN_S} s")
        self._control_port = int(ready.read_text().split()[1])
        return process

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def tell(self, **order: Any) -> dict[str, int]:
        """Give an order to its control port, and return what happened so far."""
        address = ("127.0.0.1", self._control_port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile("r") as answers:
                return dict(json.loads(answers.readline()))

    def set(self, **options: float | bool) -> None:
        """Change options: `set(drop=0.5, hang=True)`."""
        self.tell(set=options)

    def put(self, message: object, *, times: int = 1) -> None:
        """Queue a message, as another publisher would."""
        self.tell(do="put", message=message, times=times)

    def stats(self) -> dict[str, int]:
        """Return what happened so far, and the length of the queue."""
        names = ("deaths", "put", "taken", "lost", "dropped", "asked", "connections")
        return dict.fromkeys(names, 0) | self.tell(do="stats")

    def log(self) -> str:
        """Return what the real one would have printed."""
        path = self.folder / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def kill(self) -> None:
        """End it by SIGKILL: everything queued is gone, connections are refused."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)

    def restart(self) -> None:
        """Start again on the same port, empty."""
        self.kill()
        self.process = self._start()

    def end(self) -> None:
        """End it for good."""
        self.kill()
        self._kept.close()


StartForestMq = Callable[..., ForestMq]


@pytest.fixture
def start_forestmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartForestMq]:
    """Start stand-ins of one's own with options; all end with the test."""
    servers: list[ForestMq] = []

    def start(*options: str) -> ForestMq:
        server = ForestMq(*options, folder=tmp_path_factory.mktemp("forestmq"))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.end()
