"""What the contract tests share."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.desk_fixtures import desk, other, store_path, stores  # noqa: F401  (fixtures)
from tests.providers_server.fixture import providers  # noqa: F401  (a fixture)
from tests.smtpd.fixture import start_smtpd  # noqa: F401  (a fixture)

Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Loops:
    """Run what touches transports on both event loops; the daemons run on uvloop.

    The providers over HTTP share their transport: one kind stands for all on the other loop.
    """
    both = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    if item.path.name.startswith("test_provider_http"):
        callspec = getattr(item, "callspec", None)
        kind = callspec.params.get("kind", "mailgun") if callspec else "mailgun"
        return both if kind == "mailgun" else {"uvloop": uvloop.new_event_loop}
    if item.path.name.startswith("test_smtp"):
        return both
    return {"asyncio": asyncio.SelectorEventLoop}
