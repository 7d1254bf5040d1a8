"""A next hop that does what a test tells it, in the way that real ones do it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from emailerctl.models.lifecycle import Cause
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.providers.base import CheckResult, Mark, MarkRefused, Outgoing, Sending

ACCEPTED = Outcome(kind=Kind.ACCEPTED, code=250, reply="250 2.0.0 ok")
STOPPED = Outcome(kind=Kind.TRANSIENT, party=Party.NEXT_HOP, phase=Phase.CONTENT)


class ScriptedProvider:
    """Answers each message as `outcomes` says; an exception is raised instead.

    An outcome of the phase `answer` comes after the mark, every other one before it.  What it
    took (the last byte was written) is in `copies`, as the ground truth.

    Attributes:
        before_mark, after_mark: when set, it stays there until `go_on` is set.
        reached: set when it stands at one of them.
    """

    kind = "scripted"

    def __init__(self, name: str = "relay") -> None:
        self.name = name
        self.outcomes: dict[str, Outcome | Exception] = {}
        self.default: Outcome | Exception = ACCEPTED
        self.reported: Mapping[int, Cause | str] = {}
        self.copies: list[tuple[int, str]] = []
        self.asked: list[Outgoing] = []
        self.before_mark = False
        self.after_mark = False
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def send(self, outgoing: Outgoing, mark: Mark) -> Sending:
        """Attempt once; a cancellation after the mark was asked for ends in an outcome."""
        self.asked.append(outgoing)
        scripted = {
            r.n: self.outcomes.get(r.address, self.default) for r in outgoing.recipients
        }
        for outcome in scripted.values():
            if isinstance(outcome, Exception):
                raise outcome
        outcomes = {n: o for n, o in scripted.items() if isinstance(o, Outcome)}
        past = [n for n, outcome in outcomes.items() if outcome.phase is Phase.ANSWER]
        if self.before_mark:
            await self._stay()
        if past:
            try:
                is_granted = await mark(past)
            except asyncio.CancelledError:
                return Sending(outcomes={**outcomes, **dict.fromkeys(past, STOPPED)})
            if not is_granted:
                raise MarkRefused
            # ---- the point of no return ----
            self.copies += [
                (outgoing.message_id, r.address) for r in outgoing.recipients if r.n in past
            ]
            if self.after_mark:
                try:
                    await self._stay()
                except asyncio.CancelledError:
                    silence = Outcome(kind=Kind.UNKNOWN, reply="stopped while waiting")
                    outcomes |= dict.fromkeys(past, silence)
        return Sending(
            outcomes={n: replace(outcome) for n, outcome in outcomes.items()},
            dialogue="> EHLO",
            reported=self.reported,
        )

    async def _stay(self) -> None:
        self.reached.set()
        await self.go_on.wait()

    async def check(self) -> list[CheckResult]:
        return []

    async def close(self) -> None:
        pass
