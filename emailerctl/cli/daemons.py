"""`emailerctl serve`, `consume` and `dev`: the programs, imported when they are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Context, Option

from emailerctl.cli import output, session
from emailerctl.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from daemons.api.main import ServeMail
    from emailerctl.settings.model import ApiSettings
    from emailerctl.wiring import App

_ANSWERS_WITHIN_S = 5.0
_BEATS_WITHIN_MS = 30_000  # a consumer without a heartbeat for so long alarms (product.md §7)

Check = Annotated[
    bool,
    Option(
        "--check",
        help="Start nothing: is the one of this host in order? Exit 0 if so, else 75.",
    ),
]


def serve(
    ctx: Context,
    host: Annotated[str | None, Option(metavar="ADDRESS", help="[api] host.")] = None,
    port: Annotated[
        int | None, Option(metavar="PORT", min=0, max=65535, help="[api] port.")
    ] = None,
    workers: Annotated[int | None, Option(metavar="N", min=1, help="[api] workers.")] = None,
    smtp: Annotated[
        bool, Option("--smtp", help="Take mail by SMTP too: [smtp] enabled.")
    ] = False,
    check: Check = False,
) -> int:
    """Run the API daemon: it accepts messages into the store, and never talks to a mail server.

    Example: emailerctl serve --port 8080 --workers 2
    """
    said = {
        "api.host": host,
        "api.port": port,
        "api.workers": workers,
        "smtp.enabled": "true" if smtp else None,
    }
    settings = session.load_settings(ctx, _overrides(said))
    api = settings.api
    if check:
        _require_ready(api)
        return 0
    from daemons.api.main import run

    mail = _find_submission() if settings.smtp.enabled else None
    return run(settings, host=api.host, port=api.port, workers=api.workers, mail=mail)


def _find_submission() -> "ServeMail":
    """Return what takes mail by SMTP.

    Raises:
        ConfigurationError: the extra that has the server is not installed.
    """
    try:
        from daemons.api.submission import serve_mail
    except ImportError as error:
        raise ConfigurationError(
            "[smtp] enabled: aiosmtpd is not installed",
            hint="install the extra smtp: pip install 'emailerctl[smtp]'",
        ) from error
    return serve_mail


def consume(
    ctx: Context,
    concurrency: Annotated[
        int | None, Option(metavar="N", min=1, help="[consumer] concurrency: connections.")
    ] = None,
    workers: Annotated[
        int | None, Option(metavar="N", min=1, help="[consumer] workers.")
    ] = None,
    check: Check = False,
) -> int:
    """Run the consumer daemon: it hands over what is due, retries, and records every step.

    Example: emailerctl consume --concurrency 32
    """
    if check:
        session.run_here(ctx, _require_heartbeat)
        return 0
    from daemons.consumer.main import run

    said = {"consumer.concurrency": concurrency, "consumer.workers": workers}
    settings = session.load_settings(ctx, _overrides(said))
    return run(settings, workers=settings.consumer.workers)


def _require_ready(api: "ApiSettings") -> None:
    """Refuse where the API of this host doesn't say that it is ready.

    Raises:
        Unavailable: names what is wrong.
    """
    import http.client
    import json

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(api.host, api.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, api.port, timeout=_ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(
            f"the API at {host} port {api.port} doesn't answer: {error}",
            hint="start it: emailerctl serve",
        ) from error
    finally:
        connection.close()
    if not said["ready"]:
        told = ", ".join(f"{name} {said[name]}" for name in ("store", "disk") if name in said)
        raise Unavailable(f"the API is not ready: {told}", hint="see: emailerctl status")
    output.note(f"the API at {host} port {api.port} is ready")


async def _require_heartbeat(opened: "App") -> None:
    """Refuse where no consumer of this host has a recent heartbeat.

    Raises:
        Unavailable: there is none.
    """
    import socket

    here = socket.gethostname()
    now_ms = opened.clock.now_ms()
    beats = [
        now_ms - consumer.heartbeat_ms
        for consumer in await opened.store.list_consumers()
        if consumer.host == here
    ]
    if not beats or min(beats) > _BEATS_WITHIN_MS:
        since = f"; the last one is {min(beats) // 1000} s old" if beats else ""
        raise Unavailable(
            f"no consumer of {here} has a recent heartbeat{since}",
            hint="start one: emailerctl consume",
        )
    output.note(f"the consumer of {here} beat {min(beats) / 1000:.1f} s ago")


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
