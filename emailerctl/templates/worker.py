"""One rendering process: limits itself, then does one job after the other until its input ends.

It is started with an empty environment, and whoever gets out of the sandbox finds no secrets in
it, no more memory than it is given, no way to start a process (unless it is root's) or to write
a file.  What takes too much processor time is ended by the kernel, whatever it is doing.
"""

import os
import resource
import signal
import struct
import sys
from collections import OrderedDict

import msgspec

from emailerctl.templates.base import (
    Answer,
    Bundle,
    CompileJob,
    RenderJob,
    decode_bundle,
)
from emailerctl.templates.compiling import compile_template
from emailerctl.templates.rendering import Faulty, TooLarge, build_environment, render
from emailerctl.templates.sandbox import Sandbox

FRAME = struct.Struct(">I")
_MOST_CACHED = 200
_MOST_FILES = 64
_COMPILING = 5  # times as much processor time: who publishes is an administrator


def main() -> int:
    """Work until there is no more input."""
    cpu_ms, memory_bytes, output = map(int, sys.argv[1:4])
    # What a stray print would write is not an answer.
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the end of the input ends it, after its job
    _limit(memory_bytes)
    worker = _Worker(output)
    while True:
        head = _read(FRAME.size)
        if not head:
            return 0
        job = worker.decode(_read(*FRAME.unpack(head)))
        granted_s = cpu_ms / 1000 * (_COMPILING if isinstance(job, CompileJob) else 1)
        signal.setitimer(signal.ITIMER_PROF, granted_s)  # SIGPROF ends the process
        try:
            answer = worker.do(job)
        except MemoryError:
            answer = Answer(limit="memory")
        signal.setitimer(signal.ITIMER_PROF, 0)
        octets = msgspec.json.encode(answer)
        _write(answers, FRAME.pack(len(octets)) + octets)
        if answer.limit == "memory":
            return 0  # what is left of it is not to be trusted


def _limit(memory_bytes: int) -> None:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _read(count: int) -> bytes:
    pieces = []
    while count:
        piece = os.read(0, min(count, 2**20))
        if not piece:
            return b""
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _write(target: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(target, view) :]


class _Worker:
    """What the jobs of one process share: bundles, compiled."""

    def __init__(self, output: int) -> None:
        self._output = output
        self._cached: OrderedDict[str, tuple[Bundle, Sandbox]] = OrderedDict()
        self.decode = msgspec.json.Decoder(RenderJob | CompileJob).decode

    def do(self, job: RenderJob | CompileJob) -> Answer:
        """Do one job."""
        if isinstance(job, CompileJob):
            return Answer(compiled=compile_template(job.name, job.files, job.shared))
        bundle, environment = self._find(job)
        try:
            rendered = render(bundle, environment, job.variables, job.locale, self._output)
        except Faulty as error:
            return Answer(faults=error.faults)
        except TooLarge:
            return Answer(limit="output")
        return Answer(rendered=rendered)

    def _find(self, job: RenderJob) -> tuple[Bundle, Sandbox]:
        found = self._cached.get(job.key)
        if found is None:
            bundle = decode_bundle(job.bundle)
            found = self._cached[job.key] = (bundle, build_environment(bundle))
            if len(self._cached) > _MOST_CACHED:
                self._cached.popitem(last=False)
        else:
            self._cached.move_to_end(job.key)
        return found


if __name__ == "__main__":
    sys.exit(main())
