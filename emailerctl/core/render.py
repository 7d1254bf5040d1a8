"""A template and variables become the fields of a request (product.md §3.1), at acceptance.

What comes out takes the way of every other request: whatever may not stand in a message is
refused there, whoever wrote it.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from emailerctl.errors import Fault, Invalid
from emailerctl.models.text import shorten
from emailerctl.store.base import Store
from emailerctl.templates.base import SHARED, Head, Rendered, Renderer, decode_head

_ITS_PART = ("subject", "text", "html")
_MOST_CACHED = 500


class Filled(NamedTuple):
    """The fields of a request as if its sender had written them.

    Attributes:
        shown_subject: for listings and logs, without what is sensitive.
        faults: of the template's use; there is no content then.
    """

    fields: Mapping[str, object]
    version: str = ""
    shown_subject: str | None = None
    faults: tuple[Fault, ...] = ()


class _Known(NamedTuple):
    version: str
    bundle: bytes
    head: Head


class Templating:
    """What renders the templates that requests name."""

    def __init__(self, store: Store, renderer: Renderer) -> None:
        """Take where templates are, and who renders."""
        self._store = store
        self._renderer = renderer
        self._known: dict[str, _Known] = {}

    async def fill(self, fields: Mapping[str, object], *, service: str) -> Filled:
        """Return *fields* with what the template that they name makes of them.

        Raises:
            Overloaded: it can't be rendered now.
        """
        use = fields.get("template")
        faults = [
            Fault(f"/{name}", "comes from the template; leave it out")
            for name in _ITS_PART
            if fields.get(name) is not None
        ]
        name, variables, locale = _read_use(use)
        if not name:
            return Filled(fields, faults=tuple(faults))  # parse_submission says what is wrong
        known = await self._find(name)
        if known is None:
            faults.append(Fault("/template/name", await self._explain_missing(name)))
            return Filled(fields, faults=tuple(faults))
        given = _add_defaults(fields, known.head)
        if faults:
            return Filled(given, known.version, faults=tuple(faults))
        try:
            key, lane = f"{name} {known.version}", f"{service} {name}"
            rendered = await self._renderer.render(key, known.bundle, variables, locale, lane)
        except Invalid as error:
            found = (Fault(f"/template{one.pointer}", one.detail) for one in error.faults)
            return Filled(given, known.version, faults=tuple(found))
        return Filled(_add_content(given, rendered), known.version, rendered.shown)

    async def _find(self, name: str) -> _Known | None:
        """Return the version in force, read anew where another process has published one."""
        known = self._known.get(name)
        stored = await self._store.find_template(name, known=known.version if known else None)
        if stored is None or name == SHARED:
            self._known.pop(name, None)
            return None
        if known is None or stored.version != known.version:
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            known = _Known(stored.version, stored.bundle, decode_head(stored.bundle))
            self._known[name] = known
        return known

    async def _explain_missing(self, name: str) -> str:
        names = [one.name for one in await self._store.list_template_versions()]
        near = get_close_matches(name, names, 1)
        cure = f"did you mean {shorten(near[0])}?" if near else "see: emailerctl templates list"
        return f"there is no template {shorten(name)}; {cure}"


def _read_use(use: object) -> tuple[str, dict[str, Any], str]:
    """Return name, variables and locale, as far as they are well formed; else no name."""
    if not isinstance(use, dict) or not isinstance(use.get("name"), str):
        return "", {}, ""
    variables, locale = use.get("variables") or {}, use.get("locale") or ""
    if not isinstance(variables, dict) or not isinstance(locale, str):
        return "", {}, ""
    return use["name"], variables, locale


def _add_defaults(fields: Mapping[str, object], head: Head) -> dict[str, object]:
    """Return *fields* with the template's defaults for what they do not say; tags are added."""
    defaults = head.defaults
    given = dict(fields)
    for name, value in (
        ("from", defaults.header_from),
        ("on_unknown", defaults.on_unknown),
        ("list_unsubscribe", defaults.list_unsubscribe),
    ):
        if value is not None and given.get(name) is None:
            given[name] = value
    if defaults.expires_in and given.get("expires_in") is None and not given.get("expires_at"):
        given["expires_in"] = defaults.expires_in
    tags = given.get("tags")
    if defaults.tags and (tags is None or isinstance(tags, list)):
        own = tags or []
        given["tags"] = [*defaults.tags, *(tag for tag in own if tag not in defaults.tags)]
    return given


def _add_content(given: dict[str, object], rendered: Rendered) -> dict[str, object]:
    given["subject"] = rendered.subject
    given["text"] = rendered.text or None
    given["html"] = rendered.html or None
    return given
