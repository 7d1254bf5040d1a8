"""The figures: counted in every process, added up in whichever is asked, written as text."""

import os

import pytest

from emailerctl.errors import EmailerError
from emailerctl.metrics import registry as metrics
from emailerctl.metrics.meter import Meter
from emailerctl.metrics.registry import METRICS, OTHER, Shape, series_of


def lines(meter: Meter) -> list[str]:
    return meter.render({}).decode().splitlines()


def test_each_process_counts_and_all_of_it_is_told() -> None:
    """What a dead one counted stays; what it had open goes."""
    meter = Meter(["relay"], rows=3)
    for number in (1, 2):
        if os.fork() == 0:
            meter.sit(number)
            for _ in range(number * 100):
                meter.add(metrics.ATTEMPTS, "relay", "accepted")
            meter.observe(metrics.COMMIT_SECONDS, 0.003)
            meter.set(metrics.FOLLOWERS, to=number)
            os._exit(0)
        os.wait()
    meter.add(metrics.ATTEMPTS, "relay", "accepted")

    assert meter.read(metrics.ATTEMPTS, "relay", "accepted") == 301
    assert meter.read(metrics.COMMIT_SECONDS) == 2
    assert meter.read(metrics.FOLLOWERS) == 3
    meter.leave(2)
    assert meter.read(metrics.FOLLOWERS) == 1
    assert meter.read(metrics.ATTEMPTS, "relay", "accepted") == 301


def test_buckets_hold_what_is_not_larger() -> None:
    meter = Meter()
    for units in (1, 2, 2, 3, 5_000):
        meter.observe(metrics.COMMIT_UNITS, units)

    said = [line for line in lines(meter) if line.startswith("emailer_commit_units")]
    counts = {line.split('"')[1]: line.split()[-1] for line in said if "bucket" in line}

    assert [counts[le] for le in ("1", "2", "5", "1000", "+Inf")] == ["1", "3", "4", "4", "5"]
    assert "emailer_commit_units_sum 5008" in said
    assert "emailer_commit_units_count 5" in said


def test_what_nobody_foresaw_is_other_and_makes_no_series() -> None:
    """No peer, sender or recipient can make series without end."""
    meter = Meter(["relay"])
    before = len(lines(meter))
    for n in range(1_000):
        meter.add(metrics.EVENTS, f"made.up{n}")
        meter.add(metrics.ATTEMPTS, f"hop{n}", "accepted")
        meter.observe(metrics.HANDOVER_SECONDS, 1.0, "high", f"hop{n}")

    added = len(lines(meter)) - before
    assert meter.read(metrics.EVENTS, OTHER) == 1_000
    assert added < 30


def test_labels_are_escaped() -> None:
    meter = Meter(['a"b\\c\nd'])

    assert any('next_hop="a\\"b\\\\c\\nd"' in line for line in lines(meter))


def test_names_are_used_once_and_tell_what_they_are() -> None:
    """https://prometheus.io/docs/practices/naming/ (read 2026-11-24)."""
    names = [name for metric in METRICS for name in series_of(metric)]

    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.name.startswith("emailer_")
        assert metric.name.endswith("_total") is (metric.shape is Shape.COUNTER)
        assert metric.help.endswith((".", ";"))
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert bool(metric.buckets) is (metric.shape is Shape.HISTOGRAM)


def test_refusals_are_codes_of_ours() -> None:
    def find_codes(error: type[EmailerError]) -> set[str]:
        return {error.code}.union(*map(find_codes, error.__subclasses__()))

    outcomes = set(metrics.ACCEPTANCES.labels["outcome"] or ())

    assert outcomes - {metrics.ACCEPTED, metrics.REPLAYED} <= find_codes(EmailerError)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_are_bounded(metric: metrics.Metric) -> None:
    """Of ours, or next hops: never an address, a domain, a tag, a service, a message."""
    assert set(metric.labels) <= {
        *("outcome", "next_hop", "result", "lane", "type", "waiting_for", "state"),
        *("name", "version", "sqlite", "use", "what"),
    }
