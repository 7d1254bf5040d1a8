"""`/metrics` of both daemons: who may read it, what is read for it, and what it says."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest

from daemons.run import listen
from emailerctl import __version__, log
from emailerctl.core.alerts import AlertName
from emailerctl.core.brokers import BrokerFacts
from emailerctl.errors import EmailerError, Forbidden
from emailerctl.metrics import registry as metrics
from emailerctl.metrics.meter import CONTENT_TYPE, Readings
from emailerctl.models.caller import Scope
from emailerctl.models.clock import Clock
from emailerctl.store.base import BreakerState, Consumer, HopState, NextHop
from emailerctl.wiring import App, describe_library

Figures = Mapping[tuple[str, ...], float]

NOTE_EVERY_S = 1.0
_ALIVE_MS = 30_000
_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_LOCAL_NAMES = frozenset({"127.0.0.1", "::1", "[::1]", "localhost"})
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "Via", "X-Real-IP")
_READERS = frozenset({Scope.READ, Scope.READ_ALL, Scope.ADMIN})
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


# Who may read


async def admit(app: App, request: HTTPServerRequest) -> None:
    """Let in who asks from this host itself, and who has a token with a scope to read.

    A request that a proxy on this host passed on is not from this host: most proxies say so in
    a header, or leave the name that was asked for.

    Raises:
        Unauthorized, Forbidden, TooManyRequests: it may not.
    """
    remote = request.remote_ip or ""
    is_passed_on = any(name in request.headers for name in _PASSED_ON) or (
        request.host_name not in _LOCAL_NAMES
    )
    if remote in _LOOPBACK and not is_passed_on:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    presented = token.strip() if scheme.lower() == "bearer" else ""
    caller = await app.tokens.authenticate(presented, remote=remote)
    if _READERS.isdisjoint(caller.scopes):
        raise Forbidden("this token lacks the scope read")


# What each process notes once a second


async def keep_noting(app: App, note: Callable[[], None]) -> None:
    """Note what this process has open, until cancelled."""
    while True:
        note_process(app)
        note()
        await asyncio.sleep(NOTE_EVERY_S)


def note_process(app: App) -> None:
    """Note what every process has."""
    meter = app.meter
    meter.set(metrics.PROCESSES, to=1)
    meter.set(metrics.STORE_BACKLOG, to=app.driver.backlog)
    meter.set(metrics.LOG_DROPPED, to=log.count_dropped())
    meter.set(metrics.RESIDENT_BYTES, to=_find_resident_bytes())


def _find_resident_bytes() -> int:
    """Return what proc(5) says; 0 where there is no such thing."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


# What is read from the store


async def read_build(_app: App) -> Readings:
    """Return what this program is."""
    return {metrics.BUILD: {(__version__, describe_library()[0]): 1.0}}


async def read_store(app: App) -> Readings:
    """Return the figures that are the store's: the same whoever is asked."""
    now_ms = app.clock.now_ms()
    store = app.store
    stats = await store.queue_stats(now_ms=now_ms)
    lanes = await store.lane_stats(now_ms=now_ms)
    hops, breakers = await store.load_standing()
    raised = {alert.name for alert in await store.list_alerts()}
    names = sorted(app.tables)
    breaker_of = {one.name: one.state for one in breakers}
    queue = dict.fromkeys(_all_of(metrics.QUEUE), 0.0)
    oldest = dict.fromkeys(_all_of(metrics.QUEUE_OLDEST), 0.0)
    for lane in lanes:
        label = metrics.LANES[lane.priority]
        queue[label, lane.waiting_for] = lane.messages
        if lane.waiting_for == "ready":
            oldest[label,] = _age_s(lane.oldest_due_ms, now_ms)
    paused_ms = stats.pause.since_ms if stats.pause else None
    return {
        metrics.QUEUE: queue,
        metrics.QUEUE_OLDEST: oldest,
        metrics.QUEUE_PAUSED: {(): _age_s(paused_ms, now_ms)},
        metrics.HELD: {(): stats.held},
        metrics.UNKNOWN_OPEN: {(): stats.unknown_open},
        metrics.UNKNOWN_OLDEST: {(): _age_s(stats.oldest_unknown_ms, now_ms)},
        metrics.BREAKER: {
            (name, state): float(breaker_of.get(name, BreakerState.CLOSED) is state)
            for name in names
            for state in BreakerState
        },
        metrics.NEXT_HOP: _read_standing(names, hops),
        **_read_consumers(await store.list_consumers(), app.clock),
        metrics.ALERTS: {(name,): float(name in raised) for name in AlertName},
        metrics.LAST_SEQ: {(): await store.last_seq()},
        metrics.DISK_LOW: {(): float(app.is_storage_low())},
        **_read_broker(await app.find_broker(asks=False)),
        **await read_build(app),
    }


def _read_broker(broker: BrokerFacts | None) -> dict[metrics.Metric, Figures]:
    """Return what the processes see of the broker; nothing where there is none."""
    if broker is None:
        return {}
    up: dict[tuple[str, ...], float] = {}
    queued: dict[tuple[str, ...], float] = {}
    for source in broker.sources:
        use = (source.use,)
        up[use] = min(up.get(use, 1.0), float(not source.trouble))
        queued[use] = queued.get(use, 0.0) + (source.length or 0)
    inbox = broker.inbox
    return {
        metrics.BROKER_UP: up,
        metrics.BROKER_QUEUED: queued,
        metrics.BROKER_FALLBACK: {(): float(broker.is_falling_back)},
        metrics.BROKER_SEEN: {(name,): n for name, n in asdict(broker.counts).items()},
        metrics.FOREIGN: {(): broker.foreign},
        metrics.INBOX_JOBS: {("waiting",): inbox.waiting, ("rejected",): inbox.rejected},
    }


def _all_of(metric: metrics.Metric) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for values in metric.labels.values():
        found = [(*labels, value) for labels in found for value in values or ()]
    return found


def _read_standing(names: list[str], hops: list[NextHop]) -> Figures:
    state_of = {hop.name: hop.state for hop in hops}
    return {
        (name, state): float(state_of.get(name, HopState.OPEN) is state)
        for name in names
        for state in HopState
    }


def _read_consumers(consumers: list[Consumer], clock: Clock) -> dict[metrics.Metric, Figures]:
    now_ms = clock.now_ms()
    beats = [consumer.heartbeat_ms for consumer in consumers]
    alive = sum(now_ms - beat < _ALIVE_MS for beat in beats)
    found: dict[metrics.Metric, Figures] = {metrics.CONSUMERS: {(): alive}}
    if beats:
        found[metrics.HEARTBEAT] = {(): _age_s(max(beats), now_ms)}
    return found


def _age_s(since_ms: int | None, now_ms: int) -> float:
    return 0.0 if since_ms is None else max(0, now_ms - since_ms) / 1000


# A port of its own


def listen_at(place: str, *, setting: str) -> list[socket.socket]:
    """Bind the port of `/metrics`, if there is to be one, for all processes.

    Raises:
        ConfigurationError: it is taken, or not ours to take.
    """
    if not place:
        return []
    host, _, port = place.rpartition(":")
    return listen(host.strip("[]"), int(port), setting=setting)


class FiguresServer(HTTPServer):
    """Answers `GET /metrics`, and nothing else."""

    def initialize(  # type: ignore[override]
        self, app: App, read: Callable[[App], Awaitable[Readings]]
    ) -> None:
        """Take the app whose figures are asked for, and what reads those not in memory."""
        super().initialize(self._take, max_header_size=16 * 1024, max_body_size=1024)
        self._app = app
        self._read = read
        self._answering: set[asyncio.Task[None]] = set()

    def _take(self, request: HTTPServerRequest) -> None:
        task = asyncio.create_task(self._answer(request))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, request: HTTPServerRequest) -> None:
        content_type = "text/plain; charset=utf-8"
        try:
            if request.path != "/metrics" or request.method != "GET":
                status, body = "404 Not Found", b"only GET /metrics is answered here\n"
            else:
                if not self._app.settings.metrics.open:
                    await admit(self._app, request)
                status, content_type = "200 OK", CONTENT_TYPE
                body = self._app.meter.render(await self._read(self._app))
        except EmailerError as error:
            status = f"{error.status.value} {error.status.phrase}"
            body = f"{error.detail}; {error.cure}\n".encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        request.connection.stream.write(head.encode() + body)  # type: ignore[union-attr]
        request.connection.finish()  # type: ignore[union-attr]
