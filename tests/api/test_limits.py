"""Slow, huge and odd requests (T-12, T-13), and clients that vanish (F-IN-15)."""

import asyncio
import json
from typing import Any, ClassVar
from unittest.mock import patch

from daemons.api import exchange
from daemons.api.exchange import EARLY_BYTES
from emailerctl.models.message import NewMessage, Receipt
from tests.api.case import MESSAGE, ApiCase


class WireCase(ApiCase):
    """For what no client would send."""

    def head(self, *lines: str, method: str = "POST", token: str | None = None) -> bytes:
        whole = [
            f"{method} /v1/messages HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Authorization: Bearer {self.root if token is None else token}",
            *lines,
        ]
        return "\r\n".join([*whole, "", ""]).encode()

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, Any]:
        """Read one answer: its status and its JSON."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        status = int(head.split()[1])
        if status == 100:
            return status, None
        name = b"content-length: "
        at = head.lower().index(name) + len(name)
        body = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        return status, json.loads(body)

    async def is_closed(self, reader: asyncio.StreamReader) -> bool:
        try:
            return not await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return True

    async def count(self) -> int:
        return len((await self.call_async("GET", "/v1/messages")).json["data"])


class SizeTest(WireCase):
    overrides: ClassVar = {"api.body_limit_bytes": str(128 * 1024)}

    def test_declared_length_beyond_the_limit_is_413_before_it_is_sent(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {10**9}") + b"{")
                status, problem = await self.answer(reader)
                assert (status, problem["code"]) == (413, "payload_too_large")
                assert str(128 * 1024) in problem["detail"]

        self.run_script(script)

    def test_the_refusal_can_be_read_after_everything_was_sent(self) -> None:
        """A server that just closes resets the connection, and the answer is lost."""
        answer = self.call("POST", "/v1/messages", {**MESSAGE, "text": "x" * 2_000_000})

        self.assert_problem(answer, 413, "payload_too_large")

    def test_connection_serves_on_after_a_413(self) -> None:
        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (reader, writer):
                writer.write(self.head("Content-Length: 200000") + b" " * 200_000)
                assert (await self.answer(reader))[0] == 413
                writer.write(self.head(f"Content-Length: {len(body)}") + body)
                assert (await self.answer(reader))[0] == 202

        self.run_script(script)

    def test_chunks_are_counted_while_they_come(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(self.head("Transfer-Encoding: chunked"))
                for _ in range(5):
                    writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
                status, problem = await self.answer(reader)
                assert (status, problem["code"]) == (413, "payload_too_large")
            assert self.api.held_bytes == 0

        self.run_script(script)

    def test_endless_body_is_cut(self) -> None:
        async def script() -> None:
            drained = exchange._DRAINED_BYTES
            exchange._DRAINED_BYTES = 100_000
            try:
                async with self.connect() as (reader, writer):
                    writer.write(self.head(f"Content-Length: {10**9}"))
                    assert (await self.answer(reader))[0] == 413
                    writer.write(b"x" * 1_000_000)
                    assert await self.is_closed(reader)
            finally:
                exchange._DRAINED_BYTES = drained

        self.run_script(script)

    def test_who_asks_first_is_told_first(self) -> None:
        """`Expect: 100-continue`."""

        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {10**9}", "Expect: 100-continue"))
                assert (await self.answer(reader))[0] == 413
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
                assert (await self.answer(reader))[0] == 100
                writer.write(body)
                assert (await self.answer(reader))[0] == 202

        self.run_script(script)

    def test_long_body_without_a_good_token_is_not_kept(self) -> None:
        async def script() -> None:
            size = EARLY_BYTES + 1
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {size}", token="nonsense"))
                writer.write(b"x" * (size - 1))
                await self.until(lambda: bool(self.api.app.tokens._failures))
                assert self.api.held_bytes == 0
                writer.write(b"x")
                status, problem = await self.answer(reader)
                assert (status, problem["code"]) == (401, "unauthorized")

        self.run_script(script)

    def test_bodies_in_memory_are_bounded(self) -> None:
        """F-IN-16."""

        async def script() -> None:
            most = exchange.MOST_HELD_BYTES
            exchange.MOST_HELD_BYTES = 50_000
            try:
                async with self.connect() as (_reader, first), self.connect() as (reader, more):
                    first.write(self.head("Content-Length: 60000") + b"x" * 40_000)
                    await self.until(lambda: self.api.held_bytes == 40_000)
                    more.write(self.head("Content-Length: 60000") + b"x" * 40_000)
                    status, problem = await self.answer(reader)
                    assert (status, problem["code"]) == (503, "overloaded")
                await self.until(lambda: self.api.held_bytes == 0)
            finally:
                exchange.MOST_HELD_BYTES = most

        self.run_script(script)

    def test_chunked_message_is_accepted(self) -> None:
        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (reader, writer):
                writer.write(self.head("Transfer-Encoding: chunked"))
                for octet in body:
                    writer.write(b"1\r\n%c\r\n" % octet)
                writer.write(b"0\r\n\r\n")
                assert (await self.answer(reader))[0] == 202

        self.run_script(script)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            bad = b"{" + b" " * (len(body) - 1)
            head = self.head(f"Content-Length: {len(body)}")
            async with self.connect() as (reader, writer):
                writer.write(head + body + head + bad + head + body)
                assert [(await self.answer(reader))[0] for _ in range(3)] == [202, 400, 202]

        self.run_script(script)

    def test_framing_that_could_smuggle_is_refused(self) -> None:
        async def script() -> None:
            for lines in (
                ("Content-Length: 5", "Transfer-Encoding: chunked"),
                ("Content-Length: 5", "Content-Length: 6"),
                ("Content-Length: +5",),
                ("Content-Length: 5x",),
                ("Content-Length: " + "9" * 5000,),
                ("Transfer-Encoding: gzip, chunked",),
                ("Host: other",),
            ):
                async with self.connect() as (reader, writer):
                    writer.write(self.head(*lines) + b"0\r\n\r\n")
                    head = await asyncio.wait_for(reader.read(), 10)
                    assert head.startswith(b"HTTP/1.1 400 "), (lines, head)
            assert await self.count() == 0

        self.run_script(script)

    def test_close_and_old_clients(self) -> None:
        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            head = self.head(f"Content-Length: {len(body)}", "Connection: close")
            for version in (b"HTTP/1.1", b"HTTP/1.0"):
                async with self.connect() as (reader, writer):
                    writer.write(head.replace(b"HTTP/1.1", version) + body)
                    assert (await self.answer(reader))[0] == 202
                    assert await self.is_closed(reader)

        self.run_script(script)


class HeaderTest(WireCase):
    overrides: ClassVar = {"api.header_limit_bytes": "2048"}

    def test_head_beyond_the_limit_is_closed(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(self.head("X-Long: " + "x" * 4096))
                assert await self.is_closed(reader)
            assert await self.count() == 0

        self.run_script(script)

    def test_garbage_is_no_request(self) -> None:
        async def script() -> None:
            for octets in (
                b"\x16\x03\x01\x02\x00\r\n\r\n",
                b"GET\r\n\r\n",
                b"\r\n\r\n",
                b"a b c\r\n\r\n",
            ):
                async with self.connect() as (reader, writer):
                    writer.write(octets)
                    writer.write_eof()
                    head = await asyncio.wait_for(reader.read(), 10)
                    assert head == b"" or head.startswith(b"HTTP/1.1 400 "), head

        self.run_script(script)


class SlowTest(WireCase):
    overrides: ClassVar = {"api.header_timeout": "50ms", "api.body_timeout": "50ms"}

    def test_slow_head_is_closed(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: loc")
                assert await self.is_closed(reader)

        self.run_script(script)

    def test_slow_body_is_closed(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(self.head("Content-Length: 100") + b'{"from":')
                assert await self.is_closed(reader)
            async with self.connect() as (reader, writer):
                writer.write(self.head("Transfer-Encoding: chunked") + b"5\r\n{")
                assert await self.is_closed(reader)
            assert await self.count() == 0

        self.run_script(script)

    def test_slow_body_after_a_413_is_closed_as_well(self) -> None:
        async def script() -> None:
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {10**9}") + b"x")
                assert (await self.answer(reader))[0] == 413
                assert await self.is_closed(reader)

        self.run_script(script)

    def test_idle_connection_is_closed(self) -> None:
        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (reader, writer):
                writer.write(self.head(f"Content-Length: {len(body)}") + body)
                assert (await self.answer(reader))[0] == 202
                assert await self.is_closed(reader)

        self.run_script(script)


class ConnectionsTest(WireCase):
    overrides: ClassVar = {"api.max_connections": "2"}

    def test_connections_of_one_address_are_limited(self) -> None:
        """T-13."""

        async def script() -> None:
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            async with self.connect() as (reader, writer):
                async with self.connect() as (second, also):
                    for stream, to in ((reader, writer), (second, also)):
                        to.write(request)
                        assert (await self.answer(stream))[0] == 200
                    async with self.connect() as (third, _):
                        status, problem = await self.answer(third)
                        assert (status, problem["code"]) == (503, "overloaded")
                        assert await self.is_closed(third)
                await self.until(lambda: len(self.http_server._connections) == 1)  # type: ignore[attr-defined]
                async with self.connect() as (fourth, to):
                    to.write(request)
                    assert (await self.answer(fourth))[0] == 200

        self.run_script(script)


class VanishingTest(WireCase):
    def test_stored_if_the_request_was_whole(self) -> None:
        """F-IN-15: whether the client waits for the answer or not."""

        begun, gone = asyncio.Event(), asyncio.Event()
        add_now = self.app.store.add

        async def add(message: NewMessage, *, now_ms: int) -> Receipt:
            begun.set()
            await gone.wait()
            return await add_now(message, now_ms=now_ms)

        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (_reader, writer):
                writer.write(self.head(f"Content-Length: {len(body)}") + body)
                await asyncio.wait_for(begun.wait(), 5)
                writer.transport.abort()
            gone.set()
            await self.until(lambda: not self.api.running)
            assert await self.count() == 1

        with patch.object(self.app.store, "add", add):
            self.run_script(script)

    def test_not_stored_if_it_was_not(self) -> None:
        """F-IN-15."""

        async def script() -> None:
            body = json.dumps(MESSAGE).encode()
            async with self.connect() as (_reader, writer):
                writer.write(self.head(f"Content-Length: {len(body)}") + body[:-1])
                await self.until(lambda: self.api.held_bytes == len(body) - 1)
                writer.transport.abort()
            await self.until(lambda: self.api.held_bytes == 0)
            assert await self.count() == 0

        self.run_script(script)
