"""What both daemons do in the background: sweep, keep house, watch the clock, raise alerts.

Several processes may run it at once: every step is one guarded transaction.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from daemons.alerting import Alerting
from emailerctl import log
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.deliver import Hop
from emailerctl.core.sweep import Sweep
from emailerctl.errors import EmailerError
from emailerctl.models.clock import boot_id, to_ms
from emailerctl.providers.base import Provider
from emailerctl.store.locks import is_lock_free
from emailerctl.wiring import App

_log = logging.getLogger(__name__)

_TICK_S = 0.2  # between two looks for dead consumers
_RETAIN_AT_ONCE = 500
_INDEX_AT_ONCE = 500
_INDEX_BEHIND = 30_000  # events: then the search tables wait no longer for a calm moment
_CALM_UNITS = 100  # pieces of work a second, of this process's writer
_CLOCK_NOTE = "clock_offset"
_NUMBERS = 3  # of the note: offset, end of the calm, jump
_DRIFT_MS = 1_000  # small corrections add up: the next process must not take them for a jump


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
        self._remembered_ms = clock_watch.offset_ms
        self._must_mend = False
        self.alerting = Alerting(app, clock_watch=clock_watch, alerter=alerter)
        self._indexed_seq = 0
        self._seen_units = 0
        self._duties = [
            _Duty(_TICK_S, self.void_leases),
            _Duty(1.0, self.look_at_clock),
            _Duty(1.0, self.fire_timers),
            _Duty(1.0, self.match_reports),
            _Duty(1.0, self.index),
            _Duty(5.0, self.alerting.raise_alerts),
            _Duty(1.0, self.alerting.tell),
            _Duty(30.0, self.adopt),
            _Duty(60.0, self.retain),
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

    async def void_leases(self) -> None:
        """End the leases of who is gone."""
        touched = await self._sweep.void_leases()
        if touched:
            log.log("leases.voided", "warning", messages=touched)

    async def fire_timers(self) -> None:
        """Do what fell due."""
        await self._sweep.fire_timers()

    async def match_reports(self) -> None:
        """Try reports again that were about nothing yet."""
        matched = await self._app.reporting.match(now_ms=self._app.clock.now_ms())
        if matched:
            log.log("reports.matched", reports=matched)

    async def adopt(self) -> None:
        """Take over the work of next hops that are gone."""
        await self._sweep.fire_timers(adopts=True)

    async def index(self) -> None:
        """Fill the search tables when there is time, or when it has waited for long."""
        units = self._app.driver.sizes.units
        is_calm = units - self._seen_units < _CALM_UNITS
        self._seen_units = units
        last_seq = await self._app.store.last_seq()
        is_behind = last_seq - self._indexed_seq > _INDEX_BEHIND
        if not (is_calm or is_behind) or last_seq == self._indexed_seq:
            return
        while await self._app.store.index(limit=_INDEX_AT_ONCE):  # noqa: ASYNC110
            await asyncio.sleep(_TICK_S)  # others write between
        self._indexed_seq = last_seq

    async def retain(self) -> None:
        """Remove what is old, unless the clock that says so has just been wrong."""
        while await self._retain_some():  # noqa: ASYNC110
            await asyncio.sleep(_TICK_S)  # others write between

    async def _retain_some(self) -> int:
        retention = self._app.settings.retention
        now_ms = self._app.clock.now_ms()
        if not self._clock_watch.may_expire():  # asked after the clock was read: a jump shows
            return 0
        return await self._app.store.retain(
            content_ms=to_ms(retention.content),
            messages_ms=to_ms(retention.messages),
            events_ms=to_ms(retention.events),
            now_ms=now_ms,
            limit=_RETAIN_AT_ONCE,
        )

    async def look_at_clock(self) -> None:
        """Alarm on a jump, mend the waits cut from it, remember it for the next process."""
        jump_ms = self._clock_watch.look()
        if jump_ms:
            log.log("clock.jumped", "error", by_ms=jump_ms)
        self._must_mend |= jump_ms < 0
        if self._must_mend:
            await _mend_waits(self._app)
            self._must_mend = False
        drift_ms = abs(self._clock_watch.offset_ms - self._remembered_ms)
        if jump_ms or drift_ms > _DRIFT_MS:
            await _remember_clock(self._app, self._clock_watch)
            self._remembered_ms = self._clock_watch.offset_ms


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
    clock_watch = await _recall_clock_at_last(app)
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


async def _recall_clock_at_last(app: App) -> ClockWatch:
    """Recall the clock, also where the store is busy at the start: nobody starts us again."""
    while True:
        try:
            return await recall_clock(app)
        except EmailerError as error:
            _log.warning("the watch can't start yet: %s", error)
            await asyncio.sleep(_TICK_S)


async def recall_clock(app: App) -> ClockWatch:
    """Return a watch that also sees a jump since the last process of this boot looked."""
    note = await app.store.find_note(_CLOCK_NOTE)
    boot, *numbers = (note or "-").split()
    if boot == boot_id() and len(numbers) == _NUMBERS:
        offset_ms, calm_until_ms, jumped_ms = map(int, numbers)
        watch = ClockWatch(
            app.clock, offset_ms, calm_until_ms=calm_until_ms, jumped_ms=jumped_ms
        )
    else:
        watch = ClockWatch(app.clock)
    jump_ms = watch.look()
    if jump_ms:
        log.log("clock.jumped", "error", by_ms=jump_ms)
    if jump_ms < 0:
        await _mend_waits(app)
    await _remember_clock(app, watch)
    return watch


async def _mend_waits(app: App) -> None:
    """Make due what a clock that has jumped back would let wait for longer than we ever do."""
    await app.store.shorten_waits(
        now_ms=app.clock.now_ms(),
        longest_ms=max(app.policy.schedule_ms) * 2,
    )


async def _remember_clock(app: App, watch: ClockWatch) -> None:
    """Leave what was seen of the clocks for the next process of this boot."""
    seen = f"{boot_id()} {watch.offset_ms} {watch.calm_until_ms} {watch.jumped_ms}"
    await app.store.leave_note(_CLOCK_NOTE, seen)
