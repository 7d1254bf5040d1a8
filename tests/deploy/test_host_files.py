"""What `etc/` has for a host without containers: units and a proxy's configuration."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.engine import ROOT

UNITS = sorted((ROOT / "etc").glob("*.service"))
_MOST_EXPOSED = 2.0  # of 10, as `systemd-analyze security` counts


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which(str(words[0])):
        pytest.skip(f"{words[0]} is not installed")
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it would be installed, with a program that exists."""
    text = request.param.read_text()
    path = tmp_path / request.param.name
    path.write_text(text.replace("/opt/emailerctl/bin/emailerctl", "/bin/true"))
    return path


def test_the_units_are_right(unit: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", unit)

    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_units_may_do_little(unit: Path) -> None:
    said = run("systemd-analyze", "security", "--offline=true", unit).stdout

    level = re.search(r"exposure level for \S+: (\d+\.\d)", said)
    assert level is not None, said
    assert float(level[1]) <= _MOST_EXPOSED


def test_there_are_two_units() -> None:
    assert [unit.stem for unit in UNITS] == ["emailerctl-api", "emailerctl-consumer"]


def test_the_proxy_takes_its_configuration(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mail"),
        *("-keyout", key, "-out", certificate),
    )
    assert made.returncode == 0, made.stderr
    text = (ROOT / "etc/nginx.conf.example").read_text()
    text = re.sub(r"/etc/letsencrypt/\S+/fullchain.pem", str(certificate), text)
    text = re.sub(r"/etc/letsencrypt/\S+/privkey.pem", str(key), text)
    file = tmp_path / "nginx.conf"
    file.write_text(f"events {{}}\nhttp {{\n{text}\n}}\n")

    done = run("nginx", "-t", "-q", "-c", file, "-p", tmp_path, "-g", f"pid {tmp_path}/pid;")

    assert done.returncode == 0, done.stderr
