"""`/v1/messages`: accept, list, show, the operator's verbs."""

import asyncio
import json
from typing import ClassVar

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Suppression
from tests.api.case import MESSAGE, Answer, ApiCase


class PostTest(ApiCase):
    def test_accepted_message_has_an_id_and_a_place(self) -> None:
        answer = self.send()

        assert answer.status == 202
        assert answer.headers["Location"] == f"/v1/messages/{answer.json['id']}"
        assert "Idempotent-Replayed" not in answer.headers
        assert "Etag" not in answer.headers
        assert answer.json == {
            "id": answer.json["id"],
            "state": "queued",
            "created_at": "2026-11-24T10:00:00.000Z",
            "on_unknown": "ask",
            "test": False,
            "recipients": [{"address": "ann@example.net", "kind": "to", "state": "queued"}],
            "warnings": [],
        }

    def test_every_answer_is_in_the_store(self) -> None:
        """P1: a 202 is on disk, as another connection sees it."""
        public = self.accept()
        shown = self.call("GET", f"/v1/messages/{public}")

        assert shown.json["subject"] == "Hello"
        assert shown.json["state"] == "queued"

    def test_all_faults_at_once(self) -> None:
        answer = self.send(**{"from": "nobody", "to": ["a@b", "x"], "subjekt": "?", "text": 7})

        self.assert_problem(answer, 422, "invalid")
        assert {"/from", "/to/1", "/subjekt", "/text"} <= set(answer.pointers)

    def test_suppressed_recipient_is_a_warning(self) -> None:
        self.wait(
            self.app.store.suppress(
                Suppression(
                    address="ann@example.net",
                    service="",
                    reason="manual",
                    detail="",
                    created_ms=1,
                    expires_ms=None,
                    actor="test",
                )
            )
        )
        answer = self.send()

        assert answer.json["state"] == "failed"
        assert answer.json["recipients"][0]["reason"] == "suppressed"
        assert [warning["code"] for warning in answer.json["warnings"]] == ["suppressed"]

    def test_body_must_be_json(self) -> None:
        for sent in ("text/plain", "", "application/json; charset=latin-1", "application/xml"):
            answer = self.call("POST", "/v1/messages", MESSAGE, headers={"Content-Type": sent})
            self.assert_problem(answer, 415, "unsupported_media_type")

    def test_spellings_of_json_are_taken(self) -> None:
        for sent in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
            answer = self.call("POST", "/v1/messages", MESSAGE, headers={"Content-Type": sent})
            assert answer.status == 202, answer.octets

    def test_compressed_body_is_refused(self) -> None:
        headers = {"Content-Encoding": "gzip"}
        answer = self.call("POST", "/v1/messages", MESSAGE, headers=headers)

        self.assert_problem(answer, 415, "unsupported_media_type")

    def test_malformed_json_says_where(self) -> None:
        for octets in (b"", b"{", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b'"x"'):
            answer = self.call("POST", "/v1/messages", octets=octets)
            self.assert_problem(answer, 400, "malformed_json")

    def test_bad_key_is_refused(self) -> None:
        for key in ("k" * 256, "k\u00fc"):
            answer = self.send(key=key)
            self.assert_problem(answer, 400, "idempotency_key_invalid")

    def test_send_needs_its_scope(self) -> None:
        answer = self.send(self.make_token("reader", "read"))

        self.assert_problem(answer, 403, "forbidden")
        assert "send" in answer.json["detail"]

    def test_token_may_need_a_key(self) -> None:
        strict = self.make_token("strict", "send", limits={"requires_key": True})

        self.assert_problem(self.send(strict), 400, "idempotency_key_invalid")
        assert self.send(strict, key="k").status == 202

    def test_recipient_rate_is_429(self) -> None:
        form = self.make_token("form", "send", limits={"recipient_rate": "1/1h"})
        self.accept(form)
        answer = self.send(form)

        self.assert_problem(answer, 429, "recipient_rate")
        assert int(answer.headers["Retry-After"]) > 0

    def test_test_token_reaches_the_sandbox(self) -> None:
        trial = self.make_token("trial", "send", is_test=True)
        answer = self.send(trial, to="delivered@sandbox.test")

        assert answer.status == 202
        assert answer.json["test"] is True
        self.assert_problem(self.send(to="delivered@sandbox.test"), 422, "invalid")


class IdempotencyTest(ApiCase):
    def test_replay_is_the_same_message_as_it_stands_now(self) -> None:
        """F-IN-02: who did not see the answer asks again."""
        first = self.send(key="order-1")
        self.call("POST", f"{first.headers['Location']}/cancel")
        again = self.send(key="order-1")

        assert again.status == 202
        assert again.json["id"] == first.json["id"]
        assert again.json["state"] == "cancelled"
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]

    def test_other_body_is_refused_naming_the_fields(self) -> None:
        """F-IN-12."""
        first = self.send(key="order-1")
        other = self.send(key="order-1", subject="Other", tags=["new"])

        self.assert_problem(other, 422, "idempotency_key_reused")
        assert set(other.pointers) == {"/subject", "/tags"}
        assert other.json["message_id"] == first.json["id"]

    def test_keys_belong_to_a_service(self) -> None:
        first = self.send(self.make_token("web", "send"), key="k")
        second = self.send(self.make_token("app", "send"), key="k")

        assert first.json["id"] != second.json["id"]

    def test_twins_at_once_are_one_message(self) -> None:
        """F-IN-11, within one process."""
        answers = self._send_at_once([MESSAGE] * 20)

        assert {answer.status for answer in answers} == {202}
        assert len({answer.json["id"] for answer in answers}) == 1
        replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
        assert replayed.count(None) == 1
        assert len(self.call("GET", "/v1/messages").json["data"]) == 1

    def test_twins_that_differ_are_one_message_and_refusals(self) -> None:
        """F-IN-12, at once."""
        bodies = [{**MESSAGE, "subject": f"number {number}"} for number in range(8)]
        answers = self._send_at_once(bodies)
        refused = [answer for answer in answers if answer.status != 202]

        assert len(refused) == 7
        for answer in refused:
            self.assert_problem(answer, 422, "idempotency_key_reused")
            assert answer.pointers == ["/subject"]

    def _send_at_once(self, bodies: list[object]) -> list[Answer]:
        headers = {"Idempotency-Key": "same"}

        async def send() -> list[Answer]:
            calls = [
                self.call_async("POST", "/v1/messages", body, headers=headers)
                for body in bodies
            ]
            return await asyncio.gather(*calls)

        return self.wait(send())  # type: ignore[no-any-return]


class ListTest(ApiCase):
    def test_newest_first_in_pages(self) -> None:
        sent = []
        for number in range(5):
            self.clock.advance(ms=10)
            sent.append(self.accept(subject=f"number {number}"))
        first = self.call("GET", "/v1/messages?limit=3").json
        second = self.call("GET", f"/v1/messages?limit=3&cursor={first['next_cursor']}").json

        assert [one["id"] for one in first["data"] + second["data"]] == sent[::-1]
        assert second["next_cursor"] is None
        assert "attempts" not in first["data"][0]

    def test_filters(self) -> None:
        ann = self.accept(tags=["welcome"])
        self.clock.advance(s=1)
        bob = self.accept(to="bob@example.net", subject="Invoice")
        self.call("POST", f"/v1/messages/{bob}/hold")

        for query, found in {
            "state=held": [bob],
            "state=queued": [ann],
            "waiting_for=ready": [ann],
            "to=bob@example.net": [bob],
            "from=shop@example.org": [bob, ann],
            "tag=welcome": [ann],
            "q=invo": [bob],
            f"q={ann}": [ann],
            "service=root": [bob, ann],
            "service=nobody": [],
            "since=2026-11-24T10:00:01Z": [bob],
            "until=2026-11-24T11:00:01%2B01:00": [ann],
            "until=2026-11-24T11:00:01+01:00": [ann],
            "state=held&to=ann@example.net": [],
        }.items():
            answer = self.call("GET", f"/v1/messages?{query}")
            assert answer.status == 200, answer.octets
            assert [one["id"] for one in answer.json["data"]] == found, query

    def test_all_wrong_parameters_at_once(self) -> None:
        answer = self.call(
            "GET",
            "/v1/messages?state=lost&limit=201&since=yesterday&statee=held&to=a&to=b&q=%ff",
        )

        self.assert_problem(answer, 400, "bad_request")
        assert set(answer.pointers) == {"state", "limit", "since", "statee", "to", "q"}
        assert 'did you mean "state"?' in answer.json["detail"] + str(answer.json["errors"])

    def test_limits_of_the_limit(self) -> None:
        for limit in ("0", "-1", "201", "many", "1e2", "%D9%A3", "9" * 40):
            answer = self.call("GET", f"/v1/messages?limit={limit}")
            self.assert_problem(answer, 400, "bad_request")
        assert self.call("GET", "/v1/messages?limit=200").status == 200

    def test_bad_cursor(self) -> None:
        for cursor in ("x", "!!", "=", "%2B%2B", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"):
            answer = self.call("GET", f"/v1/messages?cursor={cursor}")
            self.assert_problem(answer, 400, "bad_request")

    def test_a_service_sees_its_own(self) -> None:
        """T-02."""
        web, app = self.make_token("web"), self.make_token("app")
        public = self.accept(web)
        self.accept(app)

        own = self.call("GET", "/v1/messages", token=web).json["data"]
        assert [one["id"] for one in own] == [public]
        foreign = self.call("GET", "/v1/messages?service=app", token=web)
        self.assert_problem(foreign, 400, "bad_request")
        everyones = self.call("GET", "/v1/messages", token=self.make_token("all", "read:all"))
        assert len(everyones.json["data"]) == 2

    def test_reading_needs_its_scope(self) -> None:
        sender = self.make_token("sender", "send")

        self.assert_problem(self.call("GET", "/v1/messages", token=sender), 403, "forbidden")


class ShowTest(ApiCase):
    def test_message_with_its_recipients(self) -> None:
        public = self.accept(cc="bob@example.net", tags=["a"], metadata={"order": "7"})
        shown = self.call("GET", f"/v1/messages/{public}").json

        assert shown["id"] == public
        assert shown["counts"] == {"queued": 2}
        assert [one["address"] for one in shown["recipients"]] == [
            "ann@example.net",
            "bob@example.net",
        ]
        assert shown["recipients"][0]["waiting_for"] == "ready"
        assert shown["attempts"] == []
        assert (shown["tags"], shown["metadata"]) == (["a"], {"order": "7"})

    def test_unique_prefix_is_enough(self) -> None:
        public = self.accept()

        for text in (public[:9], public[4:], public.lower()):
            assert self.call("GET", f"/v1/messages/{text}").json["id"] == public

    def test_ambiguous_prefix_names_the_candidates(self) -> None:
        sent = {self.accept(), self.accept()}
        answer = self.call("GET", f"/v1/messages/{min(sent)[:7]}")

        self.assert_problem(answer, 409, "ambiguous_id")
        assert set(answer.json["candidates"]) == sent

    def test_foreign_and_absent_are_the_same(self) -> None:
        """T-02: also where a prefix is unique only without the others' messages."""
        web, app = self.make_token("web"), self.make_token("app")
        public = self.accept(app)
        said = set()
        for path in ("", "/events"):
            for text in (public, public[:9], "msg_0000000000000"):
                answer = self.call("GET", f"/v1/messages/{text}{path}", token=web)
                self.assert_problem(answer, 404, "not_found")
                said.add(answer.json["detail"].replace(text, "ID"))

        assert said == {'there is no message "ID"'}
        own = self.accept(web)
        shown = self.call("GET", f"/v1/messages/{own[:7]}", token=web)
        assert shown.json["id"] == own

    def test_strange_ids_are_not_found(self) -> None:
        for text in ("x", "%00", "%ff", "msg_", "m" * 500, "%C3%BC", "..", "1%2F2", "'--"):
            answer = self.call("GET", f"/v1/messages/{text}")
            self.assert_problem(answer, 404, "not_found")

    def test_time_line(self) -> None:
        public = self.accept()
        self.call("POST", f"/v1/messages/{public}/hold", {"reason": "look first"})
        whole = self.call("GET", f"/v1/messages/{public}/events").json
        types = [event["type"] for event in whole["data"]]

        assert types == [
            "message.accepted",
            "recipient.accepted",
            "recipient.held",
            "operator.hold",
        ]
        first = self.call("GET", f"/v1/messages/{public}/events?limit=3").json
        rest = self.call(
            "GET", f"/v1/messages/{public}/events?limit=3&after={first['next_cursor']}"
        ).json
        assert first["data"] + rest["data"] == whole["data"]
        assert rest["next_cursor"] is None


class VerbTest(ApiCase):
    def order(self, public: str, verb: str, body: object = None, **more: object) -> Answer:
        return self.call("POST", f"/v1/messages/{public}/{verb}", body, **more)

    def test_hold_release_cancel_retry(self) -> None:
        public = self.accept()
        for verb, state in (
            ("hold", "held"),
            ("release", "queued"),
            ("cancel", "cancelled"),
            ("retry", "queued"),
        ):
            answer = self.order(public, verb, {"reason": f"try {verb}"})
            assert answer.status == 200, answer.octets
            assert answer.json["state"] == state
            assert answer.json["changed"] == ["ann@example.net"]
            assert answer.json["recipients"][0]["state"] == state

    def test_some_recipients_only(self) -> None:
        public = self.accept(to=["ann@example.net", "bob@example.net"])
        answer = self.order(public, "cancel", {"recipients": ["bob@example.net"]})

        states = {one["address"]: one["state"] for one in answer.json["recipients"]}
        assert states == {"ann@example.net": "queued", "bob@example.net": "cancelled"}
        assert answer.json["changed"] == ["bob@example.net"]

    def test_what_the_state_forbids_is_409_with_the_states(self) -> None:
        public = self.accept()
        for verb, body in (("release", None), ("resolve", {"outcome": "sent"})):
            answer = self.order(public, verb, body)
            self.assert_problem(answer, 409, "conflict")
            assert answer.json["recipients"] == [
                {"address": "ann@example.net", "state": State.QUEUED}
            ]

    def test_all_faults_of_an_order_at_once(self) -> None:
        public = self.accept()
        answer = self.order(
            public,
            "retry",
            {"recipients": "ann", "reason": "a\nb", "expires_in": "soon", "x": 1},
        )

        self.assert_problem(answer, 422, "invalid")
        assert set(answer.pointers) == {"/recipients", "/reason", "/expires_in", "/x"}

    def test_resolve_needs_an_outcome(self) -> None:
        public = self.accept()

        answer = self.order(public, "resolve")
        assert answer.pointers == ["/outcome"]
        answer = self.order(public, "resolve", {"outcome": "perhaps", "force": 1})
        assert set(answer.pointers) == {"/outcome", "/force"}
        answer = self.order(public, "resolve", {"outcome": "resend", "force": True})
        assert answer.pointers == ["/reason"]

    def test_strangers_are_named(self) -> None:
        answer = self.order(self.accept(), "hold", {"recipients": ["eve@example.net"]})

        self.assert_problem(answer, 422, "invalid")
        assert answer.pointers == ["/recipients"]

    def test_operating_needs_its_scope_and_its_service(self) -> None:
        public = self.accept(self.make_token("web", "send"))
        reader = self.make_token("reader", "read", "send")
        other = self.make_token("other", "operate")

        self.assert_problem(self.order(public, "hold", token=reader), 403, "forbidden")
        self.assert_problem(self.order(public, "hold", token=other), 404, "not_found")

    def test_body_of_an_order(self) -> None:
        public = self.accept()
        plain = self.order(public, "hold", {}, headers={"Content-Type": "text/plain"})

        self.assert_problem(plain, 415, "unsupported_media_type")
        broken = self.call("POST", f"/v1/messages/{public}/hold", octets=b"[")
        self.assert_problem(broken, 400, "malformed_json")

    def test_who_when_and_why_are_kept(self) -> None:
        public = self.accept()
        self.order(public, "hold", {"reason": "look first"})
        events = self.call("GET", f"/v1/messages/{public}/events").json["data"]

        audit = events[-1]
        assert audit["type"] == "operator.hold"
        assert audit["at"] == "2026-11-24T10:00:00.000Z"
        assert (audit["data"]["actor"], audit["data"]["reason"]) == ("root", "look first")


class EveryPathTest(ApiCase):
    """What all paths have in common."""

    overrides: ClassVar = {"limits.failed_authentications": "1000"}

    PATHS: ClassVar = {
        "/v1/messages": "GET, HEAD, POST",
        "/v1/messages/msg_1": "GET, HEAD",
        "/v1/messages/msg_1/events": "GET, HEAD",
        "/v1/messages/msg_1/cancel": "POST",
        "/v1/messages/msg_1/hold": "POST",
        "/v1/messages/msg_1/release": "POST",
        "/v1/messages/msg_1/retry": "POST",
        "/v1/messages/msg_1/resolve": "POST",
        "/v1/events": "GET, HEAD, OPTIONS",
        "/v1/events/stream": "GET, OPTIONS",
        "/v1/suppressions": "GET, HEAD, POST",
        "/v1/suppressions/a@example.org": "DELETE",
        "/v1/providers": "GET, HEAD",
        "/v1/providers/relay/enable": "POST",
        "/v1/providers/relay/disable": "POST",
        "/healthz": "GET, HEAD",
        "/readyz": "GET, HEAD",
    }

    def test_other_methods_are_405_with_allow(self) -> None:
        for path, allowed in self.PATHS.items():
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
                if method in allowed.split(", "):
                    continue
                answer = self.call(method, path, octets=b"" if method == "BREW" else None)
                assert answer.status == 405, (method, path)
                assert set(answer.headers["Allow"].split(", ")) == set(allowed.split(", "))
                if method != "HEAD":
                    self.assert_problem(answer, 405, "method_not_allowed")

    def test_without_a_good_token_401(self) -> None:
        said = set()
        for path, methods in self.PATHS.items():
            if not path.startswith("/v1/"):
                continue
            for number, header in enumerate(("", "Bearer ", "Bearer x", "Basic eDp5", "x")):
                method = methods.partition(", ")[0]
                headers = {"Authorization": header} if number else {}
                answer = self.call(method, path, token="", headers=headers)
                if method != "HEAD":
                    self.assert_problem(answer, 401, "unauthorized")
                    said.add(json.dumps({**answer.json, "request_id": ""}))
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

        assert len(said) == 1

    def test_unknown_paths_are_404(self) -> None:
        for path in (
            "/",
            "/v1",
            "/v1/",
            "/v1/nothing",
            "/v1/messages/",
            "/v2/messages",
            "/%00",
        ):
            for method in ("GET", "POST"):
                self.assert_problem(self.call(method, path), 404, "not_found")

    def test_request_id_is_echoed_or_made(self) -> None:
        echoed = self.call("GET", "/healthz", headers={"X-Request-Id": "abc-123/7"})
        made = {self.call("GET", "/healthz").headers["X-Request-Id"] for _ in range(3)}

        assert echoed.headers["X-Request-Id"] == "abc-123/7"
        assert len(made) == 3
        for unfit in ("x" * 129, "a\tb", "\u00fc"):
            answer = self.call("GET", "/healthz", headers={"X-Request-Id": unfit})
            assert answer.headers["X-Request-Id"] != unfit

    def test_head_has_no_body(self) -> None:
        answer = self.call("HEAD", "/v1/messages")

        assert answer.status == 200
        assert answer.octets == b""
        assert int(answer.headers["Content-Length"]) > 0
