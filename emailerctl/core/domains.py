"""The domains that sign: make keys, say what to publish, look whether it is, change keys.

A key signs only after its record was seen: a signature that nobody can check is worse than
none.  Changing keys is the same again: the new one waits, the old one goes on until then, and
its record stays for what is under way.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from emailerctl.core.dkim import (
    build_name,
    build_record,
    find_record_fault,
    generate_key,
    load_key,
    write_record,
)
from emailerctl.errors import Conflict, Fault, Invalid, NotFound
from emailerctl.models.address import AddressInvalid, domain_of, parse_address
from emailerctl.models.clock import Clock, to_text
from emailerctl.models.dkim import Algorithm, DomainKey, KeyState
from emailerctl.models.text import shorten
from emailerctl.store.base import KeyFiles, Store

KEPT_MS = 14 * 86_400_000  # the record of a retired key: retries and forwarding take their time
_DMARC = "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"


class LooksUp(Protocol):
    """What answers questions about a domain."""

    async def find_txt(self, name: str) -> list[str]:
        """Return the TXT records of *name*.

        Raises:
            Exception: nothing is known; one of the kinds that `Domains` was told of.
        """
        ...


class Verdict(StrEnum):
    """What was found."""

    GOOD = "good"
    WARN = "warn"  # mail goes, and some of it into the junk folder
    BAD = "bad"  # nothing can be checked by it


@dataclass(frozen=True, slots=True)
class Found:
    """One record that was looked for, what is wrong with it, and the cure."""

    name: str
    what: str
    verdict: Verdict
    detail: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a domain publishes, and which keys were taken into use and out of it for that."""

    found: Sequence[Found]
    keys: Sequence[DomainKey]
    activated: Sequence[str]
    retired: Sequence[str]


class Domains:
    """What makes and looks after the keys of domains.

    Args:
        lookup_fault: what *lookup* raises where nothing is known.
    """

    def __init__(
        self,
        store: Store,
        files: KeyFiles,
        lookup: LooksUp,
        *,
        clock: Clock,
        actor: str,
        lookup_fault: type[Exception],
    ) -> None:
        """Take what is needed; nothing is asked yet."""
        self._store = store
        self._files = files
        self._lookup = lookup
        self._clock = clock
        self._actor = actor
        self._lookup_fault = lookup_fault

    async def list_keys(self, domain: str = "") -> list[DomainKey]:
        """Return the keys of *domain*, or of all.

        Raises:
            Invalid: *domain* is none.
            NotFound: it has no key.
        """
        everything = await self._store.list_domain_keys()
        if not domain:
            return everything
        name = parse_domain(domain)
        keys = [key for key in everything if key.domain == name]
        if not keys:
            raise NotFound(
                f"{name} has no key", hint=f"make one with: emailerctl domains add {name}"
            )
        return keys

    async def add(self, domain: str, algorithms: Sequence[Algorithm]) -> list[DomainKey]:
        """Make the first keys of *domain*; they sign once their records were seen.

        Raises:
            Invalid: *domain* is none.
            Conflict: it has keys.
            StoreUnusable: the files can't be written.
        """
        name = parse_domain(domain)
        if any(key.domain == name for key in await self._store.list_domain_keys()):
            raise Conflict(
                f"{name} has keys already",
                hint=f"see them with: emailerctl domains dns {name}; "
                f"change them with: emailerctl domains rotate {name}",
            )
        return await self._make(name, algorithms, taken=())

    async def rotate(self, domain: str) -> list[DomainKey]:
        """Make a new key for each that signs; the old ones go on until the new are seen.

        Raises:
            NotFound: it has no key.
            Conflict: new ones wait already.
        """
        keys = await self.list_keys(domain)
        if any(key.state is KeyState.PENDING for key in keys):
            raise Conflict(
                f"{keys[0].domain} has new keys already, which wait for their records",
                hint=f"publish them and type: emailerctl domains verify {keys[0].domain}",
            )
        algorithms = [key.algorithm for key in keys if key.state is KeyState.ACTIVE]
        return await self._make(
            keys[0].domain,
            algorithms or [Algorithm.RSA],
            taken=[key.selector for key in keys],
        )

    async def _make(
        self, domain: str, algorithms: Sequence[Algorithm], *, taken: Sequence[str]
    ) -> list[DomainKey]:
        now_ms = self._clock.now_ms()
        made: list[DomainKey] = []
        for algorithm in dict.fromkeys(algorithms):
            selector = self._choose_selector(domain, now_ms, algorithm, taken)
            pem, public = generate_key(algorithm)
            self._files.write(domain, selector, pem)
            made.append(
                DomainKey(
                    domain=domain,
                    selector=selector,
                    algorithm=algorithm,
                    state=KeyState.PENDING,
                    public=public,
                    created_ms=now_ms,
                    changed_ms=now_ms,
                    actor=self._actor,
                )
            )
        await self._store.add_domain_keys(made)
        return made

    def _choose_selector(
        self, domain: str, now_ms: int, algorithm: Algorithm, taken: Sequence[str]
    ) -> str:
        """Return a name for a key: the day it is made, `e` for Ed25519; never used before."""
        day = to_text(now_ms)[:10].replace("-", "")
        stem = f"em{day}{'e' if algorithm is Algorithm.ED25519 else ''}"
        for number in itertools.count(1):
            name = stem if number == 1 else f"{stem}-{number}"
            if name not in taken and not self._files.find_path(domain, name).exists():
                return name
        raise AssertionError  # there is always another number

    async def verify(self, domain: str, *, is_trusted: bool = False) -> Checked:
        """Look at what *domain* publishes; take keys into use whose records are right.

        A key that signed goes out of use for one of its algorithm that comes in.

        Args:
            is_trusted: take them into use without looking, where DNS can't be asked from here.

        Raises:
            NotFound: it has no key.
        """
        keys = await self.list_keys(domain)
        name = keys[0].domain
        live = [key for key in keys if key.state is not KeyState.RETIRED]
        found, good = [], set()
        for key in live:
            one = self._find_file_fault(key) or (
                Found(build_name(key), "DKIM", Verdict.WARN, "not looked at")
                if is_trusted
                else await self._look_at_key(key)
            )
            found.append(one)
            if one.verdict is not Verdict.BAD:
                good.add(key.selector)
        if not is_trusted:
            found += [await self._look_at_spf(name), await self._look_at_dmarc(name)]
        pending = [
            key for key in live if key.state is KeyState.PENDING and key.selector in good
        ]
        fresh = {key.algorithm for key in pending}
        old = [key for key in live if key.state is KeyState.ACTIVE and key.algorithm in fresh]
        states = {key.selector: KeyState.ACTIVE for key in pending} | {
            key.selector: KeyState.RETIRED for key in old
        }
        if states:
            await self._store.set_key_states(
                name, states, actor=self._actor, now_ms=self._clock.now_ms()
            )
        return Checked(
            found=found,
            keys=[replace(key, state=states.get(key.selector, key.state)) for key in keys],
            activated=[key.selector for key in pending],
            retired=[key.selector for key in old],
        )

    async def remove(self, domain: str, selectors: Sequence[str] = ()) -> list[DomainKey]:
        """Forget keys of a domain, all or those of *selectors*, and their files.

        Raises:
            NotFound: it has no key, or not those.
        """
        keys = await self.list_keys(domain)
        name = keys[0].domain
        strange = set(selectors) - {key.selector for key in keys}
        if strange:
            raise NotFound(
                f"{name} has no key with the selector {shorten(min(strange))}",
                hint=f"it has {', '.join(key.selector for key in keys)}",
            )
        gone = [key for key in keys if not selectors or key.selector in selectors]
        await self._store.remove_domain_keys(
            name,
            [key.selector for key in gone],
            actor=self._actor,
            now_ms=self._clock.now_ms(),
        )
        for key in gone:
            self._files.remove(name, key.selector)
        return gone

    def _find_file_fault(self, key: DomainKey) -> Found | None:
        path = self._files.find_path(key.domain, key.selector)
        try:
            load_key(key, self._files.read(key.domain, key.selector))
        except OSError as error:
            said = f"{path}: {error.strerror}"
        except ValueError as error:
            said = f"{path} {error}"
        else:
            return None
        cure = f"bring the file back, or: emailerctl domains rm {key.domain} {key.selector}"
        return Found(build_name(key), "key file", Verdict.BAD, said, cure)

    async def _look_at_key(self, key: DomainKey) -> Found:
        name = build_name(key)
        try:
            fault = find_record_fault(key, await self._lookup.find_txt(name))
        except self._lookup_fault as error:
            fault = f"can't be looked up: {error}"
        if not fault:
            return Found(name, "DKIM", Verdict.GOOD, f"publishes the key ({key.algorithm})")
        cure = f"publish what this shows: emailerctl domains dns {key.domain}"
        return Found(name, "DKIM", Verdict.BAD, fault, cure)

    async def _look_at_spf(self, domain: str) -> Found:
        try:
            records = await self._lookup.find_txt(domain)
        except self._lookup_fault as error:
            return Found(domain, "SPF", Verdict.WARN, f"can't be looked up: {error}")
        spf = [text for text in records if text.lower().split(" ")[0] == "v=spf1"]
        if len(spf) == 1:
            return Found(domain, "SPF", Verdict.GOOD, shorten(spf[0]))
        detail = f"there are {len(spf)} records" if spf else "there is no record"
        cure = "publish one v=spf1 record with what your relay or provider tells to include"
        return Found(domain, "SPF", Verdict.WARN, detail, cure)

    async def _look_at_dmarc(self, domain: str) -> Found:
        """Look for a policy at the domain and at those above it (RFC 7489 6.6.3)."""
        name = domain
        while "." in name:
            place = f"_dmarc.{name}"
            try:
                records = await self._lookup.find_txt(place)
            except self._lookup_fault as error:
                return Found(place, "DMARC", Verdict.WARN, f"can't be looked up: {error}")
            policies = [text for text in records if text.replace(" ", "")[:8] == "v=DMARC1"]
            if policies:
                return Found(place, "DMARC", Verdict.GOOD, shorten(policies[0]))
            name = name.partition(".")[2]
        place = f"_dmarc.{domain}"
        cure = f"publish: {write_record(place, _DMARC.format(domain=domain))}"
        return Found(place, "DMARC", Verdict.WARN, "there is no record", cure)


def parse_domain(text: str) -> str:
    """Return a domain as addresses have it: lower case, A-labels.

    Raises:
        Invalid: it is none.
    """
    try:
        address = parse_address(f"x@{text}", allow_sandbox=False, allow_local_domains=True)
    except AddressInvalid:
        detail = f"{shorten(text)} is no domain; write for example example.org"
        raise Invalid([Fault("/domain", detail)]) from None
    return domain_of(address)


def list_records(keys: Sequence[DomainKey], now_ms: int) -> list[Mapping[str, str]]:
    """Return the records of *keys*: what to publish, and what may go."""
    records: list[Mapping[str, str]] = []
    for key in keys:
        name, text = build_name(key), build_record(key)
        if key.state is not KeyState.RETIRED:
            todo = "publish" if key.state is KeyState.PENDING else "keep"
        else:
            ends_ms = key.changed_ms + KEPT_MS
            todo = "remove" if ends_ms <= now_ms else f"keep until {to_text(ends_ms)[:10]}"
        records.append(
            {
                "selector": key.selector,
                "state": key.state.value,
                "todo": todo,
                "name": name,
                "type": "TXT",
                "value": text,
                "line": write_record(name, text),
            }
        )
    return records
