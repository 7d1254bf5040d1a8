"""Open the app, register, and deliver until told to stop."""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping

from daemons.consumer.lease import Lease
from daemons.consumer.loop import Loop
from daemons.consumer.mailbox import Mailbox
from daemons.run import Ready, notify, run_daemon, setup_log, supervise
from daemons.watch import Watch, build_sweep, find_alerter, recall_clock
from emailerctl import log
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.deliver import Delivery, Hop
from emailerctl.core.sealing import Sealing
from emailerctl.core.standing import Standing
from emailerctl.errors import EmailerError
from emailerctl.models.clock import to_ms, to_text
from emailerctl.models.ids import build_lease_token, to_public
from emailerctl.models.outcome import Alarm
from emailerctl.models.verp import Signer
from emailerctl.queues.bell import Listener
from emailerctl.queues.embedded import EmbeddedQueue
from emailerctl.settings import Settings
from emailerctl.store.base import Breaker, BreakerState
from emailerctl.store.locks import CONSUMER, forget_dead
from emailerctl.wiring import App, check_ready, describe_library, open_app

_LOST_EXIT = 75  # declared dead by somebody: a new process must register
_BUG_EXIT = 70  # EX_SOFTWARE: an outcome could not be settled; a restart voids its lease
_FATAL_EXIT = 74  # EX_IOERR: a sync failed, and nobody knows what is on disk


def run(settings: Settings, *, workers: int = 1) -> int:
    """Run the consumer daemon until it is told to stop; return its exit code.

    Raises:
        StoreUnusable, ConfigurationError: before anything is started.
    """
    check_ready(settings)
    if workers == 1:
        return _work(settings, lambda: notify("READY=1"), parent=None)

    def tell(number: int, exit_code: int, wait_s: float) -> None:
        setup_log(settings)
        again_in_ms = int(wait_s * 1000)
        log.log(
            "worker.ended", "error", worker=number, exit_code=exit_code, again_in_ms=again_in_ms
        )
        log.close()

    return supervise(
        workers,
        lambda _number, parent, ready: _work(settings, ready, parent=parent),
        ready=lambda: notify("READY=1"),
        tell=tell,
    )


def _work(settings: Settings, ready: Ready, *, parent: int | None) -> int:
    setup_log(settings)
    for warning in settings.warnings:
        log.log("settings.warned", "warning", detail=warning)
    version, is_safe = describe_library()
    if not is_safe:
        log.log("store.library_unsafe", "error", version=version, wanted="3.51.3")

    async def serve(stopping: asyncio.Event) -> int:
        async with open_app(settings, on_fatal=_end, logs_events=True) as app:
            return await consume(app, stopping, ready)

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
    app: App, stopping: asyncio.Event, ready: Callable[[], None] = lambda: None
) -> int:
    """Deliver until *stopping* is set; return the exit code."""
    settings = app.settings
    consumer_id = build_lease_token(app.rng)
    hops = app.build_hops()
    final_reply_ms = max(hop.final_reply_ms for hop in hops.values())
    clock_watch = await recall_clock(app)
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
    signer = await app.load_signer()
    sealing = app.build_sealing(_log_key_fault)
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
    )
    await lease.take()
    forget_dead(app.folders.wake, app.folders.locks, now_s=app.clock.now_ms() / 1000)
    sweep = build_sweep(app, hops, clock_watch, own_id=consumer_id)
    listener = Listener(app.folders.wake, to_public(CONSUMER, consumer_id))
    loop = _build_loop(
        app, hops, consumer_id, standing, clock_watch, lease, listener, signer, sealing
    )
    await sweep.void_leases()
    await sweep.fire_timers(adopts=True)

    async def look_after_lease() -> None:
        lease.touch()
        if is_lost.is_set():
            log.log("lease.lost", "error", consumer=to_public(CONSUMER, consumer_id))
            stopping.set()

    watch = Watch(
        app,
        sweep=sweep,
        clock_watch=clock_watch,
        alerter=find_alerter(app, hops),
        duties=((1.0, standing.tend), (2.0, sealing.refresh), (0.2, look_after_lease)),
    )
    log.log("consumer.started", consumer=to_public(CONSUMER, consumer_id), pid=os.getpid())
    queue = EmbeddedQueue(bell=app.bell, listener=listener, look=loop.look, clock=app.clock)
    ready()
    background = [asyncio.create_task(watch.run())]
    if mailbox is not None:
        background.append(asyncio.create_task(mailbox.run()))
    running = asyncio.create_task(loop.run(queue))
    try:
        await asyncio.wait(
            {running, asyncio.ensure_future(stopping.wait())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        log.log("consumer.draining", in_flight=loop.in_flight)
        await loop.stop(within=settings.consumer.shutdown)
        await running
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await queue.close()
        for hop in hops.values():
            await hop.provider.close()
        sealing.close()
        await lease.end(resend_after_ms=final_reply_ms)
    log.log("consumer.stopped", consumer=to_public(CONSUMER, consumer_id))
    if loop.has_failed:
        return _BUG_EXIT
    return _LOST_EXIT if is_lost.is_set() else 0


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
    signer: Signer,
    sealing: Sealing,
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
        signer=signer,
        sealing=sealing,
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
