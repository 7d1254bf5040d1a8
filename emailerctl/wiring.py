"""Settings -> App: the composition root, the only file that names concrete backends."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from emailerctl import log
from emailerctl.core.accept import Acceptance, AcceptRules
from emailerctl.core.batch import Batches
from emailerctl.core.bounces import Bounces
from emailerctl.core.check import check_hop
from emailerctl.core.deliver import Hop
from emailerctl.core.fields import Limits
from emailerctl.core.hop_view import HopFacts, HopView
from emailerctl.core.reporting import Reporting
from emailerctl.core.retry import RetryPolicy
from emailerctl.core.route import SANDBOX, Routing, Rule
from emailerctl.core.sealing import Sealing
from emailerctl.core.standing import Bounds
from emailerctl.core.tokens import TokenBook
from emailerctl.core.unsubscribe import Unsubscribing
from emailerctl.models.address import parse_mailbox
from emailerctl.models.clock import Clock, SystemClock, to_ms
from emailerctl.models.event import Event
from emailerctl.models.message import Priority
from emailerctl.models.verp import Signer
from emailerctl.providers import registry
from emailerctl.providers.base import Abilities, CheckResult, Reports
from emailerctl.providers.hop_settings import HopSettings
from emailerctl.providers.sandbox import SandboxSettings
from emailerctl.queues.bell import Bell
from emailerctl.settings import Settings, locate
from emailerctl.store import schema, sqlite
from emailerctl.store.key_files import KeyFiles
from emailerctl.store.sqlite import SqliteDriver
from emailerctl.store.sqlstore import SqlStore

Tables = Mapping[str, tuple[registry.Kind, HopSettings]]

_SALT = "settings_salt"
_VERP_KEY = "verp_key"
_FENCED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Folders:
    """What stands beside the store: `<store>.locks/` and `<store>.wake/`."""

    store: Path

    @property
    def locks(self) -> Path:
        """The lock files of consumers: a freed one voids its consumer's leases."""
        return self.store.with_name(f"{self.store.name}.locks")

    @property
    def wake(self) -> Path:
        """The sockets on which consumers hear the bell."""
        return self.store.with_name(f"{self.store.name}.wake")


@dataclass(frozen=True, slots=True)
class App:
    """Everything that a program needs, ready for use.

    Attributes:
        rng: for secrets: the operating system's.
        chance: for ids and jitter: seeded from `rng`, and two hundred times as fast.
    """

    settings: Settings
    clock: Clock
    rng: Random
    chance: Random
    store: SqlStore
    driver: SqliteDriver
    folders: Folders
    bell: Bell
    routing: Routing
    policy: RetryPolicy
    acceptance: Acceptance
    batches: Batches
    tokens: TokenBook
    tables: Tables
    is_storage_low: Callable[[], bool]
    reporting: Reporting
    unsubscribing: Unsubscribing

    def build_hops(self) -> dict[str, Hop]:
        """Build the next hops of the settings, and the sandbox; nothing is connected yet."""
        hops = {}
        for name, (kind, settings) in self.tables.items():
            built = kind.build(name, settings, self.settings.consumer.concurrency, self.clock)
            hops[name] = Hop(
                provider=built.provider,
                deadline_ms=built.deadline_ms,
                final_reply_ms=built.final_reply_ms,
                concurrency=built.concurrency,
                bounds=_build_bounds(settings, built.concurrency),
                is_signed=built.is_signed,
            )
        return hops

    @property
    def key_files(self) -> KeyFiles:
        """The private keys of domains."""
        path = self.settings.store.path
        named = self.settings.dkim.keys
        folder = Path(named) if named else path.with_name(f"{path.name}.dkim")
        return KeyFiles(folder, like=path)

    def build_sealing(self, on_fault: Callable[[str, str], None]) -> Sealing:
        """Return what signs; it knows no key before its first `refresh`."""
        return Sealing(self.store, self.key_files, on_fault=on_fault)

    async def load_signer(self) -> Signer:
        """Return what signs return paths, with the key that this store has once got."""
        key = await self.store.find_note(_VERP_KEY)
        if key is None:
            key = await self.store.keep_note(_VERP_KEY, f"{self.rng.getrandbits(256):064x}")
        return Signer(bytes.fromhex(key))

    async def load_bounces(self, signer: Signer | None = None) -> Bounces:
        """Return what takes mail that comes back."""
        return Bounces(self.store, self.reporting, signer or await self.load_signer())

    async def check_hop(self, view: HopView, *, within_s: float) -> list[CheckResult]:
        """Talk to one next hop without sending, and say what works."""
        name = view.hop.name
        kind, settings = self.tables[name]
        built = kind.build(name, settings, self.settings.consumer.concurrency, self.clock)
        try:
            return await check_hop(
                built.provider,
                kind.abilities,
                standing=view.hop,
                breaker=view.breaker,
                has_reports=kind.reports is not None,
                within_s=within_s,
            )
        finally:
            await built.provider.close()

    @property
    def abilities(self) -> Mapping[str, Abilities]:
        """What the next hops can express, of those that do not take everything."""
        return _find_abilities(self.tables)

    def describe_hops(self) -> dict[str, HopFacts]:
        """Return what the settings say of each next hop, for people."""
        return {
            name: HopFacts(
                kind=str(self.settings.providers.get(name, {}).get("kind", name)),
                is_default=name in self.routing.default,
                bounds=_build_bounds(settings, self.settings.consumer.concurrency),
            )
            for name, (_kind, settings) in self.tables.items()
        }

    async def hash_settings(self) -> dict[str, str]:
        """Return what tells each next hop's settings apart, salted for this store."""
        salt = await self.store.find_note(_SALT)
        if salt is None:
            salt = f"{self.rng.getrandbits(128):032x}"
            await self.store.leave_note(_SALT, salt)
        return {
            name: registry.hash_settings(settings, salt)
            for name, (_kind, settings) in self.tables.items()
        }


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    rng: Random | None = None,
    on_fatal: Callable[[BaseException], None] | None = None,
    logs_events: bool = False,
) -> AsyncIterator[App]:
    """Open the store and wire everything to it.

    Args:
        on_fatal: called when a sync failed and nobody knows what is on disk (F-IN-06).
        logs_events: write every committed event to the process log too (the daemons do).

    Raises:
        StoreUnusable: the store is missing, damaged, or of another version.
        ConfigurationError: a next hop's table is wrong.
    """
    clock = clock or SystemClock()
    rng = rng or SystemRandom()
    chance = Random(rng.getrandbits(256))  # noqa: S311  (no secret is made with it)
    tables = parse_providers(settings)
    path = settings.store.path
    schema.require_current(path)
    folders = Folders(path)
    bell = Bell(folders.wake)

    def publish(events: Sequence[Event], has_new_work: bool) -> None:  # noqa: FBT001
        if has_new_work:
            bell.ring()
        if logs_events and events:
            log.write_events([event.shape() for event in events])

    driver = SqliteDriver(
        path,
        busy_timeout_s=settings.store.busy_timeout.total_seconds(),
        publish=publish,
        on_fatal=on_fatal,
    )
    store = SqlStore(driver, rng=chance, grace_ms=to_ms(settings.lease.duration))
    routing = _build_routing(settings, frozenset(tables))
    is_storage_low = _build_storage_check(settings, clock)
    unsubscribing = Unsubscribing(
        store,
        base=settings.api.public_url,
        clock=clock,
        make_secret=lambda: rng.randbytes(32),
    )
    acceptance = Acceptance(
        store,
        _build_rules(settings, routing, _find_abilities(tables)),
        clock=clock,
        rng=chance,
        is_storage_low=is_storage_low,
        backlog=lambda: driver.backlog,
        unsubscribing=unsubscribing,
    )
    try:
        yield App(
            settings=settings,
            clock=clock,
            rng=rng,
            chance=chance,
            store=store,
            driver=driver,
            folders=folders,
            bell=bell,
            routing=routing,
            policy=_build_policy(settings),
            acceptance=acceptance,
            batches=Batches(acceptance, store, clock=clock),
            tokens=TokenBook(
                store,
                clock=clock,
                most_failures=settings.limits.failed_authentications,
                most_requests=settings.limits.requests_per_second,
            ),
            tables=tables,
            is_storage_low=is_storage_low,
            reporting=Reporting(store, _build_readers(tables)),
            unsubscribing=unsubscribing,
        )
    finally:
        await store.close()
        bell.close()


def parse_providers(settings: Settings) -> dict[str, tuple[registry.Kind, HopSettings]]:
    """Read every next hop's table, and add the sandbox of test tokens.

    Raises:
        ConfigurationError: names keys and places.
    """
    tables = registry.parse_tables(settings.providers, locate=lambda key: locate(settings, key))
    tables.setdefault(SANDBOX, (registry.KINDS[SANDBOX], SandboxSettings()))
    return tables


def check_providers(settings: Settings) -> None:
    """Refuse settings whose next hops do not work out (for `config check`)."""
    parse_providers(settings)


def check_ready(settings: Settings) -> None:
    """Refuse to start a daemon on settings or a store that can't work.

    Raises:
        ConfigurationError: a next hop's table is wrong.
        StoreUnusable: the store is missing, damaged, or of another version.
    """
    parse_providers(settings)
    schema.require_current(settings.store.path)


async def fence_store(settings: Settings, path: Path, *, data: Mapping[str, object]) -> int:
    """Put in doubt whatever was open in the store at *path*, which nobody uses yet.

    Returns:
        How many recipients are in doubt now because of it.
    """
    clock = SystemClock()
    now_ms = clock.now_ms()
    driver = SqliteDriver(path)
    store = SqlStore(driver, rng=SystemRandom(), grace_ms=to_ms(settings.lease.duration))
    try:
        for consumer in await store.list_consumers():  # what they were sending, first
            await store.void(
                consumer.consumer_id,
                is_dead=True,
                now_ms=now_ms,
                boot_ms=clock.boot_ms(),
                resend_after_ms=0,
            )
        fenced, after_id = 0, 0
        while True:
            stepped, last_id = await store.fence(
                after_id=after_id, limit=_FENCED_AT_ONCE, data=data, now_ms=now_ms
            )
            fenced += stepped
            if last_id is None:
                break
            after_id = last_id
        await store.seal(data=data, now_ms=now_ms)
    finally:
        await store.close()
    return fenced


def describe_library() -> tuple[str, bool]:
    """Return the SQLite version in use, and whether it is free of the WAL-reset bug."""
    return ".".join(map(str, sqlite.library_version())), sqlite.is_library_safe()


def _build_routing(settings: Settings, names: frozenset[str]) -> Routing:
    rules = [
        Rule(
            number=number,
            name=rule.name,
            chain=rule.chain,
            tags=frozenset(rule.tag or ()),
            templates=frozenset(rule.template or ()),
            from_domains=frozenset(rule.from_domain or ()),
            recipient_domains=frozenset(rule.recipient_domain or ()),
            priorities=frozenset(Priority[name.upper()] for name in rule.priority or ()),
            tokens=frozenset(rule.token or ()),
            services=frozenset(rule.service or ()),
            percent=100 if rule.percent is None else rule.percent,
        )
        for number, rule in enumerate(settings.routing.rules, 1)
    ]
    return Routing(tuple(settings.routing.default), names, tuple(rules))


def _build_policy(settings: Settings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        schedule_ms=tuple(to_ms(wait) for wait in retry.schedule),
        max_age_ms=to_ms(retry.max_age),
        jitter=retry.jitter,
    )


def _build_bounds(settings: HopSettings, concurrency: int) -> Bounds:
    return Bounds(
        failures=settings.breaker_failures,
        pause_ms=to_ms(settings.breaker_pause),
        concurrency=concurrency,
        rate=settings.rate,
        domain_rates=settings.domain_rates,
    )


def _find_abilities(tables: Tables) -> dict[str, Abilities]:
    """Return what the next hops can express, of those that do not take everything."""
    return {name: kind.abilities for name, (kind, _table) in tables.items() if kind.abilities}


def _build_readers(tables: Tables) -> dict[str, Reports]:
    """Return who understands the webhooks of each next hop that has some."""
    return {name: kind.reports(table) for name, (kind, table) in tables.items() if kind.reports}


def _build_rules(
    settings: Settings, routing: Routing, abilities: Mapping[str, Abilities]
) -> AcceptRules:
    defaults = settings.defaults
    local = settings.limits.allow_local_domains
    default_from = None
    if defaults.header_from:
        default_from = parse_mailbox(defaults.header_from, allow_local_domains=local)
    return AcceptRules(
        limits=Limits(body_octets=settings.api.body_limit_bytes),
        routing=routing,
        requires_key=settings.api.require_idempotency_key,
        default_from=default_from,
        default_on_unknown=defaults.on_unknown,
        envelope_sender=defaults.envelope_sender,
        redirect_all_to=defaults.redirect_all_to,
        allow_local_domains=local,
        doubtful_hops=frozenset(routing.names - {SANDBOX}),
        abilities=abilities,
        max_backlog=settings.api.max_waiting,
    )


def _build_storage_check(settings: Settings, clock: Clock) -> Callable[[], bool]:
    """Return a look at the disk that really looks at most once a second."""
    folder = settings.store.path.absolute().parent
    low_water = settings.store.low_water_bytes
    seen = {"at_ms": -1_000, "is_low": 0}

    def is_storage_low() -> bool:
        now_ms = clock.boot_ms()
        if now_ms - seen["at_ms"] >= 1_000:
            seen["at_ms"] = now_ms
            seen["is_low"] = int(shutil.disk_usage(folder).free < low_water)
        return bool(seen["is_low"])

    return is_storage_low


def find_actor() -> str:
    """Return who operates from this machine: for the audit trail."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"
