"""The store is busy, full, slow or broken: nobody is told that something is stored (F-IN)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pysqlite3

from tests.api.case import MESSAGE, Answer, ApiCase
from tests.api.serving import BrokenDisk


class TroubleCase(ApiCase):
    overrides: ClassVar = {"store.busy_timeout": "50ms", "api.max_waiting": "3"}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's write lock, as another process may."""
        other = pysqlite3.connect(self.app.settings.store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    def send_at_once(self, bodies: list[Any]) -> list[Answer]:
        async def script() -> list[Answer]:
            calls = [self.call_async("POST", "/v1/messages", body) for body in bodies]
            return await asyncio.gather(*calls)

        return self.wait(script())  # type: ignore[no-any-return]

    def count(self) -> int:
        return len(self.call("GET", "/v1/messages").json["data"])


class BusyTest(TroubleCase):
    def test_busy_beyond_its_time_out_is_503(self) -> None:
        """F-IN-07."""
        with self.locked():
            answer = self.send(key="k")
        self.assert_problem(answer, 503, "store_busy")
        assert int(answer.headers["Retry-After"]) > 0
        assert self.count() == 0
        assert self.send(key="k").headers.get("Idempotent-Replayed") is None

    def test_readers_do_not_mind(self) -> None:
        public = self.accept()
        with self.locked():
            assert self.call("GET", f"/v1/messages/{public}").status == 200
            assert self.call("GET", "/readyz").status == 200

    def test_overload_is_refused_early(self) -> None:
        """F-IN-16: what waits for a commit is bounded, and who comes later need not wait."""
        with self.locked():
            answers = self.send_at_once([MESSAGE] * 20)
        codes = [answer.json["code"] for answer in answers]

        assert {answer.status for answer in answers} == {503}
        assert codes.count("overloaded") >= 10
        assert "store_busy" in codes
        for answer in answers:
            assert int(answer.headers["Retry-After"]) > 0
        assert self.count() == 0


class GroupCase(TroubleCase):
    overrides: ClassVar = {"api.max_waiting": "100"}

    def send_in_one_group(self, senders: list[str | None]) -> list[Answer]:
        """Send while another process holds the lock, so that all wait for the same commit."""

        add = self.app.store.add
        waiting = 0

        async def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal waiting
            waiting += 1
            return await add(*args, **kwargs)

        async def script() -> list[Answer]:
            calls = [
                self.call_async("POST", "/v1/messages", MESSAGE, token=token)
                for token in senders
            ]
            return await asyncio.gather(*calls)

        self.app.store.add = count  # type: ignore[method-assign]
        with self.locked():
            task = self.io_loop.asyncio_loop.create_task(script())  # type: ignore[attr-defined]
            self.wait(self.until(lambda: waiting == len(senders)))
        return self.wait(task)  # type: ignore[no-any-return]


class GroupTest(GroupCase):
    def test_a_bad_one_does_not_take_the_others_with_it(self) -> None:
        """F-IN-04: refused inside the commit, among others that are accepted by it."""
        form = self.make_token("form", "send", limits={"recipient_rate": "1/1h"})
        answers = self.send_in_one_group([None, form] * 10)

        assert [answer.status for answer in answers[::2]] == [202] * 10
        assert sorted(answer.status for answer in answers[1::2]) == [202] + [429] * 9
        assert self.count() == 11


class FullTest(TroubleCase):
    def test_full_disk_acknowledges_nothing(self) -> None:
        """F-IN-05."""
        writer = self.app.driver._connection
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count={pages + 5}")
        body = {**MESSAGE, "text": "x" * 100_000}
        answers = self.send_at_once([body] * 3)

        for answer in answers:
            self.assert_problem(answer, 503, "storage_full")
            assert int(answer.headers["Retry-After"]) > 0
        assert self.count() == 0
        writer.execute(f"PRAGMA max_page_count={pages + 10_000}")
        assert self.call("POST", "/v1/messages", body).status == 202


class BrokenTest(GroupCase):
    def test_every_waiter_is_told_that_nobody_knows(self) -> None:
        """F-IN-06: with its id and place; then the process must end."""
        driver = self.app.driver
        driver._connection = BrokenDisk(driver._connection)
        answers = self.send_in_one_group([None] * 3)
        ids = set()
        for answer in answers:
            self.assert_problem(answer, 503, "outcome_unknown")
            assert answer.headers["Location"] == f"/v1/messages/{answer.json['id']}"
            assert int(answer.headers["Retry-After"]) > 0
            ids.add(answer.json["id"])

        assert len(ids) == 3
        self.wait(self.until(lambda: len(self.fatal) == 1))
        later = self.send()
        assert later.status == 503

    def test_a_bug_is_a_500_without_details(self) -> None:
        async def explode(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("the secret inside")

        self.app.store.list_messages = explode  # type: ignore[method-assign,assignment]
        with self.expect_log("request .* failed"):
            answer = self.call("GET", "/v1/messages")

        self.assert_problem(answer, 500, "error")
        assert b"secret" not in answer.octets
