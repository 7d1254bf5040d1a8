"""`emailerctl publish`: one email into ForestMQ, as a service would."""

import os
import sys
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Context, Option

from emailerctl.cli import options, output, session
from emailerctl.cli.send import build_fields, send
from emailerctl.errors import UsageError

if TYPE_CHECKING:
    from emailerctl.models.job import Key
    from emailerctl.publish import Published
    from emailerctl.settings import Settings

_TIMEOUT_MS = 60_000
_MOST_BYTES = 1024 * 1024


def _with_options_of_send(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of `send` that say what the email is, instead of **mail."""
    wanted = signature(build_fields).parameters
    own = [p for p in signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    mail = [p for name, p in signature(send).parameters.items() if name in wanted]
    both = (one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*mail, *own))
    command.__signature__ = signature(command).replace(parameters=[*both])  # type: ignore[attr-defined]
    return command


@_with_options_of_send
def publish(
    ctx: Context,
    topic: Annotated[
        str, Option(metavar="TOPIC", help="What kind of job it is.")
    ] = "email.job",
    url: Annotated[
        str | None,
        Option(metavar="URL", help="The ForestMQ; else that of [ingest.forestmq.topics]."),
    ] = None,
    key_id: Annotated[
        str | None,
        Option("--key-id", metavar="NAME", help="Whose key signs; else the only one there is."),
    ] = None,
    secret_file: Annotated[
        Path | None,
        Option(metavar="FILE", help="The key's secret; else that of [ingest.forestmq.keys]."),
    ] = None,
    unsigned: Annotated[bool, Option("--unsigned", help="Sign with no key.")] = False,
    job_id: Annotated[
        str | None,
        Option("--id", metavar="ID", help="Idempotency key: the same one sends once."),
    ] = None,
    json_file: Annotated[
        str | None,
        Option("--json", metavar="FILE", help="The body of POST /v1/messages; - reads stdin."),
    ] = None,
    confirm: Annotated[
        bool, Option("--confirm", help="Publish again until it is accepted, or rejected.")
    ] = False,
    api: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Whom --confirm asks, with EMAILER_TOKEN; else EMAILER_URL; else our store.",
        ),
    ] = None,
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="How long to --confirm; 60s unless given.",
        ),
    ] = None,
    **mail: Any,
) -> None:
    """Publish an email into ForestMQ, signed, for a consumer to take up.

    With --confirm it exits 0 when it was accepted, 65 when it was rejected, 75 when the time is
    over.  Without, it may be lost: ForestMQ keeps nothing when it ends.

    Example: emailerctl publish --to ann@example.org --subject Hi --text "It works." --confirm

    Example: emailerctl publish --key-id shop --secret-file shop.key --json message.json
    """
    import asyncio

    if timeout_ms is not None and not confirm:
        raise UsageError("--timeout says how long to --confirm", hint="give both, or neither")
    fields = build_fields(**mail)
    if json_file is not None:
        if json_file == "-" and mail.get("source") == "-":
            raise UsageError("- and --json - both read stdin", hint="give one of them")
        fields = {**_read_json(json_file), **fields}
    settings = session.load_settings(ctx)
    wanted: dict[str, Any] = {
        "url": url or _find_url(settings, topic),
        "key": None if unsigned else _find_key(settings, key_id, secret_file),
        "topic": topic,
        "job_id": job_id,
        "timeout_s": (_TIMEOUT_MS if timeout_ms is None else timeout_ms) / 1000,
    }
    published = asyncio.run(_publish(settings, fields, wanted, api, is_confirmed=confirm))
    shape = {
        "id": published.job_id,
        "topic": topic,
        "published": published.times,
        "queue_length": published.queue_length,
        "message_id": published.message_id,
    }
    if published.message_id:
        output.result(f"accepted {published.job_id} as {published.message_id}", shape)
    else:
        output.result(f"published {published.job_id}", shape)


async def _publish(
    settings: "Settings",
    fields: Mapping[str, object],
    wanted: dict[str, Any],
    api: str | None,
    *,
    is_confirmed: bool,
) -> "Published":
    from emailerctl.publish import Api, publish_async

    if not is_confirmed:
        return await publish_async(fields, **wanted)
    api = api or os.environ.get("EMAILER_URL")
    if api:
        token = os.environ.get("EMAILER_TOKEN", "")
        if not token:
            raise UsageError(
                f"--confirm asks {api} and there is no token",
                hint="set EMAILER_TOKEN to a token of the service with the scope read",
            )
        return await publish_async(fields, confirm=Api(api, token), **wanted)
    if not settings.store.path.exists():
        raise UsageError(
            f"--confirm has nobody to ask: there is no store at {settings.store.path}",
            hint="give --api, or set EMAILER_URL; and EMAILER_TOKEN",
        )
    from emailerctl.wiring import open_app

    async with open_app(settings) as app:
        service = wanted["key"].key_id if wanted["key"] else "anonymous"
        return await publish_async(fields, confirm=_Store(app.store, service), **wanted)


class _Store:
    """The store of the settings, which knows what the API knows."""

    def __init__(self, store: Any, service: str) -> None:
        self._store = store
        self._service = service

    async def find(self, job_id: str) -> Mapping[str, object] | None:
        """Return what became of a job."""
        from emailerctl.core.ingest import find_status

        return await find_status(self._store, service=self._service, job_id=job_id)


def _find_url(settings: "Settings", topic: str) -> str:
    topics = settings.ingest.forestmq.topics
    if topic not in topics:
        known = ", ".join(topics) or "none"
        raise UsageError(
            f"no ForestMQ is known for {topic!r}; [ingest.forestmq.topics] has {known}",
            hint="give --url http://HOST:PORT, or --topic",
        )
    return topics[topic]


def _find_key(settings: "Settings", key_id: str | None, secret_file: Path | None) -> "Key":
    """Return the key that signs.

    Raises:
        UsageError: there is none, or more than one.
    """
    from emailerctl.models.job import Key
    from emailerctl.settings.secret import read_secret

    if secret_file is not None:
        if key_id is None:
            raise UsageError("--secret-file needs --key-id: whose secret is it?")
        try:
            return Key(key_id, (read_secret(secret_file).split() or [""])[0])
        except ValueError as error:
            raise UsageError(f"--secret-file: {error}") from error
    keys = settings.ingest.forestmq.keys
    if key_id is None and len(keys) != 1:
        known = f"[ingest.forestmq.keys] has {', '.join(keys) or 'none'}"
        raise UsageError(
            f"whose key signs? {known}", hint="give --key-id, and --secret-file; or --unsigned"
        )
    name = key_id or next(iter(keys))
    if name not in keys:
        raise UsageError(
            f"{name!r} is no key of [ingest.forestmq.keys]", hint="give its --secret-file"
        )
    return Key(name, keys[name].get_secret_value().split()[0])


def _read_json(name: str) -> dict[str, object]:
    from emailerctl.core.strictjson import load_object

    try:
        if name == "-":
            octets = sys.stdin.buffer.read(_MOST_BYTES)
        else:
            with Path(name).open("rb") as file:
                octets = file.read(_MOST_BYTES)
    except OSError as error:
        raise UsageError(f"can't read {name}: {error.strerror}") from error
    return load_object(octets)
