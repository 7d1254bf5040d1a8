"""Start, question and stop the misbehaving server; a pytest fixture for it.

Import `start_smtpd` into a conftest; then

>>> def test_something(start_smtpd):
...     server = start_smtpd("--no-pipelining")
...     send_to(server.port)
...     assert server.copies("ok@example.org") == 1
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import keep_port

ROOT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 10


def has_ended(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    """Wait so long for the end of *process*, and say whether it came."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


class SmtpServer:
    """The server as a child process."""

    def __init__(self, *options: str, folder: Path | None = None, port: int = 0) -> None:
        """Start with command-line *options*, and wait until it listens."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="smtpd-"))
        self._journal = self.folder / "journal.jsonl"
        self._transcript = self.folder / "transcript.txt"
        self._options = options
        self._kept = keep_port(port)
        self.port: int = self._kept.getsockname()[1]
        self.process = self._start()
        self.is_pristine = True

    def _start(self) -> subprocess.Popen[bytes]:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.smtpd", "--port", str(self.port)]
        command += ["--journal", str(self._journal), "--ready-file", str(ready)]
        if "--no-fsync" not in self._options:
            command += ["--transcript", str(self._transcript)]
        process = subprocess.Popen([*command, *self._options], cwd=ROOT)
        self._wait_until_ready(process)
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        ready = self.folder / "ready"
        deadline = time.monotonic() + START_WITHIN_S
        while not ready.exists():
            if has_ended(process, within_s=0.01):
                raise RuntimeError(f"the SMTP server ended with {process.returncode}")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError(f"the SMTP server is not up after {START_WITHIN_S} s")

    def begin_anew(self) -> None:
        """Forget everything: journal, transcript, connections, addresses seen."""
        (self.folder / "ready").unlink()
        self.process.send_signal(signal.SIGHUP)
        self._wait_until_ready(self.process)

    def restart(self) -> None:
        """Start again on the same port, with the same journal, after `stop` or `kill`."""
        self.process = self._start()

    def journal(self) -> list[dict[str, Any]]:
        """Return every accepted copy so far, oldest first."""
        if not self._journal.exists():
            return []
        text = self._journal.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def copies(self, recipient: str) -> int:
        """Return how many copies were accepted for *recipient*."""
        return sum(copy["recipient"] == recipient for copy in self.journal())

    def transcript(self) -> list[str]:
        """Return what was said: `<connection> > ours`, `< theirs`, `- what happened`."""
        if not self._transcript.exists():
            return []
        return self._transcript.read_text(encoding="utf-8").splitlines()

    def stop(self) -> None:
        """End it by SIGTERM; harmless when it has ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=10)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.is_pristine = False
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)

    def pause(self) -> None:
        """Stop it (SIGSTOP)."""
        self.is_pristine = False
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> "SmtpServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.resume_and_stop()

    def resume_and_stop(self) -> None:
        """End it, also when it is paused."""
        if self.process.poll() is None:
            self.resume()
        self.stop()
        self._kept.close()


_IDLE = pytest.StashKey[dict[tuple[str, ...], list[SmtpServer]]]()


def find_idle(config: pytest.Config) -> dict[tuple[str, ...], list[SmtpServer]]:
    """Return the servers that a test is done with, by options: starting one takes longer."""
    if _IDLE not in config.stash:
        config.stash[_IDLE] = {}
        config.pluginmanager.register(_AtTheEnd(config.stash[_IDLE]))
    return config.stash[_IDLE]


class _AtTheEnd:
    """Ends what is idle.  Not as a clean-up of the configuration: workers are killed in it."""

    def __init__(self, idle: dict[tuple[str, ...], list[SmtpServer]]) -> None:
        self._idle = idle

    def pytest_sessionfinish(self) -> None:
        stop_all(self._idle)


def stop_all(idle: dict[tuple[str, ...], list[SmtpServer]]) -> None:
    """End every server that is left."""
    for servers in idle.values():
        for server in servers:
            server.resume_and_stop()


@pytest.fixture
def start_smtpd(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., SmtpServer]]:
    """Start servers of one's own with options, as good as new; all end with the test."""
    all_idle = find_idle(pytestconfig)
    servers: list[tuple[tuple[str, ...], SmtpServer]] = []

    def start(*options: str) -> SmtpServer:
        idle = all_idle.get(options)
        if idle:
            server = idle.pop()
            server.begin_anew()
        else:
            server = SmtpServer(*options, folder=tmp_path_factory.mktemp("smtpd"))
        servers.append((options, server))
        return server

    yield start
    for options, server in servers:
        if server.process.poll() is None and server.is_pristine:
            all_idle.setdefault(options, []).append(server)
        else:
            server.resume_and_stop()
