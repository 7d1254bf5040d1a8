"""The floors of what we depend on (T-26), as installed and as locked."""

import platform
import re
import sqlite3
import sys
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.house.sources import ROOT

# Below these: known holes, or committed data that can be lost.
FLOORS = {
    "tornado": "6.5.7",
    "aiosmtplib": "5.1.2",
    "sqlite-utils": "4.2",
    "pysqlite3": "0.6.1",
    "email-validator": "2.3",
    "jinja2": "3.1.6",
}
SQLITE = (3, 51, 3)  # the WAL-reset bug ends here
HAS_BUNDLED_SQLITE = sys.platform == "linux" and platform.machine() == "x86_64"

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def find_pins(lock: str) -> dict[str, Version]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {
        name: Version(pin)
        for name, pin in re.findall(r"^([a-z0-9.-]+)(?:\[[a-z0-9,]+\])?==([^\s;]+)", text, re.M)
    }


@pytest.mark.parametrize("name", FLOORS)
def test_a_floor_is_declared_locked_and_installed(name: str) -> None:
    floor = Version(FLOORS[name])
    declared = {
        requirement.name: requirement
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
    }

    lowest = [Version(one.version) for one in declared[name].specifier if one.operator == ">="]
    assert max(lowest) >= floor
    assert find_pins("requirements.lock")[name] >= floor
    if name != "pysqlite3" or HAS_BUNDLED_SQLITE:
        assert Version(version(name)) >= floor


def test_sqlite_does_not_lose_committed_data() -> None:
    if HAS_BUNDLED_SQLITE:
        import pysqlite3

        assert pysqlite3.sqlite_version_info >= SQLITE
    else:
        assert sqlite3.sqlite_version_info >= (3, 35), "RETURNING is spoken"


def test_the_development_lock_holds_the_other_one() -> None:
    runtime, everything = find_pins("requirements.lock"), find_pins("requirements-dev.lock")

    assert {name: everything.get(name) for name in runtime} == runtime
    assert {"pytest", "ruff", "mypy", "import-linter"} <= set(everything)
    assert {"hatchling", "editables"} <= set(runtime)


def test_what_is_declared_is_locked() -> None:
    project = PROJECT["project"]
    declared = {Requirement(line).name for line in project["dependencies"]}
    development = {Requirement(line).name for line in project["optional-dependencies"]["dev"]}

    assert declared <= set(find_pins("requirements.lock"))
    assert declared | development <= set(find_pins("requirements-dev.lock"))
