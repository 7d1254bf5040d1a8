"""What the contract tests share."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.desk_fixtures import desk, other, store_path, stores  # noqa: F401  (fixtures)
from tests.forestmq.fixture import start_forestmq  # noqa: F401  (a fixture)
from tests.providers_server.fixture import providers  # noqa: F401  (a fixture)
from tests.smtpd.fixture import start_smtpd  # noqa: F401  (a fixture)

Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Loops:
    """Run what touches transports on both event loops; the daemons run on uvloop."""
    if item.path.name.startswith(("test_smtp", "test_provider_http")):
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}
