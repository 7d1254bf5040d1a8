"""One run of a command: settings, the store or an API, who acts."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typer import Context

from emailerctl.cli import contexts
from emailerctl.errors import UsageError

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
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


def find_place(ctx: Context) -> contexts.Place | None:
    """Return the API elsewhere that is meant; None: the store here.

    Raises:
        UsageError, NotFound, ConfigurationError: see `contexts.find_place`.
    """
    return contexts.find_place(ctx.find_root().params, os.environ)


def ask(ctx: Context, work: Callable[["Desk"], Awaitable[Answer]]) -> Answer:
    """Let *work* do its part where it is meant to: at the store here, or at an API elsewhere.

    Raises:
        EmailerError: what *work* raises, or why nobody can be asked.
    """
    import asyncio

    place = find_place(ctx)
    if place is None:
        from emailerctl.cli.desk import LocalDesk
        from emailerctl.wiring import find_actor

        return run(ctx, lambda app: work(LocalDesk(app, find_actor())))
    from emailerctl.cli.remote_desk import RemoteDesk

    async def main() -> Answer:
        desk = RemoteDesk(place)
        try:
            return await work(desk)
        finally:
            await desk.close()

    return asyncio.run(main())


def run(ctx: Context, work: Callable[["App"], Awaitable[Answer]]) -> Answer:
    """Open the store, let *work* do its part, and close the store.

    Raises:
        UsageError: an API elsewhere is meant.
        EmailerError: what *work* raises, or why the store can't be opened.
    """
    require_local(ctx)
    return run_here(ctx, work)


def run_here(ctx: Context, work: Callable[["App"], Awaitable[Answer]]) -> Answer:
    """Do the same whatever else is meant: the daemons look at their own store.

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


def require_local(ctx: Context) -> None:
    """Refuse to go on where an API elsewhere is meant.

    Raises:
        UsageError: names what is meant, and the way back.
    """
    place = find_place(ctx)
    if place is not None:
        raise UsageError(
            f"{ctx.command_path} works where the store is, and not by way of "
            f"{place.describe()}",
            hint=f"run it there; or name the store here: --context {contexts.LOCAL}",
        )


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
