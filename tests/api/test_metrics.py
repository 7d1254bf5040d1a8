"""`/metrics` of the API: who may read it, and that it says what happened."""

import json
import re
from functools import partial
from typing import Any, ClassVar

from daemons.api.main import serve_figures
from daemons.figures import listen_at
from emailerctl.core.alerts import AlertName
from emailerctl.metrics.registry import METRICS, OF_BROKER, series_of
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus, Use
from emailerctl.store.base import Alert, Pause
from tests.api.case import ApiCase

_SAMPLE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def read(octets: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples by name, and by the values of their labels."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for line in octets.decode().splitlines():
        if not line.startswith("#"):
            found = _SAMPLE.fullmatch(line)
            assert found, line
            labels = tuple(value for _, value in _LABEL.findall(found["labels"] or ""))
            samples.setdefault(found["name"], {})[labels] = float(found["value"])
    return samples


class MetricsTest(ApiCase):
    def read(self, **more: Any) -> dict[str, dict[tuple[str, ...], float]]:
        """Ask as Prometheus does, and read what it says."""
        response = self.fetch("/metrics", **more)
        assert response.code == 200, response.body
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return read(response.body)

    def test_acceptance_is_counted_by_what_came_of_it(self) -> None:
        for _ in range(2):
            self.send(key="one")
        self.send(key="one", subject="another")
        self.send(to="nobody")
        self.call("POST", "/v1/messages", token="", octets=b"{}")
        self.call("POST", "/v1/messages", octets=b"{")
        self.call("GET", "/v1/messages", token="")
        said = self.read()

        counted = {labels[0]: n for labels, n in said["emailer_acceptances_total"].items() if n}
        assert counted == {
            "accepted": 1,
            "replayed": 1,
            "idempotency_key_reused": 1,
            "invalid": 1,
            "unauthorized": 1,
            "malformed_json": 1,
        }
        assert said["emailer_acceptance_seconds_count"] == {(): 2}
        assert said["emailer_events_total"]["message.accepted",] == 1
        assert said["emailer_events_total"]["recipient.accepted",] == 1
        assert said["emailer_commit_units_sum"][()] >= 1
        assert said["emailer_last_event_seq"] == {(): 2}

    async def change(self, sql: str) -> None:
        await self.app.driver.write(lambda tx: tx.run(sql))

    def test_the_queue_by_lane(self) -> None:
        for _ in range(3):
            self.accept()
        for sql in (
            "UPDATE work SET priority = 2, waiting_for = 'send_at', due_at = due_at + 3600000",
            "UPDATE work SET priority = 0, waiting_for = 'ready', due_at = due_at - 3600000 "
            "WHERE message_id = (SELECT min(message_id) FROM work)",
        ):
            self.run_script(partial(self.change, sql))
        self.clock.advance(s=90)
        pause = Pause(since_ms=self.clock.now_ms() - 5_000, until_ms=None, actor="a", reason="")
        self.wait(self.app.store.pause(pause))
        alert = Alert(name=AlertName.PAUSED, detail="", since_ms=1)
        self.wait(self.app.store.raise_alert(alert))
        said = self.read()

        queue = {labels: n for labels, n in said["emailer_queue_messages"].items() if n}
        assert queue == {("high", "ready"): 1, ("low", "send_at"): 2}
        assert said["emailer_queue_oldest_seconds"] == {
            ("high",): 90,
            ("normal",): 0,
            ("low",): 0,
        }
        assert said["emailer_queue_paused_seconds"] == {(): 5}
        assert said["emailer_unknown_recipients"] == said["emailer_held_messages"] == {(): 0}
        raised = [labels for labels, n in said["emailer_alert"].items() if n]
        assert raised == [(AlertName.PAUSED.value,)]
        assert len(said["emailer_alert"]) == len(AlertName)
        closed = said["emailer_breaker_state"]
        assert closed["relay", "closed"] == said["emailer_next_hop_state"]["relay", "open"] == 1
        assert said["emailer_consumers"] == {(): 0}

    def test_the_broker_as_the_processes_see_it(self) -> None:
        assert "emailer_broker_up" not in self.read()
        sources = [
            SourceStatus("http://a", ("email",), length=3),
            SourceStatus("http://b", ("bulk",), "refused", "it refuses", length=None),
            SourceStatus("http://c", ("email.job",), length=1, use=Use.JOBS),
        ]
        report = QueueReport(
            reporter="c",
            kind="forestmq",
            sources=sources,
            counts=QueueCounts(lost=2),
            is_falling_back=True,
        )
        now_ms = self.clock.now_ms()
        self.wait(self.app.store.report_queue(report, now_ms=now_ms, kept_ms=86_400_000))
        said = self.read()

        assert said["emailer_broker_up"] == {("doorbells",): 0, ("jobs",): 1}
        assert said["emailer_broker_queued_messages"] == {("doorbells",): 3, ("jobs",): 1}
        assert said["emailer_broker_fallback"] == {(): 1}
        assert said["emailer_broker_seen_in_a_day"]["lost",] == 2
        assert said["emailer_inbox_jobs"] == {("waiting",): 0, ("rejected",): 0}

    def test_every_metric_of_the_api_is_there(self) -> None:
        """Those of the consumer too, at nothing: it is one registry."""
        said = self.read()
        # Without a consumer, and without a broker.
        absent = {"emailer_consumer_heartbeat_seconds", *(one.name for one in OF_BROKER)}

        for metric in METRICS:
            for name in series_of(metric):
                assert name in said or metric.name in absent, name

    def test_who_may_read(self) -> None:
        """From this host; from elsewhere, or through a proxy, with a token that may read."""
        passed_on = {"X-Forwarded-For": "203.0.113.9"}
        sender, reader = self.make_token("sender", "send"), self.make_token("reader", "read")
        for token, status in ((None, 401), (sender, 403), (reader, 200), ("nonsense", 401)):
            headers = {**passed_on, **({"Authorization": f"Bearer {token}"} if token else {})}
            assert self.fetch("/metrics", headers=headers).code == status
        named = {"Host": "mail.example.org"}
        assert self.fetch("/metrics", headers=named).code == 401
        problem = json.loads(self.fetch("/metrics", headers=passed_on).body)
        assert problem["code"] == "unauthorized"


class OwnPortTest(ApiCase):
    overrides: ClassVar = {"metrics.open": "true"}

    def test_everybody_may_read_there_where_that_is_set(self) -> None:
        """But not at the API's own port, which may be reachable from anywhere."""
        passed_on = {"Via": "1.1 proxy"}
        sockets = listen_at("127.0.0.1:0", setting="")

        async def script() -> None:
            async with serve_figures(self.app, sockets):
                url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
                answer = await self.http_client.fetch(f"{url}/metrics", headers=passed_on)
                assert read(answer.body)["emailer_last_event_seq"] == {(): 0}
                refused = await self.http_client.fetch(
                    f"{url}/v1/messages", headers=passed_on, raise_error=False
                )
                assert refused.code == 404

        self.run_script(script)
        assert self.fetch("/metrics", headers=passed_on).code == 401
