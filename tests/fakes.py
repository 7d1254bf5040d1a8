"""Doubles with behaviour."""


class FakeClock:
    """A clock that stands still until it is told otherwise; both of its faces go together."""

    def __init__(self, now_ms: int = 1_795_514_400_000, boot_ms: int = 1_000_000) -> None:
        self.wall_ms = now_ms  # 2026-11-24T10:00:00Z
        self.booted_ms = boot_ms

    def now_ms(self) -> int:
        return self.wall_ms

    def boot_ms(self) -> int:
        return self.booted_ms

    def advance(self, *, ms: int = 0, s: float = 0, m: float = 0, h: float = 0) -> None:
        """Let time pass."""
        step_ms = ms + int(s * 1000 + m * 60_000 + h * 3_600_000)
        self.wall_ms += step_ms
        self.booted_ms += step_ms

    def jump(self, ms: int) -> None:
        """Set the wall clock only, as somebody with the wrong time does."""
        self.wall_ms += ms
