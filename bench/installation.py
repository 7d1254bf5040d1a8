"""One installation of the product: a store, its settings, a token, and its two daemons.

All of it is made and run by the command line, as an operator would.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import load, processes
from bench.processes import Child
from bench.syncs import SyncBook, Syncs
from emailerctl.store import sqlite

# Retention is long, so that a store that was built some time ago is measured, not cleaned.
_SETTINGS = """
[store]
url = "sqlite:///{store}"
[api]
port = {api_port}
[routing]
default = ["relay"]
[providers.relay]
kind = "smtp"
host = "127.0.0.1"
port = {sink_port}
tls = "none"
[retention]
content = "3650d"
messages = "3650d"
events = "3650d"
"""
_FORESTMQ = """
[queue]
kind = "forestmq"
[queue.forestmq.topics]
"email.send" = "{url}"
"""
_WARM_UP = 200


@dataclass(frozen=True)
class Accepted:
    """One measurement of acceptance, by the product or by what it is compared with.

    Attributes:
        begun_s: when the first request was sent, in seconds since 1970.
        cpu_us: processor time of the server for each request.
        client_cpu_us: of the load generator: what must be far below.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    seconds: float
    begun_s: float
    cpu_us: float
    client_cpu_us: float
    syncs: Syncs | None = None
    requests: int = 0

    @property
    def group_size(self) -> float:
        """Return how many requests shared a sync (checkpoints sync too)."""
        return self.requests / self.syncs.count if self.syncs and self.syncs.count else 0.0

    @property
    def sync_ms(self) -> float:
        """Return how long one sync took."""
        return (
            self.syncs.seconds / self.syncs.count * 1000
            if self.syncs and self.syncs.count
            else 0.0
        )


def measure_acceptance(
    server: Child,
    port: int,
    token: str,
    *,
    count: int,
    connections: int,
    book: SyncBook | None = None,
    has_template: bool = False,
) -> Accepted:
    """Send *count* requests to *server* and return what came of it."""
    cpu_s = server.cpu_s
    syncs = book.read() if book else None
    warm_up = max(min(_WARM_UP, count // 4), connections)
    figures = load.post(
        port,
        token,
        count=count,
        connections=connections,
        warm_up=warm_up,
        has_template=has_template,
    )
    requests = figures["requests"]
    return Accepted(
        rate=figures["count"] / figures["seconds"],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        seconds=figures["seconds"],
        begun_s=figures["begun_s"],
        cpu_us=(server.cpu_s - cpu_s) / requests * 1e6,
        client_cpu_us=figures["cpu_us"],
        syncs=book.read().since(syncs) if book and syncs else None,
        requests=requests,
    )


@dataclass(frozen=True)
class Delivered:
    """One measurement of delivery, by the product's own log."""

    rate: float
    cpu_us: float


class Installation:
    """A store in a folder of its own, and what is run on it."""

    def __init__(self, folder: Path, *, sink_port: int = 9, forestmq_url: str = "") -> None:
        """Write the settings; `create` or `adopt` makes the store."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = folder / "emailer.db"
        self.port = processes.find_free_port()
        self.token = ""
        self._config = folder / "emailer.toml"
        self._runs = 0
        self._config.write_text(
            _SETTINGS.format(store=self.store, api_port=self.port, sink_port=sink_port)
            + (_FORESTMQ.format(url=forestmq_url) if forestmq_url else "")
        )

    def command(self, *arguments: object) -> list[str]:
        """Return the command line of the product for this installation."""
        return processes.python("emailerctl", "--config", self._config, *arguments)

    def create(self) -> "Installation":
        """Make the store and a token."""
        processes.run(self.command("store", "migrate"))
        return self._make_token()

    def adopt(self, store: Path) -> "Installation":
        """Take a copy of a store that nobody has open, and make a token."""
        shutil.copyfile(store, self.store)
        self.store.chmod(0o600)
        return self._make_token()

    def _make_token(self) -> "Installation":
        made = processes.run(
            self.command(
                *("tokens", "create", f"bench-{self.port}", "--service", "bench"),
                *("--scope", "send", "-o", "json"),
            )
        )
        self.token = json.loads(made)["token"]
        return self

    def _start(self, *arguments: object, book: SyncBook | None) -> Child:
        self._runs += 1
        return processes.start(
            str(arguments[0]),
            self.command(*arguments),
            log=self.folder / f"{arguments[0]}-{self._runs}.log",
            environment=book.environment if book else {},
        )

    def start_api(self, *, book: SyncBook | None = None) -> Child:
        """Start the API daemon with one process, its log on a file."""
        return self._start("serve", "--workers", 1, book=book).until_listening(self.port)

    def start_consumer(self, *, concurrency: int = 16, book: SyncBook | None = None) -> Child:
        """Start one consumer process, its log on a file."""
        child = self._start("consume", "--workers", 1, "--concurrency", concurrency, book=book)
        return child.until_said("consumer.started")

    def accept(
        self, api: Child, *, count: int, connections: int, book: SyncBook | None = None
    ) -> Accepted:
        """Have *count* messages accepted."""
        return measure_acceptance(
            api, self.port, self.token, count=count, connections=connections, book=book
        )

    def deliver(self, *, concurrency: int = 16) -> Delivered:
        """Start a consumer, let it deliver everything that is due, and stop it.

        The time is that from the first mark to the last hand-over; the processor time has
        the start of the program taken off, as it was when it began to claim.
        """
        with self.reading() as db:
            before = _one(db, "SELECT coalesce(max(seq), 0) FROM events")
            with self.start_consumer(concurrency=concurrency) as consumer:
                cpu_s = consumer.cpu_s
                self.until_delivered(db, consumer)
                cpu_s = consumer.cpu_s - cpu_s
            count, first_ms, last_ms = db.execute(
                """SELECT count(*) FILTER (WHERE type = 'recipient.handed_over'),
                          min(at) FILTER (WHERE type = 'recipient.marked'),
                          max(at) FILTER (WHERE type = 'recipient.handed_over')
                     FROM events WHERE seq > ?""",
                (before,),
            ).fetchone()
        if not count:
            raise processes.BenchError(f"nothing was delivered\n{consumer.tell()}")
        return Delivered(count / max(last_ms - first_ms, 1) * 1000, cpu_s / count * 1e6)

    def until_delivered(self, db: Any, consumer: Child) -> None:
        """Wait until nothing is left to do."""
        consumer.until(
            lambda: not _one(db, "SELECT EXISTS (SELECT 1 FROM work)"),
            within_s=600,
            what="the last delivery",
        )

    def find_last_hand_over_ms(self, db: Any) -> int:
        """Return when the last message was handed over."""
        # The newest events are enough: one of them is the last hand-over.
        found: int = _one(
            db,
            """SELECT max(at) FROM (SELECT at, type FROM events ORDER BY seq DESC LIMIT 1000)
                WHERE type = 'recipient.handed_over'""",
        )
        return found

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Open the store to look at it."""
        connection = sqlite.connect(self.store, is_reader=True)
        try:
            yield connection
        finally:
            connection.close()

    def audit(self) -> None:
        """Check the invariants.

        Raises:
            BenchError: one does not hold.
        """
        processes.run(self.command("store", "audit"))

    def settle_files(self) -> Path:
        """Bring everything from the log into the store's one file, and return that."""
        connection = sqlite.connect(self.store)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        return self.store


def _one(db: Any, query: str) -> Any:
    return db.execute(query).fetchone()[0]
