"""What the contract tests of HTTP next hops share."""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from emailerctl.core.mime import build_raw
from emailerctl.models.clock import SystemClock
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import Attachment, Draft, EnvelopeRecipient, Mailbox
from emailerctl.models.outcome import Outcome
from emailerctl.providers.base import LookUp, Outgoing, Sending
from emailerctl.providers.http import HttpNextHop
from emailerctl.providers.registry import KINDS
from tests.contract.smtp_client import Marker
from tests.providers_server.dialects import DIALECTS
from tests.providers_server.fixture import ProviderServer

_NUMBERS = itertools.count(1 << 40)


def build_next_hop(
    kind: str, server: ProviderServer | str, *, clock: SystemClock | None = None, **more: Any
) -> HttpNextHop[Any]:
    """Make the adapter of *kind* for the fake, or for the base URL given instead of it."""
    url = server if isinstance(server, str) else server.url(kind)
    table = {
        **DIALECTS[kind].settings,
        "base_url": url,
        "final_reply": "8s",
        "connect_timeout": "10s",
        **more,
    }
    settings = KINDS[kind].settings.model_validate(table)
    built = KINDS[kind].build("hop", settings, 4, clock or SystemClock())
    assert isinstance(built.provider, HttpNextHop)
    return built.provider


def build_message(
    *wishes: str, text: str = "hello\n", attempt: int = 1, within_ms: int = 8000
) -> Outgoing:
    """Make a message to one recipient a wish, each with a tag of its own."""
    number = next(_NUMBERS)
    public_id = to_public(MESSAGE, number)
    addresses = [f"{wish}+{uuid4().hex[:12]}@sink.example.org" for wish in wishes]
    draft = Draft(
        header_from=Mailbox("sender@example.org", "Anna Möller"),
        to=tuple(Mailbox(address) for address in addresses),
        reply_to=(Mailbox("help@example.org"),),
        subject="A test",
        text=text,
        html="<p>hello</p>",
        headers={"X-Ticket": "17"},
        attachments=(
            Attachment(filename="a.txt", content_type="text/plain", content=b"attached"),
        ),
    )
    raw = build_raw(
        draft, message_id_header=f"<{public_id}@example.org>", date_ms=1_795_514_400_000
    )
    return Outgoing(
        message_id=number,
        public_id=public_id,
        attempt=attempt,
        envelope_sender="sender@example.org",
        recipients=tuple(EnvelopeRecipient(n, a) for n, a in enumerate(addresses)),
        raw=raw,
        needs_smtputf8=False,
        deadline_boot_ms=SystemClock().boot_ms() + within_ms,
        tags=("welcome",),
        metadata={"order": "17"},
    )


def build_look_up(outgoing: Outgoing) -> LookUp:
    """Make the question that an unanswered attempt leads to."""
    return LookUp(
        public_id=outgoing.public_id,
        message_id_header=f"{outgoing.public_id}@example.org",
        attempt=outgoing.attempt,
        recipients=outgoing.recipients,
        since_ms=SystemClock().now_ms() - 1000,
    )


@dataclass(frozen=True)
class Sent:
    """One attempt, and what the fake's journal knows of it."""

    outgoing: Outgoing
    outcomes: Mapping[int, Outcome]
    dialogue: str
    mark: Marker
    copies: int
    events: list[str]

    @property
    def outcome(self) -> Outcome:
        return self.outcomes[0]


async def send(
    server: ProviderServer,
    hop: HttpNextHop[Any],
    *wishes: str,
    grants: bool = True,
    meanwhile: Callable[[], Awaitable[object]] | None = None,
    text: str = "hello\n",
) -> Sent:
    """Send one message over *hop*, and ask the journal."""
    outgoing = build_message(*wishes, text=text)
    mark = Marker(grants=grants, meanwhile=meanwhile)
    sending: Sending = await hop.send(outgoing, mark)
    return Sent(
        outgoing,
        sending.outcomes,
        sending.dialogue,
        mark,
        len(server.journal(outgoing.public_id)),
        server.events(find_tag(outgoing)),
    )


def find_tag(outgoing: Outgoing) -> str:
    """Return what tells the first recipient from those of other tests."""
    return outgoing.recipients[0].address.partition("@")[0].partition("+")[2]
