"""Failover: another next hop is asked only after a definite "not accepted" by this one."""

import itertools

import pytest

from emailerctl.core.route import Routing, Rule
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.outcome import Alarm, Kind, Outcome, Party, Phase
from emailerctl.store.base import HopState, NextHop
from tests.desk import Desk
from tests.unit.test_deliver import ANN, BOB, HOP_DOWN, Office

LONG_MS = 3_600_000


@pytest.fixture
async def office(desk: Desk) -> Office:
    await desk.register(1)
    office = Office(desk)
    office.build(("relay", "backup"))
    return office


def every_outcome() -> list[Outcome]:
    """Return every outcome that an adapter can make."""
    return [
        Outcome(kind=kind, party=party, phase=phase, is_charged=is_charged, alarm=alarm)
        for kind, party, phase, is_charged, alarm in itertools.product(
            Kind,
            Party,
            (Phase.CONNECT, Phase.ENVELOPE, Phase.ANSWER),
            (True, False),
            (None, *Alarm),
        )
        if kind not in {Kind.ACCEPTED, Kind.UNKNOWN} or phase is Phase.ANSWER
    ]


@pytest.mark.parametrize(
    "outcome",
    every_outcome(),
    ids=lambda o: f"{o.kind}-{o.party}-{o.phase}-{o.is_charged}-{o.alarm}",
)
async def test_only_what_the_next_hop_did_not_accept_goes_to_the_next_at_once(
    office: Office, outcome: Outcome
) -> None:
    """delivery.md §3: never after an unknown, never for a refused recipient or message."""
    message_id = await office.desk.add()
    office.relay.default = outcome

    await office.deliver(message_id)
    is_next = await office.desk.due(backup=9, relay=9) == (message_id,)
    if is_next:
        await office.deliver(message_id)

    is_refused = outcome.kind in {Kind.TRANSIENT, Kind.PERMANENT}
    assert is_next == (is_refused and outcome.party is Party.NEXT_HOP)
    assert len(office.backup.asked) == is_next
    if outcome.kind is Kind.UNKNOWN:
        office.desk.clock.advance(ms=LONG_MS)
        assert await office.desk.state(message_id) is State.UNKNOWN
        assert await office.desk.due(backup=9, relay=9) == ()
    elif outcome.kind is Kind.PERMANENT and not is_next:
        wanted = State.BOUNCED if outcome.party is Party.RECIPIENT else State.FAILED
        assert await office.desk.state(message_id) is wanted
    elif outcome.kind is Kind.TRANSIENT and not is_next:
        assert await office.desk.state(message_id) is State.QUEUED


@pytest.mark.parametrize(
    "other", [o for o in every_outcome() if o.is_charged and o.alarm is None], ids=str
)
async def test_one_recipients_doubt_is_not_carried_over_by_anothers_failover(
    office: Office, other: Outcome
) -> None:
    """Ann is unknown; whatever happens to Bob, the next attempt is not for her."""
    message_id = await office.desk.add(ANN, BOB)
    office.relay.outcomes = {
        ANN: Outcome(kind=Kind.UNKNOWN, party=Party.NEXT_HOP),
        BOB: other,
    }

    await office.deliver(message_id)
    office.desk.clock.advance(ms=LONG_MS)
    if await office.desk.due(backup=9, relay=9):
        await office.deliver(message_id)

    assert (await office.desk.states(message_id))[0] is State.UNKNOWN
    asked = office.backup.asked + office.relay.asked[1:]
    assert all([r.address for r in one.recipients] == [BOB] for one in asked)


async def test_a_chain_whose_rest_is_shut_is_exhausted(office: Office) -> None:
    """What is shut has not accepted: the schedule advances, and the open one gets its pause."""
    await office.store.set_next_hop(NextHop(name="backup", state=HopState.DISABLED))
    await office.standing.refresh()
    message_id = await office.desk.add()
    office.relay.default = HOP_DOWN

    await office.deliver(message_id)

    assert await office.desk.due(backup=9, relay=9) == ()
    (recipient,) = (await office.desk.load(message_id)).recipients
    assert recipient.waiting_for is WaitingFor.RETRY
    office.desk.clock.advance(s=10)
    assert await office.desk.due(backup=9, relay=9) == (message_id,)
    assert (await office.desk.claim(message_id)).schedule_step == 1


async def test_a_rules_chain_is_used_and_its_reason_kept(office: Office) -> None:
    """Each attempt says which rule sent it there, and a rule's chain fails over like any."""
    rule = Rule(number=1, name="bulk", chain=("backup", "relay"), tags=frozenset({"news"}))
    office.build(("relay",))
    names = frozenset({"relay", "backup", "sandbox"})
    office.delivery._routing = Routing(("relay",), names, (rule,))
    news = await office.desk.add(tags=("news",))
    other = await office.desk.add()
    office.backup.default = HOP_DOWN

    await office.deliver(news)
    await office.deliver(news)
    await office.deliver(other)

    attempts = (await office.desk.load(news)).attempts
    assert [(a.provider, a.route) for a in attempts] == [
        ("backup", "rule 1 (bulk)"),
        ("relay", "rule 1 (bulk)"),
    ]
    assert [a.route for a in (await office.desk.load(other)).attempts] == ["default"]


async def test_a_route_stays_when_some_recipients_are_done(office: Office) -> None:
    """A rule on recipients' domains looks at all of them, also at those who have it already."""
    rule = Rule(number=1, chain=("backup",), recipient_domains=frozenset({"example.org"}))
    names = frozenset({"relay", "backup", "sandbox"})
    office.delivery._routing = Routing(("relay",), names, (rule,))
    message_id = await office.desk.add(ANN, "bob@example.net")
    office.relay.outcomes = {ANN: Outcome(kind=Kind.TRANSIENT, party=Party.RECIPIENT)}

    await office.deliver(message_id)
    office.desk.clock.advance(s=10)
    await office.deliver(message_id)

    assert await office.desk.states(message_id) == [State.QUEUED, State.SENT]
    assert [o.recipients[0].address for o in office.relay.asked] == [ANN, ANN]
    assert office.backup.asked == []
