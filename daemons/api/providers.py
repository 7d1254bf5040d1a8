"""The next hops as the API shows them, and how an administrator opens and shuts them."""

from difflib import get_close_matches

from emailerctl.core.answers import NextHopShape
from emailerctl.core.hop_view import list_hop_views
from emailerctl.core.shapes import next_hop_shape
from emailerctl.errors import NotFound
from emailerctl.models.text import shorten
from emailerctl.store.base import Deed, HopState, NextHop
from emailerctl.wiring import App


async def list_providers(app: App) -> list[NextHopShape]:
    """Return the next hops of the settings, and those that left them with a standing."""
    now_ms = app.clock.now_ms()
    views = await list_hop_views(app.store, app.describe_hops(), now_ms=now_ms)
    return [next_hop_shape(view) for view in views]


async def set_state(
    app: App, name: str, state: HopState, *, reason: str, actor: str
) -> NextHopShape:
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
    verb = "provider.enable" if state is HopState.OPEN else "provider.disable"
    await app.store.set_next_hop(hop, deed=Deed(actor, verb, name, reason))
    return next(one for one in await list_providers(app) if one["name"] == name)
