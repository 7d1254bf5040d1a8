"""What the SMTP contract tests share: a next hop, messages, marks that record."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from emailerctl.models.clock import SystemClock
from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Outcome
from emailerctl.providers.base import Outgoing, Sending
from emailerctl.providers.smtp import Smtp, SmtpSettings
from tests.smtpd.fixture import SmtpServer

RAW = (
    b"From: Ann <ann@example.org>\r\nSubject: hello\r\nMessage-ID: <1@example.org>\r\n\r\n"
    b"one line\r\n.a line with a dot\r\n..\r\n.\r\nlast\r\n"
)
SHA256 = hashlib.sha256(RAW).hexdigest()
WITHIN_S = 10


class MovableClock(SystemClock):
    """The machine's clocks, moved by hand."""

    def __init__(self) -> None:
        self.moved_ms = 0

    def boot_ms(self) -> int:
        return super().boot_ms() + self.moved_ms


@dataclass
class Marker:
    """Grants the mark, remembers what it was asked for, and does something meanwhile."""

    grants: bool = True
    meanwhile: Callable[[], Awaitable[object]] | None = None
    asked: list[list[int]] = field(default_factory=list)

    async def __call__(self, numbers: Collection[int]) -> bool:
        self.asked.append(list(numbers))
        if self.meanwhile:
            await self.meanwhile()
        return self.grants


def build_next_hop(server: SmtpServer | int, **settings: Any) -> Smtp:
    """Make a next hop for *server*, in clear unless *settings* say otherwise."""
    port = server if isinstance(server, int) else server.port
    table = {
        "host": "127.0.0.1",
        "port": port,
        "tls": "none",
        "final_reply": "8s",
        "connect_timeout": "10s",
        "greeting_timeout": "8s",
        "local_hostname": "client.test",
        **settings,
    }
    clock = table.pop("clock", None) or SystemClock()
    connections = table.pop("pool", 4)
    return Smtp(
        "relay", SmtpSettings.model_validate(table), connections=connections, clock=clock
    )


def build_outgoing(*recipients: str, within_ms: int = 30_000, **fields: Any) -> Outgoing:
    """Make a message to *recipients*, local parts or whole addresses."""
    addresses = [r if "@" in r else f"{r}@example.org" for r in recipients]
    values = {
        "message_id": 1,
        "public_id": "msg_1",
        "attempt": 1,
        "envelope_sender": "bounces@example.org",
        "recipients": tuple(EnvelopeRecipient(n, a) for n, a in enumerate(addresses)),
        "raw": RAW,
        "needs_smtputf8": False,
        "deadline_boot_ms": SystemClock().boot_ms() + within_ms,
        **fields,
    }
    return Outgoing(**values)


async def send(
    hop: Smtp, *recipients: str, mark: Marker | None = None, **fields: Any
) -> Sending:
    """Send one message to *recipients*."""
    return await hop.send(build_outgoing(*recipients, **fields), mark or Marker())


async def send_one(
    server: SmtpServer, recipient: str, *, mark: Marker | None = None, **settings: Any
) -> Outcome:
    """Send one message to one recipient over a next hop of its own."""
    hop = build_next_hop(server, **settings)
    try:
        return (await send(hop, recipient, mark=mark)).outcomes[0]
    finally:
        await hop.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds; fail after ten seconds."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WITHIN_S} s for {what}"
        await asyncio.sleep(0.005)


def has_said(server: SmtpServer, words: str) -> bool:
    """Whether a line of the server's transcript contains *words*."""
    return any(words in line for line in server.transcript())
