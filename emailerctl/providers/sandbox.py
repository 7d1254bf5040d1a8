"""Sandbox: sends nothing, and answers as the recipient is called.

Every message of a test token goes here (product.md §6); nothing leaves the host.

    delivered@sandbox.test   accepted, then reported delivered
    bounced@sandbox.test     accepted, then reported bounced
    deferred@sandbox.test    not accepted for now, on every attempt
    complained@sandbox.test  accepted, delivered, then a complaint
    unknown@sandbox.test     no answer after the last byte
    anybody else             accepted
"""

from collections.abc import Callable
from typing import Literal

from emailerctl.models.event import COMPLAINT_REPORTED
from emailerctl.models.lifecycle import Cause
from emailerctl.models.outcome import Kind, Outcome, Party, Phase
from emailerctl.providers.base import (
    CheckResult,
    Mark,
    MarkRefused,
    Outgoing,
    Planned,
    Sending,
)
from emailerctl.providers.hop_settings import HopSettings

# 1 settings


class SandboxSettings(HopSettings):
    """`[providers.NAME]` with kind = "sandbox"."""

    kind: Literal["sandbox"] = "sandbox"


# 2 request: there is none


# 3 classify: what a recipient's name asks for

_ACCEPTED = Outcome(kind=Kind.ACCEPTED, code=250, reply="250 2.0.0 sandbox")
_DEFERRED = Outcome(
    kind=Kind.TRANSIENT,
    party=Party.RECIPIENT,
    phase=Phase.ENVELOPE,
    code=450,
    enhanced_status="4.2.1",
    reply="450 4.2.1 sandbox: deferred on request",
)
_SILENT = Outcome(kind=Kind.UNKNOWN, reply="sandbox: no answer, on request")

_OUTCOMES = {"deferred": _DEFERRED, "unknown": _SILENT}
_REPORTS: dict[str, Cause | str] = {
    "delivered": Cause.DELIVERY_REPORTED,
    "bounced": Cause.BOUNCE_REPORTED,
    "complained": COMPLAINT_REPORTED,
}


def _find_wish(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return local.lower() if domain.lower() == "sandbox.test" else ""


def classify(address: str) -> Outcome:
    """Return what becomes of *address*."""
    return _OUTCOMES.get(_find_wish(address), _ACCEPTED)


# 4 send: nothing leaves


class Sandbox:
    """The adapter: asks for the mark as every next hop does, and answers on request."""

    kind = "sandbox"

    def __init__(self, name: str, on_mail: Callable[[Outgoing], None] | None = None) -> None:
        """Take the name; *on_mail* is told of every message that it took."""
        self.name = name
        self._on_mail = on_mail

    async def send(self, outgoing: Outgoing, mark: Mark) -> Sending:
        """Attempt once, without any network."""
        outcomes = {r.n: classify(r.address) for r in outgoing.recipients}
        past = [n for n, outcome in outcomes.items() if outcome.phase is Phase.ANSWER]
        if past:
            if not await mark(past):
                raise MarkRefused
            if self._on_mail is not None:
                self._on_mail(outgoing)
        wishes = {r.n: _find_wish(r.address) for r in outgoing.recipients}
        reported = {n: _REPORTS[wish] for n, wish in wishes.items() if wish in _REPORTS}
        return Sending(
            outcomes=outcomes, reported=reported, dialogue="* sandbox: nothing was sent"
        )

    def plan(self, outgoing: Outgoing) -> Planned:
        """Say how it would answer: nothing is asked of anybody."""
        answers = [f"{r.address}: {classify(r.address).reply}" for r in outgoing.recipients]
        return Planned(
            target="nothing leaves this host",
            head=tuple(answers),
            size_bytes=len(outgoing.raw),
            traps=("the sandbox sends nothing to anybody",),
        )

    async def check(self) -> list[CheckResult]:
        """Say that it works: there is nothing to fail."""
        return [CheckResult("sandbox", True, "sends nothing, keeps everything")]  # noqa: FBT003

    async def close(self) -> None:
        """Close nothing."""
