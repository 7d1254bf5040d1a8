"""The stand-in for ForestMQ behaves as the real one does, and errs as it is asked to."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.desk import until
from tests.forestmq.fixture import ForestMq, StartForestMq
from tests.smtpd.fixture import ROOT

PROBE = ROOT.parent / "shared" / "tools" / "forestmq_probe.py"
DOORBELL = {"topic": "email.send", "v": 1, "id": "msg_1C6K9Q2M7XW4T"}


# One client for all: making one takes longer than what it is asked to do.
HTTP = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
PATIENT = httpx.Timeout(15)
IMPATIENT = httpx.Timeout(15, read=0.05)  # what was asked is there, and nobody waits for it


def put(
    server: ForestMq, message: object = DOORBELL, timeout: httpx.Timeout = PATIENT
) -> httpx.Response:
    return HTTP.post(f"{server.url}/provider", json={"message": message}, timeout=timeout)


def take(server: ForestMq, timeout: httpx.Timeout = PATIENT) -> dict[str, object]:
    found: dict[str, object] = HTTP.post(f"{server.url}/consumer", timeout=timeout).json()
    return found


@pytest.mark.timeout(120)
def test_it_passes_the_assertions_made_of_the_real_server(tmp_path: Path) -> None:
    """Every one of the probe's observations of releases 0.6.2 and 0.6.5 holds here."""
    if not PROBE.parent.is_dir():
        reason = f"no folder {PROBE.parent.name!r} beside the project: the probe is there"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    spawn = f"{sys.executable} -m tests.forestmq --port {{port}}"

    done = subprocess.run(
        [sys.executable, str(PROBE), "--spawn", spawn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )

    assert done.stdout.splitlines()[-1:] == ["27 passed, 0 failed"], done.stdout + done.stderr
    assert done.returncode == 0


async def test_it_comes_back_empty_after_a_death(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--restart-after", "0.2")
    put(server)
    with pytest.raises(httpx.TransportError):
        put(server, "a string ends the real one")

    def is_back() -> bool:
        try:
            return HTTP.get(f"{server.url}/health").json()["queue_length"] == 0
        except httpx.TransportError:
            return False

    await until(is_back)
    assert take(server) == {"error": "Queue is empty!"}
    assert server.stats()["lost"] == 1


def test_without_a_restart_the_process_ends_by_a_signal(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    with pytest.raises(httpx.TransportError):
        put(server, None)

    assert server.process.wait(10) < 0


async def test_it_is_killed_again_and_again(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--restart-after", "0.01", "--kill-every", "0.02")

    await until(lambda: server.stats()["deaths"] >= 5)


def test_hosts_replace_the_list(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--hosts", "forestmq,queue")

    refused = HTTP.get(f"{server.url}/health")
    taken = HTTP.get(f"{server.url}/health", headers={"Host": "forestmq"})

    assert (refused.status_code, refused.reason_phrase) == (403, "Host not allowed")
    assert taken.status_code == 200


def test_what_is_dropped_is_answered_as_queued(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--drop", "1")

    assert put(server).json()["message"] == DOORBELL
    assert take(server) == {"error": "Queue is empty!"}
    assert server.stats()["dropped"] == 1


def test_what_is_repeated_comes_so_often(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--repeat", "3")
    put(server)

    assert [take(server).get("message") for _ in range(4)] == [DOORBELL] * 3 + [None]


def test_reordered_messages_all_come(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--reorder")
    for n in range(20):
        put(server, {"n": n})

    numbers = [take(server)["message"]["n"] for _ in range(20)]  # type: ignore[index]

    assert sorted(numbers) == list(range(20)) != numbers


def test_an_abandoned_take_loses_the_message(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--abandon", "1")
    put(server)
    with pytest.raises(httpx.RemoteProtocolError):
        take(server)
    server.set(abandon=0)

    assert take(server) == {"error": "Queue is empty!"}


def test_a_put_without_an_answer_is_queued(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--unanswered", "1")
    with pytest.raises(httpx.RemoteProtocolError):
        put(server)

    assert take(server)["message"] == DOORBELL


def test_errors_come_with_status_200_and_nothing_is_done(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--error", "1")

    answer = put(server)

    assert answer.status_code == 200
    assert answer.json() == {"error": "expected 'message' key in JSON"}
    assert server.stats()["length"] == 0


def test_mangled_and_invented_messages_come(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--mangle", "1")
    put(server)
    assert take(server)["message"] != DOORBELL
    server.set(mangle=0, invent=1)

    assert "message" in take(server)
    assert server.stats()["length"] == 0


async def test_one_that_hangs_does_what_it_was_asked(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--hang")
    with pytest.raises(httpx.ReadTimeout):
        put(server, timeout=IMPATIENT)

    await until(lambda: server.stats()["length"] == 1)


async def test_a_stalled_request_stalls_those_behind_it(start_forestmq: StartForestMq) -> None:
    """Three takes that nobody waits for are done all the same."""
    server = start_forestmq()
    server.put(DOORBELL, times=4)
    server.set(stall=0.3)
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            take(server, timeout=IMPATIENT)
    server.set(stall=0)

    await until(lambda: server.stats()["asked"] == 3)
    assert take(server)["queue_length"] == 0


def test_it_prints_what_is_taken(start_forestmq: StartForestMq) -> None:
    """As release 0.6.5 does, whatever its log level says."""
    server = start_forestmq()
    put(server)
    take(server)

    assert f"taken: {json.dumps(DOORBELL, separators=(',', ':'))}" in server.log()


def test_chunks_and_old_clients_are_understood(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    body = json.dumps({"message": DOORBELL}).encode()

    answer = HTTP.post(f"{server.url}/provider", content=iter([body[:7], body[7:]]))
    assert answer.json()["message"] == DOORBELL

    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answered = b""
        while data := client.recv(4096):
            answered += data
    head = answered.partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.0 200")
    assert not re.search(rb"(?i)content-length|date", head)
