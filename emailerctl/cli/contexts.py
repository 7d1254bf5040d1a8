"""Where commands are carried out: at the store here, or at an API elsewhere; named contexts.

Contexts are kept in `$XDG_CONFIG_HOME/emailerctl/contexts.json` (`~/.config` unless set), which
only its owner can read: it has tokens in it.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from typer import Argument, Context, Option, Typer

from emailerctl.cli import output
from emailerctl.errors import ConfigurationError, NotFound, UsageError

app = Typer(help="APIs by name: add, use, list, rm.")

LOCAL = "local"  # the store here

Name = Annotated[str, Argument(metavar="NAME", help="What you call it.")]


@dataclass(frozen=True, slots=True)
class Place:
    """An API, and what it is asked with."""

    url: str
    token: str
    name: str = ""

    def describe(self) -> str:
        """Return what people call it."""
        return self.name or self.url


@dataclass(slots=True)
class Contexts:
    """All contexts, and which of them is used unless something else is said."""

    current: str = LOCAL
    places: dict[str, Place] = field(default_factory=dict)

    def load(self, name: str) -> Place | None:
        """Return the place of that name; None: the store here.

        Raises:
            NotFound: there is none.
        """
        if name == LOCAL:
            return None
        if name not in self.places:
            known = ", ".join([LOCAL, *self.places])
            raise NotFound(f"there is no context {name}", hint=f"there are {known}")
        return self.places[name]


def find_place(said: Mapping[str, Any], environ: Mapping[str, str]) -> Place | None:
    """Return the API that is meant; None: the store here.

    What the command line says (`--url`, `--context`, `--config`) goes before the variables
    (EMAILER_URL, EMAILER_CONFIG), and those before the context in use.

    Raises:
        UsageError: several are meant, or one without a token.
        NotFound: no context has that name.
    """
    flags = [name for name in ("url", "context", "config") if said.get(name)]
    if len(flags) > 1:
        words = " and ".join(f"--{name}" for name in flags)
        raise UsageError(f"{words} name different places", hint="give one of them")
    token = said.get("token") or ""
    if "context" in flags:
        place = read_contexts(environ).load(said["context"])
    elif "url" in flags:
        place = Place(said["url"], token or environ.get("EMAILER_TOKEN", ""))
    elif "config" in flags:
        place = None
    elif environ.get("EMAILER_URL"):
        place = Place(environ["EMAILER_URL"], token or environ.get("EMAILER_TOKEN", ""))
    elif environ.get("EMAILER_CONFIG"):
        place = None
    else:
        contexts = read_contexts(environ)
        place = contexts.load(contexts.current)
    if place is None:
        if token:
            raise UsageError("--token is for an API, and none is named", hint="give --url too")
        return None
    place = Place(place.url.rstrip("/"), token or place.token, place.name)
    check_url(place.url)
    if not place.token:
        raise UsageError(
            f"there is no token for {place.url}",
            hint="set EMAILER_TOKEN, or keep it: emailerctl context add NAME --url URL",
        )
    return place


def check_url(url: str) -> None:
    """Refuse what is no URL of an API, or one to which the token would travel in clear.

    Raises:
        UsageError: says what to do.
    """
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_good = is_good and parts.port != 0 and not parts.username and not parts.query
    except ValueError:
        is_good = False
    if not is_good:
        raise UsageError(f"{url!r} is no URL of an API", hint="write https://mail.example.org")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise UsageError(
            f"the token would travel in clear to {parts.netloc}",
            hint="use https, or a tunnel: ssh -L 8080:127.0.0.1:8080 HOST",
        )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_file(environ: Mapping[str, str]) -> Path:
    """Return where contexts are kept."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~"), ".config"))
    return Path(home).expanduser() / "emailerctl" / "contexts.json"


def read_contexts(environ: Mapping[str, str]) -> Contexts:
    """Return all contexts; none where there is no file.

    Raises:
        ConfigurationError: others may read the file, or it is none of ours.
    """
    path = find_file(environ)
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigurationError(
                    f"{path} has tokens in it and others may read it", hint=f"chmod 600 {path}"
                )
            kept = json.load(file)
        places = {
            name: Place(one["url"], one["token"], name)
            for name, one in kept["contexts"].items()
        }
        return Contexts(str(kept["current"]), places)
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} can't be read: {error}", hint="mend it, or remove it and add contexts anew"
        ) from error


def write_contexts(contexts: Contexts, environ: Mapping[str, str]) -> None:
    """Keep *contexts*, for the owner alone: whole, or as they were.

    Raises:
        ConfigurationError: they can't be written.
    """
    path = find_file(environ)
    kept = {
        "current": contexts.current,
        "contexts": {
            name: {"url": one.url, "token": one.token} for name, one in contexts.places.items()
        },
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(part, "w", encoding="utf-8", opener=_open_private) as file:
            json.dump(kept, file, indent=2)
            file.write("\n")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


@app.command()
def add(
    name: Name,
    url: Annotated[str, Option(metavar="URL", help="Where the API is.")],
    token_file: Annotated[
        Path | None,
        Option(metavar="FILE", help="Has the token; else it is read from stdin, unseen."),
    ] = None,
) -> None:
    """Keep an API's URL and token under a name; with the first one, use it.

    Example: emailerctl context add prod --url https://mail.example.org --token-file token
    """
    if name == LOCAL:
        raise UsageError(f"{LOCAL} is the store here", hint="call it something else")
    check_url(url)
    contexts = read_contexts(os.environ)
    place = Place(url.rstrip("/"), _read_token(token_file), name)
    if not contexts.places:
        contexts.current = name
    contexts.places[name] = place
    write_contexts(contexts, os.environ)
    output.result(f"added {name}: {place.url}", _shape(place, contexts))
    if contexts.current == name:
        output.note(f"commands go there from now on; the store here: --context {LOCAL}")


def _read_token(path: Path | None) -> str:
    import getpass

    try:
        if path is not None:
            token = path.read_text(encoding="utf-8")
        elif sys.stdin.isatty():
            token = getpass.getpass("Token: ")
        else:
            token = sys.stdin.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the token: {error}") from error
    token = token.strip()
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("that is no token", hint="emailerctl tokens create makes one")
    return token


@app.command()
def use(name: Name) -> None:
    """Go to a context unless a command says otherwise; local is the store here.

    Example: emailerctl context use prod
    """
    contexts = read_contexts(os.environ)
    contexts.load(name)
    contexts.current = name
    write_contexts(contexts, os.environ)
    output.result(f"commands go to {name}", {"name": name})


@app.command("list")
def list_(ctx: Context) -> None:
    """List the contexts; their tokens are not shown.

    Example: emailerctl context list
    """
    contexts = read_contexts(os.environ)
    places = [Place("", "", LOCAL), *contexts.places.values()]
    output.listing(
        "Contexts",
        ("name", "url", "in use"),
        places,
        shape=lambda one: _shape(one, contexts),
        row=lambda one: [one.name, one.url or "(the store here)", one.name == contexts.current],
        name="name",
    )


@app.command("rm")
def remove(name: Name) -> None:
    """Forget a context, and its token.

    Example: emailerctl context rm prod --yes
    """
    contexts = read_contexts(os.environ)
    if contexts.load(name) is None:
        raise UsageError(f"{LOCAL} is the store here, and stays")
    output.ask(f"Forget {name} and its token?")
    del contexts.places[name]
    if contexts.current == name:
        contexts.current = LOCAL
    write_contexts(contexts, os.environ)
    output.result(f"forgot {name}", {"name": name})


def _shape(place: Place, contexts: Contexts) -> dict[str, object]:
    return {
        "name": place.name,
        "url": place.url or None,
        "current": place.name == contexts.current,
    }
