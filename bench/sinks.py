"""Where the mail goes: servers that take it and throw it away."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.processes import Child

_PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


def find_program(name: str) -> str | None:
    """Return where Postfix's test program *name* is, or None."""
    return shutil.which(name) or shutil.which(name, path=_PLACES)


@dataclass(frozen=True)
class Sink:
    """An SMTP server."""

    name: str
    port: int
    child: Child


@contextmanager
def open_fast_sink(folder: Path) -> Iterator[Sink]:
    """Start Postfix's `smtp-sink`, or the tests' own server where that is not installed."""
    program = find_program("smtp-sink")
    if program is None:
        with open_journal(folder) as journal:
            yield journal.sink
        return
    port = processes.find_free_port()
    as_user = ["-u", "nobody"] if os.getuid() == 0 else []  # it refuses to run as root
    command = [program, "-4", "-m", "512", *as_user, f"inet:127.0.0.1:{port}", "512"]
    with processes.start("smtp-sink", command, log=folder / "smtp-sink.log") as child:
        yield Sink("smtp-sink", port, child.until_listening(port))


@dataclass(frozen=True)
class Journal:
    """The tests' server, which writes down what it takes and when."""

    sink: Sink
    path: Path

    def find_arrival(self, text: str, offset: int) -> float | None:
        """Return when the message came whose Message-ID has *text*; None: not yet."""
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.endswith(b"}\n") and text.encode() in line:
                    arrived: float = json.loads(line)["at"]
                    return arrived
        return None

    @property
    def size(self) -> int:
        """Return how long the journal is."""
        return self.path.stat().st_size


@contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """Start the tests' server, without syncs."""
    ready, path = folder / "sink.port", folder / "sink.jsonl"
    ready.unlink(missing_ok=True)
    command = processes.python(
        "tests.smtpd", "--no-fsync", "--journal", path, "--ready-file", ready
    )
    with processes.start("sink", command, log=folder / "sink.log") as child:
        child.until(ready.exists, within_s=processes.UP_WITHIN_S, what="its port")
        yield Journal(Sink("tests.smtpd", int(ready.read_text()), child), path)
