"""Reports: each once, matched to its recipient, stepping as evidence may."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from emailerctl.core.reporting import MEANINGS, Reporting, translate
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, State
from emailerctl.models.outcome import Kind, Outcome
from emailerctl.providers.base import RejectReason, Report, ReportKind
from emailerctl.store.base import Settlement, Suppression, Taken
from tests.desk import MAX_AGE_MS, Desk

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def report(message_id: int | None, kind: str = "delivered", **fields: Any) -> Report:
    """Return a report about a message's only recipient and its first attempt."""
    built: dict[str, Any] = {
        "kind": ReportKind(kind),
        "event_id": f"{kind}-{message_id}-{fields.get('attempt', 1)}",
        "recipient": "ann@example.org",
        "public_id": "" if message_id is None else to_public(MESSAGE, message_id),
        "attempt": 1,
    }
    return Report(**(built | fields))


async def take(desk: Desk, *reports: Report, **fields: Any) -> Taken:
    asked: dict[str, Any] = {
        "provider": "relay",
        "raw": b"as it came",
        "now_ms": desk.clock.now_ms(),
    }
    provider = fields.pop("provider", asked.pop("provider"))
    return await Reporting(desk.store).take(provider, reports, **(asked | fields))


async def suppressions(desk: Desk) -> list[tuple[str, str, str]]:
    page = await desk.store.list_suppressions(service=None, address="", cursor=None, limit=200)
    return [(s.address, s.service, s.reason) for s in page.data]


async def last_event(desk: Desk, message_id: int) -> Any:
    return (await desk.events(message_id))[-1]


# what a report changes

AFTER: dict[str, Mapping[State, State]] = {
    "delivered": {
        State.SENDING: State.DELIVERED,
        State.UNKNOWN: State.DELIVERED,
        State.SENT: State.DELIVERED,
        State.FAILED: State.DELIVERED,
        State.BOUNCED: State.BOUNCED,
        State.DELIVERED: State.DELIVERED,
    },
    "bounced": {
        State.SENDING: State.BOUNCED,
        State.UNKNOWN: State.BOUNCED,
        State.SENT: State.BOUNCED,
        State.FAILED: State.BOUNCED,
        State.BOUNCED: State.BOUNCED,
        State.DELIVERED: State.BOUNCED,
    },
}
# A copy went out, whatever came of it.
AFTER |= {
    kind: {
        State.SENDING: State.SENT,
        State.UNKNOWN: State.SENT,
        State.SENT: State.SENT,
        State.FAILED: State.SENT,
        State.BOUNCED: State.BOUNCED,
        State.DELIVERED: State.DELIVERED,
    }
    for kind in (
        "queued",
        "sent",
        "deferred",
        "opened",
        "clicked",
        "complained",
        "unsubscribed",
    )
}


@pytest.mark.parametrize("before", list(AFTER["delivered"]))
@pytest.mark.parametrize("kind", AFTER)
async def test_a_report_steps_as_the_life_cycle_allows(
    desk: Desk, kind: str, before: State
) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.bring(message_id, before)

    taken = await take(desk, report(message_id, kind))

    assert taken == Taken(new=1)
    assert await desk.state(message_id) is AFTER[kind][before]


@pytest.mark.parametrize("kind", list(ReportKind))
async def test_every_kind_has_its_event(desk: Desk, kind: ReportKind) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.bring(message_id, State.UNKNOWN)
    before = len(await desk.events())

    await take(desk, report(message_id, kind, at_ms=1_000, reply="said so"))

    meaning = MEANINGS[kind]
    expected = [f"recipient.{meaning.cause}"] if meaning.cause else []
    expected += [meaning.event] if meaning.event else []
    told = (await desk.events())[before:]
    assert [event.type for event in told] == expected
    for event in told:
        assert (event.recipient, event.provider) == ("ann@example.org", "relay")
        assert (event.reply, event.data["at"]) == ("said so", "1970-01-01T00:00:01.000Z")


async def test_the_same_thing_is_told_once(desk: Desk, other: Desk) -> None:
    """F-WI-01: repeated, in one call, in two, and by two processes at once."""
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)
    told = report(message_id)

    first = await take(desk, told, told)
    again, elsewhere = await asyncio.gather(take(desk, told), take(other, told))

    assert first == Taken(new=1, repeated=1)
    assert again == elsewhere == Taken(repeated=1)
    assert (await desk.causes(message_id)).count("delivery_reported") == 1
    assert desk.rows("SELECT provider, raw FROM report_calls") == [("relay", b"as it came")]


async def test_event_ids_are_a_provider_s_own(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)

    await take(desk, report(message_id, "opened", event_id="1"))
    taken = await take(desk, report(message_id, "clicked", event_id="1"), provider="backup")

    assert taken == Taken(new=1)


async def test_a_signature_s_token_counts_once(desk: Desk) -> None:
    """F-WI-01: a replay is dropped, whatever it says this time."""
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)
    assert await take(desk, report(message_id, "opened"), once="token") == Taken(new=1)

    replay = await take(desk, report(message_id, "bounced"), once="token")

    assert replay == Taken(is_replay=True)
    assert await desk.state(message_id) is State.SENT
    assert await take(desk, once="token", provider="backup") == Taken()


async def test_what_could_not_be_read_is_kept(desk: Desk) -> None:
    await take(desk, raw=b"{", fault="no event-data in the report")
    assert desk.rows("SELECT raw, fault FROM report_calls") == [
        (b"{", "no event-data in the report")
    ]


async def test_a_report_without_an_id_is_known_by_its_words(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)

    assert await take(desk, report(message_id, event_id="", at_ms=5)) == Taken(new=1)
    assert await take(desk, report(message_id, event_id="", at_ms=5)) == Taken(repeated=1)
    assert await take(desk, report(message_id, event_id="", at_ms=6)) == Taken(new=1)


# before, out of order


async def test_a_report_before_our_own_settlement_is_evidence(desk: Desk) -> None:
    """F-WI-02: the recipient steps, and the settlement still writes its attempt."""
    await desk.register()
    message_id = await desk.add()
    claim = await desk.start(message_id)

    await take(desk, report(message_id))
    assert await desk.state(message_id) is State.DELIVERED
    assert not await desk.settle(claim, Cause.HANDED_OVER)
    await desk.testify(claim, Cause.HANDED_OVER)

    view = await desk.load(message_id)
    assert [attempt.outcome for attempt in view.attempts] == ["accepted"]
    assert view.state is State.DELIVERED


async def test_bounced_after_delivered_and_the_other_way_round(desk: Desk) -> None:
    """A late bounce counts; a delivery that is told late does not undo it."""
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)

    await take(desk, report(message_id, "bounced"))
    await take(desk, report(message_id, "delivered"))

    assert await desk.state(message_id) is State.BOUNCED
    event = await last_event(desk, message_id)
    assert (event.type, event.from_state) == ("recipient.delivery_reported", "bounced")


async def test_a_report_stops_the_second_copy(desk: Desk) -> None:
    """Evidence ends the doubt before policy `resend` acts."""
    await desk.register()
    message_id = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.deliver(message_id, Cause.UNANSWERED)

    await take(desk, report(message_id, "opened"))
    desk.clock.advance(ms=MAX_AGE_MS)
    await desk.sweep()

    assert await desk.state(message_id) is State.SENT
    assert await desk.due() == ()


# which attempt


async def deliver_twice(desk: Desk, **fields: Any) -> int:
    """Return a message that was unknown, went out again, and is unknown again."""
    await desk.register()
    message_id = await desk.add(on_unknown=OnUnknown.RESEND, **fields)
    await desk.deliver(message_id, Cause.UNANSWERED)
    desk.clock.advance(ms=HOUR_MS)
    await desk.sweep()
    await desk.deliver(message_id, Cause.UNANSWERED)
    return message_id


@pytest.mark.parametrize(
    ("kind", "attempt", "after"),
    [
        ("delivered", 1, State.DELIVERED),  # positive evidence: any attempt
        ("delivered", 2, State.DELIVERED),
        ("delivered", None, State.DELIVERED),
        ("bounced", 1, State.UNKNOWN),  # negative: the newest only
        ("bounced", 2, State.BOUNCED),
        ("bounced", None, State.UNKNOWN),  # it may be about either
    ],
)
async def test_bad_news_counts_only_of_the_newest_attempt(
    desk: Desk, kind: str, attempt: int | None, after: State
) -> None:
    message_id = await deliver_twice(desk)

    await take(desk, report(message_id, kind, attempt=attempt))

    assert await desk.state(message_id) is after


@pytest.mark.parametrize("before", [State.SENDING, State.UNKNOWN, State.SENT])
async def test_a_bounce_without_an_attempt_is_about_the_only_one(
    desk: Desk, before: State
) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.bring(message_id, before)

    await take(desk, report(message_id, "bounced", attempt=None), provider="dsn")

    assert await desk.state(message_id) is State.BOUNCED


# whose copy


async def test_a_recipient_is_found_by_address_or_number(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add("Ann@example.org", "bob@example.org", "cid@example.org")
    await desk.deliver(message_id)

    await take(
        desk,
        report(message_id, recipient="ANN@Example.org", event_id="1"),
        report(message_id, recipient="", n=3, event_id="2"),
        report(message_id, recipient="", event_id="3"),  # of three: whose?
        report(message_id, recipient="eve@example.org", event_id="4"),
        report(message_id, recipient="", n=4, event_id="5"),
    )

    assert await desk.states(message_id) == [State.DELIVERED, State.SENT, State.DELIVERED]


async def test_the_only_recipient_needs_no_name(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)

    await take(desk, report(message_id, recipient=""))

    assert await desk.state(message_id) is State.DELIVERED


@pytest.mark.parametrize("kind", ["delivered", "opened", "bounced", "complained"])
async def test_a_report_that_names_nobody_says_only_that_the_attempt_was_taken(
    desk: Desk, kind: str
) -> None:
    """Of several recipients nobody is delivered, bounced or suppressed by it."""
    await desk.register()
    message_id = await desk.add("ann@example.org", "bob@example.org", "cid@example.org")
    claim = await desk.start(message_id, accepted=[1, 2])
    causes = {1: Cause.UNANSWERED, 2: Cause.UNANSWERED, 3: Cause.REFUSED}
    assert await desk.settle(claim, causes)

    elsewhere = await take(desk, report(message_id, kind, recipient="", attempt=2))
    taken = await take(desk, report(message_id, kind, recipient="", is_hard=True))

    assert elsewhere == Taken(new=1, unmatched=1)
    assert taken == Taken(new=1)
    assert await desk.states(message_id) == [State.SENT, State.SENT, State.BOUNCED]
    assert await suppressions(desk) == []


def taken_as(provider_message_id: str) -> Mapping[int, Settlement]:
    outcome = Outcome(kind=Kind.ACCEPTED, provider_message_id=provider_message_id)
    return {1: Settlement(cause=Cause.HANDED_OVER, outcome=outcome)}


async def settle_as(desk: Desk, message_id: int, provider_message_id: str) -> None:
    claim = await desk.start(message_id)
    result = desk.decide(claim, Cause.HANDED_OVER)._replace(
        settlements=taken_as(provider_message_id)
    )
    assert await desk.store.settle(claim, result, now_ms=desk.clock.now_ms())


async def test_the_provider_s_own_id_will_do(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await settle_as(desk, message_id, "<42@mg>")
    told = report(None, attempt=None, provider_message_id="<42@mg>")

    elsewhere = await take(desk, told, provider="backup")
    taken = await take(desk, told)

    assert elsewhere == Taken(new=1, unmatched=1)  # their number 42 is another message
    assert taken == Taken(new=1)
    assert await desk.state(message_id) is State.DELIVERED


async def test_the_provider_s_id_is_looked_up_in_an_index(desk: Desk) -> None:
    (plan,) = desk.rows(
        "EXPLAIN QUERY PLAN SELECT message_id FROM attempts WHERE provider_message_id = ?"
        " AND provider_message_id <> '' AND provider = 'x'",
        "42",
    )
    assert "attempts_provider_message" in plan[3]


# about nothing that is here


async def test_a_report_waits_for_the_attempt_it_is_about(desk: Desk) -> None:
    """F-WI-03: it names the provider's id, which our settlement has yet to write."""
    await desk.register()
    message_id = await desk.add()
    told = report(None, attempt=None, provider_message_id="42")
    assert await take(desk, told) == Taken(new=1, unmatched=1)
    reporting = Reporting(desk.store)
    assert await reporting.match(now_ms=desk.clock.now_ms()) == 0

    await settle_as(desk, message_id, "42")
    desk.clock.advance(ms=1_000)

    assert await reporting.match(now_ms=desk.clock.now_ms()) == 1
    assert await desk.state(message_id) is State.DELIVERED
    assert await take(desk, told) == Taken(repeated=1)
    desk.clock.advance(ms=DAY_MS)
    assert await reporting.match(now_ms=desk.clock.now_ms()) == 0


async def test_a_report_that_never_fits_is_tried_for_a_week(desk: Desk) -> None:
    """F-WI-03: ever less often, and then no more."""
    await take(desk, report(42), report(None, "bounced", provider_message_id="x"))
    tries = 0
    while (row := desk.rows("SELECT min(next_at) FROM reports")[0][0]) is not None:
        tries += 1
        assert row - desk.clock.now_ms() <= HOUR_MS
        desk.clock.advance(ms=row - desk.clock.now_ms())
        assert await Reporting(desk.store).match(now_ms=desk.clock.now_ms()) == 0

    assert tries < 200
    age_ms = desk.clock.now_ms() - desk.rows("SELECT received_at FROM reports")[0][0]
    assert 6.9 * DAY_MS < age_ms <= 7 * DAY_MS


async def test_an_attempt_that_was_not_marked_proves_nothing(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.claim(message_id)

    taken = await take(desk, report(message_id), report(message_id, attempt=7))

    assert taken == Taken(new=2, unmatched=2)
    assert await desk.state(message_id) is State.QUEUED


async def test_what_says_nothing_is_not_tried_again(desk: Desk) -> None:
    await take(desk, report(42, "unknown"))
    assert desk.rows("SELECT next_at FROM reports") == [(None,)]


# suppression


@pytest.mark.parametrize(
    ("fields", "suppressed"),
    [
        ({"kind": "bounced", "is_hard": True}, ("", "bounce")),
        ({"kind": "bounced"}, None),
        ({"kind": "rejected", "is_hard": True}, ("", "bounce")),
        ({"kind": "rejected", "reject_reason": RejectReason.SPAM}, ("shop", "complaint")),
        (
            {"kind": "rejected", "reject_reason": RejectReason.UNSUBSCRIBED},
            ("shop", "unsubscribe"),
        ),
        ({"kind": "rejected", "reject_reason": RejectReason.OTHER}, None),
        ({"kind": "complained"}, ("shop", "complaint")),
        ({"kind": "unsubscribed"}, ("shop", "unsubscribe")),
        ({"kind": "subscribed"}, None),
        ({"kind": "delivered"}, None),
    ],
)
async def test_whom_a_report_suppresses(
    desk: Desk, fields: Mapping[str, Any], suppressed: tuple[str, str] | None
) -> None:
    await desk.register()
    message_id = await desk.add("Ann@example.org")
    await desk.deliver(message_id)

    await take(desk, report(message_id, **fields, reply="550 5.1.1 nobody"))

    expected = [("ann@example.org", *suppressed)] if suppressed else []
    assert await suppressions(desk) == expected
    if suppressed:
        page = await desk.store.list_suppressions(
            service=None, address="", cursor=None, limit=1
        )
        assert page.data[0].detail == "550 5.1.1 nobody"
        assert (page.data[0].message_id, page.data[0].provider) == (message_id, "relay")


async def test_a_test_s_bounce_suppresses_nobody(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add(is_test=True)
    await desk.deliver(message_id)

    await take(desk, report(message_id, "bounced", is_hard=True))

    assert await suppressions(desk) == []


async def test_what_a_person_entered_stays(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)
    await desk.store.suppress(
        Suppression(
            address="ann@example.org",
            service="",
            reason="manual",
            detail="asked by phone",
            created_ms=1,
            expires_ms=None,
            actor="eve",
        )
    )

    await take(desk, report(message_id, "bounced", is_hard=True))

    assert await suppressions(desk) == [("ann@example.org", "", "manual")]


@pytest.mark.parametrize(
    ("reason", "list_unsubscribe", "is_stopped"),
    [
        ("bounce", "", True),
        ("bounce", "https://example.org/u", True),
        ("complaint", "", False),
        ("complaint", "https://example.org/u", True),
        ("unsubscribe", "", False),
        ("unsubscribe", "https://example.org/u", True),
        ("manual", "", True),
    ],
)
async def test_which_messages_a_suppression_stops(
    desk: Desk, reason: str, list_unsubscribe: str, *, is_stopped: bool
) -> None:
    """F-CO-10: at acceptance, and at the mark of what was accepted before."""
    await desk.register()
    earlier = await desk.add(list_unsubscribe=list_unsubscribe)
    claim = await desk.claim(earlier)
    await desk.store.suppress(
        Suppression(
            address="ann@example.org",
            service="shop",
            reason=reason,
            detail="",
            created_ms=1,
            expires_ms=None,
            actor="report",
        )
    )

    later = await desk.receive(list_unsubscribe=list_unsubscribe)

    assert later.state == ("failed" if is_stopped else "queued")
    assert later.recipients[0].reason == ("suppressed" if is_stopped else None)
    assert await desk.mark(claim) is not is_stopped
    assert (await desk.load(earlier)).recipients[0].reason == (
        "suppressed" if is_stopped else None
    )


# the link


async def unsubscribe(desk: Desk, message_id: int, n: int = 1) -> bool:
    wish = Suppression(
        address="ann@example.org",
        service="shop",
        reason="unsubscribe",
        detail="",
        created_ms=desk.clock.now_ms(),
        expires_ms=None,
        actor="one-click",
    )
    return await desk.store.unsubscribe(
        wish, message_id=message_id, n=n, now_ms=desk.clock.now_ms()
    )


async def test_a_link_suppresses_and_says_so_once(desk: Desk) -> None:
    message_id = await desk.add()

    assert await unsubscribe(desk, message_id)
    assert not await unsubscribe(desk, message_id)

    assert await suppressions(desk) == [("ann@example.org", "shop", "unsubscribe")]
    types = [event.type for event in await desk.events(message_id)]
    assert types.count("unsubscribe.reported") == 1
    assert await desk.state(message_id) is State.QUEUED  # no proof that it went out
    await desk.store.unsuppress("ann@example.org", "shop")
    assert await unsubscribe(desk, message_id)


async def test_a_link_works_when_its_message_is_gone(desk: Desk) -> None:
    assert await unsubscribe(desk, 42)
    assert await suppressions(desk) == [("ann@example.org", "shop", "unsubscribe")]


# retention


async def test_retention_keeps_raw_calls_a_week_and_reports_as_long_as_events(
    desk: Desk,
) -> None:
    await take(desk, report(42))

    async def left(days: int) -> tuple[int, int]:
        desk.clock.advance(ms=days * DAY_MS)
        await desk.store.retain(
            content_ms=DAY_MS,
            messages_ms=DAY_MS,
            events_ms=30 * DAY_MS,
            now_ms=desk.clock.now_ms(),
            limit=10,
        )
        calls = desk.rows("SELECT count(*) FROM report_calls")[0][0]
        return calls, desk.rows("SELECT count(*) FROM reports")[0][0]

    assert await left(6) == (1, 1)
    assert await left(2) == (0, 1)
    assert await left(23) == (0, 0)


def test_foreign_words_are_bounded() -> None:
    told = translate(
        report(None, event_id="e" * 9_000, recipient="r" * 9_000, reply="x" * 9_000)
    )
    assert (len(told.event_id), len(told.recipient), len(told.reply)) == (500, 500, 2_000)
