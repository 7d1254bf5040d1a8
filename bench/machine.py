"""What the figures were taken on: no names, only what makes a difference."""

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import tornado

from bench.processes import ROOT
from emailerctl.store import sqlite

_SYNCS = 200
_BUSY = 0.5  # a load above this before we begin is other people's work


def describe(folder: Path) -> dict[str, str]:
    """Return what the machine is; *folder* is on the disk that is used."""
    return {
        "processor": f"{_find_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "disk": f"{_find_filesystem(folder)}, {measure_sync(folder):.2f} ms a sync of 4 KiB",
        "software": f"Python {platform.python_version()}, Tornado {tornado.version}, "
        f"uvloop {version('uvloop')}, SQLite {'.'.join(map(str, sqlite.library_version()))}",
    }


def _find_processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _find_filesystem(folder: Path) -> str:
    """Return the kind of file system that *folder* is on: the longest mount point wins."""
    mounts = [
        line.split()[1:3]
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    ]
    return max(
        (point for point in mounts if folder.resolve().is_relative_to(point[0])),
        key=lambda point: len(point[0]),
    )[1]


def measure_sync(folder: Path) -> float:
    """Return the median time of appending 4 KiB and syncing them, in milliseconds."""
    path = folder / "sync"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return median(taken)


def find_noise() -> str:
    """Say what else this machine does, or nothing where it is quiet."""
    load = os.getloadavg()[0]
    return f"load {load:.1f} before the start: others work here" if load > _BUSY else ""


def find_commit() -> str:
    """Return the commit that is measured, with a + where files differ from it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""
    commit = _ask(git, "rev-parse", "--short=12", "HEAD")
    is_changed = _ask(git, "status", "--porcelain", "--", "emailerctl", "daemons")
    return f"{commit}+" if is_changed else commit


def _ask(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return done.stdout.decode().strip()
