"""The next hop takes it, and another mailer sends it back: through a mailbox, or a pipe."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.verp import Signer, build_return_path
from tests.imapd.fixture import ImapServer
from tests.returned_mail import fill
from tests.scenarios.processes import eventually
from tests.scenarios.world import World
from tests.smtpd.fixture import SmtpServer

Create = Callable[..., Any]
VERP = {
    "providers__relay__return_path": "bounces@example.org",
    "providers__relay__verp": True,
}


@pytest.fixture
def imapd(tmp_path: Path) -> Iterator[ImapServer]:
    server = ImapServer(folder=tmp_path / "imapd")
    yield server
    server.stop()


def read_from(imapd: ImapServer) -> dict[str, object]:
    return {f"bounces__imap__{key}": value for key, value in imapd.settings.items()}


def find_copy(server: SmtpServer, recipient: str) -> dict[str, Any]:
    (copy,) = [copy for copy in server.journal() if copy["recipient"] == recipient]
    return copy


async def find_suppressed(world: World) -> list[tuple[str, str]]:
    page = await world.app.store.list_suppressions(
        service=None, address="", cursor=None, limit=50
    )
    return [(one.address, one.reason) for one in page.data]


async def test_it_bounces_and_nobody_writes_there_again(
    create: Create, imapd: ImapServer
) -> None:
    """Sent with a signed return path; the report comes back to it, to a mailbox."""
    world: World = await create(**VERP, **read_from(imapd))
    to = world.address()
    message_id = await world.submit(to)
    daemon = await world.start_consumer()
    await world.until(message_id, State.SENT)
    path = find_copy(world.relay, to)["sender"]
    assert path.startswith("bounces+")

    imapd.deliver(fill("exim-report", path=path, to=to))
    await world.until(message_id, State.BOUNCED)
    await eventually(lambda: not imapd.contents(), saying=daemon.tell)

    assert await find_suppressed(world) == [(to, "bounce")]
    again = await world.accept(to)
    assert again.state is State.FAILED
    (line,) = daemon.lines("bounces.received")
    assert (line["message_id"], line["reports"]) == (
        to_public(MESSAGE, message_id),
        ["bounced"],
    )
    assert world.copies(to) == 1


async def test_a_forged_one_does_nothing(create: Create, imapd: ImapServer) -> None:
    """T-22: neither another key, nor another's id, nor our Message-ID for somebody else."""
    world: World = await create(**VERP, **read_from(imapd))
    eve, ann = world.address("ok-eve"), world.address("ok-ann")
    eves, anns = await world.submit(eve), await world.submit(ann)
    daemon = await world.start_consumer()
    await world.until(eves, State.SENT)
    await world.until(anns, State.SENT)
    copy = find_copy(world.relay, eve)
    forged = build_return_path("bounces@example.org", Signer(b"?").sign(anns, n=1, attempt=1))

    imapd.deliver(fill("postfix-failed", path=forged, to=ann))
    imapd.deliver(fill("postfix-failed", message_id=copy["message_id"].strip("<>"), to=ann))
    imapd.deliver(fill("vacation", path=copy["sender"], to=ann))
    await eventually(lambda: len(imapd.contents("Processed")) == 3, saying=daemon.tell)

    assert [(await world.load(one)).state for one in (eves, anns)] == [State.SENT] * 2
    assert await find_suppressed(world) == []
    received = daemon.lines("bounces.received")
    assert [(line["sort"], line["is_forged"]) for line in received] == [
        ("bounce", True),
        ("bounce", False),
        ("auto_reply", False),
    ]


async def test_the_envelope_id_comes_back_where_the_path_does_not(
    create: Create, start_smtpd: Callable[..., SmtpServer], imapd: ImapServer
) -> None:
    """RFC 3461: a next hop that reports is given the same id as ENVID."""
    relay = start_smtpd("--dsn")
    world: World = await create(
        hops={"relay": relay},
        providers__relay__return_path="bounces@example.org",
        **read_from(imapd),
    )
    to = world.address()
    message_id = await world.submit(to)
    await world.start_consumer()
    await world.until(message_id, State.SENT)
    (mail,) = [line for line in relay.transcript() if "MAIL FROM" in line]
    (rcpt,) = [line for line in relay.transcript() if "RCPT TO" in line]
    assert "<bounces@example.org>" in mail
    assert f"NOTIFY=FAILURE,DELAY ORCPT=rfc822;{to.replace('+', '+2B')}" in rcpt

    envelope_id = mail.partition("ENVID=")[2].split()[0].strip("'\"")
    imapd.deliver(fill("postfix-failed", envelope_id=envelope_id, to="forwarded@example.net"))

    await world.until(message_id, State.BOUNCED)
    assert await find_suppressed(world) == [(to, "bounce")]


async def test_it_comes_through_a_pipe_while_the_consumer_works(create: Create) -> None:
    world: World = await create(**VERP)
    to = world.address()
    message_id = await world.submit(to)
    await world.start_consumer()
    await world.until(message_id, State.SENT)
    bounce = world.folder / "bounce.eml"
    bounce.write_bytes(fill("gmail-failed", path=find_copy(world.relay, to)["sender"], to=to))

    said = await world.cli("reports", "ingest", stdin=bounce)

    assert "bounced, for good" in said
    assert (await world.load(message_id)).state is State.BOUNCED


async def test_a_mailbox_that_says_nothing_holds_up_no_stop(
    create: Create, imapd: ImapServer
) -> None:
    """F-CL-06: what waits for a server's answer is cut off."""
    world: World = await create(**read_from(imapd) | {"bounces__imap__timeout": "60s"})
    imapd.misbehave("silent", "SELECT")
    daemon = await world.start_consumer()
    await eventually(lambda: imapd.has_misbehaved, saying=daemon.tell)

    daemon.terminate()

    assert await daemon.until_dead(within=10) == 0
