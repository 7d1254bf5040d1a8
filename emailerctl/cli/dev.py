"""`emailerctl dev`: everything at once on a throw-away store, to try things."""

import asyncio
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemons.inbox.main import Arrival
from daemons.inbox.main import run as run_inbox
from emailerctl.cli import output
from emailerctl.core import templates, tokens
from emailerctl.errors import EmailerError, NextHopRefused, TimedOut, UsageError
from emailerctl.settings import Settings, load
from emailerctl.store.migrations import migrate
from emailerctl.templates.folder import STARTERS, read_folders
from emailerctl.wiring import App, open_app

_HOST = "127.0.0.1"
_PORT = 8080
_PORTS_TRIED = 100
_READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 15.0
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_ASKED_TO_STOP = (signal.SIGINT, signal.SIGTERM)
_TOKEN = "dev"  # noqa: S105  (its name)
_SCOPES = ("send", "read", "content", "operate")
_SAID_ALOUD = frozenset({"warning", "error"})

_SETTINGS = """\
# Written by `emailerctl dev`: everything is on this machine, and nothing leaves it.
[store]
url = {store}
[api]
host = "{host}"
port = {port}
[providers.inbox]
kind = "smtp"
host = "{host}"
port = {inbox_port}
tls = "none"
[routing]
default = ["inbox"]
[limits]
allow_local_domains = true
[defaults]
from = "Example <no-reply@example.org>"
"""


def run(*, port: int | None, store: Path | None, keep: bool) -> int:
    """Run everything until it is asked to stop; return the exit code.

    Args:
        port: the API's; None: 8080, or the next free one.
        store: a folder to use and to keep; None: one that is removed at the end.
        keep: keep that one too.

    Raises:
        UsageError: the port is taken, or the folder can't be made.
        NextHopRefused, TimedOut: a part ended by itself, or never became ready.
    """
    with _open_folder(store, keep=keep) as folder:
        return asyncio.run(_run(_set_up(folder, port)))


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a run consists of."""

    folder: Path
    file: Path
    settings: Settings
    inbox_port: int
    is_kept: bool = False

    @property
    def inbox(self) -> Path:
        """Where each mail is a file."""
        return self.folder / "inbox"


@dataclass(slots=True)
class _Child:
    """One of the two daemons, and the file that its log goes to."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    reading: asyncio.Task[None]


@contextlib.contextmanager
def _open_folder(store: Path | None, *, keep: bool) -> Iterator[Path]:
    if store is not None:
        try:
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't make the folder {store}: {error.strerror}") from error
        yield store.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="emailerctl-dev-"))
    try:
        yield folder
    finally:
        if keep:
            output.note(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


def _set_up(folder: Path, port: int | None) -> _Bench:
    """Write the settings and make the store."""
    file = folder / "emailer.toml"
    inbox_port = _find_free_port()
    text = _SETTINGS.format(
        store=json.dumps(f"sqlite:///{folder / 'emailer.db'}"),
        host=_HOST,
        port=_choose_port(port),
        inbox_port=inbox_port,
    )
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
    settings = load(file, environ={})  # what is set around here is for the real thing
    migrate(settings.store.path)
    bench = _Bench(folder, file, settings, inbox_port)
    bench.inbox.mkdir(exist_ok=True)
    return bench


def _choose_port(wanted: int | None) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise UsageError(f"port {wanted} is taken", hint="name another --port, or none")
        return wanted
    free = (port for port in range(_PORT, _PORT + _PORTS_TRIED) if _is_free(port))
    return next(free, None) or _find_free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


async def _run(bench: _Bench) -> int:
    """Run until somebody says stop or a part ends; return the exit code."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _ASKED_TO_STOP:
        loop.add_signal_handler(number, stopping.set)
    stopped = asyncio.create_task(stopping.wait())
    inbox = await _start_inbox(bench)
    children: list[_Child] = []
    try:
        for name in ("serve", "consume"):
            child = await _start(bench, name)
            children.append(child)  # so that it is stopped if the next one fails
        ended = [asyncio.create_task(child.process.wait()) for child in children]
        async with open_app(bench.settings) as opened:
            token = await _make_token(opened)
            await _publish_starters(opened)
            ready = asyncio.create_task(_wait_until_ready(opened, bench))
            await asyncio.wait({ready, stopped, inbox, *ended}, return_when="FIRST_COMPLETED")
            if ready.done():
                ready.result()
                _welcome(bench, token)
                await asyncio.wait({stopped, inbox, *ended}, return_when="FIRST_COMPLETED")
            ready.cancel()
        if stopping.is_set():
            return 0
        if inbox.done():
            inbox.result()
        raise _build_end_error(children)
    finally:
        await _stop(children)
        inbox.cancel()
        await asyncio.gather(inbox, return_exceptions=True)


async def _start_inbox(bench: _Bench) -> asyncio.Task[None]:
    is_ready = asyncio.Event()
    task = asyncio.create_task(
        run_inbox(_HOST, bench.inbox_port, bench.inbox, _write_arrival, is_ready)
    )
    waiting = asyncio.create_task(is_ready.wait())
    await asyncio.wait({task, waiting}, return_when="FIRST_COMPLETED")
    if task.done():
        waiting.cancel()
        task.result()
    return task


async def _start(bench: _Bench, name: str) -> _Child:
    """Start a daemon as a child that does not outlive this process, whatever ends it."""
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith("EMAILER_")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "emailerctl",
        "--config",
        str(bench.file),
        name,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
        # Ctrl-C is for this process, which stops them with one signal each: that drains.
        process_group=0,
        preexec_fn=_die_with_parent,
    )
    log = bench.folder / f"{name}.log"
    return _Child(name, process, log, asyncio.create_task(_keep_log(name, process, log)))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _keep_log(name: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Keep what a daemon says in its file; warnings, and what is no log line, are shown too."""
    assert process.stdout is not None  # noqa: S101  (it was asked for)
    with log.open("ab") as file:
        while line := await process.stdout.readline():
            file.write(line)
            file.flush()
            _show(name, line)


def _show(name: str, line: bytes) -> None:
    """Show what a daemon says if it must be seen: a warning, or what is no line of its log."""
    try:
        entry = json.loads(line)
    except ValueError:
        output.note(f"{name}: {line.decode(errors='replace').rstrip()}")
        return
    if isinstance(entry, dict) and entry.get("level") in _SAID_ALOUD:
        rest = {key: entry[key] for key in entry if key not in {"at", "level", "type"}}
        said = [str(entry.get("type")), *(f"{key}={v}" for key, v in rest.items() if v)]
        output.warn(f"{name}: {' '.join(said)}")


async def _make_token(opened: App) -> str:
    """Return a fresh token; that of an earlier run in the same folder ends."""
    with contextlib.suppress(EmailerError):
        await tokens.revoke(opened.store, opened.clock, _TOKEN)
    minted = await tokens.create(
        opened.store, opened.clock, opened.rng, name=_TOKEN, scopes=_SCOPES
    )
    return minted.text


async def _publish_starters(opened: App) -> None:
    """Publish the starter templates, unless there are some from an earlier run."""
    if not await opened.store.list_template_versions():
        starters = read_folders(STARTERS)
        await templates.publish(
            opened.store, opened.renderer, opened.clock, starters, actor=_TOKEN
        )
        await opened.renderer.close()  # its process is not needed any more


async def _wait_until_ready(opened: App, bench: _Bench) -> None:
    """Return when the API answers and a consumer of this run has registered."""
    since_ms = opened.clock.now_ms()
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            while not await _are_ready(opened, bench, since_ms):  # noqa: ASYNC110  (other processes)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TimedOut(
            f"the daemons were not ready within {_READY_WITHIN_S:g} s",
            hint=f"see the logs in {bench.folder} (--keep)",
        ) from None


async def _are_ready(opened: App, bench: _Bench, since_ms: int) -> bool:
    """Return whether the API answers and a consumer lives; older ones are of earlier runs."""
    consumers = await opened.store.list_consumers()
    has_consumer = any(consumer.heartbeat_ms >= since_ms for consumer in consumers)
    return has_consumer and await _is_api_ready(bench.settings.api.port)


async def _is_api_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: dev\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in status


def _welcome(bench: _Bench, token: str) -> None:
    url = f"http://{_HOST}:{bench.settings.api.port}"
    plain = {"to": "ann@example.org", "subject": "Hello", "text": "It works."}
    variables = {"name": "Ann", "code": "482 913"}
    use = {"name": "password-reset", "variables": variables}
    curl = _build_curl(url, token, plain)
    templated = _build_curl(url, token, {"to": "ann@example.org", "template": use})
    command = _name_ourselves()
    config = shlex.quote(str(bench.file))
    output.write_text(
        f"""Ready.

  API      {url}
  token    {token}
  mails    {bench.inbox}/*.eml
  logs     {bench.folder}/serve.log, consume.log
  watch    {command} --config {config} logs --follow
  look     {command} --config {config} status

Send a first message from another terminal:

{curl}

Or one made of a template (emailerctl templates init DIR writes all six to begin with):

{templated}

Every mail is shown here as it arrives.  Ctrl-C ends everything.
"""
    )


def _build_curl(url: str, token: str, body: Mapping[str, object]) -> str:
    return shlex.join(
        [
            *("curl", "-sS", f"{url}/v1/messages"),
            *("-H", f"Authorization: Bearer {token}"),
            *("-H", "Content-Type: application/json"),
            *("-d", json.dumps(body)),
        ]
    )


def _name_ourselves() -> str:
    """Return what to type for this program, where it is."""
    called = Path(sys.argv[0])
    if called.name != "emailerctl":
        return f"{shlex.quote(sys.executable)} -m emailerctl"
    found = shutil.which("emailerctl")
    if found and Path(found).resolve() == called.resolve():
        return "emailerctl"
    return shlex.quote(str(called.absolute()))


def _write_arrival(arrival: Arrival) -> None:
    output.write_painted(
        [
            (f"{output.show_time(arrival.received_ms, '%H:%M:%S')}  ", "dim"),
            ("mail  ", "green"),
            (f"{arrival.sender} → {', '.join(arrival.recipients)}  ", ""),
            (f"{arrival.subject}  ", "bold"),
            (str(arrival.path), "dim"),
        ]
    )


def _build_end_error(children: list[_Child]) -> EmailerError:
    """Return what says which of the parts ended by itself."""
    ended = [child for child in children if child.process.returncode is not None]
    names = ", ".join(f"{one.name} (exit code {one.process.returncode})" for one in ended)
    logs = ", ".join(str(child.log) for child in ended)
    return NextHopRefused(
        f"{names or 'the inbox'} ended by itself; everything else was stopped",
        hint=f"its last words are above; with --keep they stay in {logs}",
    )


async def _stop(children: list[_Child]) -> None:
    """End every child: a drain first, and by force after a while."""
    for child in children:
        if child.process.returncode is None:
            child.process.terminate()
    for child in children:
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await child.process.wait()
        except TimeoutError:
            output.warn(f"{child.name} did not stop within {_STOP_WITHIN_S:g} s and was killed")
            child.process.kill()
            await child.process.wait()
        await child.reading
