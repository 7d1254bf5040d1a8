"""What both daemons do in the background: sweep, keep house, watch the clock, raise alerts.

Several processes may run it at once: every step is one guarded transaction, and an alert is
told by the process whose commit raised it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from emailerctl import log
from emailerctl.core.alerts import Facts, judge
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.deliver import Hop
from emailerctl.core.mime import build_raw
from emailerctl.core.sweep import Sweep
from emailerctl.errors import EmailerError
from emailerctl.models.address import parse_mailbox
from emailerctl.models.clock import boot_id, to_ms, to_text
from emailerctl.models.ids import MESSAGE, build_message_id, to_public
from emailerctl.models.message import Draft, EnvelopeRecipient
from emailerctl.models.outcome import Kind
from emailerctl.providers.base import Outgoing, Provider
from emailerctl.providers.http import post_json
from emailerctl.store.base import Alert
from emailerctl.store.locks import is_lock_free
from emailerctl.wiring import App

_log = logging.getLogger(__name__)

_TICK_S = 0.2  # between two looks for dead consumers
_RETAIN_AT_ONCE = 500
_INDEX_AT_ONCE = 500
_INDEX_BEHIND = 30_000  # events: then the search tables wait no longer for a calm moment
_CALM_UNITS = 100  # pieces of work a second, of this process's writer
_CLOCK_NOTE = "clock_offset"
_ALERT_MAIL_MS = 30_000


@dataclass(frozen=True, slots=True)
class _Duty:
    """Something to do now and then."""

    every_s: float
    act: Callable[[], Awaitable[None]]


class Watch:
    """The background of a daemon.

    Args:
        alerter: sends the alerts' mails; None where none are to be sent.
    """

    def __init__(
        self,
        app: App,
        *,
        sweep: Sweep,
        clock_watch: ClockWatch,
        alerter: Provider | None,
        duties: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (),
    ) -> None:
        """Take what is watched; *duties* are the daemon's own."""
        self._app = app
        self._sweep = sweep
        self._clock_watch = clock_watch
        self._alerter = alerter
        self._first_seen_ms = app.clock.now_ms()
        self._indexed_seq = 0
        self._seen_units = 0
        self._untold: dict[str, tuple[str, str]] = {}  # alert -> (raised or cleared, detail)
        self._duties = [
            _Duty(_TICK_S, self._void),
            _Duty(1.0, self._look_at_clock),
            _Duty(1.0, self._fire_timers),
            _Duty(1.0, self._index),
            _Duty(5.0, self._raise_alerts),
            _Duty(30.0, self._adopt),
            _Duty(60.0, self._retain),
            *(_Duty(every_s, act) for every_s, act in duties),
        ]

    async def run(self) -> None:
        """Do everything in its own time, side by side, until cancelled."""
        await asyncio.gather(*(self._repeat(duty) for duty in self._duties))

    async def _repeat(self, duty: _Duty) -> None:
        while True:
            await self._do(duty)
            await asyncio.sleep(duty.every_s)

    async def _do(self, duty: _Duty) -> None:
        try:
            await duty.act()
        except EmailerError as error:
            _log.warning("%s: %s", duty.act.__name__, error)
        except Exception:  # noqa: BLE001  (the daemon's loop goes on)
            _log.exception("%s failed", duty.act.__name__)

    async def _void(self) -> None:
        touched = await self._sweep.void_leases()
        if touched:
            log.log("leases.voided", "warning", messages=touched)

    async def _fire_timers(self) -> None:
        await self._sweep.fire_timers()

    async def _adopt(self) -> None:
        await self._sweep.fire_timers(adopts=True)

    async def _index(self) -> None:
        """Fill the search tables when there is time, or when it has waited for long."""
        units = self._app.driver.sizes.units
        is_calm = units - self._seen_units < _CALM_UNITS
        self._seen_units = units
        last_seq = await self._app.store.last_seq()
        is_behind = last_seq - self._indexed_seq > _INDEX_BEHIND
        if not (is_calm or is_behind) or last_seq == self._indexed_seq:
            return
        self._indexed_seq = last_seq
        while await self._app.store.index(limit=_INDEX_AT_ONCE):  # noqa: ASYNC110
            await asyncio.sleep(_TICK_S)  # others write between

    async def _retain(self) -> None:
        """Remove what is old, unless the clock that says so has just been wrong."""
        if not self._clock_watch.may_expire():
            return
        retention = self._app.settings.retention
        while await self._app.store.retain(  # noqa: ASYNC110
            content_ms=to_ms(retention.content),
            messages_ms=to_ms(retention.messages),
            events_ms=to_ms(retention.events),
            now_ms=self._app.clock.now_ms(),
            limit=_RETAIN_AT_ONCE,
        ):
            await asyncio.sleep(_TICK_S)  # others write between

    async def _look_at_clock(self) -> None:
        """Alarm on a jump, remember the offset for the next process, mend waits cut from it."""
        jump_ms = self._clock_watch.look()
        if jump_ms:
            log.log("clock.jumped", "error", by_ms=jump_ms)
        if jump_ms < 0:
            await self._app.store.shorten_waits(
                now_ms=self._app.clock.now_ms(),
                longest_ms=max(self._app.policy.schedule_ms) * 2,
            )
        if jump_ms:
            await remember_clock(self._app, self._clock_watch)

    async def _raise_alerts(self) -> None:
        app = self._app
        now_ms = app.clock.now_ms()
        held = judge(
            Facts(
                now_ms=now_ms,
                first_seen_ms=self._first_seen_ms,
                queue=await app.store.queue_stats(now_ms=now_ms),
                consumers=await app.store.list_consumers(),
                next_hops=await app.store.list_next_hops(),
                chains=[app.routing.default],
                is_storage_low=app.is_storage_low(),
                clock_jumped_ms=0
                if self._clock_watch.may_expire()
                else self._clock_watch.jumped_ms,
            )
        )
        raised = {alert.name for alert in await app.store.list_alerts()}
        for name in raised - set(held):
            if await app.store.clear_alert(name):
                log.log("alert.cleared", name=name)
                self._untold[name] = ("cleared", "")
        for name in set(held) - raised:
            detail = held[name]
            alert = Alert(name=name, detail=detail, since_ms=now_ms, notified_ms=now_ms)
            if await app.store.raise_alert(alert):
                log.log("alert.raised", "error", name=name, detail=detail)
                self._untold[name] = ("raised", detail)
        for name, (what, detail) in list(self._untold.items()):
            if await self._tell(name, what, detail):
                self._untold.pop(name, None)

    async def _tell(self, name: str, what: str, detail: str) -> bool:
        """Tell the URL and the address of `[alerts]`; False: try again next time."""
        alerts = self._app.settings.alerts
        at = to_text(self._app.clock.now_ms())
        url = alerts.url.get_secret_value()
        if url:
            body = {"alert": name, "state": what, "detail": detail, "at": at}
            fault = await post_json(url, body)
            if fault:
                _log.warning("alert %s could not be posted: %s", name, fault)
                return False
        if alerts.mail_to and self._alerter is not None:
            return await self._mail(self._alerter, name, what, detail)
        return True

    async def _mail(self, provider: Provider, name: str, what: str, detail: str) -> bool:
        """Mail an alert straight to a next hop: not through a queue that may be the trouble."""
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
                subject=f"[emailerctl] {name} {what}",
                text=f"{detail or name}\n",
                headers={"Auto-Submitted": "auto-generated"},
            ),
            message_id_header=f"<{public}@{sender.address.rpartition('@')[2]}>",
            date_ms=now_ms,
        )
        sending = await provider.send(
            Outgoing(
                message_id=message_id,
                public_id=public,
                attempt=1,
                envelope_sender=sender.address,
                recipients=(EnvelopeRecipient(1, to.address),),
                raw=raw,
                needs_smtputf8=False,
                deadline_boot_ms=app.clock.boot_ms() + _ALERT_MAIL_MS,
            ),
            _always,
        )
        outcome = sending.outcomes[1]
        if outcome.kind is not Kind.ACCEPTED:
            _log.warning("alert %s could not be mailed: %s", name, outcome.reply)
        return outcome.kind in (Kind.ACCEPTED, Kind.PERMANENT, Kind.UNKNOWN)


def build_sweep(
    app: App, hops: Mapping[str, Hop], clock_watch: ClockWatch, *, own_id: int | None
) -> Sweep:
    """Build the sweep of a process; *own_id* is its consumer's, None where it is none."""
    return Sweep(
        app.store,
        hops=tuple(hops),
        boot_id=boot_id(),
        is_dead=lambda consumer_id: is_lock_free(app.folders.locks, consumer_id),
        own_id=own_id,
        max_age_ms=app.policy.max_age_ms,
        resend_after_ms=max(hop.final_reply_ms for hop in hops.values()),
        may_expire=clock_watch.may_expire,
        clock=app.clock,
    )


def find_alerter(app: App, hops: Mapping[str, Hop]) -> Provider | None:
    """Return the next hop that alerts are mailed through."""
    via = app.settings.alerts.via or next(iter(app.routing.default), "")
    hop = hops.get(via)
    return hop.provider if hop else None


async def watch_api(app: App) -> None:
    """Be the background of the API: a dead consumer is noticed by the one that still lives."""
    hops = app.build_hops()
    clock_watch = await recall_clock(app)
    watch = Watch(
        app,
        sweep=build_sweep(app, hops, clock_watch, own_id=None),
        clock_watch=clock_watch,
        alerter=find_alerter(app, hops),
    )
    try:
        await watch.run()
    finally:
        for hop in hops.values():
            await hop.provider.close()


async def _always(_accepted: object) -> bool:
    """Grant every mark: an alert is no message of the log."""
    return True


async def recall_clock(app: App) -> ClockWatch:
    """Return a watch that also sees a jump since the last process of this boot looked."""
    note = await app.store.find_note(_CLOCK_NOTE)
    boot, offset_ms, calm_until_ms = (note or "- 0 0").split()
    if boot == boot_id():
        watch = ClockWatch(app.clock, int(offset_ms), calm_until_ms=int(calm_until_ms))
    else:
        watch = ClockWatch(app.clock)
    jump_ms = watch.look()
    if jump_ms:
        log.log("clock.jumped", "error", by_ms=jump_ms)
    await remember_clock(app, watch)
    return watch


async def remember_clock(app: App, watch: ClockWatch) -> None:
    """Leave what was seen of the clocks for the next process of this boot."""
    seen = f"{boot_id()} {watch.offset_ms} {watch.calm_until_ms}"
    await app.store.leave_note(_CLOCK_NOTE, seen)
