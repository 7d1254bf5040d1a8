"""What followers of the event log cost acceptance, and how far behind they are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes
from bench.acceptance import CONNECTIONS
from bench.figures import Goal, Rounds, Row, middle, show_rates
from bench.installation import Accepted, Installation
from bench.processes import Child
from bench.sizes import Sizes

FOLLOWERS = 200
_FEW = 20


@dataclass
class _Seen:
    """What followers say at their end."""

    octets: list[int] = field(default_factory=list)
    behind_ms: list[float] = field(default_factory=list)


def compare(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Measure acceptance while many follow, and while nobody does."""
    site = Installation(folder / "streams").create()
    made = processes.run(
        site.command("tokens", "create", "eye", "--scope", "read:all", "-o", "json")
    )
    token = json.loads(made)["token"]
    with site.start_api() as api:
        for key, what, count, query, goal in (
            (
                "stream_narrow",
                f"acceptance with {FOLLOWERS} followers, each of a recipient / without",
                FOLLOWERS,
                "recipient=nobody-NUMBER@example.org",
                Goal(0.95),
            ),
            (
                "stream_all",
                f"acceptance with {_FEW} followers of everything / without",
                _FEW,
                "",
                None,
            ),
        ):
            seen = _Seen()

            def follow(count: int = count, query: str = query, seen: _Seen = seen) -> Accepted:
                words = ("--port", site.port, "--token", token, "--count", count)
                crowd = processes.start(
                    "followers",
                    processes.python("bench.followers", *words, "--query", query),
                    log=site.folder / "followers.log",
                )
                with crowd:
                    crowd.until_said("ready")
                    taken = _accept(site, api, sizes)
                said = json.loads(crowd.log.read_text().splitlines()[-1])
                seen.octets.append(said["octets"])
                seen.behind_ms.append(said["p99_ms"])
                return taken

            rounds = Rounds().measure(sizes.rounds, follow, lambda: _accept(site, api, sizes))
            ours, alone = rounds.ours, rounds.peer
            yield Row(
                key=key,
                what=what,
                goal=goal,
                values=rounds.compare("rate"),
                ours=show_rates(ours),
                peer=show_rates(alone),
                cpu=f"{middle(ours, 'cpu_us'):.0f} / {middle(alone, 'cpu_us'):.0f} µs each",
            )
        yield Row(
            key="stream_behind",
            what="  p99 of the age of an event when it comes",
            goal=Goal(250, is_ceiling=True, unit=" ms"),
            values=seen.behind_ms,
            unit=" ms",
            ours=f"{max(seen.octets) / 1e6:.0f} MB written a round",
        )
    site.audit()


def _accept(site: Installation, api: Child, sizes: Sizes) -> Accepted:
    return site.accept(api, count=sizes.accepted, connections=CONNECTIONS)
