"""Open the app, listen, serve until told to stop."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from daemons.api.app import Api
from daemons.api.server import Server, listen
from daemons.run import Ready, notify, run_daemon, setup_log, supervise
from daemons.watch import watch_api
from emailerctl import log
from emailerctl.errors import EmailerError
from emailerctl.settings import Settings
from emailerctl.wiring import App, open_app

Doors = Sequence[socket.socket]
ServeMail = Callable[[App, Doors], AbstractAsyncContextManager[None]]
Background = Callable[[App], Sequence[Coroutine[None, None, None]]]

_FLUSH_USED_S = 60.0
_FATAL_EXIT = 75  # nobody knows what is on disk: start again, and read it


def run(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int,
    ready: Callable[[int], None] | None = None,
    mail: ServeMail | None = None,
) -> int:
    """Serve the API until SIGTERM or SIGINT; return the exit code.

    Args:
        settings: as loaded.
        host: address to listen on.
        port: 0 takes a free one.
        workers: processes on that port; one runs without a supervisor.
        ready: called with the port once requests are answered.
        mail: takes mail by SMTP beside it; None: nothing does.

    Raises:
        ConfigurationError: the port is taken.
        StoreUnusable: the store is missing, damaged, or of another version.
    """
    sockets = listen(host, port)
    bound = sockets[0].getsockname()[1]
    smtp = settings.smtp
    doors = listen(smtp.host, smtp.port, setting="[smtp] port or host") if mail else []

    def say_ready() -> None:
        notify("READY=1")
        if ready is not None:
            ready(bound)

    if workers == 1:
        setup_log(settings)
        return run_daemon(
            lambda stopping: _serve(
                settings, sockets, stopping, ready=say_ready, mail=mail, doors=doors
            )
        )

    def work(number: int, parent: int, ready: Ready) -> int:
        setup_log(settings)
        try:
            return run_daemon(
                lambda stopping: _serve(
                    settings,
                    sockets,
                    stopping,
                    ready=ready,
                    number=number,
                    mail=mail,
                    doors=doors,
                ),
                parent=parent,
            )
        except EmailerError as error:
            log.log("api.refused", "error", worker=number, detail=error.detail, hint=error.cure)
            return error.exit_code

    def tell(number: int, exit_code: int, wait_s: float) -> None:
        setup_log(settings)
        again_in_ms = int(wait_s * 1000)
        log.log(
            "worker.ended", "error", worker=number, exit_code=exit_code, again_in_ms=again_in_ms
        )
        log.close()

    return supervise(workers, work, ready=say_ready, tell=tell)


async def _serve(
    settings: Settings,
    sockets: list[socket.socket],
    stopping: asyncio.Event,
    *,
    ready: Ready,
    number: int = 0,
    mail: ServeMail | None = None,
    doors: Doors = (),
) -> int:
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []

    def on_fatal(error: BaseException) -> None:  # in the store's thread (F-IN-06)
        failures.append(error)
        loop.call_soon_threadsafe(stopping.set)

    async with (
        open_app(settings, on_fatal=on_fatal, logs_events=True) as app,
        serve_app(app, sockets, is_first=number == 0) as server,
        _serve_mail(app, mail, doors),
    ):
        log.log("api.started", pid=os.getpid(), port=sockets[0].getsockname()[1])
        ready()
        await stopping.wait()
        log.log("api.draining", requests=len(server.api.running))
    for error in failures:
        log.log("api.failed", "error", detail=str(error))
    log.log("api.stopped", pid=os.getpid())
    return _FATAL_EXIT if failures else 0


@asynccontextmanager
async def _serve_mail(app: App, mail: ServeMail | None, doors: Doors) -> AsyncIterator[None]:
    if mail is None:
        yield
        return
    async with mail(app, doors):
        log.log("smtp.started", pid=os.getpid(), port=doors[0].getsockname()[1])
        yield


@asynccontextmanager
async def serve_app(
    app: App, sockets: list[socket.socket], *, is_first: bool = True
) -> AsyncIterator[Server]:
    """Serve *app* on bound sockets; the end of the block drains.

    *is_first*: of the workers of one port, this one keeps house.
    """
    server = Server(Api(app))
    await app.tokens.load()
    server.add_sockets(sockets)
    duties = [server.api.feed.run(), *(_background(app) if is_first else ())]
    duties.append(_flush_used(app))
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        yield server
    finally:
        await server.drain(app.settings.api.shutdown.total_seconds())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(EmailerError):
            await app.tokens.flush_used()


def _background(app: App) -> Sequence[Coroutine[None, None, None]]:
    """Return what one process of the API does beside serving."""
    return (watch_api(app),)


async def _flush_used(app: App) -> None:
    """Write now and then when tokens were last used; every process knows its own."""
    while True:
        await asyncio.sleep(_FLUSH_USED_S)
        with contextlib.suppress(EmailerError):
            await app.tokens.flush_used()
