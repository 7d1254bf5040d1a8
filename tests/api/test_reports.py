"""`/v1/reports/{provider}`: what next hops tell later, and who may tell it."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from emailerctl.core.reporting import Reporting
from emailerctl.errors import StoreBusy, Unavailable
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.lifecycle import Cause
from emailerctl.models.page import EventFilter
from emailerctl.providers.base import NotVerified, Report, ReportKind
from emailerctl.store import sqlite
from emailerctl.store.base import Consumer
from tests.api.case import Answer, ApiCase

KEY = "signing-key"
BASIC = "Basic " + base64.b64encode(b"emailer:hook-password").decode()


class ReportsCase(ApiCase):
    """An API whose next hops report: Mailgun signed, Postmark with credentials and path."""

    overrides: ClassVar = {
        "providers.mg.kind": "mailgun",
        "providers.mg.api_key": "k",
        "providers.mg.domain": "mg.example.org",
        "providers.mg.signing_key": KEY,
        "providers.pm.kind": "postmark",
        "providers.pm.server_token": "t",
        "providers.pm.report_password": "hook-password",
        "providers.secret.kind": "postmark",
        "providers.secret.server_token": "t",
        "providers.secret.report_secret": "s3cret-path",
    }

    def setUp(self) -> None:
        super().setUp()
        self.tokens = 0

    def sign(self, event: object, *, key: str = KEY, token: str = "", at_s: int = 0) -> bytes:
        """Return a call of Mailgun's webhook, signed."""
        self.tokens += 1
        token = token or f"token-{self.tokens}"
        timestamp = str(self.clock.now_ms() // 1000 + at_s)
        signature = hmac.new(key.encode(), (timestamp + token).encode(), hashlib.sha256)
        return json.dumps(
            {
                "signature": {
                    "timestamp": timestamp,
                    "token": token,
                    "signature": signature.hexdigest(),
                },
                "event-data": event,
            }
        ).encode()

    def build(self, public_id: str, event: str = "delivered", **more: Any) -> dict[str, Any]:
        self.tokens += 1
        return {
            "event": event,
            "id": f"event-{self.tokens}",
            "timestamp": self.clock.now_ms() / 1000,
            "recipient": "ann@example.net",
            "user-variables": {"emailer_id": public_id, "emailer_attempt": "1"},
            **more,
        }

    def report(
        self, body: bytes, path: str = "/v1/reports/mg", headers: Mapping[str, str] = {}
    ) -> Answer:
        return self.call("POST", path, octets=body, token="", headers=headers)

    def tell(self, public_id: str, event: str = "delivered", **more: Any) -> Answer:
        return self.report(self.sign(self.build(public_id, event, **more)))

    def post_postmark(
        self, path: str, headers: Mapping[str, str] = {}, **record: Any
    ) -> Answer:
        record = {
            "RecordType": "Delivery",
            "MessageID": "42",
            "Recipient": "a@b.example",
        } | record
        return self.report(json.dumps(record).encode(), path, headers)

    def mark(self, public_id: str) -> None:
        """Bring a message past its mark, and let nobody know what came of it."""
        message_id = parse_public(MESSAGE, public_id)
        assert message_id is not None
        self.wait(self._mark(message_id))

    async def _mark(self, message_id: int) -> None:
        store, now_ms = self.app.store, self.clock.now_ms()
        await store.register(
            Consumer(
                consumer_id=message_id,
                host="h",
                pid=1,
                boot_id="b",
                version="0",
                started_ms=now_ms,
                heartbeat_ms=now_ms,
                lease_until_ms=self.clock.boot_ms() + 60_000,
            )
        )
        (claim,) = await store.claim([message_id], consumer_id=message_id, now_ms=now_ms)
        assert await store.mark(
            claim,
            [1],
            provider="mg",
            now_ms=now_ms,
            boot_ms=self.clock.boot_ms(),
            final_reply_ms=1_000,
        )
        await store.void(
            message_id,
            is_dead=True,
            now_ms=now_ms,
            boot_ms=self.clock.boot_ms(),
            resend_after_ms=1_000,
        )

    def state(self, public_id: str) -> str:
        return str(self.call("GET", f"/v1/messages/{public_id}").json["state"])

    def count(self, type_: str) -> int:
        events = self.wait(self.app.store.list_events(EventFilter(), after_seq=0, limit=10_000))
        return sum(event.type == type_ for event in events)


class TestSigned(ReportsCase):
    """Mailgun."""

    def test_a_report_resolves_an_unknown(self) -> None:
        """P3: the provider's later word."""
        public_id = self.accept()
        self.mark(public_id)
        assert self.state(public_id) == "unknown"

        answer = self.tell(public_id)

        assert (answer.status, answer.json["new"]) == (200, 1)
        assert self.state(public_id) == "delivered"
        assert self.wait(self.app.store.audit()) == []

    def test_forged_old_and_unsigned_calls_are_refused_alike(self) -> None:
        """F-WI-01, T-22."""
        public_id = self.accept()
        self.mark(public_id)
        event = self.build(public_id)
        mangled = self.sign(event).replace(b'"token": "', b'"token": "x')
        calls = {
            "forged": self.sign(event, key="guess"),
            "mangled": mangled,
            "old": self.sign(event, at_s=-301),
            "from the future": self.sign(event, at_s=301),
            "unsigned": json.dumps({"event-data": event}).encode(),
            "empty": b"",
            "no JSON": b"\xff\x00{",
            "deep": b"[" * 100_000,
            "a list": b"[]",
            "odd": b'{"signature":{"timestamp":1e400,"token":{},"signature":null}}',
        }

        answers = {name: self.report(body) for name, body in calls.items()}

        for name, answer in answers.items():
            self.assert_problem(answer, 401, "unauthorized")
            told = {k: v for k, v in answer.json.items() if k != "request_id"}
            expected = {k: v for k, v in answers["forged"].json.items() if k != "request_id"}
            assert told == expected, name
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="reports"'
        assert self.state(public_id) == "unknown"

    def test_a_replay_is_dropped_with_a_2xx(self) -> None:
        """F-WI-01: the same token, with the same words or with others."""
        public_id = self.accept()
        self.mark(public_id)
        body = self.sign(self.build(public_id, "opened"), token="once")
        assert self.report(body).json["new"] == 1

        again = self.report(body)
        other = self.report(self.sign(self.build(public_id, "complained"), token="once"))

        assert [a.status for a in (again, other)] == [200, 200]
        assert again.json["replayed"]
        assert other.json["replayed"]
        assert self.count("open.reported") == 1
        assert self.count("complaint.reported") == 0

    def test_the_same_event_with_another_signature_counts_once(self) -> None:
        """F-WI-01: what a provider repeats is signed anew."""
        public_id = self.accept()
        self.mark(public_id)
        event = self.build(public_id, "opened")

        answers = [self.report(self.sign(event)) for _ in range(3)]

        assert [answer.json["repeated"] for answer in answers] == [0, 1, 1]
        assert self.count("open.reported") == 1

    def test_what_is_about_nothing_here_is_kept_and_fits_later(self) -> None:
        """F-WI-03."""
        public_id = self.accept()
        event = self.build(public_id)
        answer = self.report(self.sign(event))
        assert (answer.status, answer.json["unmatched"]) == (200, 1)

        self.mark(public_id)
        self.clock.advance(s=2)
        matched = self.wait(self.app.reporting.match(now_ms=self.clock.now_ms()))

        assert matched == 1
        assert self.state(public_id) == "delivered"

    def test_verified_and_malformed_is_kept_and_no_fault_of_the_caller(self) -> None:
        """It would only be repeated: 2xx, with the body kept for an operator."""
        for event in (None, [], "text", 42):
            answer = self.report(self.sign(event))
            assert answer.status == 200, answer.octets
            assert answer.json["new"] == 0
        rows = self.wait(
            self.app.driver.read(lambda tx: tx.all("SELECT fault FROM report_calls"))
        )
        assert rows == [("no event-data in the report",)] * 4

    def test_hostile_values_are_no_trouble(self) -> None:
        """T-12: verified does not mean harmless."""
        public_id = self.accept()
        self.mark(public_id)
        odd: list[Any] = [
            None,
            0,
            -1,
            1e308,
            2**70,
            "\ud800",
            "\x00",
            "é" * 5_000,
            [],
            {},
            [[]],
        ]
        rng = random.Random(7)
        for _ in range(150):
            event = self.build(public_id, rng.choice(["failed", "opened", "clicked", "what"]))
            for name in rng.sample(list(event), 2):
                event[name] = rng.choice(odd)
            event["user-variables"] = rng.choice(
                [event["user-variables"], {"emailer_id": rng.choice(odd)}]
            )
            event["delivery-status"] = {"code": rng.choice(odd), "message": rng.choice(odd)}
            answer = self.report(self.sign(event))
            assert answer.status == 200, (event, answer.octets)
        assert self.wait(self.app.store.audit()) == []

    def test_a_hard_bounce_suppresses_everywhere(self) -> None:
        public_id = self.accept()
        self.mark(public_id)

        self.tell(
            public_id,
            "failed",
            severity="permanent",
            reason="bounce",
            **{"delivery-status": {"code": 550, "message": "5.1.1 nobody"}},
        )

        assert self.state(public_id) == "bounced"
        (entry,) = self.call("GET", "/v1/suppressions").json["data"]
        assert entry["message_id"] == public_id
        assert (entry["reason"], entry["blocks"], entry["service"]) == ("bounce", "all", None)
        answer = self.send()
        assert answer.json["state"] == "failed"
        assert answer.json["recipients"][0]["reason"] == "suppressed"
        assert [w["code"] for w in answer.json["warnings"]] == ["suppressed"]

    def test_a_complaint_stops_only_what_can_be_unsubscribed_from(self) -> None:
        public_id = self.accept()
        self.mark(public_id)

        self.tell(public_id, "complained")

        assert self.send().json["state"] == "queued"
        listed = self.send(list_unsubscribe="https://example.org/u")
        assert listed.json["state"] == "failed"
        assert self.wait(self.app.store.audit()) == []


class TestUnsigned(ReportsCase):
    """Postmark: credentials, a secret path, or both."""

    def test_credentials_are_asked_for(self) -> None:
        """T-22."""
        ok = self.post_postmark("/v1/reports/pm", {"Authorization": BASIC})
        wrong = BASIC[:-4] + "AAA="
        for headers in ({}, {"Authorization": wrong}, {"Authorization": "Bearer x"}):
            self.assert_problem(
                self.post_postmark("/v1/reports/pm", headers), 401, "unauthorized"
            )
        assert ok.status == 200

    def test_a_secret_path_is_asked_for(self) -> None:
        """T-22: with the right one no other credentials are needed."""
        assert self.post_postmark("/v1/reports/secret/s3cret-path").status == 200
        for path in ("", "/", "/s3cret-pat", "/s3cret-path/", "/S3CRET-PATH", "/%00", "/é%C3"):
            answer = self.post_postmark("/v1/reports/secret" + path.replace("é", "%C3%A9"))
            assert answer.status in (401, 404), (path, answer.status)
            assert answer.status == 404 or answer.json["code"] == "unauthorized"

    def test_a_secret_where_none_is_set_is_wrong(self) -> None:
        answer = self.post_postmark("/v1/reports/pm/anything", {"Authorization": BASIC})
        self.assert_problem(answer, 401, "unauthorized")

    def test_a_postmark_report_is_matched_by_its_id(self) -> None:
        public_id = self.accept()
        self.mark(public_id)
        metadata = {"emailer_id": public_id, "emailer_attempt": "1"}
        answer = self.post_postmark(
            "/v1/reports/pm",
            {"Authorization": BASIC},
            Recipient="Ann@Example.net",
            Metadata=metadata,
        )
        assert answer.json["new"] == 1
        assert self.state(public_id) == "delivered"


class TestWhoReports(ReportsCase):
    def test_who_reports_nothing_is_not_there(self) -> None:
        for name in ("relay", "nobody", "sandbox", "%2e%2e", "x" * 300):
            self.assert_problem(self.report(b"{}", f"/v1/reports/{name}"), 404, "not_found")
            assert self.call("HEAD", f"/v1/reports/{name}", token="").status == 404

    def test_a_url_can_be_probed(self) -> None:
        answer = self.call("HEAD", "/v1/reports/mg", token="")
        assert (answer.status, answer.octets) == (200, b"")
        refused = self.call("GET", "/v1/reports/mg", token="")
        self.assert_problem(refused, 405, "method_not_allowed")
        assert refused.headers["Allow"] == "HEAD, POST"

    def test_failures_are_limited_for_each_next_hop(self) -> None:
        """T-03: and tokens from the same address are still looked at."""
        for _ in range(60):
            assert self.report(b"{}").status == 401
        refused = self.report(b"{}")

        self.assert_problem(refused, 429, "too_many_requests")
        assert int(refused.headers["Retry-After"]) > 0
        long = self.report(b"x" * 1024 * 1024)
        assert long.status == 429
        assert self.post_postmark("/v1/reports/pm", {"Authorization": BASIC}).status == 200
        assert self.send(self.make_token("web")).status == 202
        self.clock.advance(m=1)
        assert self.report(self.sign(self.build("msg_x"))).status == 200

    def test_a_long_body_is_refused_while_it_comes(self) -> None:
        """T-13: a limit of its own, for what comes without a token."""
        answer = self.report(b"x" * (4 * 1024 * 1024 + 1))
        self.assert_problem(answer, 413, "payload_too_large")
        assert self.report(b"x" * (4 * 1024 * 1024)).status == 401


class _Asking:
    """Reports that ask back, as those of Amazon SNS do."""

    def __init__(self) -> None:
        self.is_reachable = True
        self.asked: list[bytes] = []

    async def prepare(self, headers: Mapping[str, str], body: bytes) -> None:
        if headers.get("x-host") == "elsewhere":
            raise NotVerified("the certificate is not theirs")
        if not self.is_reachable:
            raise Unavailable("the certificate can't be fetched")
        self.asked.append(body)

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        assert self.asked[-1] == body
        return ""

    async def confirm(self, body: bytes) -> bool:
        return body == b"confirm"

    def parse(self, body: bytes) -> list[Report]:
        return [Report(kind=ReportKind.UNKNOWN, event_id=body.decode())]


class TestAsking(ApiCase):
    def test_a_provider_may_be_asked_first(self) -> None:
        asking = _Asking()
        object.__setattr__(self.app, "reporting", Reporting(self.app.store, {"sns": asking}))

        def post(body: bytes, **headers: str) -> Answer:
            return self.call("POST", "/v1/reports/sns", octets=body, token="", headers=headers)

        assert post(b"confirm").json["new"] == 0
        assert post(b"event").json["new"] == 1
        assert post(b"event", **{"X-Host": "elsewhere"}).status == 401
        asking.is_reachable = False
        later = post(b"event 2")
        self.assert_problem(later, 503, "unavailable")
        assert later.headers["Retry-After"]
        asking.is_reachable = True
        assert post(b"event 2").json["new"] == 1


class TestStoreTrouble(ReportsCase):
    overrides: ClassVar = {**ReportsCase.overrides, "store.busy_timeout": "50ms"}

    def test_a_store_that_is_busy_is_asked_again(self) -> None:
        """F-WI-04: 503, so that they repeat; then nothing is lost and nothing counts twice."""
        public_id = self.accept()
        self.mark(public_id)
        body = self.sign(self.build(public_id), token="once")
        blocker = sqlite.connect(self.app.settings.store.path)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            answer = self.report(body)
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
        self.assert_problem(answer, 503, StoreBusy.code)
        assert int(answer.headers["Retry-After"]) > 0

        assert self.report(body).json["new"] == 1
        assert self.count(f"recipient.{Cause.DELIVERY_REPORTED}") == 1
