"""`/v1/suppressions`, `/v1/providers`."""

from tests.api.case import ApiCase


class SuppressionsTest(ApiCase):
    def add(self, **fields: object) -> object:
        answer = self.call("POST", "/v1/suppressions", fields)
        assert answer.status == 201, answer.octets
        return answer.json

    def test_added_listed_and_removed(self) -> None:
        added = self.add(address="Ann@Example.net", detail="asked by phone", expires_in="30d")

        assert added == {
            "address": "Ann@example.net",
            "service": None,
            "reason": "manual",
            "detail": "asked by phone",
            "blocks": "all",
            "created_at": "2026-11-24T10:00:00.000Z",
            "expires_at": "2026-12-24T10:00:00.000Z",
            "actor": "root",
            "message_id": None,
            "provider": None,
        }
        assert self.send().json["state"] == "failed"
        removed = self.call("DELETE", "/v1/suppressions/ann%40example.net")
        assert (removed.status, removed.octets) == (204, b"")
        assert self.send().json["state"] == "queued"

    def test_listed_in_pages(self) -> None:
        for name in "abcde":
            self.add(address=f"{name}@example.net", service="shop")
        first = self.call("GET", "/v1/suppressions?limit=3&service=shop").json
        second = self.call("GET", f"/v1/suppressions?cursor={first['next_cursor']}").json

        assert [one["address"][0] for one in first["data"] + second["data"]] == list("abcde")
        assert second["next_cursor"] is None
        narrowed = self.call("GET", "/v1/suppressions?address=c").json
        assert [one["address"] for one in narrowed["data"]] == ["c@example.net"]

    def test_all_faults_at_once(self) -> None:
        answer = self.call(
            "POST",
            "/v1/suppressions",
            {"address": "nobody", "expires_in": "0s", "reason": "a\nb", "x": 1, "service": 7},
        )

        self.assert_problem(answer, 422, "invalid")
        assert set(answer.pointers) == {"/address", "/expires_in", "/reason", "/x", "/service"}
        assert self.call("POST", "/v1/suppressions", {}).pointers == ["/address"]

    def test_what_is_not_there_is_404(self) -> None:
        self.add(address="ann@example.net", service="shop")

        answer = self.call("DELETE", "/v1/suppressions/ann@example.net")
        self.assert_problem(answer, 404, "not_found")
        answer = self.call("DELETE", "/v1/suppressions/ann@example.net?service=shop")
        assert answer.status == 204

    def test_whoever_unsubscribed_stays_so(self) -> None:
        self.add(address="ann@example.net", reason="bounce")
        self.add(address="ann@example.net", reason="unsubscribe")

        answer = self.call("DELETE", "/v1/suppressions/ann@example.net?blocks=all")

        assert answer.status == 204
        (left,) = self.call("GET", "/v1/suppressions").json["data"]
        assert (left["reason"], left["blocks"]) == ("unsubscribe", "lists")
        answer = self.call("DELETE", "/v1/suppressions/ann@example.net?blocks=some")
        self.assert_problem(answer, 400, "bad_request")
        assert self.call("DELETE", "/v1/suppressions/ann@example.net").status == 204

    def test_bad_parameters(self) -> None:
        for query in ("limit=0", "cursor=zz", "cursor=5b5d", "cursor=226122", "x=1"):
            answer = self.call("GET", f"/v1/suppressions?{query}")
            self.assert_problem(answer, 400, "bad_request")

    def test_administration_needs_its_scope(self) -> None:
        others = self.make_token("others", "send", "read:all", "operate", "content")
        for method, path in (
            ("GET", "/v1/suppressions"),
            ("POST", "/v1/suppressions"),
            ("DELETE", "/v1/suppressions/a@example.net"),
            ("POST", "/v1/providers/relay/disable"),
        ):
            self.assert_problem(self.call(method, path, token=others), 403, "forbidden")


class ProvidersTest(ApiCase):
    def test_disabled_and_enabled(self) -> None:
        answer = self.call("POST", "/v1/providers/relay/disable", {"reason": "moves tonight"})

        assert answer.json == {
            "name": "relay",
            "kind": "smtp",
            "state": "disabled",
            "reason": "moves tonight",
            "changed_at": "2026-11-24T10:00:00.000Z",
            "actor": "root",
            "default": True,
            "breaker": {
                "state": "closed",
                "reason": None,
                "since": None,
                "until": None,
                "failures": 0,
            },
            "rate": None,
            "domain_rates": {},
        }
        listed = {one["name"]: one for one in self.call("GET", "/v1/providers").json["data"]}
        assert listed["relay"]["state"] == "disabled"
        assert listed["sandbox"]["state"] == "open"
        assert self.call("POST", "/v1/providers/relay/enable").json["state"] == "open"

    def test_acceptance_goes_on_while_one_is_disabled(self) -> None:
        self.call("POST", "/v1/providers/relay/disable")

        assert self.accept()

    def test_unknown_one_is_404_with_the_nearest(self) -> None:
        answer = self.call("POST", "/v1/providers/relais/disable")

        self.assert_problem(answer, 404, "not_found")
        assert "relay" in answer.json["hint"]

    def test_all_faults_at_once(self) -> None:
        answer = self.call("POST", "/v1/providers/relay/disable", {"reason": 5, "why": "?"})

        self.assert_problem(answer, 422, "invalid")
        assert set(answer.pointers) == {"/reason", "/why"}
