"""`python -m tests.scenarios.api_process`: the API daemon, with a fate."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from daemons.api import main as api
from emailerctl.settings import Settings, load
from emailerctl.store.sqlstore import SqlStore
from emailerctl.wiring import App, open_app
from tests.scenarios.fates import DyingDriver, FatedStore, add_options, parse_fates


def run(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config, environ={})

    @asynccontextmanager
    async def open_fated(settings: Settings, **options: Any) -> AsyncIterator[App]:
        async with open_app(settings, **options) as app:
            if arguments.kill_in_group:
                app.store.driver = DyingDriver(app.driver, arguments.kill_in_group)
            store = cast("SqlStore", FatedStore(app.store, parse_fates(arguments)))
            app.acceptance._store = store
            yield replace(app, store=store)

    api.open_app = open_fated
    return api.run(settings, host="127.0.0.1", port=arguments.port, workers=arguments.workers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill-in-group", type=int, metavar="N", help="with the N-th message")
    add_options(parser)
    sys.exit(run(parser.parse_args()))
