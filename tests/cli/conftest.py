"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.cli.world import SETTINGS, Result, World


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


class Runner:
    """The program in this process: what a test costs is what the command costs."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, *args: str, stdin: str = "") -> Result:
        """Run a command as on a pipe; an error that is not deliberate fails the test."""
        return self._world.call(*args, stdin=stdin)

    def ok(self, *args: str, stdin: str = "") -> Result:
        """Run a command that must succeed."""
        result = self(*args, stdin=stdin)
        assert result.code == 0, result.err
        return result


@pytest.fixture
def cli(world: World) -> Runner:
    """Run commands on the world's store, in this process."""
    return Runner(world)
