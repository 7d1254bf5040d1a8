"""A daemon as a child process: started, questioned, stopped, killed by its own process id."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STARTED_WITHIN_S = 20.0


async def eventually(
    is_so: Callable[[], Any] | Callable[[], Awaitable[Any]],
    *,
    within: float = 10.0,
    saying: Callable[[], object] = lambda: "it did not come true",
) -> Any:
    """Look again and again until *is_so* gives something true, and return that."""
    deadline = time.monotonic() + within
    while True:
        found = is_so()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {saying()}")
        await asyncio.sleep(0.01)


class Daemon:
    """A child process and its log."""

    def __init__(
        self, module: str, *arguments: str, log: Path, stdin: Path | None = None
    ) -> None:
        """Start `python -m MODULE`; what it writes goes to *log*, *stdin* is what it reads."""
        self.log = log
        self._end = f"{module} in {log.name}"
        with log.open("wb") as file, (stdin or Path(os.devnull)).open("rb") as reads:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=reads,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], **_coverage()},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self, type_: str = "") -> list[dict[str, Any]]:
        """Return what it logged, all of it or what has that type."""
        lines = []
        for line in self.log.read_bytes().splitlines():
            try:
                said = json.loads(line)
            except ValueError:  # a traceback, or half a line
                continue
            if isinstance(said, dict) and type_ in ("", said.get("type")):
                lines.append(said)
        return lines

    def tell(self) -> str:
        """Return the end of its log, for who wants to know why a test failed."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return f"{self._end}, {self.process.poll()}: …{text[-3000:]}"

    async def until_line(self, type_: str, *, within: float = 10.0) -> dict[str, Any]:
        """Wait until it has logged a line of that type, and return the last of them."""

        def find() -> dict[str, Any] | None:
            found = self.lines(type_)
            if not found and self.process.poll() is not None:
                raise AssertionError(f"it ended before {type_}: {self.tell()}")
            return found[-1] if found else None

        found: dict[str, Any] = await eventually(find, within=within, saying=self.tell)
        return found

    async def until_dead(self, *, within: float = 15.0) -> int:
        """Wait for its end and return its code: -9 after a SIGKILL."""
        await eventually(
            lambda: self.process.poll() is not None, within=within, saying=self.tell
        )
        return self.process.returncode

    async def until_killed(self, *, within: float = 15.0) -> None:
        """Wait until SIGKILL has ended it."""
        code = await self.until_dead(within=within)
        assert code == -signal.SIGKILL, self.tell()

    async def until_stopped(self, *, within: float = 15.0) -> None:
        """Wait until it stands still (SIGSTOP)."""
        await eventually(self.is_stopped, within=within, saying=self.tell)

    def is_stopped(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended instead of standing still: {self.tell()}")
        status = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        return status.rpartition(")")[2].split()[0] == "T"

    def send(self, signal_: signal.Signals) -> None:
        self.process.send_signal(signal_)

    async def stop(self) -> None:
        """Let it stand still."""
        self.send(signal.SIGSTOP)
        await self.until_stopped()

    def resume(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it, now, also when it stands still."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)

    def workers(self) -> list[int]:
        """Return the processes that it has forked and that still run: those of its session."""
        told = {int(line["pid"]) for line in self.lines("api.started")}
        return [pid for pid in sorted(told - {self.pid}) if _find_session(pid) == self.pid]

    def end(self) -> None:
        """End it and its workers, which would otherwise drain first."""
        workers = self.workers()
        self.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _find_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _coverage() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
