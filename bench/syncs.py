"""How often a program syncs, how long that takes, and a disk that is slower than ours.

A library of a few lines (slow_sync.c) stands between the program and fsync(2), compiled when it
is needed; without a C compiler there are no such figures.
"""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("slow_sync.c")


@dataclass(frozen=True)
class Syncs:
    """How many, and how long all of them took."""

    count: int
    seconds: float

    def since(self, before: "Syncs") -> "Syncs":
        """Return what was added."""
        return Syncs(self.count - before.count, self.seconds - before.seconds)


class SyncBook:
    """Counts the syncs of programs that are started with its `environment`."""

    def __init__(self, library: Path, path: Path, *, delay_us: int = 0) -> None:
        path.write_bytes(bytes(16))
        self._path = path
        self.environment = {
            "LD_PRELOAD": str(library),
            "BENCH_SYNC_BOOK": str(path),
            "BENCH_SYNC_DELAY_US": str(delay_us),
        }

    def read(self) -> Syncs:
        """Return what was counted so far."""
        count, ns = struct.unpack("=QQ", self._path.read_bytes())
        return Syncs(count, ns / 1e9)


def compile_library(folder: Path) -> Path | None:
    """Compile the library; None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "slow_sync.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    return None if subprocess.run(command, check=False).returncode else library
