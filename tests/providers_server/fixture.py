"""Start, question and stop the fake providers; a pytest fixture for them."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.smtpd.fixture import ROOT, START_WITHIN_S, has_ended


class ProviderServer:
    """The server as a child process; it serves every dialect below `url(dialect)`."""

    def __init__(self, *options: str, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="providers-"))
        self._scheme = "https" if "--tls" in options else "http"
        command = [sys.executable, "-m", "tests.providers_server", "--folder", str(self.folder)]
        self.process = subprocess.Popen([*command, *options], cwd=ROOT)
        ready = self.folder / "ready"
        deadline = time.monotonic() + START_WITHIN_S
        while not ready.exists():
            if has_ended(self.process, within_s=0.01):
                raise RuntimeError(f"the fake providers ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"the fake providers are not up after {START_WITHIN_S} s")
        self.port = int(ready.read_text())

    def url(self, dialect: str) -> str:
        """Return the `base_url` of a provider."""
        return f"{self._scheme}://localhost:{self.port}/{dialect}"

    def journal(self, public_id: str = "") -> list[dict[str, Any]]:
        """Return every copy taken, oldest first; of one message, or of all."""
        copies = self._read("journal.jsonl")
        return [copy for copy in copies if public_id in ("", copy["public_id"])]

    def copies(self, recipient: str) -> int:
        """Return how many copies were taken for *recipient*."""
        return sum(copy["recipient"] == recipient for copy in self.journal())

    def events(self, tag: str) -> list[str]:
        """Return how the requests came whose first recipient has *tag*."""
        lines = self._read("transcript.jsonl")
        return [line["event"] for line in lines if line["tag"] == tag]

    def stolen(self) -> list[str]:
        """Return the headers of what came to where a redirect led."""
        lines = self._read("transcript.jsonl")
        return [line["wish"] for line in lines if line["event"] == "stolen"]

    def _read(self, name: str) -> list[dict[str, Any]]:
        text = (self.folder / name).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def stop(self) -> None:
        """End it; harmless when it has ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=10)


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderServer]:
    """The fake providers; tests tell their messages apart by a tag of their own."""
    server = ProviderServer(folder=tmp_path_factory.mktemp("providers"))
    yield server
    server.stop()
