"""The built-in alerts: what raises each, what does not, and that each says what to type."""

from dataclasses import replace
from typing import Any

import pytest

from emailerctl.core.alerts import AlertName, Facts, judge
from emailerctl.store.base import Breaker, BreakerState, HopState, NextHop, Pause, QueueStats

NOW_MS = 1_795_514_400_000
QUIET = QueueStats(
    ready=0,
    scheduled=0,
    retrying=0,
    waiting=0,
    sending=0,
    held=0,
    unknown=0,
    oldest_due_ms=None,
    oldest_unknown_ms=None,
    pause=None,
)


CALM = Facts(
    now_ms=NOW_MS,
    raised=(),
    queue=QUIET,
    silent_ms=5_000,
    has_seen_life=True,
    next_hops=[],
    chains=[("relay", "backup")],
    is_storage_low=False,
    clock_jumped_ms=0,
    clock_calm_ms=0,
)
SHUT = NextHop(name="relay", state=HopState.DISABLED)
ALSO_SHUT = NextHop(name="backup", state=HopState.DISABLED)
FAILING = Breaker(
    name="relay", state=BreakerState.OPEN, since_ms=NOW_MS - 11_000, reason="no route"
)
PROBED = BreakerState.HALF_OPEN
PAUSED = NextHop(name="relay", state=HopState.PAUSED, reason="credentials: 535 no")


def ago(ms: int, **fields: Any) -> dict[str, Any]:
    """Return facts with a queue in which something has been so for *ms*."""
    queue = {name: NOW_MS - ms if value is ... else value for name, value in fields.items()}
    return {"queue": replace(QUIET, **queue)}


def pause(ms: int) -> dict[str, Any]:
    since = Pause(since_ms=NOW_MS - ms, until_ms=None, actor="eve", reason="")
    return {"queue": replace(QUIET, pause=since)}


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({}, set()),
        (ago(60_000, oldest_unknown_ms=..., unknown=1), set()),
        (ago(60_001, oldest_unknown_ms=..., unknown=1), {AlertName.UNKNOWN}),
        (ago(-60_000, oldest_unknown_ms=..., unknown=1), set()),  # two readings of one clock
        (
            ago(-60_001, oldest_unknown_ms=..., unknown=1),
            {AlertName.UNKNOWN},
        ),  # it was set back
        ({"silent_ms": 30_000}, set()),
        ({"silent_ms": 30_001}, {AlertName.NO_CONSUMER}),
        ({"silent_ms": 0, "has_seen_life": False}, set()),  # one may just be starting
        (ago(120_000, oldest_due_ms=..., ready=9), set()),
        (ago(120_001, oldest_due_ms=..., ready=9), {AlertName.QUEUE_LATE}),
        (pause(900_000), set()),
        (pause(900_001), {AlertName.PAUSED}),
        ({"next_hops": [PAUSED]}, {AlertName.CREDENTIALS}),
        ({"next_hops": [SHUT]}, set()),
        ({"next_hops": [SHUT, ALSO_SHUT]}, {AlertName.CHAIN_SHUT}),
        (
            {"next_hops": [PAUSED, ALSO_SHUT]},
            {AlertName.CREDENTIALS, AlertName.CHAIN_SHUT},
        ),
        ({"next_hops": [replace(SHUT, state=HopState.OPEN), ALSO_SHUT]}, set()),
        ({"chains": [()], "next_hops": [SHUT]}, set()),
        ({"next_hops": [ALSO_SHUT], "breakers": [FAILING]}, {AlertName.CHAIN_SHUT}),
        ({"breakers": [FAILING, replace(FAILING, name="backup")]}, {AlertName.CHAIN_SHUT}),
        ({"breakers": [FAILING]}, set()),
        (
            {"chains": [("relay",)], "breakers": [replace(FAILING, state=PROBED)]},
            {AlertName.CHAIN_SHUT},
        ),
        (
            {"chains": [("relay",)], "breakers": [replace(FAILING, since_ms=NOW_MS - 9_000)]},
            set(),
        ),
        ({"chains": [("relay",)], "breakers": [Breaker(name="relay", version=9)]}, set()),
        ({"breakers": [FAILING], "queue": replace(QUIET, waiting=1)}, set()),
        ({"next_hops": [SHUT], "queue": replace(QUIET, waiting=1)}, {AlertName.CHAIN_SHUT}),
        ({"queue": replace(QUIET, waiting=1)}, set()),  # just opened: it goes on in a moment
        ({"is_storage_low": True}, {AlertName.DISK_LOW}),
        ({"clock_jumped_ms": -86_400_000, "clock_calm_ms": 600_000}, {AlertName.CLOCK_JUMPED}),
        ({"clock_jumped_ms": -86_400_000}, set()),
    ],
)
def test_each_alert_has_its_facts(facts: dict[str, Any], names: set[AlertName]) -> None:
    assert set(judge(replace(CALM, **facts))) == names


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        # A process that has just started knows of no consumer, nor that there is none.
        (AlertName.NO_CONSUMER, {"silent_ms": 0, "has_seen_life": False}),
        # Another process saw the jump a second earlier, and its end.
        (AlertName.CLOCK_JUMPED, {"clock_calm_ms": 10_000}),
    ],
)
def test_processes_that_know_different_things_take_no_turns(
    name: AlertName, facts: dict[str, Any]
) -> None:
    """Else one would clear, again and again, what the other raises."""
    assert set(judge(replace(CALM, **facts))) == set()
    assert set(judge(replace(CALM, **facts, raised=(name,)))) == {name}


def test_a_queue_that_is_paused_is_not_late() -> None:
    queue = replace(pause(60_000)["queue"], oldest_due_ms=0, ready=1)

    assert judge(replace(CALM, queue=queue)) == {}


def test_a_chain_that_fails_says_why() -> None:
    told = judge(replace(CALM, chains=[("relay",)], breakers=[FAILING]))

    assert "relay: no route" in told[AlertName.CHAIN_SHUT]


def test_each_alert_says_what_is_wrong_and_what_to_type() -> None:
    queue = replace(pause(900_001)["queue"], oldest_unknown_ms=NOW_MS - 61_000, unknown=3)
    worst = replace(
        CALM,
        queue=replace(queue, waiting=7),
        silent_ms=61_000,
        next_hops=[PAUSED, ALSO_SHUT],
        is_storage_low=True,
        clock_jumped_ms=90_000,
        clock_calm_ms=600_000,
    )
    late = judge(replace(CALM, queue=replace(QUIET, oldest_due_ms=0, ready=4)))
    told = {**judge(worst), **late}

    assert set(told) == set(AlertName)
    for name, words in {
        AlertName.UNKNOWN: "3 recipients.*2026-11-24T09:58:59.*emailerctl unknown list",
        AlertName.NO_CONSUMER: "no consumer.*2026-11-24T09:58:59.*emailerctl consume",
        AlertName.QUEUE_LATE: "4 are ready.*emailerctl status",
        AlertName.CREDENTIALS: "relay paused: credentials: 535 no.*providers enable relay",
        AlertName.CHAIN_SHUT: "relay > backup.*7 messages wait.*emailerctl providers list",
        AlertName.PAUSED: "by eve.*emailerctl queue resume",
        AlertName.DISK_LOW: "low-water mark.*shorten [retention]",
        AlertName.CLOCK_JUMPED: "jumped by 90 s.*time synchronisation",
    }.items():
        for word in words.split(".*"):
            assert word in told[name]
