"""The API as a process of its own, also one whose disk breaks when it is told to."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import Any

import httpx
import pysqlite3

from daemons.api import main
from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.errors import EmailerError
from emailerctl.models.caller import Scope
from emailerctl.settings import Settings, load
from emailerctl.store import migrations, sqlite
from emailerctl.store.statements import ADD_MESSAGE
from tests.conftest import build_settings

ROOT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 60
_BREAK = "EMAILER_TEST_BREAK"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a client would load all certificates anew


class BrokenDisk:
    """A connection on which the commit of a message fails as a sync does (SQLITE_IOERR_FSYNC).

    What the daemon writes for itself still succeeds: it would end the process before a message
    was in doubt.
    """

    def __init__(self, connection: Any, when: Callable[[], bool] = lambda: True) -> None:
        self._connection = connection
        self._when = when
        self._has_message = False

    def execute(self, sql: str, *params: Any) -> Any:
        self._look_at(sql)
        if sql == "COMMIT" and self._has_message and self._when():
            error = pysqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 10 | (4 << 8)
            raise error
        return self._connection.execute(sql, *params)

    def executemany(self, sql: str, rows: Any) -> Any:
        self._look_at(sql)
        return self._connection.executemany(sql, rows)

    def _look_at(self, sql: str) -> None:
        if sql.startswith("BEGIN"):
            self._has_message = False
        elif sql == ADD_MESSAGE:
            self._has_message = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class ApiProcess:
    """`emailerctl serve` as a child process, with settings of its own."""

    def __init__(self, settings: Settings, *, workers: int = 1, port: int = 0) -> None:
        folder = settings.store.path.parent
        number = len(list(folder.glob("api-*.log")))
        self.log = folder / f"api-{number}.log"
        self.breaks = folder / f"api-{number}.break"
        ready = folder / f"api-{number}.ready"
        environ = {
            **os.environ,
            _BREAK: str(self.breaks),
            "EMAILER_STORE__URL": settings.store.url,
            "EMAILER_PROVIDERS__RELAY__KIND": "smtp",
            "EMAILER_PROVIDERS__RELAY__HOST": "127.0.0.1",
            "EMAILER_PROVIDERS__RELAY__TLS": "none",
            "EMAILER_ROUTING__DEFAULT": "relay",
            "EMAILER_API__SHUTDOWN": "5s",
        }
        command = [sys.executable, "-m", "tests.api.serving", str(ready)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(workers), str(port)],
                cwd=ROOT,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_WITHIN_S
        while not ready.exists() and self.process.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the API is not up: {self.log.read_text()}")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
        self.port = int(ready.read_text()) if ready.exists() else 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def client(self, token: str) -> httpx.Client:
        """Return a client with a token, which makes a connection for each request."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}", "Connection": "close"},
            timeout=10,
            trust_env=False,
            verify=_NO_TLS,
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = 15) -> int:
        """Wait for the end, and return the exit code."""
        return self.process.wait(within_s)

    def stop(self) -> int:
        """End it by SIGTERM."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@contextmanager
def open_api(folder: Path) -> Iterator[tuple[ApiProcess, str]]:
    """Run an API over a new store in *folder*; yield it, and a token that may do everything."""
    place = build_settings(folder)
    migrations.migrate(place.store.path)

    async def make() -> str:
        async with wiring.open_app(place) as app:
            minted = await tokens.create(
                app.store, app.clock, SystemRandom(), name="all", scopes=list(Scope)
            )
            return minted.text

    process = ApiProcess(place)
    try:
        yield process, asyncio.run(make())
    finally:
        code = process.stop()
    assert code == 0


def _break_disk_on_demand() -> None:
    """Make every connection fail to sync as soon as the named file is there."""
    connect = sqlite.connect
    broken = Path(os.environ[_BREAK])

    def connect_breakable(path: Path, *, is_reader: bool = False) -> Any:
        connection = connect(path, is_reader=is_reader)
        return connection if is_reader else BrokenDisk(connection, broken.exists)

    sqlite.connect = connect_breakable


def _serve() -> int:
    ready, workers, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _break_disk_on_demand()

    def say(bound: int) -> None:
        whole = ready.with_suffix(".part")
        whole.write_text(str(bound))
        whole.rename(ready)

    environ = {k: v for k, v in os.environ.items() if k != _BREAK}
    settings = load(environ=environ)
    try:
        return main.run(settings, host="127.0.0.1", port=port, workers=workers, ready=say)
    except EmailerError as error:
        sys.stderr.write(f"{error.detail} ({error.cure})\n")
        return error.exit_code


def until(holds: Callable[[], bool], *, within_s: float = 10) -> None:
    """Wait for what another process does."""

    async def wait() -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, "it did not come to pass"
            await asyncio.sleep(0.01)

    asyncio.run(wait())


if __name__ == "__main__":
    sys.exit(_serve())
