"""One answer, written two ways: in one piece by us, and by Tornado for special clients."""

import asyncio
import json
from http import HTTPStatus
from unittest.mock import patch

from daemons.api.handlers.base import Handler
from daemons.api.handlers.messages import Messages
from emailerctl.errors import NotFound
from tests.api.case import MESSAGE, ApiCase

# What is asked (method and path), with which body, and which status that has.
ASKED: tuple[tuple[str, bytes, int], ...] = (
    ("POST /v1/messages", b'{"to": 1}', 422),
    ("POST /v1/messages", b"{", 400),
    ("POST /v1/messages?token=", b"{}", 401),
    ("DELETE /v1/messages", b"", 405),
    ("GET /v1/messages", b"", 200),
    ("GET /v1/messages?limit=x", b"", 400),
    ("GET /v1/messages/msg_0000000000001", b"", 404),
    ("GET /v1/events?after=0&limit=1", b"", 200),
    ("GET /nothing", b"", 404),
    ("BREW /v1/messages", b"", 405),
    ("POST /v1/suppressions", b'{"address": "bob@example.net", "reason": "manual"}', 201),
)


class AnswerTest(ApiCase):
    async def ask(
        self, asked: str, body: bytes, *, version: str = "1.1", connection: str = "keep-alive"
    ) -> tuple[bytes, dict[str, str], bytes]:
        """Return the status line, the headers and the body of the answer."""
        token = "" if "token=" in asked else self.root
        lines = (
            f"{asked.replace('?token=', '')} HTTP/{version}",
            "Host: localhost",
            "X-Request-Id: ours",
            "Origin: https://example.org",
            f"Authorization: Bearer {token}",
            "Content-Type: application/json",
            f"Connection: {connection}",
            f"Content-Length: {len(body)}",
            "",
            "",
        )
        async with self.connect() as (reader, writer):
            writer.write("\r\n".join(lines).encode() + body)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            status, *fields = head.decode().split("\r\n")[:-2]
            headers = {
                name.title(): value for name, _, value in (f.partition(": ") for f in fields)
            }
            assert len(headers) == len(fields), "a header appears twice"
            length = 0 if asked.startswith("HEAD") else int(headers["Content-Length"])
            return status.encode(), headers, await reader.readexactly(length)

    def test_both_ways_say_the_same(self) -> None:
        async def script() -> None:
            for asked, body, status in ASKED:
                line, headers, octets = await self.ask(asked, body)
                assert line.split()[1] == b"%d" % status, (asked, line, octets)
                assert headers.pop("Date")
                for version, connection, said in (
                    ("1.1", "close", "close"),
                    ("1.0", "keep-alive", "Keep-Alive"),
                ):
                    other = await self.ask(asked, body, version=version, connection=connection)
                    assert other[1].pop("Date")
                    assert other[1].pop("Connection") == said
                    moved = _without_moment(other[2])
                    assert (other[0], other[1], moved) == (
                        line,
                        headers,
                        _without_moment(octets),
                    ), asked

        self.run_script(script)

    def test_head_has_the_headers_of_get_and_no_body(self) -> None:
        async def script() -> None:
            for path in ("/v1/messages", "/v1/messages/msg_1", "/nothing", "/healthz"):
                _line, shown, octets = await self.ask(f"GET {path}", b"")
                _line, headers, nothing = await self.ask(f"HEAD {path}", b"")
                assert octets
                assert nothing == b""
                assert {**headers, "Date": ""} == {**shown, "Date": ""}

        self.run_script(script)

    def test_a_bug_is_a_500_that_the_log_explains(self) -> None:
        async def fail(_handler: Messages) -> None:
            raise ZeroDivisionError

        with (
            patch.object(Messages, "post", fail),
            self.expect_log("request ours to Messages failed"),
        ):
            answer = self.call(
                "POST", "/v1/messages", MESSAGE, headers={"X-Request-Id": "ours"}
            )

        self.assert_problem(answer, 500, "error")
        assert not self.api.running
        assert self.api.held_bytes == 0

    def test_an_error_after_the_answer_has_begun_ends_it(self) -> None:
        async def begin(handler: Handler) -> None:
            await handler._write_headers(HTTPStatus.OK, {}, b"half")
            raise NotFound("too late to say so")

        with patch.object(Messages, "get", begin):
            answer = self.wait(
                self.http_client.fetch(
                    self.get_url("/v1/messages"),
                    headers={"Authorization": f"Bearer {self.root}"},
                )
            )

        assert (answer.code, answer.body) == (200, b"half")
        assert not self.api.running

    def test_a_cancelled_request_is_answered_and_is_cancelled(self) -> None:
        begun = asyncio.Event()

        async def wait(_handler: Messages) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def script() -> None:
            asking = asyncio.ensure_future(self.call_async("POST", "/v1/messages", MESSAGE))
            await asyncio.wait_for(begun.wait(), 5)
            (task,) = self.api.running
            task.cancel()
            answer = await asking
            self.assert_problem(answer, 500, "error")
            assert task.cancelled()
            assert not self.api.running

        with patch.object(Messages, "post", wait):
            self.run_script(script)


def _without_moment(octets: bytes) -> object:
    """Return the JSON without what the clock or the log's growth changes."""
    decoded = json.loads(octets)
    if isinstance(decoded, dict):
        decoded.pop("created_at", None)
    return decoded
