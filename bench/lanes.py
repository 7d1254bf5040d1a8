"""`python -m bench.lanes`: a password reset beside a batch of 50,000, measured for real (T-30).

A batch of low or normal priority is posted in batches of a thousand; while it is accepted and
delivered, resets of priority high are posted one after the other.  What is measured is the time
from a reset's POST to the sink's taking it, and the same without any batch, in turn.
"""

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import sinks
from bench.installation import Installation
from bench.load import find_quantile
from bench.mail import build_fields
from bench.processes import ROOT

_AT_ONCE = 1_000
_PAUSE_S = 0.05
_GIVE_UP_S = 60.0


def post(site: Installation, path: str, body: object) -> int:
    """Post once, on a connection of its own, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def flood(site: Installation, count: int, priority: str) -> None:
    """Post *count* messages in batches, again where the API says later."""
    for start in range(0, count, _AT_ONCE):
        messages = [
            build_fields(f"bulk{start + n}@example.org") | {"priority": priority}
            for n in range(min(_AT_ONCE, count - start))
        ]
        while post(site, "/v1/messages/batch", {"messages": messages}) != 202:
            time.sleep(0.1)


def reset(site: Installation, journal: sinks.Journal, name: str) -> float:
    """Post a reset and return how long it took to the sink, in ms."""
    size = journal.size
    began = time.time()
    fields = build_fields(f"{name}@example.org") | {"priority": "high"}
    assert post(site, "/v1/messages", fields) == 202
    while True:
        found = journal.find_arrival(f'"{name}@example.org"', size)
        if found is not None:
            return (found - began) * 1000
        if time.time() - began > _GIVE_UP_S:
            raise SystemExit(f"{name} did not arrive")
        time.sleep(0.001)


def measure(
    site: Installation, journal: sinks.Journal, rounds: int, prefix: str
) -> Iterator[float]:
    for n in range(rounds):
        yield reset(site, journal, f"{prefix}{n}")
        time.sleep(_PAUSE_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes", description=__doc__)
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--resets", type=int, default=100)
    parser.add_argument("--priority", choices=["normal", "low"], default="normal")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench/results")
    wanted = parser.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(dir=wanted.folder)))
        journal = running.enter_context(sinks.open_journal(folder))
        site = Installation(folder / "site", sink_port=journal.sink.port).create()
        running.enter_context(site.start_api())
        consumer = running.enter_context(site.start_consumer())
        alone = sorted(measure(site, journal, wanted.resets, "alone"))
        child = os.fork()
        if child == 0:
            flood(site, wanted.batch, wanted.priority)
            os._exit(0)
        began = time.monotonic()
        with site.reading() as db:
            beside = sorted(measure(site, journal, wanted.resets, "beside"))
            ready = db.execute("SELECT count(*) FROM work").fetchone()[0]
            took_s = time.monotonic() - began
            os.waitpid(child, 0)
            site.until_delivered(db, consumer)
        site.audit()
    for name, times in (("alone", alone), ("beside the batch", beside)):
        quantiles = " ".join(
            f"p{q} {find_quantile(times, q / 100):.1f} ms" for q in (50, 95, 99)
        )
        sys.stdout.write(f"{name}: {quantiles}, most {times[-1]:.1f} ms\n")
    sys.stdout.write(f"after {took_s:.1f} s of resets {ready} of the batch were left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
