"""Mail that comes back, read: what it is, what it says of whom, and what it is about.

RFC 3464 and 6533 (delivery status notifications), RFC 5965 and 6591 (complaints, ARF), QSBMF
(qmail), what Exim, Sendmail and others write in words, RFC 3834 (automatic answers), RFC 8098
(receipts).  Nothing here believes anything: `core.bounces` asks for the evidence.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from emailerctl.core.bounce_codes import find_code, find_status, judge
from emailerctl.core.dissect import Fields, Part, dissect, read_blocks, read_fields, to_text
from emailerctl.providers.base import RejectReason, ReportKind


class Sort(StrEnum):
    """What a message is."""

    BOUNCE = "bounce"  # a delivery status notification, or the same in words
    COMPLAINT = "complaint"
    AUTO_REPLY = "auto_reply"
    RECEIPT = "receipt"  # somebody has read it
    OTHER = "other"  # a person's answer, or anything else


class Word(NamedTuple):
    """What is said of one recipient.

    Attributes:
        addresses: the original one first; it may have been forwarded since.
        reply: the status and the words of who refused, on one line, bounded.
    """

    kind: ReportKind
    addresses: tuple[str, ...]
    status: str = ""
    reply: str = ""
    is_hard: bool = False
    reason: RejectReason | None = None


class Returned(NamedTuple):
    """A message that came back.

    Attributes:
        clues: where the id of a return path may stand, the best first.
        message_ids: of what came back, without angle brackets.
    """

    sort: Sort
    words: tuple[Word, ...]
    clues: tuple[str, ...]
    message_ids: tuple[str, ...]


_REPLY_CHARACTERS = 500
_MOST_WORDS = 200
_MOST_CLUES = 400
_QUOTED_TEXT = 8000  # characters of a bounce in words that are read

_STATUS_KINDS = frozenset({"message/delivery-status", "message/global-delivery-status"})
_RETURNED_KINDS = frozenset(
    {
        "message/rfc822",
        "message/global",
        "message/global-headers",
        "text/rfc822-headers",
        "message/rfc822-headers",
        "text/rfc822",
    }
)
# Where mailers write whom they deliver to: Postfix, qmail and Exim, fetchmail, others.
_DELIVERED_TO = (
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "x-delivered-to",
    "x-rcpt-to",
    "to",
)

# RFC 3464 2.3.3.  Relayed and expanded: it has left for where nothing reports back.
_ACTIONS: Mapping[str, ReportKind] = MappingProxyType(
    {
        "failed": ReportKind.BOUNCED,
        "delayed": ReportKind.DEFERRED,
        "delivered": ReportKind.DELIVERED,
        "relayed": ReportKind.SENT,
        "expanded": ReportKind.SENT,
    }
)
_CLASSES = {"5": ReportKind.BOUNCED, "4": ReportKind.DEFERRED, "2": ReportKind.DELIVERED}

# RFC 5965 3.1 and IANA's registry.  A virus, a failed authentication or "not-spam" is nobody's
# complaint about having been written to.
_COMPLAINTS = frozenset({"abuse", "fraud"})

_ADDRESS = r"[^\s<>\",;:()]{1,64}@[^\s<>\",;:()]{1,255}"
_BARE_ADDRESS = re.compile(_ADDRESS)
_ADDRESS_LINE = re.compile(rf"(?m)^[ \t]*<?({_ADDRESS})>?:?[ \t]*$")
_DAEMON = re.compile(
    r"^[^@]*\b(?:mailer-daemon|postmaster|mail-?delivery|mdaemon)\b", re.IGNORECASE
)
_COPY = re.compile(
    r"(?mi)^[- ]*(?:below this line is a copy|this is a copy of|(?:original|unsent) message"
    r"|original message (?:headers )?follow|returned message)[^\n]*$"
)
_NOT_YET = re.compile(
    r"not yet been delivered|has been delayed|will (?:continue|keep|be) (?:to )?(?:try|retr)",
    re.IGNORECASE,
)
_QSBMF = "Hi. This is the"
_AUTO_SUBJECT = re.compile(
    r"(?:automatic reply|auto(?:matic)?[- ]?(?:reply|response)|out of (?:the )?office"
    r"|abwesenheits|automatische antwort|réponse automatique|respuesta automática)",
    re.IGNORECASE,
)
_MESSAGE_ID = re.compile(r"<([^<>\s]{3,300})>")


def read_returned(raw: bytes) -> Returned:
    """Return what *raw*, whole or cut off, is and says."""
    parts = dissect(raw)
    head = parts[0].fields
    status_parts = [part for part in parts if part.kind in _STATUS_KINDS]
    feedback = next((p for p in parts if p.kind == "message/feedback-report"), None)
    inside = [read_fields(p.body)[0] for p in parts[1:] if p.kind in _RETURNED_KINDS]
    sort, about = Sort.OTHER, Fields()
    words: tuple[Word, ...] = ()
    if status_parts:
        sort = Sort.BOUNCE
        blocks = [block for part in status_parts for block in read_blocks(part.body)]
        words = tuple(_read_blocks(blocks))
        about = Fields(field for block in blocks for field in block)
    elif feedback is not None:
        sort = Sort.COMPLAINT
        about = Fields(field for block in read_blocks(feedback.body) for field in block)
        words = (_read_feedback(about),)
    elif any(part.kind == "message/disposition-notification" for part in parts):
        sort = Sort.RECEIPT
    elif _is_from_mailer(head, parts):
        sort = Sort.BOUNCE
        text, copy = _find_text(parts)
        words = tuple(_read_text(head, text))
        inside += [copy] if copy else []
    elif _is_automatic(head):
        sort = Sort.AUTO_REPLY
    return Returned(
        sort, words[:_MOST_WORDS], _find_clues(head, about, inside), _find_ids(head, inside)
    )


# Where our id may stand


def _find_clues(head: Fields, about: Fields, inside: Sequence[Fields]) -> tuple[str, ...]:
    """Return what may hold the id, in the order in which it is believed."""
    clues = [value for name in _DELIVERED_TO for value in head.find_all(name)]
    clues += [value for _name, value in about]
    clues += [value for fields in inside for _name, value in fields]
    return tuple(clues[:_MOST_CLUES])


def _find_ids(head: Fields, inside: Sequence[Fields]) -> tuple[str, ...]:
    """Return the Message-IDs of what came back; those that it answers where it is not there."""
    values = [value for fields in inside for value in fields.find_all("message-id")]
    values += [*head.find_all("in-reply-to"), *head.find_all("references")]
    found = (match for value in values for match in _MESSAGE_ID.findall(value))
    return tuple(dict.fromkeys(found))[:_MOST_WORDS]


# RFC 3464


def _read_blocks(blocks: Sequence[Fields]) -> Iterator[Word]:
    for block in blocks:
        addresses = [
            address
            for name in ("original-recipient", "final-recipient")
            if (address := _read_typed_address(block.find(name)))
        ]
        if addresses or block.find("action"):
            yield _read_block(block, tuple(dict.fromkeys(addresses)))


def _read_block(block: Fields, addresses: tuple[str, ...]) -> Word:
    status = find_status(block.find("status"))
    diagnostic = block.find("diagnostic-code")
    action = block.find("action").lower().partition(" ")[0].partition(";")[0]
    kind = _ACTIONS.get(action)
    if kind is None:  # not said, or not in a word of the RFC
        kind = _CLASSES.get(status[:1], ReportKind.UNKNOWN)
    said = diagnostic.partition(";")[2].strip() or diagnostic
    return _build_word(kind, addresses, status, said)


def _read_typed_address(value: str) -> str:
    """Return the address of `rfc822; ann@example.org`."""
    _type, _, address = value.rpartition(";")
    return _clean_address(address)


def _clean_address(text: str) -> str:
    match = _BARE_ADDRESS.search(text)
    return match[0] if match else ""


def _build_word(
    kind: ReportKind, addresses: tuple[str, ...], status: str, diagnostic: str
) -> Word:
    said = " ".join(diagnostic.split())
    if kind is not ReportKind.BOUNCED:
        reply = said if status in said else f"{status} {said}".strip()
        return Word(kind, addresses, status, reply[:_REPLY_CHARACTERS])
    verdict = judge(status, said)
    reply = said if verdict.status in said else f"{verdict.status} {said}".strip()
    return Word(
        kind,
        addresses,
        verdict.status,
        reply[:_REPLY_CHARACTERS],
        verdict.is_hard,
        verdict.reason,
    )


# RFC 5965


def _read_feedback(about: Fields) -> Word:
    """Return what a complaint says; a reporter often keeps back who complains."""
    kind = about.find("feedback-type").lower().partition(";")[0].strip()
    addresses = [_clean_address(value) for value in about.find_all("original-rcpt-to")]
    is_complaint = kind in _COMPLAINTS
    return Word(
        ReportKind.COMPLAINED if is_complaint else ReportKind.UNKNOWN,
        tuple(dict.fromkeys(filter(None, addresses))),
        reply=f"feedback-type {kind or 'missing'}"[:_REPLY_CHARACTERS],
        reason=RejectReason.SPAM if is_complaint else None,
    )


# Bounces in words


def _is_from_mailer(head: Fields, parts: Sequence[Part]) -> bool:
    if head.find("x-failed-recipients"):
        return True
    if _DAEMON.search(_clean_address(head.find("from")) or head.find("from")):
        return True
    return to_text(parts[0].body[:100]).lstrip().startswith(_QSBMF)


def _find_text(parts: Sequence[Part]) -> tuple[str, Fields | None]:
    """Return the words, and the header of the copy that stands below them."""
    text = next((to_text(p.body) for p in parts if p.kind == "text/plain"), "")
    text = text.replace("\r\n", "\n")
    match = _COPY.search(text)
    if match is None:
        return text[:_QUOTED_TEXT], None
    copy, _ = read_fields(text[match.end() :].lstrip("\n").encode())
    return text[: match.start()][:_QUOTED_TEXT], copy


def _read_text(head: Fields, text: str) -> Iterator[Word]:
    """Yield what a mailer says in words: a line for the address, then why."""
    named = [
        match
        for value in head.find_all("x-failed-recipients")
        for match in _BARE_ADDRESS.findall(value)
    ]
    is_final = bool(named) or text.lstrip().startswith(_QSBMF)
    lines = [(match[1], match.end()) for match in _ADDRESS_LINE.finditer(text)]
    about = {address.lower(): _find_paragraph(text, end) for address, end in reversed(lines)}
    for address in dict.fromkeys([*named, *(address for address, _end in lines)]):
        reason = about.get(address.lower(), "")
        if not (find_status(reason) or find_code(reason)):
            reason = f"{reason} {_find_reason(text)}".strip()
        kind = _find_kind(text, reason, is_final=is_final)
        yield _build_word(kind, (address,), find_status(reason), reason)


def _find_paragraph(text: str, start: int) -> str:
    """Return what follows until the next blank line."""
    return text[start:].lstrip("\n").partition("\n\n")[0]


def _find_reason(text: str) -> str:
    """Return the first line that has a code in it."""
    lines = (line.lstrip("<> ") for line in text.split("\n"))
    return next((line for line in lines if find_status(line) or find_code(line)), "")


def _find_kind(text: str, reason: str, *, is_final: bool) -> ReportKind:
    if _NOT_YET.search(text):
        return ReportKind.DEFERRED
    says_never = find_status(reason).startswith("5") or find_code(reason).startswith("5")
    return ReportKind.BOUNCED if is_final or says_never else ReportKind.UNKNOWN


# RFC 3834


def _is_automatic(head: Fields) -> bool:
    """Say whether a program answers for somebody who may well get the mail."""
    submitted = head.find("auto-submitted").lower()
    if submitted.startswith("auto-"):
        return True
    if head.find("precedence").lower() == "auto_reply":
        return True
    if any(name in {"x-autoreply", "x-autorespond", "x-auto-reply"} for name, _ in head):
        return True
    return _AUTO_SUBJECT.search(head.find("subject")) is not None
