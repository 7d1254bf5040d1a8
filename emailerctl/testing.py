"""For the tests of those who send: a real API whose messages go nowhere, as pytest fixtures.

In `conftest.py`:

    pytest_plugins = ["emailerctl.testing"]

Then a test asks for `outbox`.  EMAILER_URL and EMAILER_TOKEN lead to the API, so that the code
under test is as it is in production; whatever would be refused there is refused here, with the
same words.  Nothing is delivered: accepted messages stay queued.
"""

import asyncio
import email
import email.policy
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import pytest

from daemons.api.main import serve_app
from daemons.run import listen
from emailerctl.client import Client
from emailerctl.core import tokens
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.page import PAGE_LIMIT, MessageFilter
from emailerctl.settings import load
from emailerctl.store.migrations import migrate
from emailerctl.wiring import App, open_app

Answer = TypeVar("Answer")

_WITHIN_S = 30.0
_SCOPES = ("send", "read", "read:all", "content", "operate")
_SETTINGS = """\
[store]
url = "sqlite:///{folder}/emailer.db"
[providers.nowhere]
kind = "sandbox"
[routing]
default = ["nowhere"]
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was accepted.

    Attributes:
        recipients: of the envelope: bcc too.
        message: what would have gone out, parsed.
    """

    id: str
    recipients: tuple[str, ...]
    message: EmailMessage
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] | None = None

    @property
    def subject(self) -> str:
        """The subject."""
        return str(self.message["Subject"] or "")

    @property
    def text(self) -> str:
        """The text; empty where there is none."""
        return self._find_body("plain")

    @property
    def html(self) -> str:
        """The HTML; empty where there is none."""
        return self._find_body("html")

    def _find_body(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        return "" if part is None else str(part.get_content())


class _Server:
    """An API over a throw-away store, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        file = self.file = folder / "emailer.toml"
        file.write_text(_SETTINGS.format(folder=folder), encoding="utf-8")
        self._settings = load(file, environ={})
        migrate(self._settings.store.path)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emailerctl", daemon=True)
        self._thread.start()
        if not self._ready.wait(_WITHIN_S) or self._failure:
            raise RuntimeError("the API of the tests did not start") from self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()
            raise

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        sockets = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        async with open_app(self._settings) as app, serve_app(app, sockets):
            self.app: App = app
            minted = await tokens.create(
                app.store, app.clock, SystemRandom(), name="tests", scopes=_SCOPES
            )
            self.token = minted.text
            self._ready.set()
            await self._stopping.wait()

    def work(self, task: Coroutine[Any, Any, Answer]) -> Answer:
        """Do something in the thread of the server."""
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(_WITHIN_S)

    def stop(self) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_WITHIN_S)


class Outbox:
    """What a test has sent.

    Attributes:
        url, token: of the API.
        client: for what a test wants to ask itself.
    """

    def __init__(self, server: _Server) -> None:
        """Begin with nothing; what was sent before is another test's."""
        self.url, self.token = server.url, server.token
        self.client = Client(self.url, self.token, trust_env=False)
        self._server = server
        self._before = frozenset(one.message_id for one in self._list())

    def _list(self) -> list[Any]:
        async def read() -> list[Any]:
            found: list[Any] = []
            cursor: str | None = None
            while True:
                page = await self._server.app.store.list_messages(
                    MessageFilter(),
                    cursor=cursor,
                    limit=PAGE_LIMIT,
                    now_ms=self._server.app.clock.now_ms(),
                )
                found += page.data
                cursor = page.next_cursor
                if cursor is None:
                    return found

        return self._server.work(read())

    @property
    def messages(self) -> list[Sent]:
        """What was accepted, oldest first."""
        sent = []
        for view in reversed(self._list()):
            if view.message_id in self._before:
                continue
            raw = self._server.work(self._server.app.store.load_raw(view.message_id)) or b""
            sent.append(
                Sent(
                    id=to_public(MESSAGE, view.message_id),
                    recipients=tuple(one.address for one in view.recipients),
                    message=email.message_from_bytes(raw, policy=email.policy.default),
                    tags=view.tags,
                    metadata=dict(view.metadata),
                )
            )
        return sent

    def __len__(self) -> int:
        """Return how many messages were accepted."""
        return len(self.messages)

    def __getitem__(self, index: int) -> Sent:
        """Return a message, the oldest first."""
        return self.messages[index]


@pytest.fixture(scope="session")
def emailer_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    """Run an API for all tests."""
    server = _Server(tmp_path_factory.mktemp("emailer"))
    yield server
    server.stop()


@pytest.fixture
def outbox(emailer_server: _Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """Lead what sends to the API of the tests, and keep what it sends."""
    monkeypatch.setenv("EMAILER_URL", emailer_server.url)
    monkeypatch.setenv("EMAILER_TOKEN", emailer_server.token)
    box = Outbox(emailer_server)
    yield box
    box.client.close()
