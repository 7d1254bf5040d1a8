"""Acceptance: one transaction for the message, its recipients, key, work and events."""

import asyncio

import pytest

from emailerctl.errors import RecipientRate, Unauthorized
from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import NewRecipient, Priority, RecipientKind
from emailerctl.store.base import IdTaken, Suppression, Token, Verb
from tests.desk import Desk

KEY = b"k" * 16
OTHER_KEY = b"o" * 16
SHOWN = (
    *("message_id", "service", "token_id", "created_ms", "expires_ms", "priority"),
    *("on_unknown", "provider", "is_test", "envelope_sender", "header_from", "subject"),
    *("tags", "metadata", "content_hash", "template"),
)


def suppression(address: str, service: str = "", **fields: object) -> Suppression:
    built = {
        "address": address,
        "service": service,
        "reason": "bounce",
        "detail": "550",
        "created_ms": 0,
        "expires_ms": None,
        "actor": "eve",
    }
    return Suppression(**(built | fields))  # type: ignore[arg-type]


def token(token_id: int = 7, name: str = "web", **fields: object) -> Token:
    built = {
        "token_id": token_id,
        "name": name,
        "service": "shop",
        "secret_hash": b"h",
        "scopes": frozenset({"send"}),
        "is_test": False,
        "created_ms": 0,
        "expires_ms": None,
        "revoked_ms": None,
        "last_used_ms": None,
    }
    return Token(**(built | fields))  # type: ignore[arg-type]


async def test_everything_that_was_accepted_is_read_back(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    message = desk.build(
        service="blog",
        token_id=3,
        due_ms=now_ms + 60_000,
        expires_ms=now_ms + 120_000,
        priority=Priority.HIGH,
        on_unknown=OnUnknown.RESEND,
        provider="backup",
        next_hop="backup",
        is_test=True,
        envelope_sender="bounces@example.com",
        header_from="blog@example.com",
        subject="Grüße, 世界",
        tags=("a", 'b"c'),
        metadata={"order": "17", "naïve": "ja"},
        recipients=(
            NewRecipient("ann@example.org", RecipientKind.TO),
            NewRecipient("bob@example.org", RecipientKind.CC),
            NewRecipient("cid@example.org", RecipientKind.BCC),
        ),
        raw=b"raw\x00\xff",
        needs_smtputf8=True,
        template="welcome",
        list_unsubscribe="https://example.com/u",
    )

    receipt = await desk.store.add(message, now_ms=now_ms)
    view = await desk.load(message.message_id)

    for name in SHOWN:
        assert getattr(view, name) == getattr(message, name), name
    assert (view.size_bytes, view.has_content, view.attempts) == (5, True, ())
    assert view.recipients == receipt.recipients
    assert [(r.n, r.address, r.kind) for r in view.recipients] == [
        (1, "ann@example.org", RecipientKind.TO),
        (2, "bob@example.org", RecipientKind.CC),
        (3, "cid@example.org", RecipientKind.BCC),
    ]
    assert {(r.state, r.waiting_for, r.due_ms) for r in view.recipients} == {
        (State.QUEUED, WaitingFor.SEND_AT, now_ms + 60_000)
    }
    assert await desk.store.load_raw(message.message_id) == b"raw\x00\xff"
    (stored,) = desk.rows("SELECT needs_smtputf8, list_unsubscribe, send_at FROM messages")
    assert stored == (1, "https://example.com/u", now_ms + 60_000)


async def test_it_is_an_event_for_the_message_and_one_for_each_recipient(desk: Desk) -> None:
    message_id = await desk.add("ann@example.org", "bob@example.org")

    events = await desk.events(message_id)

    assert [(e.type, e.recipient, e.from_state, e.to_state) for e in events] == [
        ("message.accepted", None, None, None),
        ("recipient.accepted", "ann@example.org", None, State.QUEUED),
        ("recipient.accepted", "bob@example.org", None, State.QUEUED),
    ]
    assert {event.service for event in events} == {"shop"}


@pytest.mark.parametrize("count", [1, 50])
async def test_a_message_may_have_many_recipients(desk: Desk, count: int) -> None:
    message_id = await desk.add(*(f"user{n}@example.org" for n in range(count)))

    assert await desk.states(message_id) == [State.QUEUED] * count


# suppression


async def test_a_suppressed_recipient_fails_at_once_and_the_others_go_on(desk: Desk) -> None:
    await desk.store.suppress(suppression("Ann@example.org"))

    receipt = await desk.receive("ANN@example.org", "bob@example.org")

    assert receipt.state is State.QUEUED
    first, second = receipt.recipients
    assert (first.state, first.reason, first.due_ms) == (
        State.FAILED,
        Reason.SUPPRESSED,
        None,
    )
    assert (second.state, second.reason) == (State.QUEUED, None)
    assert (await desk.load(receipt.message_id)).recipients == receipt.recipients


async def test_a_message_to_suppressed_recipients_alone_is_no_work(desk: Desk) -> None:
    await desk.store.suppress(suppression("ann@example.org", "shop"))

    receipt = await desk.receive("ann@example.org")

    assert receipt.state is State.FAILED
    assert await desk.due() == ()
    (event,) = [e for e in await desk.events() if e.type == "recipient.accepted"]
    assert (event.to_state, event.data) == (State.FAILED, {"reason": "suppressed"})


@pytest.mark.parametrize(
    "fields", [{"service": "blog"}, {"expires_ms": 1_000}, {"address": "anna@example.org"}]
)
async def test_the_suppression_of_somebody_else_does_not_count(
    desk: Desk, fields: dict[str, object]
) -> None:
    await desk.store.suppress(suppression(**({"address": "ann@example.org"} | fields)))  # type: ignore[arg-type]

    assert (await desk.receive("ann@example.org")).state is State.QUEUED


# keys


async def test_a_known_key_gives_the_earlier_message_as_it_stands(desk: Desk) -> None:
    first = await desk.receive(key_hash=KEY, fingerprint=b"f")
    await desk.order(Verb.HOLD, first.message_id)

    again = await desk.receive("bob@example.org", key_hash=KEY, fingerprint=b"g")

    assert (again.message_id, again.is_replay, again.state) == (
        first.message_id,
        True,
        State.HELD,
    )
    assert again.fingerprint == b"f"  # of the first: the caller compares
    assert await desk.store.find_by_key(KEY) == again
    assert desk.rows("SELECT count(*) FROM messages") == [(1,)]


async def test_an_unknown_key_has_no_message(desk: Desk) -> None:
    await desk.add(key_hash=KEY)

    assert await desk.store.find_by_key(OTHER_KEY) is None


async def test_twins_in_one_group_are_one_message(desk: Desk) -> None:
    """F-IN-11 within a process: all of them wait for the same commit."""
    receipts = await asyncio.gather(*(desk.receive(key_hash=KEY) for _ in range(20)))

    assert len({receipt.message_id for receipt in receipts}) == 1
    assert sum(not receipt.is_replay for receipt in receipts) == 1
    assert desk.rows("SELECT count(*) FROM messages") == [(1,)]


async def test_twins_of_two_processes_are_one_message(desk: Desk, other: Desk) -> None:
    """F-IN-11 and F-IN-12 at the store: one wins, everybody hears whose message it is."""
    adding = [
        d.receive(key_hash=bytes([n]) * 16, fingerprint=bytes([i]))
        for n in range(20)
        for i, d in enumerate((desk, other, desk, other))
    ]

    receipts = await asyncio.gather(*adding)

    for n in range(20):
        twins = receipts[4 * n : 4 * n + 4]
        assert len({twin.message_id for twin in twins}) == 1
        (made,) = [twin for twin in twins if not twin.is_replay]
        assert {twin.fingerprint for twin in twins} == {made.fingerprint}


async def test_a_refused_message_leaves_its_key_free(desk: Desk) -> None:
    """All or nothing: the key of a message that was not stored belongs to nobody."""
    rate = {"token_id": 7, "recipient_rate": (1, 60_000)}
    await desk.add(**rate)
    with pytest.raises(RecipientRate):
        await desk.add(key_hash=KEY, **rate)

    assert await desk.store.find_by_key(KEY) is None
    assert not (await desk.receive("bob@example.org", key_hash=KEY)).is_replay


# ids


async def test_an_id_that_is_taken_stores_nothing(desk: Desk) -> None:
    message_id = await desk.add("ann@example.org")

    with pytest.raises(IdTaken):
        await desk.add("bob@example.org", message_id=message_id, key_hash=KEY)

    assert await desk.store.find_by_key(KEY) is None
    assert [r.address for r in (await desk.load(message_id)).recipients] == ["ann@example.org"]
    assert len(await desk.events()) == 2


# the token's end and its rate


async def test_a_token_that_was_revoked_in_flight_commits_nothing(desk: Desk) -> None:
    """F-IN-14: the epoch moved since the request was authenticated, so the commit looks."""
    await desk.store.add_token(token())
    epoch = await desk.store.token_epoch()
    await desk.store.end_token(7, at_ms=desk.clock.now_ms())

    with pytest.raises(Unauthorized, match="revoked"):
        await desk.add(token_id=7, token_epoch=epoch, key_hash=KEY)

    assert desk.rows("SELECT count(*) FROM messages") == [(0,)]
    assert await desk.store.find_by_key(KEY) is None


async def test_a_revocation_in_the_same_group_counts(desk: Desk) -> None:
    """F-IN-14: also where both wait for one commit."""
    await desk.store.add_token(token())
    epoch = await desk.store.token_epoch()
    now_ms = desk.clock.now_ms()

    before, _, after = await asyncio.gather(
        desk.receive(token_id=7, token_epoch=epoch),
        desk.store.end_token(7, at_ms=now_ms),
        desk.receive(token_id=7, token_epoch=epoch),
        return_exceptions=True,
    )

    assert not isinstance(before, BaseException)
    assert isinstance(after, Unauthorized)


async def test_another_tokens_end_is_no_hindrance(desk: Desk) -> None:
    await desk.store.add_token(token())
    await desk.store.add_token(token(8, "other"))
    epoch = await desk.store.token_epoch()
    await desk.store.end_token(8, at_ms=desk.clock.now_ms())

    assert (await desk.receive(token_id=7, token_epoch=epoch)).state is State.QUEUED


@pytest.mark.parametrize("ends", ["expires_ms", "revoked later", "unknown"])
async def test_a_token_without_a_right_any_more_commits_nothing(desk: Desk, ends: str) -> None:
    now_ms = desk.clock.now_ms()
    if ends == "expires_ms":
        await desk.store.add_token(token(expires_ms=now_ms + 1_000))
    elif ends == "revoked later":  # a rotation with overlap
        await desk.store.add_token(token())
        await desk.store.end_token(7, at_ms=now_ms + 1_000)
    desk.clock.advance(s=1)

    with pytest.raises(Unauthorized):
        await desk.add(token_id=7, token_epoch=-1)


async def test_the_local_operator_needs_no_token(desk: Desk) -> None:
    assert (await desk.receive(token_id=0, token_epoch=-1)).state is State.QUEUED


async def test_a_rate_for_each_recipient_is_kept(desk: Desk) -> None:
    rate = {"token_id": 7, "recipient_rate": (2, 60_000)}
    for _ in range(2):
        await desk.add("ann@example.org", "bob@example.org", **rate)

    with pytest.raises(RecipientRate, match=r"ann@example\.org has had them") as refusal:
        await desk.add("ann@example.org", **rate)
    assert refusal.value.retry_after_s == 60

    await desk.add("ann@example.org", token_id=8, recipient_rate=(2, 60_000))
    await desk.add("cid@example.org", **rate)
    desk.clock.advance(s=61)
    await desk.add("ann@example.org", **rate)


async def test_a_refused_rate_counts_nobody(desk: Desk) -> None:
    rate = {"token_id": 7, "recipient_rate": (1, 60_000)}
    await desk.add("bob@example.org", **rate)
    with pytest.raises(RecipientRate):
        await desk.add("ann@example.org", "bob@example.org", **rate)

    await desk.add("ann@example.org", **rate)


async def test_a_replay_is_not_counted_nor_refused_by_the_rate(desk: Desk) -> None:
    rate = {"token_id": 7, "recipient_rate": (1, 60_000)}
    first = await desk.receive(key_hash=KEY, **rate)

    assert (await desk.receive(key_hash=KEY, **rate)).message_id == first.message_id


async def test_spellings_of_one_address_in_one_message_are_one_for_the_rate(desk: Desk) -> None:
    """Local parts keep their case, and are two recipients; the rate counts people."""
    rate = {"token_id": 7, "recipient_rate": (1, 60_000)}

    receipt = await desk.receive("Ann@example.org", **rate)
    with pytest.raises(RecipientRate):
        await desk.add("ann@example.org", **rate)
    two = await desk.receive(
        "Bob@example.org", "bob@example.org", token_id=7, recipient_rate=(2, 60_000)
    )

    assert (receipt.state, two.state) == (State.QUEUED, State.QUEUED)


async def test_a_clock_that_went_back_accepts_all_the_same(desk: Desk) -> None:
    await desk.add()
    desk.clock.jump(-10 * 86_400_000)

    receipt = await desk.receive()

    assert receipt.created_ms == desk.clock.now_ms()
    assert (await desk.load(receipt.message_id)).created_ms == receipt.created_ms
