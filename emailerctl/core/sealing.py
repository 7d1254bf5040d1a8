"""Signing what leaves: the keys in use, and a thread that signs (OpenSSL lets others run)."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from emailerctl.core.dkim import SigningKey, load_key, sign
from emailerctl.models.dkim import DomainKey, KeyState
from emailerctl.store.base import KeyFiles, Store

_THREADS = 2
_NONE: Mapping[str, Sequence[SigningKey]] = MappingProxyType({})


class KeyUnusable(Exception):
    """A domain signs, and its key can't be used: its mail waits, for unsigned it is refused."""


class Sealing:
    """What signs the mail of domains that have a key.

    Args:
        on_fault: told which file can't be used, and why, when that is found out.
    """

    def __init__(
        self, store: Store, files: KeyFiles, *, on_fault: Callable[[str, str], None]
    ) -> None:
        """Know no key yet: `refresh` reads them."""
        self._store = store
        self._files = files
        self._on_fault = on_fault
        self._known: Sequence[DomainKey] | None = None
        self._keys = _NONE
        self._broken: frozenset[str] = frozenset()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dkim")

    async def refresh(self) -> None:
        """Learn of keys that were made, taken into use or retired."""
        known = [
            key for key in await self._store.list_domain_keys() if key.state is KeyState.ACTIVE
        ]
        if known == self._known and not self._broken:
            return
        is_news = known != self._known
        loop = asyncio.get_running_loop()
        keys, faults = await loop.run_in_executor(self._threads, self._load, known)
        self._known, self._keys = known, keys
        self._broken = frozenset(domain for domain, _, _ in faults)
        for _, path, fault in faults if is_news else ():
            self._on_fault(path, fault)

    def _load(
        self, known: Sequence[DomainKey]
    ) -> tuple[Mapping[str, Sequence[SigningKey]], list[tuple[str, str, str]]]:
        keys: dict[str, list[SigningKey]] = {}
        faults = []
        for key in known:
            try:
                pem = self._files.read(key.domain, key.selector)
                keys.setdefault(key.domain, []).append(load_key(key, pem))
            except (OSError, ValueError) as error:
                path = self._files.find_path(key.domain, key.selector)
                said = (error.strerror or "") if isinstance(error, OSError) else str(error)
                faults.append((key.domain, str(path), said))
        return keys, faults

    def find_domain(self, address: str) -> str | None:
        """Return the domain that signs for *address*: its own, or the nearest one above.

        Raises:
            KeyUnusable: it has a key that can't be used.
        """
        domain = address.rpartition("@")[2]
        while "." in domain:
            if domain in self._broken:
                raise KeyUnusable(domain)
            if domain in self._keys:
                return domain
            domain = domain.partition(".")[2]
        return None

    async def sign(self, raw: bytes, *, header_from: str, signed_at_ms: int) -> bytes:
        """Return the signatures to put before *raw*; nothing where its domain has no key.

        Raises:
            KeyUnusable: it has one that can't be used.
        """
        domain = self.find_domain(header_from)
        if domain is None:
            return b""
        keys = self._keys[domain]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: sign(raw, keys, signed_at_s=signed_at_ms // 1000)
        )

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
