"""Public corpora of bad and strange input over `POST /v1/messages`: 2xx or 4xx, never 5xx."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests import corpora
from tests.api.case import MESSAGE, ApiCase


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer."""

    status: int
    json: Any


async def _read(reader: asyncio.StreamReader) -> Posted:
    head = await reader.readuntil(b"\r\n\r\n")
    name = b"content-length: "
    at = head.lower().index(name) + len(name)
    body = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
    return Posted(int(head.split()[1]), json.loads(body))


_CONNECTIONS = 8
_STALL_S = 5.0  # no answer takes so long, whatever was asked


class CorporaTest(ApiCase):
    def post_all(self, bodies: list[tuple[Any, bytes]]) -> list[tuple[Any, Posted]]:
        """Post every body, some at once, and check what holds for all answers."""
        answers: list[tuple[Any, Posted]] = []
        waiting = iter(bodies)

        async def post_some() -> None:
            async with self.connect() as (reader, writer):
                for name, octets in waiting:
                    writer.write(self._head(len(octets)) + octets)
                    answers.append((name, await asyncio.wait_for(_read(reader), _STALL_S)))

        async def script() -> None:
            await asyncio.gather(*(post_some() for _ in range(_CONNECTIONS)))

        self.io_loop.run_sync(script, timeout=100)
        assert len(answers) == len(bodies)
        for name, answer in answers:
            assert answer.status in (202, 400, 413, 422), (name, answer)
            assert answer.status == 202 or answer.json["detail"], (name, answer)
        return answers

    def _head(self, size: int) -> bytes:
        return (
            "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/json\r\n"
            f"Authorization: Bearer {self.root}\r\nContent-Length: {size}\r\n\r\n"
        ).encode()

    def test_json_that_is_none(self) -> None:
        """T-12."""
        answers = self.post_all(list(corpora.json_documents("n_")))

        assert len(answers) > 100
        for name, answer in answers:
            assert answer.status == 400, name
            assert answer.json["code"] == "malformed_json", name
            assert len(answer.json["detail"]) < 300, name

    def test_json_that_is_some_and_json_that_may_be(self) -> None:
        """T-12: valid JSON is never a message here, and what is unclear is refused or read."""
        answers = self.post_all([*corpora.json_documents("y_"), *corpora.json_documents("i_")])

        assert len(answers) > 100
        assert {answer.status for _name, answer in answers} == {400, 422}

    @pytest.mark.slow
    @pytest.mark.timeout(120)
    def test_naughty_strings_in_every_field(self) -> None:
        bodies = [
            (fields, json.dumps({**MESSAGE, **fields}).encode())
            for text in corpora.naughty_strings()
            for fields in (
                {
                    "subject": text,
                    "text": text,
                    "html": text,
                    "to": {"email": "a@b.de", "name": text},
                },
                {"from": text, "to": text, "tags": [text], "metadata": {"k": text}},
                {"headers": {"X-Naughty": text}, "metadata": {text: "v"}},
                {"headers": {text: "v"}, "provider": text, "on_unknown": text},
                {"attachments": [{"filename": text, "content": "eA==", "content_type": text}]},
                {text: text, "expires_at": text, "expires_in": text},
            )
        ]
        answers = self.post_all(bodies)
        accepted = sum(answer.status == 202 for _name, answer in answers)

        assert accepted > len(corpora.naughty_strings()) / 2
        assert accepted < len(answers)

    def test_addresses_of_the_isemail_suite(self) -> None:
        """T-08."""
        bodies = [
            (case, json.dumps({**MESSAGE, "to": case.address}).encode())
            for case in corpora.isemail()
        ]
        answers = self.post_all(bodies)

        for case, answer in answers:
            if case.category == "ISEMAIL_ERR":
                assert answer.status in (400, 422), case
                assert answer.status == 400 or answer.json["errors"][0]["pointer"] == "/to"

    @pytest.mark.slow
    @pytest.mark.timeout(120)
    def test_naughty_strings_in_paths_and_queries(self) -> None:
        """Reading is no different."""

        async def script() -> None:
            for text in corpora.naughty_strings():
                octets = "".join(f"%{octet:02X}" for octet in text.encode()[:300])
                for path in (
                    f"/v1/messages/{octets}",
                    f"/v1/messages?q={octets}&limit=1",
                    f"/v1/messages?cursor={octets}",
                    f"/v1/events?after={octets}",
                    f"/v1/suppressions?address={octets}",
                ):
                    answer = await self.call_async("GET", path)
                    assert answer.status in (200, 400, 404, 409), (text, answer.octets)

        self.io_loop.run_sync(script, timeout=60)
