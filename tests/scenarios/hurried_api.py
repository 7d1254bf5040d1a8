"""`python -m tests.scenarios.hurried_api`: the API daemon on a clock that runs faster.

What takes a minute by its clock, takes seconds: both of its faces hurry, so that none jumps.
"""

import argparse
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from daemons.api import main as api
from emailerctl.models.clock import SystemClock
from emailerctl.settings import Settings, load
from emailerctl.wiring import App, open_app


class HurriedClock:
    """The machine's clock from now on, so many times as fast."""

    def __init__(self, times: int) -> None:
        self._clock = SystemClock()
        self._times = times
        self._began_ms = self._clock.boot_ms()

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._find_lead_ms()

    def boot_ms(self) -> int:
        return self._clock.boot_ms() + self._find_lead_ms()

    def _find_lead_ms(self) -> int:
        return (self._clock.boot_ms() - self._began_ms) * (self._times - 1)


def run(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config, environ={})
    clock = HurriedClock(arguments.times)

    def open_hurried(settings: Settings, **options: Any) -> AbstractAsyncContextManager[App]:
        return open_app(settings, clock=clock, **options)

    api.open_app = open_hurried
    return api.run(settings, host="127.0.0.1", port=0, workers=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--times", type=int, required=True)
    sys.exit(run(parser.parse_args()))
