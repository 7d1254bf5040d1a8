"""Child processes: started here, ended here, and what the kernel says about them."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
UP_WITHIN_S = 30.0
DOWN_WITHIN_S = 40.0

_TICKS_S = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """Something that is measured does not work: there is no figure."""


@dataclass
class Child:
    """A program that runs until it is told to stop."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def cpu_s(self) -> float:
        """Return the processor time of all its threads so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(
            encoding="ascii", errors="replace"
        )
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S  # utime, stime: proc(5)

    @property
    def rss_mb(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(
            encoding="ascii", errors="replace"
        )
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def until(self, is_so: Callable[[], object], *, within_s: float, what: str) -> None:
        """Look until *is_so*.

        Raises:
            BenchError: the program ended, or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + within_s
        while not is_so():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self.name}: {what} did not come\n{self.tell()}")
            time.sleep(0.005)

    def until_listening(self, port: int) -> "Child":
        """Wait until somebody listens on *port*, and return itself."""
        self.until(lambda: is_listening(port), within_s=UP_WITHIN_S, what=f"port {port}")
        return self

    def until_said(self, words: str) -> "Child":
        """Wait until its log has *words*, and return itself."""
        wanted = words.encode()
        self.until(
            lambda: wanted in self.log.read_bytes(), within_s=UP_WITHIN_S, what=repr(words)
        )
        return self

    def tell(self) -> str:
        """Return the end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return f"(exit code {self.process.poll()}) …{text[-1500:]}"

    def stop(self) -> None:
        """End it by SIGTERM, and wait; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DOWN_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a program whose output goes to *log*."""
    with log.open("wb") as file:
        return Child(name, _spawn(command, file, environment), log)


def _spawn(
    command: Sequence[str], file: IO[bytes], environment: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env={**clean_environment(), **(environment or {})},
        # Whatever happens to this program, none of its children outlives it.
        preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def run(command: Sequence[str]) -> str:
    """Run a program to its end, and return what it wrote.

    Raises:
        BenchError: its exit code is not 0.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=clean_environment(),
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise BenchError(f"{' '.join(command)} ended with {done.returncode}: {said[-1500:]}")
    return done.stdout.decode()


def clean_environment() -> dict[str, str]:
    """Return our environment without the product's own variables."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("EMAILER_")
    }


def python(module: str, *arguments: object) -> list[str]:
    """Return the command line of a module of this Python."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def find_free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Return whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
