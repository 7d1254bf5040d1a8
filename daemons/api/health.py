"""Whether this process can accept messages, and what else is worth knowing about them."""

from emailerctl.core.shapes import stats_shape
from emailerctl.errors import EmailerError
from emailerctl.models.clock import to_text
from emailerctl.queues.base import Announcer
from emailerctl.wiring import App

_ALIVE_MS = 30_000  # a consumer whose last heartbeat is older counts as gone


async def examine(app: App, *, is_stopping: bool) -> dict[str, object]:
    """Return the body of `/readyz`.

    `ready` is false while nothing can be accepted: the store can't be read, its disk is low, or
    the daemon stops.  Never for what an operator has to decide (unknowns), nor for a consumer
    that is missing: those are alerts, and taking the API away would help nobody.
    """
    is_low = app.is_storage_low()
    details: dict[str, object] = {
        "ready": not (is_low or is_stopping),
        "disk": "low" if is_low else "ok",
        "stopping": is_stopping,
    }
    try:
        details |= await _look(app)
    except EmailerError as error:
        return details | {"ready": False, "store": error.code}
    return details | {"store": "ok"}


async def _look(app: App) -> dict[str, object]:
    now_ms = app.clock.now_ms()
    queue = await app.store.queue_stats(now_ms=now_ms)
    beats = [consumer.heartbeat_ms for consumer in await app.store.list_consumers()]
    alerts = await app.store.list_alerts()
    return {
        "unknown": queue.unknown,
        "queue": stats_shape(queue),
        "consumers": {
            "alive": sum(now_ms - beat < _ALIVE_MS for beat in beats),
            "last_heartbeat_at": to_text(max(beats)) if beats else None,
        },
        "broker": _describe_broker(app.announcer),
        # Names only: nobody has shown a token here, and a detail may quote a next hop.
        "alerts": [{"name": alert.name, "since": to_text(alert.since_ms)} for alert in alerts],
    }


def _describe_broker(announcer: Announcer | None) -> dict[str, object] | None:
    """Return how this process stands with the broker; no URL: nobody has shown a token here."""
    report = announcer.report() if announcer else None
    if report is None:
        return None
    return {
        "kind": report.kind,
        "topics": {topic: not one.trouble for one in report.sources for topic in one.topics},
        "rung": report.counts.rung,
        "not_rung": report.counts.not_rung,
    }
