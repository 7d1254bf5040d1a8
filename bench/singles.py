"""Messages sent one at a time through idle daemons: from the request to the sink."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median

from bench import mail, processes, sinks
from bench.figures import Goal, Row
from bench.installation import Installation
from bench.load import find_quantile
from bench.sizes import Sizes

_ARRIVED_WITHIN_S = 20.0
_IDLE_S = (0.02, 0.06)  # between two messages, so that each finds everything asleep


def measure(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Send singles, and read the sink's journal, which has the same clock."""
    with sinks.open_journal(folder) as journal:
        site = Installation(folder / "singles", sink_port=journal.sink.port).create()
        with site.start_api() as api, site.start_consumer() as consumer:
            before_s = api.cpu_s, consumer.cpu_s
            taken = _send(site, journal, sizes.singles)
            used_s = api.cpu_s - before_s[0], consumer.cpu_s - before_s[1]
    api_us, consumer_us = (seconds / sizes.singles * 1e6 for seconds in used_s)
    arrivals = sorted(arrival for _answer, arrival in taken)
    answers = [answer for answer, _arrival in taken]
    yield Row(
        key="idle_p50_ms",
        what="idle, POST to sink, p50",
        goal=Goal(6.0, is_ceiling=True, unit=" ms"),
        values=[median(arrivals)],
        unit=" ms",
        ours=f"answered after {median(answers):.1f} ms",
        cpu=f"API {api_us:.0f}, consumer {consumer_us:.0f} µs a message, idling included",
    )
    yield Row(
        key="idle_p99_ms",
        what="idle, POST to sink, p99",
        goal=None,
        values=[find_quantile(arrivals, 0.99)],
        unit=" ms",
    )


def _send(site: Installation, journal: sinks.Journal, count: int) -> list[tuple[float, float]]:
    """Return after how many milliseconds each was answered, and at the sink."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    chance = Random(1)
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
    taken = []
    for number in range(count + 5):
        body = json.dumps(mail.build_fields(f"customer{number}@example.org"))
        offset = journal.size
        key = {"Idempotency-Key": f"single-{number}"}
        sent_s = time.time()
        connection.request("POST", "/v1/messages", body, headers | key)
        answer = connection.getresponse()
        said = answer.read()
        answered_s = time.time()
        if answer.status != 202:
            raise processes.BenchError(f"a single message was refused: {said[:500]!r}")
        arrived_s = _wait(journal, json.loads(said)["id"], offset)
        if number >= 5:  # the first ones open connections
            taken.append(((answered_s - sent_s) * 1000, (arrived_s - sent_s) * 1000))
        time.sleep(chance.uniform(*_IDLE_S))
    connection.close()
    return taken


def _wait(journal: sinks.Journal, message_id: str, offset: int) -> float:
    deadline = time.monotonic() + _ARRIVED_WITHIN_S
    while time.monotonic() < deadline:
        arrived_s = journal.find_arrival(message_id, offset)
        if arrived_s is not None:
            return arrived_s
        time.sleep(0.002)
    raise processes.BenchError(f"{message_id} did not reach the sink")
