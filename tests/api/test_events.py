"""`/v1/events` and its stream: by sequence number, without gap or repeat."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from daemons.api import feed
from emailerctl.core import tokens
from tests.api.case import ApiCase


class Stream:
    """A follower's end of a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._left = b""

    async def start(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)

    async def next_block(self) -> str | None:
        """Return the next block (between blank lines), or None at the end."""
        while b"\n\n" not in self._left:
            size = int((await self.reader.readline()).strip() or b"0", 16)
            if size == 0:
                return None
            self._left += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        block, _, self._left = self._left.partition(b"\n\n")
        return block.decode()

    async def next_event(self) -> dict[str, Any]:
        while True:
            block = await asyncio.wait_for(self.next_block(), 10)
            assert block is not None, "the stream ended"
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            if "data" in lines:
                event: dict[str, Any] = json.loads(lines["data"])
                assert int(lines["id"]) == event["seq"]
                return event

    async def wait_for_end(self) -> None:
        while await asyncio.wait_for(self.next_block(), 10) is not None:
            pass


class EventsTest(ApiCase):
    def test_pages_by_sequence_number(self) -> None:
        for _ in range(4):
            self.accept()
        seen: list[dict[str, Any]] = []
        after: str | None = "0"
        while after is not None:
            page = self.call("GET", f"/v1/events?limit=3&after={after}").json
            seen += page["data"]
            after = page["next_cursor"]

        assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
        assert [event["type"] for event in seen] == [
            "message.accepted",
            "recipient.accepted",
        ] * 4
        assert set(seen[1]) == {
            "seq", "type", "at", "message_id", "recipient", "from", "to", "attempt",
            "provider", "service", "reply", "data",
        }  # fmt: skip

    def test_a_service_sees_its_own(self) -> None:
        web, app = self.make_token("web"), self.make_token("app")
        own = self.accept(web)
        self.accept(app)
        page = self.call("GET", "/v1/events", token=web).json

        assert {event["message_id"] for event in page["data"]} == {own}
        foreign = self.call("GET", "/v1/events?service=app", token=web)
        self.assert_problem(foreign, 400, "bad_request")

    def test_others_events_do_not_hide_where_to_go_on(self) -> None:
        """A page may be empty and still have a successor."""
        web, app = self.make_token("web"), self.make_token("app")
        for _ in range(3):
            self.accept(app)
        own = self.accept(web)
        batch, examined = feed._BATCH, feed._EXAMINED
        feed._BATCH, feed._EXAMINED = 2, 4
        try:
            first = self.call("GET", "/v1/events", token=web).json
            rest = self.call("GET", f"/v1/events?after={first['next_cursor']}", token=web).json
        finally:
            feed._BATCH, feed._EXAMINED = batch, examined

        assert first == {"data": [], "next_cursor": "4"}
        assert {event["message_id"] for event in rest["data"]} == {own}

    def test_bad_parameters(self) -> None:
        for query in ("after=-1", "after=x", "after=99999999999999999999", "limit=500", "x=1"):
            answer = self.call("GET", f"/v1/events?{query}")
            self.assert_problem(answer, 400, "bad_request")

    def test_reading_needs_its_scope(self) -> None:
        sender = self.make_token("sender", "send")

        for path in ("/v1/events", "/v1/events/stream"):
            self.assert_problem(self.call("GET", path, token=sender), 403, "forbidden")


class OriginsTest(ApiCase):
    overrides: ClassVar = {"api.cors_origins": "https://ops.example.org"}

    def test_named_origin_may_read(self) -> None:
        origin = {"Origin": "https://ops.example.org"}
        for token, status in ((None, 200), ("nonsense", 401)):
            answer = self.call("GET", "/v1/events", token=token, headers=origin)
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
            assert answer.headers["Vary"] == "Origin"
        for path in ("/v1/events", "/v1/events/stream"):
            asked = self.call("OPTIONS", path, token="", headers=origin)
            assert asked.status == 204
            assert asked.headers["Access-Control-Allow-Methods"] == "GET"
            assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]

    def test_others_may_not(self) -> None:
        for origin in ("https://evil.example", "null", "https://ops.example.org.evil.example"):
            headers = {"Origin": origin}
            for method in ("GET", "OPTIONS"):
                answer = self.call(method, "/v1/events", headers=headers)
                assert "Access-Control-Allow-Origin" not in answer.headers
        named = {"Origin": "https://ops.example.org"}
        answer = self.call("GET", "/v1/messages", headers=named)
        assert "Access-Control-Allow-Origin" not in answer.headers


class StreamTest(ApiCase):
    @asynccontextmanager
    async def follow(
        self, path: str = "", *, token: str | None = None, last: int | None = None
    ) -> AsyncIterator[Stream]:
        last_id = "" if last is None else f"Last-Event-ID: {last}\r\n"
        async with self.connect() as (reader, writer):
            writer.write(
                f"GET /v1/events/stream{path} HTTP/1.1\r\nHost: localhost\r\n{last_id}"
                f"Authorization: Bearer {token or self.root}\r\n\r\n".encode()
            )
            stream = Stream(reader, writer)
            await stream.start()
            yield stream

    async def accept_async(self, token: str | None = None) -> str:
        answer = await self.call_async(
            "POST",
            "/v1/messages",
            {"from": "a@example.org", "to": "b@example.org", "text": "x"},
            token=token,
        )
        return str(answer.json["id"])

    def test_head_of_the_stream(self) -> None:
        async def script() -> None:
            async with self.follow() as stream:
                assert stream.status == 200
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert stream.headers["x-accel-buffering"] == "no"
                assert stream.headers["cache-control"] == "no-store"
                assert stream.headers["x-request-id"]
                assert await stream.next_block() == "retry: 2000"

        self.run_script(script)

    def test_new_events_come_as_they_are_committed(self) -> None:
        async def script() -> None:
            await self.accept_async()
            async with self.follow() as stream:
                public = await self.accept_async()
                loop = asyncio.get_running_loop()
                began = loop.time()
                event = await stream.next_event()

                assert event["message_id"] == public
                assert event["type"] == "message.accepted"
                assert (await stream.next_event())["type"] == "recipient.accepted"
                assert loop.time() - began < 1

        self.run_script(script)

    def test_resumed_without_gap_or_repeat(self) -> None:
        async def script() -> None:
            for _ in range(3):
                await self.accept_async()
            seen = []
            position = 0
            for _ in range(6):
                async with self.follow(last=position) as stream:
                    seen += [(await stream.next_event())["seq"] for _ in range(2)]
                    position = seen[-1]
                await self.accept_async()

            assert seen == list(range(1, 13))

        self.run_script(script)

    def test_header_goes_before_the_parameter(self) -> None:
        async def script() -> None:
            await self.accept_async()
            async with self.follow("?after=0", last=1) as stream:
                assert (await stream.next_event())["seq"] == 2
            async with self.follow("?after=0") as stream:
                assert (await stream.next_event())["seq"] == 1

        self.run_script(script)

    def test_far_behind_comes_from_the_store_in_order(self) -> None:
        """Further back than what the feed keeps, with new ones coming meanwhile."""

        async def script() -> None:
            recent, batch = feed._RECENT, feed._BATCH
            feed._RECENT, feed._BATCH = 4, 3
            try:
                for _ in range(10):
                    await self.accept_async()
                async with self.follow(last=20) as quick, self.follow("?after=0") as slow:
                    for _ in range(5):
                        await self.accept_async()
                    seen = [(await slow.next_event())["seq"] for _ in range(30)]
                    new = [(await quick.next_event())["seq"] for _ in range(10)]
            finally:
                feed._RECENT, feed._BATCH = recent, batch

            assert seen == list(range(1, 31))
            assert new == list(range(21, 31))

        self.run_script(script)

    def test_what_retention_removed_is_a_gap(self) -> None:
        async def script() -> None:
            for _ in range(3):
                await self.accept_async()
            self.clock.advance(h=24)
            await self.accept_async()
            removed = await self.app.store.retain(
                content_ms=1, messages_ms=1, events_ms=3_600_000, limit=100,
                now_ms=self.clock.now_ms(),
            )  # fmt: skip
            assert removed
            async with self.follow("?after=1") as stream:
                gap = await stream.next_event()
                following = await stream.next_event()

            assert gap["type"] == "gap"
            assert gap["data"] == {"from_seq": 2, "to_seq": gap["seq"]}
            assert following["seq"] == gap["seq"] + 1

        self.run_script(script)

    def test_quiet_stream_shows_signs_of_life(self) -> None:
        async def script() -> None:
            self.api.heartbeat_s = 0.02
            async with self.follow() as stream:
                assert await stream.next_block() == "retry: 2000"
                assert await asyncio.wait_for(stream.next_block(), 10) == ": alive"
                assert await asyncio.wait_for(stream.next_block(), 10) == ": alive"

        self.run_script(script)

    def test_a_service_follows_its_own(self) -> None:
        web = self.make_token("web")

        async def script() -> None:
            async with self.follow(token=web) as stream:
                await self.accept_async()
                own = await self.accept_async(web)
                assert (await stream.next_event())["message_id"] == own

        self.run_script(script)

    def test_revocation_ends_the_stream(self) -> None:
        """F-IN-14."""
        web = self.make_token("web")

        async def script() -> None:
            async with self.follow(token=web) as ended, self.follow() as other:
                await tokens.revoke(self.app.store, self.clock, "web")
                self.clock.advance(ms=tokens.EPOCH_EVERY_MS)
                loop = asyncio.get_running_loop()
                began = loop.time()
                await ended.wait_for_end()
                assert loop.time() - began < 1
                await self.accept_async()
                assert await other.next_event()

        self.run_script(script)

    def test_expiry_ends_the_stream(self) -> None:
        web = self.make_token("web", expires_ms=self.clock.now_ms() + 1000)

        async def script() -> None:
            async with self.follow(token=web) as ended:
                self.clock.advance(s=1)
                await ended.wait_for_end()

        self.run_script(script)

    def test_who_leaves_is_forgotten(self) -> None:
        async def script() -> None:
            async with self.follow(), self.follow():
                assert len(self.api.feed._followers) == 2
            await self.until(lambda: not self.api.feed._followers)
            await self.until(lambda: not self.api.running)

        self.run_script(script)

    def test_stop_ends_the_streams(self) -> None:
        async def script() -> None:
            async with self.follow() as stream:
                await self.http_server.drain(5)  # type: ignore[attr-defined]
                await stream.wait_for_end()

        self.run_script(script)

    def test_position_of_another_store_is_refused(self) -> None:
        for headers in ({"Last-Event-ID": "5"}, {"Last-Event-ID": "x"}):
            answer = self.call("GET", "/v1/events/stream", headers=headers)
            self.assert_problem(answer, 400, "bad_request")
        answer = self.call("GET", "/v1/events/stream?after=1")
        self.assert_problem(answer, 400, "bad_request")

    def test_one_reader_for_all_followers(self) -> None:
        """The log is read once for all, however many follow."""
        reads = 0
        list_events = self.app.store.list_events

        async def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += 1
            return await list_events(*args, **kwargs)

        async def script() -> None:
            async with self.follow() as one, self.follow() as two, self.follow() as three:
                self.app.store.list_events = count  # type: ignore[method-assign]
                looks = self.api.feed.looks
                await self.accept_async()
                for stream in (one, two, three):
                    assert await stream.next_event()
                assert reads == self.api.feed.looks - looks

        self.run_script(script)
