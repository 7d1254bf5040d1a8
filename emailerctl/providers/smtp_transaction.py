"""The mail transaction: MAIL, RCPT, DATA, the body, the mark, the dot, the answer.

Nothing here judges.  It ends in facts, for each recipient the answer that decides, and
`smtp.classify` says what they mean.  The order of the last steps is the point:

    body on the wire, but for its last CRLF → mark granted → what has arrived is read
    → the dot is not late → CRLF.CRLF → the answer
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from emailerctl.models.clock import Clock
from emailerctl.providers.base import DOT_WITHIN_MS, Mark, MarkRefused
from emailerctl.providers.smtp_reply import (
    SERVICE_CLOSING,
    START_INPUT,
    Answer,
    Fault,
    Lack,
    Reply,
    Stage,
    Verdict,
    clean,
)
from emailerctl.providers.smtp_session import Session

_CHUNK = 64 * 1024
# Fits into the buffer of any kernel's socket, when everything before was answered.
_SMALL = 16 * 1024
_DOT = b"\r\n.\r\n"
_DIALOGUE_LIMIT = 4096
_LINE_LIMIT = 300


def stuff(raw: bytes) -> bytes:
    """Return *raw* as DATA content: dots at line starts doubled (RFC 5321 §4.5.2).

    It ends with the CRLF that the dot needs before it.
    """
    stuffed = raw.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The commands of a transaction, without line ends, and its content.

    Attributes:
        rcpts: by recipient number.
        content: from `stuff`.
    """

    mail: str
    rcpts: Mapping[int, str]
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for each step, in seconds (RFC 5321 §4.5.3.2)."""

    mail: float = 300
    rcpt: float = 300
    data: float = 120
    block: float = 180
    final_reply: float = 600


class Dialogue:
    """The conversation of an attempt; bounded when it is read, secrets masked by who writes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lines: list[str] = []

    def add(self, lines: Sequence[str]) -> None:
        """Add what was written down elsewhere."""
        self._lines += lines

    def ours(self, line: str) -> None:
        """Add what we said."""
        self._lines.append("> " + line)

    def theirs(self, answer: Answer) -> None:
        """Add what they said, or what happened instead."""
        self._lines.append(f"< {answer}" if isinstance(answer, Reply) else f"= {answer}")

    def note(self, line: str) -> None:
        """Add what nobody said."""
        self._lines.append("= " + line)

    def __str__(self) -> str:
        """Return all lines, or the first and the last ones where they are too many."""
        text = "\n".join(self._lines)
        if len(text) <= _DIALOGUE_LIMIT:
            return text
        text = "\n".join(clean(line, _LINE_LIMIT) for line in self._lines)
        if len(text) <= _DIALOGUE_LIMIT:
            return text
        half = _DIALOGUE_LIMIT // 2 - 20
        head, tail = text[:half].rpartition("\n")[0], text[-half:].partition("\n")[2]
        return f"{head}\n= …\n{tail}"


class _Broken(Exception):
    """No further step is possible: *verdict* is about everybody without one."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict.answer))
        self.verdict = verdict


class Transaction:
    """One message on one session."""

    def __init__(
        self,
        session: Session,
        envelope: Envelope,
        *,
        patience: Patience,
        deadline_boot_ms: int,
        clock: Clock,
        dialogue: Dialogue,
    ) -> None:
        """Prepare; `run` does it."""
        self._session = session
        self._envelope = envelope
        self._patience = patience
        self._deadline_boot_ms = deadline_boot_ms
        self._clock = clock
        self._dialogue = dialogue
        self._verdicts: dict[int, Verdict] = {}

    async def run(self, mark: Mark) -> Mapping[int, Verdict]:
        """Hand the message over; the session is closed unless both sides know where they are.

        A cancellation passes through before the mark is asked for; after that it is a fault
        like others, because what happened must not be lost.

        Raises:
            MarkRefused: the session was closed without the dot.
        """
        is_in_step = False
        try:
            is_in_step = await self._run(mark)
        except _Broken as broken:
            for n in self._envelope.rcpts:
                self._verdicts.setdefault(n, broken.verdict)
        finally:
            if not is_in_step:
                self._session.abort()
        return self._verdicts

    async def _run(self, mark: Mark) -> bool:
        """Take all steps; True when another transaction may follow."""
        self._session.messages += 1
        if "pipelining" in self._session.extensions:
            begun = await self._ask_together()
        else:
            begun = await self._ask_in_turn()
        if begun is None:
            self._session.must_reset = True
            return True
        accepted = [n for n in self._envelope.rcpts if n not in self._verdicts]
        if begun.code != START_INPUT:
            self._decide(accepted, Stage.DATA, begun)
            self._session.must_reset = True
            return begun.severity in (4, 5)
        if not accepted:
            # RFC 2920 would have us send a lone dot: an empty message to nobody, for a server
            # that has just shown that it does not keep the rules.
            return False
        await self._send_body()
        answer = await self._send_dot(mark, accepted)
        self._decide(accepted, Stage.ANSWER, answer)
        self._dialogue.theirs(answer)
        return isinstance(answer, Reply) and answer.severity in (2, 4, 5)

    def _decide(self, numbers: Sequence[int], stage: Stage, answer: Answer) -> None:
        verdict = Verdict(stage, answer)
        for n in numbers:
            self._verdicts[n] = verdict

    # the envelope

    async def _ask_together(self) -> Reply | None:
        """Send the envelope at once (RFC 2920); the reply to DATA, None without recipients."""
        commands = [self._envelope.mail, *self._envelope.rcpts.values(), "DATA"]
        is_reset = self._session.must_reset
        if is_reset:
            commands.insert(0, "RSET")
        for command in commands:
            self._dialogue.ours(command)
        self._session.write(("\r\n".join(commands) + "\r\n").encode())
        if is_reset:
            await self._read_reset()
        is_welcome = self._take_mail(await self._read(Stage.MAIL))
        for n in self._envelope.rcpts:
            self._take_rcpt(n, await self._read(Stage.RCPT))
        begun = await self._read(Stage.DATA)
        # What follows a refused MAIL was answered with 503: nothing to learn from it.
        if begun.code == START_INPUT or (is_welcome and self._has_accepted()):
            return begun
        return None

    async def _ask_in_turn(self) -> Reply | None:
        """Send one command at a time; the reply to DATA, None without recipients."""
        if self._session.must_reset:
            self._say("RSET")
            await self._read_reset()
        self._say(self._envelope.mail)
        if not self._take_mail(await self._read(Stage.MAIL)):
            return None
        for n, command in self._envelope.rcpts.items():
            self._say(command)
            self._take_rcpt(n, await self._read(Stage.RCPT))
        if not self._has_accepted():
            return None
        self._say("DATA")
        return await self._read(Stage.DATA)

    def _say(self, command: str) -> None:
        self._dialogue.ours(command)
        self._session.write(f"{command}\r\n".encode())

    async def _read(self, stage: Stage) -> Reply:
        """Return the reply to a command; what is none, or ends the session, ends it all."""
        answer = self._session.take()
        if answer is None:
            seconds: float = getattr(self._patience, stage)
            answer = await self._session.reply(self._bounded(seconds), stage.upper())
        self._dialogue.theirs(answer)
        if not isinstance(answer, Reply) or answer.code == SERVICE_CLOSING:
            raise _Broken(Verdict(stage, answer))
        return answer

    async def _read_reset(self) -> None:
        reply = await self._read(Stage.MAIL)
        if reply.severity != 2:
            raise _Broken(
                Verdict(Stage.MAIL, Fault(Lack.GARBLED, f"RSET was answered {reply}"))
            )
        self._session.must_reset = False

    def _take_mail(self, reply: Reply) -> bool:
        if reply.severity in (1, 3):
            raise _Broken(Verdict(Stage.MAIL, reply))
        if reply.severity != 2:
            self._decide(list(self._envelope.rcpts), Stage.MAIL, reply)
            return False
        return True

    def _take_rcpt(self, n: int, reply: Reply) -> None:
        if reply.severity in (1, 3):
            raise _Broken(Verdict(Stage.RCPT, reply))
        if reply.severity != 2:
            self._verdicts.setdefault(n, Verdict(Stage.RCPT, reply))

    def _has_accepted(self) -> bool:
        return len(self._verdicts) < len(self._envelope.rcpts)

    def _bounded(self, seconds: float) -> float:
        """Return *seconds*, or less where the deadline comes first."""
        return min(seconds, (self._deadline_boot_ms - self._clock.boot_ms()) / 1000)

    # the content

    async def _send_body(self) -> None:
        """Write the content but for its last CRLF, until the kernel has it all."""
        content = self._envelope.content
        self._dialogue.note(f"content of {len(content)} bytes")
        body = memoryview(content)[:-2]
        for start in range(0, len(body), _CHUNK):
            self._session.write(body[start : start + _CHUNK])
            if self._session.has_unsent:
                await self._session.flush(self._bounded(self._patience.block))
            self._stop_if_told()
        if len(content) > _SMALL:
            await self._session.flush_tls(self._bounded(self._patience.block))
            self._stop_if_told()

    def _stop_if_told(self) -> None:
        """Give up when an answer came before the dot: it can't be about all of it (F-SM-08)."""
        answer = self._session.pending
        if answer is not None:
            self._dialogue.theirs(answer)
            raise _Broken(Verdict(Stage.BODY, answer))

    async def _send_dot(self, mark: Mark, accepted: list[int]) -> Answer:
        """Ask for the mark, write the dot, wait for the answer."""
        asked_ms = self._clock.boot_ms()
        if asked_ms >= self._deadline_boot_ms:
            self._give_up(Lack.DEADLINE, "the deadline passed before the dot")
        try:
            if not await mark(accepted):
                self._dialogue.note("the mark was refused: closed without the dot")
                raise MarkRefused
            if self._session.has_arrived:
                await self._session.read_arrived()
        except asyncio.CancelledError:
            _swallow_cancellation()
            self._give_up(Lack.CANCELLED, "stopped before the dot")
        self._stop_if_told()
        late_ms = self._clock.boot_ms() - asked_ms
        if late_ms > DOT_WITHIN_MS:
            self._give_up(Lack.LATE, f"the dot would have left {late_ms} ms after the mark")
        # ---- the point of no return ----
        self._session.write(_DOT)
        self._dialogue.ours(".")
        if self._session.has_unsent and not self._session.is_tls:
            # Not all five bytes are with the kernel, and closing drops the rest for good.
            self._give_up(Lack.LOST, "the dot did not leave")
        try:
            return await self._session.reply(self._patience.final_reply, "the dot")
        except asyncio.CancelledError:
            _swallow_cancellation()
            return self._session.pending or Fault(
                Lack.CANCELLED, "stopped while waiting for the answer to the dot"
            )

    def _give_up(self, lack: Lack, detail: str) -> NoReturn:
        fault = Fault(lack, detail)
        self._dialogue.theirs(fault)
        raise _Broken(Verdict(Stage.BODY, fault))


def _swallow_cancellation() -> None:
    """Take the cancellation as heard: the caller gets a fact instead."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
