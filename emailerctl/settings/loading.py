"""Flags over variables over the file over defaults, with every fault named at once."""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from emailerctl.models.address import AddressInvalid, parse_mailbox
from emailerctl.models.text import shorten
from emailerctl.settings.faults import SettingFault, build_error, describe, key_of
from emailerctl.settings.model import Section, Settings
from emailerctl.settings.secret import MASK, find_exposure, is_secret, read_secret
from emailerctl.settings.sources import (
    PREFIX,
    Given,
    KeyPath,
    Source,
    find_file,
    find_place,
    flatten,
    read_environment,
    read_file,
    read_flags,
    variable_of,
)

# What the contract names and this version lacks, never ignored; what is written otherwise.
_NOT_YET = "not in this version; remove it"
_EXPLAINED: Mapping[KeyPath, str] = {
    ("queue", "nats"): _NOT_YET,
    ("routing", "rules"): "is one table; rules are a list of them: [[routing.rules]]",
}

# Next hops that need no table: where the messages of test tokens go.
_BUILT_IN = frozenset({"sandbox"})

CheckProviders = Callable[[Settings], object]


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting as it is: its value for people (secrets masked), and who said so."""

    key: str
    value: object
    origin: str


def load(
    path: Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str],
    check_providers: CheckProviders | None = None,
) -> Settings:
    """Read the settings: flags > environment > `emailer.toml` > defaults (product.md §7).

    Args:
        path: the file; without one `EMAILER_CONFIG`, `./emailer.toml`,
            `/etc/emailer/emailer.toml`, whichever is first.
        overrides: what flags say, by dotted key: `{"api.port": "8081"}`.
        environ: the environment variables.
        check_providers: looks at the next hops' tables, which are their adapters' business;
            raises ConfigurationError.

    Raises:
        ConfigurationError: names every fault with key, file and line or variable, value, cure.
    """
    file = find_file(path, environ)
    layers = [read_flags(overrides or {}), read_environment(environ)]
    if file:
        layers.append(read_file(file))
    faults = [fault for layer in layers for fault in _find_unknown(layer)]
    given: dict[KeyPath, Given] = {}
    for layer in layers:
        for key, one in _refer_to_files(layer, faults).items():
            given.setdefault(key, one)
    places = {key: place for layer in reversed(layers) for key, place in layer.places.items()}
    places |= {key: one.origin for key, one in given.items()}
    warned: list[str] = []
    values = dict(_resolve(given, faults, warned))
    known = {key: value for key, value in values.items() if _fits(key, value)}
    settings, invalid = _validate(known, places)
    faults.extend(invalid)
    next_hops = _BUILT_IN | {key[1] for key in known if key[0] == "providers"}
    faults.extend(_cross_check(settings, next_hops, places))
    if faults:
        raise build_error(faults)
    settings.places.update(places)
    settings.warnings.extend(warned)
    if check_providers:
        check_providers(settings)
    return settings


def origins(settings: Settings) -> list[Origin]:
    """Return every setting with its value, secrets masked, and where it comes from."""
    return [
        Origin(".".join(key), value, settings.places.get(key, "default"))
        for key, value in _values(settings)
    ]


def locate(settings: Settings, key: str) -> str:
    """Return where the dotted *key* was set: file and line, variable, flag or default."""
    return find_place(settings.places, tuple(key.split("."))) or "default"


def known_keys() -> dict[KeyPath, bool]:
    """Return the path of every setting but the next hops', and whether it is a secret."""
    return {
        key: field.annotation is SecretStr
        for key, field in _fields()
        if get_origin(field.annotation) is not dict
    }


def open_tables() -> dict[KeyPath, bool]:
    """Return the tables whose keys are the operator's, and whether they hold secrets."""
    return {
        key: "SecretStr" in str(field.annotation)
        for key, field in _fields()
        if get_origin(field.annotation) is dict
    }


def _fields() -> Iterator[tuple[KeyPath, FieldInfo]]:
    for path, model in tables().items():
        for name, field in model.model_fields.items():
            if not is_table(field.annotation):
                yield (*path, field.alias or name), field


def tables() -> dict[KeyPath, type[Section]]:
    """Return the tables of `emailer.toml` that this module describes, in order."""
    return dict(_find_tables(Settings, ()))


def _find_tables(
    model: type[BaseModel], above: KeyPath
) -> Iterator[tuple[KeyPath, type[Section]]]:
    for name, field in model.model_fields.items():
        table = field.annotation
        if is_table(table):
            yield (*above, name), table
            yield from _find_tables(table, (*above, name))


def is_table(annotation: object) -> TypeGuard[type[Section]]:
    """Say whether a field of that type is a table of ours."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


_KNOWN = known_keys()
_OPEN = open_tables()
_TABLES = frozenset(tables()) | frozenset(_OPEN) | {("providers",)}
_SECTIONS = frozenset(path[0] for path in _TABLES)
_NAMES = frozenset(_KNOWN) | {(*key[:-1], f"{key[-1]}_file") for key in _KNOWN if _KNOWN[key]}


def _secret(key: KeyPath) -> bool:
    if key[0] == "providers":
        return len(key) == 3 and is_secret(key[2])
    return _KNOWN.get(key, False) or _OPEN.get(key[:-1], False)


def _find_unknown(source: Source) -> Iterator[SettingFault]:
    """Yield a fault for each key that no setting has, with the nearest that one has."""
    said: set[str] = set()
    for key, one in source.given.items():
        fault = _explain(key, one)
        if not fault:
            continue
        place = one.origin
        if len(key) > 1 and key[0] not in _SECTIONS and key[:1] in source.places:
            place = source.places[key[:1]]  # a table of that name: said once
        if f"{place}{fault}" not in said:
            said.add(f"{place}{fault}")
            yield SettingFault(place, *fault)


def _explain(key: KeyPath, one: Given) -> tuple[str, str] | None:
    """Return the name and what is wrong with it, if no setting has it."""
    if _fits(key, one.value):
        return None
    dotted = ".".join(key)
    for table, cure in _EXPLAINED.items():
        if key[: len(table)] == table:
            return f"[{'.'.join(table)}]", cure
    if key[0] == "providers":
        return dotted, "is no setting of a next hop; those are in a table: [providers.NAME]"
    if key in _TABLES:
        return dotted, f"this is a table: [{dotted}]"
    is_variable = one.origin.startswith(PREFIX)
    if key[0] not in _SECTIONS and not is_variable:
        near = difflib.get_close_matches(key[0], sorted(_SECTIONS), 1, 0.5)
        cure = f"did you mean [{near[0]}]?" if near else f"there are {_listed(_SECTIONS)}"
        return f"[{key[0]}]", f"no such table; {cure}"
    return dotted, f"no such setting; {_suggest(key, is_variable=is_variable)}"


def _fits(key: KeyPath, value: object) -> bool:
    if key[0] == "providers":
        return len(key) == 3 or (len(key) < 3 and value == {})
    return key in _NAMES or key[:-1] in _OPEN or (key in _TABLES and value == {})


def _suggest(key: KeyPath, *, is_variable: bool) -> str:
    table = key[:-1] if key[:-1] in _TABLES else key[:1]
    inside = [name for name in _NAMES if name[:-1] == table]
    # The way to a table in a table is so long that any two settings of it look alike.
    names = {name[-1]: name for name in inside} if len(table) > 1 else {}
    said = key[-1] if names else ".".join(key)
    names = names or {".".join(name): name for name in _NAMES}
    near = difflib.get_close_matches(said, sorted(names), 1, 0.6)
    if near:
        name = names[near[0]]
        return f"did you mean {variable_of(name) if is_variable else '.'.join(name)}?"
    if inside:
        return f"[{'.'.join(table)}] has {_listed(name[-1] for name in inside)}"
    return "emailerctl config show lists what there is"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _refer_to_files(source: Source, faults: list[SettingFault]) -> dict[KeyPath, Given]:
    """Return what *source* gives, `password_file` turned into a `password` to be read."""
    given: dict[KeyPath, Given] = {}
    for key, one in source.given.items():
        secret = (*key[:-1], key[-1].removesuffix("_file"))
        if key == secret or not _secret(secret):
            given[key] = one
        elif secret in source.given:
            faults.append(
                SettingFault(one.origin, ".".join(key), f"give it or {secret[-1]}, not both")
            )
        elif not isinstance(one.value, str) or not one.value:
            faults.append(
                SettingFault(one.origin, ".".join(key), "is the path of a file, as text")
            )
        else:
            base = one.file.parent if one.file else Path()
            path = base / Path(one.value).expanduser()
            given[secret] = Given(path, f"{one.origin} ({path})")
    return given


def _resolve(
    given: Mapping[KeyPath, Given], faults: list[SettingFault], warned: list[str]
) -> Iterator[tuple[KeyPath, object]]:
    """Yield the values, secrets as `SecretStr`, read from their files where one is named."""
    for key, one in given.items():
        if not _secret(key):
            yield key, one.value
            continue
        try:
            if isinstance(one.value, Path):
                yield key, SecretStr(read_secret(one.value))
                continue
        except ValueError as error:
            faults.append(SettingFault(one.origin, ".".join(key), str(error)))
            continue
        exposed = find_exposure(one.file) if one.file and one.value else None
        if exposed:
            warned.append(str(SettingFault(one.origin, ".".join(key), exposed)))
        yield key, SecretStr(one.value) if isinstance(one.value, str) else one.value


def _validate(
    values: Mapping[KeyPath, object], places: Mapping[KeyPath, str]
) -> tuple[Settings, list[SettingFault]]:
    """Return the settings, and every fault; what is at fault has its default then."""
    try:
        return Settings(**_nest(values)), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults = [
        describe(
            one, key_of(one), values.get(key_of(one)), places, is_secret=_secret(key_of(one))
        )
        for one in errors
    ]
    wrong = {key_of(one) for one in errors}
    good = {
        key: value
        for key, value in values.items()
        if not any(key[: len(one)] == one or one[: len(key)] == key for one in wrong)
    }
    settings, more = _validate(good, places)
    return settings, faults + more


def _nest(values: Mapping[KeyPath, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        table = nested
        for part in key[:-1]:
            table = table.setdefault(part, {})
        table[key[-1]] = value
    return nested


def _cross_check(
    settings: Settings, next_hops: Collection[str], places: Mapping[KeyPath, str]
) -> Iterator[SettingFault]:
    """Yield what is wrong between tables: next hops that there are not, mailboxes, brokers."""
    for key, detail in (
        *_find_strange_hops(settings, next_hops),
        *_find_dead_rules(settings),
        *_find_bad_mailboxes(settings),
        *_find_shared_brokers(settings),
    ):
        yield SettingFault(find_place(places, key) or "default", ".".join(key), detail)


def _find_strange_hops(
    settings: Settings, next_hops: Collection[str]
) -> Iterator[tuple[KeyPath, str]]:
    named: list[tuple[KeyPath, str]] = [
        (("routing", "default"), name) for name in settings.routing.default
    ]
    named += [
        (("routing", "rules", str(number), "chain"), name)
        for number, rule in enumerate(settings.routing.rules, 1)
        for name in rule.chain
    ]
    if settings.alerts.via:
        named.append((("alerts", "via"), settings.alerts.via))
    for key, name in named:
        if name not in next_hops:
            near = difflib.get_close_matches(name, sorted(next_hops), 1)
            cure = f'did you mean "{near[0]}"?' if near else f"add a table [providers.{name}]"
            yield key, f"{shorten(name)} is no next hop; {cure}"
    if settings.alerts.mail_to and not (settings.alerts.via or settings.routing.default):
        yield (
            ("alerts", "mail_to"),
            "no next hop takes that mail; set via, or [routing] default",
        )


def _find_shared_brokers(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Yield ForestMQs that would carry doorbells and jobs: each taker would take both."""
    queue = settings.queue
    topics = queue.forestmq.topics if queue.kind == "forestmq" else {}
    theirs = {urlsplit(url).netloc.lower(): topic for topic, url in topics.items()}
    for topic, url in settings.ingest.forestmq.topics.items():
        other = theirs.get(urlsplit(url).netloc.lower())
        if other:
            detail = (
                f"shares {shorten(url)} with [queue.forestmq.topics] {shorten(other)}; a "
                "ForestMQ has one queue and no topics, so start a second one for jobs"
            )
            yield ("ingest", "forestmq", "topics", topic), detail


def _find_dead_rules(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Yield the rules that can't match, since an earlier one takes whatever they would."""
    rules = settings.routing.rules
    for number, rule in enumerate(rules, 1):
        first = next((n for n in range(1, number) if rules[n - 1].covers(rule)), None)
        if first is not None:
            name = f" ({rules[first - 1].name})" if rules[first - 1].name else ""
            cure = "move it before that one, or remove it"
            yield (
                ("routing", "rules", str(number)),
                f"can never match: rule {first}{name} takes all that it would; {cure}",
            )


def _find_bad_mailboxes(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    defaults = settings.defaults
    for key, text in (
        (("defaults", "from"), defaults.header_from),
        (("defaults", "envelope_sender"), defaults.envelope_sender),
        (("defaults", "redirect_all_to"), defaults.redirect_all_to),
        (("alerts", "mail_to"), settings.alerts.mail_to),
    ):
        try:
            if text:
                parse_mailbox(
                    text,
                    allow_sandbox=True,
                    allow_local_domains=settings.limits.allow_local_domains,
                )
        except AddressInvalid as error:
            yield key, str(error)


def _values(settings: Settings) -> Iterator[tuple[KeyPath, object]]:
    """Yield every setting as it would be written, secrets masked."""
    document = settings.model_dump(mode="json", by_alias=True, exclude={"providers"})
    for key, value in flatten(document):
        if key == ("routing", "rules") and isinstance(value, list):
            shown: object = [{n: v for n, v in rule.items() if v} for rule in value]
        else:
            shown = MASK if _secret(key) and value else value
        yield key, shown
    for name, table in settings.providers.items():
        for option, given in table.items():
            is_masked = isinstance(given, SecretStr)
            yield ("providers", name, option), MASK if is_masked else given
