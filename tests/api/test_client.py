"""`emailerctl.client`: never twice begins with the caller."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from emailerctl import client as module
from emailerctl.client import (
    Accepted,
    AsyncClient,
    Client,
    NoAnswer,
    Refused,
    WaitedInVain,
    build_attachment,
)
from tests.api.cutting import CuttingProxy
from tests.api.serving import ApiProcess, open_api

MESSAGE = {"from": "a@example.org", "to": "b@example.net", "text": "Hello"}
COUNT = 40

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiProcess, str]]:
    with open_api(tmp_path_factory.mktemp("client")) as opened:
        yield opened


@pytest.fixture
def emailer(api: tuple[ApiProcess, str]) -> Iterator[Client]:
    process, token = api
    with Client(process.url, token, trust_env=False) as emailer:
        yield emailer


def test_broken_connections_lose_nothing_and_repeat_nothing(
    api: tuple[ApiProcess, str], emailer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-IN-02, F-IN-15: cut at random points, by both clients; 0 twice, 0 lost."""
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.05)
    process, token = api
    with CuttingProxy(process.port, seed=7) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"

        def send(number: int) -> Accepted:
            with Client(url, token, trust_env=False) as cut:
                return cut.send(MESSAGE, subject=f"sync {number}")

        async def send_all() -> list[Accepted]:
            async with AsyncClient(url, token, trust_env=False) as cut:
                sending = (cut.send(MESSAGE, subject=f"async {n}") for n in range(COUNT))
                return list(await asyncio.gather(*sending))

        with ThreadPoolExecutor(8) as pool:
            accepted = list(pool.map(send, range(COUNT)))
        accepted += asyncio.run(send_all())

    found = {one["id"]: one["subject"] for one in emailer.search(limit=200)}
    wanted = [f"{kind} {n}" for kind in ("sync", "async") for n in range(COUNT)]
    assert Counter(found.values()) == Counter(wanted)
    assert [found[one.id] for one in accepted] == wanted
    assert proxy.cut > COUNT
    assert any(one.is_replay for one in accepted)


def test_what_a_message_comes_to(emailer: Client) -> None:
    sent = emailer.send(
        from_="a@example.org",
        to=["b@example.net"],
        subject="Hello",
        html="<p><img src='cid:logo'></p>",
        attachments=[build_attachment("a.png", b"\x89PNG", content_id="logo")],
        cc=None,
    )
    again = emailer.send(MESSAGE, key="k")
    twin = emailer.send(MESSAGE, key="k")

    assert (sent.state, sent.is_replay, sent.data["id"]) == ("queued", False, sent.id)
    assert (again.id, again.is_replay, twin.is_replay) == (twin.id, False, True)
    assert emailer.load(sent.id)["subject"] == "Hello"
    assert {sent.id, again.id} <= {
        one["id"] for one in emailer.search(to="b@example.net", limit=1)
    }

    with pytest.raises(WaitedInVain) as waiting:
        emailer.wait(sent.id, timeout_s=0)
    assert not waiting.value.is_over
    assert emailer.act("cancel", sent.id, reason="mistake")["changed"] == ["b@example.net"]
    with pytest.raises(WaitedInVain) as over:
        emailer.wait(sent.id)
    assert over.value.is_over
    assert emailer.wait(sent.id, states={"cancelled"})["state"] == "cancelled"
    with pytest.raises(Refused) as late:
        emailer.act("hold", sent.id)
    assert (late.value.code, late.value.status) == ("conflict", 409)


def test_a_refusal_has_every_fault(emailer: Client) -> None:
    with pytest.raises(Refused) as refused:
        emailer.send({"from": "a@example.org"}, to="nobody", text=None)

    assert refused.value.code == "invalid"
    assert {fault["pointer"] for fault in refused.value.errors} == {"/to", "/text"}
    assert refused.value.request_id
    assert refused.value.key.startswith("py-")
    with (
        Client(emailer.url, "emk_no", trust_env=False) as stranger,
        pytest.raises(Refused, match="unauthorized") as unknown,
    ):
        stranger.send(MESSAGE)
    assert unknown.value.status == 401


def test_it_is_the_same_for_asyncio(api: tuple[ApiProcess, str]) -> None:
    process, token = api

    async def script() -> None:
        async with AsyncClient(process.url, token, trust_env=False) as emailer:
            sent = await emailer.send(MESSAGE, to="c@example.net", key="async")
            assert [one["id"] async for one in emailer.search(to="c@example.net")] == [sent.id]
            await emailer.act("cancel", sent.id)
            message = await emailer.wait(sent.id, states={"cancelled"})
            assert message == await emailer.load(sent.id)
            with pytest.raises(WaitedInVain):
                await emailer.wait(sent.id)

    asyncio.run(script())


# What an answer means, without a server


def answering(*answers: httpx.Response | Exception, **options: Any) -> tuple[Client, list[Any]]:
    """Return a client whose requests meet *answers*, and where the requests are kept."""
    asked: list[httpx.Request] = []
    waiting = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = next(waiting)
        if isinstance(found, Exception):
            raise found
        return found

    transport = httpx.MockTransport(answer)
    return Client("http://x", "t", transport=transport, **options), asked


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "application/problem+json", **headers}
    return httpx.Response(status, headers=kind, json={"code": code, "detail": "said"})


ACCEPTED = {"id": "msg_1C6K9Q2M7XW4T", "state": "queued", "warnings": []}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "api" not in request.fixturenames:
        monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.0)


@pytest.mark.parametrize(
    "first",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut"),
        httpx.ReadTimeout("slow"),
        httpx.Response(502),
        httpx.Response(504),
        httpx.Response(500),
        problem(503, "outcome_unknown"),
        problem(503, "store_busy"),
        httpx.Response(503),
        problem(429, "too_many_requests", **{"Retry-After": "0"}),
    ],
)
def test_a_message_is_sent_again_with_its_key(first: httpx.Response | Exception) -> None:
    emailer, asked = answering(first, httpx.Response(202, json=ACCEPTED))

    assert emailer.send(MESSAGE).id == ACCEPTED["id"]
    keys = {request.headers["Idempotency-Key"] for request in asked}
    assert (len(asked), len(keys)) == (2, 1)


@pytest.mark.parametrize(
    ("first", "times"),
    [
        (httpx.ConnectError("refused"), 2),
        (problem(503, "store_busy"), 2),
        (problem(429, "too_many_requests"), 2),
        (httpx.ReadError("reset"), 1),
        (httpx.Response(504), 1),
        (httpx.Response(503), 1),
        (problem(503, "outcome_unknown"), 1),
    ],
)
def test_an_order_is_given_again_only_if_it_was_not_carried_out(
    first: httpx.Response | Exception, times: int
) -> None:
    emailer, asked = answering(first, httpx.Response(200, json={"changed": []}))

    if times == 2:
        emailer.act("retry", "msg_1")
    else:
        with pytest.raises((NoAnswer, Refused)):
            emailer.act("retry", "msg_1")
    assert len(asked) == times


@pytest.mark.parametrize(
    "refusal", [problem(422, "invalid"), httpx.Response(301), httpx.Response(404)]
)
def test_a_refusal_is_final(refusal: httpx.Response) -> None:
    emailer, asked = answering(refusal)

    with pytest.raises(Refused):
        emailer.send(MESSAGE)
    assert len(asked) == 1


def test_patience_ends_and_the_key_is_there_to_go_on() -> None:
    emailer, asked = answering(*[httpx.ReadError("reset")] * 2, patience_s=0)
    with pytest.raises(NoAnswer, match="reset") as silence:
        emailer.send(MESSAGE)
    assert silence.value.key == asked[0].headers["Idempotency-Key"]

    certificate = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]")
    for hopeless in (certificate, httpx.UnsupportedProtocol("no")):
        emailer, asked = answering(hopeless)
        with pytest.raises(NoAnswer):
            emailer.send(MESSAGE)
        assert len(asked) == 1

    later = problem(503, "unavailable", **{"Retry-After": "3600"})
    emailer, asked = answering(later)
    with pytest.raises(Refused) as refused:
        emailer.send(MESSAGE)
    assert refused.value.retry_after_s == 3600


@pytest.mark.parametrize("text", ["7", "date"])
def test_a_wait_that_is_named_is_waited(text: str) -> None:
    if text == "date":
        text = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    call = module._Call("GET", "/", True, time.monotonic() + 60)

    wait_s = call.judge(problem(503, "unavailable", **{"Retry-After": text}))

    assert wait_s is not None
    assert 6 < wait_s < 10


def test_waits_grow_and_are_never_in_step() -> None:
    call = module._Call("GET", "/", True, time.monotonic() + 600)
    waits = [call.judge(httpx.ReadError("reset")) or 0 for _ in range(60)]

    assert max(waits) <= module._LONGEST_WAIT_S
    assert len(set(waits[-40:])) > 30 or module._FIRST_WAIT_S == 0


def test_a_batch_has_a_key_for_each() -> None:
    """product.md §3."""
    data = [
        {"status": 202, "id": "msg_1", "state": "queued", "idempotent_replayed": True},
        {"status": 422, "code": "invalid", "errors": [{"pointer": "/to", "detail": "no"}]},
    ]
    emailer, asked = answering(
        httpx.ReadError("reset"), httpx.Response(202, json={"data": data})
    )

    good, bad = emailer.send_batch([MESSAGE, {**MESSAGE, "idempotency_key": "mine"}])

    first, second = (json.loads(request.content) for request in asked)
    assert first == second
    assert [item["idempotency_key"] for item in first["messages"]][1] == "mine"
    assert isinstance(good, Accepted)
    assert isinstance(bad, Refused)
    assert good.is_replay
    assert (good.id, good.key) == ("msg_1", first["messages"][0]["idempotency_key"])
    assert (bad.code, bad.key, bad.errors[0]["pointer"]) == ("invalid", "mine", "/to")


def test_where_to_ask_is_said_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMAILER_URL", raising=False)
    with pytest.raises(ValueError, match="EMAILER_URL"):
        Client()
    monkeypatch.setenv("EMAILER_URL", "http://x/")
    monkeypatch.setenv("EMAILER_TOKEN", "t")
    assert Client().url == "http://x"


def test_it_is_one_file_that_needs_httpx_alone(tmp_path: Path) -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    (tmp_path / "copied.py").write_text(source, encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import copied; "
        "print(*sorted(n for n in sys.modules if n.split('.')[0] in ('emailerctl', 'daemons')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert "from emailerctl" not in source.replace(
        "    from emailerctl.client import Client", ""
    )


def test_both_clients_can_do_the_same() -> None:
    def find_methods(kind: type) -> dict[str, Callable[..., Any]]:
        return {n: m for n, m in vars(kind).items() if callable(m) and not n.startswith("_")}

    assert find_methods(Client).keys() == find_methods(AsyncClient).keys()


def test_a_batch_for_real(emailer: Client) -> None:
    good, bad, twin = emailer.send_batch(
        [
            {**MESSAGE, "idempotency_key": "batch-1"},
            {**MESSAGE, "to": "nobody"},
            {**MESSAGE, "idempotency_key": "batch-2"},
        ]
    )
    again, *_ = emailer.send_batch([{**MESSAGE, "idempotency_key": "batch-1"}])

    assert isinstance(good, Accepted)
    assert isinstance(twin, Accepted)
    assert isinstance(bad, Refused)
    assert bad.errors[0]["pointer"] == "/to"
    assert isinstance(again, Accepted)
    assert (again.id, again.is_replay, good.is_replay) == (good.id, True, False)
    with pytest.raises(Refused) as refused:
        emailer.send_batch([MESSAGE, {**MESSAGE, "to": "nobody"}], atomic=True)
    assert refused.value.status == 422
