"""What a process has seen of its broker, left in the store now and then for everybody else."""

from emailerctl.models.doorbell import QueueReport
from emailerctl.queues.base import Reporter
from emailerctl.wiring import App

REPORT_EVERY_S = 2.0

_STILL_HERE_MS = 30_000  # a report that says nothing new says that its process is alive
_KEPT_MS = 86_400_000
_IDLE = "empty"  # takes that find nothing are no news


class QueueReporting:
    """The reports of one process, whose broker *announcer* knows."""

    def __init__(self, app: App, announcer: Reporter | None) -> None:
        """Take the store and who reports; nothing is said yet."""
        self._app = app
        self._announcer = announcer
        self._said: object = None
        self._said_ms = -_STILL_HERE_MS

    async def tell(self) -> None:
        """Leave a report if there is news, or if the last one is old."""
        report = self._announcer.report() if self._announcer else None
        if report is None:
            return
        news = _find_news(report)
        boot_ms = self._app.clock.boot_ms()
        if news == self._said and boot_ms - self._said_ms < _STILL_HERE_MS:
            return
        await self._app.store.report_queue(
            report, now_ms=self._app.clock.now_ms(), kept_ms=_KEPT_MS
        )
        self._said, self._said_ms = news, boot_ms


def _find_news(report: QueueReport) -> object:
    shape = report.shape()
    del shape["counts"][_IDLE]
    return shape
