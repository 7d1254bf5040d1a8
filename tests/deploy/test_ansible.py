"""The playbooks, run for real on this machine: install, again, upgrade, rollback, day two."""

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.engine import ROOT, Engine, find_free_port
from tests.deploy.stack import eventually

SECRET = "hunter2-of-the-vault-nobody-may-see"
INVENTORY = """\
emailer:
  hosts:
    localhost:
      ansible_connection: local
      ansible_python_interpreter: "{{ ansible_playbook_python }}"
"""


@dataclass
class Host:
    """This machine, as the playbooks see it: a clone of the project, and a root of its own."""

    engine: Engine
    folder: Path
    port: int
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def clone(self) -> Path:
        """Where the playbooks are run from."""
        return self.folder / "clone"

    @property
    def root(self) -> Path:
        """Where they put everything."""
        return self.folder / "root"

    def git(self, *words: str) -> str:
        """Run git in the clone."""
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(
            ["git", *who, *words], cwd=self.clone, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, path: str, text: str) -> str:
        """Change a file in a commit of its own; return the release that this makes."""
        (self.clone / path).write_text(text)
        self.git("commit", "--quiet", "--all", "--message", "a change")
        return self.git("rev-parse", "--short=12", "HEAD")

    def play(self, name: str, *words: str, must: bool = True) -> str:
        """Run a playbook; return all that it said."""
        given = self.folder / "variables.json"
        given.write_text(json.dumps(self.variables))
        given.chmod(0o600)
        inventory = self.folder / "inventory.yml"
        inventory.write_text(INVENTORY)
        done = self.engine.run(
            *("ansible-playbook", "-i", inventory, name, "-e", f"@{given}", *words),
            cwd=self.clone / "ansible",
            must=must,
        )
        said = done.stdout + done.stderr
        assert must or done.returncode != 0, said
        return said

    def cli(self, *words: str) -> str:
        """Run the command line in the API's container of the release that runs."""
        current = self.root / "current"
        command = ("docker", "compose", "exec", "-T", "api", "emailerctl", *words)
        return self.engine.run(*command, cwd=current).stdout

    @property
    def release(self) -> str:
        """The release that runs."""
        return (self.root / "current").resolve().name

    def send(self, subject: str) -> str:
        """Send a message; return its id."""
        words = ("--to", "ann@example.org", "--subject", subject, "--text", "x", "--wait")
        return self.cli("send", *words, "-o", "id").strip()

    def states(self) -> list[str]:
        """Return the state of every message."""
        return [
            m["state"] for m in json.loads(self.cli("messages", "list", "-o", "json"))["data"]
        ]


def find_changes(said: str) -> list[str]:
    """Return the tasks that changed something."""
    tasks = re.split(r"^TASK ", said, flags=re.MULTILINE)[1:]
    return [task for task in tasks if re.search(r"^changed: ", task, flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An installation by the playbook, and what is needed to play on."""
    host = Host(engine, tmp_path_factory.mktemp("host"), find_free_port())
    for folder in (host.folder, *host.folder.parents[:2]):
        folder.chmod(0o755)  # the containers' user reads what is mounted from there
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(host.clone)], check=True)
    host.git("config", "user.name", "t")
    settings = (ROOT / "etc/emailer.docker.toml").read_text()
    host.variables = {
        "emailerctl_root": str(host.root),
        "emailerctl_listen": f"127.0.0.1:{host.port}",
        "emailerctl_profiles": ["dev"],
        "emailerctl_settings": f'{settings}hash_key_file = "/run/secrets/hash_key"\n',
        "emailerctl_secrets": {"hash_key": SECRET},
        "ansible_become": False,
    }
    try:
        said = host.play("deploy.yml", "-vvv", "--diff")
        assert len(find_changes(said)) > 3
        assert SECRET not in said  # T-07: no_log
        yield host
    finally:
        engine.run("docker", "compose", "-p", "emailer", "down", "--volumes", must=False)


def test_a_second_run_changes_nothing(host: Host) -> None:
    host.send("first")

    for words in (("--check",), ()):
        assert find_changes(host.play("deploy.yml", *words, "--diff")) == []
    assert host.states() == ["sent"]
    secret = host.root / "secrets/hash_key"
    assert (secret.stat().st_mode & 0o777, secret.stat().st_uid) == (0o400, 10001)


def test_wrong_settings_never_reach_the_daemons(host: Host) -> None:
    right = host.variables["emailerctl_settings"]
    host.variables["emailerctl_settings"] = right.replace("[store]", "[stoer]")
    try:
        said = host.play("deploy.yml", must=False)
    finally:
        host.variables["emailerctl_settings"] = right

    assert "stoer" in said
    assert "[store]" in (host.root / "emailer.toml").read_text()
    assert host.send("still works")


def test_what_is_missing_is_said_before_anything_is_done(host: Host) -> None:
    said = host.play("deploy.yml", "-e", "emailerctl_settings=", must=False)

    assert "Set emailerctl_settings" in said


def test_an_upgrade_keeps_the_store_and_makes_a_backup(host: Host) -> None:
    count = len(host.states())
    version = host.clone / "emailerctl/__init__.py"
    changed = re.sub(r'__version__ = ".*"', '__version__ = "9.8.7"', version.read_text())

    release = host.commit("emailerctl/__init__.py", changed)
    assert len(find_changes(host.play("deploy.yml"))) >= 3

    assert host.release == release
    assert "9.8.7" in host.cli("--version")
    assert len(host.states()) == count
    assert list((host.root / "backups").glob("emailer-*.db"))
    assert find_changes(host.play("deploy.yml")) == []


def test_a_broken_release_is_taken_back(host: Host) -> None:
    """A new release that migrates the store and then doesn't start: the one before goes on."""
    before, count = host.release, len(host.states())
    migrations = host.clone / "emailerctl/store/migrations.py"
    schema = host.clone / "emailerctl/store/schema.py"
    main = host.clone / "daemons/api/main.py"
    steps = re.sub(
        r"^STEPS = \((.*?)\)$",
        r'STEPS = (\1, "9998_new")',
        schema.read_text(),
        flags=re.M | re.S,
    )
    assert steps != schema.read_text()
    schema.write_text(steps.replace(",,", ",").replace(",\n, ", ",\n    "))
    step = textwrap.dedent(
        '''

        @_MIGRATIONS(name="9998_new")
        def _new(db: Database) -> None:
            """Add a table."""
            db.execute("CREATE TABLE new_things (id INTEGER PRIMARY KEY) STRICT")
        '''
    )
    where = migrations.read_text().index("def migrate(")
    text = migrations.read_text()
    migrations.write_text(f"{text[:where].rstrip()}\n{step}\n\n{text[where:]}")
    host.commit("daemons/api/main.py", f"{main.read_text()}\nraise SystemExit('broken')\n")

    said = host.play("deploy.yml", "-e", "emailerctl_wait_seconds=60", must=False)

    assert f"Release {before} runs again" in said
    assert "broken" in said
    assert host.release == before
    assert "9998_new" in host.cli("logs", "-n", "1") or host.send("after the rollback")
    assert len(host.states()) == count + 1
    host.git("reset", "--hard", "--quiet", before)


def test_a_backup_is_restored_behind_a_fence(host: Host) -> None:
    host.play("drain.yml")
    host.cli("send", "--to", "ann@example.org", "--subject", "open", "--text", "x")
    host.play("backup.yml")
    backup = max((host.root / "backups").glob("emailer-*.db")).name

    host.play("restore.yml", "-e", f"backup={backup}")

    assert "unknown" in host.states()
    assert json.loads(host.cli("store", "audit", "-o", "json"))["data"] == []
    host.play("drain.yml", "-e", "resume=true")
    host.send("afterwards")
    eventually(
        lambda: host.states().count("unknown") == 1,
        within_s=10,
        saying=lambda: str(host.states()),
    )
    assert "Name a file" in host.play("restore.yml", "-e", "backup=nothing.db", must=False)


def test_a_token_is_rotated(host: Host, tmp_path: Path) -> None:
    old = json.loads(host.cli("tokens", "create", "shop", "--scope", "send", "-o", "json"))
    saved = tmp_path / "shop.token"

    said = host.play("rotate_token.yml", "-e", "token=shop", "-e", f"save_to={saved}", "-vvv")

    new = saved.read_text().strip()
    assert new.startswith("emk_")
    assert new != old["token"]
    assert new not in said
    assert saved.stat().st_mode & 0o777 == 0o600
