"""Settings -> App: the composition root, the only file that names concrete backends."""

import asyncio
import math
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from pydantic import SecretStr

from emailerctl import log
from emailerctl.core.accept import Acceptance, AcceptRules
from emailerctl.core.batch import Batches
from emailerctl.core.bounces import Bounces
from emailerctl.core.brokers import BrokerFacts, find_broker
from emailerctl.core.check import check_hop
from emailerctl.core.deliver import Hop
from emailerctl.core.fields import Limits
from emailerctl.core.hop_view import HopFacts, HopView
from emailerctl.core.ingest import Ingest, IngestRules
from emailerctl.core.outlook import is_resolved_within
from emailerctl.core.render import Templating
from emailerctl.core.reporting import Reporting
from emailerctl.core.retry import RetryPolicy
from emailerctl.core.route import SANDBOX, Routing, Rule
from emailerctl.core.sealing import Sealing
from emailerctl.core.standing import Bounds
from emailerctl.core.tokens import TokenBook
from emailerctl.core.unsubscribe import Unsubscribing
from emailerctl.errors import Conflict
from emailerctl.metrics import registry as metrics
from emailerctl.metrics.meter import Meter
from emailerctl.models.address import parse_mailbox
from emailerctl.models.clock import Clock, SystemClock, to_ms
from emailerctl.models.doorbell import SourceStatus, Use
from emailerctl.models.event import Event
from emailerctl.models.job import Key
from emailerctl.models.message import Priority
from emailerctl.models.verp import Signer
from emailerctl.providers import registry
from emailerctl.providers.base import Abilities, CheckResult, Conversation, Converses, Reports
from emailerctl.providers.hop_settings import HopSettings
from emailerctl.providers.sandbox import SandboxSettings
from emailerctl.queues.base import Announcer, Eyes, Queue
from emailerctl.queues.bell import Bell, Listener
from emailerctl.queues.embedded import EmbeddedQueue
from emailerctl.queues.forestmq import ForestMqQueue
from emailerctl.queues.forestmq_client import ForestMqClient, ForestMqError
from emailerctl.queues.forestmq_publisher import Publisher, Topics
from emailerctl.settings import Settings, locate
from emailerctl.settings.model import ForestMqQueueSettings
from emailerctl.store import schema, sqlite
from emailerctl.store.key_files import KeyFiles
from emailerctl.store.sqlite import SqliteDriver
from emailerctl.store.sqlstore import SqlStore
from emailerctl.templates.base import Renderer
from emailerctl.templates.pool import Pool, PoolLimits

Tables = Mapping[str, tuple[registry.Kind, HopSettings]]

_SALT = "settings_salt"
_VERP_KEY = "verp_key"
_FENCED_AT_ONCE = 200
_SOON_MS = 3_600_000  # a doubt that usually ends within this time needs no warning
_RING_S = 2.0  # how long a ForestMQ may take to answer what is no take
_TAKE_S = 10.0  # a job's take; each that is given up may be a lost job


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
        meter: the figures of this daemon, shared by its processes.
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
    ingest: Ingest
    tokens: TokenBook
    tables: Tables
    is_storage_low: Callable[[], bool]
    reporting: Reporting
    unsubscribing: Unsubscribing
    meter: Meter
    renderer: Renderer
    announcer: Announcer | None

    def build_queue(self, eyes: Eyes, listener: Listener, *, reporter: str) -> Queue:
        """Build a consumer's queue, of the kind that the settings name."""
        return _QUEUES[self.settings.queue.kind](self, eyes, listener, reporter)

    async def find_broker(self, *, asks: bool) -> BrokerFacts | None:
        """Return what is known of the broker; None where there is none.

        Args:
            asks: ask every ForestMQ now, for two seconds at the most; else what the processes
                have seen has to do.
        """
        return await find_broker(
            self.store,
            kind=self.settings.queue.kind,
            answers=await check_brokers(self.settings) if asks else None,
            now_ms=self.clock.now_ms(),
        )

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
                abilities=kind.abilities,
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

    async def converse(
        self, name: str, sender: str, recipients: Sequence[str], *, within_s: float
    ) -> Conversation:
        """Talk SMTP with a next hop without sending anything.

        Raises:
            Conflict: it speaks another protocol.
        """
        kind, settings = self.tables[name]
        built = kind.build(name, settings, self.settings.consumer.concurrency, self.clock)
        try:
            if not isinstance(built.provider, Converses):
                raise Conflict(
                    f"{name} does not speak SMTP", hint=f"emailerctl providers check {name}"
                )
            async with asyncio.timeout(within_s):
                return await built.provider.converse(sender, recipients)
        except TimeoutError:
            late = CheckResult("time", is_good=False, detail=f"not done in {within_s:g} s")
            return Conversation([late], ())
        finally:
            await built.provider.close()

    @property
    def abilities(self) -> Mapping[str, Abilities]:
        """What the next hops can express, of those that do not take everything."""
        return _find_abilities(self.tables)

    @property
    def reporting_hops(self) -> frozenset[str]:
        """The next hops that report what became of a message; the sandbox does at once."""
        named = {name for name, (kind, _table) in self.tables.items() if kind.reports}
        return frozenset(named | {SANDBOX})

    def find_default_sender(self) -> str:
        """Return the envelope sender of the settings, or the address of `[defaults] from`."""
        defaults = self.settings.defaults
        if defaults.envelope_sender or not defaults.header_from:
            return defaults.envelope_sender
        local = self.settings.limits.allow_local_domains
        return parse_mailbox(defaults.header_from, allow_local_domains=local).address

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
        salt = await self._find_salt()
        return {
            name: registry.hash_settings(settings, salt)
            for name, (_kind, settings) in self.tables.items()
        }

    async def identify_accounts(self) -> dict[str, str]:
        """Return what tells apart whose account each next hop is used with, likewise."""
        salt = await self._find_salt()
        return {
            name: registry.hash_account(settings, salt)
            for name, (_kind, settings) in self.tables.items()
        }

    async def _find_salt(self) -> str:
        salt = await self.store.find_note(_SALT)
        if salt is None:
            salt = f"{self.rng.getrandbits(128):032x}"
            await self.store.leave_note(_SALT, salt)
        return salt


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    rng: Random | None = None,
    on_fatal: Callable[[BaseException], None] | None = None,
    logs_events: bool = False,
    meter: Meter | None = None,
    announces: bool = False,
) -> AsyncIterator[App]:
    """Open the store and wire everything to it.

    Args:
        on_fatal: called when a sync failed and nobody knows what is on disk (F-IN-06).
        logs_events: write every committed event to the process log too (the daemons do).
        meter: what a daemon of several processes has made for all of them.
        announces: tell the broker, if there is one, of what is accepted here (the API does).

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
    meter = meter or build_meter(settings)

    def publish(events: Sequence[Event], has_new_work: bool) -> None:  # noqa: FBT001
        if has_new_work:
            bell.ring()
        if logs_events and events:
            log.write_events([event.shape() for event in events])
        for event in events:
            meter.add(metrics.EVENTS, event.type)

    def count_commit(units: int, sync_s: float) -> None:
        meter.observe(metrics.COMMIT_UNITS, units)
        meter.observe(metrics.COMMIT_SECONDS, sync_s)

    driver = SqliteDriver(
        path,
        busy_timeout_s=settings.store.busy_timeout.total_seconds(),
        publish=publish,
        on_fatal=on_fatal,
        on_commit=count_commit,
    )
    store = SqlStore(driver, rng=chance, grace_ms=to_ms(settings.lease.duration))
    routing = _build_routing(settings, frozenset(tables))
    is_storage_low = _build_storage_check(settings, clock)
    announcer = _build_announcer(settings, clock, chance) if announces else None
    unsubscribing = Unsubscribing(
        store,
        base=settings.api.public_url,
        clock=clock,
        make_secret=lambda: rng.randbytes(32),
    )
    renderer = build_renderer(settings)
    acceptance = Acceptance(
        store,
        _build_rules(settings, routing, _find_abilities(tables)),
        clock=clock,
        rng=chance,
        is_storage_low=is_storage_low,
        backlog=lambda: driver.backlog,
        unsubscribing=unsubscribing,
        templating=Templating(store, renderer),
        announcer=announcer,
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
            ingest=Ingest(store, acceptance, _build_ingest_rules(settings), clock=clock),
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
            meter=meter,
            renderer=renderer,
            announcer=announcer,
        )
    finally:
        await renderer.close()
        if announcer:
            await announcer.close()
        await store.close()
        bell.close()


def build_renderer(settings: Settings) -> Pool:
    """Return what renders templates; no process is started before there is work."""
    said = settings.templates
    return Pool(
        PoolLimits(
            workers=said.workers,
            cpu_ms=to_ms(said.cpu),
            deadline_s=said.deadline.total_seconds(),
            memory_bytes=said.memory_bytes,
            output=said.output,
        )
    )


def _build_embedded(app: App, eyes: Eyes, listener: Listener, _reporter: str) -> Queue:
    return EmbeddedQueue(bell=app.bell, listener=listener, look=eyes.look, clock=app.clock)


def _build_forestmq(app: App, eyes: Eyes, listener: Listener, reporter: str) -> Queue:
    wanted = app.settings.queue.forestmq
    return ForestMqQueue(
        Topics(wanted),
        connect=_connect_forestmq(wanted, app.clock, app.chance),
        listener=listener,
        eyes=eyes,
        ledger=app.store,
        high_water=wanted.high_water,
        fallback_after=wanted.fallback_after,
        clock=app.clock,
        rng=app.chance,
        reporter=reporter,
    )


# The kinds of queue: what a consumer takes from.
_QUEUES: Mapping[str, Callable[[App, Eyes, Listener, str], Queue]] = {
    "embedded": _build_embedded,
    "forestmq": _build_forestmq,
}


def _build_announcer(settings: Settings, clock: Clock, chance: Random) -> Announcer | None:
    """Build what tells the broker of accepted messages; None where there is no broker."""
    if settings.queue.kind != "forestmq":
        return None
    wanted = settings.queue.forestmq
    return Publisher(
        Topics(wanted),
        connect=_connect_forestmq(wanted, clock, chance, most_s=_RING_S),
        high_water=wanted.high_water,
        clock=clock,
        reporter=f"api {os.getpid()}",
    )


def _connect_forestmq(
    wanted: ForestMqQueueSettings, clock: Clock, chance: Random, *, most_s: float = math.inf
) -> Callable[[str], ForestMqClient]:
    timeout_s = min(wanted.timeout.total_seconds(), most_s)

    def connect(url: str) -> ForestMqClient:
        return ForestMqClient(
            url, clock=clock, rng=chance, timeout_s=timeout_s, host=wanted.host
        )

    return connect


def connect_jobs(
    settings: Settings, clock: Clock, chance: Random, url: str, *, timeout_s: float = _TAKE_S
) -> ForestMqClient:
    """Return a client of the ForestMQ at *url* that carries jobs; nothing is opened yet."""
    host = settings.ingest.forestmq.host
    return ForestMqClient(url, clock=clock, rng=chance, timeout_s=timeout_s, host=host)


def list_job_sources(settings: Settings) -> list[SourceStatus]:
    """Return every ForestMQ that carries jobs, with its topics."""
    topics: dict[str, tuple[str, ...]] = {}
    for topic, url in settings.ingest.forestmq.topics.items():
        topics[url] = (*topics.get(url, ()), topic)
    return [SourceStatus(url, names, use=Use.JOBS) for url, names in topics.items()]


async def check_brokers(settings: Settings) -> list[SourceStatus]:
    """Ask every ForestMQ how it is: those of the queue, and those that carry jobs."""
    clock, chance = SystemClock(), Random()  # noqa: S311  (jitter)
    asked: list[tuple[ForestMqClient, SourceStatus]] = []
    wanted = settings.queue.forestmq
    if settings.queue.kind == "forestmq":
        topics = Topics(wanted)
        connect = _connect_forestmq(wanted, clock, chance, most_s=_RING_S)
        asked += [
            (connect(url), SourceStatus(url, topics.list_at(url)))
            for url in dict.fromkeys(topics.urls.values())
        ]
    for status in list_job_sources(settings):
        client = connect_jobs(settings, clock, chance, status.url, timeout_s=_RING_S)
        asked.append((client, status))
    return await asyncio.gather(
        *(_check_broker(client, status, clock) for client, status in asked)
    )


async def _check_broker(
    client: ForestMqClient, status: SourceStatus, clock: Clock
) -> SourceStatus:
    try:
        status.length = (await client.load_health()).length
    except ForestMqError as error:
        status.trouble, status.detail = error.trouble, error.detail
        status.since_ms = clock.now_ms()
    finally:
        await client.close()
    return status


def parse_providers(settings: Settings) -> dict[str, tuple[registry.Kind, HopSettings]]:
    """Read every next hop's table, and add the sandbox of test tokens.

    Raises:
        ConfigurationError: names keys and places.
    """
    tables = registry.parse_tables(settings.providers, locate=lambda key: locate(settings, key))
    tables.setdefault(SANDBOX, (registry.KINDS[SANDBOX], SandboxSettings()))
    return tables


def build_meter(settings: Settings, *, rows: int = 1) -> Meter:
    """Build the figures of a daemon with so many processes; to be called before the fork."""
    return Meter({*settings.providers, SANDBOX}, rows=rows)


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
        doubtful_hops=frozenset(
            name
            for name in routing.names - {SANDBOX}
            if not is_resolved_within(abilities.get(name), _SOON_MS)
        ),
        abilities=abilities,
        max_backlog=settings.api.max_waiting,
    )


def _build_ingest_rules(settings: Settings) -> IngestRules:
    forestmq = settings.ingest.forestmq
    return IngestRules(
        keys={name: tuple(read_keys(name, text)) for name, text in forestmq.keys.items()},
        unsigned_from=forestmq.unsigned_from if forestmq.allow_unsigned else (),
        unsigned_per_minute=forestmq.unsigned_per_minute,
        max_age_ms=to_ms(forestmq.max_age),
    )


def read_keys(key_id: str, secrets: SecretStr) -> list[Key]:
    """Return the keys of a service: the first one signs, any of them verifies."""
    return [Key(key_id, secret) for secret in secrets.get_secret_value().split()]


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
