"""Delivery beside `smtp-source`, and the way from the request to the sink."""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import mail, processes, sinks
from bench.acceptance import CONNECTIONS
from bench.figures import Goal, Rounds, Row, middle, show_rates
from bench.installation import Delivered, Installation
from bench.sizes import Sizes

HOP_CONNECTIONS = (8, 16, 32)
_DEFAULT = 16
_RAW = "SELECT raw FROM contents LIMIT 1"


def compare(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Let one consumer empty a queue that is full, in turn with `smtp-source -d`."""
    with sinks.open_fast_sink(folder) as sink:
        template = Installation(folder / "queue", sink_port=sink.port).create()
        with template.start_api() as api:
            template.accept(api, count=sizes.delivered, connections=CONNECTIONS)
        queue = template.settle_files()
        content = folder / "content.eml"
        with template.reading() as db:
            content.write_bytes(db.execute(_RAW).fetchone()[0].replace(b"\r\n", b"\n"))
        for connections in HOP_CONNECTIONS:
            yield _compare(folder, sizes, sink, queue, content, connections)


def _compare(
    folder: Path,
    sizes: Sizes,
    sink: sinks.Sink,
    queue: Path,
    content: Path,
    connections: int,
) -> Row:
    source = sinks.find_program("smtp-source")
    number = iter(range(1_000))

    def ours() -> Delivered:
        site = Installation(
            folder / f"delivery-{connections}-{next(number)}", sink_port=sink.port
        ).adopt(queue)
        delivered = site.deliver(concurrency=connections)
        site.store.unlink()
        return delivered

    def peer() -> Delivered:
        return _run_source(source or "", sink.port, content, sizes.delivered, connections)

    what = f"delivery, marks on / smtp-source -d, {connections} connections"
    goal = Goal(0.45) if connections == _DEFAULT else None
    key = f"delivery_{connections}"
    if source is None:
        alone = [ours() for _ in range(sizes.rounds)]
        said = f"{show_rates(alone)}, {middle(alone, 'cpu_us'):.0f} µs of processor a message"
        return Row(
            key, what, goal, ours=said, skipped="smtp-source (package postfix) is not there"
        )
    rounds = Rounds().measure(sizes.rounds, ours, peer)
    return Row(
        key=key,
        what=what,
        goal=goal,
        values=rounds.compare("rate"),
        ours=show_rates(rounds.ours),
        peer=show_rates(rounds.peer),
        cpu=f"{middle(rounds.ours, 'cpu_us'):.0f} / {middle(rounds.peer, 'cpu_us'):.0f} "
        "µs a message",
    )


def _run_source(
    program: str, port: int, content: Path, count: int, connections: int
) -> Delivered:
    """Send the same bytes as often with Postfix's own generator, which keeps nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    processes.run(
        [
            *(program, "-4", "-d", "-s", str(connections), "-m", str(count)),
            *("-f", mail.SENDER, "-t", "customer@example.org", "-F", str(content)),
            f"inet:127.0.0.1:{port}",
        ]
    )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Delivered(count / seconds, cpu_s / count * 1e6)


@dataclass(frozen=True)
class Through:
    """One measurement of the whole way."""

    rate: float
    accepted_rate: float
    alone_rate: float
    api_cpu_us: float
    consumer_cpu_us: float


def follow_through(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """POST as fast as is answered while a consumer delivers; and without one."""
    with sinks.open_fast_sink(folder) as sink:
        site = Installation(folder / "through", sink_port=sink.port).create()
        alone = Installation(folder / "alone", sink_port=sink.port).create()
        with (
            site.start_api() as api,
            alone.start_api() as alone_api,
            site.start_consumer() as consumer,
            site.reading() as db,
        ):
            taken = []
            for _ in range(sizes.rounds):
                lonely = alone.accept(alone_api, count=sizes.through, connections=CONNECTIONS)
                taken.append(_go_through(site, api, consumer, db, sizes, lonely.rate))
        site.audit()
    cpu = (
        f"API {middle(taken, 'api_cpu_us'):.0f}, "
        f"consumer {middle(taken, 'consumer_cpu_us'):.0f} µs a message"
    )
    yield Row(
        key="end_to_end",
        what="end to end / the acceptance rate meanwhile",
        goal=Goal(0.90),
        values=[one.rate / one.accepted_rate for one in taken],
        ours=show_rates(taken),
        peer=f"{middle(taken, 'accepted_rate'):,.0f}/s",
        cpu=cpu,
    )
    yield Row(
        key="end_to_end_alone",
        what="end to end / the acceptance rate without a consumer",
        goal=None,
        values=[one.rate / one.alone_rate for one in taken],
        ours=show_rates(taken),
        peer=f"{middle(taken, 'alone_rate'):,.0f}/s",
    )


def _go_through(
    site: Installation,
    api: processes.Child,
    consumer: processes.Child,
    db: Any,
    sizes: Sizes,
    alone_rate: float,
) -> Through:
    before_s = consumer.cpu_s
    accepted = site.accept(api, count=sizes.through, connections=CONNECTIONS)
    site.until_delivered(db, consumer)
    end_s = site.find_last_hand_over_ms(db) / 1000
    return Through(
        # The warm-up's messages went out too, before the count began.
        rate=sizes.through / max(end_s - accepted.begun_s, accepted.seconds),
        accepted_rate=accepted.rate,
        alone_rate=alone_rate,
        api_cpu_us=accepted.cpu_us,
        consumer_cpu_us=(consumer.cpu_s - before_s) / accepted.requests * 1e6,
    )
