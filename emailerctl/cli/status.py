"""`emailerctl status`: how things stand, on one screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Context, Option

from emailerctl.cli import output, providers, queue, session
from emailerctl.core import shapes
from emailerctl.core.doctor import SILENT_MS
from emailerctl.core.hop_view import HopView
from emailerctl.store.base import Alert, BreakerState, Consumer, HopState, QueueStats

if TYPE_CHECKING:
    from emailerctl.wiring import App


@dataclass(frozen=True, slots=True)
class _Picture:
    now_ms: int
    stats: QueueStats
    hops: Sequence[HopView]
    consumers: Sequence[Consumer]
    alerts: Sequence[Alert]


def status(
    ctx: Context,
    line: Annotated[
        bool, Option("--line", help="All of it in one line, for a prompt or a monitor.")
    ] = False,
) -> None:
    """Show how things stand: queue, doubts, next hops, consumers, alerts.

    Example: emailerctl status

    Example: emailerctl status --line
    """

    async def work(opened: "App") -> _Picture:
        now_ms = opened.clock.now_ms()
        store = opened.store
        return _Picture(
            now_ms=now_ms,
            stats=await store.queue_stats(now_ms=now_ms),
            hops=await providers.find_hops(opened),
            consumers=await store.list_consumers(),
            alerts=await store.list_alerts(),
        )

    picture = session.run(ctx, work)
    if output.form() is output.Form.TABLE and line:
        output.write_text(_build_line(picture))
    elif output.form() is output.Form.TABLE:
        _write(picture)
    else:
        output.result("", _shape(picture))


def _build_line(picture: _Picture) -> str:
    """Return what is wrong, or that nothing is, in one line."""
    stats, now_ms = picture.stats, picture.now_ms
    shut = [view.hop.name for view in picture.hops if not _is_good(view)]
    alive = sum(now_ms - one.heartbeat_ms <= SILENT_MS for one in picture.consumers)
    waiting = stats.scheduled + stats.retrying + stats.waiting
    pieces = [
        f"{stats.ready} ready, {waiting} waiting, {stats.sending} sending",
        f"{stats.unknown} unknown",
        f"{stats.held} held",
        f"next hops shut: {', '.join(shut)}" if shut else "next hops open",
        f"{alive} consumers",
        "paused" if stats.pause else "",
        f"alerts: {', '.join(alert.name for alert in picture.alerts)}"
        if picture.alerts
        else "no alerts",
    ]
    return " · ".join(filter(None, pieces))


def _is_good(view: HopView) -> bool:
    return view.hop.state is HopState.OPEN and view.breaker.state is BreakerState.CLOSED


def _shape(picture: _Picture) -> shapes.Shape:
    return {
        "queue": shapes.stats_shape(picture.stats),
        "next_hops": [shapes.next_hop_shape(view) for view in picture.hops],
        "consumers": [shapes.consumer_shape(consumer) for consumer in picture.consumers],
        "alerts": [shapes.alert_shape(alert) for alert in picture.alerts],
    }


def _write(picture: _Picture) -> None:
    stats, now_ms = picture.stats, picture.now_ms
    counts = ", ".join(
        f"{getattr(stats, name)} {name}"
        for name, _meaning in queue.MEANINGS
        if name != "unknown"
    )
    _line("queue", counts)
    if stats.oldest_due_ms is not None:
        _line("", f"the oldest was due {output.ago(stats.oldest_due_ms, now_ms)}", "yellow")
    if stats.pause:
        _line("", queue.describe_pause(stats.pause), "yellow")
    if stats.unknown:
        _line(
            "in doubt", f"{stats.unknown} recipients: emailerctl unknown list", "bold magenta"
        )
    else:
        _line("in doubt", "none")
    for index, view in enumerate(picture.hops):
        hop, breaker = view.hop, view.breaker
        default = "default" if view.facts.is_default else ""
        traits = ", ".join(filter(None, [view.facts.kind, default]))
        state, reason = str(hop.state), hop.reason
        is_good = _is_good(view)
        if hop.state is HopState.OPEN and not is_good:
            since = output.ago(breaker.since_ms, now_ms)
            state, reason = f"breaker {breaker.state} since {since}", breaker.reason
        why = f": {reason}" if reason and not is_good else ""
        style = "green" if is_good else "bold red"
        _line("" if index else "next hops", f"{hop.name} ({traits}) {state}{why}", style)
    for index, consumer in enumerate(picture.consumers):
        is_silent = now_ms - consumer.heartbeat_ms > SILENT_MS
        text = (
            f"{consumer.host} pid {consumer.pid}, heartbeat "
            f"{output.ago(consumer.heartbeat_ms, now_ms)}, {consumer.in_flight} in flight"
        )
        _line("" if index else "consumers", text, "bold red" if is_silent else "green")
    if not picture.consumers:
        _line(
            "consumers", "none: nothing is delivered; start one: emailerctl consume", "bold red"
        )
    for index, alert in enumerate(picture.alerts):
        text = f"{alert.name}: {alert.detail} ({output.ago(alert.since_ms, now_ms)})"
        _line("" if index else "alerts", text, "bold red")
    if not picture.alerts:
        _line("alerts", "none")


def _line(name: str, text: str, style: str = "") -> None:
    output.write_painted([(f"{name:<11}", "dim"), (text, style)])
