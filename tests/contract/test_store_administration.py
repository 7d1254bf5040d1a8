"""Tokens, suppressions, next hops, consumers, alerts and notes."""

import asyncio

import pytest

from emailerctl.errors import BadRequest, Conflict, NotFound
from emailerctl.store.base import Alert, Blocks, HopState, NextHop, Suppression
from tests.contract.test_store_acceptance import suppression, token
from tests.desk import BOOT, LEASE_MS, Desk

# tokens


async def test_a_token_is_read_back(desk: Desk) -> None:
    made = token(
        scopes=frozenset({"send", "read:all"}),
        is_test=True,
        expires_ms=99,
        limits={"from_domains": ["example.com"]},
    )
    await desk.store.add_token(made)

    _epoch, tokens = await desk.store.load_tokens()

    assert tokens == [made]


async def test_every_change_of_a_token_is_an_epoch_but_its_use(desk: Desk) -> None:
    epochs = [await desk.store.token_epoch()]
    await desk.store.add_token(token())
    epochs.append(await desk.store.token_epoch())
    await desk.store.end_token(7, at_ms=5)
    epochs.append(await desk.store.token_epoch())
    await desk.store.touch_tokens({7: 9})
    epochs.append((await desk.store.load_tokens())[0])

    assert epochs == [0, 1, 2, 2]


async def test_a_name_belongs_to_one_live_token(desk: Desk) -> None:
    await desk.store.add_token(token(created_ms=10))

    with pytest.raises(Conflict, match="there is a live token named 'web'") as refusal:
        await desk.store.add_token(token(8, created_ms=10))
    assert "rotate web" in refusal.value.cure

    await desk.store.add_token(token(8, created_ms=10), is_rotation=True)
    await desk.store.end_token(7, at_ms=20)
    await desk.store.end_token(8, at_ms=20)
    await desk.store.add_token(token(9, created_ms=20))


async def test_the_name_of_an_expired_token_is_free(desk: Desk) -> None:
    await desk.store.add_token(token(expires_ms=10))

    await desk.store.add_token(token(8, created_ms=10))


async def test_an_end_may_come_sooner_but_never_later(desk: Desk) -> None:
    await desk.store.add_token(token())
    for at_ms in (50, 90, 30):
        await desk.store.end_token(7, at_ms=at_ms)

    (ended,) = (await desk.store.load_tokens())[1]
    assert ended.revoked_ms == 30


async def test_a_token_that_is_not_there_does_not_end(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.store.end_token(7, at_ms=1)


async def test_the_last_use_only_moves_on(desk: Desk) -> None:
    await desk.store.add_token(token())
    for at_ms in (5, 9, 7):
        await desk.store.touch_tokens({7: at_ms, 8: at_ms})

    (used,) = (await desk.store.load_tokens())[1]
    assert used.last_used_ms == 9


# suppressions


async def list_all(desk: Desk, limit: int = 2, **asked: str | None) -> list[Suppression]:
    found: list[Suppression] = []
    cursor = None
    while True:
        page = await desk.store.list_suppressions(
            service=asked.get("service"),
            address=asked.get("address") or "",
            cursor=cursor,
            limit=limit,
        )
        assert len(page.data) <= limit
        found += page.data
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
async def test_suppressions_are_walked_by_address(desk: Desk, limit: int) -> None:
    for address in ("bob@example.org", "ann@example.org", "Zoë@example.org"):
        await desk.store.suppress(suppression(address))
        await desk.store.suppress(suppression(address, "shop"))

    found = await list_all(desk, limit)

    assert [(s.address, s.service) for s in found] == [
        (address, service)
        for address in ("ann@example.org", "bob@example.org", "zoë@example.org")
        for service in ("", "shop")
    ]


async def test_suppressions_are_narrowed_by_prefix_and_service(desk: Desk) -> None:
    everyone = suppression("ann@example.org")
    shop = suppression("ann@example.org", "shop", detail="550 gone", expires_ms=9)
    blog = suppression("anna@example.org", "blog")
    for entry in (everyone, shop, blog):
        await desk.store.suppress(entry)

    assert await list_all(desk, address="ANN@") == [everyone, shop]
    assert await list_all(desk, address="ann") == [everyone, shop, blog]
    assert await list_all(desk, service="shop") == [everyone, shop]
    assert await list_all(desk, address="bob") == []


async def test_a_suppression_is_replaced_and_removed(desk: Desk) -> None:
    await desk.store.suppress(suppression("ann@example.org"))
    await desk.store.suppress(suppression("ANN@example.org", reason="bounce"))

    (entry,) = await list_all(desk)
    assert entry.reason == "bounce"
    assert await desk.store.unsuppress("Ann@example.org", "")
    assert not await desk.store.unsuppress("ann@example.org", "")
    assert await list_all(desk) == []


async def test_who_is_suppressed_is_found(desk: Desk) -> None:
    asked = ["ann@example.org", "Bob@example.org", "cid@example.org", "dan@example.org"]
    assert await desk.store.find_suppressed(asked, service="shop", now_ms=5) == set()
    await desk.store.suppress(suppression("ann@example.org", "blog"))
    await desk.store.suppress(suppression("bob@example.org"))
    await desk.store.suppress(suppression("cid@example.org", "shop", expires_ms=6))
    await desk.store.suppress(suppression("dan@example.org", "shop", expires_ms=5))

    found = await desk.store.find_suppressed(asked, service="shop", now_ms=5)

    assert found == {"Bob@example.org", "cid@example.org"}


async def test_whoever_unsubscribed_stays_so_when_the_address_lives_again(desk: Desk) -> None:
    """Against all mail and against lists are two entries; each ends by itself."""
    ann = ["ann@example.org"]
    for reason in ("bounce", "unsubscribe"):
        await desk.store.suppress(suppression(ann[0], reason=reason))
    assert [entry.blocks for entry in await list_all(desk)] == ["all", "lists"]

    assert await desk.store.unsuppress(ann[0], "", blocks=Blocks.ALL)
    assert not await desk.store.unsuppress(ann[0], "", blocks=Blocks.ALL)

    assert await desk.store.find_suppressed(ann, service="shop", now_ms=5) == set()
    assert await desk.store.find_suppressed(ann, service="shop", now_ms=5, is_list=True) == set(
        ann
    )


async def test_an_import_replaces_only_what_would_end_sooner(desk: Desk) -> None:
    await desk.store.suppress(suppression("ann@example.org", detail="by phone"))
    await desk.store.suppress(suppression("bob@example.org", expires_ms=9))
    await desk.store.suppress(suppression("cid@example.org", expires_ms=9))

    added = await desk.store.import_suppressions(
        [
            suppression("ann@example.org", detail="imported"),
            suppression("bob@example.org", detail="imported"),
            suppression("cid@example.org", detail="imported", expires_ms=8),
            suppression("dan@example.org", detail="imported"),
        ]
    )

    assert added == 2
    details = [(entry.address[:3], entry.detail) for entry in await list_all(desk)]
    assert details == [
        ("ann", "by phone"),
        ("bob", "imported"),
        ("cid", "550"),
        ("dan", "imported"),
    ]


async def test_a_note_is_kept_by_whoever_was_first(desk: Desk, other: Desk) -> None:
    assert await desk.store.keep_note("key", "mine") == "mine"
    assert await other.store.keep_note("key", "theirs") == "mine"


async def test_a_suppression_in_the_same_group_counts(desk: Desk) -> None:
    before, _, after = await asyncio.gather(
        desk.receive("ann@example.org"),
        desk.store.suppress(suppression("ann@example.org")),
        desk.receive("ann@example.org"),
    )

    assert (before.state, after.state) == ("queued", "failed")


@pytest.mark.parametrize(
    "cursor", ["x", "35", "5b" * 3000, "61", "610062", "61006200", "ff00", "é"]
)
async def test_a_cursor_of_somebody_else_is_refused(desk: Desk, cursor: str) -> None:
    if cursor == "61006200":  # "a", "b", "": a good one
        await desk.store.list_suppressions(service=None, address="", cursor=cursor, limit=2)
        return
    with pytest.raises(BadRequest, match="is not one of ours"):
        await desk.store.list_suppressions(service=None, address="", cursor=cursor, limit=2)


async def test_any_prefix_may_be_asked_for(desk: Desk) -> None:
    assert await list_all(desk, address="a\x00b") == []


# next hops


async def test_the_standing_of_a_next_hop_is_read_back_and_an_event(desk: Desk) -> None:
    hop = NextHop(
        name="relay",
        state=HopState.PAUSED,
        reason="535",
        changed_ms=5,
        actor="consumer",
        settings_hash="abc",
    )
    await desk.store.set_next_hop(hop)

    assert await desk.store.list_next_hops() == [hop]
    (event,) = await desk.events()
    assert (event.type, event.provider, event.at_ms) == ("next_hop.changed", "relay", 5)
    assert event.data == {"state": "paused", "reason": "535", "actor": "consumer"}


# alerts and notes


async def test_an_alert_is_raised_and_cleared_once(desk: Desk, other: Desk) -> None:
    """Of all processes the one whose commit raised it tells."""
    alert = Alert(name="disk_low", detail="90 %", since_ms=5, notified_ms=6)

    raised = await asyncio.gather(
        *(d.store.raise_alert(alert) for d in (desk, other, desk, other))
    )
    assert sorted(raised) == [False, False, False, True]
    assert await desk.store.list_alerts() == [alert]

    cleared = await asyncio.gather(
        *(d.store.clear_alert("disk_low") for d in (desk, other, desk, other))
    )
    assert sorted(cleared) == [False, False, False, True]
    assert await other.store.list_alerts() == []


async def test_notes_are_left_for_others(desk: Desk, other: Desk) -> None:
    assert await other.store.find_note("clock") is None
    await desk.store.leave_note("clock", "1")
    await desk.store.leave_note("clock", "2")

    assert await other.store.find_note("clock") == "2"


# consumers


async def test_consumers_are_listed_until_they_end_and_then_forgotten(desk: Desk) -> None:
    await desk.register(1)
    desk.clock.advance(s=1)
    await desk.register(2, boot_id="another")

    first, second = await desk.store.list_consumers()
    assert (first.consumer_id, first.boot_id, first.host) == (1, BOOT, "host")
    assert first.lease_until_ms == desk.clock.boot_ms() - 1_000 + LEASE_MS
    assert second.boot_id == "another"

    await desk.void(1)
    assert [c.consumer_id for c in await desk.store.list_consumers()] == [2]
    assert len(desk.rows("SELECT 1 FROM consumers")) == 2
    desk.clock.advance(h=25)
    await desk.register(3)
    assert len(desk.rows("SELECT 1 FROM consumers")) == 2
