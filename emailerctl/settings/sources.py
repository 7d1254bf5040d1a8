"""Where settings come from: flags, variables, the file; each a flat table with origins."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from emailerctl.errors import ConfigurationError
from emailerctl.settings.lines import find_lines
from emailerctl.settings.model import Settings

PREFIX = "EMAILER_"
CONFIG = "EMAILER_CONFIG"
# The command line's own: where the file is, and how to reach an API.
RESERVED = frozenset({CONFIG, "EMAILER_URL", "EMAILER_TOKEN"})

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was written, and where."""

    value: object
    origin: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One layer of settings: what it gives, by path."""

    given: Mapping[KeyPath, Given]
    # The line or variable of a path that is no value: a table, for instance.
    places: Mapping[KeyPath, str]


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings' file: the one that is named, else the first that exists.

    Raises:
        ConfigurationError: a file is named and does not exist.
    """
    named = path or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    if named:
        if not named.is_file():
            said = "--config" if path else CONFIG
            raise ConfigurationError(
                f"{said}: there is no file {named}",
                hint="name an existing one, or make one: emailerctl config init PATH",
            )
        return named
    usual = (Path("emailer.toml"), Path("/etc/emailer/emailer.toml"))
    return next((candidate for candidate in usual if candidate.is_file()), None)


def read_file(path: Path) -> Source:
    """Read `emailer.toml`.

    Raises:
        ConfigurationError: it can't be read, or is not TOML.
    """
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        place, said = (
            (f"{path}:{at[1]}", str(error)[: at.start()]) if at else (path, str(error))
        )
        raise ConfigurationError(
            f"{place}: is not TOML: {said}", hint='text is in quotes: key = "value"'
        ) from error
    places = {key: f"{path}:{line}" for key, line in find_lines(text).items()}
    given = {
        key: Given(value, find_place(places, key) or str(path), path)
        for key, value in flatten(document)
    }
    return Source(given, places)


def read_environment(environ: Mapping[str, str]) -> Source:
    """Read the variables that start with EMAILER_ and name something."""
    ours = {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in RESERVED
    }
    nested = _Environment(ours)()
    known = {key: value for key, value in flatten(nested) if variable_of(key) in ours}
    given = {key: Given(value, variable_of(key)) for key, value in known.items()}
    for name, value in ours.items():  # what the model has no place for, to be refused by name
        key = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if key not in given:
            given[key] = Given(value, name)
    return Source(given, {})


def read_flags(overrides: Mapping[str, str]) -> Source:
    """Take what the command line says: dotted keys and text."""
    given = {
        tuple(key.split(".")): Given(value, "--" + key.split(".")[-1].replace("_", "-"))
        for key, value in overrides.items()
    }
    return Source(given, {})


def variable_of(key: KeyPath) -> str:
    """Return the name of the variable for a setting."""
    return PREFIX + "__".join(key).upper()


def find_place(places: Mapping[KeyPath, str], key: KeyPath) -> str | None:
    """Return where *key* is written, or else what it is in."""
    for depth in range(len(key), 0, -1):
        if key[:depth] in places:
            return places[key[:depth]]
    return None


class _Environment(EnvSettingsSource):
    """Nested variables; values stay text, which the model reads like text from anywhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Keep the text: guessing JSON would make a number of the password `12345`."""
        return value


def flatten(table: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield the values of nested tables; an empty one is a value, and one inside a next hop."""
    for key, value in table.items():
        path = (*above, key)
        is_hops = path[0] == "providers" and len(path) == 3
        if isinstance(value, Mapping) and value and not is_hops:
            yield from flatten(value, path)
        else:
            yield path, value
