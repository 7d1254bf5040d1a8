"""One run of a command against the store: settings, the opened app, who acts."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typer import Context

from emailerctl.errors import UsageError

if TYPE_CHECKING:
    from emailerctl.models.caller import Caller
    from emailerctl.settings import Settings
    from emailerctl.wiring import App

Answer = TypeVar("Answer")


def load_settings(ctx: Context, overrides: Mapping[str, str] | None = None) -> "Settings":
    """Return the settings that `--config` and the surroundings name.

    Raises:
        ConfigurationError: names every fault.
    """
    from emailerctl.settings import load

    named: Any = ctx.find_root().params.get("config")
    return load(Path(named) if named else None, overrides=overrides, environ=os.environ)


def run(ctx: Context, work: Callable[["App"], Awaitable[Answer]]) -> Answer:
    """Open the store, let *work* do its part, and close the store.

    Raises:
        EmailerError: what *work* raises, or why the store can't be opened.
    """
    import asyncio

    from emailerctl.wiring import open_app

    settings = load_settings(ctx)

    async def main() -> Answer:
        async with open_app(settings) as app:
            return await work(app)

    return asyncio.run(main())


def build_caller() -> "Caller":
    """Return the operator at this machine."""
    from emailerctl.models.caller import build_local_caller
    from emailerctl.wiring import find_actor

    return build_local_caller(find_actor())


def read_ids(said: Iterable[str]) -> Iterator[str]:
    """Yield the ids of the command line; `-` stands for those on standard input.

    The first word of each line counts, so that `emailerctl messages list` can be piped in; its
    header is skipped.

    Raises:
        UsageError: there are none.
    """
    count = 0
    for word in said:
        lines = (line.split() for line in sys.stdin) if word == "-" else iter([[word]])
        for words in lines:
            if words and words[0] != "id":
                count += 1
                yield words[0]
    if not count:
        raise UsageError("no ids came from standard input", hint="give at least one id")
