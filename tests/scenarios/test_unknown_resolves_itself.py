"""A provider took a message and never said so: it is asked, and nobody else is."""

from typing import Any

import pytest

from emailerctl.models.lifecycle import State
from tests.providers_server.dialects import DIALECTS
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.world import World


async def create_chain(create: Create, server: ProviderServer, kind: str) -> World:
    """A chain of a provider and the relay, which takes everything."""
    table: dict[str, Any] = {
        "kind": kind,
        "base_url": server.url(kind),
        "final_reply": "500ms",
        **DIALECTS[kind].settings,
    }
    settings = {f"providers__first__{name}": value for name, value in table.items()}
    return await create(**settings, routing__default=["first", "relay"])


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("mailgun", "look-up"),
        ("postmark", "look-up"),
        ("resend", "replay"),
        ("brevo", "replay"),
    ],
)
async def test_what_was_taken_is_found_to_be_sent(
    create: Create, providers: ProviderServer, kind: str, by: str
) -> None:
    """One copy; the second next hop is not asked."""
    world = await create_chain(create, providers, kind)
    to = f"silent-after+{kind}@sink.example.org"
    message_id = await world.submit(to)
    await world.start_consumer()

    event = await world.until_cause(message_id, "resolved_sent")

    assert event.data["by"] == by
    assert (await world.load(message_id)).state is State.SENT
    assert (providers.copies(to), world.relay.copies(to)) == (1, 0)
    assert await world.app.store.audit() == []


@pytest.mark.parametrize("kind", ["mailgun", "resend"])
async def test_a_killed_consumers_attempt_is_found_to_be_sent(
    create: Create, providers: ProviderServer, kind: str
) -> None:
    """F-CO-04: the answer was read, its reader died, and the next consumer asks."""
    world = await create_chain(create, providers, kind)
    to = f"ok+killed{kind}@sink.example.org"
    message_id = await world.submit(to)
    await (await world.start_consumer(kill_before="settle")).until_killed()
    assert providers.copies(to) == 1

    await world.start_consumer()
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

    await world.start_consumer()
    await world.until(message_id, State.SENT)

    assert (providers.copies(to), world.relay.copies(to)) == (1, 0)
    (copy,) = [copy for copy in providers.journal() if copy["recipient"] == to]
    assert copy["attempt"] == 1
