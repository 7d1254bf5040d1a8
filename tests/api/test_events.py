"""`/v1/events` and its stream: by sequence number, without gap or repeat."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from daemons.api import feed
from emailerctl.core import eventlog, tokens
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
        batch, examined = eventlog.CHUNK, eventlog.EXAMINED
        eventlog.CHUNK, eventlog.EXAMINED = 2, 4
        try:
            first = self.call("GET", "/v1/events", token=web).json
            rest = self.call("GET", f"/v1/events?after={first['next_cursor']}", token=web).json
        finally:
            eventlog.CHUNK, eventlog.EXAMINED = batch, examined

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

    def test_narrowed_by_what_the_sender_said_and_by_what_happened(self) -> None:
        first = self.accept(to=["ann@example.net", "bob@example.net"], tags=["invoice"])
        second = self.accept(to="bob@example.net")

        def read(query: str) -> list[tuple[str, str | None]]:
            data = self.call("GET", f"/v1/events?{query}").json["data"]
            return [(event["message_id"], event["recipient"]) for event in data]

        ann, bob = "ann@example.net", "bob@example.net"
        assert read("tag=invoice") == [(first, None), (first, ann), (first, bob)]
        assert read("recipient=BOB@example.net") == [(first, bob), (second, bob)]
        assert read(f"message={second}") == [(second, None), (second, bob)]
        assert read("state=queued&tag=invoice") == [(first, ann), (first, bob)]
        assert read("state=sent") == read("provider=relay") == read("tag=other") == []
        assert read("since=2000-01-01T00:00:00Z&limit=1") == [(first, None)]
        assert read("since=2100-01-01T00:00:00Z") == []

    def test_the_end_of_the_log_and_where_it_stands(self) -> None:
        self.accept()
        last = self.accept()
        page = self.call("GET", "/v1/events?last=1").json
        nothing = self.call("GET", "/v1/events?last=0").json

        assert [event["message_id"] for event in page["data"]] == [last]
        assert page["next_cursor"] == "4"
        assert nothing == {"data": [], "next_cursor": "4"}


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
        bearer = "" if token == "" else f"Authorization: Bearer {token or self.root}\r\n"
        async with self.connect() as (reader, writer):
            writer.write(
                f"GET /v1/events/stream{path} HTTP/1.1\r\nHost: localhost\r\n{last_id}"
                f"{bearer}\r\n".encode()
            )
            stream = Stream(reader, writer)
            await stream.start()
            yield stream

    async def accept_async(self, token: str | None = None, **fields: object) -> str:
        answer = await self.call_async(
            "POST",
            "/v1/messages",
            {"from": "a@example.org", "to": "b@example.org", "text": "x", **fields},
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
        """And where it stands: who waits for rare events comes back to there."""

        async def script() -> None:
            self.api.heartbeat_s = 0.02
            async with self.follow("?tag=rare") as stream:
                assert await stream.next_block() == "retry: 2000"
                assert await asyncio.wait_for(stream.next_block(), 10) == ": alive\nid: 0"
                await self.accept_async()
                block = ""
                while block != ": alive\nid: 2":
                    block = str(await asyncio.wait_for(stream.next_block(), 10))
                    assert block.startswith(": alive")

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

    def test_followers_get_what_they_asked_for(self) -> None:
        """Now from what the feed keeps, and later from the store: the same."""

        async def script() -> None:
            first = await self.accept_async(tags=["invoice"])
            asked = {
                "?after=0&tag=invoice": [(1, 1), (2, 1), (5, 3), (6, 3)],
                f"?after=0&message={first}": [(1, 1), (2, 1)],
                "?after=0&recipient=c@example.org": [(4, 2), (6, 3)],
                "?after=0&state=queued": [(2, 1), (4, 2), (6, 3)],
            }
            for n in range(2):
                if n:
                    assert not self.api.feed.followers
                for query, wanted in asked.items():
                    async with self.follow(query) as stream:
                        if self.sent < 3:
                            await self.accept_async(to="c@example.org")
                            await self.accept_async(to="c@example.org", tags=["invoice"])
                            self.sent = 3
                        seqs = [(await stream.next_event())["seq"] for _ in wanted]
                    assert seqs == [seq for seq, _ in wanted]
                    await self.until(lambda: not self.api.feed.followers)

        self.sent = 1
        self.run_script(script)

    def hold(self, query: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Keep the follower with *query* from taking; return what says so, and what ends it."""
        is_held, is_free = asyncio.Event(), asyncio.Event()
        taking = self.api.feed.take

        async def take(follower: feed.Follower, *, within_s: float) -> bytes:
            if is_held.is_set() and bool(follower.most_behind) is ("max_behind" in query):
                await is_free.wait()
            return await taking(follower, within_s=within_s)

        self.api.feed.take = take  # type: ignore[method-assign]
        return is_held, is_free

    def test_a_slow_follower_may_miss_some_and_is_told(self) -> None:
        """Behind further than it wants to be, it gets a gap and goes on with what is new."""

        async def script() -> None:
            is_held, is_free = self.hold("?max_behind=4")
            is_held.set()
            async with self.follow("?max_behind=4") as stream, self.follow() as other:
                for _ in range(6):
                    await self.accept_async()
                while (await other.next_event())["seq"] < 12:
                    pass
                is_free.set()
                gap = await stream.next_event()
                await self.accept_async()
                after = [(await stream.next_event())["seq"] for _ in range(2)]

            assert gap["type"] == "gap"
            assert gap["data"] == {"from_seq": 1, "to_seq": 12, "reason": "behind"}
            assert gap["seq"] == 12
            assert after == [13, 14]

        self.run_script(script)

    def test_a_slow_follower_misses_nothing_that_is_still_there(self) -> None:
        """Nobody queues for it: it comes back to the store, and to a gap where that has one."""

        async def script() -> None:
            chunks, feed._RECENT_CHUNKS = feed._RECENT_CHUNKS, 1
            try:
                is_held, is_free = self.hold("")
                async with (
                    self.follow("?after=0") as stream,
                    self.follow("?max_behind=999") as on,
                ):
                    await self.accept_async()
                    seen = [(await stream.next_event())["seq"] for _ in range(2)]
                    is_held.set()
                    await self.accept_async()  # perhaps taken before it is held
                    for _ in range(3):
                        self.clock.advance(h=24)
                        await self.accept_async()
                        while (await on.next_event())["type"] != "recipient.accepted":
                            pass
                    while (await on.next_event())["seq"] < 10:
                        pass
                    await self.app.store.retain(
                        content_ms=1, messages_ms=1, events_ms=3_600_000, limit=100,
                        now_ms=self.clock.now_ms(),
                    )  # fmt: skip
                    is_free.set()
                    while seen[-1] < 10:
                        event = await stream.next_event()
                        if event["type"] == "gap":
                            assert event["data"]["from_seq"] == seen[-1] + 1
                            assert event["data"]["to_seq"] == event["seq"] == 8
                            seen += range(seen[-1] + 1, 9)
                        else:
                            seen.append(event["seq"])
            finally:
                feed._RECENT_CHUNKS = chunks

            assert seen == list(range(1, 11))

        self.run_script(script)

    def make_ticket(self, token: str | None = None, **wanted: str) -> str:
        answer = self.call("POST", "/v1/events/tickets", wanted, token=token)
        assert answer.status == 201, answer.octets
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json["url"] == f"/v1/events/stream?ticket={answer.json['ticket']}"
        return str(answer.json["ticket"])

    def test_a_ticket_is_good_for_one_stream(self) -> None:
        """T-01: without a token, as whom it was made for; twice is once too often."""
        web, app = self.make_token("web"), self.make_token("app")
        ticket = self.make_ticket(web)

        async def script() -> None:
            async with self.follow(f"?ticket={ticket}", token="") as stream:
                assert stream.status == 200
                await self.accept_async(app)
                own = await self.accept_async(web)
                assert (await stream.next_event())["message_id"] == own
            async with self.follow(f"?ticket={ticket}", token="") as again:
                assert again.status == 401

        self.run_script(script)

    def test_a_ticket_shows_no_more_than_it_was_made_for(self) -> None:
        """T-02."""
        own = self.accept(tags=["a"])
        ticket, other = self.make_ticket(message=own), self.make_ticket(tag="a")
        refused = self.call("GET", f"/v1/events/stream?ticket={other}&tag=b", token="")
        self.assert_problem(refused, 400, "bad_request")

        async def script() -> None:
            async with self.follow(f"?ticket={ticket}&after=0", token="") as stream:
                await self.accept_async()
                await self.call_async("POST", f"/v1/messages/{own}/cancel")
                seen = [await stream.next_event() for _ in range(4)]
            assert {event["message_id"] for event in seen} == {own}

        self.run_script(script)

    def test_a_ticket_ends(self) -> None:
        """T-01, T-03: after a minute, and with its token; made-up ones get the same answer."""
        web = self.make_token("web")
        late, orphaned = self.make_ticket(web), self.make_ticket(web)
        self.clock.advance(s=60)
        fresh = self.make_ticket(web)
        answer = self.call("GET", f"/v1/events/stream?ticket={late}", token="")
        self.assert_problem(answer, 401, "unauthorized")
        self.wait(tokens.revoke(self.app.store, self.clock, "web"))
        for text in (orphaned, fresh, "emt_" + "x" * 43, "x", web):
            answer = self.call("GET", f"/v1/events/stream?ticket={text}", token="")
            self.assert_problem(answer, 401, "unauthorized")
        sender = self.make_token("sender", "send")
        answer = self.call("POST", "/v1/events/tickets", token=sender)
        self.assert_problem(answer, 403, "forbidden")
        answer = self.call("POST", "/v1/events/tickets", {"tag": 1, "colour": "red"})
        self.assert_problem(answer, 422, "invalid")
        assert sorted(answer.pointers) == ["/colour", "/tag"]

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
