"""Under load, something dies all the time.

CHAOS_ROUNDS and CHAOS_SEED make it longer, or another one:

    CHAOS_ROUNDS=300 CHAOS_SEED=7 pytest tests/scenarios/test_chaos.py --log-cli-level INFO
"""

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from emailerctl.models.lifecycle import FINAL, WORKING, OnUnknown, State
from emailerctl.models.message import MessageView, RecipientView
from emailerctl.store.base import Verb
from tests.scenarios.client import Client, build_body, create_client, find_id
from tests.scenarios.conftest import Create
from tests.scenarios.processes import Daemon, eventually
from tests.scenarios.world import World

_log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "14"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
MESSAGES = 400
CLIENTS = 16
# What the next hop does, by weight; `late` leaves time to die between the dot and the reply.
DOES = {"ok": 60, "late-0.05": 25, "tempfail-once": 10, "permfail": 5}


Accepted = dict[str, tuple[int, list[str]]]  # by key: the message, and who shall have a copy


@dataclass
class Place:
    """A daemon that somebody starts again whenever it has ended."""

    command: tuple[str, ...]
    started: str
    daemon: Daemon
    starts: int = 1

    @property
    def is_up(self) -> bool:
        return self.daemon.process.poll() is None and bool(self.daemon.lines(self.started))


class Chaos:
    """The daemons, who starts them and who kills them."""

    def __init__(self, world: World, port: int) -> None:
        self._world = world
        self._rng = Random(SEED)
        serve = ("serve", "--port", str(port), "--workers", "2")
        self.places = [self._place(serve, "api.started")]
        self.places += [self._place(("consume",), "consumer.started") for _ in range(2)]
        self.is_over = False
        self.done: Counter[str] = Counter()

    def _place(self, command: tuple[str, ...], started: str) -> Place:
        return Place(command, started, self._world.spawn_program(*command))

    async def keep_up(self) -> None:
        """Start what has ended, like a service manager."""
        while True:
            for place in self.places:
                if place.daemon.process.poll() is not None:
                    place.daemon = self._world.spawn_program(*place.command)
                    place.starts += 1
            await self._world.pass_time(50)

    async def strike(self) -> None:
        """Kill, or stop for longer than a lease, something that is up, every few hundred ms."""
        try:
            for _ in range(ROUNDS):
                up = await eventually(
                    lambda: [place for place in self.places if place.is_up], within=30
                )
                self._strike(self._rng.choice(up))
                await self._world.pass_time(self._rng.randint(150, 500))
        finally:
            self.is_over = True
            for place in self.places:
                place.daemon.resume()

    def _strike(self, place: Place) -> None:
        daemon = place.daemon
        workers = daemon.workers()
        if workers and self._rng.random() < 0.5:
            self.done["worker killed"] += 1
            os.kill(self._rng.choice(workers), signal.SIGKILL)
        elif not workers and self._rng.random() < 0.25:
            self.done["consumer stopped"] += 1
            daemon.send(signal.SIGSTOP)
            asyncio.get_running_loop().call_later(self._world.lease_ms / 600, _resume, daemon)
        else:
            self.done[f"{place.command[0]} killed"] += 1
            daemon.kill()


def _resume(daemon: Daemon) -> None:
    if daemon.process.poll() is None:
        daemon.resume()


async def send(
    world: World, client: Client, url: str, chaos: Chaos, accepted: Accepted, rng: Random
) -> None:
    """Send until there are enough and nothing dies any more."""
    while len(accepted) < MESSAGES or not chaos.is_over:
        key = f"key-{len(accepted)}"
        to = [
            world.address(does)
            for does in rng.choices(list(DOES), list(DOES.values()), k=rng.choice((1, 1, 1, 3)))
        ]
        policy = rng.choice(("ask", "ask", "ask", "resend"))
        accepted[key] = (0, to)
        answer = await client.insist(url, build_body(*to, on_unknown=policy), key=key)
        accepted[key] = (find_id(answer), to)
        await world.pass_time(rng.randint(0, 200))


@pytest.mark.slow
@pytest.mark.timeout(120 + 3 * ROUNDS)
async def test_nothing_is_lost_and_nothing_goes_out_twice(create: Create) -> None:
    """P1, P2, P3, P4: an API with two workers, two consumers, SIGKILL and SIGSTOP at random."""
    world = await create(lease__duration="1s", store__busy_timeout="5s")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    accepted: Accepted = {}
    async with create_client(world) as client:
        chaos = Chaos(world, port)
        keeping = asyncio.create_task(chaos.keep_up())
        url = f"http://127.0.0.1:{port}"
        sending = [
            send(world, client, url, chaos, accepted, Random(f"{SEED} {n}"))
            for n in range(CLIENTS)
        ]
        try:
            await asyncio.gather(chaos.strike(), *sending)
            await until_settled(world, within=60)
            await release_accused(world)
            await until_settled(world, within=60)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    assert sum(chaos.done.values()) == ROUNDS
    views = {view.message_id: view for view in await world.all_messages()}
    states = Counter(str(r.state) for view in views.values() for r in view.recipients)
    _log.info("seed %s: %s; %s", SEED, dict(chaos.done), dict(states))
    ids = {message_id for message_id, _to in accepted.values()}
    assert ids == set(views), "an acknowledged message is lost, or one was stored twice"
    assert len(ids) == len(accepted)
    truth = Counter(copy["recipient"] for copy in world.relay.journal())
    for message_id, addresses in accepted.values():
        view = views[message_id]
        assert [recipient.address for recipient in view.recipients] == addresses
        for recipient in view.recipients:
            check(view, recipient, truth[recipient.address])


def check(view: MessageView, recipient: RecipientView, copies: int) -> None:
    """Compare the state of a recipient with the copies that the next hop has taken."""
    story = f"{recipient} of {view.message_id} has {copies} copies"
    assert recipient.state in FINAL | {State.UNKNOWN}, story
    if view.on_unknown is OnUnknown.ASK:
        assert copies <= 1, story
    if copies:
        assert recipient.state in {State.SENT, State.UNKNOWN}, story
    if recipient.state is State.SENT:
        assert copies, story
    if recipient.address.startswith("permfail"):
        assert recipient.state is State.BOUNCED, story


async def release_accused(world: World) -> None:
    """Release what was alone with three consumers that died: here it was innocent."""
    for view in await world.all_messages():
        if any(recipient.state is State.HELD for recipient in view.recipients):
            await world.order(Verb.RELEASE, view.message_id, reason="it was us")


async def until_settled(world: World, *, within: float) -> None:
    """Wait until nothing is on its way any more, second copies by policy included."""

    async def is_settled() -> bool:
        return not any(
            recipient.state in WORKING
            or (recipient.state is State.UNKNOWN and view.on_unknown is OnUnknown.RESEND)
            for view in await world.all_messages()
            for recipient in view.recipients
        )

    await eventually(is_settled, within=within, saying=world.tell)
