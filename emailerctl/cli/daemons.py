"""`emailerctl serve`, `consume` and `dev`: the programs, imported when they are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Context, Option

from emailerctl.cli import session


def serve(
    ctx: Context,
    host: Annotated[str | None, Option(metavar="ADDRESS", help="[api] host.")] = None,
    port: Annotated[
        int | None, Option(metavar="PORT", min=0, max=65535, help="[api] port.")
    ] = None,
    workers: Annotated[int | None, Option(metavar="N", min=1, help="[api] workers.")] = None,
) -> int:
    """Run the API daemon: it accepts messages into the store, and never talks to a mail server.

    Example: emailerctl serve --port 8080 --workers 2
    """
    from daemons.api.main import run

    said = {"api.host": host, "api.port": port, "api.workers": workers}
    settings = session.load_settings(ctx, _overrides(said))
    api = settings.api
    return run(settings, host=api.host, port=api.port, workers=api.workers)


def consume(
    ctx: Context,
    concurrency: Annotated[
        int | None, Option(metavar="N", min=1, help="[consumer] concurrency: connections.")
    ] = None,
    workers: Annotated[
        int | None, Option(metavar="N", min=1, help="[consumer] workers.")
    ] = None,
) -> int:
    """Run the consumer daemon: it hands over what is due, retries, and records every step.

    Example: emailerctl consume --concurrency 32
    """
    from daemons.consumer.main import run

    said = {"consumer.concurrency": concurrency, "consumer.workers": workers}
    settings = session.load_settings(ctx, _overrides(said))
    return run(settings, workers=settings.consumer.workers)


def dev(
    port: Annotated[
        int | None,
        Option(metavar="PORT", min=1, max=65535, help="The API's; else 8080 or the next free."),
    ] = None,
    store: Annotated[
        Path | None,
        Option(metavar="DIR", help="Use this folder, and keep it; else a throw-away one."),
    ] = None,
    keep: Annotated[
        bool, Option("--keep", help="Don't remove the throw-away folder at the end.")
    ] = False,
) -> int:
    """Run API, consumer and an inbox that catches every mail, and print a curl line to try.

    Example: emailerctl dev
    """
    from emailerctl.cli.dev import run

    return run(port=port, store=store, keep=keep)


def _overrides(said: Mapping[str, str | int | None]) -> dict[str, str]:
    return {key: str(value) for key, value in said.items() if value is not None}
