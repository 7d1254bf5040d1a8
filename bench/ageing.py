"""Acceptance and claiming in a store with a million finished messages, and in a small one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import sinks
from bench.acceptance import CONNECTIONS
from bench.figures import Goal, Rounds, Row, middle, show_rates
from bench.finished import find_finished
from bench.installation import Installation
from bench.sizes import Sizes


def compare(
    folder: Path, cache: Path, sizes: Sizes, say: Callable[[str], None]
) -> Iterator[Row]:
    """Accept and deliver the same number in both, in turn."""
    few, many = sizes.finished
    stores = [find_finished(cache, folder, count, say) for count in (few, many)]
    with ExitStack() as running:
        sink = running.enter_context(sinks.open_fast_sink(folder))
        small, big = (
            Installation(folder / f"finished-{count}", sink_port=sink.port).adopt(store)
            for count, store in zip((few, many), stores, strict=True)
        )
        small_api, big_api = (running.enter_context(site.start_api()) for site in (small, big))
        accepted, delivered = Rounds(), Rounds()
        for _ in range(sizes.rounds):
            accepted.measure(
                1,
                lambda: big.accept(big_api, count=sizes.aged, connections=CONNECTIONS),
                lambda: small.accept(small_api, count=sizes.aged, connections=CONNECTIONS),
            )
            delivered.measure(1, big.deliver, small.deliver)
    big.store.unlink()  # gigabytes
    for key, what, rounds, unit in (
        ("aged_acceptance", "acceptance", accepted, "request"),
        ("aged_delivery", "claiming and delivery", delivered, "message"),
    ):
        yield Row(
            key=key,
            what=f"{what} with {many:,} finished messages / with {few:,}",
            goal=Goal(0.90),
            values=rounds.compare("rate"),
            ours=show_rates(rounds.ours),
            peer=show_rates(rounds.peer),
            cpu=f"{middle(rounds.ours, 'cpu_us'):.0f} / {middle(rounds.peer, 'cpu_us'):.0f} "
            f"µs a {unit}",
        )
