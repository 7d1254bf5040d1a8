"""`python -m tests.scenarios.consumer_process`: the consumer daemon, with a fate."""

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import uvloop

from daemons.consumer.main import consume
from emailerctl import log
from emailerctl.settings import load
from emailerctl.store.sqlstore import SqlStore
from emailerctl.wiring import open_app
from tests.scenarios.fates import FatedStore, add_options, parse_fates


async def run(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config, environ={})
    log.setup(sys.stdout, level="debug", format="json")
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    async with open_app(settings, logs_events=True) as app:
        store = FatedStore(app.store, parse_fates(arguments))
        return await consume(replace(app, store=cast("SqlStore", store)), stopping)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    add_options(parser)
    sys.exit(uvloop.run(run(parser.parse_args())))
