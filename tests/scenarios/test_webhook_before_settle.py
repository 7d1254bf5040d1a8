"""The webhook is faster than the provider's own answer."""

from emailerctl.models.lifecycle import State
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.webhooks import open_provider


async def test_it_is_evidence_and_the_attempt_is_written_all_the_same(
    create: Create, providers: ProviderServer
) -> None:
    """F-WI-02: delivered while still sending; the consumer's late silence changes nothing."""
    async with open_provider(create, providers, providers__mg__final_reply="3s") as provider:
        world = provider.world
        to = provider.address("silent-after")
        message_id = await world.submit(to)
        await world.until(message_id, State.SENDING)
        await eventually(lambda: providers.copies(to) == 1)

        await provider.tell(message_id, to)
        assert (await world.load(message_id)).state is State.DELIVERED

        async def has_attempt() -> bool:
            return bool((await world.load(message_id)).attempts)

        await eventually(has_attempt)
        view = await world.load(message_id)
        assert view.state is State.DELIVERED
        assert [(a.n, a.outcome) for a in view.attempts] == [(1, "unknown")]
        assert providers.copies(to) == 1
