"""`/healthz`, `/readyz`."""

from typing import ClassVar

from emailerctl.models.clock import boot_id
from emailerctl.store.base import Alert, Consumer
from tests.api.case import ApiCase


class HealthTest(ApiCase):
    def test_alive(self) -> None:
        assert self.call("GET", "/healthz", token="").json == {"status": "ok"}

    def test_ready_with_details(self) -> None:
        self.accept()
        now_ms = self.clock.now_ms()
        self.wait(
            self.app.store.register(
                Consumer(
                    consumer_id=1,
                    host="h",
                    pid=1,
                    boot_id=boot_id(),
                    version="0",
                    started_ms=now_ms,
                    heartbeat_ms=now_ms,
                    lease_until_ms=1,
                )
            )
        )
        answer = self.call("GET", "/readyz", token="")

        assert answer.status == 200
        assert answer.json["ready"] is True
        assert (answer.json["store"], answer.json["disk"]) == ("ok", "ok")
        assert answer.json["queue"]["ready"] == 1
        assert answer.json["unknown"] == 0
        assert answer.json["consumers"] == {
            "alive": 1,
            "last_heartbeat_at": "2026-11-24T10:00:00.000Z",
        }

    def test_neither_alerts_nor_missing_consumers_make_it_false(self) -> None:
        alert = Alert(name="unknown", detail="535 secret words", since_ms=self.clock.now_ms())
        self.wait(self.app.store.raise_alert(alert))
        answer = self.call("GET", "/readyz", token="")

        assert answer.status == 200
        assert answer.json["consumers"] == {"alive": 0, "last_heartbeat_at": None}
        assert [one["name"] for one in answer.json["alerts"]] == ["unknown"]
        assert b"secret" not in answer.octets


class FullDiskTest(ApiCase):
    overrides: ClassVar = {"store.low_water_bytes": str(2**62)}

    def test_below_the_low_water_mark_nothing_is_accepted(self) -> None:
        """F-IN-05."""
        answer = self.send()

        self.assert_problem(answer, 503, "storage_full")
        assert int(answer.headers["Retry-After"]) > 0
        assert self.call("GET", "/v1/messages").json["data"] == []
        ready = self.call("GET", "/readyz", token="")
        assert ready.status == 503
        assert (ready.json["ready"], ready.json["disk"]) == (False, "low")
