"""From a domain's first key to mail that somebody else verifies: store, files, DNS, SMTP."""

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import dkim
import pytest

from daemons.consumer.main import consume
from daemons.inbox import server as inbox
from daemons.inbox.server import ReceivedMail
from emailerctl import wiring
from emailerctl.core.dkim import build_name, build_record
from emailerctl.core.domains import Domains, Verdict, list_records
from emailerctl.errors import Conflict, Invalid, NotFound
from emailerctl.models.caller import build_local_caller
from emailerctl.models.dkim import Algorithm, DomainKey, KeyState
from emailerctl.models.lifecycle import State
from emailerctl.resolver import LookupFailed, Resolver
from emailerctl.store import migrations
from emailerctl.wiring import App
from tests.conftest import build_settings
from tests.desk import until
from tests.nameserver import NameServer, serve_names

RSA, ED25519 = Algorithm.RSA, Algorithm.ED25519
PENDING, ACTIVE, RETIRED = KeyState
CALLER = build_local_caller("eve")


@dataclass
class Site:
    """An installation, its inbox, and the name server of the world."""

    app: App
    names: NameServer
    mails: list[ReceivedMail]

    @property
    def domains(self) -> Domains:
        return Domains(
            self.app.store,
            self.app.key_files,
            Resolver([self.names.address], timeout_s=5),
            clock=self.app.clock,
            actor="eve",
            lookup_fault=LookupFailed,
        )

    def publish(self, *keys: DomainKey) -> None:
        for record in list_records(keys, self.app.clock.now_ms()):
            self.names.publish(record["line"])

    async def states(self) -> Mapping[str, KeyState]:
        return {key.selector: key.state for key in await self.domains.list_keys()}

    async def sign_with(self, domain: str, *algorithms: Algorithm) -> list[DomainKey]:
        keys = await self.domains.add(domain, algorithms or [RSA])
        self.publish(*keys)
        await self.domains.verify(domain)
        return keys

    async def send(self, sender: str = "shop@example.org", **fields: object) -> int:
        asked = {"from": sender, "to": "ann@example.net", "text": "Hi", **fields}
        return (await self.app.acceptance.accept(asked, caller=CALLER)).message_id

    async def state(self, message_id: int) -> State:
        view = await self.app.store.find_message(message_id)
        assert view is not None
        return view.state

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[None]:
        stopping, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(consume(self.app, stopping, ready.set))
        await asyncio.wait_for(ready.wait(), 15)
        try:
            yield
        finally:
            stopping.set()
            assert await task == 0

    async def until_received(self, count: int) -> list[bytes]:
        await until(lambda: len(self.mails) >= count, within_s=20)
        return [mail.path.read_bytes() for mail in self.mails]

    def verify(self, raw: bytes, index: int = 0) -> bool:
        def find(name: bytes, timeout: int = 5) -> bytes:
            texts = self.names.records.get(name.decode().rstrip("."), [""])
            return texts[0].encode()

        try:
            return bool(dkim.DKIM(raw).verify(idx=index, dnsfunc=find))
        except dkim.DKIMException:
            return False


@pytest.fixture
def names() -> Iterator[NameServer]:
    with serve_names() as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path, names: NameServer) -> AsyncIterator[Site]:
    mails: list[ReceivedMail] = []
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        inbox.run("127.0.0.1", 0, tmp_path / "inbox", mails.append, port.set_result)
    )
    settings = build_settings(tmp_path, providers__relay__port=str(await port))
    migrations.migrate(settings.store.path)
    async with wiring.open_app(settings) as app:
        yield Site(app, names, mails)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_what_arrives_by_smtp_verifies(site: Site) -> None:
    """RFC 6376, RFC 8463, RFC 8058: with both keys, whatever is in the mail."""
    keys = await site.sign_with("example.org", RSA, ED25519)
    odd = {
        "subject": "Grüße  aus  Wien",
        "text": ".\n..\n  a  \n\n\n",
        "html": "<b>" + "x" * 1200 + "</b>",
        "list_unsubscribe": "https://example.org/u",
    }
    async with site.consuming():
        await site.send(**odd)
        await site.send("Käse <shop@sub.example.org>")
        await site.send("shop@example.com")
        first, second, third = await site.until_received(3)

    found = sorted((first, second, third), key=lambda raw: raw.count(b"DKIM-Signature:"))
    assert found[0].startswith(b"Date: ")  # a domain without a key: as it was
    for raw in found[1:]:
        assert site.verify(raw, 0)
        assert site.verify(raw, 1)
        assert b"d=example.org;" in raw
        assert not site.verify(raw.replace(b"Content-Type", b"Content-type: x\r\nX-T", 1))
    assert {key.selector[-1] for key in keys} == {"e", keys[0].selector[-1]}


async def test_every_attempt_shows_the_same_bytes(site: Site) -> None:
    """delivery.md §5: also after a restart; and what is stored is what was accepted."""
    await site.sign_with("example.org")
    async with site.consuming():
        message_id = await site.send()
        [before] = await site.until_received(1)
        await until_state(site, message_id, State.SENT)
    raw = await site.app.store.load_raw(message_id)
    view = await site.app.store.find_message(message_id)
    assert raw is not None
    assert view is not None
    assert before.endswith(raw)
    sealing = site.app.build_sealing(lambda path, fault: pytest.fail(f"{path}: {fault}"))
    await sealing.refresh()
    signed_at_ms = view.created_ms
    again = await sealing.sign(raw, header_from=view.header_from, signed_at_ms=signed_at_ms)
    sealing.close()
    assert again + raw == before


async def until_state(site: Site, message_id: int, state: State) -> None:
    give_up = asyncio.get_running_loop().time() + 20
    while await site.state(message_id) is not state:
        assert asyncio.get_running_loop().time() < give_up
        await asyncio.sleep(0.01)


async def test_mail_of_a_domain_whose_key_is_gone_waits(site: Site) -> None:
    """Unsigned it would be refused by whoever looks at DMARC; other domains don't suffer."""
    [key] = await site.sign_with("example.org")
    path = site.app.key_files.find_path("example.org", key.selector)
    pem = path.read_bytes()
    path.unlink()
    async with site.consuming():
        waiting = await site.send()
        other = await site.send("shop@example.com")
        await until_state(site, other, State.SENT)
        view = await site.app.store.find_message(waiting)
        assert view is not None
        assert view.state is State.QUEUED
        assert view.attempts == ()
        path.write_bytes(pem)
        await until_waiting_for_next_hop(site, waiting)
        now_ms = site.app.clock.now_ms()

        async def wake() -> bool:
            await site.app.store.wake_parked(now_ms=site.app.clock.now_ms(), limit=10)
            return await site.state(waiting) is State.SENT

        give_up = now_ms + 30_000
        while not await wake():
            assert site.app.clock.now_ms() < give_up
            await asyncio.sleep(0.05)
    assert any(site.verify(raw) for raw in await site.until_received(2))


async def until_waiting_for_next_hop(site: Site, message_id: int) -> None:
    give_up = asyncio.get_running_loop().time() + 20
    while True:
        view = await site.app.store.find_message(message_id)
        assert view is not None
        if view.recipients[0].waiting_for == "next_hop":
            return
        assert asyncio.get_running_loop().time() < give_up
        await asyncio.sleep(0.01)


async def test_a_key_signs_once_its_record_is_seen(site: Site) -> None:
    """T-17, T-24: the private half is in a file of the owner's, and in no row."""
    [key] = await site.domains.add("Example.ORG", [RSA])
    path = site.app.key_files.find_path("example.org", key.selector)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"PRIVATE" not in site.app.settings.store.path.read_bytes()

    missing = await site.domains.verify("example.org")
    assert missing.activated == []
    assert [(one.what, one.verdict) for one in missing.found] == [
        ("DKIM", Verdict.BAD),
        ("SPF", Verdict.WARN),
        ("DMARC", Verdict.WARN),
    ]
    assert await site.states() == {key.selector: PENDING}

    site.publish(key)
    site.names.publish('example.org. IN TXT "v=spf1 include:relay.example -all"')
    site.names.publish('_dmarc.example.org. IN TXT "v=DMARC1; p=reject"')
    right = await site.domains.verify("example.org")
    assert right.activated == [key.selector]
    assert {one.verdict for one in right.found} == {Verdict.GOOD}
    assert await site.states() == {key.selector: ACTIVE}
    events = [event.type for event in await list_events(site)]
    assert events[-2:] == ["operator.domain_key_added", "operator.domain_key_active"]


async def list_events(site: Site) -> list[object]:
    from emailerctl.models.page import EventFilter

    return list(await site.app.store.list_events(EventFilter(), after_seq=0, limit=100))


async def test_the_old_key_signs_until_the_new_one_is_seen(site: Site) -> None:
    old = (await site.sign_with("example.org", RSA, ED25519))[0]
    new = await site.domains.rotate("example.org")
    assert [key.algorithm for key in new] == [RSA, ED25519]
    assert len({build_name(key) for key in (old, *new)}) == 3
    with pytest.raises(Conflict, match="which wait"):
        await site.domains.rotate("example.org")

    site.publish(new[0])  # one of the two
    half = await site.domains.verify("example.org")
    assert (half.activated, half.retired) == ([new[0].selector], [old.selector])
    states = await site.states()
    assert states[new[1].selector] is PENDING
    assert sorted(states.values()) == sorted([RETIRED, ACTIVE, ACTIVE, PENDING])

    records = {r["selector"]: r["todo"] for r in list_records(half.keys, 0)}
    assert records[old.selector].startswith("keep until ")
    assert records[new[1].selector] == "publish"
    gone = await site.domains.remove("example.org", [old.selector])
    assert [key.selector for key in gone] == [old.selector]
    assert not site.app.key_files.find_path("example.org", old.selector).exists()
    await site.domains.remove("example.org")
    assert await site.states() == {}
    assert not (site.app.key_files.folder / "example.org").exists()


async def test_what_can_not_be_done_is_said(site: Site, names: NameServer) -> None:
    await site.domains.add("example.org", [RSA])
    with pytest.raises(Conflict, match="has keys already"):
        await site.domains.add("example.org", [RSA])
    for wrong in ("", "example..org", "../etc", "a@b.org", "x" * 300):
        with pytest.raises(Invalid, match="no domain"):
            await site.domains.add(wrong, [RSA])
    with pytest.raises(NotFound, match="has no key"):
        await site.domains.verify("example.net")
    with pytest.raises(NotFound, match="selector"):
        await site.domains.remove("example.org", ["nope"])

    names.is_broken = True  # then nothing is known, and nothing is taken into use
    checked = await site.domains.verify("example.org")
    assert checked.activated == []
    assert {one.verdict for one in checked.found} == {Verdict.BAD, Verdict.WARN}
    assert all("can't be looked up" in one.detail for one in checked.found)
    trusted = await site.domains.verify("example.org", is_trusted=True)
    assert len(trusted.activated) == 1


async def test_an_answer_that_is_long_comes_whole(site: Site) -> None:
    """RFC 7208 3.3: several strings of one record are joined without a space."""
    [key] = await site.domains.add("bücher.example.org", [RSA])
    assert key.domain == "xn--bcher-kva.example.org"
    site.publish(key)
    resolver = Resolver([site.names.address])

    assert await resolver.find_txt(build_name(key)) == [build_record(key)]
    assert await resolver.find_txt("nothing.example.org") == []
