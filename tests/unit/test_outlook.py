"""What will be asked about a doubt, as an operator is told."""

from typing import Any

import pytest

from emailerctl.core.outlook import Outlook, Way, foresee, is_resolved_within
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.providers.base import Abilities, Idempotency
from emailerctl.store.base import Unknown

MINUTE, HOUR = 60_000, 3_600_000
KEY = Idempotency(field="key", window_ms=24 * HOUR)
HOPS = {
    "mg": Abilities(look_up_lag_ms=30 * MINUTE, look_up_kept_ms=24 * HOUR),
    "brief": Abilities(look_up_lag_ms=30 * MINUTE, look_up_kept_ms=2 * HOUR),
    "rs": Abilities(idempotency=KEY),
    "both": Abilities(idempotency=KEY, look_up_lag_ms=24 * HOUR),
    "sg": Abilities(),
}
SETTLED = 70_000


def build(**fields: Any) -> Unknown:
    known: dict[str, Any] = {
        "message_id": 1,
        "n": 1,
        "address": "ann@example.org",
        "service": "shop",
        "subject": "",
        "provider": "mg",
        "attempt": 1,
        "since_ms": MINUTE,
        "open_until_ms": None,
        "on_unknown": OnUnknown.ASK,
        "resend_at_ms": None,
        "expires_ms": None,
        "is_expired": False,
        "ask_at_ms": 2 * MINUTE,
        "started_ms": 0,
    }
    return Unknown(**(known | fields))


@pytest.mark.parametrize(
    ("asks", "fields", "ways", "until_ms"),
    [
        ("mg", {}, (Way.LOOK_UP,), 12 * HOUR + 30 * MINUTE + SETTLED),
        ("brief", {}, (Way.LOOK_UP,), 108 * MINUTE),
        ("rs", {"replayed": 3}, (Way.REPLAY,), round(24 * HOUR * 0.9)),
        ("both", {}, (Way.REPLAY, Way.LOOK_UP), 60 * HOUR + SETTLED),
        ("both", {"replayed": 1}, (Way.LOOK_UP,), 60 * HOUR + SETTLED),
        ("mg", {"resend_at_ms": 5 * MINUTE}, (Way.LOOK_UP,), 5 * MINUTE),
        ("gone", {}, (), 12 * HOUR),
    ],
)
def test_who_is_asked_how_and_until_when(
    asks: str, fields: dict[str, Any], ways: tuple[Way, ...], until_ms: int
) -> None:
    told = foresee(build(asks=asks, **fields), HOPS)

    assert told == Outlook(asks=(asks,), ways=ways, until_ms=until_ms)


def test_after_a_restore_all_are_asked_that_can_be_looked_up() -> None:
    told = foresee(build(asks="", started_ms=None), HOPS)

    assert told.asks == ("mg", "brief", "both")
    assert told.until_ms == MINUTE + 36 * HOUR


def test_who_is_not_asked_any_more_has_no_outlook() -> None:
    assert foresee(build(asks="mg", ask_at_ms=None), HOPS) == Outlook()


@pytest.mark.parametrize(
    ("name", "is_soon"),
    [("mg", True), ("rs", True), ("both", True), ("sg", False), ("none", False)],
)
def test_which_doubts_usually_end_within_the_hour(name: str, is_soon: bool) -> None:
    assert is_resolved_within(HOPS.get(name), HOUR) is is_soon
