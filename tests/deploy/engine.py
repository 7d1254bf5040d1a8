"""A Docker engine of the tests' own: its socket, data and processes are in one folder."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "python:3.13-slim-bookworm"
_WITHIN_S = 60.0
_AS_OFFICIAL = (
    "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    'CMD ["python3"]',
)


@dataclass(frozen=True)
class Engine:
    """A running engine, and the programs that talk to it."""

    folder: Path
    tools: Path

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EMAILER_", "DOCKER"))}
        return {
            **kept,
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "config"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.tools / "collections"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "PATH": f"{self.tools / 'venv/bin'}:{kept['PATH']}",
        }

    def run(
        self,
        *words: str | Path,
        cwd: Path = ROOT,
        within_s: float = 300,
        must: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client; it must succeed unless told otherwise."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert not must or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done


@contextmanager
def start_engine(folder: Path, tools: Path) -> Iterator[Engine]:
    """Start an engine, with a stand-in for the base image where no registry is asked."""
    pid_file = folder / "docker.pid"
    (folder / "config").mkdir(parents=True)
    (folder / "config/cli-plugins").symlink_to(tools / "cli-plugins")
    words = [
        "dockerd",
        *("--host", f"unix://{folder}/docker.sock"),
        *("--pidfile", str(pid_file)),
        *("--data-root", str(folder / "data")),
        *("--exec-root", str(folder / "exec")),
    ]
    engine = Engine(folder, tools)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        _wait_until_ready(engine, process)
        changes = [part for change in _AS_OFFICIAL for part in ("--change", change)]
        engine.run("docker", "import", *changes, tools / "base.tar", BASE)
        yield engine
    finally:
        running = engine.run("docker", "ps", "--quiet", "--all", must=False).stdout.split()
        if running:
            engine.run("docker", "rm", "--force", *running, must=False)
        process.send_signal(signal.SIGTERM)
        process.wait(_WITHIN_S)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(engine: Engine, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _WITHIN_S
    while engine.run("docker", "version", must=False).returncode:
        said = (engine.folder / "log").read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"the engine ended by itself: {said}"
        assert time.monotonic() < deadline, f"the engine did not get ready: {said}"


def _unmount(folder: Path) -> None:
    """Unmount what the engine leaves mounted (network namespaces)."""
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{folder}/"):
            with contextlib.suppress(OSError):
                subprocess.run(["umount", place], check=False, capture_output=True)


def find_free_port() -> int:
    """Return a port of this host that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
