"""Start, fill, question and stop the misbehaving IMAP server."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.imapd.server import PASSWORD, USER
from tests.smtpd.fixture import ROOT, START_WITHIN_S, has_ended


class ImapServer:
    """The server as a child process, with an empty INBOX."""

    def __init__(self, *options: str, folder: Path) -> None:
        """Start with command-line *options*, and wait until it listens."""
        self.root = folder
        (folder / "INBOX").mkdir(parents=True)
        self._count = 0
        ready = folder / "ready"
        command = [sys.executable, "-m", "tests.imapd", "--root", str(folder)]
        command += ["--ready-file", str(ready), *options]
        self.process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + START_WITHIN_S
        while not ready.exists():
            if has_ended(self.process, within_s=0.01):
                raise RuntimeError(f"the IMAP server ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"the IMAP server is not up after {START_WITHIN_S} s")
        self.port = int(ready.read_text())

    @property
    def settings(self) -> Mapping[str, object]:
        """What `[bounces.imap]` says to read it, often and impatiently."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "tls": "none",
            "username": USER,
            "password": PASSWORD,
            "poll": "100ms",
            "timeout": "500ms",
        }

    def begin_anew(self) -> None:
        """Forget everything but who is connected."""
        shutil.rmtree(self.root / "Processed", ignore_errors=True)
        for file in (*self.root.glob("INBOX/*"), self.root / "misbehave"):
            file.unlink(missing_ok=True)

    def deliver(self, raw: bytes) -> None:
        """Put a message into the INBOX."""
        self._count += 1
        unfinished = self.root / "incoming.tmp"
        unfinished.write_bytes(raw)
        unfinished.rename(self.root / "INBOX" / f"{self._count}.eml")

    def misbehave(self, what: str, command: str) -> None:
        """Have it do *what* once, at the next *command*."""
        unfinished = self.root / "misbehave.tmp"
        unfinished.write_text(f"{what} {command}\n")
        unfinished.rename(self.root / "misbehave")

    @property
    def has_misbehaved(self) -> bool:
        return not (self.root / "misbehave").exists()

    def renumber(self, validity: int) -> None:
        """Give every message another UID."""
        (self.root / "INBOX" / "uidvalidity").write_text(str(validity))

    def contents(self, folder: str = "INBOX") -> list[bytes]:
        """Return the messages of a mailbox, by number."""
        while True:
            files = (self.root / folder).glob("*.eml")
            with suppress(FileNotFoundError):  # it was moved in between: look again
                return [f.read_bytes() for f in sorted(files, key=lambda file: int(file.stem))]

    def flags(self) -> list[str]:
        """Return the flags of the INBOX's messages that have some."""
        while True:
            with suppress(FileNotFoundError):
                return [f.read_text() for f in sorted((self.root / "INBOX").glob("*.flags"))]

    def transcript(self) -> list[str]:
        """Return what clients said (`< COMMAND …`) and what was done to them (`! …`)."""
        file = self.root / "transcript.txt"
        return file.read_text().splitlines() if file.exists() else []

    def stop(self) -> None:
        """End it; harmless when it has ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=10)
