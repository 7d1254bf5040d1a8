"""The next hop refuses our user name and password."""

from collections.abc import Callable

from emailerctl.models.lifecycle import State
from emailerctl.store.base import HopState
from tests.scenarios.conftest import Create
from tests.scenarios.processes import eventually
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer

StartSmtpd = Callable[..., SmtpServer]


async def begin(create: Create, server: SmtpServer) -> tuple[World, int]:
    world = await create(
        hops={"relay": server},
        providers__relay__username="user",
        providers__relay__password="wrong",
    )
    return world, await world.submit(world.address())


async def until_paused(world: World, message_id: int) -> None:
    async def is_paused() -> bool:
        hops = await world.app.store.list_next_hops()
        recipient = await world.recipient(message_id)
        return recipient.waiting_for == "next_hop" and [
            (hop.name, hop.state) for hop in hops
        ] == [("relay", HopState.PAUSED)]

    await eventually(is_paused, saying=world.tell)


async def test_it_is_paused_and_no_message_pays_for_it(
    create: Create, start_smtpd: StartSmtpd
) -> None:
    """F-CO-07, F-SM-05: one attempt is enough to know; the queue waits without counting."""
    world, message_id = await begin(create, start_smtpd("--auth", "user:right"))
    consumer = await world.start_consumer()
    await until_paused(world, message_id)
    later_ids = [await world.submit(world.address()) for _ in range(5)]
    for later_id in later_ids:
        await until_paused(world, later_id)

    assert await consumer.until_line("next_hop.alarm")
    assert [len((await world.load(id_)).attempts) for id_ in later_ids] == [0] * 5
    tried = " ".join(world.relay.transcript())
    assert tried.count("535 5.7.8") == 1

    await world.cli("providers", "enable", "relay")  # a mistake: they are as wrong as before
    await eventually(
        lambda: " ".join(world.relay.transcript()).count("535 5.7.8") > 1, saying=world.tell
    )
    await until_paused(world, message_id)


async def test_new_settings_open_it(create: Create, start_smtpd: StartSmtpd) -> None:
    """F-CO-07: a consumer that starts with another password tries it."""
    world, message_id = await begin(create, start_smtpd("--auth", "user:right"))
    consumer = await world.start_consumer()
    await until_paused(world, message_id)
    consumer.terminate()
    await consumer.until_dead()

    world.configure(providers__relay__password="right")
    await world.start_consumer()

    view = await world.until(message_id, State.SENT)
    assert [attempt.outcome for attempt in view.attempts] == ["transient", "accepted"]
    assert await world.causes(message_id) == ["accepted", "deferred", "marked", "handed_over"]


async def test_an_operator_opens_it(create: Create, start_smtpd: StartSmtpd) -> None:
    """F-CO-07: where it was the server's mistake."""
    wrong = start_smtpd("--auth", "user:right", "--auth-reply", "535")
    world, message_id = await begin(create, wrong)
    await world.start_consumer()
    await until_paused(world, message_id)
    wrong.stop()
    world.hops["relay"] = start_smtpd("--auth", "user:wrong", port=wrong.port)

    await world.cli("providers", "enable", "relay")

    await world.until(message_id, State.SENT)


async def test_refused_recipients_never_pause_it(world: World) -> None:
    """F-CO-08: that a mailbox is unknown says nothing about the next hop."""
    refused = [await world.submit(world.address("permfail")) for _ in range(30)]
    await world.start_consumer()
    for message_id in refused:
        await world.until(message_id, State.BOUNCED)

    assert await world.app.store.list_next_hops() == []
    await world.let_others_pass()
