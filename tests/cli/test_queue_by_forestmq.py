"""`queue stats`, `queue foreign` and `queue discard`, with ForestMQ between."""

from collections.abc import Callable

import pytest

from emailerctl.models.doorbell import (
    ForeignMessage,
    QueueCounts,
    QueueReport,
    SourceStatus,
)
from emailerctl.wiring import App
from tests.cli.world import World
from tests.forestmq.fixture import ForestMq, StartForestMq, start_forestmq  # noqa: F401

Connect = Callable[[ForestMq], None]


@pytest.fixture
def connect(world: World) -> Connect:
    """Set the world's queue up to go by way of a ForestMQ."""

    def connect(server: ForestMq) -> None:
        with world.file.open("a") as file:
            file.write(
                '[queue]\nkind = "forestmq"\n[queue.forestmq.topics]\n'
                f'"email.send" = "{server.url}"\n'
            )

    return connect


def report(world: World, *, is_falling_back: bool, age_ms: int = 0, **counts: int) -> None:
    """Leave a report as a consumer does."""

    async def work(app: App) -> None:
        source = SourceStatus("http://127.0.0.1:1", ("email.send",))
        made = QueueReport(
            f"con_{age_ms}", "forestmq", [source], QueueCounts(**counts), is_falling_back
        )
        now_ms = app.clock.now_ms() - age_ms
        await app.store.report_queue(made, now_ms=now_ms, kept_ms=86_400_000)

    world.work(work)


def test_the_embedded_queue_has_no_broker(world: World) -> None:
    assert world.ok("queue", "stats", "-o", "json").json["broker"] is None


def test_stats_show_health_length_and_losses(
    world: World,
    start_forestmq: StartForestMq,  # noqa: F811
    connect: Connect,
) -> None:
    server = start_forestmq()
    server.put({"topic": "email.send"}, times=3)
    connect(server)
    report(world, is_falling_back=False, lost=2, taken=5)
    report(world, is_falling_back=True, age_ms=600_000, lost=1)

    broker = world.ok("queue", "stats", "-o", "json").json["broker"]

    assert broker["kind"] == "forestmq"
    (source,) = broker["sources"]
    assert (source["ok"], source["length"]) == (True, 3)
    assert (broker["counts"]["lost"], broker["counts"]["taken"]) == (3, 5)
    assert broker["fallback"] is False  # the one that fell back is gone
    shown = world.ok("queue", "stats")
    assert server.url in shown.out
    assert "3 lost" in shown.err
    assert "fallback: off" in shown.err


def test_stats_name_a_wrong_hosts_list_and_the_fallback(
    world: World,
    start_forestmq: StartForestMq,  # noqa: F811
    connect: Connect,
) -> None:
    connect(start_forestmq("--hosts", "forestmq"))
    report(world, is_falling_back=True)

    shown = world.ok("queue", "stats")

    assert "--hosts" in shown.out
    assert "403 by a wrong --hosts" in shown.err
    assert "fallback: on" in shown.err


def test_stats_show_what_carries_jobs_beside_the_embedded_queue(
    world: World,
    start_forestmq: StartForestMq,  # noqa: F811
) -> None:
    server = start_forestmq()
    with world.file.open("a") as file:
        file.write(f'[ingest.forestmq.topics]\n"email.job" = "{server.url}"\n')
    report(world, is_falling_back=False, jobs_kept=7, jobs_unsigned=2, jobs_take_failed=1)

    shown = world.ok("queue", "stats")

    assert server.url in shown.out
    assert "7 jobs kept" in shown.err
    assert "2 of them unsigned" in shown.err
    assert "doorbells rung" not in shown.err


def test_stats_answer_while_forestmq_is_down(
    world: World,
    start_forestmq: StartForestMq,  # noqa: F811
    connect: Connect,
) -> None:
    server = start_forestmq()
    connect(server)
    server.kill()

    shown = world.ok("queue", "stats")

    assert "ready" in shown.out
    assert "no consumer and no API has reported" in shown.err


def park(world: World, body: str) -> None:
    async def work(app: App) -> None:
        one = ForeignMessage(
            foreign_id=0,
            at_ms=app.clock.now_ms(),
            topic="orders",
            url="http://127.0.0.1:1",
            reason="another topic",
            body=body,
        )
        assert await app.store.park(one, most=10)

    world.work(work)


def test_foreign_messages_are_listed_and_discarded(world: World) -> None:
    for body in ('{"a": "\x1b[2Jevil"}', '{"b": 2}'):
        park(world, body)

    listed = world.ok("queue", "foreign", "-o", "json").json["data"]
    shown = world.ok("queue", "foreign").out

    assert [one["topic"] for one in listed] == ["orders", "orders"]
    assert "another topic" in shown
    assert "\x1b[2J" not in shown
    ids = "".join(f"{one['id']}\n" for one in listed)
    assert "removed 2" in world.ok("queue", "discard", "-", "--yes", stdin=ids).out
    assert world.work(lambda app: app.store.count_foreign()) == 0


def test_what_is_no_foreign_message_is_said(world: World) -> None:
    assert world.run("queue", "discard", "frn_0000000000001", "--yes").code == 66


def test_no_more_are_kept_than_there_is_room_for(world: World) -> None:
    for _ in range(10):
        park(world, "{}")

    async def work(app: App) -> bool:
        (one, *_) = (await app.store.list_foreign(cursor=None, limit=1)).data
        return await app.store.park(one, most=10)

    assert world.work(work) is False
