"""Public corpora of bad and strange input over `POST /v1/messages`: 2xx or 4xx, never 5xx."""

import asyncio
import json
import time
from typing import Any

from tests import corpora
from tests.api.case import MESSAGE, Answer, ApiCase

_AT_ONCE = 20
_STALL_S = 2.0  # no single request may keep the loop from the others for so long


class CorporaTest(ApiCase):
    def post_all(self, bodies: list[tuple[Any, bytes]]) -> list[tuple[Any, Answer]]:
        """Post every body, some at once, and check what holds for all answers."""

        async def post(octets: bytes) -> Answer:
            return await self.call_async("POST", "/v1/messages", octets=octets)

        async def script() -> list[tuple[Any, Answer]]:
            answers: list[tuple[Any, Answer]] = []
            for at in range(0, len(bodies), _AT_ONCE):
                some = bodies[at : at + _AT_ONCE]
                began = time.monotonic()
                got = await asyncio.gather(*(post(octets) for _name, octets in some))
                assert time.monotonic() - began < _STALL_S, [name for name, _octets in some]
                answers += zip((name for name, _octets in some), got, strict=True)
            return answers

        answers: list[tuple[Any, Answer]] = self.io_loop.run_sync(script, timeout=60)
        for name, answer in answers:
            assert answer.status in (202, 400, 413, 422), (name, answer.status, answer.octets)
            if answer.status != 202:
                assert answer.headers["Content-Type"] == "application/problem+json", name
                assert answer.json["detail"], name
        return answers

    def test_json_that_is_none(self) -> None:
        """T-12."""
        answers = self.post_all(list(corpora.json_documents("n_")))

        assert len(answers) > 100
        for name, answer in answers:
            self.assert_problem(answer, 400, "malformed_json")
            assert len(answer.json["detail"]) < 300, name

    def test_json_that_is_some_and_json_that_may_be(self) -> None:
        """T-12: valid JSON is never a message here, and what is unclear is refused or read."""
        answers = self.post_all([*corpora.json_documents("y_"), *corpora.json_documents("i_")])

        assert len(answers) > 100
        assert {answer.status for _name, answer in answers} == {400, 422}

    def test_naughty_strings_in_every_field(self) -> None:
        bodies = []
        for text in corpora.naughty_strings():
            for fields in (
                {"subject": text, "text": text, "html": text},
                {"from": text},
                {"to": {"email": "ann@example.net", "name": text}},
                {"to": text, "tags": [text], "metadata": {"k": text}},
                {"headers": {"X-Naughty": text}, "metadata": {text: "v"}},
                {"headers": {text: "v"}, "provider": text, "on_unknown": text},
                {"attachments": [{"filename": text, "content": "eA==", "content_type": text}]},
                {text: text, "expires_at": text, "expires_in": text},
            ):
                bodies.append((fields, json.dumps({**MESSAGE, **fields}).encode()))
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
                assert answer.status == 422, case
                assert set(answer.pointers) == {"/to"}, case

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
