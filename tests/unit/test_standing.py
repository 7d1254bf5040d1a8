"""Which next hops take mail: shared by all, opened by new settings or by an operator."""

from random import Random

import pytest

from emailerctl.core.standing import Standing
from emailerctl.models.outcome import Alarm
from emailerctl.store.base import HopState, NextHop
from tests.desk import Desk

CHAIN = ("relay", "backup", "last")


def build(desk: Desk, **hashes: str) -> Standing:
    return Standing(desk.store, settings_hashes=hashes, clock=desk.clock)


async def put(desk: Desk, name: str, state: HopState, settings_hash: str = "") -> None:
    await desk.store.set_next_hop(
        NextHop(name=name, state=state, settings_hash=settings_hash, actor="eve")
    )


async def test_every_next_hop_is_open_until_the_store_says_otherwise(desk: Desk) -> None:
    standing = build(desk)
    await put(desk, "relay", HopState.DISABLED)
    assert standing.is_open("relay")

    await standing.refresh()

    assert not standing.is_open("relay")
    assert standing.is_open("backup")


@pytest.mark.parametrize(
    ("shut", "start", "found"),
    [
        ((), 0, 0),
        ((), 2, 2),
        (("relay",), 0, 1),
        (("relay", "backup"), 0, 2),
        (("last",), 2, None),
        (CHAIN, 0, None),
        ((), 3, None),
    ],
)
async def test_the_first_open_next_hop_of_a_chain_is_found(
    desk: Desk, shut: tuple[str, ...], start: int, found: int | None
) -> None:
    for name in shut:
        await put(desk, name, HopState.DISABLED)
    standing = build(desk)
    await standing.refresh()

    assert standing.find_open(CHAIN, start) == found


async def test_refused_credentials_pause_a_next_hop_for_everybody(desk: Desk) -> None:
    """F-SM-05."""
    standing, elsewhere = build(desk, relay="abc"), build(desk)

    await standing.pause("relay", Alarm.CREDENTIALS, "535 no")
    await elsewhere.refresh()

    assert not standing.is_open("relay")
    assert not elsewhere.is_open("relay")
    (hop,) = await desk.store.list_next_hops()
    assert (hop.state, hop.reason, hop.actor) == (
        HopState.PAUSED,
        "credentials: 535 no",
        "consumer",
    )
    assert (hop.settings_hash, hop.changed_ms) == ("abc", desk.clock.now_ms())


async def test_a_next_hop_is_paused_once(desk: Desk) -> None:
    standing = build(desk)
    for _ in range(3):
        await standing.pause("relay", Alarm.CREDENTIALS, "535 no")

    assert len(await desk.events()) == 1


async def test_what_an_operator_disabled_a_moment_ago_stays_disabled(desk: Desk) -> None:
    """A pause would be lifted by new settings; his order is not."""
    standing = build(desk, relay="abc")
    await put(desk, "relay", HopState.DISABLED)

    await standing.pause("relay", Alarm.CREDENTIALS, "535 no")

    assert not standing.is_open("relay")
    (hop,) = await desk.store.list_next_hops()
    assert (hop.state, hop.actor) == (HopState.DISABLED, "eve")


@pytest.mark.parametrize(
    ("state", "settings_hash", "is_reopened"),
    [
        (HopState.PAUSED, "old", True),
        (HopState.PAUSED, "new", False),
        (HopState.DISABLED, "old", False),
        (HopState.OPEN, "old", False),
    ],
)
async def test_new_settings_open_what_the_old_ones_had_paused(
    desk: Desk, state: HopState, settings_hash: str, is_reopened: bool
) -> None:
    await put(desk, "relay", state, settings_hash)
    standing = build(desk, relay="new")

    assert await standing.reopen_changed() == (["relay"] if is_reopened else [])

    assert standing.is_open("relay") == (is_reopened or state is HopState.OPEN)


async def test_a_next_hop_without_settings_is_left_alone(desk: Desk) -> None:
    await put(desk, "gone", HopState.PAUSED, "old")

    assert await build(desk, relay=f"{Random(1).random()}").reopen_changed() == []
