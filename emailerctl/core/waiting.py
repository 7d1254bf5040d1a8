"""Waiting for a message: has it come to what was asked for, can it still, could it ever?"""

from collections.abc import Collection
from enum import Enum, auto

from emailerctl.errors import Conflict
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import FINAL, State
from emailerctl.models.message import MessageView, RecipientView

# Whoever has it reported as delivered, was sent to as well.
_IMPLIED = {State.SENT: State.DELIVERED}


class Verdict(Enum):
    """How a wait stands."""

    REACHED = auto()
    ENDED = auto()  # by itself it does not come to that any more
    OPEN = auto()


def widen(wanted: Collection[State]) -> frozenset[State]:
    """Return the states that fulfil a wish for *wanted*."""
    return frozenset(wanted) | {_IMPLIED[state] for state in wanted if state in _IMPLIED}


def judge(
    view: MessageView, wanted: Collection[State], *, reporting: Collection[str]
) -> Verdict:
    """Say whether every recipient is in one of *wanted*, or one of them never will be.

    Args:
        view: the message.
        wanted: the states that are waited for.
        reporting: names of the next hops that report what becomes of a message.
    """
    goal = widen(wanted)
    if all(recipient.state in goal for recipient in view.recipients):
        return Verdict.REACHED
    if any(_has_ended(one, goal, reporting) for one in view.recipients):
        return Verdict.ENDED
    return Verdict.OPEN


def _has_ended(one: RecipientView, goal: Collection[State], reporting: Collection[str]) -> bool:
    if one.state in goal or one.state not in FINAL:
        return False
    is_open = one.state is State.SENT and one.provider in reporting
    return not (is_open and {State.DELIVERED, State.BOUNCED} & set(goal))


def refuse_impossible(
    view: MessageView,
    wanted: Collection[State],
    *,
    chain: Collection[str],
    reporting: Collection[str],
) -> None:
    """Refuse to wait for a delivery that nobody would report.

    Raises:
        Conflict: none of the next hops of *chain* reports.
    """
    if State.DELIVERED not in wanted or State.SENT in wanted:
        return
    if any(recipient.state is State.DELIVERED for recipient in view.recipients):
        return
    used = {recipient.provider for recipient in view.recipients if recipient.provider}
    hops = {*chain, *used}
    if hops and not hops & set(reporting):
        raise Conflict(
            f"{to_public(MESSAGE, view.message_id)} goes through {', '.join(sorted(hops))}, "
            "which never reports a delivery",
            hint="wait for what can be known: --for sent",
        )
