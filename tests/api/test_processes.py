"""The daemon as processes: twins across them, workers, ports, crashes, stops."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

import httpx
import pytest

from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.settings import Settings
from emailerctl.store import migrations
from tests.api.serving import ApiProcess, until
from tests.conftest import build_settings

MESSAGE = {"from": "a@example.org", "to": "b@example.net", "subject": "s", "text": "t"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

Start = Callable[..., ApiProcess]


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    settings = build_settings(tmp_path)
    migrations.migrate(settings.store.path)
    return settings


@pytest.fixture
def secret(place: Settings) -> str:
    async def make() -> str:
        async with wiring.open_app(place) as app:
            minted = await tokens.create(
                app.store, app.clock, SystemRandom(), name="t", scopes=["send", "read"]
            )
            return minted.text

    return asyncio.run(make())


@pytest.fixture
def start(place: Settings) -> Iterator[Start]:
    started: list[ApiProcess] = []

    def start(**options: int) -> ApiProcess:
        started.append(ApiProcess(place, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def post(
    process: ApiProcess, secret: str, *, key: str | None = None, subject: str = "s"
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    with process.client(secret) as client:
        body = {**MESSAGE, "subject": subject}
        return client.post("/v1/messages", json=body, headers=headers)


def lines(process: ApiProcess) -> list[dict[str, object]]:
    """Return the process log."""
    text = process.log.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_twins_across_processes_are_one_message(start: Start, secret: str) -> None:
    """F-IN-11."""
    both = [start(), start()]
    with ThreadPoolExecutor(16) as pool:
        for key in ("one", "two", "three"):
            calls = [pool.submit(post, both[n % 2], secret, key=key) for n in range(16)]
            answers = [call.result() for call in calls]

            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["id"] for answer in answers}) == 1
            fresh = [a for a in answers if "Idempotent-Replayed" not in a.headers]
            assert len(fresh) == 1


def test_twins_that_differ_across_processes(start: Start, secret: str) -> None:
    """F-IN-12."""
    both = [start(), start()]
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(post, both[n % 2], secret, key="k", subject=f"number {n}")
            for n in range(8)
        ]
        answers = [call.result() for call in calls]
    refused = [answer for answer in answers if answer.status_code != 202]

    assert len(refused) == 7
    for answer in refused:
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/subject"]


def test_acknowledged_messages_outlive_a_kill(start: Start, secret: str) -> None:
    """P1, F-IN-02: what was answered is there, and its key knows it."""
    process = start()
    answers = [post(process, secret, key=f"k{n}") for n in range(5)]
    process.kill()
    again = start()

    for n, answer in enumerate(answers):
        replayed = post(again, secret, key=f"k{n}")
        assert replayed.json()["id"] == answer.json()["id"]
        assert replayed.headers["Idempotent-Replayed"] == "true"


def test_killed_at_random_under_load_the_keys_tell_the_truth(start: Start, secret: str) -> None:
    """F-IN-01, F-IN-02, F-IN-03: stored whole or not at all, and never twice."""
    process = start()
    answered: dict[str, str] = {}

    def send(key: str) -> None:
        with suppress(httpx.HTTPError):
            answered[key] = post(process, secret, key=key).json()["id"]

    with ThreadPoolExecutor(8) as pool:
        for n in range(200):
            pool.submit(send, f"k{n}")
        until(lambda: len(answered) > 20)
        process.kill()
    again = start()
    ids = {f"k{n}": post(again, secret, key=f"k{n}").json()["id"] for n in range(200)}
    with again.client(secret) as client:
        listed = client.get("/v1/messages?limit=200").json()["data"]

    assert len(answered) < 200
    assert {key: ids[key] for key in answered} == answered
    assert {one["id"] for one in listed} == set(ids.values())
    assert len(listed) == 200


def test_taken_port_is_said(start: Start, secret: str) -> None:
    first = start()
    second = start(port=first.port)

    assert second.wait() == 78
    log = second.log.read_text()
    assert f"port {first.port} of 127.0.0.1 is taken" in log
    assert "--port" in log
    assert post(first, secret).status_code == 202


def test_missing_store_is_said_and_not_created(place: Settings, start: Start) -> None:
    """F-IN-08."""
    place.store.path.unlink()
    for workers in (1, 2):
        process = start(workers=workers)
        assert process.wait() == 78
        assert "store migrate" in process.log.read_text()
    assert not place.store.path.exists()


def test_workers_share_a_port_and_a_killed_one_comes_back(start: Start, secret: str) -> None:
    process = start(workers=2)
    before = process.workers()
    assert len(before) == 2
    assert {post(process, secret).status_code for _ in range(10)} == {202}

    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(process.workers()) == 1 or set(process.workers()) != set(before))
    assert post(process, secret).status_code == 202  # by the other one
    until(lambda: len(process.workers()) == 2)
    after = process.workers()
    assert before[1] in after
    assert before[0] not in after
    until(lambda: [line["type"] for line in lines(process)].count("api.started") == 3)
    os.kill(before[1], signal.SIGKILL)  # now the new one serves alone
    until(lambda: before[1] not in process.workers())
    assert post(process, secret).status_code == 202
    ended = [line for line in lines(process) if line["type"] == "worker.ended"]
    assert [line["exit_code"] for line in ended][:1] == [-signal.SIGKILL]

    assert process.stop() == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", process.port), timeout=5)


def test_workers_end_with_their_parent(start: Start, secret: str) -> None:
    process = start(workers=2)
    workers = process.workers()
    process.kill()

    until(lambda: not any(_is_running(pid) for pid in workers))


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_what_is_under_way(
    start: Start, secret: str, workers: int, number: signal.Signals
) -> None:
    """Nobody who was answered is lost, nobody is left waiting, streams end."""
    process = start(workers=workers)
    answers: list[int] = []

    def send() -> None:
        with suppress(httpx.TransportError):
            while True:
                answers.append(post(process, secret).status_code)

    with (
        process.client(secret) as client,
        ThreadPoolExecutor(4) as pool,
        client.stream("GET", "/v1/events/stream") as stream,
    ):
        for _ in range(4):
            pool.submit(send)
        until(lambda: len(answers) > 20)
        process.signal(number)
        assert process.wait() == 0
        for _ in stream.iter_raw():
            pass

    assert set(answers) <= {202, 503}
    again = start()
    with again.client(secret) as client:
        listed = client.get("/v1/messages?limit=200").json()["data"]
    assert len(listed) >= min(answers.count(202), 200)


@pytest.mark.parametrize("workers", [1, 2])
def test_second_signal_ends_at_once(start: Start, secret: str, workers: int) -> None:
    process = start(workers=workers)
    with socket.create_connection(("127.0.0.1", process.port)) as idle:
        process.signal(signal.SIGSTOP)
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        process.signal(signal.SIGCONT)
        process.wait(5)
        idle.settimeout(5)
        # Closed; or reset, where nobody had accepted it yet when the process was stopped.
        with suppress(ConnectionResetError):
            assert idle.recv(1) == b""


def test_failed_sync_ends_the_process_and_the_key_tells_the_truth(
    start: Start, secret: str
) -> None:
    """F-IN-06."""
    process = start()
    first = post(process, secret, key="before")
    process.breaks.touch()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(post, process, secret, key=f"k{n}") for n in range(4)]
        answers = []
        for call in calls:
            with suppress(httpx.TransportError):
                answers.append(call.result())

    unknown = [a for a in answers if a.json().get("code") == "outcome_unknown"]
    assert unknown
    assert {answer.status_code for answer in answers} == {503}
    for answer in unknown:
        assert answer.headers["Location"] == f"/v1/messages/{answer.json()['id']}"
    assert process.wait() == 75
    again = start()
    assert post(again, secret, key="before").json()["id"] == first.json()["id"]
    for n in range(4):
        answer = post(again, secret, key=f"k{n}")
        assert answer.status_code == 202
        assert "Idempotent-Replayed" not in answer.headers


def test_ready_and_stopping_are_told_to_systemd(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        ear.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        process = start()
        said = {ear.recv(100) for _ in range(3)}
        process.stop()
        while b"STOPPING=1" not in said:
            said.add(ear.recv(100))

    assert said == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


def test_figures_are_those_of_all_workers(start: Start, secret: str) -> None:
    """Whichever answers; and what a worker that was killed had counted still counts."""
    process = start(workers=2)

    def read() -> dict[str, float]:
        with process.client(secret) as client:
            text = client.get("/metrics").text
        pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in pairs}

    def read_all(name: str) -> set[float]:
        return {read()[name] for _ in range(8)}

    for _ in range(10):
        assert post(process, secret).status_code == 202
    accepted = 'emailer_acceptances_total{outcome="accepted"}'
    assert read_all(accepted) == {10}
    until(lambda: read_all("emailer_processes") == {2}, within_s=40)

    os.kill(process.workers()[0], signal.SIGKILL)
    until(lambda: "worker.ended" in process.log.read_text(), within_s=40)
    until(lambda: read_all("emailer_processes") == {2}, within_s=40)
    assert post(process, secret).status_code == 202

    assert read_all(accepted) == {11}
    assert read_all('emailer_events_total{type="message.accepted"}') == {11}
