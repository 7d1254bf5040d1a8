"""`python -m tests.scenarios.consumer_process`: the consumer daemon, with a fate."""

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from daemons.consumer.main import consume
from daemons.run import run_daemon, setup_log
from emailerctl.settings import load
from emailerctl.store.sqlstore import SqlStore
from emailerctl.wiring import open_app
from tests.scenarios.fates import FatedStore, add_options, parse_fates


def run(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config, environ={})
    setup_log(settings)

    async def serve(stopping: asyncio.Event) -> int:
        async with open_app(settings, logs_events=True) as app:
            store = FatedStore(app.store, parse_fates(arguments))
            return await consume(replace(app, store=cast("SqlStore", store)), stopping)

    return run_daemon(serve)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    add_options(parser)
    sys.exit(run(parser.parse_args()))
