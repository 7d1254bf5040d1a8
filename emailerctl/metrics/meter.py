"""Numbers in memory that all processes of a daemon share, and their text for Prometheus.

Every worker process has a row of its own in one piece of shared memory that their parent made
before it forked.  Counting is an addition to a place that was worked out at the start: no lock,
since each number of a row has one writer; no call to the kernel.  Whichever process is asked
adds the rows up, so that the answer is right for all of them.  What a dead worker counted stays
counted: its successor goes on in its row.
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from emailerctl.metrics.registry import METRICS, OTHER, Metric, Shape

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NUMBER_BYTES = 8

Labels = tuple[str, ...]
Readings = Mapping[Metric, Mapping[Labels, float]]


class Meter:
    """The figures of one daemon.

    Args:
        next_hops: names, as the settings have them.
        rows: processes.
    """

    def __init__(self, next_hops: Iterable[str] = (), *, rows: int = 1) -> None:
        """Lay out the memory; all numbers are 0."""
        names = tuple(sorted(next_hops))
        self._places: dict[Metric, dict[Labels, int]] = {}
        self._unforeseen: dict[Metric, int] = {}
        self._width = 0
        for metric in METRICS:
            if not metric.is_read:
                self._lay_out(metric, names)
        self._rows = rows
        memory = mmap.mmap(-1, max(1, rows * self._width) * _NUMBER_BYTES)
        self._all: Any = memoryview(memory).cast("d")
        self._row: Any = self._all[: self._width]

    def _lay_out(self, metric: Metric, next_hops: Sequence[str]) -> None:
        values = [
            (*(next_hops if some is None else some), OTHER) for some in metric.labels.values()
        ]
        size = len(metric.buckets) + 2 if metric.shape is Shape.HISTOGRAM else 1
        places = self._places[metric] = {}
        for labels in product(*values):
            places[labels] = self._width
            self._width += size
        self._unforeseen[metric] = places[(OTHER,) * len(values)]

    def sit(self, number: int) -> None:
        """Take the row of a worker: to be called in each process, after the fork."""
        start = number * self._width
        self._row = self._all[start : start + self._width]

    def leave(self, number: int) -> None:
        """Forget what a worker that has ended had open; what it counted stays."""
        for metric, places in self._places.items():
            if metric.shape is Shape.GAUGE:
                for place in places.values():
                    self._all[number * self._width + place] = 0.0

    # counting

    def add(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Count *by* more."""
        place = self._places[metric].get(labels)
        self._row[self._unforeseen[metric] if place is None else place] += by

    def set(self, metric: Metric, *labels: str, to: float) -> None:
        """Say how much there is now, of this process."""
        place = self._places[metric].get(labels)
        self._row[self._unforeseen[metric] if place is None else place] = to

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count *value* into its bucket."""
        place = self._places[metric].get(labels)
        if place is None:
            place = self._unforeseen[metric]
        buckets = metric.buckets
        row = self._row
        row[place + bisect_left(buckets, value)] += 1.0
        row[place + len(buckets) + 1] += value

    # telling

    def read(self, metric: Metric, *labels: str) -> float:
        """Return a number as it is for all processes; of a histogram, how many it has seen."""
        place = self._places[metric][labels]
        if metric.shape is Shape.HISTOGRAM:
            return sum(self._sum(place + i) for i in range(len(metric.buckets) + 1))
        return self._sum(place)

    def _sum(self, place: int) -> float:
        width = self._width
        total: float = sum(self._all[row * width + place] for row in range(self._rows))
        return total

    def render(self, readings: Readings) -> bytes:
        """Return the text for Prometheus (exposition format 0.0.4), *readings* included.

        https://prometheus.io/docs/instrumenting/exposition_formats/ (read 2026-11-24).
        """
        lines: list[str] = []
        for metric in METRICS:
            if metric.is_read:
                samples = _write_readings(metric, readings.get(metric, {}))
            else:
                samples = self._write(metric)
            if samples:
                lines.append(f"# HELP {metric.name} {metric.help}")
                lines.append(f"# TYPE {metric.name} {metric.shape}")
                lines += samples
        return ("\n".join(lines) + "\n").encode()

    def _write(self, metric: Metric) -> list[str]:
        samples: list[str] = []
        for labels, place in self._places[metric].items():
            if metric.shape is Shape.HISTOGRAM:
                some = self._write_histogram(metric, labels, place)
            else:
                value = self._sum(place)
                some = (
                    [f"{metric.name}{_braces(metric, labels)} {_number(value)}"]
                    if (value or OTHER not in labels)
                    else []
                )
            samples += some
        return samples

    def _write_histogram(self, metric: Metric, labels: Labels, place: int) -> list[str]:
        samples, seen = [], 0.0
        for index, bound in enumerate((*metric.buckets, float("inf"))):
            seen += self._sum(place + index)
            braces = _braces(
                metric, labels, le="+Inf" if bound == float("inf") else _number(bound)
            )
            samples.append(f"{metric.name}_bucket{braces} {_number(seen)}")
        if not seen and OTHER in labels:
            return []
        braces = _braces(metric, labels)
        total = self._sum(place + len(metric.buckets) + 1)
        samples.append(f"{metric.name}_sum{braces} {_number(total)}")
        samples.append(f"{metric.name}_count{braces} {_number(seen)}")
        return samples


def _write_readings(metric: Metric, values: Mapping[Labels, float]) -> list[str]:
    return [
        f"{metric.name}{_braces(metric, labels)} {_number(value)}"
        for labels, value in values.items()
    ]


def _braces(metric: Metric, labels: Labels, **more: str) -> str:
    pairs = {**dict(zip(metric.labels, labels, strict=True)), **more}
    if not pairs:
        return ""
    said = ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items())
    return f"{{{said}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
