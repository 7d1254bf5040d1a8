"""A whole mail, as a program hands it to sendmail, to the fields of a request.

What the request has no word for is refused rather than mangled: a signed or encrypted
structure would not survive.  Date and Message-ID are ours; trace fields are those of the hosts
on the way.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.utils import getaddresses
from hashlib import sha256
from typing import Any

from emailerctl.core.headers import parse_header_name
from emailerctl.errors import BadRequest

KEY, TAGS = "x-emailer-key", "x-emailer-tags"
_KINDS = ("to", "cc", "bcc")
_NOT_FOR_US = re.compile(
    r"multipart/(signed|encrypted|report)|application/(x-)?pkcs7-mime", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What was said beside the mail itself.

    Attributes:
        recipients: the arguments.
        reads_headers: `-t`: those of To, Cc and Bcc are recipients too.
        sender: `-f`, where the mail names no From.
        full_name: `-F`, for such a sender.
        domain: of a name without one: `root`.
        aliases: a name without a domain to the address that is meant.
    """

    recipients: Sequence[str] = ()
    reads_headers: bool = False
    sender: str = ""
    full_name: str = ""
    domain: str = ""
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mail:
    """A request, and its idempotency key; None: another copy is another message."""

    fields: dict[str, object]
    key: str | None


def read_mail(raw: bytes, envelope: Envelope) -> Mail:
    """Return the request that *raw* is.

    A mail with a Message-ID is the same mail whenever it comes again to the same recipients,
    as from a caller that was told to try later: it is sent once.  One without is a mail of its
    own each time: two equal reports of a cron job are two.  `X-Emailer-Key` says it outright.

    Raises:
        BadRequest: it can't be read, or is of a kind that would be mangled.
    """
    try:
        parsed = message_from_bytes(raw, policy=policy.compat32)
        return _read(parsed, envelope)
    except (MessageError, ValueError, LookupError, RecursionError) as error:
        raise BadRequest(f"this is no mail that can be read: {error}") from error


def _read(parsed: "Message[str, str]", envelope: Envelope) -> Mail:
    named = {kind: _read_mailboxes(parsed, kind, envelope) for kind in _KINDS}
    if parsed.is_multipart() or not parsed.get_content_type().startswith("text/"):
        for part in parsed.walk():
            if _NOT_FOR_US.fullmatch(part.get_content_type()):
                raise BadRequest(
                    f"a part of type {part.get_content_type()} would not survive",
                    hint="send it by SMTP to the next hop itself",
                )
    sent_to = _choose_recipients(named, envelope)
    own = next(iter(_read_mailboxes(parsed, "from", envelope)), None)
    if own is None and envelope.sender:
        own = {"email": _qualify(envelope.sender, envelope), "name": envelope.full_name}
    fields: dict[str, object] = {
        "from": own,
        **sent_to,
        "reply_to": _read_mailboxes(parsed, "reply-to", envelope),
        "subject": " ".join(_find(parsed, "subject").split()),
        "headers": dict(_read_headers(parsed)),
        "tags": _find(parsed, TAGS).replace(",", " ").split(),
        **_read_body(parsed),
    }
    kept = {name: value for name, value in fields.items() if value}
    kept.setdefault("text", "") if "html" not in kept else None
    return Mail(kept, _build_key(parsed, sent_to))


def _build_key(parsed: "Message[str, str]", sent_to: Mapping[str, object]) -> str | None:
    said = _find(parsed, KEY)
    if said:
        return said
    message_id = _find(parsed, "message-id").strip()
    if not message_id:
        return None
    whom = sorted(str(one) for boxes in sent_to.values() for one in boxes)  # type: ignore[attr-defined]
    return f"sendmail-{sha256(repr((message_id, whom)).encode()).hexdigest()[:40]}"


def _choose_recipients(
    named: Mapping[str, list[dict[str, str]]], envelope: Envelope
) -> dict[str, list[dict[str, str]]]:
    """Return who gets it: of the fields with `-t`, and the arguments in any case.

    An argument that is in a field too stays there; another one is a blind copy.
    """
    wanted = [{"email": _qualify(one, envelope)} for one in envelope.recipients]
    asked = {one["email"].lower() for one in wanted}
    chosen: dict[str, list[dict[str, str]]] = {}
    for kind in _KINDS:
        chosen[kind] = [
            one
            for one in named[kind]
            if envelope.reads_headers or one["email"].lower() in asked
        ]
    there = {one["email"].lower() for boxes in chosen.values() for one in boxes}
    chosen["bcc"] += [one for one in wanted if one["email"].lower() not in there]
    return chosen


def _qualify(name: str, envelope: Envelope) -> str:
    """Return an address: an alias's where there is one, else the domain is put after it."""
    local = name.strip().strip("<>")
    if "@" in local:
        return local
    return envelope.aliases.get(local) or f"{local}@{envelope.domain}"


def _read_mailboxes(
    parsed: "Message[str, str]", name: str, envelope: Envelope
) -> list[dict[str, str]]:
    values = [_to_text(value) for key, value in parsed.items() if key.lower() == name]
    return [
        {"email": _qualify(address, envelope), **({"name": _decode(said)} if said else {})}
        for said, address in getaddresses(values)
        if address
    ]


def _find(parsed: "Message[str, str]", name: str) -> str:
    found = (value for key, value in parsed.items() if key.lower() == name)
    return _decode(_to_text(next(found, "")))


def _to_text(value: Any) -> str:
    """Return a field as it stands, on one line; octets beyond ASCII are UTF-8, or nothing."""
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(text.replace("\r", "").split("\n")).strip()


def _decode(text: str) -> str:
    """Read encoded words (RFC 2047); what is none stays."""
    try:
        pieces = decode_header(text)
        return "".join(
            piece.decode(charset or "ascii", "replace") if isinstance(piece, bytes) else piece
            for piece, charset in pieces
        )
    except (LookupError, ValueError, MessageError):
        return text


def _read_headers(parsed: "Message[str, str]") -> Iterator[tuple[str, str]]:
    for name, value in parsed.items():
        try:
            parse_header_name(name)
        except ValueError:
            continue  # has a field of its own, or is written by us or on the way
        text = _decode(_to_text(value))
        if text:
            yield name, text


def _read_body(parsed: "Message[str, str]") -> dict[str, object]:
    """Return text, HTML and attachments: the first part of each kind that is not a file."""
    body: dict[str, object] = {}
    attachments: list[dict[str, str]] = []
    waiting: list[Message[str, str]] = [parsed]
    while waiting:
        part = waiting.pop(0)
        kind = part.get_content_type()
        if part.is_multipart() and not kind.startswith("message/"):
            waiting[:0] = [one for one in part.get_payload() if isinstance(one, Message)]
            continue
        name = {"text/plain": "text", "text/html": "html"}.get(kind)
        is_file = part.get_filename() or part.get_content_disposition() == "attachment"
        if name and name not in body and not is_file:
            body[name] = _read_text(part)
        else:
            attachments.append(_read_attachment(part, kind))
    return body | {"attachments": attachments}


def _read_octets(part: "Message[str, str]") -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):  # a mail inside the mail
        return b"".join(inner.as_bytes() for inner in payload if isinstance(inner, Message))
    octets = part.get_payload(decode=True)
    return octets if isinstance(octets, bytes) else b""


def _read_text(part: "Message[str, str]") -> str:
    octets = _read_octets(part)
    charset = part.get_content_charset() or "utf-8"
    try:
        text = octets.decode("utf-8" if charset == "us-ascii" else charset)
    except (LookupError, UnicodeDecodeError):
        text = octets.decode("latin-1")
    return text.replace("\r\n", "\n")


def _read_attachment(part: "Message[str, str]", kind: str) -> dict[str, str]:
    found = {
        "filename": _decode(part.get_filename() or ""),
        "content": base64.b64encode(_read_octets(part)).decode(),
        "content_type": "application/octet-stream" if kind.startswith("message/") else kind,
    }
    if not found["filename"]:
        found["filename"] = "message.eml" if kind.startswith("message/") else "unnamed"
    content_id = str(part["Content-ID"] or "").strip().strip("<>")
    if content_id and part.get_content_disposition() != "attachment":
        found |= {"content_id": content_id, "disposition": "inline"}
    return found
