"""A message log and everything at hand to work with it: what store tests are written with."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from emailerctl.models.event import Event
from emailerctl.models.ids import build_message_id
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import (
    MessageView,
    NewMessage,
    NewRecipient,
    Priority,
    Receipt,
    RecipientKind,
)
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.models.page import EventFilter
from emailerctl.store import migrations
from emailerctl.store.base import (
    AttemptResult,
    Breach,
    Claim,
    Consumer,
    Order,
    OrderResult,
    Resolution,
    Settlement,
    Verb,
)
from emailerctl.store.sqlite import SqliteDriver, sqlite3
from emailerctl.store.sqlstore import SqlStore
from tests.fakes import FakeClock

BOOT = "this-boot"
FINAL_REPLY_MS = 600_000
GRACE_MS = 60_000
OPEN_MS = FINAL_REPLY_MS + GRACE_MS  # how long an answer may come after a mark
LEASE_MS = 60_000
MAX_AGE_MS = 3 * 86_400_000
RETRY_MS = 10_000

ACCEPTED = Outcome(kind=Kind.ACCEPTED, code=250, reply="250 2.0.0 ok")
SILENCE = Outcome(kind=Kind.UNKNOWN, party=Party.NEXT_HOP, reply="no answer")
GREYLISTED = Outcome(
    kind=Kind.TRANSIENT,
    party=Party.RECIPIENT,
    phase=Phase.ENVELOPE,
    code=450,
    reply="450 later",
)
NO_SUCH_USER = Outcome(
    kind=Kind.PERMANENT,
    party=Party.RECIPIENT,
    phase=Phase.ENVELOPE,
    code=550,
    enhanced_status="5.1.1",
    reply="550 5.1.1 no such user",
)
NOT_WANTED = Outcome(kind=Kind.PERMANENT, code=554, reply="554 not wanted")

SETTLEMENTS: Mapping[Cause, Settlement] = {
    Cause.HANDED_OVER: Settlement(cause=Cause.HANDED_OVER, outcome=ACCEPTED),
    Cause.UNANSWERED: Settlement(cause=Cause.UNANSWERED, outcome=SILENCE),
    Cause.DEFERRED: Settlement(cause=Cause.DEFERRED, outcome=GREYLISTED),
    Cause.REFUSED: Settlement(cause=Cause.REFUSED, outcome=NO_SUCH_USER),
    Cause.ABANDONED: Settlement(
        cause=Cause.ABANDONED, outcome=NOT_WANTED, reason=Reason.REJECTED
    ),
}


class Desk:
    """One store, seen through one driver, and a clock."""

    def __init__(self, store: SqlStore, path: Path, clock: FakeClock, rng: Random) -> None:
        self.store = store
        self.path = path
        self.clock = clock
        self.rng = rng

    @property
    def driver(self) -> SqliteDriver:
        driver = self.store.driver
        assert isinstance(driver, SqliteDriver)
        return driver

    # acceptance

    def build(self, *addresses: str, **fields: Any) -> NewMessage:
        """Return a message; *fields* replace what it would be otherwise."""
        now_ms = self.clock.now_ms()
        raw = fields.pop("raw", b"From: shop@example.com\r\n\r\nHello.\r\n")
        recipients = tuple(
            NewRecipient(address, RecipientKind.TO)
            for address in addresses or ("ann@example.org",)
        )
        due_ms = fields.pop("due_ms", now_ms)
        built: dict[str, Any] = {
            "message_id": build_message_id(now_ms, self.rng),
            "service": "shop",
            "token_id": 0,
            "token_epoch": 0,
            "created_ms": now_ms,
            "due_ms": due_ms,
            "waiting_for": WaitingFor.READY if due_ms <= now_ms else WaitingFor.SEND_AT,
            "expires_ms": None,
            "priority": Priority.NORMAL,
            "on_unknown": OnUnknown.ASK,
            "provider": "",
            "next_hop": "relay",
            "is_test": False,
            "envelope_sender": "shop@example.com",
            "header_from": "shop@example.com",
            "subject": "Your order",
            "tags": (),
            "metadata": {},
            "recipients": recipients,
            "raw": raw,
            "content_hash": sha256(raw).digest(),
        }
        return NewMessage(**(built | fields))

    async def receive(self, *addresses: str, **fields: Any) -> Receipt:
        """Have a message stored."""
        return await self.store.add(
            self.build(*addresses, **fields), now_ms=self.clock.now_ms()
        )

    async def add(self, *addresses: str, **fields: Any) -> int:
        """Have a message stored and return its id."""
        return (await self.receive(*addresses, **fields)).message_id

    # delivery

    async def register(self, consumer_id: int = 1, *, boot_id: str = BOOT) -> int:
        """Enter a consumer."""
        await self.store.register(
            Consumer(
                consumer_id=consumer_id,
                host="host",
                pid=1,
                boot_id=boot_id,
                version="0",
                started_ms=self.clock.now_ms(),
                heartbeat_ms=self.clock.now_ms(),
                lease_until_ms=self.clock.boot_ms() + LEASE_MS,
            )
        )
        return consumer_id

    async def find_claims(self, *message_ids: int, consumer_id: int = 1) -> list[Claim]:
        return await self.store.claim(
            message_ids, consumer_id=consumer_id, now_ms=self.clock.now_ms()
        )

    async def claim(self, message_id: int, consumer_id: int = 1) -> Claim:
        """Claim a message that is due and free."""
        (claim,) = await self.find_claims(message_id, consumer_id=consumer_id)
        return claim

    async def mark(
        self,
        claim: Claim,
        accepted: Collection[int] | None = None,
        *,
        provider: str = "relay",
        may_expire: bool = True,
    ) -> bool:
        everyone = [recipient.n for recipient in claim.recipients]
        return await self.store.mark(
            claim,
            everyone if accepted is None else accepted,
            provider=provider,
            now_ms=self.clock.now_ms(),
            boot_ms=self.clock.boot_ms(),
            final_reply_ms=FINAL_REPLY_MS,
            may_expire=may_expire,
        )

    async def start(
        self, message_id: int, accepted: Collection[int] | None = None, consumer_id: int = 1
    ) -> Claim:
        """Bring a message past its mark."""
        claim = await self.claim(message_id, consumer_id)
        assert await self.mark(claim, accepted)
        return claim

    def decide(
        self,
        claim: Claim,
        causes: Cause | Mapping[int, Cause],
        *,
        marked: Collection[int] | None = None,
        **fields: Any,
    ) -> AttemptResult:
        """Return a result: one cause for all, or one for each recipient.

        Unless said otherwise, those are marked whose outcome came after the mark.
        """
        if isinstance(causes, Cause):
            causes = {recipient.n: causes for recipient in claim.recipients}
        settlements = {n: SETTLEMENTS[cause] for n, cause in causes.items()}
        if marked is None:
            past = (Cause.HANDED_OVER, Cause.UNANSWERED)
            marked = [n for n, cause in causes.items() if cause in past]
        built: dict[str, Any] = {
            "settlements": settlements,
            "provider": "relay",
            "phase": Phase.ANSWER,
            "started_ms": self.clock.now_ms(),
            "marked": frozenset(marked),
            "dialogue": "> EHLO",
            "due_ms": self.clock.now_ms() + RETRY_MS,
            "waiting_for": WaitingFor.RETRY,
            "next_hop": "relay",
            "chain_index": 0,
            "schedule_step": claim.schedule_step + 1,
        }
        return AttemptResult(**(built | fields))

    async def settle(
        self, claim: Claim, causes: Cause | Mapping[int, Cause], **fields: Any
    ) -> bool:
        return await self.store.settle(
            claim, self.decide(claim, causes, **fields), now_ms=self.clock.now_ms()
        )

    async def testify(
        self, claim: Claim, causes: Cause | Mapping[int, Cause], **fields: Any
    ) -> None:
        """Write a late answer; everybody of the attempt was marked unless said otherwise."""
        fields.setdefault("marked", [recipient.n for recipient in claim.recipients])
        await self.store.testify(
            claim, self.decide(claim, causes, **fields), now_ms=self.clock.now_ms()
        )

    async def deliver(self, message_id: int, cause: Cause = Cause.HANDED_OVER) -> Claim:
        """Attempt a message once, past the mark; *cause* is what came of it."""
        claim = await self.start(message_id)
        marked = [recipient.n for recipient in claim.recipients]
        assert await self.settle(claim, cause, marked=marked)
        return claim

    async def void(
        self, consumer_id: int = 1, *, is_dead: bool = True, is_lapsed: bool = True
    ) -> int:
        return await self.store.void(
            consumer_id,
            is_dead=is_dead,
            is_lapsed=is_lapsed,
            now_ms=self.clock.now_ms(),
            boot_ms=self.clock.boot_ms(),
            resend_after_ms=FINAL_REPLY_MS,
        )

    async def sweep(self, *, hops: Sequence[str] | None = None, may_expire: bool = True) -> int:
        return await self.store.sweep(
            hops=hops,
            now_ms=self.clock.now_ms(),
            max_age_ms=MAX_AGE_MS,
            may_expire=may_expire,
        )

    # operators

    async def order(
        self,
        verb: Verb,
        message_id: int,
        resolution: Resolution | None = None,
        **fields: Any,
    ) -> OrderResult:
        order = Order(
            verb=verb, message_id=message_id, actor="eve", resolution=resolution, **fields
        )
        return await self.store.order(order, now_ms=self.clock.now_ms())

    async def bring(self, message_id: int, state: State) -> None:
        """Bring the only recipient of a new message into *state*; consumer 1 is registered."""
        if state is State.HELD:
            await self.order(Verb.HOLD, message_id)
        elif state is State.CANCELLED:
            await self.order(Verb.CANCEL, message_id)
        elif state is State.SENDING:
            await self.start(message_id)
        elif state is State.DELIVERED:
            await self.deliver(message_id)
            await self.report(message_id, Cause.DELIVERY_REPORTED)
        elif state is not State.QUEUED:
            await self.deliver(
                message_id,
                {
                    State.SENT: Cause.HANDED_OVER,
                    State.UNKNOWN: Cause.UNANSWERED,
                    State.BOUNCED: Cause.REFUSED,
                    State.FAILED: Cause.ABANDONED,
                }[state],
            )
        assert await self.state(message_id) is state

    async def report(
        self, message_id: int, cause: Cause, n: int = 1, attempt: int = 1
    ) -> State | None:
        return await self.store.report(
            message_id, n, cause, attempt=attempt, now_ms=self.clock.now_ms(), provider="relay"
        )

    # what is known

    async def load(self, message_id: int) -> MessageView:
        view = await self.store.find_message(message_id)
        assert view is not None
        return view

    async def state(self, message_id: int, n: int = 1) -> State:
        return (await self.load(message_id)).recipients[n - 1].state

    async def states(self, message_id: int) -> list[State]:
        return [recipient.state for recipient in (await self.load(message_id)).recipients]

    async def events(self, message_id: int | None = None, after_seq: int = 0) -> list[Event]:
        filter_ = EventFilter(message_id=message_id)
        return await self.store.list_events(filter_, after_seq=after_seq, limit=100_000)

    async def causes(self, message_id: int, n: int = 1) -> list[str]:
        """Return what happened to a recipient, without `recipient.`."""
        view = await self.load(message_id)
        address = view.recipients[n - 1].address
        return [
            event.type.removeprefix("recipient.")
            for event in await self.events(message_id)
            if event.recipient == address
        ]

    async def due(self, *, is_idle: bool = False, **rooms: int) -> tuple[int, ...]:
        """Return what a consumer with these rooms would be given."""
        due = await self.store.find_due(
            rooms or {"relay": 100, "": 100}, now_ms=self.clock.now_ms(), is_idle=is_idle
        )
        return due.message_ids

    async def audit(self) -> list[Breach]:
        return await self.store.audit()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read with a connection of one's own, as another process would."""
        with connect(self.path) as connection:
            return list(connection.execute(statement, parameters))

    def change(self, statement: str, *parameters: object) -> None:
        """Write behind the store's back."""
        with connect(self.path) as connection:
            connection.execute(statement, parameters)


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait until *condition* holds; another thread or process brings it about."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        await asyncio.sleep(0.001)


class connect:  # noqa: N801  (a context manager, used like a function)
    """A plain connection to a store's file, closed at the end."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10)

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *_error: object) -> None:
        self._connection.close()


class Stores:
    """Empty stores of one driver: made once, copied for each test."""

    def __init__(self, folder: Path) -> None:
        self._model = folder / "empty.db"
        migrations.migrate(self._model)

    def create(self, path: Path) -> Path:
        """Put an empty store at *path*."""
        shutil.copyfile(self._model, path)
        return path


@asynccontextmanager
async def open_desk(
    path: Path, clock: FakeClock, rng: Random, **options: Any
) -> AsyncIterator[Desk]:
    """Open the store at *path* through a driver of its own."""
    store = SqlStore(SqliteDriver(path, **options), rng=rng, grace_ms=GRACE_MS)
    try:
        yield Desk(store, path, clock, rng)
    finally:
        await store.close()


def numbers(claim: Claim) -> Iterator[int]:
    """Yield the numbers of a claim's recipients."""
    return (recipient.n for recipient in claim.recipients)
