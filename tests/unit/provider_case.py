"""What the unit tests of HTTP adapters share: fixtures, messages, recipients."""

import json
from pathlib import Path
from typing import Any

from emailerctl.core.mime import build_raw
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.message import Attachment, Draft, EnvelopeRecipient, Mailbox
from emailerctl.providers.base import Outgoing
from emailerctl.providers.http_client import Answer

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PUBLIC_ID = "msg_0C6K9QAAAAAAA"
MESSAGE_ID_HEADER = f"<{PUBLIC_ID}@example.org>"
NOW_MS = 1_795_514_400_000  # 2026-11-24T10:00:00Z


def load(path: str) -> dict[str, Any]:
    """Return a fixture file; each names its source and its date."""
    fixture: dict[str, Any] = json.loads((FIXTURES / path).read_text(encoding="utf-8"))
    assert fixture["source"]
    assert fixture["read"]
    return fixture


def build_answer(recorded: dict[str, Any]) -> Answer:
    """Return a recorded answer: JSON in `body`, or `text`."""
    body = json.dumps(recorded["body"]) if "body" in recorded else recorded["text"]
    return Answer(
        status=recorded["status"],
        headers=recorded.get("headers", {}),
        body=body.encode(),
        received_ms=NOW_MS,
    )


def recipients(*addresses: str) -> tuple[EnvelopeRecipient, ...]:
    return tuple(EnvelopeRecipient(n, address) for n, address in enumerate(addresses))


def build_draft(**fields: Any) -> Draft:
    """Return a message that has everything."""
    values = {
        "header_from": Mailbox("ann@example.org", 'Ann "Ä" Müller'),
        "to": (Mailbox("bob@example.org", "Bob"), Mailbox("cleo@example.org")),
        "cc": (Mailbox("dan@example.org", "Dän, Esq."),),
        "reply_to": (Mailbox("help@example.org"),),
        "subject": "Grüße an alle",
        "text": "Hallo Wörld\n",
        "html": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
        "headers": {"X-Ticket": "17", "List-Unsubscribe": "<https://example.org/u?x=1>"},
        "attachments": (
            Attachment(filename="ümlaut.pdf", content_type="application/pdf", content=b"\0PDF"),
            Attachment(
                filename="logo.png",
                content_type="image/png",
                content=b"\x89PNG",
                content_id="logo@example.org",
                is_inline=True,
            ),
        ),
        **fields,
    }
    return Draft(**values)


def build_outgoing(draft: Draft | None = None, *addresses: str, **fields: Any) -> Outgoing:
    """Return *draft* on its way to *addresses*, or to everybody whom it names."""
    draft = draft or build_draft()
    named = [mailbox.address for mailbox in (*draft.to, *draft.cc)]
    number = parse_public(MESSAGE, PUBLIC_ID)
    assert number is not None
    values = {
        "message_id": number,
        "public_id": PUBLIC_ID,
        "attempt": 2,
        "envelope_sender": draft.header_from.address,
        "recipients": recipients(*(addresses or named)),
        "raw": build_raw(draft, message_id_header=MESSAGE_ID_HEADER, date_ms=NOW_MS),
        "needs_smtputf8": False,
        "deadline_boot_ms": 0,
        "tags": ("welcome", "autumn"),
        "metadata": {"order": "17", "a name of more than twenty octets": "x"},
        **fields,
    }
    return Outgoing(**values)
