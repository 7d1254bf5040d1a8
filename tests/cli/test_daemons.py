"""`serve` and `consume`: flags over settings, and what keeps them from starting."""

import re
import signal
import subprocess

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
