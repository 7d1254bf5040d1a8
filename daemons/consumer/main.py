"""Open the app, register, and deliver until told to stop."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping

from daemons.consumer.ingest import IngestLoop
from daemons.consumer.lease import Lease
from daemons.consumer.loop import Loop
from daemons.consumer.mailbox import Mailbox
from daemons.figures import (
    NOTE_EVERY_S,
    FiguresServer,
    listen_at,
    note_process,
    read_build,
)
from daemons.queue_reporting import REPORT_EVERY_S, QueueReporting
from daemons.run import Ready, notify, run_daemon, setup_log, supervise
from daemons.watch import Watch, build_sweep, find_alerter, find_askable, recall_clock
from emailerctl import log
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.deliver import Delivery, Hop
from emailerctl.core.outlook import Patience
from emailerctl.core.sealing import Sealing, Signatures
from emailerctl.core.standing import Standing
from emailerctl.core.sweep import Sweep
from emailerctl.core.unknown import Resolver
from emailerctl.errors import EmailerError
from emailerctl.metrics.meter import Meter
from emailerctl.metrics.registry import CONNECTIONS, IN_FLIGHT
from emailerctl.models.clock import boot_id, to_ms, to_text
from emailerctl.models.ids import build_lease_token, to_public
from emailerctl.models.outcome import Alarm
from emailerctl.models.verp import Signer
from emailerctl.providers.base import KeepsConnections
from emailerctl.queues.base import Queue
from emailerctl.queues.bell import Listener
from emailerctl.settings import Settings
from emailerctl.store.base import Breaker, BreakerState
from emailerctl.store.locks import CONSUMER, forget_dead
from emailerctl.wiring import App, build_meter, check_ready, describe_library, open_app

_LOST_EXIT = 75  # declared dead by somebody: a new process must register
_BUG_EXIT = 70  # EX_SOFTWARE: an outcome could not be settled; a restart voids its lease
_FATAL_EXIT = 74  # EX_IOERR: a sync failed, and nobody knows what is on disk


def run(settings: Settings, *, workers: int = 1) -> int:
    """Run the consumer daemon until it is told to stop; return its exit code.

    Raises:
        StoreUnusable, ConfigurationError: before anything is started.
    """
    check_ready(settings)
    place = settings.consumer.metrics_listen
    sockets = listen_at(place, setting="[consumer] metrics_listen")
    meter = build_meter(settings, rows=workers)
    if workers == 1:
        return _work(settings, meter, sockets, lambda: notify("READY=1"), parent=None)

    def work(number: int, parent: int, ready: Ready) -> int:
        meter.sit(number)
        return _work(settings, meter, sockets, ready, parent=parent)

    def tell(number: int, exit_code: int, wait_s: float) -> None:
        meter.leave(number)
        setup_log(settings)
        again_in_ms = int(wait_s * 1000)
        log.log(
            "worker.ended", "error", worker=number, exit_code=exit_code, again_in_ms=again_in_ms
        )
        log.close()

    return supervise(
        workers,
        work,
        ready=lambda: notify("READY=1"),
        tell=tell,
    )


def _work(
    settings: Settings,
    meter: Meter,
    sockets: list[socket.socket],
    ready: Ready,
    *,
    parent: int | None,
) -> int:
    setup_log(settings)
    for warning in settings.warnings:
        log.log("settings.warned", "warning", detail=warning)
    version, is_safe = describe_library()
    if not is_safe:
        log.log("store.library_unsafe", "error", version=version, wanted="3.51.3")

    async def serve(stopping: asyncio.Event) -> int:
        async with open_app(settings, on_fatal=_end, logs_events=True, meter=meter) as app:
            server = FiguresServer(app, read_build)
            server.add_sockets(sockets)
            if sockets:
                log.log("consumer.metrics", port=sockets[0].getsockname()[1])
            try:
                return await consume(app, stopping, ready)
            finally:
                server.stop()
                await server.close_all_connections()

    try:
        return run_daemon(serve, parent=parent)
    except EmailerError as error:
        if parent is None:
            raise
        log.log("consumer.refused", "error", detail=error.detail, hint=error.cure)
        return error.exit_code
    finally:
        log.close()


def _end(error: BaseException) -> None:
    """End the process: a sync failed, so only the store, read anew, can tell what is true."""
    log.log("store.sync_failed", "error", error=str(error))
    log.close()
    os._exit(_FATAL_EXIT)


async def consume(
    app: App,
    stopping: asyncio.Event,
    ready: Callable[[], None] = lambda: None,
    *,
    patience: Patience | None = None,
) -> int:
    """Deliver until *stopping* is set; return the exit code."""
    settings = app.settings
    consumer_id = build_lease_token(app.rng)
    hops = app.build_hops()
    final_reply_ms = max(hop.final_reply_ms for hop in hops.values())
    clock_watch = await recall_clock(app)
    standing = await _build_standing(app, hops, consumer_id)
    accounts = await app.identify_accounts()
    resolver = Resolver(
        app.store,
        hops,
        accounts=accounts,
        standing=standing,
        clock=app.clock,
        boot_id=boot_id(),
        may_expire=clock_watch.may_expire,
        patience=patience,
    )
    signer, sealing = await app.load_signer(), app.build_sealing(_log_key_fault)
    await sealing.refresh()
    mailbox = await _build_mailbox(app, signer, consumer_id)
    is_lost = threading.Event()
    lease = Lease(
        app.store,
        app.folders.locks,
        consumer_id=consumer_id,
        duration_ms=to_ms(settings.lease.duration),
        clock=app.clock,
        on_lost=is_lost,
        accounts=accounts,
        askable=find_askable(hops),
    )
    await lease.take()
    forget_dead(app.folders.wake, app.folders.locks, now_s=app.clock.now_ms() / 1000)
    sweep = build_sweep(app, hops, clock_watch, own_id=consumer_id)
    listener = Listener(app.folders.wake, to_public(CONSUMER, consumer_id))
    loop = _build_loop(
        app,
        hops,
        consumer_id,
        standing,
        clock_watch,
        lease,
        listener,
        Signatures(signer, sealing),
    )
    await _recover(sweep)

    async def look_after_lease() -> None:
        lease.touch()
        if is_lost.is_set():
            log.log("lease.lost", "error", consumer=to_public(CONSUMER, consumer_id))
            stopping.set()

    jobs = IngestLoop(app, reporter=f"{to_public(CONSUMER, consumer_id)} jobs")
    queue = app.build_queue(loop, listener, reporter=to_public(CONSUMER, consumer_id))
    watch = Watch(
        app,
        sweep=sweep,
        clock_watch=clock_watch,
        alerter=find_alerter(app, hops),
        duties=(
            (1.0, standing.tend),
            (1.0, resolver.resolve),
            (2.0, sealing.refresh),
            (0.2, look_after_lease),
            (NOTE_EVERY_S, _build_noting(app, loop, hops)),
            (REPORT_EVERY_S, QueueReporting(app, queue).tell),
            (REPORT_EVERY_S, QueueReporting(app, jobs).tell),
            *jobs.duties,
        ),
    )
    log.log("consumer.started", consumer=to_public(CONSUMER, consumer_id), pid=os.getpid())
    ready()
    background = [asyncio.create_task(watch.run())]
    if mailbox is not None:
        background.append(asyncio.create_task(mailbox.run()))
    running = asyncio.create_task(loop.run(queue))
    jobs.start()
    try:
        await asyncio.wait(
            {running, asyncio.ensure_future(stopping.wait())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        log.log("consumer.draining", in_flight=loop.in_flight)
        await asyncio.gather(
            loop.stop(within=settings.consumer.shutdown),
            jobs.stop(within=settings.consumer.shutdown),
        )
        await running
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await resolver.close()
        await _close(queue, hops, sealing)
        await lease.end(resend_after_ms=final_reply_ms)
    log.log("consumer.stopped", consumer=to_public(CONSUMER, consumer_id))
    if loop.has_failed:
        return _BUG_EXIT
    return _LOST_EXIT if is_lost.is_set() else 0


async def _recover(sweep: Sweep) -> None:
    """Do what fell due while nobody was there, before anything is taken."""
    await sweep.void_leases()
    await sweep.fire_timers(adopts=True)


async def _close(queue: Queue, hops: Mapping[str, Hop], sealing: Sealing) -> None:
    await queue.close()
    for hop in hops.values():
        await hop.provider.close()
    sealing.close()


async def _build_standing(app: App, hops: Mapping[str, Hop], consumer_id: int) -> Standing:
    """Return how next hops stand; those whose settings were changed are open again."""
    standing = Standing(
        app.store,
        settings_hashes=await app.hash_settings(),
        clock=app.clock,
        bounds={name: hop.bounds for name, hop in hops.items()},
        owner=consumer_id,
        rng=app.chance,
        on_breaker=_log_breaker,
    )
    for name in await standing.reopen_changed():
        log.log("next_hop.reopened", "warning", provider=name)
    return standing


def _build_noting(
    app: App, loop: Loop, hops: Mapping[str, Hop]
) -> Callable[[], Coroutine[None, None, None]]:
    async def note() -> None:
        note_process(app)
        for name, held in loop.rooms.items():
            app.meter.set(IN_FLIGHT, name, to=held)
        for name, hop in hops.items():
            if isinstance(hop.provider, KeepsConnections):
                app.meter.set(CONNECTIONS, name, to=hop.provider.connections)

    return note


async def _build_mailbox(app: App, signer: Signer, holder: int) -> Mailbox | None:
    """Return what reads the bounce mailbox; None where the settings name none."""
    settings = app.settings.bounces.imap
    if not settings.host:
        return None
    bounces = await app.load_bounces(signer)
    return Mailbox(settings, bounces, app.store, holder=holder, clock=app.clock, rng=app.chance)


def _build_loop(
    app: App,
    hops: Mapping[str, Hop],
    consumer_id: int,
    standing: Standing,
    clock_watch: ClockWatch,
    lease: Lease,
    listener: Listener,
    signatures: Signatures,
) -> Loop:
    def on_change(in_flight: int) -> None:
        lease.in_flight = in_flight

    loop: Loop

    delivery = Delivery(
        app.store,
        hops,
        routing=app.routing,
        policy=app.policy,
        standing=standing,
        clock=app.clock,
        rng=app.chance,
        may_expire=clock_watch.may_expire,
        on_alarm=_log_alarm,
        on_unwritten=lambda error: loop.keep_outcome(error),
        signatures=signatures,
        meter=app.meter,
    )
    loop = Loop(
        app.store,
        delivery,
        consumer_id=consumer_id,
        concurrency={name: hop.concurrency for name, hop in hops.items()},
        batch=app.settings.consumer.batch,
        poll=app.settings.consumer.poll,
        clock=app.clock,
        on_change=on_change,
        wake=listener.ring,
    )
    return loop


def _log_breaker(breaker: Breaker) -> None:
    is_closed = breaker.state is BreakerState.CLOSED
    log.log(
        "next_hop.breaker",
        "info" if is_closed else "warning",
        provider=breaker.name,
        breaker=breaker.state,
        reason=breaker.reason,
        failures=breaker.failures,
        until=to_text(breaker.until_ms) if breaker.state is BreakerState.OPEN else None,
    )


def _log_key_fault(path: str, fault: str) -> None:
    """Say it loudly: the mail of that domain waits until the key can be used."""
    log.log("dkim.key_unusable", "error", path=path, detail=fault)


def _log_alarm(name: str, alarm: Alarm, reply: str) -> None:
    log.log("next_hop.alarm", "error", provider=name, alarm=alarm, reply=reply)
