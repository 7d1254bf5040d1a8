"""Durable acceptance beside a bare Tornado handler, on this disk and on a slow one."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import processes
from bench.figures import Goal, Rounds, Row, middle, show_rates
from bench.installation import Accepted, Installation, measure_acceptance
from bench.sizes import Sizes
from bench.syncs import SyncBook

SLOWER_US = 4_000
CONNECTIONS, SLOW_CONNECTIONS = 32, 64


def compare(folder: Path, sizes: Sizes, library: Path | None) -> Iterator[Row]:
    """Measure both, and both again with a disk whose syncs take 4 ms longer."""
    rounds, book = _measure(folder / "acceptance", sizes, library, delay_us=0)
    ours, bare = rounds.ours, rounds.peer
    yield Row(
        key="acceptance",
        what=f"durable acceptance / bare Tornado, {CONNECTIONS} connections",
        goal=Goal(0.70),
        values=rounds.compare("rate"),
        ours=show_rates(ours),
        peer=show_rates(bare),
        cpu=f"{middle(ours, 'cpu_us'):.0f} / {middle(bare, 'cpu_us'):.0f} µs a request "
        f"(client {middle(bare, 'client_cpu_us'):.0f})",
    )
    yield Row(
        key="acceptance_p99",
        what="p99 of acceptance / bare Tornado's",
        goal=Goal(1.8, is_ceiling=True),
        values=rounds.compare("p99_ms"),
        ours=f"{middle(ours, 'p99_ms'):.1f} ms",
        peer=f"{middle(bare, 'p99_ms'):.1f} ms",
    )
    yield from _describe_syncs("acceptance", ours, book)
    what = f"the same, +{SLOWER_US // 1000} ms a sync, {SLOW_CONNECTIONS} connections"
    if library is None:
        yield Row("slow_disk", what, Goal(0.70), skipped="there is no C compiler")
        return
    rounds, book = _measure(folder / "slow", sizes, library, delay_us=SLOWER_US)
    ours, bare = rounds.ours, rounds.peer
    yield Row(
        key="slow_disk",
        what=what,
        goal=Goal(0.70),
        values=rounds.compare("rate"),
        ours=show_rates(ours),
        peer=show_rates(bare),
        cpu=f"{middle(ours, 'cpu_us'):.0f} / {middle(bare, 'cpu_us'):.0f} µs a request",
    )
    yield from _describe_syncs("slow_disk", ours, book)


def _measure(
    folder: Path, sizes: Sizes, library: Path | None, *, delay_us: int
) -> tuple[Rounds, SyncBook | None]:
    site = Installation(folder).create()
    book = SyncBook(library, folder / "syncs", delay_us=delay_us) if library else None
    count = sizes.slow if delay_us else sizes.accepted
    connections = SLOW_CONNECTIONS if delay_us else CONNECTIONS
    port = processes.find_free_port()
    with ExitStack() as running:
        bare = running.enter_context(
            processes.start(
                "bare", processes.python("bench.bare", port), log=folder / "bare.log"
            )
        ).until_listening(port)
        api = running.enter_context(site.start_api(book=book))
        rounds = Rounds().measure(
            sizes.rounds,
            lambda: site.accept(api, count=count, connections=connections, book=book),
            lambda: measure_acceptance(
                bare, port, site.token, count=count, connections=connections
            ),
        )
    site.audit()
    return rounds, book


def _describe_syncs(key: str, ours: list[Accepted], book: SyncBook | None) -> Iterator[Row]:
    if book is None:
        return
    yield Row(
        key=f"{key}_group",
        what="  requests that shared a sync",
        goal=None,
        values=[one.group_size for one in ours],
        ours=f"a sync takes {middle(ours, 'sync_ms'):.2f} ms",
    )
