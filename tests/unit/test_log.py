"""The process log: its lines, what it hides, and that nobody ever waits for it."""

import fcntl
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from emailerctl import log

MOMENT_MS = 1_795_600_800_123
EVENT = {
    "seq": 4711,
    "type": "recipient.deferred",
    "at": "2026-01-02T12:00:00.000Z",
    "message_id": "msg_1C6K9Q2M7XW4T",
    "recipient": "ann@example.org",
    "from": "sending",
    "to": "queued",
    "reply": "452 4.2.2 <ann@example.org>: mailbox full",
    "data": {"due_at": "2026-01-02T12:03:10.000Z"},
}


class StoppedClock:
    def now_ms(self) -> int:
        return MOMENT_MS

    def boot_ms(self) -> int:
        return 0


class Pipe:
    """A pipe as standard output would be; read only when asked to."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reader = os.fdopen(reading, "rb")
        self.stream = os.fdopen(writing, "wb")

    def lines(self) -> list[dict[str, Any]]:
        """Close the log and return what it wrote."""
        log.close()
        self.stream.close()
        return [json.loads(line) for line in self.reader.read().splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    yield pipe
    log.close()
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)
    pipe.stream.close()
    pipe.reader.close()


def start(pipe: Pipe, **options: Any) -> None:
    log.setup(pipe.stream, clock=StoppedClock(), **options)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        pause.wait(0.002)


def test_a_line_has_time_level_and_type_in_front(pipe: Pipe) -> None:
    start(pipe)

    log.log("consumer.started", pid=7, ready=True)
    log.close()
    pipe.stream.close()

    assert pipe.reader.read() == (
        b'{"at":"2026-11-25T10:00:00.123Z","level":"info","type":"consumer.started",'
        b'"pid":7,"ready":true}\n'
    )


def test_an_event_keeps_its_own_time_and_names(pipe: Pipe) -> None:
    start(pipe)

    log.write_events([EVENT, {**EVENT, "type": "recipient.unanswered"}])
    first, second = pipe.lines()

    assert first == {**EVENT, "level": "info"}
    assert second["level"] == "warning"


def test_what_is_below_the_level_is_not_written(pipe: Pipe) -> None:
    start(pipe, level="warning")

    log.log("a.b")
    log.write_events([EVENT])
    logging.getLogger("tornado.access").info("GET /")
    log.log("c.d", "error")

    assert [line["type"] for line in pipe.lines()] == ["c.d"]


def test_without_setup_nothing_happens() -> None:
    log.log("a.b")
    log.write_events([EVENT])

    assert log.count_dropped() == 0


def test_masked_addresses_are_masked_wherever_they_stand(pipe: Pipe) -> None:
    start(pipe, addresses="masked")

    log.write_events([{**EVENT, "data": {"sent_to": ["bob@example.net"], "attempt": 2}}])
    (line,) = pipe.lines()

    assert line["recipient"] == "a***@example.org"
    assert line["reply"] == "452 4.2.2 <a***@example.org>: mailbox full"
    assert line["data"] == {"sent_to": ["b***@example.net"], "attempt": 2}


def test_hashed_addresses_are_equal_for_equal_ones_and_depend_on_the_key(pipe: Pipe) -> None:
    start(pipe, addresses="hashed", hash_key="one")
    log.log(
        "a.b", recipient="ann@example.org", again="<ann@example.org>", other="bob@example.org"
    )
    log.setup(pipe.stream, addresses="hashed", hash_key="two")
    log.log("a.b", recipient="ann@example.org")
    one, two = pipe.lines()

    assert one["recipient"].startswith("hash:")
    assert one["again"] == f"<{one['recipient']}>"
    assert len({one["recipient"], one["other"], two["recipient"]}) == 3
    assert "ann" not in str(one) + str(two)


def test_a_secret_is_not_written(pipe: Pipe) -> None:
    start(pipe)

    log.log("a.b", password=SecretStr("hunter2"), table={"token": SecretStr("hunter2")})
    logging.getLogger("x").warning("with %s", SecretStr("hunter2"))
    log.close()
    pipe.stream.close()

    written = pipe.reader.read()
    assert written.count(b"\n") == 2
    assert b"hunter2" not in written


def test_a_reply_cannot_command_a_terminal_and_reads_back_the_same(pipe: Pipe) -> None:
    """T-19: escapes, C1 controls, bidirectional overrides, a line break that forges a line."""
    hostile = "550 \x1b[2J\x9b31m\u202egnp.exe\u2028 \x7f\n{}"
    start(pipe)

    log.log("a.b", reply=hostile)
    log.close()
    pipe.stream.close()
    written = pipe.reader.read()

    assert written.count(b"\n") == 1
    assert all(character.isprintable() for character in written.decode().rstrip("\n"))
    assert json.loads(written)["reply"] == hostile


def test_half_a_surrogate_pair_is_written_all_the_same(pipe: Pipe) -> None:
    start(pipe)

    log.log("a.b", reply="550 \udce9", secret=SecretStr("x"))

    assert pipe.lines()[0]["reply"] == "550 \udce9"


def test_lines_for_people_are_plain_ascii(pipe: Pipe) -> None:
    start(pipe, format="console")

    log.write_events(
        [{**EVENT, "type": "recipient.interrupted", "reply": "\x1b[2J\u202e", "to": None}]
    )
    log.close()
    pipe.stream.close()
    written = pipe.reader.read().decode("ascii")

    assert written.startswith("12:00:00.000 warning recipient.interrupted seq=4711 ")
    assert 'recipient="ann@example.org"' in written
    assert "to=" not in written
    assert written.rstrip("\n").isprintable()


def test_other_libraries_and_their_tracebacks_become_lines(pipe: Pipe) -> None:
    start(pipe)

    try:
        {}["gone"]
    except LookupError:
        logging.getLogger("tornado.application").exception("failed for %s", "x")
    logging.getLogger("y").warning("%d", "no number")
    first, second = pipe.lines()

    assert first["level"] == "error"
    assert (first["type"], first["logger"], first["text"]) == (
        "log.message",
        "tornado.application",
        "failed for x",
    )
    assert first["traceback"].endswith("KeyError: 'gone'")
    assert second["text"] == "%d"


def test_a_stuck_pipe_stalls_nobody_and_the_loss_is_counted(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "ROOM_BYTES", 64 * 1024)
    start(pipe)
    lines = 5_000

    began = time.monotonic()
    for n in range(lines):
        log.log("a.b", n=n, filling="x" * 100)
    took_s = time.monotonic() - began
    dropped = log.count_dropped()
    read: list[dict[str, Any]] = []
    reader = threading.Thread(
        target=lambda: read.extend(json.loads(line) for line in pipe.reader)
    )
    reader.start()
    wait_until(lambda: sum(line.get("lines", 0) for line in read) == dropped)
    log.log("after.all")
    log.close()
    pipe.stream.close()
    reader.join()

    assert took_s < 5
    assert 0 < dropped < lines
    numbers = [line["n"] for line in read if line["type"] == "a.b"]
    assert numbers == list(range(lines - dropped))
    assert {line["type"] for line in read if "lines" in line} == {"log.dropped"}
    assert read[-1]["type"] == "after.all"


def test_a_stuck_pipe_holds_up_no_exit(pipe: Pipe) -> None:
    start(pipe)
    fcntl.fcntl(pipe.stream.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    log.write_events([{**EVENT, "seq": n} for n in range(1000)])

    began = time.monotonic()
    log.close(within_s=0.05)

    assert time.monotonic() - began < 2
    pipe.reader.close()  # lets the writing thread go


def test_a_reader_that_goes_away_breaks_nothing(pipe: Pipe) -> None:
    start(pipe)
    pipe.reader.close()

    log.log("a.b")
    log.close()
    log.log("c.d")


def test_a_non_blocking_descriptor_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    fcntl.fcntl(pipe.stream.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    start(pipe)
    count = 500

    log.write_events([{**EVENT, "seq": n} for n in range(count)])
    read = [json.loads(pipe.reader.readline())["seq"] for _ in range(count)]

    assert read == list(range(count))


def test_lines_of_two_processes_do_not_mix(pipe: Pipe) -> None:
    program = (
        "import sys; from emailerctl import log; log.setup(sys.stdout)\n"
        "for n in range(200): log.write_events([{'type': 'a.b', 'n': n, 'x': 'y' * n}] * 9)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=pipe.stream.fileno())
        for _ in range(3)
    ]
    pipe.stream.close()
    written = pipe.reader.read()

    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len([json.loads(line) for line in written.splitlines()]) == 3 * 200 * 9


def test_the_exit_of_a_program_writes_what_waits() -> None:
    program = (
        "import sys; from emailerctl import log; log.setup(sys.stdout)\n"
        "[log.log('a.b', n=n) for n in range(1000)]"
    )
    written = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    ).stdout

    assert len(written.splitlines()) == 1000


def test_a_stream_without_a_descriptor_is_a_mistake() -> None:
    with pytest.raises(io.UnsupportedOperation):
        log.setup(io.StringIO())
