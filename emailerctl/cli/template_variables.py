"""The variables of a template as they are said on a command line: `--var`, `--vars`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from emailerctl.errors import Fault, Invalid, UsageError

Words = Annotated[
    list[str] | None,
    Option("--var", metavar="NAME=VALUE", help="A variable; JSON unless it is text."),
]
File = Annotated[
    str | None,
    Option("--vars", metavar="FILE", help="Variables as one JSON object; - is stdin."),
]
Locale = Annotated[str | None, Option(metavar="TAG", help="The language: de-AT.")]


def read_variables(
    schema: Mapping[str, Any], words: list[str] | None, file: str | None
) -> dict[str, Any]:
    """Return the variables of the file and of the words; *schema* says what is text.

    Raises:
        UsageError: the file can't be read.
        Invalid: one is not what its type needs.
    """
    variables = _read_file(file) if file else {}
    types = {name: one.get("type") for name, one in schema.get("properties", {}).items()}
    faults = []
    for word in words or ():
        name, found, value = word.partition("=")
        if not found or not name:
            faults.append(Fault("/variables", f"{word!r} has no '=' after its name"))
        elif types.get(name, "string") == "string":
            variables[name] = value
        else:
            try:
                variables[name] = json.loads(value)
            except ValueError:
                detail = f"is of type {types[name]}; write it as JSON"
                faults.append(Fault(f"/variables/{name}", detail))
    if faults:
        raise Invalid(faults)
    return variables


def require_template(name: str | None, *said: object) -> None:
    """Refuse what goes with a template where there is none.

    Raises:
        UsageError: names it.
    """
    if name is None and any(said):
        raise UsageError("--var, --vars and --locale go with --template")


def _read_file(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        variables = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"can't read variables from {file}: {error}") from error
    if not isinstance(variables, dict):
        raise UsageError(f"{file} holds no JSON object", hint='write {"name": "Ann"}')
    return variables
