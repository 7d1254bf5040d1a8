"""A mail that another program wrote -> the fields of a request (product.md §3.1).

Legacy programs submit by SMTP.  Their mail is taken apart and written anew, by the rules of any
other message: what it says arrives, its bytes do not.  Date, Message-ID and trace fields are
ours; recipients of the envelope whom no field names are blind copies.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from email import message_from_bytes, policy
from email.errors import MessageError
from email.message import EmailMessage
from mimetypes import guess_extension
from typing import Any

from emailerctl.core.headers import parse_header_name
from emailerctl.errors import Fault, Invalid
from emailerctl.models.text import shorten

_OURS = "x-emailer-"
_METADATA = f"{_OURS}metadata-"
# What the fields of ours ask for, and how their text is read.
_ASKED: Mapping[str, Callable[[str], object]] = {
    "tags": lambda text: [tag.strip() for tag in text.split(",") if tag.strip()],
    "send-at": str,
    "send-in": str,
    "expires-at": str,
    "expires-in": str,
    "priority": str,
    "provider": str,
    "on-unknown": str,
    "list-unsubscribe": lambda text: True if text == "true" else text,
}
_KEY = "key"
# What the standard library's parser of header fields raises at odd ones (seen in 3.11).
_STUMBLES = (
    *(LookupError, AttributeError, TypeError, ValueError, RecursionError),
    MessageError,
)
_READER = policy.default.clone(raise_on_defect=False)


def read_foreign_mail(
    raw: bytes, *, sender: str, recipients: Sequence[str]
) -> tuple[dict[str, object], str | None]:
    """Return the fields that *raw* and its envelope ask for, and the idempotency key.

    Raises:
        Invalid: a field of ours is unknown, or its header names somebody whom the envelope
            does not: such a mail would be sent to people that nobody asked to send to; or it
            can't be read at all.
    """
    try:
        return _read(raw, sender, recipients)
    except _STUMBLES as error:
        detail = f"can't be read as a mail (RFC 5322): {type(error).__name__}"
        raise Invalid([Fault("", detail)]) from error


def _read(
    raw: bytes, sender: str, recipients: Sequence[str]
) -> tuple[dict[str, object], str | None]:
    parsed: Any = message_from_bytes(raw, policy=_READER)
    faults: list[Fault] = []
    fields: dict[str, object] = dict(_read_asked(parsed, faults))
    key = fields.pop(_KEY, None)
    named = {kind: list(_read_mailboxes(parsed, kind)) for kind in ("To", "Cc")}
    shown = {str(one["email"]).lower() for some in named.values() for one in some}
    envelope = {address.lower(): address for address in recipients}
    faults += [
        Fault("/to", f"{shorten(stranger)} is in To or Cc, and not among the recipients (RCPT)")
        for stranger in sorted(shown - set(envelope))
    ]
    if faults:
        raise Invalid(faults)
    fields |= {
        "from": next(_read_mailboxes(parsed, "From"), {"email": sender}),
        "to": named["To"],
        "cc": named["Cc"],
        "bcc": [address for lower, address in envelope.items() if lower not in shown],
        "reply_to": list(_read_mailboxes(parsed, "Reply-To")),
        "subject": " ".join(str(parsed["Subject"] or "").splitlines()),
        "headers": dict(_read_headers(parsed)),
        **_read_body(parsed),
    }
    return {name: value for name, value in fields.items() if value}, (
        None if key is None else str(key)
    )


def _read_asked(parsed: EmailMessage, faults: list[Fault]) -> Iterator[tuple[str, object]]:
    """Yield what the fields `X-Emailer-…` ask for."""
    metadata: dict[str, str] = {}
    for name, value in parsed.items():
        lower, text = name.lower(), " ".join(str(value).split())
        if not lower.startswith(_OURS):
            continue
        if lower.startswith(_METADATA):
            metadata[lower.removeprefix(_METADATA)] = text
            continue
        asked = lower.removeprefix(_OURS)
        if asked == _KEY:
            yield _KEY, text
        elif asked in _ASKED:
            yield asked.replace("-", "_"), _ASKED[asked](text)
        else:
            known = ", ".join(f"X-Emailer-{one.title()}" for one in (_KEY, *_ASKED))
            faults.append(Fault(f"/{name[:64]}", f"is unknown; there are {known}"))
    yield "metadata", metadata


def _read_mailboxes(parsed: EmailMessage, name: str) -> Iterator[Mapping[str, str]]:
    """Yield the mailboxes of a field; what can't be read as one is left to the validation."""
    for field in parsed.get_all(name, ()):
        addresses: Any = getattr(field, "addresses", ())
        for address in addresses:
            if address.addr_spec not in ("", "<>"):
                shown = " ".join(str(address.display_name).split())
                yield {"email": address.addr_spec} | ({"name": shown} if shown else {})


def _read_headers(parsed: EmailMessage) -> Iterator[tuple[str, str]]:
    """Yield the fields that a sender may set; of several with one name the first."""
    seen: set[str] = set()
    for name, value in parsed.items():
        lower, text = name.lower(), " ".join(str(value).split())
        try:
            parse_header_name(name)
        except ValueError:
            continue  # has a field of its own, or is written by us
        if text and lower not in seen:
            seen.add(lower)
            yield name, text


def _read_body(parsed: EmailMessage) -> dict[str, object]:
    """Return text and HTML, the first of each that is not a file, and everything else."""
    body: dict[str, object] = {}
    files: list[dict[str, str]] = []
    for part in _find_leaves(parsed):
        kind = part.get_content_type()
        name = {"text/plain": "text", "text/html": "html"}.get(kind)
        is_file = part.get_content_disposition() == "attachment" or part.get_filename()
        if name and name not in body and not is_file:
            body[name] = _read_text(part)
        else:
            files.append(_read_file(part, len(files) + 1))
    if not any(body.values()):
        body["text"] = "\n"  # a mail may say nothing; a request may not
    return body | {"attachments": files}


def _find_leaves(part: EmailMessage) -> Iterator[EmailMessage]:
    """Yield the parts that hold something; a mail in a mail is one of them."""
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        inner: Any
        for inner in part.iter_parts():
            yield from _find_leaves(inner)
    else:
        yield part


def _read_text(part: EmailMessage) -> str:
    content: Any = part.get_payload(decode=True) or b""
    charset = part.get_content_charset("utf-8")
    try:
        text = content.decode(charset)
    except (LookupError, UnicodeError):
        text = content.decode("utf-8", "replace")
    return str(text).replace("\r\n", "\n")


def _read_file(part: EmailMessage, number: int) -> dict[str, str]:
    kind = part.get_content_type()
    payload: Any = part.get_payload(decode=True)
    if payload is None:  # message/rfc822
        inner: Any = part.get_payload()
        try:
            payload = b"".join(one.as_bytes(policy=policy.SMTP) for one in inner)
        except (MessageError, UnicodeError, AttributeError):
            payload = b""
    suffix = ".eml" if kind == "message/rfc822" else guess_extension(kind) or ".bin"
    content_id = str(part["Content-ID"] or "").strip().strip("<>")
    return {
        "filename": part.get_filename() or f"part-{number}{suffix}",
        "content_type": kind,
        "content": base64.b64encode(payload).decode(),
        "disposition": "inline" if content_id else "attachment",
    } | ({"content_id": content_id} if content_id else {})
