"""`/v1/jobs/{id}`: a service asks what became of its job."""

from emailerctl.store.base import InboxJob, Rejection
from tests.api.case import MESSAGE, ApiCase


class JobsTest(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.shop = self.make_token("shop", "send", "read")
        self.news = self.make_token("news", "read")

    def ask(self, job_id: str, token: str) -> tuple[int, object]:
        answer = self.call("GET", f"/v1/jobs/{job_id}", token=token)
        return answer.status, answer.json

    def reject(self, inbox_id: int, rejection: Rejection) -> None:
        job = InboxJob(
            inbox_id=inbox_id, topic="t", raw=b"", received_ms=1, due_ms=1, changed_ms=1
        )
        self.wait(self.app.store.add_job(job))
        self.wait(self.app.store.reject_job(inbox_id, rejection, now_ms=1))

    def test_an_accepted_one_is_known_whichever_way_it_came(self) -> None:
        sent = self.call(
            "POST", "/v1/messages", MESSAGE, token=self.shop, headers={"Idempotency-Key": "j:1"}
        )

        assert self.ask("j%3A1", self.shop) == (
            200,
            {
                "id": "j:1",
                "state": "accepted",
                "message_id": sent.json["id"],
                "code": None,
                "errors": [],
            },
        )

    def test_a_rejected_one_has_its_reason(self) -> None:
        self.reject(1, Rejection(reason="unsigned", key_id="shop", job_id="j-1"))

        status, found = self.ask("j-1", self.shop)

        assert status == 200
        assert (found["state"], found["code"]) == ("rejected", "unsigned")  # type: ignore[index]

    def test_foreign_and_absent_ones_get_the_same_answer(self) -> None:
        """T-02: a token sees its own service's jobs."""
        self.reject(1, Rejection(reason="invalid", key_id="shop", job_id="j-1", service="shop"))

        for job_id in ("j-1", "j-2", "%00", "x" * 300):
            answer = self.call("GET", f"/v1/jobs/{job_id}", token=self.news)
            self.assert_problem(answer, 404, "not_found")
        answer = self.call("GET", "/v1/jobs/j-1?service=shop", token=self.news)
        self.assert_problem(answer, 400, "bad_request")
        assert self.call("GET", "/v1/jobs/j-1?service=shop").status == 200

    def test_it_takes_a_token_that_reads(self) -> None:
        blind = self.make_token("blind", "send")

        self.assert_problem(self.call("GET", "/v1/jobs/j", token=blind), 403, "forbidden")
        self.assert_problem(self.call("GET", "/v1/jobs/j", token=""), 401, "unauthorized")
        answer = self.call("POST", "/v1/jobs/j", {}, token=self.shop)
        self.assert_problem(answer, 405, "method_not_allowed")
