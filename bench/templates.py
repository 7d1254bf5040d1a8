"""Templates: renderings a second, and what plain messages notice of bombs."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import processes
from bench.figures import Rounds, Row, middle, show_rates
from bench.installation import Accepted, Installation, measure_acceptance
from bench.processes import Child
from bench.sizes import Sizes

CONNECTIONS, BOMBERS = 32, 2
_LOOPS = "".join(f"{{% for {name} in '0123456789' %}}" for name in "abcdefghijkl")
_BOMB = f"{{% if go %}}{_LOOPS}{{% set x = a %}}{'{% endfor %}' * 12}{{% endif %}}Bang."
_BOMB_TOML = "[variables.go]\ntype = 'boolean'\nexample = false\n"


def compare(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Measure messages of a template, and plain ones while bombs arrive."""
    site = Installation(folder / "templates").create()
    sources = site.folder / "sources"
    processes.run(site.command("templates", "init", sources))
    bomb = sources / "bomb"
    bomb.mkdir()
    for name, text in (
        ("template.toml", _BOMB_TOML),
        ("subject.txt", "x"),
        ("body.txt", _BOMB),
    ):
        (bomb / name).write_text(text)
    processes.run(site.command("templates", "push", sources))
    count = max(sizes.accepted // 2, 300)
    with site.start_api() as api:

        def accept(*, has_template: bool = False) -> Accepted:
            return measure_acceptance(
                api,
                site.port,
                site.token,
                count=count,
                connections=CONNECTIONS,
                has_template=has_template,
            )

        rounds = Rounds().measure(sizes.rounds, lambda: accept(has_template=True), accept)
        yield Row(
            key="template_acceptance",
            what=f"messages of a template / plain ones, {CONNECTIONS} connections",
            goal=None,
            values=rounds.compare("rate"),
            ours=show_rates(rounds.ours),
            peer=show_rates(rounds.peer),
            cpu=f"API {middle(rounds.ours, 'cpu_us'):.0f} / "
            f"{middle(rounds.peer, 'cpu_us'):.0f} µs a message",
        )
        bombs: list[int] = []

        def accept_under_bombs() -> Accepted:
            with bombing(site, bombs):
                return accept()

        rounds = Rounds().measure(sizes.rounds, accept_under_bombs, accept)
        yield Row(
            key="bombs_p99",
            what="p99 of plain messages while bombs arrive / without",
            goal=None,
            values=rounds.compare("p99_ms"),
            ours=f"{middle(rounds.ours, 'p99_ms'):.1f} ms, {bombs.count(422)} bombs refused, "
            f"{bombs.count(503)} put off",
            peer=f"{middle(rounds.peer, 'p99_ms'):.1f} ms",
        )
    _require_refusals(bombs, api)


@contextmanager
def bombing(site: Installation, answers: list[int]) -> Iterator[None]:
    """Send bombs over some connections meanwhile; *answers* gets their statuses."""
    is_over = threading.Event()
    use = {"name": "bomb", "variables": {"go": True}}
    body = json.dumps({"from": "a@example.com", "to": "b@example.org", "template": use})
    head = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
        while not is_over.is_set():
            connection.request("POST", "/v1/messages", body, head)
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(BOMBERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _require_refusals(bombs: list[int], api: Child) -> None:
    if not bombs or set(bombs) - {422, 503}:  # 503: the machine is busy with something else
        raise processes.BenchError(f"bombs were answered {sorted(set(bombs))}\n{api.tell()}")
