"""The webhook names a copy that we know nothing of, and later do."""

from emailerctl.models.lifecycle import State
from emailerctl.store.base import Verb
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.webhooks import open_provider


async def test_it_waits_and_the_watch_finds_it(
    create: Create, providers: ProviderServer
) -> None:
    """F-WI-03: a 2xx at once, and its effect when there is something that it fits."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("ok")
        await world.pause()
        message_id = await world.submit(to)

        told = await provider.tell(message_id, to)
        assert (told["new"], told["unmatched"]) == (1, 1)
        assert (await world.load(message_id)).state is State.QUEUED

        await world.resume()
        await world.until(message_id, State.DELIVERED)
        assert providers.copies(to) == 1


async def test_what_was_cancelled_never_went_out_whoever_says_so(
    create: Create, providers: ProviderServer
) -> None:
    """No attempt was marked: a report on one proves nothing."""
    async with open_provider(create, providers) as provider:
        world = provider.world
        to = provider.address("ok")
        await world.pause()
        message_id = await world.submit(to)
        await world.order(Verb.CANCEL, message_id)

        told = await provider.tell(message_id, to)

        assert told["unmatched"] == 1
        assert (await world.load(message_id)).state is State.CANCELLED
