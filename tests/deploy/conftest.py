"""One engine for all of these tests, which need root and what `.ci/deploy-tools` installs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engine import Engine, start_engine

_HERE = Path(__file__).parent
_TIMEOUT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder that `.ci/deploy-tools` made; run through `make test-deploy`."""
    folder = os.environ.get("DEPLOY_TOOLS", "")
    if not folder:
        pytest.skip("DEPLOY_TOOLS is not set: use make test-deploy")
    return Path(folder)


@pytest.fixture(scope="session")
def engine(tools: Path) -> Iterator[Engine]:
    """A Docker engine of the tests' own."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("a Docker engine of one's own needs root and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="engine-"))  # short: a socket's path is limited
    with start_engine(folder, tools) as engine:
        yield engine
