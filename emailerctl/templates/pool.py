"""The processes that render: started when needed, replaced when a job was too much (T-10).

Two clocks: the processor time of a job decides whether it is a bomb, and is measured by the
kernel in the worker; how long anybody waits is bounded apart, since on a busy machine a good
template can wait long for its few milliseconds.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from emailerctl.errors import Fault, Invalid, Overloaded
from emailerctl.templates.base import Answer, Compiled, CompileJob, Rendered, RenderJob

_HEAD = 4  # octets of a length
_MOST_JOBS = 10_000  # of one process: nothing that grows slowly grows for ever
_SUSPECTED_S = 60.0
_MOST_SUSPECTS = 1_000
_MOST_SUSPECTS_WAITING = 8
_ANSWER_MARGIN = 8 * 2**20
_MOST_OUTPUT_FACTOR = 16  # octets of an answer for a character of output, at the very most

_decode_answer = msgspec.json.Decoder(Answer).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """What one job may take.

    Attributes:
        workers: processes at the most; two at least, so that one bomb stops nobody.
        cpu_ms: processor time.
        deadline_s: from the request to the answer, waiting included.
        memory_bytes: beside what the process has when it starts.
        output: characters of subject, HTML or text.
        waiting: jobs that wait for a process.
    """

    workers: int = 2
    cpu_ms: int = 500
    deadline_s: float = 10.0
    memory_bytes: int = 128 * 2**20
    output: int = 2**20
    waiting: int = 200


class _Died(Exception):
    """The process ended before it answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Line:
    """Jobs that wait, so many at the most, and so many that may be done at once."""

    def __init__(self, longest: int, at_once: int) -> None:
        self.turn = asyncio.Semaphore(at_once)
        self._longest = longest
        self._length = 0

    @contextlib.contextmanager
    def stand_in(self) -> Iterator[None]:
        """Wait in this line.

        Raises:
            Overloaded: it is too long.
        """
        if self._length >= self._longest:
            raise Overloaded("too many templates wait to be rendered", retry_after_s=1)
        self._length += 1
        try:
            yield
        finally:
            self._length -= 1


class Pool:
    """The worker processes of one program; satisfies `Renderer`."""

    def __init__(self, limits: PoolLimits) -> None:
        """Take the limits; no process is started yet."""
        self._limits = limits
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._room = asyncio.Semaphore(limits.workers)
        self._suspects: dict[str, float] = {}
        self._line = _Line(limits.waiting, limits.workers)
        # Those who were too much of late wait for each other, and have a line of their own.
        self._suspect_line = _Line(_MOST_SUSPECTS_WAITING, 1)

    async def render(
        self, key: str, bundle: bytes, variables: Mapping[str, object], locale: str, lane: str
    ) -> Rendered:
        """Render a bundle."""
        job = RenderJob(key, msgspec.Raw(bundle), dict(variables), locale)
        answer = await self._ask(msgspec.json.encode(job), lane)
        if answer.faults or answer.rendered is None:
            raise Invalid(
                Fault(f"/variables{pointer}" if pointer else "", detail)
                for pointer, detail in answer.faults
            )
        return answer.rendered

    async def compile(
        self, name: str, files: Mapping[str, str], shared: Mapping[str, str]
    ) -> Compiled:
        """Compile the files of a template."""
        job = CompileJob(name, dict(files), dict(shared))
        answer = await self._ask(msgspec.json.encode(job), f"compile {name}")
        assert answer.compiled is not None  # noqa: S101  (what the worker answers to this)
        return answer.compiled

    async def close(self) -> None:
        """End the processes; those that are still at work are killed."""
        for process in (*self._idle, *self._busy):
            await process.end()
        self._idle.clear()

    async def _ask(self, job: bytes, lane: str) -> Answer:
        """Let a worker do *job*.

        Raises:
            Invalid: it took more than it may.
            Overloaded: too many wait, or the deadline passed.
        """
        line = self._suspect_line if self._is_suspect(lane) else self._line
        try:
            with line.stand_in():
                async with asyncio.timeout(self._limits.deadline_s), line.turn, self._room:
                    answer = await self._ask_twice(job)
        except TimeoutError:
            raise Overloaded(
                f"the template was not rendered within {self._limits.deadline_s:g} s",
                hint="the machine is busy; see [templates] deadline",
                retry_after_s=2,
            ) from None
        except _Died as died:
            self._suspect(lane)
            raise Invalid([Fault("", self._explain(died.code))]) from None
        if answer.limit:
            self._suspect(lane)
            raise Invalid([Fault("", self._explain(answer.limit))])
        return answer

    def _is_suspect(self, lane: str) -> bool:
        return self._suspects.get(lane, 0.0) > asyncio.get_running_loop().time()

    def _suspect(self, lane: str) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._suspects) >= _MOST_SUSPECTS:
            self._suspects = {n: end for n, end in self._suspects.items() if end > now}
        self._suspects[lane] = now + _SUSPECTED_S

    async def _ask_twice(self, job: bytes) -> Answer:
        """Ask; once more where the process was killed from outside: that is not the job's."""
        try:
            return await self._ask_once(job)
        except _Died as died:
            if died.code != -signal.SIGKILL:
                raise
        return await self._ask_once(job)

    async def _ask_once(self, job: bytes) -> Answer:
        process = self._idle.pop() if self._idle else await _Process.start(self._limits)
        self._busy.add(process)
        is_fit = False
        try:
            answer = await process.ask(job)
            is_fit = answer.limit != "memory" and process.jobs < _MOST_JOBS
        finally:
            self._busy.discard(process)
            if is_fit:
                self._idle.append(process)
            else:
                await process.end()
        return answer

    def _explain(self, what: int | str) -> str:
        limits = self._limits
        if what in (-signal.SIGPROF, -signal.SIGXCPU):
            return (
                f"takes more than {limits.cpu_ms} ms of processor time to render "
                "([templates] cpu); make it do less"
            )
        if what == "output":
            return (
                f"makes more than {limits.output} characters ([templates] output); "
                "make it shorter"
            )
        if what == "memory":
            return (
                f"takes more than {limits.memory_bytes // 2**20} MiB of memory "
                "([templates] memory_bytes); make it do less"
            )
        return "ended the process that renders, as something endless or huge does"


class _Process:
    """One worker and the pipes to it."""

    def __init__(self, process: asyncio.subprocess.Process, most_octets: int) -> None:
        self._process = process
        self._most_octets = most_octets
        self.jobs = 0

    @classmethod
    async def start(cls, limits: PoolLimits) -> "_Process":
        """Start one, with nothing of our surroundings."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-m", "emailerctl.templates.worker"),
            *map(str, (limits.cpu_ms, limits.memory_bytes, limits.output)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env=_build_environment(),
        )
        return cls(process, limits.output * _MOST_OUTPUT_FACTOR + _ANSWER_MARGIN)

    async def ask(self, job: bytes) -> Answer:
        """Send a job and wait for its answer.

        Raises:
            _Died: there is none, and will be none.
        """
        self.jobs += 1
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018
        try:
            stdin.write(len(job).to_bytes(_HEAD, "big") + job)
            await stdin.drain()
            length = int.from_bytes(await stdout.readexactly(_HEAD), "big")
            if length > self._most_octets:
                raise _Died(0)
            return _decode_answer(await stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise _Died(await self._process.wait()) from None
        except msgspec.DecodeError:
            raise _Died(0) from None

    async def end(self) -> None:
        """Kill it and wait for its end; harmless where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _build_environment() -> dict[str, Any]:
    kept = {name: os.environ[name] for name in ("TZDIR",) if name in os.environ}
    return {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **kept}
