"""`python -m bench.followers`: many who follow the event log, as cheaply as Python can.

It says `ready` when all follow, and at SIGTERM what they got: bytes, and how old events were
when they came, by the clock that stamped them.
"""

import argparse
import asyncio
import json
import signal
import time
from datetime import datetime
from typing import cast

import uvloop

from bench.load import find_quantile

_AT = b'"at":"'


class Follower(asyncio.Protocol):
    """One of them; the first one looks at the age of what it gets."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        crowd = self._crowd
        query = crowd.query.replace("NUMBER", str(self._number))
        cast("asyncio.Transport", transport).write(
            f"GET /v1/events/stream?{query} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {crowd.token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._crowd.octets += len(data)
        if not self._has_begun:
            self._has_begun = True
            self._crowd.note_begun(data)
        elif self._number == 0:
            start = data.rfind(_AT)
            if start >= 0 and len(data) >= start + 30:
                at = datetime.fromisoformat(data[start + 6 : start + 30].decode())
                self._crowd.ages_s.append(time.time() - at.timestamp())


class Crowd:
    """All of them."""

    def __init__(self, token: str, query: str, count: int) -> None:
        self.token = token
        self.query = query
        self.octets = 0
        self.ages_s: list[float] = []
        self._missing = count

    def note_begun(self, head: bytes) -> None:
        if b" 200 " not in head[:16]:
            raise SystemExit(head.decode(errors="replace"))
        self._missing -= 1
        if not self._missing:
            print("ready", flush=True)


async def follow(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    crowd = Crowd(arguments.token, arguments.query, arguments.count)
    for number in range(arguments.count):
        await loop.create_connection(
            lambda number=number: Follower(crowd, number), "127.0.0.1", arguments.port
        )
    await over.wait()
    ages = sorted(crowd.ages_s)
    said = {
        "octets": crowd.octets,
        "p50_ms": find_quantile(ages, 0.5) * 1000,
        "p99_ms": find_quantile(ages, 0.99) * 1000,
    }
    print(json.dumps(said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.followers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--query", default="")
    uvloop.run(follow(parser.parse_args()))


if __name__ == "__main__":
    main()
