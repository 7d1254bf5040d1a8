"""Batches, dry runs, content, and another time to send."""

import asyncio
import base64
import json
from email import message_from_bytes, policy
from typing import Any

from emailerctl.models.lifecycle import WaitingFor
from emailerctl.store.base import Suppression
from tests.api.case import MESSAGE, Answer, ApiCase

HOUR_MS = 3_600_000


def build_item(n: int, **fields: object) -> dict[str, object]:
    return {**MESSAGE, "to": f"ann{n}@example.net", **fields}


class BatchTest(ApiCase):
    def batch(
        self, *items: object, key: str | None = None, path: str = "", **fields: object
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"messages": list(items), **fields}
        return self.call("POST", f"/v1/messages/batch{path}", body, headers=headers)

    def count(self) -> int:
        stats = self.wait(self.app.store.queue_stats(now_ms=self.clock.now_ms()))
        return int(stats.ready + stats.scheduled)

    def test_a_thousand_are_one_commit_and_come_back_in_order(self) -> None:
        commits = self.app.driver.sizes.commits
        answer = self.batch(*(build_item(n) for n in range(1000)))

        assert answer.status == 202
        assert self.app.driver.sizes.commits == commits + 1
        found = [one["id"] for one in answer.json["data"]]
        assert len(set(found)) == 1000
        shown = self.call("GET", f"/v1/messages/{found[731]}").json
        assert shown["recipients"][0]["address"] == "ann731@example.net"
        assert answer.json["data"][0] == {
            "status": 202,
            "id": found[0],
            "state": "queued",
            "idempotent_replayed": False,
            "warnings": [],
        }

    def test_a_bad_one_is_refused_and_the_others_are_accepted(self) -> None:
        """F-IN-04: each has its own answer, with pointers into itself."""
        answer = self.batch(build_item(0), build_item(1, to="x", subjekt=1), 7, build_item(3))

        assert answer.status == 202
        statuses = [one["status"] for one in answer.json["data"]]
        assert statuses == [202, 422, 422, 202]
        refused = answer.json["data"][1]
        assert refused["code"] == "invalid"
        assert {error["pointer"] for error in refused["errors"]} == {"/to", "/subjekt"}
        assert self.count() == 2

    def test_all_or_nothing_is_nothing_with_every_fault(self) -> None:
        answer = self.batch(build_item(0), build_item(1, to="x"), {}, atomic=True)

        self.assert_problem(answer, 422, "invalid")
        assert {"/messages/1/to", "/messages/2/from", "/messages/2/to"} <= set(answer.pointers)
        assert [one["status"] for one in answer.json["data"]] == [424, 422, 422]
        assert self.count() == 0
        assert self.batch(build_item(0), build_item(1), atomic=True).status == 202
        assert self.count() == 2

    def test_all_or_nothing_looks_into_the_commit(self) -> None:
        """A key that belongs to another request takes the whole batch back."""
        self.batch(build_item(0, idempotency_key="a"))
        items = [build_item(1), build_item(9, idempotency_key="a")]
        answer = self.batch(*items, atomic=True)

        self.assert_problem(answer, 422, "invalid")
        assert answer.pointers == ["/messages/1"]
        assert answer.json["data"][1]["code"] == "idempotency_key_reused"
        assert self.count() == 1

    def test_nothing_accepted_is_a_problem(self) -> None:
        answer = self.batch({}, build_item(1, to="x"))

        self.assert_problem(answer, 422, "invalid")
        assert [one["code"] for one in answer.json["data"]] == ["invalid", "invalid"]

    def test_one_key_for_all_and_a_repeat_is_a_replay(self) -> None:
        items = [build_item(n) for n in range(3)]
        first = self.batch(*items, key="k")
        again = self.batch(*items, key="k")

        assert first.json["data"][2]["id"] == again.json["data"][2]["id"]
        assert again.headers["Idempotent-Replayed"] == "true"
        assert self.count() == 3
        one_key_is_one_key = self.send(key="k", to="else@example.net")
        self.assert_problem(one_key_is_one_key, 422, "idempotency_key_reused")

    def test_what_was_refused_may_be_put_right_under_the_same_key(self) -> None:
        first = self.batch(build_item(0), build_item(1, to="x"), key="k")
        again = self.batch(build_item(0), build_item(1), key="k")
        other = self.batch(build_item(7), build_item(1), key="k")

        assert [one["status"] for one in first.json["data"]] == [202, 422]
        assert [one["status"] for one in again.json["data"]] == [202, 202]
        assert again.json["data"][0]["id"] == first.json["data"][0]["id"]
        assert [one.get("code") for one in other.json["data"]] == [
            "idempotency_key_reused",
            None,
        ]
        assert self.count() == 2

    def test_a_key_for_each_and_twins_in_one_batch(self) -> None:
        """P4: within a commit too."""
        a, b = (build_item(n, idempotency_key=k) for n, k in ((0, "a"), (1, "b")))
        answer = self.batch(a, b, a)
        found = [one["id"] for one in answer.json["data"]]

        assert found[0] == found[2] != found[1]
        alone = self.send(key="a", to="ann0@example.net")
        assert (alone.json["id"], alone.headers["Idempotent-Replayed"]) == (found[0], "true")
        both = self.batch(a, key="k")
        assert both.pointers == ["/messages/0/idempotency_key"]
        wrong = self.batch(build_item(0, idempotency_key=7), build_item(1))
        assert wrong.json["data"][0]["code"] == "idempotency_key_invalid"

    def test_its_form_is_checked(self) -> None:
        for body, pointer in (
            ({}, "/messages"),
            ({"messages": "x"}, "/messages"),
            ({"messages": []}, "/messages"),
            ({"messages": [{}] * 1001}, "/messages"),
            ({"messages": [{}], "atomic": 1}, "/atomic"),
            ({"messages": [{}], "atmic": True}, "/atmic"),
        ):
            answer = self.call("POST", "/v1/messages/batch", body)
            self.assert_problem(answer, 422, "invalid")
            assert answer.pointers == [pointer]
        self.assert_problem(self.call("GET", "/v1/messages/batch"), 405, "method_not_allowed")

    def test_it_may_be_long(self) -> None:
        """T-12: longer than one message may be, and than one batch may not."""
        file = base64.b64encode(bytes(5_000_000)).decode()
        attached = [{"filename": "a.pdf", "content": file}]
        answer = self.batch(*(build_item(n, attachments=attached) for n in range(2)))
        assert answer.status == 202, answer.octets
        octets = b'{"messages":[' + b" " * (51 * 1024 * 1024) + b"{}]}"
        too_long = self.call("POST", "/v1/messages/batch", octets=octets)
        self.assert_problem(too_long, 413, "payload_too_large")

    def test_batches_take_turns_and_single_messages_do_not_wait_for_them(self) -> None:
        """F-IN-16, T-30: the number of batches that wait is bounded."""
        items = [build_item(n) for n in range(40)]

        async def work() -> None:
            batches = [
                self.call_async("POST", "/v1/messages/batch", {"messages": items})
                for _ in range(20)
            ]
            single = self.call_async("POST", "/v1/messages", MESSAGE)
            answers = await asyncio.gather(*batches, single)
            assert answers[-1].status == 202
            statuses = {answer.status for answer in answers}
            assert statuses <= {202, 503}
            assert [a.status for a in answers].count(202) >= 16

        self.run_script(work)

    def test_a_dry_run_of_a_batch_keeps_nothing(self) -> None:
        answer = self.batch(build_item(0), build_item(1, to="x"), path="?dry_run=true")

        assert answer.status == 200
        assert answer.json["dry_run"] is True
        assert [one.get("id") for one in answer.json["data"]] == [None, None]
        assert [one["status"] for one in answer.json["data"]] == [202, 422]
        assert self.count() == 0


class DryRunTest(ApiCase):
    def rehearse(self, key: str | None = None, **fields: object) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {**MESSAGE, **fields}
        return self.call("POST", "/v1/messages?dry_run=true", body, headers=headers)

    def suppress(self, address: str) -> None:
        suppression = Suppression(
            address=address,
            service="",
            reason="manual",
            detail="",
            created_ms=1,
            expires_ms=None,
            actor="test",
        )
        self.wait(self.app.store.suppress(suppression))

    def test_it_says_all_and_keeps_nothing(self) -> None:
        self.suppress("bob@example.net")
        answer = self.rehearse(
            to=["ann@example.net", "bob@example.net"], send_in="10m", priority="high"
        )

        assert answer.status == 200
        said = answer.json
        assert (said["id"], said["dry_run"], said["state"]) == (None, True, "queued")
        assert said["due_at"] == "2026-11-24T10:10:00.000Z"
        assert said["route"]["chain"] == ["relay"]
        assert [one["state"] for one in said["recipients"]] == ["queued", "failed"]
        assert [one["code"] for one in said["warnings"]] == ["suppressed"]
        assert self.call("GET", "/v1/messages").json["data"] == []

    def test_its_refusals_are_those_of_the_real_thing(self) -> None:
        self.assert_problem(self.rehearse(to="x"), 422, "invalid")
        self.send(key="k")
        replay = self.rehearse(key="k")
        assert replay.json["idempotent_replayed"] is True
        self.assert_problem(self.rehearse(key="k", text="else"), 422, "idempotency_key_reused")
        limited = self.make_token("limited", "send", limits={"recipient_rate": "1/1h"})
        for path, status in (("?dry_run=true", 200), ("", 202), ("?dry_run=true", 429)):
            answer = self.call("POST", f"/v1/messages{path}", MESSAGE, token=limited)
            assert answer.status == status, answer.octets
        wrong = self.call("POST", "/v1/messages?dry_run=yes", MESSAGE)
        self.assert_problem(wrong, 400, "bad_request")


class ContentTest(ApiCase):
    def test_what_it_says_and_its_bytes(self) -> None:
        public = self.accept(
            subject="Grüße",
            html="<b>Hi</b>",
            headers={"X-Order": "7"},
            attachments=[{"filename": "a.txt", "content": base64.b64encode(b"hi").decode()}],
        )
        content = self.call("GET", f"/v1/messages/{public}/content")

        assert (content.json["subject"], content.json["text"]) == ("Grüße", "Hello Ann\n")
        assert content.json["html"] == "<b>Hi</b>\n"
        assert content.json["headers"]["X-Order"] == "7"
        assert base64.b64decode(content.json["attachments"][0]["content"]) == b"hi"
        assert content.headers["Cache-Control"] == "no-store"
        raw = self.fetch_raw(public)
        parsed = message_from_bytes(raw, policy=policy.default)
        assert parsed["Subject"] == "Grüße"
        assert len(raw) == content.json["size_bytes"]

    def fetch_raw(self, public: str) -> bytes:
        async def work() -> Any:
            return await self.http_client.fetch(
                self.get_url(f"/v1/messages/{public}/content?format=raw"),
                headers={"Authorization": f"Bearer {self.root}"},
            )

        response = self.wait(work())
        assert response.headers["Content-Type"] == "message/rfc822"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return bytes(response.body)

    def test_it_is_for_those_who_may(self) -> None:
        """T-02: reset links are credentials; and foreign messages are not there."""
        public = self.accept()
        path = f"/v1/messages/{public}/content"
        reader = self.make_token("reader", "send", "read", service="root")
        content = self.make_token("content", "content", service="root")
        stranger = self.make_token("stranger", "content")

        self.assert_problem(self.call("GET", path, token=reader), 403, "forbidden")
        assert self.call("GET", path, token=content).status == 200
        self.assert_problem(self.call("GET", path, token=stranger), 404, "not_found")
        self.assert_problem(self.call("GET", f"{path}?format=x"), 400, "bad_request")

    def test_what_retention_removed_is_gone(self) -> None:
        """T-28."""
        public = self.accept()

        async def remove() -> None:
            await self.app.driver.write(lambda tx: tx.run("DELETE FROM contents"))

        self.wait(remove())

        answer = self.call("GET", f"/v1/messages/{public}/content")
        self.assert_problem(answer, 409, "content_gone")


class ScheduleTest(ApiCase):
    def move(self, public: str, **fields: object) -> Answer:
        return self.call("POST", f"/v1/messages/{public}/reschedule", fields)

    def show(self, public: str) -> Any:
        return self.call("GET", f"/v1/messages/{public}").json["recipients"][0]

    def test_it_waits_for_its_time_and_the_time_can_be_changed(self) -> None:
        public = self.accept(send_at="2026-11-24T12:00:00+01:00")
        assert self.show(public)["waiting_for"] == WaitingFor.SEND_AT
        assert self.show(public)["due_at"] == "2026-11-24T11:00:00.000Z"

        answer = self.move(public, send_in="3h", reason="they asked")

        assert answer.status == 200
        assert answer.json["changed"] == ["ann@example.net"]
        assert self.show(public)["due_at"] == "2026-11-24T13:00:00.000Z"
        content = self.call("GET", f"/v1/messages/{public}/content").json
        assert content["headers"]["Date"] == "Tue, 24 Nov 2026 13:00:00 +0000"
        events = self.call("GET", f"/v1/messages/{public}/events").json["data"]
        assert events[-1]["type"] == "operator.reschedule"
        assert events[-1]["data"]["send_at"] == "2026-11-24T13:00:00.000Z"
        assert events[-1]["data"]["reason"] == "they asked"
        assert self.wait(self.app.store.audit()) == []

    def test_now_is_a_time(self) -> None:
        public = self.accept(send_in="1d")
        assert self.move(public, send_at="2026-11-24T09:00:00Z").status == 200
        assert self.show(public)["waiting_for"] == WaitingFor.READY

    def test_what_is_asked_is_checked(self) -> None:
        public = self.accept(send_in="1h", expires_in="2h")
        for fields, pointers in (
            ({}, ["/send_at"]),
            ({"send_at": "tomorrow"}, ["/send_at"]),
            ({"send_in": "0s"}, ["/send_in"]),
            ({"send_in": 5}, ["/send_in"]),
            ({"send_in": "400d"}, ["/send_in"]),
            ({"send_in": "1h", "send_at": "2026-12-01T00:00:00Z"}, ["/send_in"]),
            ({"send_in": "1h", "recipients": ["ann@example.net"]}, ["/recipients"]),
        ):
            answer = self.move(public, **fields)
            self.assert_problem(answer, 422, "invalid")
            assert answer.pointers == pointers, fields
        self.assert_problem(self.move(public, send_in="2h"), 409, "conflict")
        self.call("POST", f"/v1/messages/{public}/cancel")
        self.assert_problem(self.move(public, send_in="1h"), 409, "conflict")

    def test_held_before_its_time_and_released_it_waits_for_it(self) -> None:
        public = self.accept(send_in="1h")
        self.call("POST", f"/v1/messages/{public}/hold")
        self.call("POST", f"/v1/messages/{public}/release")

        assert self.show(public)["due_at"] == "2026-11-24T11:00:00.000Z"
        assert self.show(public)["waiting_for"] == WaitingFor.SEND_AT
        retried = self.call("POST", f"/v1/messages/{public}/retry")
        assert retried.status == 200, json.dumps(retried.json)
        assert self.show(public)["waiting_for"] == WaitingFor.READY
