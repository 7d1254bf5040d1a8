"""`emailerctl status`: how things stand, on one screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option

from emailerctl.cli import output, providers, queue, session
from emailerctl.core import shapes
from emailerctl.core.doctor import SILENT_MS
from emailerctl.core.hop_view import HopView
from emailerctl.store.base import (
    Alert,
    BreakerState,
    Consumer,
    HopState,
    InboxCounts,
    QueueStats,
)

if TYPE_CHECKING:
    from emailerctl.wiring import App


@dataclass(frozen=True, slots=True)
class Picture:
    """How things stand at one moment."""

    now_ms: int
    stats: QueueStats
    hops: Sequence[HopView]
    consumers: Sequence[Consumer]
    alerts: Sequence[Alert]
    inbox: InboxCounts


def status(
    ctx: Context,
    short: Annotated[
        bool, Option("--short", help="One line for scripts; exit code 69 unless all is well.")
    ] = False,
) -> None:
    """Show how things stand: queue, doubts, next hops, consumers, alerts.

    Example: emailerctl status

    Example: emailerctl status --short
    """
    picture = session.run(ctx, look)
    if short:
        _write_short(picture)
        return
    if output.form() is output.Form.TABLE:
        _write(picture)
    else:
        output.result("", _shape(picture))


async def look(opened: "App") -> Picture:
    """Return how things stand now."""
    now_ms = opened.clock.now_ms()
    store = opened.store
    return Picture(
        now_ms=now_ms,
        stats=await store.queue_stats(now_ms=now_ms),
        hops=await providers.find_hops(opened),
        consumers=await store.list_consumers(),
        alerts=await store.list_alerts(),
        inbox=await store.count_jobs(),
    )


def find_alive(picture: Picture) -> list[Consumer]:
    """Return the consumers whose heart has beaten of late."""
    now_ms = picture.now_ms
    return [one for one in picture.consumers if now_ms - one.heartbeat_ms <= SILENT_MS]


def describe_hop(view: HopView) -> str:
    """Return in a word whether a next hop takes mail."""
    if view.hop.state is not HopState.OPEN:
        return str(view.hop.state)
    is_closed = view.breaker.state is BreakerState.CLOSED
    return "open" if is_closed else f"breaker {view.breaker.state}"


def _write_short(picture: Picture) -> None:
    """Write one line of `name=value`, all of them, whatever holds."""
    stats, now_ms = picture.stats, picture.now_ms
    late_ms = 0 if stats.oldest_due_ms is None else max(0, now_ms - stats.oldest_due_ms)
    shut = [view.hop.name for view in picture.hops if not _is_good(view)]
    alive = len(find_alive(picture))
    is_well = bool(alive) and not (shut or picture.alerts or stats.pause)
    counts = {name: getattr(stats, name) for name, _meaning in queue.MEANINGS}
    said = {
        **counts,
        "late_s": late_ms // 1000,
        "paused": int(stats.pause is not None),
        "consumers": alive,
        "alerts": ",".join(alert.name for alert in picture.alerts) or "-",
        "shut": ",".join(shut) or "-",
    }
    line = " ".join(f"{name}={value}" for name, value in said.items())
    output.write_text(f"{'ok' if is_well else 'trouble'} {line}")
    if not is_well:
        raise Exit(69)


def _is_good(view: HopView) -> bool:
    is_closed = view.breaker.state is BreakerState.CLOSED
    return view.hop.state is HopState.OPEN and is_closed


def _shape(picture: Picture) -> shapes.Shape:
    return {
        "queue": shapes.stats_shape(picture.stats),
        "next_hops": [shapes.next_hop_shape(view) for view in picture.hops],
        "consumers": [shapes.consumer_shape(consumer) for consumer in picture.consumers],
        "alerts": [shapes.alert_shape(alert) for alert in picture.alerts],
        "inbox": {"waiting": picture.inbox.waiting, "rejected": picture.inbox.rejected},
    }


def _write(picture: Picture) -> None:
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
    _write_inbox(picture.inbox)
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


def _write_inbox(counts: InboxCounts) -> None:
    """Say what jobs of other services are no messages; nothing where there are none."""
    if counts.rejected:
        text = f"{counts.rejected} jobs rejected, {counts.waiting} wait: emailerctl inbox list"
        _line("inbox", text, "yellow")
    elif counts.waiting:
        _line("inbox", f"{counts.waiting} jobs wait")


def _line(name: str, text: str, style: str = "") -> None:
    output.write_painted([(f"{name:<11}", "dim"), (text, style)])
