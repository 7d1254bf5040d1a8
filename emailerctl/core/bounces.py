"""Mail that came back to what it means for our recipients: evidence first, then reports.

A bounce counts only with proof that it is about a copy of ours: the signed id of its return
path (`models.verp`), or the Message-ID of a message that we sent to the address it names.
Anything else is kept as `unknown`: whoever can write to the bounce address could otherwise
suppress any customer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from emailerctl.core.dissect import LARGEST, read_fields
from emailerctl.core.reporting import Reporting
from emailerctl.core.returned import Returned, Sort, Word, read_returned
from emailerctl.models.ids import MESSAGE, parse_public, to_public
from emailerctl.models.message import MessageView, RecipientView
from emailerctl.models.verp import ReturnId, Signer, find_ids
from emailerctl.providers.base import Report, ReportKind
from emailerctl.store.base import Store

BY_MAIL = "mail"  # who tells: nobody knows by which of our next hops it learnt of it
_RAW_KEPT = 64 * 1024  # octets
_ID_AT_MOST = 40  # characters of a public id; a longer one is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of one message that came back.

    Attributes:
        sort: what it was.
        public_id: the message of ours that it is about; empty: none.
        reports: what it said, as it counts.
        repeated: how many of them had been told before.
        is_forged: it bears an id that we have not signed, and nothing else that proves it.
    """

    sort: Sort
    public_id: str = ""
    reports: tuple[Report, ...] = ()
    repeated: int = 0
    is_forged: bool = False


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Which message of ours it is about.

    Attributes:
        is_signed: by the return path; else the Message-ID says so, which more people know.
    """

    view: MessageView
    n: int | None
    attempt: int | None
    is_signed: bool


class Bounces:
    """What takes mail that came back: from a mailbox or a pipe, each word of it once."""

    def __init__(self, store: Store, reporting: Reporting, signer: Signer) -> None:
        """Take the message log, what applies reports, and what knows our return paths."""
        self._store = store
        self._reporting = reporting
        self._signer = signer

    async def take(self, raw: bytes, *, delivered_to: str = "", now_ms: int) -> Received:
        """Read a message and let it have its effect; taken twice it has it once.

        Args:
            raw: as received; what is beyond `dissect.LARGEST` is not read.
            delivered_to: the address that it came to, where the mailer says so.
            now_ms: the wall clock.

        Raises:
            Unavailable: the store can't take it now; nothing was applied.
        """
        raw = raw[:LARGEST]
        returned = read_returned(raw)
        if returned.sort not in {Sort.BOUNCE, Sort.COMPLAINT}:
            return Received(sort=returned.sort)
        evidence, is_forged = await self._find_evidence(returned, delivered_to)
        reports = build_reports(returned.words, evidence, event_id=_identify(raw))
        taken = await self._reporting.take(
            BY_MAIL,
            reports,
            raw=raw[:_RAW_KEPT],
            fault="" if reports else "a bounce that says of nobody what became of the mail",
            now_ms=now_ms,
        )
        return Received(
            sort=returned.sort,
            public_id=to_public(MESSAGE, evidence.view.message_id) if evidence else "",
            reports=tuple(reports),
            repeated=taken.repeated,
            is_forged=is_forged,
        )

    async def _find_evidence(
        self, returned: Returned, delivered_to: str
    ) -> tuple[_Evidence | None, bool]:
        """Return what proves the message of ours, and whether an id is not from us."""
        is_forged = False
        for clue in (delivered_to, *returned.clues):
            for text in find_ids(clue):
                signed = self._signer.verify(text)
                if signed is None:
                    is_forged = True
                    continue
                view = await self._store.find_message(signed.message_id)
                if view is None:  # retention has removed it
                    return None, False
                return _Evidence(view, *_read_id(signed, view), is_signed=True), False
        for message_id in returned.message_ids:
            public_id, _, domain = message_id.rpartition("@")
            number = parse_public(MESSAGE, public_id) if len(public_id) < _ID_AT_MOST else None
            view = None if number is None else await self._store.find_message(number)
            if view is not None and domain.lower() == view.header_from.rpartition("@")[2]:
                return _Evidence(view, None, None, is_signed=False), False
        return None, is_forged


def _read_id(signed: ReturnId, view: MessageView) -> tuple[int | None, int | None]:
    """Return the recipient's number, and the attempt."""
    numbers = {recipient.n for recipient in view.recipients}
    n = signed.n if signed.n in numbers else None
    return n, signed.attempt


def build_reports(
    words: Sequence[Word], evidence: _Evidence | None, *, event_id: str
) -> list[Report]:
    """Return what *words* mean with that evidence: without any, nothing but that they came."""
    reports = []
    for number, word in enumerate(words, 1):
        recipient = None if evidence is None else _find_recipient(word, evidence)
        report = Report(
            kind=word.kind,
            event_id=f"{event_id}.{number}",
            reject_reason=word.reason,
            is_hard=word.is_hard,
            reply=word.reply,
        )
        if evidence is None or recipient is None:
            claimed = next(iter(word.addresses), "")
            report = replace(
                report,
                kind=ReportKind.UNKNOWN,
                recipient=claimed,
                is_hard=False,
                reply=f"not proven: {word.kind} {word.reply}".strip(),
            )
        else:
            report = replace(
                report,
                recipient=recipient.address,
                public_id=to_public(MESSAGE, evidence.view.message_id),
                n=recipient.n,
                attempt=evidence.attempt,
                # It was forwarded to several, of whom one is gone: the address itself lives.
                is_hard=word.is_hard and (len(words) == 1 or _names(word, recipient)),
            )
        reports.append(report)
    return reports


def _find_recipient(word: Word, evidence: _Evidence) -> RecipientView | None:
    """Return whose copy is meant; None where that is not proven."""
    recipients = evidence.view.recipients
    if evidence.n is not None:
        return next(recipient for recipient in recipients if recipient.n == evidence.n)
    named = next((one for one in recipients if _names(word, one)), None)
    if named is not None or len(recipients) > 1:
        return named
    # To nobody else: under another address where it was forwarded, or without any where whoever
    # complains is kept back.
    is_kept_back = word.kind is ReportKind.COMPLAINED and not word.addresses
    return recipients[0] if evidence.is_signed or is_kept_back else None


def _names(word: Word, recipient: RecipientView) -> bool:
    """Say whether *word* is about that address; mailers change the case of local parts."""
    wanted = recipient.address.casefold()
    return any(address.casefold() == wanted for address in word.addresses)


def _identify(raw: bytes) -> str:
    """Name a message: the same whatever way it came, since its trace fields don't count."""
    head, body = read_fields(raw)
    return sha256(head.find("message-id").encode() + b"\n" + body).hexdigest()[:32]
