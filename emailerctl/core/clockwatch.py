"""Watching the wall clock against the boot clock (F-CL-01).

A jump of more than a minute is an alarm; for ten minutes after it nothing is expired or abandoned
by age, since the clock that says so has just been wrong.
"""

from emailerctl.models.clock import Clock

JUMP_MS = 60_000
CALM_MS = 600_000


class ClockWatch:
    """Compares the clocks now and then.

    Args:
        remembered_ms: the offset of the clocks that an earlier process of this boot saw.
    """

    def __init__(self, clock: Clock, remembered_ms: int | None = None) -> None:
        """Begin with what the clocks say now, or with what was remembered."""
        self._clock = clock
        self.offset_ms = self._read() if remembered_ms is None else remembered_ms
        self._calm_until_ms = 0
        self.jumped_ms = 0

    def _read(self) -> int:
        return self._clock.now_ms() - self._clock.boot_ms()

    def look(self) -> int:
        """Return by how much the wall clock jumped since the last look; 0 where it did not."""
        offset_ms = self._read()
        jump_ms = offset_ms - self.offset_ms
        self.offset_ms = offset_ms
        if abs(jump_ms) <= JUMP_MS:
            return 0
        self.jumped_ms = jump_ms
        self._calm_until_ms = self._clock.boot_ms() + CALM_MS
        return jump_ms

    def may_expire(self) -> bool:
        """Return whether the wall clock may be believed about ages and expiries."""
        self.look()
        return self._clock.boot_ms() >= self._calm_until_ms
