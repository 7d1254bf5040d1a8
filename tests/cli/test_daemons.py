"""`serve` and `consume`: flags over settings, and what keeps them from starting."""

import re
import signal
import subprocess
import time
from collections.abc import Callable

import httpx
import pytest

from tests.cli.world import WITHIN_S, World, build_environment


def start(world: World, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        world.command(*words),
        stdout=subprocess.PIPE,
        text=True,
        cwd=world.folder,
        env=build_environment(),
    )


@pytest.mark.parametrize("command", ["serve", "consume"])
def test_a_daemon_needs_a_store(bare: World, command: str) -> None:
    refused = bare.run(command, *(("--port", "0") if command == "serve" else ()))

    assert refused.code == 78
    assert "emailerctl store migrate" in refused.err
    assert "Traceback" not in refused.err


def test_flags_are_checked_as_settings_are(world: World) -> None:
    assert world.run("serve", "--port", "99999").code == 2
    wrong = world.run("serve", "--workers", "1000")
    assert wrong.code == 78
    assert "api.workers" in wrong.err


def test_the_api_runs_where_its_flags_say(world: World) -> None:
    with start(world, "serve", "--host", "127.0.0.1", "--port", "0") as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "api.started" in line)
        process.send_signal(signal.SIGTERM)

        assert int(re.findall(r'"port":(\d+)', line)[0]) > 1023
        assert process.wait(WITHIN_S) == 0


def test_the_consumer_is_seen_while_it_runs(world: World) -> None:
    with start(world, "consume", "--concurrency", "2") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "consumer.started" in line)
        [consumer] = world.ok("status", "-o", "json").json["consumers"]
        process.send_signal(signal.SIGTERM)

        assert consumer["pid"] == process.pid
        assert process.wait(WITHIN_S) == 0
    assert world.ok("status", "-o", "json").json["consumers"] == []


def test_consumers_tell_their_figures_where_they_are_told_to(world: World) -> None:
    """Two workers on one port: whichever is asked says what both have done."""
    head, _, tail = world.file.read_text().partition('kind = "smtp"')
    tail = tail[tail.index("[routing]") :]
    world.file.write_text(
        f'{head}kind = "sandbox"\n{tail}[consumer]\nmetrics_listen = "127.0.0.1:0"\n'
    )
    for n in range(6):
        world.submit(f"ann{n}@example.org")
    with start(world, "consume", "--workers", "2") as process:
        try:
            _read_figures(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()


def _read_figures(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = next(line for line in process.stdout if "consumer.metrics" in line)
    [port] = re.findall(r'"port":(\d+)', line)
    wanted = (
        'emailer_attempts_total{next_hop="relay",outcome="accepted"} 6\n',
        'emailer_handover_seconds_count{lane="normal",next_hop="relay"} 6\n',
        'emailer_events_total{type="recipient.handed_over"} 6\n',
        "emailer_processes 2\n",
    )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=WITHIN_S) as client:

        def read() -> str:
            return client.get("/metrics").text

        eventually(lambda: all(part in read() for part in wanted), saying=read)
        assert client.get("/").status_code == 404
        assert client.get("/metrics", headers={"Via": "x"}).status_code == 401


def eventually(holds: Callable[[], bool], *, saying: Callable[[], str]) -> None:
    """Wait for what the daemons do."""
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, saying()
        time.sleep(0.05)


def test_a_place_for_figures_is_checked(world: World) -> None:
    refused = world.run("consume", EMAILER_CONSUMER__METRICS_LISTEN="9464")

    assert refused.code == 78
    assert "write for example 127.0.0.1:9464" in refused.err
