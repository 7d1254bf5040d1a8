"""The operator's side of templates: publish, list, roll back, remove.

Publishing is all or nothing: whatever is compiled together (a template, or the shared files and
every template that uses them) is put in force together, and a fault anywhere changes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256

from emailerctl.errors import Conflict, Fault, Invalid, NotFound
from emailerctl.models.clock import Clock
from emailerctl.models.text import shorten
from emailerctl.store.base import Store, StoredTemplate
from emailerctl.templates.base import SHARED, Compiled, Finding, Rendered, Renderer

NAME = re.compile(r"[a-z0-9_-]{1,64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHARED_ENDS = (".html", ".mjml", ".txt")

Files = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing does, or would do.

    Attributes:
        published: new versions, by name.
        unchanged: what was given and is in force already.
        removed: what is taken out of force.
        findings: of each template, what is not an error.
    """

    published: Mapping[str, str] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    findings: Mapping[str, list[Finding]] = field(default_factory=dict)


async def publish(
    store: Store,
    renderer: Renderer,
    clock: Clock,
    given: Mapping[str, Files],
    *,
    actor: str,
    removes_others: bool = False,
    is_rehearsal: bool = False,
) -> Publication:
    """Compile *given*, by name its files, and put it in force.

    The name `_shared` stands for layouts and partials; changing those publishes anew whatever
    uses them.

    Args:
        removes_others: what is not given is taken out of force.
        is_rehearsal: change nothing.

    Raises:
        Invalid: with every fault of every template; nothing is changed.
        Conflict: somebody else has published meanwhile.
    """
    faults = [
        fault for name, files in given.items() for fault in _find_name_faults(name, files)
    ]
    if faults:
        raise Invalid(faults)
    current = {one.name: one for one in await store.list_templates()}
    shared, candidates, removed = _choose(given, current, removes_others=removes_others)
    made: list[StoredTemplate] = []
    findings: dict[str, list[Finding]] = {}
    for name, files in sorted(candidates.items()):
        compiled = await renderer.compile(name, files, shared)
        faults += _to_faults(name, compiled)
        findings[name] = [one for one in compiled.findings if one.level != "error"]
        if compiled.bundle is not None:
            bundle, uses = compiled.bundle, tuple(compiled.uses)
            made.append(StoredTemplate(name, compiled.version, files, bundle, uses))
    if faults:
        raise Invalid(faults)
    if SHARED in given:
        made.append(_build_shared(shared))
    fresh = [
        one
        for one in made
        if one.name not in current or current[one.name].version != one.version
    ]
    publication = Publication(
        published={one.name: one.version for one in fresh},
        unchanged=tuple(sorted(given.keys() - {one.name for one in fresh})),
        removed=removed,
        findings=findings,
    )
    if (fresh or removed) and not is_rehearsal:
        await store.publish_templates(
            fresh,
            removed=removed,
            seen={name: one.version for name, one in current.items()},
            actor=actor,
            now_ms=clock.now_ms(),
        )
    return publication


async def publish_one(
    store: Store, renderer: Renderer, clock: Clock, name: str, files: Files, *, actor: str
) -> Publication:
    """Publish one template; its faults point into `{"files": …}`.

    Raises:
        Invalid, Conflict.
    """
    try:
        return await publish(store, renderer, clock, {name: files}, actor=actor)
    except Invalid as error:
        raise Invalid(
            Fault(f"/files/{one.pointer.removeprefix(f'/{name}/')}", one.detail)
            if one.pointer.startswith(f"/{name}/")
            else one
            for one in error.faults
        ) from error


def _choose(
    given: Mapping[str, Files], current: Mapping[str, StoredTemplate], *, removes_others: bool
) -> tuple[Files, dict[str, Files], tuple[str, ...]]:
    """Return the shared files, what has to be compiled, and what goes."""
    before = current[SHARED].files if SHARED in current else {}
    removed = tuple(sorted(current.keys() - given.keys())) if removes_others else ()
    shared = given.get(SHARED, {} if SHARED in removed else before)
    candidates = {name: files for name, files in given.items() if name != SHARED}
    if shared != before:
        changed = {name for name in {*shared, *before} if shared.get(name) != before.get(name)}
        for name, one in current.items():
            if name not in removed and not changed.isdisjoint(one.uses):
                candidates.setdefault(name, one.files)
    return shared, candidates, removed


def _build_shared(files: Files) -> StoredTemplate:
    said = json.dumps(sorted(files.items())).encode()
    return StoredTemplate(SHARED, sha256(said).hexdigest()[:16], files, b"{}", ())


def _find_name_faults(name: str, files: Files) -> list[Fault]:
    if not NAME.fullmatch(name):
        sentence = f"{shorten(name)} is no name; take 1 to 64 of a-z, 0-9, - and _"
        return [Fault(f"/{name[:64]}", sentence)]
    faults = [
        Fault(f"/{name}/{file[:100]}", f"{shorten(file)} is no name of a file")
        for file in files
        if not _FILE.fullmatch(file)
    ]
    if name == SHARED:
        faults += [
            Fault(f"/{name}/{file}", f"is none of {', '.join(_SHARED_ENDS)}")
            for file in files
            if not file.endswith(_SHARED_ENDS)
        ]
    return faults


def _to_faults(name: str, compiled: Compiled) -> list[Fault]:
    return [
        Fault(
            f"/{name}/{finding.file}",
            f"line {finding.line}: {finding.detail}" if finding.line else finding.detail,
        )
        for finding in compiled.findings
        if finding.level == "error"
    ]


def require_good(name: str, compiled: Compiled) -> None:
    """Refuse what is in error.

    Raises:
        Invalid: with every fault.
    """
    faults = _to_faults(name, compiled)
    if faults:
        raise Invalid(faults)


async def load(store: Store, name: str, version: str = "") -> StoredTemplate:
    """Return a version of a template; without *version* the one in force.

    *version* may be the beginning of one.

    Raises:
        NotFound: there is no such template or version; names what is near.
    """
    if version:
        versions = [one.version for one in await store.list_template_versions(name)]
        found = [one for one in versions if one.startswith(version)]
        if len(found) == 1:
            return await store.load_template(name, found[0])
        if versions:
            raise NotFound(
                f"the template {name} has no one version {version}",
                hint=f"emailerctl templates versions {name}",
            )
    else:
        stored = await store.find_template(name)
        if stored is not None:
            return stored
    raise build_not_found(name, [one.name for one in await store.list_template_versions()])


async def render(
    store: Store,
    renderer: Renderer,
    name: str,
    variables: Mapping[str, object],
    locale: str,
    *,
    lane: str,
) -> tuple[StoredTemplate, Rendered]:
    """Render the version in force of a template.

    Raises:
        NotFound: there is no such template.
        Invalid: with every fault of the variables.
        Overloaded: not now.
    """
    if name == SHARED:
        raise NotFound(f"{SHARED} holds what templates share, and is none itself")
    stored = await load(store, name)
    key = f"{name} {stored.version}"
    lane = f"{lane} {name}"
    return stored, await renderer.render(key, stored.bundle, variables, locale, lane)


def build_not_found(name: str, known: list[str]) -> NotFound:
    """Return what says that a template is not there, with what may have been meant."""
    near = get_close_matches(name, known, 1)
    return NotFound(
        f"there is no template {shorten(name)}",
        hint=f"did you mean {near[0]}?" if near else "emailerctl templates list",
    )


async def remove(store: Store, clock: Clock, name: str, *, actor: str) -> None:
    """Take a template out of force.

    Raises:
        NotFound: there is none.
        Conflict: it is the shared files, and some template uses them.
    """
    if name == SHARED:
        users = [one.name for one in await store.list_templates() if one.uses]
        if users:
            raise Conflict(
                f"{SHARED} is used by {', '.join(users)}",
                hint="publish those without it first",
            )
    if not await store.remove_template(name, actor=actor, now_ms=clock.now_ms()):
        raise build_not_found(name, [one.name for one in await store.list_template_versions()])
