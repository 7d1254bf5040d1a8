"""`emailerctl config`: what is set, whether it is right, and a file to start from."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option, Typer

from emailerctl.cli import output

app = Typer(no_args_is_help=True, help="Settings: show, check, start a file.")

ConfigOption = Annotated[
    Path | None,
    Option(
        "--config",
        metavar="FILE",
        help="Settings file; else EMAILER_CONFIG, ./emailer.toml, /etc/emailer/emailer.toml.",
    ),
]


@app.command()
def show(
    ctx: Context,
    origin: Annotated[bool, Option("--origin", help="And where it comes from.")] = False,
    form: Annotated[
        output.Form | None, Option("-o", "--output", help="How it is written.")
    ] = None,
    json: Annotated[bool, Option("--json", help="The same as -o json.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show every setting as it is in force; secrets are masked.

    Example: emailerctl config show --origin
    """
    from emailerctl.settings import Origin, load, origins

    output.setup(form=output.Form.JSON if json else form)

    def shape(one: Origin) -> dict[str, object]:
        said = {"origin": one.origin} if origin else {}
        return {"key": one.key, "value": one.value, **said}

    output.listing(
        "Settings",
        ["setting", "value", "origin"] if origin else ["setting", "value"],
        origins(load(_named(ctx, config), environ=os.environ)),
        shape=shape,
        row=lambda one: [_as_text(value) for value in shape(one).values()],
        name="key",
    )


@app.command()
def check(ctx: Context, config: ConfigOption = None) -> None:
    """Check the whole configuration, next hops included; every fault is named at once.

    Example: emailerctl config check --config /etc/emailer/emailer.toml
    """
    from emailerctl.settings import load
    from emailerctl.settings.sources import find_file
    from emailerctl.wiring import check_providers

    file = find_file(_named(ctx, config), os.environ)
    settings = load(file, environ=os.environ, check_providers=check_providers)
    for warning in settings.warnings:
        output.warn(warning)
    hops = list(settings.providers)
    output.result(
        f"{file or 'variables and defaults'}: good; next hops: {', '.join(hops) or 'none'}",
        {
            "file": str(file) if file else None,
            "next_hops": hops,
            "warnings": settings.warnings,
        },
    )


@app.command()
def init(
    path: Annotated[Path, Argument(metavar="[PATH]", help="File to write.")] = Path(
        "emailer.toml"
    ),
    force: Annotated[bool, Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write a settings file that shows everything and sets nothing, readable by you alone.

    Example: emailerctl config init /etc/emailer/emailer.toml
    """
    from emailerctl.errors import Conflict, UsageError
    from emailerctl.settings.example import build_example

    if path.exists() and not force:
        raise Conflict(f"{path} exists", hint="name another path, or overwrite it with --force")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (keeps the mode)
            file.write(build_example())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"can't write {path}: {error.strerror}") from error
    output.result(f"wrote {path}", {"file": str(path)})


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors.

    Example: emailerctl config schema > emailer.schema.json
    """
    from emailerctl.settings.example import build_schema

    output.write_json(build_schema())


def _named(ctx: Context, config: Path | None) -> Path | None:
    """Return the file that `--config` names, after this command or before it."""
    named = config or ctx.find_root().params.get("config")
    return Path(named) if named else None


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
