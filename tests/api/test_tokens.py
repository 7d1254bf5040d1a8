"""Tokens over HTTP: failures are limited, revocation counts at once (T-02, T-03, F-IN-14)."""

from typing import ClassVar

from emailerctl.core import tokens
from tests.api.case import ApiCase


class FailuresTest(ApiCase):
    overrides: ClassVar = {"limits.failed_authentications": "3"}

    def test_failures_are_limited_by_address(self) -> None:
        """T-03; a token that has proved good is not locked out with them."""
        assert self.call("GET", "/v1/messages").status == 200
        for _ in range(3):
            answer = self.call("GET", "/v1/messages", token="nonsense")
            self.assert_problem(answer, 401, "unauthorized")
        answer = self.call("GET", "/v1/messages", token="nonsense")

        self.assert_problem(answer, 429, "too_many_requests")
        assert answer.headers["Retry-After"] == "61"
        assert self.call("GET", "/v1/messages").status == 200


class RateTest(ApiCase):
    overrides: ClassVar = {"limits.requests_per_second": "2"}

    def test_requests_of_one_token_are_limited(self) -> None:
        for _ in range(2):
            assert self.call("GET", "/v1/messages").status == 200
        answer = self.call("GET", "/v1/messages")

        self.assert_problem(answer, 429, "too_many_requests")
        assert answer.headers["Retry-After"] == "1"
        self.clock.advance(s=1)
        assert self.call("GET", "/v1/messages").status == 200


class RevocationTest(ApiCase):
    def test_revoked_in_flight_stores_nothing(self) -> None:
        """F-IN-14: this process has not noticed yet; the commit has."""
        web = self.make_token("web")
        self.accept(web)
        self.wait(tokens.revoke(self.app.store, self.clock, "web"))
        answer = self.send(web)

        self.assert_problem(answer, 401, "unauthorized")
        everything = self.call("GET", "/v1/messages").json["data"]
        assert len(everything) == 1

    def test_revoked_reader_is_refused_a_moment_later(self) -> None:
        web = self.make_token("web")
        assert self.call("GET", "/v1/messages", token=web).status == 200
        self.wait(tokens.revoke(self.app.store, self.clock, "web"))
        self.clock.advance(ms=250)

        answer = self.call("GET", "/v1/messages", token=web)
        self.assert_problem(answer, 401, "unauthorized")

    def test_expired_token_is_refused(self) -> None:
        web = self.make_token("web", expires_ms=self.clock.now_ms() + 1000)
        self.accept(web)
        self.clock.advance(s=1)

        self.assert_problem(self.send(web), 401, "unauthorized")

    def test_token_of_another_network_is_refused(self) -> None:
        far = self.make_token("far", limits={"networks": ["192.0.2.0/24"]})
        near = self.make_token("near", limits={"networks": ["127.0.0.0/8"]})

        self.assert_problem(self.send(far), 403, "forbidden")
        self.accept(near)

    def test_limits_of_a_token_are_named(self) -> None:
        """T-02."""
        narrow = self.make_token(
            "narrow",
            "send",
            limits={"from_domains": ["example.org"], "recipients": ["*@example.net"]},
        )
        self.accept(narrow)
        for fields, said in (
            ({"to": "ann@example.com"}, "ann@example.com"),
            ({"from": "shop@example.com"}, "shop@example.com"),
        ):
            answer = self.send(narrow, **fields)
            self.assert_problem(answer, 403, "forbidden")
            assert said in answer.json["detail"]

    def test_contact_form_has_its_recipient(self) -> None:
        """T-02: `fixed_to`."""
        form = self.make_token("form", "send", "read", limits={"fixed_to": ["us@example.org"]})
        public = self.accept(form, to=None)
        shown = self.call("GET", f"/v1/messages/{public}", token=form)

        assert [one["address"] for one in shown.json["recipients"]] == ["us@example.org"]
        self.assert_problem(self.send(form, to="eve@example.net"), 403, "forbidden")

    def test_last_use_is_kept(self) -> None:
        self.accept(self.make_token("web", "send"))
        self.wait(self.app.tokens.flush_used())
        _epoch, kept = self.wait(self.app.store.load_tokens())

        used = {token.name: token.last_used_ms for token in kept}
        assert used["web"] == self.clock.now_ms()
