"""Standing: which next hops take mail now, as the store says and this process has learnt."""

from collections.abc import Mapping, Sequence

from emailerctl.models.clock import Clock
from emailerctl.models.outcome import Alarm
from emailerctl.store.base import HopState, NextHop, Store


class Standing:
    """The next hops' standing, read from the store now and then, shared by all deliveries.

    Args:
        settings_hashes: of each next hop's settings, so that a consumer that starts with a new
            password opens what the old one had paused.
    """

    def __init__(
        self, store: Store, *, settings_hashes: Mapping[str, str], clock: Clock
    ) -> None:
        """Start with every next hop open; `refresh` tells."""
        self._store = store
        self._clock = clock
        self._settings_hashes = settings_hashes
        self._hops: dict[str, NextHop] = {}

    async def refresh(self) -> None:
        """Read the standing from the store."""
        self._hops = {hop.name: hop for hop in await self._store.list_next_hops()}

    async def reopen_changed(self) -> list[str]:
        """Open the next hops that were paused under other settings; return their names."""
        await self.refresh()
        changed = [
            hop.name
            for hop in self._hops.values()
            if hop.state is HopState.PAUSED
            and hop.name in self._settings_hashes
            and hop.settings_hash != self._settings_hashes[hop.name]
        ]
        for name in changed:
            await self._set(name, HopState.OPEN, "its settings changed")
        return changed

    async def pause(self, name: str, alarm: Alarm, reply: str) -> None:
        """Pause a next hop that refused our credentials, until an operator or new settings."""
        await self.refresh()  # an operator may just have disabled it
        if self.is_open(name):
            await self._set(name, HopState.PAUSED, f"{alarm}: {reply}")

    async def _set(self, name: str, state: HopState, reason: str) -> None:
        hop = NextHop(
            name=name,
            state=state,
            reason=reason,
            changed_ms=self._clock.now_ms(),
            actor="consumer",
            settings_hash=self._settings_hashes.get(name, ""),
        )
        await self._store.set_next_hop(hop)
        self._hops[name] = hop

    def is_open(self, name: str) -> bool:
        """Return whether *name* takes mail."""
        hop = self._hops.get(name)
        return hop is None or hop.state is HopState.OPEN

    def find_open(self, chain: Sequence[str], start: int) -> int | None:
        """Return the index of the first open next hop of *chain* from *start* on, or None."""
        return next((i for i in range(start, len(chain)) if self.is_open(chain[i])), None)
