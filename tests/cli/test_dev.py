"""`dev`: everything at once; what it prints works, and it leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.world import WITHIN_S, build_environment

pytestmark = pytest.mark.slow


class Dev:
    """A running `emailerctl dev`, and what it has printed."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        """Start it, with its throw-away folder under *folder*."""
        self.folder = folder
        self.shown = folder / "shown.txt"
        self.errors = folder / "errors.txt"
        with self.shown.open("wb") as shown, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emailerctl", "dev", *words],
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=errors,
                cwd=folder,
                env=build_environment(TMPDIR=str(folder), **environment),
            )

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.shown.read_text()

    def read_until(self, text: str) -> str:
        """Wait until *text* is printed; return everything so far."""
        wait_until(lambda: text in self.text or self.process.poll() is not None)
        assert text in self.text, self.errors.read_text()
        return self.text

    def find(self, pattern: str) -> str:
        """Return what *pattern* finds in what was printed."""
        found = re.search(pattern, self.text, re.MULTILINE)
        assert found, self.text
        return found[1]

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in listed.read_text().split()]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        os.sched_yield()


def is_running(pid: int) -> bool:
    """Return whether there is such a process, other than as a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextmanager
def started(folder: Path, *words: str, **environment: str) -> Iterator[Dev]:
    dev = Dev(folder, *words, **environment)
    try:
        yield dev
    finally:
        if dev.process.poll() is None:
            dev.process.terminate()
            dev.process.wait(WITHIN_S)


def run_shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=build_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_it_prints_works_and_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """The printed curl line, word for word: the mail is in the inbox; SIGTERM ends all."""
    with started(tmp_path) as dev:
        dev.read_until("Ctrl-C ends everything")
        receipt = json.loads(run_shell(dev.find(r"^(curl .*)$"), tmp_path))
        dev.read_until("ann@example.org  Hello")
        follow = dev.find(r"^  watch +(.*)$").replace(" --follow", " -o jsonl --state sent")
        events = [json.loads(line) for line in run_shell(follow, tmp_path).splitlines()]
        children = dev.children()
        store = Path(dev.find(r"^  mails +(\S+)/inbox/")).resolve()

        assert len(children) == 2
        assert receipt["state"] == "queued"
        assert [event["message_id"] for event in events] == [receipt["id"]]
        assert run_shell(dev.find(r"^  look +(.*)$"), tmp_path).startswith("queue")
        [mail] = (store / "inbox").glob("*.eml")
        assert b"Subject: Hello" in mail.read_bytes()
        _plain, templated = re.findall(r"^(curl .*)$", dev.text, re.MULTILINE)
        assert json.loads(run_shell(templated, tmp_path))["state"] == "queued"
        dev.read_until("Your code: 482 913")
        assert store.is_relative_to(tmp_path)
        dev.process.send_signal(signal.SIGTERM)
        assert dev.process.wait(WITHIN_S) == 0, dev.errors.read_text()

    assert dev.errors.read_text() == ""
    assert [pid for pid in children if is_running(pid)] == []
    assert not store.exists()


def test_a_taken_port_is_avoided_and_a_named_one_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(tmp_path, "--port", str(port)) as dev:
            assert dev.process.wait(WITHIN_S) == 2
            assert f"error: port {port} is taken" in dev.errors.read_text()
    assert list(tmp_path.glob("emailerctl-dev-*")) == []


def test_the_end_of_a_part_is_the_end_of_all(tmp_path: Path) -> None:
    with started(tmp_path, "--keep") as dev:
        dev.read_until("Ctrl-C ends everything")
        api, consumer = dev.children()
        os.kill(consumer, signal.SIGKILL)

        assert dev.process.wait(WITHIN_S) == 69

    assert "consume (exit code -9) ended by itself" in dev.errors.read_text()
    assert not is_running(api)
    [kept] = tmp_path.glob("emailerctl-dev-*")
    assert (kept / "serve.log").read_text().startswith("{")


def test_the_parts_do_not_outlive_it(tmp_path: Path) -> None:
    with started(tmp_path) as dev:
        dev.read_until("Ctrl-C ends everything")
        children = dev.children()
        dev.process.kill()
        dev.process.wait(WITHIN_S)

        wait_until(lambda: not any(is_running(pid) for pid in children))


def test_a_kept_store_goes_on(tmp_path: Path) -> None:
    """Also where the surroundings have settings of their own: those are for the real thing."""
    folder = tmp_path / "kept"
    tokens = []
    for _ in range(2):
        with started(tmp_path, "--store", str(folder), EMAILER_API__PORT="1") as dev:
            dev.read_until("Ctrl-C ends everything")
            tokens.append(dev.find(r"^  token +(\S+)$"))
            dev.process.send_signal(signal.SIGINT)
            assert dev.process.wait(WITHIN_S) == 0, dev.errors.read_text()

    assert tokens[0] != tokens[1]
    assert (folder / "emailer.db").exists()
