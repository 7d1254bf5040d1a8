"""A message in sentences: what is said in each state, and nothing that is not so."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from emailerctl.core import explain as explaining
from emailerctl.core.explain import Circumstances, Explanation
from emailerctl.core.hop_view import HopFacts, HopView
from emailerctl.core.route import Routing, Rule
from emailerctl.core.shapes import explanation_shape
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor
from emailerctl.store.base import (
    Breaker,
    BreakerState,
    HopState,
    NextHop,
    Pause,
    Resolution,
    Verb,
)
from tests.contract.test_store_acceptance import suppression
from tests.desk import Desk

ROUTING = Routing(
    ("relay",),
    frozenset({"relay", "bulk"}),
    (Rule(number=1, name="news", chain=("bulk", "relay"), tags=frozenset({"news"})),),
)
DAY_MS = 86_400_000


async def find(desk: Desk, message_id: int, **fields: object) -> Circumstances:
    facts = await explaining.load_circumstances(
        desk.store,
        message_id,
        routing=ROUTING,
        hops={"relay": HopFacts("smtp", is_default=True)},
        reporting=frozenset({"bulk"}),
        max_age_ms=3 * DAY_MS,
        now_ms=desk.clock.now_ms(),
    )
    return replace(facts, **fields)  # type: ignore[arg-type]


async def tell(desk: Desk, message_id: int, **fields: object) -> Explanation:
    return explaining.explain(await find(desk, message_id, **fields))


def past(told: Explanation) -> str:
    return "\n".join(said.text for said in told.happened)


def future(told: Explanation) -> str:
    return "\n".join(said.text for said in told.next)


def commands(told: Explanation) -> list[str]:
    public = to_public(MESSAGE, told.message_id)
    return [one.command.replace(public, "ID") for one in told.advice]


@pytest.mark.parametrize("state", list(State))
async def test_every_state_is_told_with_what_can_be_done(desk: Desk, state: State) -> None:
    """What is advised is what the life cycle allows: carrying it out is tried for each."""
    await desk.register()
    message_id = await desk.add()
    await desk.bring(message_id, state)

    told = await tell(desk, message_id)

    assert told.state is state
    assert told.now[0].text.startswith("ann@example.org ")
    assert told.next
    assert set(explanation_shape(told)) == {"id", "state", "happened", "now", "next", "can"}
    words = {
        command.partition(" ID")[0].removeprefix("emailerctl ") for command in commands(told)
    }
    allowed: Mapping[State, set[str]] = {
        State.UNKNOWN: {"unknown show", "unknown resolve", "unknown resend"},
        State.SENDING: set(),
        State.QUEUED: {"messages cancel", "messages hold"},
        State.HELD: {"messages release", "messages cancel"},
        State.FAILED: {"retry"},
        State.BOUNCED: {"retry"},
        State.SENT: {"send --like"},
        State.DELIVERED: {"send --like"},
        State.CANCELLED: {"retry"},
    }
    assert words == allowed[state]
    for verb in {"cancel", "hold", "release", "retry"} & {word.split()[-1] for word in words}:
        if (await desk.state(message_id)) is state:
            await desk.order(Verb(verb), message_id)


async def test_a_story_from_its_beginning_to_its_end(desk: Desk) -> None:
    """The golden one: who, which way and why, what was answered, what comes next."""
    await desk.register()
    message_id = await desk.add("ann@example.org", "bob@example.org", route="default")
    await desk.settle(
        await desk.start(message_id),
        {1: Cause.HANDED_OVER, 2: Cause.DEFERRED},
        marked=[1, 2],
        route="default",
    )
    desk.clock.advance(m=1)
    await desk.order(Verb.HOLD, message_id, reason="legal asks")
    await desk.order(Verb.RELEASE, message_id)
    desk.clock.advance(m=1)

    told = await tell(desk, message_id, consumers=1)

    assert [said.text for said in told.happened] == [
        "Accepted from the service shop, at this machine, 34 bytes for 2 recipients, to go "
        "through relay (default)",
        "Queued for ann@example.org and bob@example.org",
        "relay was about to get the last byte for ann@example.org and bob@example.org "
        "(attempt 1); that next hop was chosen by default",
        "relay took it for ann@example.org (attempt 1): “250 2.0.0 ok”",
        "relay did not take it for bob@example.org yet (attempt 1): “450 later”",
        "eve held it for bob@example.org: legal asks",
        "eve released it for bob@example.org",
    ]
    assert [said.text for said in told.now] == [
        "ann@example.org was handed over: the next hop took responsibility",
        "bob@example.org waits",
    ]
    assert future(told).splitlines() == [
        "Nothing more is heard of it for ann@example.org, unless a bounce comes back",
        "It is due: a consumer sends it through relay (default)",
        "It is given up at 2026-11-27 10:01:00 UTC, if it was not taken by then",
    ]


async def test_what_a_queued_one_waits_for(desk: Desk) -> None:
    await desk.register()
    now_ms = desk.clock.now_ms()
    later = await desk.add(due_ms=now_ms + 60_000, tags=("news",))
    assert (
        "not sent before 2026-11-24 10:01:00 UTC; then through bulk, then relay (rule 1 "
        in (future(await tell(desk, later)))
    )
    retried = await desk.add()
    await desk.deliver(retried, Cause.DEFERRED)
    told = await tell(desk, retried)
    assert "It is tried again at 2026-11-24 10:00:10 UTC, through relay (default)" in future(
        told
    )
    assert "emailerctl retry ID" in commands(told)
    paused = Pause(since_ms=now_ms, until_ms=now_ms + 1000, actor="eve", reason="move")
    told = await tell(desk, retried, pause=paused)
    assert "paused until 2026-11-24 10:00:01 UTC, by eve: move" in future(told)
    assert "emailerctl queue resume" in commands(told)
    told = await tell(desk, later, consumers=0)
    assert "No consumer is running" in future(told)
    assert "emailerctl consume" in commands(told)


async def test_a_shut_chain_is_named_with_its_cure(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    facts = await find(desk, message_id)
    waiting = [r._replace(waiting_for=WaitingFor.NEXT_HOP) for r in facts.view.recipients]
    shut = NextHop(name="relay", state=HopState.DISABLED, actor="eve", reason="moves")
    broken = Breaker(
        name="relay", state=BreakerState.OPEN, reason="refused", until_ms=desk.clock.now_ms()
    )
    facts = replace(facts, view=replace(facts.view, recipients=tuple(waiting)))
    for hop, breaker, said in (
        (shut, Breaker(name="relay"), "relay is disabled by eve (moves)"),
        (
            NextHop(name="relay", state=HopState.OPEN),
            broken,
            "the breaker of relay is open until 2026-11-24 10:00:00 UTC (refused)",
        ),
    ):
        view = HopView(hop=hop, facts=HopFacts("smtp"), breaker=breaker, used=0)
        told = explaining.explain(replace(facts, hops={"relay": view}))
        assert said in future(told)
        assert "emailerctl providers enable relay" in commands(told)
    nowhere = replace(facts, route=facts.route._replace(chain=()))
    assert "No next hop takes it" in future(explaining.explain(nowhere))


async def test_doubt_is_said_aloud_and_never_ended_here(desk: Desk) -> None:
    await desk.register()
    asked = await desk.add()
    await desk.deliver(asked, Cause.UNANSWERED)
    told = await tell(desk, asked)
    assert "may or may not have taken it" in past(told)
    assert "never sent to ann@example.org again unless an operator says so" in future(told)
    assert "A late answer may still come until" in future(told)
    assert not any(command.startswith("emailerctl retry") for command in commands(told))
    resent = await desk.add(on_unknown=OnUnknown.RESEND)
    await desk.start(resent)
    await desk.void()
    told = await tell(desk, resent)
    assert "The consumer ended between the last byte" in past(told)
    assert "Its policy is resend: it is sent to ann@example.org again at" in future(told)
    desk.clock.advance(h=1)
    await desk.order(Verb.RESOLVE, asked, Resolution.SENT, reason="its log")
    assert "eve said that it went out to ann@example.org: its log" in past(
        await tell(desk, asked)
    )


async def test_who_gave_up_and_how_it_can_be_sent_again(desk: Desk) -> None:
    await desk.register()
    await desk.store.suppress(suppression("o'neil;x@example.org"))
    message_id = await desk.add("o'neil;x@example.org", expires_ms=desk.clock.now_ms() + 1)
    desk.clock.advance(h=1)

    told = await tell(desk, message_id)

    assert "It was not even tried for o'neil;x@example.org" in past(told)
    assert f"({Reason.SUPPRESSED})" in told.now[0].text
    assert commands(told) == [
        "emailerctl suppressions rm 'o'\"'\"'neil;x@example.org'",  # as a shell takes it
        "emailerctl retry ID --expires-in 1h",
    ]


async def test_what_retention_removed_is_no_riddle(desk: Desk) -> None:
    await desk.register()
    message_id = await desk.add()
    await desk.deliver(message_id)
    facts = await find(desk, message_id)

    told = explaining.explain(replace(facts, events=()))

    assert past(told).splitlines() == [
        "Accepted from the service shop, at this machine, 34 bytes for 1 recipient",
        "Retention removed events of it: what is not told here is not known any more",
    ]


def test_every_step_of_the_life_cycle_has_its_sentence() -> None:
    told = set(explaining._PAST)

    assert {f"recipient.{cause}" for cause in Cause} <= told
