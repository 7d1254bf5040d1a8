"""Something is wrong while nobody looks: the operator is told, and told when it is over."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemons.inbox import server as inbox_server
from daemons.inbox.server import ReceivedMail
from emailerctl.models.lifecycle import Cause, State
from emailerctl.store.base import Pause
from tests.pager import TAKEN, Pager
from tests.scenarios.client import start_api
from tests.scenarios.conftest import Create
from tests.scenarios.processes import STARTED_WITHIN_S, eventually
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer

WITHIN_S = 25.0  # alerts are looked for every five seconds
MINUTE_MS = 60_000


class Inbox:
    """Where the operator's mail arrives: a next hop of its own."""

    def __init__(self, port: int, mails: list[ReceivedMail]) -> None:
        self.mails = mails
        self.settings: dict[str, object] = {
            "alerts__mail_to": "Night Watch <ops@example.org>",
            "alerts__via": "ops",
            "providers__ops__kind": "smtp",
            "providers__ops__host": "127.0.0.1",
            "providers__ops__port": port,
            "providers__ops__tls": "none",
            "defaults__from": "Shop <shop@example.com>",
        }

    @property
    def subjects(self) -> list[str]:
        return [mail.subject for mail in self.mails]


@pytest.fixture
async def pager() -> AsyncIterator[Pager]:
    pager = Pager()
    yield pager
    await pager.close()


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    mails: list[ReceivedMail] = []
    listening = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        inbox_server.run("127.0.0.1", 0, tmp_path / "inbox", mails.append, listening.set_result)
    )
    yield Inbox(await listening, mails)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


async def until_told(pager: Pager, *told: tuple[str, str], world: World) -> None:
    """Wait until the operator has been told exactly that."""
    await eventually(
        lambda: len(pager.told) >= len(told),
        within=WITHIN_S,
        saying=lambda: f"{pager.told}; {world.tell()}",
    )
    assert sorted(pager.told) == sorted(told)


async def ask_readiness(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/readyz")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def begin_hurried(world: World) -> str:
    """Start an API for which a minute is three seconds; return its address."""
    daemon = world.spawn("tests.scenarios.hurried_api", times=20)
    started = await daemon.until_line("api.started", within=STARTED_WITHIN_S)
    return f"http://127.0.0.1:{started['port']}"


async def test_refused_credentials_by_post_and_mail_once_though_both_daemons_watch(
    create: Create, start_smtpd: Callable[..., SmtpServer], pager: Pager, inbox: Inbox
) -> None:
    relay = start_smtpd("--auth", "user:right")
    world = await create(
        hops={"relay": relay},
        providers__relay__username="user",
        providers__relay__password="wrong",
        alerts__url=pager.url,
        **inbox.settings,
    )
    _api, url = await start_api(world)
    consumer = await world.start_consumer()
    message_id = await world.submit(world.address())

    wanted = [("chain_shut", "raised"), ("credentials_refused", "raised")]
    await until_told(pager, *wanted, world=world)
    await eventually(lambda: len(inbox.mails) >= 2, within=WITHIN_S, saying=world.tell)

    posted = {one["alert"]: one for one in pager.posted}
    assert "535" in posted["credentials_refused"]["detail"]
    assert "emailerctl providers enable relay" in posted["credentials_refused"]["detail"]
    assert sorted(inbox.subjects) == [
        "[emailerctl] chain_shut raised",
        "[emailerctl] credentials_refused raised",
    ]
    mail = next(mail for mail in inbox.mails if "credentials" in mail.subject)
    parsed = BytesParser(policy=policy.default).parsebytes(mail.path.read_bytes())
    assert parsed.defects == []
    assert (parsed["From"], parsed["To"]) == (
        "Shop <shop@example.com>",
        "Night Watch <ops@example.org>",
    )
    assert posted["credentials_refused"]["detail"] in " ".join(parsed.get_content().split())
    ready = await ask_readiness(url)
    assert ready["ready"] is True
    assert {one["name"] for one in ready["alerts"]} == {"chain_shut", "credentials_refused"}
    status = json.loads(await world.cli("status", "-o", "json"))
    assert {one["name"] for one in status["alerts"]} == {"chain_shut", "credentials_refused"}
    assert "credentials_refused: relay paused" in await world.cli("status")

    world.configure(providers__relay__password="right")
    consumer.terminate()
    await consumer.until_dead()
    await world.start_consumer()
    await world.until(message_id, State.SENT)
    wanted += [("chain_shut", "cleared"), ("credentials_refused", "cleared")]
    await until_told(pager, *wanted, world=world)
    await eventually(lambda: len(inbox.mails) >= 4, within=WITHIN_S, saying=world.tell)
    assert len(inbox.mails) == 4
    assert (await ask_readiness(url))["alerts"] == []


async def test_a_dead_consumer_is_noticed_by_the_api(create: Create, pager: Pager) -> None:
    """The worst incident: cheerful 202s, and nothing behind them."""
    world = await create(alerts__url=pager.url)
    consumer = await world.start_consumer()
    url = await begin_hurried(world)
    assert (await ask_readiness(url))["alerts"] == []
    consumer.kill()

    await until_told(pager, ("no_consumer", "raised"), world=world)
    ready = await ask_readiness(url)
    assert [one["name"] for one in ready["alerts"]] == ["no_consumer"]

    await world.start_consumer()
    await until_told(pager, ("no_consumer", "raised"), ("no_consumer", "cleared"), world=world)


async def test_a_doubt_of_a_minute(create: Create, pager: Pager) -> None:
    world = await create(alerts__url=pager.url)
    consumer = await world.start_consumer()
    message_id = await world.submit(world.address("drop-after-dot"))
    await world.until(message_id, State.UNKNOWN)
    await world.until_cause(message_id, Cause.UNANSWERED)
    consumer.terminate()  # its clock does not hurry: it would not agree
    await consumer.until_dead()
    url = await begin_hurried(world)

    await eventually(lambda: ("unknown", "raised") in pager.told, within=WITHIN_S)
    ready = await ask_readiness(url)
    assert ready["unknown"] == 1
    assert "unknown" in {one["name"] for one in ready["alerts"]}
    assert "unknown: 1 recipients" in await world.cli("status")

    public = (await world.cli("-o", "id", "unknown", "list")).strip()
    await world.cli("unknown", "resolve", public, "--outcome", "sent")
    await eventually(lambda: ("unknown", "cleared") in pager.told, within=WITHIN_S)


async def test_a_full_disk_and_a_forgotten_pause_and_a_url_that_fails_first(
    create: Create, pager: Pager
) -> None:
    pager.status = 503
    world = await create(alerts__url=pager.url, store__low_water_bytes=2**62)
    since_ms = world.app.clock.now_ms() - 16 * MINUTE_MS
    await world.app.store.pause(
        Pause(since_ms=since_ms, until_ms=None, actor="eve", reason="relay moves")
    )
    await world.start_consumer()
    await eventually(lambda: pager.asked >= 2, within=WITHIN_S, saying=world.tell)
    pager.status = TAKEN

    wanted = [("disk_low", "raised"), ("queue_paused", "raised")]
    await until_told(pager, *wanted, world=world)
    assert {
        one["name"] for one in json.loads(await world.cli("--json", "status"))["alerts"]
    } == {
        "disk_low",
        "queue_paused",
    }
