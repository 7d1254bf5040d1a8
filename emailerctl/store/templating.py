"""Published templates: versions, which never change, and which one of each is in force."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from emailerctl.errors import Conflict, NotFound
from emailerctl.store import statements as sql
from emailerctl.store.base import StoredTemplate, TemplateVersion
from emailerctl.store.driver import Tx
from emailerctl.store.steps import to_json, write_event

_decode = msgspec.json.decode

CHANGED = "template.changed"


def find_template(tx: Tx, name: str, known: str | None) -> StoredTemplate | None:
    """Return the version in force; its content only where that is not the *known* one."""
    row: Any = tx.one(sql.TEMPLATE_VERSION, {"name": name})
    if row is None:
        return None
    if row[0] == known:
        return StoredTemplate(name, row[0], {}, b"", ())
    return load_version(tx, name, row[0])


def load_version(tx: Tx, name: str, version: str) -> StoredTemplate:
    """Return a version with everything in it."""
    row: Any = tx.one(sql.TEMPLATE_CONTENT, {"name": name, "version": version})
    if row is None:
        raise NotFound(f"the template {name} has no version {version}")
    files, bundle, uses = row
    return StoredTemplate(name, version, _decode(files), bundle, tuple(_decode(uses)))


def list_current(tx: Tx) -> list[StoredTemplate]:
    """Return the version in force of every template, with everything in it."""
    rows: Any = tx.all(sql.TEMPLATES_IN_FORCE)
    return [
        StoredTemplate(row[0], row[1], _decode(row[2]), row[3], tuple(_decode(row[4])))
        for row in rows
    ]


def list_versions(tx: Tx, name: str | None) -> list[TemplateVersion]:
    """Return the versions of one template, newest first, or the one in force of each."""
    rows: Any = tx.all(sql.TEMPLATE_VERSIONS, {"name": name})
    return [
        TemplateVersion(
            name=row[0],
            version=row[1],
            published_ms=row[2],
            actor=row[3],
            is_current=bool(row[4]),
            head=row[5],
        )
        for row in rows
    ]


def publish(
    tx: Tx,
    templates: Sequence[StoredTemplate],
    removed: Sequence[str],
    seen: Mapping[str, str],
    *,
    actor: str,
    now_ms: int,
) -> None:
    """Put versions in force, all or none, unless somebody has changed anything since."""
    rows: Any = tx.all(sql.TEMPLATE_POINTERS)
    if dict(rows) != seen:
        raise Conflict(
            "somebody else has just published templates; nothing was changed",
            hint="look at what they did, then try again",
        )
    for one in templates:
        row = {
            "name": one.name,
            "version": one.version,
            "now": now_ms,
            "actor": actor,
            "files": to_json(one.files) or "{}",
            "bundle": one.bundle,
            "uses": to_json(list(one.uses)) or "[]",
        }
        tx.run(sql.ADD_TEMPLATE_VERSION, row)
        _point(tx, one.name, one.version, actor=actor, now_ms=now_ms)
    for name in removed:
        tx.run(sql.REMOVE_TEMPLATE, {"name": name})
        _tell(tx, name, "", actor=actor, now_ms=now_ms)


def roll_back(tx: Tx, name: str, prefix: str, *, actor: str, now_ms: int) -> str:
    """Put an earlier version in force, the one before without *prefix*; return which it is."""
    row: Any = tx.one(sql.TEMPLATE_VERSION, {"name": name})
    current, previous = row or ("", "")
    versions = [one.version for one in list_versions(tx, name)]
    if not versions:
        raise NotFound(f"there is no template {name}")
    if prefix:
        found = [version for version in versions if version.startswith(prefix)]
        if len(found) != 1:
            said = "no version" if not found else "more than one version"
            raise NotFound(
                f"the template {name} has {said} that begins with {prefix}",
                hint=f"emailerctl templates versions {name}",
            )
    else:
        found = [previous] if previous else [] if row else versions[:1]
        if not found:
            raise Conflict(f"no version of the template {name} was in force before {current}")
    if found[0] == current:
        raise Conflict(f"version {current} of the template {name} is in force already")
    _point(tx, name, found[0], actor=actor, now_ms=now_ms)
    return found[0]


def remove(tx: Tx, name: str, *, actor: str, now_ms: int) -> bool:
    """Take a template out of force; its versions stay, for what was sent with them."""
    if not tx.run(sql.REMOVE_TEMPLATE, {"name": name}):
        return False
    _tell(tx, name, "", actor=actor, now_ms=now_ms)
    return True


def _point(tx: Tx, name: str, version: str, *, actor: str, now_ms: int) -> None:
    row = {"name": name, "version": version, "now": now_ms, "actor": actor}
    tx.run(sql.POINT_TEMPLATE, row)
    _tell(tx, name, version, actor=actor, now_ms=now_ms)


def _tell(tx: Tx, name: str, version: str, *, actor: str, now_ms: int) -> None:
    data = {"template": name, "version": version or None, "actor": actor}
    write_event(tx, CHANGED, now_ms, data=data)
