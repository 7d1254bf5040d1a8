"""A provider took a message, or not, and never said so: it is asked, and nobody else is."""

from collections.abc import Iterator
from typing import Any

import pytest

from emailerctl.models.lifecycle import State
from tests.providers_server.dialects import DIALECTS
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.world import World

SETTLING_MS = 300
LAG_MS = 500  # of what a look-up shows
# What is declared: beyond that by the five seconds that a last byte may take.
DECLARED_LAG_MS = LAG_MS + 5_000


@pytest.fixture(scope="module")
def lagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderServer]:
    """Providers whose look-ups show nothing that is younger than `LAG_MS`."""
    folder = tmp_path_factory.mktemp("lagging")
    server = ProviderServer("--lag-ms", str(LAG_MS), folder=folder)
    yield server
    server.stop()


async def create_chain(
    create: Create, server: ProviderServer, *kinds: str, final_reply: str = "1s"
) -> World:
    """A chain of providers and then the relay, which takes everything."""
    settings: dict[str, Any] = {"routing__default": [*kinds, "relay"]}
    for kind in kinds:
        table: dict[str, Any] = {
            "kind": kind,
            "base_url": server.url(kind),
            "final_reply": final_reply,
            **DIALECTS[kind].settings,
        }
        settings |= {f"providers__{kind}__{name}": value for name, value in table.items()}
    world = await create(**settings)
    world.providers.append(server)
    return world


async def test_what_was_taken_is_found_to_be_sent(
    create: Create, providers: ProviderServer
) -> None:
    """One copy each; what was not taken is, where a request may be repeated."""
    ways = {
        "mailgun": "look-up",
        "postmark": "look-up",
        "sparkpost": "look-up",
        "mailjet": "look-up",
        "brevo": "look-up",
        "resend": "replay",
    }
    world = await create_chain(create, providers, *ways)
    messages = {}
    for kind, by in ways.items():
        to = f"silent-after+{kind}@sink.example.org"
        messages[to] = (await world.submit(to, provider=kind), by)
    for kind in ("brevo", "resend"):
        to = f"once-silent-before+{kind}@sink.example.org"
        messages[to] = (await world.submit(to, provider=kind), "replay")
    await world.start_consumer(settling_ms=SETTLING_MS)

    for to, (message_id, by) in messages.items():
        event = await world.until_cause(message_id, "resolved_sent")
        assert event.data["by"] == by, to
        view = await world.load(message_id)
        assert (view.state, len(view.attempts)) == (State.SENT, 1), to
        assert (providers.copies(to), world.relay.copies(to)) == (1, 0), to


async def test_a_killed_consumers_attempt_is_found_to_be_sent(
    create: Create, providers: ProviderServer
) -> None:
    """F-CO-04: the answer was read, its reader died, and the next consumer asks."""
    world = await create_chain(create, providers, "resend")
    to = "ok+killed@sink.example.org"
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_before="settle")).until_killed()
    assert providers.copies(to) == 1

    await world.start_consumer(settling_ms=SETTLING_MS)
    await world.until(message_id, State.SENT)

    assert (providers.copies(to), world.relay.copies(to)) == (1, 0)
    causes = await world.causes(message_id)
    assert causes[:3] == ["accepted", "marked", "interrupted"]
    assert causes[-1] == "resolved_sent"


async def test_what_was_not_taken_is_taken_once_by_replay(
    create: Create, providers: ProviderServer
) -> None:
    """F-CO-02: killed between mark and last byte: the repeated request is the first to come."""
    world = await create_chain(create, providers, "resend")
    to = "ok+neverleft@sink.example.org"
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_after="mark")).until_killed()
    assert providers.copies(to) == 0

    await world.start_consumer(settling_ms=SETTLING_MS)
    await world.until(message_id, State.SENT)

    assert (providers.copies(to), world.relay.copies(to)) == (1, 0)
    (copy,) = [copy for copy in providers.journal() if copy["recipient"] == to]
    assert copy["attempt"] == 1


async def test_a_known_key_says_nothing_more_and_the_look_up_ends_it(
    create: Create, lagging: ProviderServer
) -> None:
    """Brevo answers the repetition with `duplicate_parameter`; its events show it later."""
    world = await create_chain(create, lagging, "brevo", final_reply="2s")
    to = "silent-after+duplicate@sink.example.org"
    message_id = await world.submit(to)
    await world.start_consumer(settling_ms=SETTLING_MS)

    event = await world.until_cause(message_id, "resolved_sent")

    assert event.data["by"] == "look-up"
    asked = [e.data for e in await world.events(message_id) if e.type == "recipient.asked"]
    (answer,) = [str(data["answer"]) for data in asked if data["by"] == "replay"]
    assert "duplicate_parameter" in answer
    assert (lagging.copies(to), world.relay.copies(to)) == (1, 0)


async def test_a_no_before_the_lag_is_none_and_after_it_queues_again(
    create: Create, lagging: ProviderServer
) -> None:
    """Until then what was taken looks like what was not; only that goes out again."""
    world = await create_chain(create, lagging, "mailgun", "postmark")
    messages = {}
    for kind in ("mailgun", "postmark"):
        for wish in ("silent-after", "once-silent-before"):
            to = f"{wish}+lag{kind}@sink.example.org"
            messages[to] = (await world.submit(to, provider=kind), kind)
    await world.start_consumer(settling_ms=SETTLING_MS, look_up_lag_ms=DECLARED_LAG_MS)

    for to, (message_id, kind) in messages.items():
        is_taken = to.startswith("silent-after")
        view = await world.until(message_id, State.SENT)
        assert (lagging.copies(to), world.relay.copies(to)) == (1, 0), to
        outcomes = ["unknown"] if is_taken else ["unknown", "accepted"]
        assert [(a.provider, a.outcome) for a in view.attempts] == [
            (kind, outcome) for outcome in outcomes
        ]
        at_ms = {e.type: e.at_ms for e in reversed(await world.events(message_id))}
        if not is_taken:
            waited_ms = at_ms["recipient.resolved_not_sent"] - at_ms["recipient.marked"]
            assert waited_ms >= DECLARED_LAG_MS
