"""The queue by way of ForestMQ beside the embedded one: throughput, idling, and a bad broker.

The ForestMQ is the tests' stand-in, in a process of its own: the ratios say what doorbells cost
us, not how fast the real one is.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import processes, sinks
from bench.acceptance import CONNECTIONS
from bench.figures import Goal, Rounds, Row, middle, show_rates
from bench.installation import Installation
from bench.load import find_quantile
from bench.processes import Child
from bench.sizes import Sizes

_IDLE_S = {"quick": 2.0}
_USUAL_IDLE_S = 20.0
_BAD = (
    *("--restart-after", 0.2, "--kill-every", 1),
    *("--abandon", 0.1, "--repeat", 50, "--reorder"),
)
_GROUP = 20  # messages at once, under a bad broker
_PAUSE_S = 0.25

_WAITS = """
    SELECT marked.at - accepted.at
      FROM events marked JOIN events accepted ON accepted.message_id = marked.message_id
     WHERE marked.type = 'recipient.marked' AND accepted.type = 'message.accepted'
       AND accepted.seq > ?
"""
_TWICE = """
    SELECT count(*) FROM (SELECT message_id FROM events WHERE type = 'recipient.handed_over'
                           GROUP BY message_id HAVING count(*) > 1)
"""
_LOST = "SELECT count(*) FROM messages WHERE state <> 'sent'"


@dataclass(frozen=True)
class _Run:
    """One measurement end to end."""

    rate: float
    consumer_cpu_us: float


def compare(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Measure both kinds of queue in turn, idle and busy; then with a broker that fails."""
    with ExitStack() as stack:
        sink = stack.enter_context(sinks.open_fast_sink(folder))
        server = stack.enter_context(_start_forestmq(folder / "forestmq.log"))
        by_bell = Installation(
            folder / "doorbells", sink_port=sink.port, forestmq_url=_find_url(server)
        )
        sites = [by_bell.create(), Installation(folder / "plain", sink_port=sink.port).create()]
        running = [
            (
                site,
                stack.enter_context(site.start_api()),
                stack.enter_context(site.start_consumer()),
            )
            for site in sites
        ]
        ours, peer = running
        yield _compare_busy(sizes, ours, peer)
        yield _compare_idle(sizes, ours[2], peer[2])
    yield from _suffer(folder, sizes)


def _start_forestmq(log: Path, *options: object) -> Child:
    port = processes.find_free_port()
    command = processes.python("tests.forestmq", "--port", port, *options)
    return processes.start(f"forestmq {port}", command, log=log).until_listening(port)


def _find_url(server: Child) -> str:
    return f"http://127.0.0.1:{server.name.split()[1]}"


def _compare_busy(
    sizes: Sizes,
    ours: tuple[Installation, Child, Child],
    peer: tuple[Installation, Child, Child],
) -> Row:
    def run(site: Installation, api: Child, consumer: Child) -> _Run:
        before_s = consumer.cpu_s
        with site.reading() as db:
            accepted = site.accept(api, count=sizes.through, connections=CONNECTIONS)
            site.until_delivered(db, consumer)
            end_s = site.find_last_hand_over_ms(db) / 1000
        seconds = max(end_s - accepted.begun_s, accepted.seconds)
        cpu_us = (consumer.cpu_s - before_s) / accepted.requests * 1e6
        return _Run(sizes.through / seconds, cpu_us)

    rounds = Rounds().measure(sizes.rounds, lambda: run(*ours), lambda: run(*peer))
    return Row(
        key="doorbells",
        what="end to end, by way of ForestMQ / embedded",
        goal=None,
        values=rounds.compare("rate"),
        ours=show_rates(rounds.ours),
        peer=show_rates(rounds.peer),
        cpu=f"{middle(rounds.ours, 'consumer_cpu_us'):.0f} / "
        f"{middle(rounds.peer, 'consumer_cpu_us'):.0f} µs a message, of the consumer",
    )


def _compare_idle(sizes: Sizes, ours: Child, peer: Child) -> Row:
    """Let both consumers wait for nothing."""
    seconds = _IDLE_S.get(sizes.name, _USUAL_IDLE_S)
    before_s = ours.cpu_s, peer.cpu_s
    time.sleep(seconds)
    used = [
        (child.cpu_s - before) / seconds * 1000
        for child, before in zip((ours, peer), before_s, strict=True)
    ]
    return Row(
        key="doorbells_idle",
        what="an idle consumer by way of ForestMQ, of one core",
        goal=None,
        values=[used[0] / 10],
        unit=" %",
        ours=f"{used[0]:.1f} ms a second",
        peer=f"embedded {used[1]:.1f} ms a second",
    )


def _suffer(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Deliver while the broker is killed every second, loses, repeats and reorders."""
    with ExitStack() as stack:
        sink = stack.enter_context(sinks.open_fast_sink(folder))
        server = stack.enter_context(_start_forestmq(folder / "bad.log", *_BAD))
        site = Installation(
            folder / "suffering", sink_port=sink.port, forestmq_url=_find_url(server)
        ).create()
        api = stack.enter_context(site.start_api())
        consumer = stack.enter_context(site.start_consumer())
        with site.reading() as db:
            seq = _ask(db, "SELECT coalesce(max(seq), 0) FROM events")
            for _ in range(max(sizes.singles // 2, 20)):
                site.accept(api, count=_GROUP, connections=4)
                time.sleep(_PAUSE_S)
            site.until_delivered(db, consumer)
            waits_ms = sorted(row[0] for row in db.execute(_WAITS, (seq,)).fetchall())
            lost, twice = _ask(db, _LOST), _ask(db, _TWICE)
        site.audit()
    if lost or twice:
        raise processes.BenchError(f"{lost} messages were lost, {twice} went out twice")
    yield Row(
        key="doorbells_bad_p99_s",
        what="ForestMQ killed every second, losing and repeating: POST to mark, p99",
        goal=Goal(5.0, is_ceiling=True, unit=" s"),
        values=[find_quantile(waits_ms, 0.99) / 1000],
        unit=" s",
        ours=f"p50 {median(waits_ms):.0f} ms; of {len(waits_ms)} 0 lost, 0 twice",
    )


def _ask(db: Any, query: str) -> int:
    return int(db.execute(query).fetchone()[0])
