"""`template.toml`: the variables of a template as a JSON Schema, and its defaults."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError

from emailerctl.models.address import AddressInvalid, parse_address, parse_mailbox
from emailerctl.models.clock import parse_duration
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.models.text import shorten
from emailerctl.templates.base import DEFAULT_LOCALE, Defaults

FILE = "template.toml"
LOCALE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,4}")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TYPES: Mapping[str, Mapping[str, str]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "list": {"type": "array"},
    "object": {"type": "object"},
    "url": {"type": "string", "format": "url"},
    "email": {"type": "string", "format": "email"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "datetime"},
}
# Of JSON Schema what says something of one value; nothing that refers to elsewhere.
_KEYWORDS = frozenset(
    {
        *("enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems"),
        *("maxItems", "description", "default"),
    }
)
_OURS = frozenset({"type", "required", "example", "sensitive", "items", "properties"})
_TOP = ("from", "tags", "on_unknown", "expires_in", "list_unsubscribe", "locale", "variables")
_MOST_FAULTS = 20
_MOST_DEPTH = 8

_SHAPES = {
    "date": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "datetime": re.compile(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
        r"(Z|[+-][0-9]{2}:[0-9]{2})"
    ),
    "url": re.compile(
        r"(https?://[^\s/\"<>@]+|mailto:[^\s\"<>]+@[^\s\"<>]+)([/?#][^\s\"<>]*)?"
    ),
}
_WANTED = {
    "date": "a date like 2026-11-24",
    "datetime": "a moment with an offset, like 2026-11-24T10:00:00Z",
    "url": "a URL that begins with https://, http:// or mailto:",
    "email": "an e-mail address",
}


@dataclass(slots=True)
class Declaration:
    """What a `template.toml` says.

    Attributes:
        faults: (line, sentence) each.
    """

    schema: dict[str, Any] = field(default_factory=lambda: _object({}, []))
    defaults: Defaults = field(default_factory=Defaults)
    locale: str = DEFAULT_LOCALE
    sensitive: list[str] = field(default_factory=list)
    examples: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)

    @property
    def required(self) -> set[str]:
        """The variables that every request gives."""
        return set(self.schema["required"])

    @property
    def names(self) -> set[str]:
        """All variables."""
        return set(self.schema["properties"])


def parse_declaration(text: str) -> Declaration:
    """Read a `template.toml`; what is wrong with it is among its faults."""
    declaration = Declaration()
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        declaration.faults.append((int(found[1]) if found else 0, f"is not TOML: {error}"))
        return declaration
    lines = text.splitlines()

    def blame(name: str, sentence: str) -> None:
        at = (
            n for n, line in enumerate(lines, 1) if re.search(rf"\b{re.escape(name)}\b", line)
        )
        declaration.faults.append((next(at, 0), sentence))

    for name in tables:
        if name not in _TOP:
            blame(name, f"{shorten(name)} is unknown; known: {', '.join(_TOP)}")
    variables = tables.get("variables", {})
    if isinstance(variables, dict):
        _read_variables(declaration, variables, blame)
    else:
        blame("variables", "variables is a table: [variables.name]")
    _read_defaults(declaration, tables, blame)
    return declaration


def _read_variables(declaration: Declaration, variables: dict[str, Any], blame: Any) -> None:
    properties: dict[str, Any] = {}
    for name, table in variables.items():
        if not _NAME.fullmatch(name):
            blame(name, f"{shorten(name)} is no name of a variable; take letters, digits and _")
            continue
        if not isinstance(table, dict):
            blame(name, f'variable {name} is a table: [variables.{name}] with type = "string"')
            continue
        if table.get("sensitive") is True:
            declaration.sensitive.append(name)
        faults: list[str] = []
        properties[name] = _build_schema(table, faults, is_top=True)
        for fault in faults:
            blame(name, f"variable {name}: {fault}")
        example = table.get("example", table.get("default"))
        if example is not None:
            declaration.examples[name] = _to_json(example)
    required = [
        name
        for name, table in variables.items()
        if name in properties and table.get("required") is True
    ]
    declaration.schema = _object(properties, required) | {"additionalProperties": False}
    try:
        Draft202012Validator.check_schema(declaration.schema)
    except SchemaError as error:
        name = str(next(iter(list(error.path)[1:2]), "variables"))
        blame(name, f"variable {name}: {error.message[:200]}")
        return
    _check_examples(declaration, blame)


def _check_examples(declaration: Declaration, blame: Any) -> None:
    for pointer, fault in find_faults(declaration.schema, declaration.examples, []):
        path = pointer.split("/")[1:]
        if fault != "is missing" or len(path) > 1:  # not every variable needs one
            blame(path[0], f"the example of {'.'.join(path)}: {fault}")


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _build_schema(
    table: Mapping[str, Any], faults: list[str], *, is_top: bool = False, depth: int = 0
) -> dict[str, Any]:
    """Return the JSON Schema of one variable, or of what is below it."""
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        faults.append(f"type {shorten(kind)} is not one of {', '.join(_TYPES)}")
        return {}
    if depth > _MOST_DEPTH:
        faults.append(f"is nested more than {_MOST_DEPTH} deep")
        return {}
    schema: dict[str, Any] = dict(_TYPES[kind])
    faults += [
        f"{name} is true or false"
        for name in ("required", "sensitive")
        if not isinstance(table.get(name, False), bool)
    ]
    for name, value in table.items():
        if name in _KEYWORDS:
            schema[name] = _to_json(value)
        elif name not in _OURS or (name == "sensitive" and not is_top):
            faults.append(f"{shorten(name)} is unknown here")
    if isinstance(table.get("items"), dict):
        schema["items"] = _build_schema(table["items"], faults, depth=depth + 1)
    below = table.get("properties")
    if isinstance(below, dict):
        tables = {name: one for name, one in below.items() if isinstance(one, dict)}
        schema["properties"] = {
            name: _build_schema(one, faults, depth=depth + 1) for name, one in tables.items()
        }
        schema["required"] = [
            name for name, one in tables.items() if one.get("required") is True
        ]
    return schema


def _to_json(value: Any) -> Any:
    """Return a TOML value as JSON would have it: dates are text there."""
    if isinstance(value, dict):
        return {name: _to_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_to_json(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else value.isoformat()


def _read_defaults(declaration: Declaration, tables: Mapping[str, Any], blame: Any) -> None:
    """Read what stands above the variables, each by the rule of its field."""
    read: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        if name in tables:
            try:
                check(tables[name])
            except (ValueError, AddressInvalid) as error:
                blame(name, f"{name}: {error}")
            else:
                read[name] = tables[name]
    declaration.locale = str(read.pop("locale", DEFAULT_LOCALE))
    declaration.defaults = msgspec.convert(read, Defaults)


def _check_from(value: Any) -> None:
    parse_mailbox(value, allow_local_domains=True)
    if not isinstance(value, str):
        raise ValueError('write it as text: "Example <no-reply@example.org>"')  # noqa: TRY004


def _check_tags(value: Any) -> None:
    if not (isinstance(value, list) and all(isinstance(tag, str) for tag in value)):
        raise ValueError("is a list of texts")


def _check_on_unknown(value: Any) -> None:
    if value not in list(OnUnknown):
        raise ValueError(f"{shorten(value)} is not one of {', '.join(OnUnknown)}")


def _check_duration(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not a duration; write for example 15m")  # noqa: TRY004
    parse_duration(value)


def _check_unsubscribe(value: Any) -> None:
    if not isinstance(value, bool) and not (
        isinstance(value, str) and value.startswith("https://")
    ):
        raise ValueError(f"{shorten(value)} is neither true, false nor an https URL")


def _check_locale(value: Any) -> None:
    if not (isinstance(value, str) and LOCALE.fullmatch(value)):
        raise ValueError(f"{shorten(value)} is not a language tag; write it like de-AT")


_CHECKS = {
    "from": _check_from,
    "tags": _check_tags,
    "on_unknown": _check_on_unknown,
    "expires_in": _check_duration,
    "list_unsubscribe": _check_unsubscribe,
    "locale": _check_locale,
}


# The variables of a request


def find_faults(
    schema: Mapping[str, Any], variables: Mapping[str, Any], sensitive: list[str]
) -> Iterator[tuple[str, str]]:
    """Yield (pointer, sentence) for what is wrong with *variables*; never a sensitive value."""
    validator = Draft202012Validator(dict(schema), format_checker=_formats())
    for count, error in enumerate(validator.iter_errors(dict(variables))):
        if count >= _MOST_FAULTS:
            return
        yield from _explain(error, schema, sensitive)


def _explain(
    error: ValidationError, schema: Mapping[str, Any], sensitive: list[str]
) -> Iterator[tuple[str, str]]:
    path = [str(part) for part in error.absolute_path]
    where = "".join(f"/{part.replace('~', '~0').replace('/', '~1')[:100]}" for part in path)
    rule: Any = error.validator_value
    if error.validator == "required":
        for name in rule:
            if name not in error.instance:
                yield f"{where}/{name}", "is missing"
        return
    if error.validator == "additionalProperties":
        known = ", ".join(schema["properties"]) or "none"
        for name in error.instance:
            if name not in schema["properties"]:
                yield f"{where}/{name[:100]}", f"is not declared; known: {known}"
        return
    said = {
        "type": f"is not of type {rule}",
        "format": f"is not {_WANTED.get(rule, rule)}",
        "enum": f"is not one of {', '.join(map(shorten, rule[:20]))}"
        if error.validator == "enum"
        else "",
    }.get(str(error.validator), f"breaks {error.validator} = {shorten(rule)}")
    shown = "the value" if path and path[0] in sensitive else shorten(error.instance)
    yield where, f"{shown} {said}"


@cache
def _formats() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, shape in _SHAPES.items():
        checker.checks(name)(
            lambda value, shape=shape: (
                not isinstance(value, str) or bool(shape.fullmatch(value))
            )
        )
    checker.checks("email", raises=AddressInvalid)(_is_address)
    return checker


def _is_address(value: object) -> bool:
    if isinstance(value, str):
        parse_address(value, allow_sandbox=True, allow_local_domains=True)
    return True
