"""A stored message taken apart, for providers that write it themselves.

The blob is what was accepted (delivery.md §5), so what they get is read from it and from it
alone.  Whatever `core.mime` builds comes back as it went in, but for the line ends of text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses

from emailerctl.models.message import Attachment, EnvelopeRecipient, Mailbox
from emailerctl.providers.base import Outgoing, Traits

_FOLD = re.compile(r"\r?\n(?=[ \t])")

# What has a field of its own at every provider, or is written by whoever builds the message.
_OURS = frozenset(
    {"date", "from", "to", "cc", "reply-to", "subject", "message-id", "mime-version"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a message says.

    Attributes:
        message_id_header: with its angle brackets.
        headers: those that the caller set, in their order, decoded and unfolded.
        text, html: with LF line ends.
        attachments: `content_id` and `is_inline` for those that the HTML shows.
    """

    header_from: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    message_id_header: str
    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]

    def find_traits(self, outgoing: Outgoing) -> Traits:
        """Return what it asks of whoever carries it."""
        return Traits(
            recipients=len(outgoing.recipients),
            size_bytes=len(outgoing.raw),
            files=tuple(file.filename for file in self.attachments),
            has_inline=any(file.content_id for file in self.attachments),
            headers=tuple(name for name, _ in self.headers),
            utf8_headers=tuple(name for name, value in self.headers if not value.isascii()),
            reply_to=len(self.reply_to),
            needs_smtputf8=outgoing.needs_smtputf8,
            tags=outgoing.tags,
            metadata=outgoing.metadata,
        )


def parse_content(raw: bytes) -> Content:
    """Take a message apart that `core.mime` built: 7 bits, or UTF-8 in addresses."""
    message: EmailMessage = message_from_string(raw.decode(), policy=policy.default)
    text: str | None = None
    html: str | None = None
    attachments: list[Attachment] = []
    for part in message.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        is_file = part.get_content_disposition() is not None
        if kind == "text/plain" and text is None and not is_file:
            text = _read_text(part)
        elif kind == "text/html" and html is None and not is_file:
            html = _read_text(part)
        else:
            attachments.append(_read_file(part))
    return Content(
        header_from=next(iter(_read_mailboxes(message, "From"))),
        to=tuple(_read_mailboxes(message, "To")),
        cc=tuple(_read_mailboxes(message, "Cc")),
        reply_to=tuple(_read_mailboxes(message, "Reply-To")),
        subject=str(message["Subject"] or ""),
        message_id_header=str(message["Message-ID"] or ""),
        headers=tuple(
            (name, str(value))
            for name, value in message.items()
            if name.lower() not in _OURS and not name.lower().startswith("content-")
        ),
        text=text,
        html=html,
        attachments=tuple(attachments),
    )


def _read_text(part: EmailMessage) -> str:
    return _decode(part).decode("utf-8", "replace").replace("\r\n", "\n")


def _decode(part: EmailMessage) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _read_file(part: EmailMessage) -> Attachment:
    return Attachment(
        filename=part.get_filename() or "",
        content_type=str(part["Content-Type"]),
        content=_decode(part),
        content_id=str(part["Content-ID"] or "").strip().strip("<>"),
        is_inline=part.get_content_disposition() == "inline",
    )


def _read_mailboxes(message: EmailMessage, name: str) -> Iterable[Mailbox]:
    """Read an address field from its raw text.

    The standard library's own reading of it keeps the spaces between two encoded words, which
    stand for nothing (RFC 2047 6.2).
    """
    for field, value in message.raw_items():
        if field.lower() == name.lower():
            unfolded = _FOLD.sub("", value)
            for written, addr_spec in getaddresses([unfolded]):
                yield Mailbox(addr_spec, str(make_header(decode_header(written))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """Who is named where.

    Attributes:
        to: never empty, unless the provider has an envelope apart from the header.
        carried: the recipients that are named.
        later: blind copies that would see each other in To: another attempt, at once.
    """

    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    carried: tuple[EnvelopeRecipient, ...]
    later: tuple[EnvelopeRecipient, ...]


def address(content: Content, recipients: tuple[EnvelopeRecipient, ...]) -> Addressed:
    """Name *recipients*, and nobody else, where the message names them.

    A retry is for some of them; whoever has the message already must not get it again.  Where
    nobody of To is left, those of Cc take the place, or one blind copy does.
    """
    named = {_fold(mailbox.address): ("cc", mailbox) for mailbox in content.cc}
    named |= {_fold(mailbox.address): ("to", mailbox) for mailbox in content.to}
    places: dict[str, list[Mailbox]] = {"to": [], "cc": [], "bcc": []}
    for recipient in recipients:
        place, mailbox = named.get(_fold(recipient.address), ("bcc", Mailbox("")))
        places[place].append(Mailbox(recipient.address, mailbox.name))
    to, cc, bcc = places["to"], places["cc"], places["bcc"]
    later: tuple[EnvelopeRecipient, ...] = ()
    if not to and cc:
        to, cc = cc, []
    elif not to:
        to, bcc, later = bcc[:1], [], recipients[1:]
    return Addressed(
        to=tuple(to),
        cc=tuple(cc),
        bcc=tuple(bcc),
        carried=tuple(recipient for recipient in recipients if recipient not in later),
        later=later,
    )


def address_all(content: Content, recipients: tuple[EnvelopeRecipient, ...]) -> Addressed:
    """Name everybody as the message does, whomever it is for: the envelope is apart."""
    named = {_fold(mailbox.address) for mailbox in (*content.to, *content.cc)}
    blind = (r.address for r in recipients if _fold(r.address) not in named)
    return Addressed(
        to=content.to,
        cc=content.cc,
        bcc=tuple(map(Mailbox, blind)),
        carried=recipients,
        later=(),
    )


def _fold(address: str) -> str:
    return address.casefold()


def write_mailbox(mailbox: Mailbox) -> str:
    """Return `"Name" <address>` (RFC 5322 3.4), the name quoted, outside ASCII as it is."""
    if not mailbox.name:
        return mailbox.address
    name = mailbox.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}" <{mailbox.address}>'
