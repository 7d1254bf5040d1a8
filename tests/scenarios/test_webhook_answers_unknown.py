"""The provider took a message and never said so; later its webhook does."""

from emailerctl.models.lifecycle import State
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.webhooks import open_provider


async def test_the_doubt_ends(create: Create, providers: ProviderServer) -> None:
    """P3: unknown, then delivered; one copy, nobody was asked, and a forger changes nothing."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("silent-after")
        message_id = await world.submit(to)
        await world.until(message_id, State.UNKNOWN)

        forged = await provider.post(
            provider.sign(provider.build(message_id, to), key="guessed")
        )
        assert forged.status_code == 401
        assert (await world.load(message_id)).state is State.UNKNOWN

        told = await provider.tell(message_id, to)

        assert told["new"] == 1
        assert (await world.load(message_id)).state is State.DELIVERED
        causes = await world.causes(message_id)
        assert causes == ["accepted", "marked", "unanswered", "delivery_reported"]
        assert providers.copies(to) == 1


async def test_the_bounce_ends_it_and_nobody_writes_there_again(
    create: Create, providers: ProviderServer
) -> None:
    """A hard bounce: the next message to that address fails at once, without an attempt."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("silent-after")
        message_id = await world.submit(to)
        await world.until(message_id, State.UNKNOWN)

        await provider.tell(message_id, to, "failed", severity="permanent", reason="bounce")
        again = await world.accept(to)

        assert (await world.load(message_id)).state is State.BOUNCED
        assert (again.state, again.recipients[0].reason) == ("failed", "suppressed")
        assert providers.copies(to) == 1
