"""API tokens: minted once, recognised by a hash, limited, rotated and revoked (T-01 to T-03).

The text is `emk_<id>_<secret>_<check>` (`emk_test_…` for a test token): the 13 characters of
the public id, 43 base 62 characters of secret (256 bits), and the CRC-32 of all that in six
more, so that a mangled or made-up token never reaches the store.  At rest there is only the
SHA-256 of the secret; it is long and random, so nothing slower is needed.
"""

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from random import Random
from typing import NoReturn, TypeVar
from zlib import crc32

from emailerctl.core.token_limits import build_limits, parse_limits, parse_scopes
from emailerctl.errors import (
    AmbiguousId,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from emailerctl.models.caller import Caller
from emailerctl.models.clock import (
    Clock,
)
from emailerctl.models.ids import TOKEN, build_message_id, parse_prefix, parse_public, to_public
from emailerctl.models.text import shorten
from emailerctl.store.base import Store, Token

Parsed = TypeVar("Parsed")
Network = IPv4Network | IPv6Network

EPOCH_EVERY_MS = 250  # how long a change of tokens may go unnoticed; the commit looks again
FAILURES_WINDOW_MS = 60_000

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARACTERS = 43  # 62 ** 43 > 2 ** 256
_CHECK_CHARACTERS = 6
_TOKEN = re.compile(
    r"emk_(?P<test>test_)?(?P<id>[0-9A-HJKMNP-TV-Z]{13})_(?P<secret>[0-9A-Za-z]{32,64})"
    r"_(?P<check>[0-9A-Za-z]{6})"
)
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_REFUSED = "the token is missing, unknown, expired or revoked"  # one answer for all (T-03)
_MOST_REMOTES = 10_000


# The text of a token.


@dataclass(frozen=True, slots=True)
class Presented:
    """What the text of a token says about itself; whether it is true, the store knows."""

    token_id: int
    secret_hash: bytes
    is_test: bool


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that was just made, with its text: the only time that it can be shown."""

    token: Token
    text: str


def build_token_text(token_id: int, secret: str, *, is_test: bool) -> str:
    """Return the text that a client sends."""
    prefix = "emk_test" if is_test else "emk"
    body = f"{prefix}_{to_public(TOKEN, token_id).partition('_')[2]}_{secret}"
    return f"{body}_{_checksum(body)}"


def parse_token_text(text: str) -> Presented | None:
    """Read what a client sent; None where it can't be a token of ours."""
    found = _TOKEN.fullmatch(text)
    if found is None:
        return None
    body, _, check = text.rpartition("_")
    token_id = parse_public(TOKEN, found["id"])
    if token_id is None or not hmac.compare_digest(_checksum(body), check):
        return None
    return Presented(token_id, _hash_secret(found["secret"]), found["test"] is not None)


def _checksum(body: str) -> str:
    number = crc32(body.encode())
    characters = []
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, len(_BASE62))
        characters.append(_BASE62[digit])
    return "".join(reversed(characters))


def _hash_secret(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


# Making, rotating, revoking and finding.


async def create(
    store: Store,
    clock: Clock,
    rng: Random,
    *,
    name: str,
    scopes: Iterable[str],
    service: str = "",
    is_test: bool = False,
    expires_ms: int | None = None,
    limits: Mapping[str, object] | None = None,
) -> Minted:
    """Make a token.

    Its service, the owner of what it sends, is its name unless another is given.  The secret
    comes from *rng*, which must be the operating system's outside of tests; *limits* are as
    `parse_limits` takes them.

    Raises:
        Invalid: with every fault.
        Conflict: a live token has that name.
    """
    now_ms = clock.now_ms()
    faults: list[Fault] = []
    kept = _collect(faults, lambda: parse_scopes(scopes))
    narrowed = _collect(faults, lambda: parse_limits(limits or {}, is_test=is_test))
    for pointer, value in (("/name", name), ("/service", service or name)):
        if not _NAME.fullmatch(value) and (pointer == "/name" or service):
            detail = f"{shorten(value)} is no name: write a-z, 0-9, _ and -, at most 64"
            faults.append(Fault(pointer, detail))
    if expires_ms is not None and expires_ms <= now_ms:
        faults.append(Fault("/expires_at", "has passed; name a later moment"))
    if faults or kept is None or narrowed is None:
        raise Invalid(faults)
    token, text = _mint(
        Token(
            token_id=0,
            name=name,
            service=service or name,
            secret_hash=b"",
            scopes=kept,
            is_test=is_test,
            created_ms=now_ms,
            expires_ms=expires_ms,
            revoked_ms=None,
            last_used_ms=None,
            limits=narrowed,
        ),
        rng,
    )
    await store.add_token(token)
    return Minted(token, text)


async def rotate(
    store: Store, clock: Clock, rng: Random, token: Token, *, overlap_ms: int
) -> Minted:
    """Give *token* a successor with the same name, service, scopes and limits.

    The old one ends after the overlap; the new one lives as long as the old one was given.

    Raises:
        Conflict: *token* has ended already.
    """
    now_ms = clock.now_ms()
    if not is_live(token, now_ms):
        raise Conflict(
            f"the token {token.name!r} has ended",
            hint="make a new one: emailerctl tokens create",
        )
    expires_ms = token.expires_ms and now_ms + (token.expires_ms - token.created_ms)
    fresh = replace(
        token, created_ms=now_ms, expires_ms=expires_ms, revoked_ms=None, last_used_ms=None
    )
    minted = Minted(*_mint(fresh, rng))
    # A crash between the two leaves the old one alive, which locks nobody out.
    await store.add_token(minted.token, is_rotation=True)
    if overlap_ms:
        await store.expire_token(token.token_id, at_ms=now_ms + overlap_ms)
    else:
        await store.end_token(token.token_id, at_ms=now_ms)
    return minted


async def revoke(store: Store, clock: Clock, text: str) -> list[Token]:
    """End tokens at once, and return them as they were.

    A name stands for every live token that has it, one that a rotation left included; an id,
    or the text of a token, for that one.

    Raises:
        NotFound, AmbiguousId: see `find_token`.
        Conflict: it has ended already.
    """
    now_ms = clock.now_ms()
    _epoch, tokens = await store.load_tokens()
    ended = [token for token in tokens if token.name == text and is_live(token, now_ms)]
    if not ended:
        found = find_token(tokens, text, now_ms=now_ms)
        if not is_live(found, now_ms):
            raise Conflict(f"the token {found.name!r} has ended already")
        ended = [found]
    for token in ended:
        await store.end_token(token.token_id, at_ms=now_ms)
    return ended


def find_token(tokens: Sequence[Token], text: str, *, now_ms: int) -> Token:
    """Return the token that *text* means: a name, an id or its prefix, or the token itself.

    Of several with one name the newest live one is meant: the others are its past.

    Raises:
        NotFound: there is none.
        AmbiguousId: a prefix of several; names them.
    """
    named = [token for token in tokens if token.name == text]
    if named:
        return max(named, key=lambda token: (is_live(token, now_ms), token.created_ms))
    presented = parse_token_text(text)
    bounds = (
        (presented.token_id, presented.token_id) if presented else parse_prefix(TOKEN, text)
    )
    low, high = bounds or (1, 0)
    found = [token for token in tokens if low <= token.token_id <= high]
    if not found:
        raise NotFound(f"there is no token {shorten(text)}")
    if len(found) > 1:
        names = ", ".join(f"{to_public(TOKEN, t.token_id)} ({t.name})" for t in found[:5])
        raise AmbiguousId(f"{shorten(text)} fits {len(found)} tokens: {names}")
    return found[0]


def is_live(token: Token, now_ms: int) -> bool:
    """Return whether *token* has neither expired nor been revoked."""
    return _ends_ms(token) > now_ms


def _ends_ms(token: Token) -> int:
    ends = [end for end in (token.expires_ms, token.revoked_ms) if end is not None]
    return min(ends, default=1 << 62)


def _mint(token: Token, rng: Random) -> tuple[Token, str]:
    """Return *token* with an id and a secret of its own, and its text."""
    token_id = build_message_id(token.created_ms, rng)
    secret = "".join(rng.choice(_BASE62) for _ in range(_SECRET_CHARACTERS))
    minted = replace(token, token_id=token_id, secret_hash=_hash_secret(secret))
    return minted, build_token_text(token_id, secret, is_test=token.is_test)


def _collect(faults: list[Fault], parse: Callable[[], Parsed]) -> Parsed | None:
    """Return what *parse* makes, or None and its faults among the others."""
    try:
        return parse()
    except Invalid as error:
        faults.extend(error.faults)
        return None


# Recognising.


@dataclass(slots=True)
class _Entry:
    """A token as this process knows it, and how much it asked for lately."""

    token: Token
    caller: Caller
    ends_ms: int
    networks: Sequence[Network]
    second: int = 0
    requests: int = 0


@dataclass(slots=True)
class _Failures:
    """Failed authentications from one address, in a window of a minute."""

    since_ms: int
    count: int = field(default=0)


class TokenBook:
    """The tokens as one process knows them; at most a quarter of a second behind the store.

    Args:
        most_failures: failed authentications from one address in a minute; beyond it its
            tokens are not looked at, but for those that have proved good here before.
        most_requests: of one token in a second.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        most_failures: int = 60,
        most_requests: int = 10_000,
    ) -> None:
        """Know nothing yet; the first request reads the tokens."""
        self._store = store
        self._clock = clock
        self._most_failures = most_failures
        self._most_requests = most_requests
        self._epoch: int | None = None
        self._looked_ms = 0
        self._entries: dict[int, _Entry] = {}
        self._proven: dict[bytes, int] = {}  # hash of a whole text -> the token it proved to be
        self._failures: dict[str, _Failures] = {}
        self._used: dict[int, int] = {}

    async def load(self) -> None:
        """Read the tokens ahead of the first request, which then does not wait for it."""
        await self._refresh()

    async def authenticate(self, presented: str, *, remote: str) -> Caller:
        """Return who presents this token.

        Args:
            presented: what stood after `Bearer`; empty where nothing did.
            remote: the peer's IP address.

        Raises:
            Unauthorized: the same whatever is wrong with it.
            TooManyRequests: too many failures from *remote*, or requests of this token.
            Forbidden: the token may not be used from *remote*.
        """
        boot_ms = self._clock.boot_ms()
        if self._epoch is None or boot_ms - self._looked_ms >= EPOCH_EVERY_MS:
            self._looked_ms = boot_ms  # whoever comes meanwhile uses what is known
            await self._refresh()
        digest = sha256(presented.encode()).digest()
        token_id = self._proven.get(digest)
        if token_id is None:
            token_id = await self._prove(presented, digest, remote)
        entry = self._entries.get(token_id)
        now_ms = self._clock.now_ms()
        if entry is None or entry.ends_ms <= now_ms:
            self._refuse(remote)
        if entry.networks:
            _check_network(entry.networks, remote)
        second = boot_ms // 1000
        if entry.second != second:
            entry.second, entry.requests = second, 0
        entry.requests += 1
        if entry.requests > self._most_requests:
            raise TooManyRequests(
                f"this token asks for more than {self._most_requests} requests a second",
                retry_after_s=1,
            )
        self._used[token_id] = now_ms
        return entry.caller

    async def is_still_good(self, caller: Caller) -> bool:
        """Return whether *caller*'s token has not ended: asked by streams, which outlive it."""
        if not caller.token_id:
            return True
        boot_ms = self._clock.boot_ms()
        if boot_ms - self._looked_ms >= EPOCH_EVERY_MS:
            self._looked_ms = boot_ms
            await self._refresh()
        entry = self._entries.get(caller.token_id)
        return entry is not None and entry.ends_ms > self._clock.now_ms()

    async def flush_used(self) -> None:
        """Write when tokens were last used; to be called every minute or so, and at the end."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.touch_tokens(used)
        except BaseException:
            self._used = {**used, **self._used}
            raise

    async def _refresh(self) -> None:
        """Read the tokens again if any has changed."""
        if self._epoch is not None and self._epoch == await self._store.token_epoch():
            return
        self._epoch, tokens = await self._store.load_tokens()
        entries = {}
        for token in tokens:
            entry = _build_entry(token, self._epoch)
            if entry is not None:
                entries[token.token_id] = entry
        self._entries = entries

    async def _prove(self, presented: str, digest: bytes, remote: str) -> int:
        """Return the id of the token that *presented* proves to be."""
        self.check_failures(remote)
        said = parse_token_text(presented)
        if said is None:
            self._refuse(remote)
        if said.token_id not in self._entries:  # made a moment ago?
            await self._refresh()
        entry = self._entries.get(said.token_id)
        known = entry.token.secret_hash if entry else bytes(32)
        is_right = hmac.compare_digest(known, said.secret_hash)
        if entry is None or not is_right or entry.token.is_test is not said.is_test:
            self._refuse(remote)
        self._proven[digest] = said.token_id
        return said.token_id

    def check_failures(self, remote: str, *, realm: str = "") -> None:
        """Refuse whoever has failed too often.

        Args:
            remote: the peer's IP address.
            realm: where it failed, for what is counted apart from tokens.

        Raises:
            TooManyRequests: names when it may try again.
        """
        failures = self._failures.get(realm + _network_of(remote))
        if failures is None or failures.count < self._most_failures:
            return
        left_ms = failures.since_ms + FAILURES_WINDOW_MS - self._clock.boot_ms()
        if left_ms > 0:
            raise TooManyRequests(
                "too many failed authentications from this address",
                retry_after_s=left_ms // 1000 + 1,
            )

    def _refuse(self, remote: str) -> NoReturn:
        """Count a failure and refuse.

        Raises:
            Unauthorized: always.
        """
        self.note_failure(remote)
        raise Unauthorized(_REFUSED)

    def note_failure(self, remote: str, *, realm: str = "") -> None:
        """Count a failed authentication, as `check_failures` looks at it."""
        boot_ms = self._clock.boot_ms()
        network = realm + _network_of(remote)
        failures = self._failures.get(network)
        if failures is None or boot_ms - failures.since_ms >= FAILURES_WINDOW_MS:
            if len(self._failures) >= _MOST_REMOTES:
                self._forget_failures(boot_ms)
            failures = self._failures[network] = _Failures(boot_ms)
        failures.count += 1

    def _forget_failures(self, boot_ms: int) -> None:
        """Keep the failures of this window; where even those are too many, none."""
        self._failures = {
            network: failures
            for network, failures in self._failures.items()
            if boot_ms - failures.since_ms < FAILURES_WINDOW_MS
        }
        if len(self._failures) >= _MOST_REMOTES:
            self._failures = {}


def _build_entry(token: Token, epoch: int) -> _Entry | None:
    """Return *token* ready for use; None where a later version gave it limits unknown here."""
    try:
        limits = build_limits(token.limits)
    except Invalid:
        return None
    caller = Caller(
        token_id=token.token_id,
        name=token.name,
        service=token.service,
        scopes=token.scopes,
        is_test=token.is_test,
        epoch=epoch,
        limits=limits,
    )
    networks = [ip_network(network) for network in limits.networks]
    return _Entry(token, caller, _ends_ms(token), networks)


def _check_network(networks: Sequence[Network], remote: str) -> None:
    try:
        address = ip_address(remote)
    except ValueError:
        address = None
    mapped = getattr(address, "ipv4_mapped", None)
    if address is None or not any((mapped or address) in network for network in networks):
        raise Forbidden(f"this token may not be used from {remote}")


def _network_of(remote: str) -> str:
    """Return what failures are counted by: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in remote:
        return remote
    try:
        return str(ip_network(f"{remote.partition('%')[0]}/64", strict=False))
    except ValueError:
        return remote
