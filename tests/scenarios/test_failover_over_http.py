"""A chain of two providers: the second is asked only if the first has not taken the message."""

import socket

from emailerctl.models.lifecycle import State
from tests.providers_server.fixture import ProviderServer
from tests.providers_server.fixture import providers as providers  # a fixture
from tests.scenarios.conftest import Create
from tests.scenarios.test_unknown_resolves_itself import create_chain
from tests.scenarios.world import World

DEFINITE = [
    "s429-before",
    "wait-past-503",
    "redirect",
    "early-503",
    "early-close",
    "early-reset",
]
DOUBTFUL = ["silent-before", "silent-after", "reset-before", "reset-after", "s500-before"]
FIRST, SECOND = "mailgun", "postmark"


def name(wish: str) -> str:
    """Return who gets it, with the wish for the first provider alone."""
    return f"{FIRST}-{wish}+over{wish.replace('-', '')}@sink.example.org"


def find_takers(providers: ProviderServer, to: str) -> list[str]:
    """Return who has taken a copy."""
    return [copy["dialect"] for copy in providers.journal() if copy["recipient"] == to]


async def create_pair(create: Create, providers: ProviderServer, final_reply: str) -> World:
    """Two providers, of which the first fails more than its breaker would bear."""
    world = await create_chain(create, providers, FIRST, SECOND, final_reply=final_reply)
    world.configure(providers__mailgun__breaker_failures=1000, retry__schedule=["1h"])
    return world


async def test_the_second_takes_what_the_first_definitely_has_not(
    create: Create, providers: ProviderServer
) -> None:
    """At once, without a wait, and nothing travels along with a redirect (F-PR-07, F-PR-09)."""
    world = await create_pair(create, providers, "10s")
    messages = {wish: await world.submit(name(wish)) for wish in DEFINITE}
    await world.start_consumer()

    for wish, message_id in messages.items():
        view = await world.until(message_id, State.SENT)
        assert [(a.provider, a.outcome) for a in view.attempts] == [
            (FIRST, "transient"),
            (SECOND, "accepted"),
        ], wish
        assert find_takers(providers, name(wish)) == [SECOND], wish
    assert providers.stolen() == []


async def test_the_next_takes_it_where_nobody_listens(
    create: Create, providers: ProviderServer
) -> None:
    """The first provider is down: at once, and its breaker is nobody else's."""
    world = await create_chain(create, providers, FIRST, SECOND)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        world.configure(
            providers__mailgun__base_url=f"http://127.0.0.1:{mute.getsockname()[1]}",
            retry__schedule=["1h"],
        )
        messages = {world.address(): 0 for _ in range(8)}
        for to in messages:
            messages[to] = await world.submit(to.replace("example.org", "sink.example.org"))
        await world.start_consumer()

        for message_id in messages.values():
            view = await world.until(message_id, State.SENT)
            assert view.attempts[-1].provider == SECOND
            assert {a.outcome for a in view.attempts[:-1]} <= {"transient"}


async def test_the_second_is_never_asked_about_a_doubt(
    create: Create, providers: ProviderServer
) -> None:
    """F-PR-02, F-PR-08: two providers share no identity; a look-up decides, or nobody."""
    world = await create_pair(create, providers, "1s")
    messages = {wish: await world.submit(name(wish)) for wish in DOUBTFUL}
    await world.start_consumer()

    for wish, message_id in messages.items():
        if wish.endswith("after"):
            await world.until(message_id, State.SENT)
        else:
            await world.until_cause(message_id, "asked")
    await world.let_others_pass()

    for wish, message_id in messages.items():
        is_taken = wish.endswith("after")
        view = await world.load(message_id)
        assert [(a.provider, a.outcome) for a in view.attempts] == [(FIRST, "unknown")], wish
        assert view.state is (State.SENT if is_taken else State.UNKNOWN), wish
        assert find_takers(providers, name(wish)) == [FIRST] * is_taken, wish
