"""Raise alerts, clear them, and tell the operator: by a post to a URL, by a mail, by the log.

Both daemons do.  The process whose commit raised or cleared an alert tells it, and tries again
until each way has worked; that of a process which ended before it could is told by another.
"""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from emailerctl import log
from emailerctl.core.alerts import Facts, judge
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.mime import build_raw
from emailerctl.errors import Unavailable
from emailerctl.models.address import needs_smtputf8, parse_mailbox
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, build_message_id, to_public
from emailerctl.models.message import Draft, EnvelopeRecipient
from emailerctl.models.outcome import Kind
from emailerctl.providers.base import Outgoing, Provider
from emailerctl.providers.http_client import post_json
from emailerctl.store.base import Alert, Consumer
from emailerctl.wiring import App

_log = logging.getLogger(__name__)

_MAIL_MS = 30_000
_ORPHANED_MS = 60_000  # untold for so long: whoever raised it may be gone
_FIRST_WAIT_MS = 5_000
_LONGEST_WAIT_MS = 300_000


@dataclass(slots=True)
class _Notice:
    """What is still to be told about an alert.

    Attributes:
        ways: those by which it has not been told yet.
        is_written: the store has it; False where nothing can be written just now.
        again_boot_ms: when to try again.
    """

    name: str
    state: str
    detail: str
    at_ms: int
    ways: set[str]
    is_written: bool = True
    again_boot_ms: int = 0
    wait_ms: int = _FIRST_WAIT_MS


class Alerting:
    """The alerts of one process.

    Args:
        alerter: sends the alerts' mails; None where none are to be sent.
    """

    def __init__(self, app: App, *, clock_watch: ClockWatch, alerter: Provider | None) -> None:
        """Begin to watch for signs of life."""
        self._app = app
        self._clock_watch = clock_watch
        self._alerter = alerter
        self._alive_boot_ms = app.clock.boot_ms()
        self._has_seen_life = False
        self._beats: set[tuple[int, int]] | None = None
        self._notices: dict[str, _Notice] = {}
        self._unwritten: set[str] = set()

    # raising and clearing

    async def raise_alerts(self) -> None:
        """Raise what holds, clear what does not any more."""
        app = self._app
        now_ms = app.clock.now_ms()
        raised = {alert.name: alert for alert in await app.store.list_alerts()}
        held = judge(await self._gather(now_ms, raised))
        for name, alert in raised.items():
            if name not in held:
                await self._clear(alert, now_ms)
            elif alert.notified_ms is None and abs(now_ms - alert.since_ms) > _ORPHANED_MS:
                self._notices.setdefault(
                    name, self._build_notice(name, "raised", alert.detail, alert.since_ms)
                )
        for name, detail in held.items():
            if name not in raised:
                await self._raise(name, detail, now_ms)
        for name in self._unwritten - set(held):
            self._unwritten.discard(name)
            self._notices[name] = self._build_notice(name, "cleared", "it is over", now_ms)

    async def _gather(self, now_ms: int, raised: Mapping[str, Alert]) -> Facts:
        app = self._app
        self._look_for_life(await app.store.list_consumers())
        hops, breakers = await app.store.load_standing()
        return Facts(
            now_ms=now_ms,
            raised=raised.keys(),
            queue=await app.store.queue_stats(now_ms=now_ms),
            silent_ms=app.clock.boot_ms() - self._alive_boot_ms,
            has_seen_life=self._has_seen_life,
            next_hops=[hop for hop in hops if hop.name in app.tables],
            breakers=breakers,
            chains=app.routing.chains,
            is_storage_low=app.is_storage_low(),
            clock_calm_ms=self._clock_watch.find_calm_ms(),
            clock_jumped_ms=self._clock_watch.jumped_ms,
        )

    def _look_for_life(self, consumers: list[Consumer]) -> None:
        """See whether a consumer has begun, or its heart has beaten, since the last look."""
        beats = {(consumer.consumer_id, consumer.heartbeat_ms) for consumer in consumers}
        if self._beats is not None and beats - self._beats:
            self._alive_boot_ms = self._app.clock.boot_ms()
            self._has_seen_life = True
        self._beats = beats

    async def _raise(self, name: str, detail: str, now_ms: int) -> None:
        """Raise an alert; one that can't be written is told all the more."""
        was_told = name in self._unwritten
        alert = Alert(
            name=name, detail=detail, since_ms=now_ms, notified_ms=now_ms if was_told else None
        )
        try:
            is_ours = await self._app.store.raise_alert(alert)
        except Unavailable as error:
            _log.warning("alert %s could not be written: %s", name, error)
            is_ours = not was_told
            self._unwritten.add(name)
        else:
            is_ours = is_ours and not was_told
        if is_ours:
            log.log("alert.raised", "error", name=name, detail=detail)
            notice = self._build_notice(name, "raised", detail, now_ms)
            notice.is_written = name not in self._unwritten
            self._notices[name] = notice

    async def _clear(self, alert: Alert, now_ms: int) -> None:
        if await self._app.store.clear_alert(alert.name):
            log.log("alert.cleared", name=alert.name)
            detail = f"it is over; since {to_text(alert.since_ms)}: {alert.detail}"
            notice = self._build_notice(alert.name, "cleared", detail, now_ms)
            self._notices[alert.name] = notice

    # telling

    async def tell(self) -> None:
        """Tell what has not been told, each by the ways that have not worked yet."""
        if not self._notices:
            return
        raised = {alert.name: alert for alert in await self._app.store.list_alerts()}
        for notice in list(self._notices.values()):
            if self._app.clock.boot_ms() < notice.again_boot_ms:
                continue
            if _is_outdated(notice, raised.get(notice.name)):
                self._forget(notice)
                continue
            await self._tell(notice)
            if not notice.ways:
                if notice.state == "raised" and notice.is_written:
                    now_ms = self._app.clock.now_ms()
                    await self._app.store.note_alert_told(notice.name, at_ms=now_ms)
                self._forget(notice)

    def _build_notice(self, name: str, state: str, detail: str, at_ms: int) -> _Notice:
        alerts = self._app.settings.alerts
        ways = set()
        if alerts.url.get_secret_value():
            ways.add("url")
        if alerts.mail_to and self._alerter is not None:
            ways.add("mail")
        return _Notice(name, state, detail, at_ms, ways)

    def _forget(self, notice: _Notice) -> None:
        if self._notices.get(notice.name) is notice:  # a newer one may have come meanwhile
            del self._notices[notice.name]

    async def _tell(self, notice: _Notice) -> None:
        for way, tell in (("url", self._post), ("mail", self._mail)):
            if way in notice.ways:
                fault = await tell(notice)
                if fault:
                    _log.warning("alert %s could not be told (%s): %s", notice.name, way, fault)
                else:
                    notice.ways.discard(way)
        notice.again_boot_ms = self._app.clock.boot_ms() + notice.wait_ms
        notice.wait_ms = min(notice.wait_ms * 2, _LONGEST_WAIT_MS)

    async def _post(self, notice: _Notice) -> str:
        """Post to the URL; return why that failed."""
        body = {
            "alert": notice.name,
            "state": notice.state,
            "detail": notice.detail,
            "at": to_text(notice.at_ms),
            "host": socket.gethostname(),
        }
        return await post_json(self._app.settings.alerts.url.get_secret_value(), body)

    async def _mail(self, notice: _Notice) -> str:
        """Mail straight to a next hop: not through a queue that may be the trouble.

        What was refused for good, or may have gone out, is not tried again.
        """
        if self._alerter is None:
            return ""
        sending = await self._alerter.send(self._build_mail(notice), _always)
        outcome = sending.outcomes[1]
        if outcome.kind is Kind.TRANSIENT:
            return outcome.reply
        if outcome.kind is not Kind.ACCEPTED:
            _log.error("alert %s: its mail met %s", notice.name, outcome.reply)
        return ""

    def _build_mail(self, notice: _Notice) -> Outgoing:
        app = self._app
        now_ms = app.clock.now_ms()
        message_id = build_message_id(now_ms, app.chance)
        to = parse_mailbox(app.settings.alerts.mail_to, allow_local_domains=True)
        sender = parse_mailbox(
            app.settings.defaults.header_from or to.address, allow_local_domains=True
        )
        public = to_public(MESSAGE, message_id)
        raw = build_raw(
            Draft(
                header_from=sender,
                to=(to,),
                subject=f"[emailerctl] {notice.name} {notice.state}",
                text=f"{notice.detail}\n\n{socket.gethostname()}, {to_text(notice.at_ms)}\n",
                headers={"Auto-Submitted": "auto-generated"},
            ),
            message_id_header=f"<{public}@{sender.address.rpartition('@')[2]}>",
            date_ms=now_ms,
        )
        return Outgoing(
            message_id=message_id,
            public_id=public,
            attempt=1,
            envelope_sender=sender.address,
            recipients=(EnvelopeRecipient(1, to.address),),
            raw=raw,
            needs_smtputf8=needs_smtputf8(sender.address) or needs_smtputf8(to.address),
            deadline_boot_ms=app.clock.boot_ms() + _MAIL_MS,
        )


def _is_outdated(notice: _Notice, alert: Alert | None) -> bool:
    """Return whether the alert has changed since, or another process has told it."""
    if not notice.is_written:
        return False
    if notice.state == "cleared":
        return alert is not None
    return alert is None or alert.notified_ms is not None


async def _always(_accepted: object) -> bool:
    """Grant every mark: an alert is no message of the log."""
    return True
