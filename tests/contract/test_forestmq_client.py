"""Our side of ForestMQ's HTTP, against the stand-in: every refusal has its name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random

import pytest

from emailerctl.models.clock import Clock, SystemClock
from emailerctl.queues.forestmq_client import ForestMqClient, ForestMqError, Taken, Trouble
from tests.fakes import FakeClock
from tests.forestmq.fixture import ForestMq, StartForestMq

BELL = {"topic": "email.send", "v": 1, "id": "msg_1C6K9Q2M7XW4T"}
Connect = Callable[..., ForestMqClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make clients; all are closed with the test."""
    async with AsyncExitStack() as stack:

        def connect(
            server: ForestMq | str,
            *,
            timeout_s: float = 15,
            host: str = "",
            clock: Clock | None = None,
        ) -> ForestMqClient:
            url = server if isinstance(server, str) else server.url
            client = ForestMqClient(
                url,
                clock=clock or SystemClock(),
                rng=Random(1),
                timeout_s=timeout_s,
                host=host,
            )
            stack.push_async_callback(client.close)
            return client

        yield connect


async def fails(call: Awaitable[object]) -> ForestMqError:
    with pytest.raises(ForestMqError) as caught:
        await call
    return caught.value


async def test_a_message_goes_in_and_comes_out(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    client = connect(start_forestmq())

    assert await client.put(BELL) == 1
    assert await client.put({**BELL, "n": 2}) == 2
    assert (await client.load_health()).length == 2
    assert await client.take() == Taken(BELL, 1)
    assert await client.take() == Taken({**BELL, "n": 2}, 0)
    assert await client.take() is None


async def test_every_call_uses_the_same_connection(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq()
    client = connect(server)
    for _ in range(5):
        await client.put(BELL)
        await client.take()

    assert server.stats()["connections"] == 1


async def test_nobody_there_is_down(start_forestmq: StartForestMq, connect: Connect) -> None:
    """F-BR-04."""
    server = start_forestmq()
    server.kill()

    assert (await fails(connect(server).put(BELL))).trouble is Trouble.DOWN
    assert (await fails(connect(server).take())).trouble is Trouble.DOWN


async def test_closed_without_an_answer_is_down(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq("--unanswered", "1", "--abandon", "1")

    assert (await fails(connect(server).put(BELL))).trouble is Trouble.DOWN
    assert (await fails(connect(server).take())).trouble is Trouble.DOWN


async def test_one_that_hangs_times_out(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    """F-BR-04: every call has an end."""
    server = start_forestmq("--hang")

    error = await fails(connect(server, timeout_s=0.1).put(BELL))

    assert error.trouble is Trouble.TIMED_OUT
    assert (await fails(connect(server, timeout_s=0.1).take())).trouble is Trouble.TIMED_OUT


async def test_a_wrong_hosts_list_is_named(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq("--hosts", "forestmq")

    error = await fails(connect(server).put(BELL))

    assert error.trouble is Trouble.HOST_REFUSED
    assert "--hosts" in error.detail
    assert await connect(server, host="forestmq").put(BELL) == 1


async def test_an_error_in_a_200_is_an_error(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    """F-BR-06: the body decides."""
    server = start_forestmq("--error", "1")

    error = await fails(connect(server).put(BELL))

    assert error.trouble is Trouble.ERROR_BODY
    assert "expected 'message' key" in error.detail


async def test_another_echo_is_an_error(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq("--other-echo")

    assert (await fails(connect(server).put(BELL))).trouble is Trouble.WRONG_ECHO


@pytest.mark.parametrize("path", ["nowhere", "consumer"])
async def test_null_is_no_answer(
    start_forestmq: StartForestMq, connect: Connect, path: str
) -> None:
    """Its answer to every other path is 200 too."""
    server = start_forestmq()

    error = await fails(connect(f"{server.url}/{path}").put(BELL))

    assert error.trouble is Trouble.UNREADABLE


async def test_a_mangled_answer_is_unreadable_and_kept(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    """Another publisher's %s makes the answer to our take no JSON; the message is gone."""
    server = start_forestmq()
    server.put({"text": "%s"})

    error = await fails(connect(server).take())

    assert error.trouble is Trouble.UNREADABLE
    assert b'"text"' in error.body
    assert "text" not in error.detail


async def test_an_endless_answer_is_cut_off(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq()
    server.put({"text": "%1000000d"})

    error = await fails(connect(server).take())

    assert error.trouble is Trouble.UNREADABLE
    assert len(error.body) < 512 * 1024


async def test_another_server_is_unreadable(connect: Connect) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\n<html>\x1b[2J!")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as listening:
        port = listening.sockets[0].getsockname()[1]
        client = connect(f"http://127.0.0.1:{port}")
        error = await fails(client.put(BELL))
        await client.close()

    assert error.trouble is Trouble.UNREADABLE
    assert "502" in error.detail
    assert error.detail.isprintable()


async def test_after_a_fault_it_is_not_asked_for_a_moment(
    start_forestmq: StartForestMq, connect: Connect
) -> None:
    server = start_forestmq("--error", "1")
    clock = FakeClock()
    client = connect(server, clock=clock)
    await fails(client.put(BELL))
    asked = server.stats()["errors"]

    assert (await fails(client.put(BELL))).trouble is Trouble.RESTING
    assert server.stats()["errors"] == asked

    server.set(error=0)
    clock.advance(ms=100)
    assert await client.put(BELL) == 1
