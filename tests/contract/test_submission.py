"""Submission by SMTP: what other people's clients send, and what is refused."""

import asyncio
import base64
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from daemons.api.submission import serve_mail
from daemons.run import listen
from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.core.foreign_mail import read_foreign_mail
from emailerctl.errors import ConfigurationError, Invalid
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.message import MessageView, Priority
from emailerctl.models.page import MessageFilter
from emailerctl.store import migrations
from emailerctl.wiring import App
from tests.conftest import build_settings
from tests.fakes import FakeClock

pytestmark = pytest.mark.timeout(120)

Talk = Callable[[smtplib.SMTP], Any]


@dataclass
class Site:
    app: App
    port: int
    trust: ssl.SSLContext
    token: str

    async def talk(
        self, talk: Talk, *, token: str | None = None, is_clear: bool = False
    ) -> Any:
        """Let *talk* say something, after a log-in unless *token* is empty."""

        def work() -> Any:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
                if not is_clear:
                    client.starttls(context=self.trust)
                if token != "" and not is_clear:
                    client.login("anybody", self.token if token is None else token)
                return talk(client)

        return await asyncio.to_thread(work)

    async def send(self, mail: EmailMessage, *to: str, **more: Any) -> str:
        """Send a mail and return the reply; a refusal as it was said."""

        def talk(client: smtplib.SMTP) -> str:
            client.mail("shop@example.org")
            for one in to or ("ann@example.net",):
                client.rcpt(one)
            code, said = client.data(mail.as_bytes(policy=policy.SMTP))
            return f"{code} {said.decode()}"

        said = await self.talk(talk, **more)
        assert isinstance(said, str)
        return said

    async def load(self, reply: str) -> tuple[MessageView, EmailMessage]:
        message_id = parse_public(MESSAGE, reply.split()[-1])
        assert message_id is not None, reply
        view = await self.app.store.find_message(message_id)
        raw = await self.app.store.load_raw(message_id)
        assert view is not None
        assert raw is not None
        parsed: Any = message_from_bytes(raw, policy=policy.default)
        return view, parsed


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def site(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[Site]:
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    settings = build_settings(
        tmp_path, smtp__enabled="true", smtp__certificate=str(pem), smtp__port="0"
    )
    migrations.migrate(settings.store.path)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    clock, rng = FakeClock(), Random(1)
    async with wiring.open_app(settings, clock=clock, rng=rng) as app:
        minted = await tokens.create(app.store, clock, rng, name="shop", scopes=["send"])
        doors = listen("127.0.0.1", 0)
        async with serve_mail(app, doors):
            yield Site(app, doors[0].getsockname()[1], trust, minted.text)


def build(**headers: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Shop <shop@example.org>"
    mail["To"] = "Ann <ann@example.net>"
    mail["Subject"] = "Grüße"
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content("Hello\n")
    return mail


async def test_a_mail_becomes_a_message_with_all_it_has(site: Site) -> None:
    mail = build(
        Cc="bob@example.net",
        Reply_To="desk@example.org",
        X_Order="7",
        X_Emailer_Key="order-7",
        X_Emailer_Tags="order, shop",
        X_Emailer_Send_In="1h",
        X_Emailer_Priority="high",
        X_Emailer_Metadata_Customer="4711",
    )
    mail.add_alternative("<b>Hello</b> <img src=cid:logo>", subtype="html")
    mail.add_attachment(
        b"%PDF", maintype="application", subtype="pdf", filename="Rechnung ü.pdf"
    )
    everybody = ("ann@example.net", "bob@example.net", "secret@example.net")

    reply = await site.send(mail, *everybody)
    view, stored = await site.load(reply)

    assert reply.startswith("250 2.0.0 queued as msg_")
    kinds = [(r.address, r.kind.value) for r in view.recipients]
    assert kinds == list(zip(everybody, ("to", "cc", "bcc"), strict=True))
    assert (view.service, view.tags, view.priority) == (
        "shop",
        ("order", "shop"),
        Priority.HIGH,
    )
    assert view.metadata == {"customer": "4711"}
    assert view.recipients[0].waiting_for == "send_at"
    assert (stored["Subject"], stored["X-Order"]) == ("Grüße", "7")
    assert stored["Reply-To"] == "desk@example.org"
    assert "secret" not in str(stored)
    assert "X-Emailer-Key" not in stored
    text, html = stored.get_body(("plain",)), stored.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().strip() == "Hello"
    assert "<b>Hello</b>" in html.get_content()
    files: list[Any] = list(stored.iter_attachments())
    assert [(f.get_filename(), f.get_content()) for f in files] == [("Rechnung ü.pdf", b"%PDF")]

    again = await site.send(mail, *everybody)  # P4: the same key is the same message
    assert again == reply
    mail.replace_header("Subject", "else")
    assert (await site.send(mail, *everybody)).startswith("554 5.6.0 this key belongs to")


async def test_refusals_are_those_of_the_api(site: Site) -> None:
    """P6: with what is wrong; nothing is stored."""
    for mail, to, said in (
        (build(X_Emailer_Prioritty="x"), (), "X-Emailer-Prioritty: is unknown"),
        (build(X_Emailer_Priority="urgent"), (), "554 5.6.0 priority"),
        (build(), ("bob@example.net",), "ann@example.net"),
        (build(), ("ann@example.net", "bob@nowhere"), "554 5.6.0 bcc"),
        (build(X_Emailer_Send_At="tomorrow"), (), "send_at"),
    ):
        reply = await site.send(mail, *to)
        assert reply.startswith("554 5.6.0"), reply
        assert said in reply
    page = await site.app.store.list_messages(MessageFilter(), cursor=None, limit=10)
    assert page.data == []

    def overdo(client: smtplib.SMTP) -> list[int]:
        client.mail("shop@example.org")
        return [client.rcpt(f"a{n}@example.net")[0] for n in range(52)]

    assert await site.talk(overdo) == [250] * 50 + [452] * 2


async def test_no_password_is_taken_in_clear_and_none_that_is_wrong(site: Site) -> None:
    """T-01, T-16."""
    secret = base64.b64encode(f"\0x\0{site.token}".encode()).decode()

    def in_clear(client: smtplib.SMTP) -> tuple[bool, list[int]]:
        client.ehlo()
        return client.has_extn("auth"), [
            client.docmd("AUTH", f"PLAIN {secret}")[0],
            client.docmd("MAIL", "FROM:<shop@example.org>")[0],
        ]

    assert await site.talk(in_clear, is_clear=True) == (False, [530, 530])

    def without(client: smtplib.SMTP) -> int:
        client.ehlo()
        return client.docmd("MAIL", "FROM:<shop@example.org>")[0]

    assert await site.talk(without, token="") == 530
    for wrong in ("nonsense", site.token[:-1] + "x", "emk_test_x"):
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            await site.talk(without, token=wrong)
        assert caught.value.smtp_code == 535

    def revoked(client: smtplib.SMTP) -> str:
        client.mail("shop@example.org")
        client.rcpt("ann@example.net")
        asyncio.run_coroutine_threadsafe(end_all(), loop).result(10)
        code, said = client.data(build().as_bytes(policy=policy.SMTP))
        return f"{code} {said.decode()}"

    async def end_all() -> None:
        _epoch, known = await site.app.store.load_tokens()
        for token in known:
            await site.app.store.end_token(token.token_id, at_ms=site.app.clock.now_ms())

    loop = asyncio.get_running_loop()
    assert (await site.talk(revoked)).startswith("535 5.7.8")  # F-IN-14


def test_it_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="never taken in clear"):
        build_settings(tmp_path, smtp__enabled="true")


def test_no_mail_whatever_breaks_the_reader() -> None:
    """T-12: a fault at most."""
    rng = Random(3)
    mail = build(Cc="b@example.net", X_Emailer_Tags="a,b")
    mail.add_alternative("<b>x</b>", subtype="html")
    mail.add_attachment(build(), filename="inner.eml")
    mail.add_attachment(b"x", maintype="a", subtype="b", filename="ü")
    whole = mail.as_bytes(policy=policy.SMTP)
    odd = [b"", b"\r\n", b"\x00" * 50, b"From: \r\n\r\n", b"To: a@b, <>, :;, (\r\n\r\nx", whole]
    for _ in range(300):
        octets = bytearray(whole)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(len(octets))
            piece = rng.choice(
                [b"", b"\x00", b"\xff\xfe", b"=?x?q?", b"\r\n", b'"', b"<", b";"]
            )
            octets[at : at + rng.randrange(4)] = piece
        odd.append(bytes(octets))
    for raw in odd:
        try:
            fields, _key = read_foreign_mail(
                raw, sender="s@example.org", recipients=["a@b.org"]
            )
        except Invalid:
            continue
        assert fields
