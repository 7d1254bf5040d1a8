"""The worlds that stories happen in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.forestmq.fixture import StartForestMq, start_forestmq  # noqa: F401  (a fixture)
from tests.scenarios.brokers import Broker, build_broker
from tests.scenarios.world import World, create_world
from tests.smtpd.fixture import SmtpServer

Create = Callable[..., Awaitable[World]]

_HERE = Path(__file__).parent
_TIMEOUT_S = 60  # several processes start in each story, on a machine that may be busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    """A next hop that behaves, but for what recipients ask for; shared by all stories."""
    with SmtpServer(folder=tmp_path_factory.mktemp("relay")) as server:
        yield server


@pytest.fixture
async def create(tmp_path: Path, relay: SmtpServer) -> AsyncIterator[Create]:
    """Create a world with settings, by dotted key, or next hops of one's own.

    Whatever its story was, the next hops and the message log tell the same in the end.
    """
    worlds: list[World] = []
    async with AsyncExitStack() as stack:

        async def create(
            *, hops: dict[str, SmtpServer] | None = None, **settings: object
        ) -> World:
            overrides = {key.replace("__", "."): value for key, value in settings.items()}
            folder = tmp_path / f"world{len(worlds)}"
            servers = {"relay": relay} if hops is None else hops
            world = await stack.enter_async_context(create_world(folder, servers, overrides))
            worlds.append(world)
            return world

        yield create
        for world in worlds:
            world.end()
            await world.check()


@pytest.fixture(params=["embedded", "forestmq"])
def broker(
    request: pytest.FixtureRequest,
    start_forestmq: StartForestMq,  # noqa: F811  (a fixture)
) -> Broker:
    """What stands between acceptance and the consumer, of every kind."""
    return build_broker(request.param, start_forestmq)


@pytest.fixture
async def world(create: Create) -> World:
    """A world with the settings of `world.SETTINGS` and one next hop, `relay`."""
    return await create()


@pytest.fixture
def start_smtpd(tmp_path: Path) -> Iterator[Callable[..., SmtpServer]]:
    """Start next hops of one's own, with options of the misbehaving server."""
    servers: list[SmtpServer] = []

    def start(*options: str, port: int = 0) -> SmtpServer:
        folder = tmp_path / f"smtpd{len(servers)}"
        folder.mkdir()
        servers.append(SmtpServer(*options, folder=folder, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.resume_and_stop()
