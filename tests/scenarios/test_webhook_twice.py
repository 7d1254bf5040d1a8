"""The provider repeats its webhooks, and brings them in any order."""

import asyncio

from emailerctl.models.lifecycle import State
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.webhooks import open_provider


async def test_each_thing_counts_once(create: Create, providers: ProviderServer) -> None:
    """F-WI-01: the same call again, the same event signed anew, and twenty at once."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("ok")
        message_id = await world.submit(to)
        await world.until(message_id, State.SENT)
        opened = provider.build(message_id, to, "opened")
        call = provider.sign(opened)

        answers = [await provider.post(call), await provider.post(call)]
        answers += await asyncio.gather(
            *(provider.post(provider.sign(opened)) for _ in range(20))
        )

        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json()["new"] for answer in answers] == [1] + [0] * 21
        assert answers[1].json()["replayed"]
        types = [event.type for event in await world.events(message_id)]
        assert types.count("open.reported") == 1
        await provider.tell(message_id, to, "delivered")
        assert (await world.load(message_id)).state is State.DELIVERED


async def test_a_late_bounce_counts_and_a_later_delivery_does_not(
    create: Create, providers: ProviderServer
) -> None:
    """Opened, bounced, delivered: as they come, each an event, and the end is the bounce."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("ok")
        message_id = await world.submit(to)
        await world.until(message_id, State.SENT)

        await provider.tell(message_id, to, "opened")
        await provider.tell(message_id, to, "failed", severity="permanent", reason="generic")
        await provider.tell(message_id, to, "delivered")

        assert (await world.load(message_id)).state is State.BOUNCED
        types = [event.type for event in await world.events(message_id)]
        assert types[-3:] == [
            "open.reported",
            "recipient.bounce_reported",
            "recipient.delivery_reported",
        ]
