"""A world for a story: a store, next hops with a journal, daemons, a client, an operator.

Everything is real: processes, signals, sockets, files.  What the next hops accepted is what
their journals say; what we believe is what the message log says; `check` compares the two.
"""

import itertools
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from emailerctl import wiring
from emailerctl.core import operate
from emailerctl.models.caller import build_local_caller
from emailerctl.models.clock import to_ms
from emailerctl.models.event import Event
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.models.message import MessageView, Receipt, RecipientView
from emailerctl.models.page import EventFilter, MessageFilter
from emailerctl.settings import load
from emailerctl.store import migrations, sqlite
from emailerctl.store.base import Pause, Suppression, Verb
from emailerctl.wiring import App
from tests.providers_server.fixture import ProviderServer
from tests.scenarios.processes import STARTED_WITHIN_S, Daemon, eventually
from tests.smtpd.fixture import SmtpServer

OPERATOR = build_local_caller("operator")
_MANY = 10_000
_NUMBERS = itertools.count(1)  # next hops outlive worlds: no two share an address

# Short, so that stories are; and long enough for a slow machine.
SETTINGS = """
[store]
url = "sqlite:///{folder}/emailer.db"
busy_timeout = "2s"
[consumer]
concurrency = 8
poll = "1s"
[lease]
duration = "2s"
[retry]
schedule = ["100ms"]
jitter = 0.0
[routing]
default = ["relay"]
"""
HOP = {"kind": "smtp", "host": "127.0.0.1", "tls": "none", "final_reply": "3s"}

# After these one more copy may go out.
_ALLOWS_ANOTHER = frozenset({Cause.RETRIED, Cause.RESENT, Cause.RESOLVED_NOT_SENT})
# Where a recipient of whom there is a copy may stand; sending: its consumer has just died.
_MAY_HAVE_A_COPY = frozenset({State.SENT, State.UNKNOWN, State.SENDING, State.DELIVERED})


def build_settings(folder: Path, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings as tables; *overrides* by dotted key, None removes one."""
    tables: dict[str, Any] = tomllib.loads(SETTINGS.format(folder=folder))
    for key, value in overrides.items():
        *path, last = key.split(".")
        table = tables
        for name in path:
            table = table.setdefault(name, {})
        table[last] = value
    return tables


def write_toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """Return *tables* as TOML: tables, strings, numbers, booleans and lists of strings."""
    lines = [
        f"{_write_value(key)} = {_write_value(value)}"
        for key, value in tables.items()
        if not isinstance(value, dict)
    ]
    for key, value in tables.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            lines += [f"[{name}]", write_toml(value, f"{name}.")]
    return "\n".join(lines)


def _write_key(key: str) -> str:
    return f'"{key}"' if "." in key else key


def _write_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_write_value, value))}]"
    return repr(value)


class World:
    """What a story happens in.

    Attributes:
        hops: the SMTP servers by the name of their next hop.
        app: the test's own view of the store; what it accepts is accepted in this process.
        providers: the servers of its next hops over HTTP.
    """

    def __init__(
        self,
        folder: Path,
        hops: Mapping[str, SmtpServer],
        overrides: Mapping[str, object],
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hops = dict(hops)
        self.overrides = dict(overrides)
        self.config = folder / "emailer.toml"
        self.app: App
        self.providers: list[ProviderServer] = []
        self.daemons: list[Daemon] = []
        self.configure()

    def configure(self, **overrides: object) -> None:
        """Write the settings file again: what starts from now on reads it."""
        self.overrides |= {key.replace("__", "."): value for key, value in overrides.items()}
        tables = build_settings(self.folder, self.overrides)
        hops = tables.setdefault("providers", {})
        for name, server in self.hops.items():
            hops[name] = {**HOP, "port": server.port, **hops.get(name, {})}
        self.config.write_text(write_toml(tables), encoding="utf-8")

    @property
    def relay(self) -> SmtpServer:
        """The next hop that everything goes to by default."""
        return self.hops["relay"]

    # the client

    def address(self, does: str = "ok") -> str:
        """Return an address that nobody else has; the server does what *does* says."""
        return f"{does}+{next(_NUMBERS)}@example.org"

    async def submit(self, *to: str, **fields: object) -> int:
        """Have a message accepted and return its id."""
        return (await self.accept(*to, **fields)).message_id

    async def accept(self, *to: str, key: str | None = None, **fields: object) -> Receipt:
        """Have a message accepted."""
        asked = {
            "from": "shop@example.com",
            "to": list(to),
            "subject": "a story",
            "text": "Once upon a time.\n",
            **fields,
        }
        return await self.app.acceptance.accept(asked, caller=OPERATOR, key=key)

    # the daemons

    async def start_consumer(self, **fate: object) -> Daemon:
        """Start a consumer and wait until it works; *fate* is as in `fates.py`."""
        daemon = self.spawn("tests.scenarios.consumer_process", **fate)
        await eventually(
            lambda: daemon.lines("consumer.started") or daemon.process.poll() is not None,
            within=STARTED_WITHIN_S,
            saying=daemon.tell,
        )
        return daemon

    def spawn(self, module: str, *arguments: str, **options: object) -> Daemon:
        """Start `python -m MODULE --config …`; options become flags."""
        flags = [
            part
            for name, value in options.items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        log = self.folder / f"{module.rpartition('.')[2]}-{len(self.daemons)}.log"
        daemon = Daemon(module, "--config", str(self.config), *flags, *arguments, log=log)
        self.daemons.append(daemon)
        return daemon

    # what is known

    async def load(self, message_id: int) -> MessageView:
        view = await self.app.store.find_message(message_id)
        assert view is not None, f"{to_public(MESSAGE, message_id)} is lost"
        return view

    async def recipient(self, message_id: int, n: int = 1) -> RecipientView:
        return (await self.load(message_id)).recipients[n - 1]

    async def until(
        self, message_id: int, *states: State, within: float = 15.0, n: int | None = None
    ) -> MessageView:
        """Wait until the message, or its recipient *n*, is in one of *states*."""

        async def is_there() -> MessageView | None:
            view = await self.load(message_id)
            state = view.state if n is None else view.recipients[n - 1].state
            return view if state in states else None

        try:
            view: MessageView = await eventually(is_there, within=within)
        except AssertionError:
            story = "\n".join(daemon.tell() for daemon in self.daemons)
            causes = await self.causes(message_id)
            raise AssertionError(
                f"not {' or '.join(states)} within {within} s: {causes}\n{story}"
            ) from None
        return view

    async def until_cause(self, message_id: int, cause: str, *, within: float = 15.0) -> Event:
        """Wait until the log has an event `recipient.CAUSE`, and return the last one."""

        async def find() -> Event | None:
            found = [e for e in await self.events(message_id) if e.type == f"recipient.{cause}"]
            return found[-1] if found else None

        event: Event = await eventually(find, within=within, saying=lambda: f"no {cause}")
        return event

    async def events(self, message_id: int | None = None) -> list[Event]:
        found: list[Event] = []
        while True:
            some = await self.app.store.list_events(
                EventFilter(message_id=message_id),
                after_seq=found[-1].seq if found else 0,
                limit=_MANY,
            )
            found += some
            if len(some) < _MANY:
                return found

    async def causes(self, message_id: int, address: str = "") -> list[str]:
        """Return what happened to its recipients, or to one of them, in order."""
        return [
            event.type.removeprefix("recipient.")
            for event in await self.events(message_id)
            if event.type.startswith("recipient.") and address in ("", event.recipient)
        ]

    def copies(self, recipient: str) -> int:
        """Return how many copies the next hops have taken: the truth."""
        return sum(server.copies(recipient) for server in self.hops.values())

    async def until_copies(self, recipient: str, count: int = 1) -> None:
        """Wait until the next hops have taken so many."""
        await eventually(
            lambda: self.copies(recipient) >= count,
            saying=lambda: f"{self.copies(recipient)} copies; {self.tell()}",
        )

    async def until_said(self, text: str) -> None:
        """Wait until a client has said so to the relay."""
        await eventually(
            lambda: any(text in line for line in self.relay.transcript()),
            saying=lambda: f"nobody said {text}; {self.tell()}",
        )

    async def until_dot(self, recipient: str) -> None:
        """Wait until the relay has the dot of a message to *recipient*."""
        await eventually(
            lambda: "and the dot" in " ".join(self._after_rcpt(recipient)),
            saying=lambda: f"no dot for {recipient}; {self.tell()}",
        )

    async def until_replied(self, recipient: str, reply: str) -> None:
        """Wait until the relay has said *reply* in a message to *recipient*."""
        await eventually(
            lambda: any(
                reply in line.partition(" < ")[2] for line in self._after_rcpt(recipient)
            ),
            saying=lambda: f"no {reply} for {recipient}; {self.tell()}",
        )

    async def until_lost_without_dot(self, recipient: str) -> None:
        """Wait until the relay lost a connection in the middle of a message to *recipient*."""

        def is_lost() -> bool:
            after = self._after_rcpt(recipient)
            return any(line.endswith("- lost") for line in after)

        await eventually(is_lost, saying=lambda: f"{recipient}; {self.tell()}")
        assert "and the dot" not in " ".join(self._after_rcpt(recipient))

    def _after_rcpt(self, recipient: str) -> list[str]:
        """Return what was said on the first connection that named *recipient*, since then."""
        said = self.relay.transcript()
        for at, line in enumerate(said):
            if f"RCPT TO:<{recipient}>" in line:
                number = line.split()[0]
                return [other for other in said[at:] if other.split()[0] == number]
        return []

    @contextmanager
    def hold_write_lock(self) -> Iterator[None]:
        """Be another process that writes to the store and takes its time."""
        connection = sqlite.connect(self.app.settings.store.path)
        deadline = time.monotonic() + 5
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite.sqlite3.OperationalError:
                assert time.monotonic() < deadline
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    def tell(self) -> str:
        return "\n".join(daemon.tell() for daemon in self.daemons)

    async def let_others_pass(self) -> None:
        """Wait until a message that was accepted after all others has gone out.

        What was due has then had its turn: a proof by events that nothing more happens to it.
        """
        latest = await self.submit(self.address("ok"))
        await self.until(latest, State.SENT)

    # the operator

    async def order(self, verb: Verb, message_id: int, **fields: object) -> None:
        """Carry out an operator's verb."""
        app = self.app
        public = to_public(MESSAGE, message_id)
        await operate.carry_out(app.store, app.clock, OPERATOR, verb, public, fields)

    async def suppress(self, address: str) -> None:
        """Put *address* on the suppression list."""
        await self.app.store.suppress(
            Suppression(
                address=address,
                service="",
                reason="manual",
                detail="",
                created_ms=self.app.clock.now_ms(),
                expires_ms=None,
                actor=OPERATOR.name,
            )
        )

    async def pause(self) -> None:
        """Pause the queue."""
        now_ms = self.app.clock.now_ms()
        pause = Pause(since_ms=now_ms, until_ms=None, actor=OPERATOR.name, reason="")
        await self.app.store.pause(pause)

    async def resume(self) -> None:
        """End the pause."""
        await self.app.store.resume(actor=OPERATOR.name, now_ms=self.app.clock.now_ms())

    async def cli(self, *arguments: str, stdin: Path | None = None) -> str:
        """Run `emailerctl ARGUMENTS` as an operator would, and return what it wrote."""
        command = self.spawn_program(*arguments, stdin=stdin)
        assert await command.until_dead() == 0, command.tell()
        return command.log.read_text(encoding="utf-8")

    def spawn_program(self, *arguments: str, stdin: Path | None = None) -> Daemon:
        """Start `emailerctl ARGUMENTS`: the program as it is installed, without a fate."""
        log = self.folder / f"{arguments[0]}-{len(self.daemons)}.log"
        config = str(self.config)
        program = Daemon("emailerctl", "--config", config, *arguments, log=log, stdin=stdin)
        self.daemons.append(program)
        return program

    @property
    def lease_ms(self) -> int:
        return to_ms(self.app.settings.lease.duration)

    async def pass_time(self, ms: int) -> None:
        """Wait until the boot clock, which leases go by, is so much later."""
        until_ms = self.app.clock.boot_ms() + ms
        await eventually(lambda: self.app.clock.boot_ms() >= until_ms, within=ms / 1000 + 5)

    # the end

    async def check(self) -> None:
        """Compare what we believe with what the next hops have."""
        assert await self.app.store.audit() == []
        truth: Counter[tuple[str, str]] = Counter()
        bytes_: dict[str, set[str]] = {}
        for server in self.hops.values():
            for copy in server.journal():
                truth[copy["message_id"], copy["recipient"]] += 1
                bytes_.setdefault(copy["message_id"], set()).add(copy["sha256"])
        for provider in self.providers:
            for copy in provider.journal():
                truth[f"<{copy['public_id']}@example.com>", copy["recipient"]] += 1
        causes: dict[tuple[int | None, str | None], list[str]] = {}
        for event in await self.events():
            told = causes.setdefault((event.message_id, event.recipient), [])
            told.append(event.type.removeprefix("recipient."))
        for view in await self.all_messages():
            public = to_public(MESSAGE, view.message_id)
            header = f"<{public}@example.com>"
            assert bytes_.get(header, set()) <= {view.content_hash.hex()}, public
            for recipient in view.recipients:
                copies = truth[header, recipient.address]
                self._compare(
                    view, recipient, copies, causes[view.message_id, recipient.address]
                )

    def _compare(
        self, view: MessageView, recipient: RecipientView, copies: int, causes: Sequence[str]
    ) -> None:
        story = f"{copies} copies for {recipient.address}, {recipient.state} after {causes}"
        assert copies <= 1 + sum(cause in _ALLOWS_ANOTHER for cause in causes), story
        if copies and view.on_unknown is OnUnknown.ASK and "operator" not in causes:
            # A copy that was taken may bounce later: then somebody has reported it.
            again = set(causes) & (_ALLOWS_ANOTHER | {Cause.BOUNCE_REPORTED})
            assert again or recipient.state in _MAY_HAVE_A_COPY, story
        if recipient.state is State.SENT and Cause.RESOLVED_SENT not in causes:
            assert copies, story

    async def all_messages(self) -> list[MessageView]:
        """Return every message of the store."""
        found: list[MessageView] = []
        cursor: str | None = None
        while True:
            page = await self.app.store.list_messages(MessageFilter(), cursor=cursor, limit=200)
            found += page.data
            cursor = page.next_cursor
            if cursor is None:
                return found

    def end(self) -> None:
        """End every process that this world has started, and no other."""
        for daemon in self.daemons:
            daemon.end()


@asynccontextmanager
async def create_world(
    folder: Path, hops: Mapping[str, SmtpServer], overrides: Mapping[str, object]
) -> AsyncIterator[World]:
    """Create a store and open it; end everything afterwards."""
    world = World(folder, hops, overrides)
    settings = load(world.config, environ={})
    migrations.migrate(settings.store.path)
    async with wiring.open_app(settings, announces=True) as app:
        world.app = app
        try:
            yield world
        finally:
            world.end()
