"""Stored bytes -> the fields of a request that would ask for them again, and for a look."""

import base64
from collections.abc import Iterator, Mapping
from email import message_from_string, policy
from email.header import decode_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import cast

from emailerctl.core.headers import parse_header_name
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import MessageView, RecipientKind

_OURS = frozenset({"auto-submitted"})  # written by default; asking for it again changes nothing


def read_fields(raw: bytes, view: MessageView) -> dict[str, object]:
    """Return the request of product.md §3.1 that *raw* and its envelope came from.

    The blind copies are in the envelope alone.  A key, an expiry and a provider belong to the
    one sending and are left out.
    """
    parsed = message_from_string(raw.decode(), policy=policy.SMTPUTF8)
    fields: dict[str, object] = {
        "from": next(iter(_read_mailboxes(parsed, "From")), view.header_from),
        "to": _read_mailboxes(parsed, "To"),
        "cc": _read_mailboxes(parsed, "Cc"),
        "bcc": [r.address for r in view.recipients if r.kind is RecipientKind.BCC],
        "reply_to": _read_mailboxes(parsed, "Reply-To"),
        "subject": str(parsed["Subject"] or ""),
        "headers": dict(_read_headers(parsed)),
        "tags": list(view.tags),
        "metadata": dict(view.metadata),
        "on_unknown": view.on_unknown.value,
        "attachments": [],
        **_read_body(parsed),
    }
    return {name: value for name, value in fields.items() if value}


def read_content(raw: bytes, view: MessageView) -> dict[str, object]:
    """Return what a message says: subject, text, HTML, every header field, attachments.

    What is not there is null.  Blind copies are in no header: the message has its recipients.
    """
    parsed = message_from_string(raw.decode(), policy=policy.SMTPUTF8)
    body = _read_body(parsed)
    return {
        "id": to_public(MESSAGE, view.message_id),
        "subject": str(parsed["Subject"] or ""),
        "text": body.get("text"),
        "html": body.get("html"),
        "headers": {name: str(value) for name, value in parsed.items()},
        "attachments": body["attachments"],
        "size_bytes": len(raw),
    }


def _read_written(part: EmailMessage, name: str) -> str:
    """Return a field as it was written, unfolded.

    Its parsed form would not do: Python puts a space between the encoded words of a name, and
    quotes around parameters.
    """
    written = (str(value) for key, value in part.raw_items() if key == name)
    return " ".join(next(written, "").split("\r\n "))


def _read_mailboxes(parsed: EmailMessage, name: str) -> list[Mapping[str, str]]:
    return [
        {"email": address, **({"name": _decode(phrase)} if phrase else {})}
        for phrase, address in getaddresses([_read_written(parsed, name)])
        if address
    ]


def _decode(phrase: str) -> str:
    """Return a name whose encoded words (RFC 2047) are read."""
    return "".join(
        part.decode(charset or "ascii") if isinstance(part, bytes) else part
        for part, charset in decode_header(phrase)
    )


def _read_headers(parsed: EmailMessage) -> Iterator[tuple[str, str]]:
    for name, value in parsed.items():
        try:
            parse_header_name(name)
        except ValueError:
            continue  # has a field of its own, or is written by us
        if name.lower() not in _OURS:
            yield name, str(value)


def _read_body(parsed: EmailMessage) -> dict[str, object]:
    """Return text, HTML and attachments: the first part of each kind that is not a file."""
    body: dict[str, object] = {}
    attachments = []
    for part in parsed.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        name = {"text/plain": "text", "text/html": "html"}.get(kind)
        if name and name not in body and part.get_filename() is None:
            content = part.get_payload(decode=True)
            body[name] = cast("bytes", content).decode().replace("\r\n", "\n")
        else:
            attachments.append(_read_attachment(part))
    return body | {"attachments": attachments}


def _read_attachment(part: EmailMessage) -> dict[str, str]:
    content = cast("bytes", part.get_payload(decode=True))
    attachment = {
        "filename": part.get_filename() or "unnamed",
        "content_type": _read_written(part, "Content-Type"),
        "content": base64.b64encode(content).decode(),
        "disposition": part.get_content_disposition() or "attachment",
    }
    content_id = str(part["Content-ID"] or "").strip().strip("<>")
    return attachment | ({"content_id": content_id} if content_id else {})
