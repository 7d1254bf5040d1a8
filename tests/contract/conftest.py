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

_OVER_HTTP = "test_provider_http"
_FOR_ALL = "mailgun"


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Loops:
    """Run what touches transports on both event loops; the daemons run on uvloop."""
    if item.path.name.startswith(("test_smtp", _OVER_HTTP)):
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one kind stand for all on the second loop: providers over HTTP share a transport."""
    items[:] = [item for item in items if not _is_needless(item)]


def _is_needless(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or not item.path.name.startswith(_OVER_HTTP):
        return False
    kind = callspec.params.get("kind", _FOR_ALL)
    return kind != _FOR_ALL and callspec.id.startswith("asyncio-")
