"""`python -m bench` (`make bench`): measure, print the table, keep the history."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import (
    acceptance,
    ageing,
    delivery,
    doorbells,
    footprint,
    machine,
    report,
    singles,
    streams,
    templates,
)
from bench.figures import Row
from bench.processes import ROOT, BenchError
from bench.sizes import DEFAULT, FULL, QUICK, Sizes
from bench.syncs import compile_library

_PARTS = (
    "acceptance",
    "ageing",
    "delivery",
    "through",
    "doorbells",
    "singles",
    "streams",
    "templates",
    "memory",
    "start",
)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the ratios of docs/benchmarks.md, side by side in one run.",
        epilog="The exit code says whether it could measure, never how fast it was.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="sizes", action="store_const", const=QUICK)
    size.add_argument("--full", dest="sizes", action="store_const", const=FULL)
    parser.set_defaults(sizes=DEFAULT)
    add = parser.add_argument
    add("--rounds", type=int, help="of each comparison; the median counts")
    add("--only", action="append", choices=_PARTS, help="this part; may be repeated")
    add("--folder", type=Path, default=ROOT / "bench/results", help="on the disk to measure")
    add("--cache", type=Path, help="where the big stores are kept; else FOLDER/cache")
    add("--write", action="store_true", help="write the figures to docs/benchmarks.md")
    return parser.parse_args(arguments)


def measure(
    folder: Path, cache: Path, sizes: Sizes, only: list[str], say: Callable[[str], None]
) -> Iterable[Row]:
    """Yield the rows of the table, part after part."""
    library = compile_library(folder)
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "acceptance": lambda: acceptance.compare(folder, sizes, library),
        "ageing": lambda: ageing.compare(folder, cache, sizes, say),
        "delivery": lambda: delivery.compare(folder, sizes),
        "through": lambda: delivery.follow_through(folder, sizes),
        "doorbells": lambda: doorbells.compare(folder, sizes),
        "singles": lambda: singles.measure(folder, sizes),
        "streams": lambda: streams.compare(folder, sizes),
        "templates": lambda: templates.compare(folder, sizes),
        "memory": lambda: footprint.measure_memory(folder, sizes),
        "start": lambda: footprint.measure_start(sizes),
    }
    for name in only or _PARTS:
        say(name)
        yield from parts[name]()


def main() -> int:
    wanted = parse(sys.argv[1:])
    # The daemons are ended by the `with`s that began them, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes: Sizes = wanted.sizes
    if wanted.rounds:
        sizes = replace(sizes, rounds=wanted.rounds)
    cache: Path = wanted.cache or wanted.folder / "cache"
    for path in (wanted.folder, cache):
        path.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    noise = machine.find_noise()
    described = machine.describe(wanted.folder) | {"noise": noise}
    for name, value in described.items():
        if value:
            console.print(f"{name}: {value}", markup=False)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[{time.monotonic() - began:6.0f} s] {line}", markup=False)

    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=wanted.folder) as folder:
            for row in measure(Path(folder), cache, sizes, wanted.only or [], say):
                rows.append(row)
                report.print_row(console, row)
    except BenchError as error:
        console.print(f"It could not be measured: {error}", markup=False, style="red")
        return 1
    say("done")
    report.print_table(console, rows)
    taken = report.Taken(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=machine.find_commit(),
        profile=f"{sizes.name}, {sizes.rounds} rounds",
        machine=described,
    )
    entry = report.build_entry(rows, taken)
    report.print_change(console, entry)
    if not wanted.only and sizes.name != "quick":
        report.keep(entry)
    if wanted.write:
        report.write_document(rows, taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
