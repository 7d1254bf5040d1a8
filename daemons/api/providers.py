"""The next hops as the API shows them, and how an administrator opens and shuts them."""

from difflib import get_close_matches

from emailerctl.core.shapes import next_hop_shape
from emailerctl.errors import NotFound
from emailerctl.models.text import shorten
from emailerctl.store.base import HopState, NextHop
from emailerctl.wiring import App


async def list_providers(app: App) -> list[dict[str, object]]:
    """Return the next hops of the settings, and those that left them with a standing."""
    known = {hop.name: hop for hop in await app.store.list_next_hops()}
    names = [*app.tables, *(name for name in known if name not in app.tables)]
    return [
        _shape(app, known.get(name) or NextHop(name=name, state=HopState.OPEN))
        for name in names
    ]


async def set_state(
    app: App, name: str, state: HopState, *, reason: str, actor: str
) -> dict[str, object]:
    """Open or shut a next hop, and return it as it stands now.

    Raises:
        NotFound: the settings have none of that name.
    """
    if name not in app.tables:
        near = get_close_matches(name[:40], app.tables, n=1)
        raise NotFound(
            f"there is no provider {shorten(name)}",
            hint=f'did you mean "{near[0]}"?' if near else f"there are {', '.join(app.tables)}",
        )
    hop = NextHop(
        name=name, state=state, reason=reason, changed_ms=app.clock.now_ms(), actor=actor
    )
    await app.store.set_next_hop(hop)
    return _shape(app, hop)


def _shape(app: App, hop: NextHop) -> dict[str, object]:
    kind = None
    if hop.name in app.tables:
        kind = str(app.settings.providers.get(hop.name, {}).get("kind", hop.name))
    return next_hop_shape(hop, kind=kind, is_default=hop.name in app.routing.default)
