"""What both daemons share: signals, drain, readiness, worker processes, systemd's protocol."""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import uvloop
from tornado.netutil import bind_sockets

from emailerctl import log
from emailerctl.errors import ConfigurationError
from emailerctl.settings import Settings

Serve = Callable[[asyncio.Event], Awaitable[int]]
Ready = Callable[[], None]
Work = Callable[[int, int, Ready], int]
Tell = Callable[[int, int, float], None]

_STOPS = (signal.SIGTERM, signal.SIGINT)
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before a crashed worker starts again
_HEALTHY_S = 10.0  # a worker that lived so long starts again at once
_TICK_S = 0.1
_SETTINGS_EXIT = 78  # every worker would end so: no use in starting it again


def setup_log(settings: Settings) -> None:
    """Send this process's log to standard output; to be called after a fork."""
    wanted = settings.log
    log.setup(
        sys.stdout,
        level=wanted.level,
        addresses=wanted.addresses,
        format=wanted.format,
        hash_key=wanted.hash_key.get_secret_value(),
    )


def run_daemon(serve: Serve, *, parent: int | None = None) -> int:
    """Run *serve* on uvloop until it returns, and return its exit code.

    Its argument is set by the first SIGTERM or SIGINT: drain.  A second one ends the process at
    once.  A worker, which has a pipe from its *parent*, leaves SIGINT to it, takes any number
    of SIGTERMs (the service manager may send its own), and drains when its parent is gone.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(serve, parent))


async def _run(serve: Serve, parent: int | None) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and parent is None:
            log.close()
            os._exit(128 + number)
        notify("STOPPING=1")
        stopping.set()

    def see_parent_gone(pipe: int) -> None:
        loop.remove_reader(pipe)
        stopping.set()

    for number in _STOPS:
        loop.add_signal_handler(number, stop, number)
    if parent is not None:
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_reader(parent, see_parent_gone, parent)
    # What was imported stays: without this the collector walks over it every second or so and
    # stops the loop for 40 ms, which is most of acceptance's p99.
    gc.collect()
    gc.freeze()
    beating = asyncio.create_task(_beat())
    try:
        return await serve(stopping)
    finally:
        beating.cancel()


async def _beat() -> None:
    """Tell systemd's watchdog that the loop turns, if it wants to know."""
    every_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    while every_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)): `READY=1`, `STOPPING=1`, `WATCHDOG=1`; else do nothing."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


def listen(
    host: str, port: int, *, setting: str = "[api] port or host (--port, --host)"
) -> list[socket.socket]:
    """Bind the port, so that a second daemon can't do so silently.

    Raises:
        ConfigurationError: it is taken, or not ours to take; says what to change.
    """
    try:
        return bind_sockets(port, address=host)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "is taken, perhaps by another emailerctl",
            errno.EACCES: "needs privileges; take one above 1023",
            errno.EADDRNOTAVAIL: "is on an address that this host does not have",
        }
        reason = reasons.get(error.errno or 0, f"can't be listened on: {error.strerror}")
        raise ConfigurationError(
            f"port {port} of {host} {reason}", hint=f"change {setting}"
        ) from error


# Several processes on one job.


@dataclass(slots=True)
class _Worker:
    """A place for a process, and the process in it."""

    number: int
    pid: int = 0
    started_s: float = 0.0
    crashes: int = 0
    again_s: float | None = None  # when to start it again; None while it runs

    @property
    def is_due(self) -> bool:
        """Return whether it is time to start it again."""
        return self.again_s is not None and time.monotonic() >= self.again_s


@dataclass(slots=True)
class _Crew:
    """The workers, and the pipe on which each says that it is ready."""

    workers: list[_Worker]
    work: Work
    mask: set[int]
    ears: tuple[int, int] = field(default_factory=os.pipe)
    lives: tuple[int, int] = field(default_factory=os.pipe)

    def start(self, worker: _Worker) -> None:
        """Fork a process for *worker*'s place."""
        sys.stdout.flush()
        sys.stderr.flush()
        worker.started_s, worker.again_s = time.monotonic(), None
        worker.pid = os.fork()
        if worker.pid == 0:
            os._exit(self._be(worker.number))

    def _be(self, number: int) -> int:
        """Be a worker: the rest of its life."""
        os.close(self.ears[0])
        os.close(self.lives[1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        code = 1
        try:
            code = self.work(number, self.lives[0], self._say_ready)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001  (nothing may unwind into the parent's frames)
            sys.excepthook(*sys.exc_info())
        log.close()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        return code

    def _say_ready(self) -> None:
        os.write(self.ears[1], b"!")

    def kill(self, number: int) -> None:
        """Send a signal to every worker that runs."""
        for worker in self.workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def ended(self) -> Iterator[tuple[_Worker, int]]:
        """Yield the workers that have ended, with their exit codes."""
        for worker in self.workers:
            if not worker.pid:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.pid = 0
                yield worker, os.waitstatus_to_exitcode(status)


def supervise(count: int, work: Work, *, ready: Ready, tell: Tell) -> int:
    """Run *work* in *count* forked processes, and again those that crash; return the exit code.

    To be called before there is a thread or an event loop.  *work* gets its number, the pipe
    from its parent, and what to call when it is ready; *ready* is called here once all of them
    are; *tell* is told of a crash with number, exit code and seconds to wait, and must leave no
    thread.  SIGTERM and SIGINT are passed on and waited for; a second one kills.
    """
    watched = {*_STOPS, signal.SIGCHLD}
    mask = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, watched)}
    crew = _Crew([_Worker(number) for number in range(count)], work, mask)
    os.set_blocking(crew.ears[0], False)
    for worker in crew.workers:
        crew.start(worker)
    try:
        return _watch(crew, watched, ready, tell)
    finally:
        crew.kill(signal.SIGKILL)
        for descriptor in (*crew.ears, *crew.lives):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch(crew: _Crew, watched: set[signal.Signals], ready: Ready, tell: Tell) -> int:
    is_stopping = False
    missing = len(crew.workers)
    code = 0
    while True:
        notice = signal.sigtimedwait(watched, _TICK_S)
        if notice is not None and notice.si_signo in _STOPS:
            crew.kill(signal.SIGKILL if is_stopping else signal.SIGTERM)
            is_stopping = True
            notify("STOPPING=1")
        for worker, ended_with in crew.ended():
            if ended_with == _SETTINGS_EXIT and not is_stopping:
                code, is_stopping = ended_with, True
                crew.kill(signal.SIGTERM)
            elif not is_stopping:
                tell(worker.number, ended_with, _plan_restart(worker))
        if is_stopping and not any(worker.pid for worker in crew.workers):
            return code
        for worker in crew.workers:
            if not is_stopping and worker.is_due:
                crew.start(worker)
        with contextlib.suppress(BlockingIOError):
            heard = len(os.read(crew.ears[0], 64))
            missing -= heard
            if heard and missing <= 0 < missing + heard:
                ready()
        notify("WATCHDOG=1")


def _plan_restart(worker: _Worker) -> float:
    """Decide when a crashed worker starts again; return in how many seconds."""
    now_s = time.monotonic()
    worker.crashes = 0 if now_s - worker.started_s > _HEALTHY_S else worker.crashes + 1
    wait_s = _BACKOFF_S[min(worker.crashes, len(_BACKOFF_S) - 1)]
    worker.again_s = now_s + wait_s
    return wait_s
