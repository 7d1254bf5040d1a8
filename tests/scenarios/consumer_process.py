"""`python -m tests.scenarios.consumer_process`: the consumer daemon, with a fate."""

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from daemons.consumer.main import consume
from daemons.run import run_daemon, setup_log
from emailerctl.core.outlook import Patience
from emailerctl.providers import registry
from emailerctl.settings import load
from emailerctl.store.sqlstore import SqlStore
from emailerctl.wiring import open_app
from tests.scenarios.fates import FatedStore, add_options, parse_fates


def run(arguments: argparse.Namespace) -> int:
    if arguments.look_up_lag_ms is not None:
        registry.KINDS = shorten_lags(arguments.look_up_lag_ms)
    settings = load(arguments.config, environ={})
    setup_log(settings)

    async def serve(stopping: asyncio.Event) -> int:
        async with open_app(settings, logs_events=True) as app:
            store = FatedStore(app.store, parse_fates(arguments))
            fated = replace(app, store=cast("SqlStore", store))
            return await consume(fated, stopping, patience=hurry(arguments.settling_ms))

    return run_daemon(serve)


def hurry(settling_ms: int) -> Patience:
    """Return a patience of seconds: what is asked about settles in *settling_ms*."""
    return replace(Patience(), least_ms=200, most_ms=1_000, settling_ms=settling_ms)


def shorten_lags(lag_ms: int) -> dict[str, registry.Kind]:
    """Return the kinds of next hops with look-ups that show what was taken after *lag_ms*."""
    return {
        name: replace(kind, abilities=replace(kind.abilities, look_up_lag_ms=lag_ms))
        if kind.abilities is not None and kind.abilities.look_up_lag_ms is not None
        else kind
        for name, kind in registry.KINDS.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--settling-ms", type=int, default=Patience().settling_ms)
    parser.add_argument("--look-up-lag-ms", type=int, help="instead of what is declared")
    add_options(parser)
    sys.exit(run(parser.parse_args()))
