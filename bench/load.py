"""`python -m bench.load`: POSTs over kept connections, as cheaply as Python can.

Every connection sends its next request when the answer to the last one is there.  The requests
are joined from prepared bytes; of an answer nothing is read but its status and its length.
The result is one JSON object on standard output.
"""

import argparse
import asyncio
import json
import math
import time
from collections import Counter
from typing import Any, cast

import uvloop

from bench import processes
from bench.mail import Requests


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._buffer = b""
        self._sent_ns = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        request = self._run.take()
        if request is None:
            self.transport.close()
            return
        self._sent_ns = time.perf_counter_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        start = buffer.find(b"Content-Length: ", 0, end) + 16
        length = int(buffer[start : buffer.find(b"\r", start)]) if start > 15 else 0
        if len(buffer) < end + 4 + length:
            self._buffer = buffer
            return
        self._buffer = b""
        self._run.note(buffer[9:12], time.perf_counter_ns() - self._sent_ns, buffer)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.leave()


class Run:
    """What all connections share: what is left to send, and what came of it."""

    def __init__(
        self, requests: Requests, *, count: int, warm_up: int, connections: int
    ) -> None:
        self._requests = requests
        self._left = warm_up + count
        self._count = count
        self._connections = connections
        self._times_ns: list[int] = []
        self._statuses: Counter[bytes] = Counter()
        self._refusal = b""
        self._begun_ns = self._ended_ns = 0
        self._begun_wall_s = 0.0
        self._cpu_ns = (0, 0)
        self._is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self) -> bytes | None:
        """Return the next request; None when all have been sent."""
        if self._left == 0:
            return None
        if self._left == self._count:
            self._begun_ns = time.perf_counter_ns()
            self._begun_wall_s = time.time()
            self._cpu_ns = (time.process_time_ns(), 0)
        self._left -= 1
        return self._requests.build()

    def note(self, status: bytes, ns: int, answer: bytes) -> None:
        self._ended_ns = time.perf_counter_ns()
        self._statuses[status] += 1
        self._times_ns.append(ns)
        if status != b"202" and not self._refusal:
            self._refusal = answer

    def leave(self) -> None:
        self._connections -= 1
        if self._connections == 0 and not self._is_over.done():
            self._is_over.set_result(None)

    async def end(self) -> dict[str, Any]:
        """Wait for the last answer, and return the figures."""
        await self._is_over
        self._cpu_ns = (self._cpu_ns[0], time.process_time_ns())
        times = sorted(self._times_ns[-self._count :])
        return {
            "requests": len(self._times_ns),
            "count": self._count,
            "seconds": (self._ended_ns - self._begun_ns) / 1e9,
            "begun_s": self._begun_wall_s,
            "p50_ms": find_quantile(times, 0.50) / 1e6,
            "p99_ms": find_quantile(times, 0.99) / 1e6,
            "statuses": {status.decode(): n for status, n in self._statuses.items()},
            "refusal": self._refusal.decode("utf-8", "replace"),
            "cpu_us": (self._cpu_ns[1] - self._cpu_ns[0]) / self._count / 1000,
        }


def find_quantile(ordered: "list[int] | list[float]", q: float) -> float:
    """Return the *q* quantile of sorted values, by the nearest rank; 0 of none."""
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)] if ordered else 0


async def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    run = Run(
        Requests(arguments.token, arguments.port, has_template=arguments.template),
        count=arguments.count,
        warm_up=arguments.warm_up,
        connections=arguments.connections,
    )
    for _ in range(arguments.connections):
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", arguments.port)
    return await run.end()


def post(
    port: int,
    token: str,
    *,
    count: int,
    connections: int,
    warm_up: int = 0,
    has_template: bool = False,
) -> dict[str, Any]:
    """Run the generator in a process of its own, and return its figures.

    Raises:
        BenchError: an answer was not 202.
    """
    written = processes.run(
        processes.python(
            "bench.load",
            *("--port", port, "--token", token, "--count", count),
            *("--connections", connections, "--warm-up", warm_up),
            *(("--template",) if has_template else ()),
        )
    )
    figures: dict[str, Any] = json.loads(written)
    if set(figures["statuses"]) != {"202"} or figures["requests"] != count + warm_up:
        raise processes.BenchError(f"not everything was accepted: {figures}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--template", action="store_true")
    print(json.dumps(uvloop.run(generate(parser.parse_args()))))


if __name__ == "__main__":
    main()
