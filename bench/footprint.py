"""Memory of both daemons after many mails, and how long the command line takes to start."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench import processes, sinks
from bench.acceptance import CONNECTIONS
from bench.figures import Goal, Row
from bench.installation import Installation
from bench.sizes import Sizes

_PARTS = 10


def measure_memory(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Read both daemons' resident memory ten times on the way."""
    with sinks.open_fast_sink(folder) as sink:
        site = Installation(folder / "memory", sink_port=sink.port).create()
        with site.start_api() as api, site.start_consumer() as consumer, site.reading() as db:
            seen = []
            for _ in range(_PARTS):
                site.accept(api, count=sizes.remembered // _PARTS, connections=CONNECTIONS)
                site.until_delivered(db, consumer)
                seen.append((api.rss_mb, consumer.rss_mb))
    sums = [sum(pair) for pair in seen]
    yield Row(
        key="memory_mb",
        what=f"memory, both daemons, after {sizes.remembered:,} mails",
        goal=Goal(160, is_ceiling=True, unit=" MB"),
        values=[sums[-1]],
        unit=" MB",
        ours=f"API {seen[-1][0]:.0f}, consumer {seen[-1][1]:.0f} MB",
    )
    yield Row(
        key="memory_growth_mb",
        what="  its growth over the last half",
        goal=None,
        values=[sums[-1] - sums[_PARTS // 2 - 1]],
        unit=" MB",
    )


def measure_start(sizes: Sizes) -> Iterator[Row]:
    """Start the command line again and again, in turn with a Python that does nothing."""
    script = Path(sys.executable).with_name("emailerctl")
    command = [str(script)] if script.exists() else processes.python("emailerctl")
    ours, bare = [], []
    for _ in range(sizes.starts):
        ours.append(_time([*command, "--version"]))
        bare.append(_time([sys.executable, "-c", "pass"]))
    yield Row(
        key="version_s",
        what="emailerctl --version",
        goal=Goal(0.3, is_ceiling=True, unit=" s"),
        values=ours,
        unit=" s",
        peer=f"python -c pass: {median(bare):.2f} s",
    )


def _time(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=processes.clean_environment())
    return time.perf_counter() - began
