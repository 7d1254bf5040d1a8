"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.cli.world import SETTINGS, World


@pytest.fixture
def bare(tmp_path: Path) -> World:
    """A settings file, and no store yet."""
    world = World(tmp_path)
    world.file.write_text(SETTINGS.format(folder=tmp_path))
    return world


@pytest.fixture
def world(bare: World) -> World:
    """A settings file and an empty store."""
    bare.migrate()
    return bare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start many processes the time that a busy machine needs."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(120))
