"""The image and the compose file, run for real."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.deploy.engine import ROOT, Engine, find_free_port
from tests.deploy.stack import Stack, eventually

SECRET = "hunter2-hashing-key-nobody-may-see"


@pytest.fixture(scope="module")
def stack(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack on a fresh clone, with a secret of its own."""
    folder = tmp_path_factory.mktemp("stack")
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o755)
    (secrets / "hash_key").write_text(SECRET)
    (secrets / "hash_key").chmod(0o444)
    settings = (ROOT / "etc/emailer.docker.toml").read_text()
    file = folder / "emailer.toml"
    file.write_text(
        f'{settings}addresses = "hashed"\nhash_key_file = "/run/secrets/hash_key"\n'
    )
    file.chmod(0o444)
    folder.chmod(0o755)
    environ = {
        "EMAILER_SETTINGS": str(file),
        "EMAILER_SECRETS": str(secrets),
        "FORESTMQ_JOBS_LISTEN": f"127.0.0.1:{find_free_port()}",
    }
    stack = Stack(engine, folder, find_free_port(), environ=environ)
    stack.compose("build", "--quiet", "migrate")
    try:
        stack.up()
        stack.create_token()
        yield stack
    finally:
        stack.down()


def test_a_mail_goes_through(stack: Stack) -> None:
    message_id = stack.post("first")

    eventually(
        lambda: stack.copies()[message_id] == 1,
        within_s=30,
        saying=lambda: stack.compose("logs", must=False),
    )
    assert stack.states()[message_id] == "sent"


def test_the_command_line_is_at_hand(stack: Stack) -> None:
    assert "is sound" in stack.compose(
        "exec", "-T", "api", "emailerctl", "store", "check", must=False
    )
    assert stack.cli(
        "send", "--to", "ann@example.org", "--subject", "Hi", "--text", "x", "--wait"
    )


@pytest.mark.parametrize("service", ["consumer", "api", "inbox"])
def test_a_kill_loses_nothing_and_sends_nothing_twice(stack: Stack, service: str) -> None:
    """P1, P2: each service in turn, in the middle of a stream of messages."""
    accepted = []
    for n in range(40):
        if n == 20:
            stack.kill(service)
            stack.up()
        accepted.append(stack.post(f"{service}-{n}"))

    def is_over() -> bool:
        states = stack.states()
        return all(states[message_id] in {"sent", "unknown"} for message_id in accepted)

    eventually(is_over, within_s=90, saying=lambda: stack.cli("status"))
    states, copies = stack.states(), stack.copies()
    assert len(set(accepted)) == 40
    for message_id in accepted:
        wanted = {1} if states[message_id] == "sent" else {0, 1}
        assert copies[message_id] in wanted, (message_id, states[message_id])
    assert json.loads(stack.cli("store", "audit", "-o", "json"))["data"] == []


def test_a_restart_drains(stack: Stack) -> None:
    accepted = [stack.post(f"restart-{n}") for n in range(20)]

    stack.compose("restart", "api", "consumer")
    stack.up()

    eventually(
        lambda: all(stack.copies()[message_id] == 1 for message_id in accepted),
        within_s=60,
        saying=lambda: stack.cli("status"),
    )
    assert "consumer.stopped" in stack.compose("logs", "consumer")
    assert "api.stopped" in stack.compose("logs", "api")


def test_secrets_are_nowhere_to_be_seen(stack: Stack, engine: Engine) -> None:
    containers = stack.compose("ps", "--all", "--quiet").split()
    assert len(containers) >= 4

    shown = engine.run("docker", "inspect", *containers).stdout
    shown += stack.compose("logs", must=False)
    shown += stack.compose("config")
    shown += stack.cli("config", "show", "--origin")
    shown += engine.run("docker", "history", "--no-trunc", "emailerctl:latest").stdout

    assert SECRET not in shown
    assert stack.token not in shown
    inside = stack.compose(
        "exec", "-T", "api", "python3", "-c", "print(open('/run/secrets/hash_key').read())"
    )
    assert SECRET in inside  # it was there to be found


def test_containers_have_no_rights_to_lose(stack: Stack, engine: Engine) -> None:
    for service in ("api", "consumer", "inbox"):
        [container] = stack.compose("ps", "--quiet", service).split()
        [seen] = json.loads(engine.run("docker", "inspect", container).stdout)
        host = seen["HostConfig"]
        assert (seen["Config"]["User"], host["ReadonlyRootfs"]) == ("10001:10001", True)
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
        assert re.search(r"CapEff:\t0+\n", status)
    assert (
        "read-only" in stack.compose("exec", "-T", "api", "touch", "/opt/x", must=False).lower()
    )


def test_a_backup_goes_into_its_volume_and_comes_back(stack: Stack) -> None:
    message_id = stack.post("kept")
    eventually(
        lambda: stack.copies()[message_id], within_s=30, saying=lambda: stack.cli("status")
    )
    stack.cli("store", "backup", "/var/backups/emailer/kept.db")
    stack.cli("queue", "pause")
    later = stack.post("later")
    stack.compose("stop", "api", "consumer")

    said = stack.compose(
        *("run", "--rm", "--no-deps", "-T", "migrate"),
        *("--yes", "store", "restore", "/var/backups/emailer/kept.db", "-o", "json"),
    )

    assert json.loads(said)["fenced"] == 0
    stack.up()
    states = stack.states()
    assert states[message_id] == "sent"
    assert later not in states
    assert stack.copies()[message_id] == 1


def test_the_image_is_as_the_file_says(engine: Engine, stack: Stack) -> None:
    [seen] = json.loads(engine.run("docker", "image", "inspect", "emailerctl:latest").stdout)
    assert seen["Config"]["User"] == "10001:10001"
    assert seen["Config"]["StopSignal"] == "SIGTERM"
    assert seen["Config"]["Healthcheck"]["Test"][0] == "CMD"
    said = engine.run(
        "docker", "run", "--rm", "--network", "none", "emailerctl:latest", "--version"
    )
    assert re.fullmatch(r"emailerctl \d+\.\d+\.\d+\n", said.stdout)


def test_figures_are_for_the_inner_network(stack: Stack) -> None:
    """Prometheus reads them there; at the published port only who has a token does."""
    read = (
        "import urllib.request as r; print(r.urlopen('http://{}:9464/metrics').read().decode())"
    )

    def ask(service: str) -> str:
        return stack.compose("exec", "-T", "inbox", "python3", "-c", read.format(service))

    assert "emailer_queue_messages{" in ask("api")
    assert "emailer_processes 1\n" in ask("consumer")
    url = f"http://127.0.0.1:{stack.port}/metrics"
    assert httpx.get(url, trust_env=False).status_code == 401
    token = {"Authorization": f"Bearer {stack.token}"}
    assert httpx.get(url, headers=token, trust_env=False).status_code == 200


def test_doorbells_and_jobs_go_by_way_of_forestmq(stack: Stack) -> None:
    """The profile `forestmq` with the settings beside it: names, hosts, health checks."""
    (stack.folder / "secrets/shop_job_key").write_text("0123456789abcdef0123456789abcdef")
    (stack.folder / "secrets/shop_job_key").chmod(0o444)
    settings = (ROOT / "etc/emailer.forestmq.toml").read_text()
    with (stack.folder / "emailer.toml").open("w") as file:  # the same file: it is mounted
        file.write(settings.replace("#shop_file", "shop_file"))
    stack.profiles = ("dev", "forestmq")
    stack.compose("restart", "api", "consumer")
    stack.up()

    message_id = stack.post("bell")
    job = json.loads(
        stack.cli(
            *("publish", "--to", "ann@example.org", "--subject", "Hi", "--text", "100%"),
            *("--confirm", "-o", "json"),
        )
    )

    eventually(
        lambda: stack.copies()[message_id] == stack.copies()[job["message_id"]] == 1,
        within_s=60,
        saying=lambda: stack.compose("logs", must=False),
    )
    broker = json.loads(stack.cli("queue", "stats", "-o", "json"))["broker"]
    assert {(one["url"], one["use"]): one["ok"] for one in broker["sources"]} == {
        ("http://forestmq:8005", "doorbells"): True,
        ("http://forestmq-jobs:8005", "jobs"): True,
    }
    assert f'"id":"{message_id}"' in stack.compose("logs", "forestmq")


def test_forestmq_is_given_what_it_needs(engine: Engine) -> None:
    """The real image's own command line and limits, which the stand-in's place changes not."""
    words = ("docker", "compose", "--profile", "forestmq", "config", "--format", "json")
    services = json.loads(engine.run(*words).stdout)["services"]

    for name in ("forestmq", "forestmq-jobs"):
        service = services[name]
        assert service["image"] == "josefdigital/forestmq:0.6.5"
        option, hosts = service["command"]
        assert (option, hosts.split(",")[:2]) == ("--hosts", [name, "localhost"])
        assert service["init"] is True
        assert int(service["mem_limit"]) > 0
        assert service["logging"]["options"]["max-size"] == "1m"
    assert "ports" not in services["forestmq"]
    assert [port["host_ip"] for port in services["forestmq-jobs"]["ports"]] == ["127.0.0.1"]
