"""Providers fail in every way that they know, one request in ten.

FAULTS_MESSAGES and FAULTS_SEED make it longer, or another one:

    FAULTS_MESSAGES=5000 FAULTS_SEED=7 pytest -k twice tests/scenarios/test_faults_over_http.py
"""

import asyncio
import logging
import os
from collections import Counter
from random import Random

import pytest

from emailerctl.models.lifecycle import State
from tests.providers_server.fixture import ProviderServer
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.test_unknown_resolves_itself import create_chain

_log = logging.getLogger(__name__)

MESSAGES = int(os.environ.get("FAULTS_MESSAGES", "150"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
SHARE = 0.1
SUBMITTED_AT_ONCE = 50
LAG_MS = 500  # of what a look-up shows
# Not "unauthorized": it pauses the next hop until an operator has been there.
FAULTS = [
    "s429-before",
    "wait-past",
    "wait-past-503",
    "redirect",
    "s408-before",
    "s500-before",
    "s500-after",
    "s502-after",
    "s503-before",
    "silent-before",
    "silent-after",
    "reset-before",
    "reset-after",
    "early-503",
    "early-close",
    "early-reset",
    "empty",
    "garbage",
    "list",
    "cut",
    "slow",
    "bomb",
    "head-garbage",
    "head-1xx",
    "dead",
    "refuse",
]
# A chain of two that can be looked up, and two that know a repeated request.
CHAIN = ("mailgun", "postmark")
KEYED = ("resend", "brevo")


def plan(number: int, rng: Random) -> tuple[str, str]:
    """Return an address, and the provider that its message is for; empty: the chain."""
    provider = rng.choice(("", "", *KEYED))
    if rng.random() >= SHARE:
        return f"ok+m{number}@sink.example.org", provider
    wish = rng.choice(FAULTS)
    at = provider or rng.choice((CHAIN[0], ""))  # the first, or each of the chain, once
    return f"{at}{'-' if at else ''}once-{wish}+m{number}@sink.example.org", provider


@pytest.mark.slow
@pytest.mark.timeout(120 + MESSAGES // 5)
async def test_nothing_is_lost_and_nothing_goes_out_twice(
    create: Create, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """P2, F-PR-01…10: all are sent once, or refused; every doubt has ended by itself.

    In the middle their consumer is killed.
    """
    server = ProviderServer("--lag-ms", str(LAG_MS), folder=tmp_path_factory.mktemp("faulty"))
    try:
        await run(create, server)
    finally:
        server.stop()


async def run(create: Create, server: ProviderServer) -> None:
    world = await create_chain(create, server, *CHAIN, *KEYED)
    kinds = (*CHAIN, *KEYED)
    world.configure(
        routing__default=list(CHAIN),
        **{f"providers__{kind}__breaker_pause": "500ms" for kind in kinds},
    )
    rng = Random(SEED)
    planned = [plan(number, rng) for number in range(MESSAGES)]
    # Beyond the lag by the five seconds that a last byte may take on a slow machine.
    hurry = {"settling_ms": 2_000, "look_up_lag_ms": LAG_MS + 3_000}
    first = await world.start_consumer(**hurry)
    for start in range(0, MESSAGES, SUBMITTED_AT_ONCE):
        some = planned[start : start + SUBMITTED_AT_ONCE]
        fields = [{"provider": provider} if provider else {} for _to, provider in some]
        await asyncio.gather(
            *(world.submit(to, **field) for (to, _p), field in zip(some, fields, strict=True))
        )
        if first.process.poll() is None and start >= MESSAGES // 2:
            first.kill()
            await world.start_consumer(**hurry)

    async def is_over() -> bool:
        stats = await world.app.store.queue_stats(now_ms=world.app.clock.now_ms())
        waiting = stats.ready + stats.scheduled + stats.retrying + stats.waiting
        return waiting + stats.sending + stats.unknown == 0

    await eventually(is_over, within=60 + MESSAGES / 10, saying=world.tell)
    views = {view.recipients[0].address: view for view in await world.all_messages()}
    _log.info("seed %s: %s", SEED, Counter(str(view.state) for view in views.values()))
    _log.info("%s", Counter(e.type for e in await world.events()).most_common())
    assert len(views) == MESSAGES, "a message is lost, or one was stored twice"
    truth = Counter(copy["recipient"] for copy in server.journal())
    for to, _provider in planned:
        state, copies = views[to].state, truth[to]
        # What the first of the chain would refuse may have gone to the second: it was shut.
        assert state is State.SENT or (state is State.FAILED and "-refuse+" in to), views[to]
        assert copies == (state is State.SENT), f"{copies} copies of {views[to]}"
