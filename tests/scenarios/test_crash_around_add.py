"""The API dies around the commit of a message; the client comes back with its key."""

import asyncio

import httpx
import pytest

from emailerctl.models.lifecycle import State
from tests.scenarios.client import build_body, create_client, find_id, start_api
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.world import World


async def test_before_the_commit_nothing_is_stored(world: World) -> None:
    """F-IN-01: and the retry is a new request."""
    to = world.address()
    async with create_client(world) as client:
        doomed, url = await start_api(world, kill_before="add")
        with pytest.raises(httpx.TransportError):
            await client.post(url, build_body(to), key="k1")
        await doomed.until_killed()
        assert await world.all_messages() == []

        _, url = await start_api(world)
        answer = await client.post(url, build_body(to), key="k1")

    assert "Idempotent-Replayed" not in answer.headers
    await world.start_consumer()
    await world.until(find_id(answer), State.SENT)
    assert world.copies(to) == 1


async def test_after_the_commit_it_is_stored_and_delivered(world: World) -> None:
    """F-IN-02: whether or not the client comes back; the retry tells it which message it is."""
    to = world.address()
    async with create_client(world) as client:
        doomed, url = await start_api(world, kill_after="add")
        with pytest.raises(httpx.TransportError):
            await client.post(url, build_body(to), key="k1")
        await doomed.until_killed()
        (stored,) = await world.all_messages()
        await world.start_consumer()
        await world.until(stored.message_id, State.SENT)

        _, url = await start_api(world)
        answer = await client.post(url, build_body(to), key="k1")

    assert find_id(answer) == stored.message_id
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.json()["state"] == "sent"
    assert world.copies(to) == 1


async def test_in_the_middle_of_a_group_it_is_all_or_nothing(create: Create) -> None:
    """F-IN-03: nobody in that commit was answered, none is stored, no key is left behind."""
    world = await create(store__busy_timeout="20s")
    bodies = {f"k{n}": build_body(world.address()) for n in range(60)}
    died_at = 40
    async with create_client(world) as client:
        doomed, url = await start_api(world, kill_in_group=died_at)
        with world.hold_write_lock():  # what comes meanwhile shares a commit
            posting = asyncio.create_task(client.post_all(url, bodies))
            await world.pass_time(1_500)
        answers = await posting
        await doomed.until_killed()
        stored = {view.message_id for view in await world.all_messages()}
        acknowledged = {
            find_id(answer) for answer in answers.values() if isinstance(answer, httpx.Response)
        }
        assert acknowledged <= stored
        assert len(stored) < died_at  # what came first may have had commits of its own
        assert await world.app.store.audit() == []

        _, url = await start_api(world)
        again = {key: await client.insist(url, body, key=key) for key, body in bodies.items()}

    ids = {find_id(answer) for answer in again.values()}
    assert ids == {view.message_id for view in await world.all_messages()}
    assert len(ids) == len(bodies)
    assert stored <= ids


async def test_the_client_vanishes(world: World) -> None:
    """F-IN-15: stored if and only if it was committed; here it was, a moment later."""
    to = world.address()
    async with create_client(world) as client:
        api, url = await start_api(world, stop_before="add")
        posting = asyncio.create_task(client.post(url, build_body(to), key="k1"))
        await api.until_stopped()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        api.resume()
        await eventually(world.all_messages)

        answer = await client.post(url, build_body(to), key="k1")

    (stored,) = await world.all_messages()
    assert find_id(answer) == stored.message_id
