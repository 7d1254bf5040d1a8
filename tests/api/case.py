"""What the tests of the API share: a server over a throw-away store, in this process."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import AsyncHTTPTestCase, ExpectLog

from daemons.api.app import Api
from daemons.api.server import Server
from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.models.caller import Scope
from emailerctl.store import migrations
from tests.conftest import build_settings
from tests.fakes import FakeClock

MESSAGE: Mapping[str, object] = {
    "from": "Shop <shop@example.org>",
    "to": "ann@example.net",
    "subject": "Hello",
    "text": "Hello Ann",
}
ALL_SCOPES = tuple(Scope)


class Answer:
    """An answer, decoded."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.code
        self.headers = response.headers
        self.octets = response.body or b""
        self.json: Any = json.loads(self.octets) if self.octets else None

    @property
    def pointers(self) -> list[str]:
        return [error.get("pointer", error.get("parameter")) for error in self.json["errors"]]


class ApiCase(AsyncHTTPTestCase):
    """A server, a client, and a token that may do everything."""

    overrides: ClassVar[Mapping[str, str]] = {}

    def get_app(self) -> Api:  # type: ignore[override]
        self.folder = Path(tempfile.mkdtemp(prefix="api-"))
        self.clock = FakeClock()
        self.rng = Random(1)
        settings = build_settings(self.folder, **self.overrides)
        migrations.migrate(settings.store.path)
        self._stack = AsyncExitStack()
        self.fatal: list[BaseException] = []
        opened = wiring.open_app(
            settings, clock=self.clock, rng=self.rng, on_fatal=self.fatal.append
        )
        self.app = self.wait(self._stack.enter_async_context(opened))
        self.api = Api(self.app)
        self.root = self.make_token("root", *ALL_SCOPES)
        loop = self.io_loop.asyncio_loop  # type: ignore[attr-defined]
        self._feeding = loop.create_task(self.api.feed.run())
        return self.api

    def get_http_server(self) -> HTTPServer:
        return Server(self.api)

    def get_http_client(self) -> AsyncHTTPClient:
        return AsyncHTTPClient(force_instance=True, max_clients=100)

    def tearDown(self) -> None:
        self.wait(self.http_server.drain(5))  # type: ignore[attr-defined]
        self._feeding.cancel()
        self.wait(self._stack.aclose())
        super().tearDown()
        shutil.rmtree(self.folder)

    def wait(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return self.io_loop.run_sync(run, timeout=10)

    def make_token(self, name: str, *scopes: str, **more: Any) -> str:
        minted = self.wait(
            tokens.create(
                self.app.store,
                self.clock,
                self.rng,
                name=name,
                scopes=scopes or ("send", "read"),
                **more,
            )
        )
        return str(minted.text)

    async def call_async(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        octets: bytes | None = None,
    ) -> Answer:
        """Ask the server; *token* "" sends none, None sends the one that may do everything."""
        sent = dict(headers or {})
        if token != "":
            sent.setdefault("Authorization", f"Bearer {self.root if token is None else token}")
        if body is not None:
            octets = json.dumps(body).encode()
        if octets is not None:
            sent.setdefault("Content-Type", "application/json")
        response = await self.http_client.fetch(
            self.get_url(path),
            method=method,
            body=octets,
            headers=sent,
            raise_error=False,
            allow_nonstandard_methods=True,
            follow_redirects=False,
        )
        return Answer(response)

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.wait(self.call_async(method, path, body, **more))  # type: ignore[no-any-return]

    def send(
        self, token: str | None = None, key: str | None = None, **fields: object
    ) -> Answer:
        """Post a message that is right but for *fields*; None leaves one out."""
        body = {n: v for n, v in {**MESSAGE, **fields}.items() if v is not None}
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.call("POST", "/v1/messages", body, token=token, headers=headers)

    def accept(self, token: str | None = None, **fields: object) -> str:
        """Post a message that is accepted, and return its id."""
        answer = self.send(token, **fields)
        assert answer.status == 202, answer.octets
        return str(answer.json["id"])

    def assert_problem(self, answer: Answer, status: int, code: str) -> None:
        """Check that *answer* is a problem document of that kind, in every part (RFC 9457)."""
        assert answer.status == status, (answer.status, answer.octets)
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json
        assert problem["code"] == code, problem
        assert problem["status"] == status
        assert problem["type"].endswith(code)
        assert problem["title"]
        assert problem["detail"]
        assert problem["request_id"] == answer.headers["X-Request-Id"]

    def run_script(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a test's own coroutine."""
        self.io_loop.run_sync(work, timeout=15)

    def expect_log(self, pattern: str) -> ExpectLog:
        """Expect an error in the log, which would fail the test otherwise."""
        return ExpectLog("daemons.api.handlers.base", pattern)

    async def until(self, holds: Callable[[], bool], *, within_s: float = 5) -> None:
        """Let others work until *holds*."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not holds():
            assert loop.time() < deadline, "it did not come to pass"
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a connection, for what no client would send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
