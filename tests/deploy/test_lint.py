"""What linters say of the image, the compose file, the scripts and the playbooks: nothing."""

from pathlib import Path

import pytest

from tests.deploy.engine import ROOT, Engine

SCRIPTS = (".ci/run", ".ci/deploy-tools")


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "Dockerfile"),
        ("yamllint", "--strict", "docker-compose.yml", "etc", "ansible"),
        ("shellcheck", *SCRIPTS),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"),
        ("docker", "compose", "config", "--quiet"),
        ("docker", "compose", "--profile", "*", "config", "--quiet"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_nothing_is_wrong(engine: Engine, command: tuple[str, ...]) -> None:
    engine.run(*command)


def test_the_playbooks_are_fit_for_production(engine: Engine) -> None:
    engine.run(
        *("ansible-lint", "--offline", "--strict", "--profile", "production"),
        cwd=ROOT / "ansible",
    )


def test_a_deliberate_fault_would_be_found(engine: Engine, tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian\nRUN sudo apt-get install x\n")

    assert engine.run("hadolint", wrong, must=False).returncode != 0
