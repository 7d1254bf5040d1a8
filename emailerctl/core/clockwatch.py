"""Watching the wall clock against the boot clock (F-CL-01).

A jump of more than a minute is an alarm; for ten minutes after it nothing is expired or
abandoned by age, since the clock that says so has just been wrong.
"""

from emailerctl.models.clock import Clock

JUMP_MS = 60_000
CALM_MS = 600_000


class ClockWatch:
    """Compares the clocks now and then.

    Args:
        remembered_ms: the offset of the clocks that an earlier process of this boot saw.
        calm_until_ms: until when, on the boot clock, that process did not believe it.
        jumped_ms: by how much it had jumped then.
    """

    def __init__(
        self,
        clock: Clock,
        remembered_ms: int | None = None,
        *,
        calm_until_ms: int = 0,
        jumped_ms: int = 0,
    ) -> None:
        """Begin with what the clocks say now, or with what was remembered."""
        self._clock = clock
        self.offset_ms = self._read() if remembered_ms is None else remembered_ms
        self.calm_until_ms = calm_until_ms
        self.jumped_ms = jumped_ms
        self._untold_ms = 0

    def _read(self) -> int:
        return self._clock.now_ms() - self._clock.boot_ms()

    def look(self) -> int:
        """Return by how much the wall clock jumped since the last look; 0 where it did not.

        A jump that `may_expire` met first is told here all the same.
        """
        self._compare()
        jump_ms, self._untold_ms = self._untold_ms, 0
        return jump_ms

    def _compare(self) -> None:
        offset_ms = self._read()
        jump_ms = offset_ms - self.offset_ms
        self.offset_ms = offset_ms
        if abs(jump_ms) > JUMP_MS:
            self.jumped_ms = jump_ms
            self._untold_ms += jump_ms
            self.calm_until_ms = self._clock.boot_ms() + CALM_MS

    def may_expire(self) -> bool:
        """Return whether the wall clock may be believed about ages and expiries."""
        return self.find_calm_ms() == 0

    def find_calm_ms(self) -> int:
        """Return for how long the wall clock will not be believed yet; 0 where it is."""
        self._compare()
        return max(0, self.calm_until_ms - self._clock.boot_ms())
