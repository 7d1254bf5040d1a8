"""Fixtures around `desk.py`, for the folders that work with stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.desk import Desk, Stores, open_desk
from tests.fakes import FakeClock


@pytest.fixture(scope="session", params=["sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Make empty stores of every driver that there is."""
    return Stores(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def store_path(stores: Stores, tmp_path: Path) -> Path:
    return stores.create(tmp_path / "emailer.db")


@pytest.fixture
async def desk(store_path: Path, clock: FakeClock, rng: Random) -> AsyncIterator[Desk]:
    """An empty store; whatever a test does to it, no invariant may be broken in the end."""
    async with open_desk(store_path, clock, rng) as desk:
        yield desk
        assert await desk.audit() == []


@pytest.fixture
async def other(desk: Desk) -> AsyncIterator[Desk]:
    """The same store through a second driver, as another process has it."""
    async with open_desk(desk.path, desk.clock, Random(2)) as other:
        yield other
