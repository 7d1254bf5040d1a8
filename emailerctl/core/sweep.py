"""The sweep: dead consumers' leases, timers that fell due, work of next hops that are gone.

Any process of the host may sweep, several at once too: every step is one guarded transaction.
"""

from collections.abc import Callable, Collection, Sequence

from emailerctl.models.clock import Clock
from emailerctl.store.base import Store


class Sweep:
    """What finds work that somebody left behind.

    Args:
        is_dead: whether the process of a consumer id on this boot is gone.
        own_id: the consumer that sweeps, which is alive; None where it is no consumer.
        askable: the next hops that can be asked what became of an attempt.
        resend_after_ms: how long an answer may still come after an interruption.
    """

    def __init__(
        self,
        store: Store,
        *,
        hops: Sequence[str],
        boot_id: str,
        is_dead: Callable[[int], bool],
        own_id: int | None,
        askable: Collection[str] = (),
        max_age_ms: int,
        resend_after_ms: int,
        may_expire: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Take what a sweep needs."""
        self._store = store
        self._hops = hops
        self._boot_id = boot_id
        self._is_dead = is_dead
        self._own_id = own_id
        self._askable = askable
        self._max_age_ms = max_age_ms
        self._resend_after_ms = resend_after_ms
        self._may_expire = may_expire
        self._clock = clock

    async def void_leases(self) -> int:
        """End the leases that are over; return how many messages that touched.

        A dead process (its lock is free, or it lived in another boot) loses all its leases at
        once; one that merely stopped renewing loses what it has not marked.  A marked lease
        ends with its own time, also that of a consumer that is well, our own among them: an
        answer that did not come by then leaves its recipients unknown, and testifies if it
        still comes.
        """
        touched = 0
        for consumer in await self._store.list_consumers():
            is_own = consumer.consumer_id == self._own_id
            is_dead = not is_own and (
                consumer.boot_id != self._boot_id or self._is_dead(consumer.consumer_id)
            )
            boot_ms = self._clock.boot_ms()
            touched += await self._store.void(
                consumer.consumer_id,
                is_dead=is_dead,
                is_lapsed=not is_own and consumer.lease_until_ms <= boot_ms,
                now_ms=self._clock.now_ms(),
                boot_ms=boot_ms,
                resend_after_ms=self._resend_after_ms,
                askable=self._askable,
            )
        return touched

    async def fire_timers(self, *, adopts: bool = False) -> int:
        """Do what fell due; *adopts*: take over the work of next hops that are gone."""
        return await self._store.sweep(
            hops=self._hops if adopts else None,
            now_ms=self._clock.now_ms(),
            max_age_ms=self._max_age_ms,
            may_expire=self._may_expire(),
        )
