"""The publisher that ships with us, against a ForestMQ that errs as the real one does."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from emailerctl.errors import (
    Forbidden,
    Invalid,
    JobRejected,
    NextHopRefused,
    NotQueued,
    TimedOut,
    Unauthorized,
)
from emailerctl.models.clock import SystemClock
from emailerctl.models.job import is_signed_with, parse_envelope
from emailerctl.publish import Api, Key, publish, publish_async
from emailerctl.queues.forestmq_client import ForestMqClient
from tests.forestmq.fixture import ForestMq, StartForestMq
from tests.ports import keep_port
from tests.scenarios.processes import eventually

KEY = Key("shop", "0123456789abcdef0123456789abcdef")
FIELDS = {"to": "ann@example.org", "subject": "100% off", "text": "%s %n ü 0.5"}
ROOT = Path(__file__).parents[2]


class Log:
    """Somebody who knows jobs after he was asked so often."""

    def __init__(self, known_after: int, **status: object) -> None:
        self.asked = 0
        self._known_after = known_after
        self._status = {"state": "accepted", "message_id": "msg_1"} | status

    async def find(self, job_id: str) -> Mapping[str, object] | None:
        self.asked += 1
        return self._status if self.asked > self._known_after else None


async def take(server: ForestMq) -> list[dict[str, object]]:
    """Take everything that is queued."""
    from random import Random

    client = ForestMqClient(server.url, clock=SystemClock(), rng=Random(1), timeout_s=5)
    found = []
    while taken := await client.take():
        assert isinstance(taken.message, dict)
        found.append(taken.message)
    await client.close()
    return found


async def test_what_is_published_arrives_as_it_was_and_verifies(
    start_forestmq: StartForestMq,
) -> None:
    """Percent signs, decimals and other scripts would be changed, or end the server."""
    server = start_forestmq()

    published = await publish_async(FIELDS, url=server.url, key=KEY)

    assert (published.times, published.queue_length, published.message_id) == (1, 1, None)
    (message,) = await take(server)
    read = parse_envelope(message)
    assert isinstance(read.content, bytes)
    assert json.loads(read.content) == FIELDS
    assert (read.job_id, read.topic) == (published.job_id, "email.job")
    assert is_signed_with(read, KEY)
    assert server.stats()["deaths"] == 0


def test_without_an_event_loop(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()

    published = publish(FIELDS, url=server.url, job_id="j-1", topic="email.bulk")

    assert published.job_id == "j-1"
    (message,) = asyncio.run(take(server))
    assert (message["topic"], "sig" in message) == ("email.bulk", False)


async def test_inside_an_event_loop_it_says_what_to_await() -> None:
    with pytest.raises(RuntimeError, match="await publish_async"):
        publish(FIELDS, url="http://127.0.0.1:1")


async def test_what_can_not_be_sent_is_not_sent(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    for fields, more in (
        ({"text": "x" * 3501}, {}),
        (
            {"text": "x" * 3485},
            {"topic": "t" * 64, "job_id": "j" * 128, "key": Key("k" * 64, KEY.secret)},
        ),
        (FIELDS, {"topic": "Not One"}),
        (FIELDS, {"job_id": "a b"}),
        (FIELDS, {"key": Key("shop", "short")}),
        ({"text": {1}}, {}),
    ):
        with pytest.raises(Invalid):
            await publish_async(fields, **({"url": server.url, "key": KEY} | more))  # type: ignore[arg-type]

    assert (server.stats()["put"], server.stats()["deaths"]) == (0, 0)
    for url in ("http://[", "127.0.0.1:8006", "amqp://127.0.0.1", "http://"):
        with pytest.raises(Invalid, match="/url: "):
            await publish_async(FIELDS, url=url)


async def test_nobody_there_is_said(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    server.kill()

    with pytest.raises(NotQueued, match="is not known to be queued") as caught:
        await publish_async(FIELDS, url=server.url, key=KEY, job_id="j-1")

    assert caught.value.members["job_id"] == "j-1"
    assert "same id" in caught.value.cure


async def test_what_is_not_known_to_be_queued_is_said(start_forestmq: StartForestMq) -> None:
    """An error in a 200, a connection that closes unanswered, an echo of something else."""
    server = start_forestmq()
    for fault in ("error", "unanswered", "other_echo"):
        server.set(**{fault: 1})

        with pytest.raises(NotQueued):
            await publish_async(FIELDS, url=server.url, key=KEY)

        server.set(**{fault: 0})


async def test_a_name_that_it_does_not_take_is_named(start_forestmq: StartForestMq) -> None:
    server = start_forestmq("--hosts", "forestmq")

    with pytest.raises(NextHopRefused, match="--hosts"):
        await publish_async(FIELDS, url=server.url, key=KEY)


# until it is known


async def test_it_is_published_again_until_it_is_known(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()

    published = await publish_async(
        FIELDS, url=server.url, key=KEY, confirm=Log(5), again_after_s=0.15
    )

    assert published.message_id == "msg_1"
    assert published.times > 1
    messages = await take(server)
    assert len(messages) == published.times
    assert {message["id"] for message in messages} == {published.job_id}
    assert len({message["data"] for message in messages}) == 1


async def test_it_goes_on_while_forestmq_is_away(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    server.kill()
    known = Log(10_000)
    publishing = asyncio.create_task(
        publish_async(FIELDS, url=server.url, key=KEY, confirm=known, again_after_s=0.2)
    )
    await eventually(lambda: known.asked >= 3)
    server.restart()
    await eventually(lambda: server.stats()["put"])
    known._known_after = 0

    assert (await publishing).message_id == "msg_1"


async def test_a_rejection_ends_it_with_the_reasons(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()
    errors = [{"pointer": "/to/0", "detail": "is no address"}, "odd"]
    known = Log(1, state="rejected", code="invalid", errors=errors)

    with pytest.raises(JobRejected, match=r"\(invalid\): /to/0: is no address") as caught:
        await publish_async(FIELDS, url=server.url, key=KEY, confirm=known)

    assert caught.value.members["reason"] == "invalid"


async def test_when_the_time_is_over_nobody_pretends(start_forestmq: StartForestMq) -> None:
    server = start_forestmq()

    with pytest.raises(TimedOut, match=r"published \d+ times in 0\.3 s, and is not known yet"):
        await publish_async(
            FIELDS, url=server.url, confirm=Log(10_000), timeout_s=0.3, again_after_s=0.2
        )


async def test_whom_it_asks() -> None:
    """The API's own words; what is no answer of it is no knowledge."""
    answers = {
        b"/v1/jobs/good": (200, {"id": "good", "state": "accepted", "message_id": "msg_1"}),
        b"/v1/jobs/other": (200, {"id": "good", "state": "accepted"}),
        b"/v1/jobs/absent": (404, {"code": "not_found"}),
        b"/v1/jobs/busy": (503, {"code": "store_busy"}),
        b"/v1/jobs/odd": (200, "html"),
        b"/v1/jobs/stranger": (401, {}),
        b"/v1/jobs/blind": (403, {}),
    }
    tokens = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        tokens.append(b"Bearer emk_1" in head)
        status, body = answers[head.split()[1]]
        octets = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(octets)))
        writer.write(octets)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api = Api(f"http://127.0.0.1:{port}/", "emk_1")
    async with server:
        assert (await api.find("good") or {})["message_id"] == "msg_1"
        for name in ("other", "absent", "busy", "odd"):
            assert await api.find(name) is None
        with pytest.raises(Unauthorized):
            await api.find("stranger")
        with pytest.raises(Forbidden):
            await api.find("blind")
    assert all(tokens)
    with keep_port() as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert await Api(url, "emk_1").find("good") is None


def test_a_service_needs_httpx_alone() -> None:
    """The module is used where nothing else of the product is installed."""
    program = """
import importlib.metadata, sys
allowed = {"httpx", "httpcore", "h11", "idna", "certifi", "anyio", "sniffio", "exceptiongroup",
           "typing_extensions", "emailerctl"}
packages = importlib.metadata.packages_distributions()
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in packages and name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Nothing())
before = set(sys.modules)  # what the interpreter's own start has brought
from emailerctl.publish import Api, Key, publish, publish_async
third = {n.partition(".")[0] for n in set(sys.modules) - before} & set(packages)
print(sorted(third - allowed), sorted(n for n in sys.modules if n.startswith("daemons")))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (run.stdout, run.stderr) == ("[] []\n", "")
