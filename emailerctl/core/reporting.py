"""What next hops report later: verified, read, and applied once each (delivery.md §2, F-WI)."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

from emailerctl import log
from emailerctl.errors import NotFound
from emailerctl.models.event import (
    CLICK_REPORTED,
    COMPLAINT_REPORTED,
    DELAY_REPORTED,
    OPEN_REPORTED,
    SUBSCRIBE_REPORTED,
    UNSUBSCRIBE_REPORTED,
)
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.lifecycle import Cause
from emailerctl.models.text import shorten
from emailerctl.providers.base import (
    AsksBack,
    HasSecretPath,
    Malformed,
    NotVerified,
    RejectReason,
    Report,
    ReportKind,
    Reports,
)
from emailerctl.store.base import (
    BOUNCE,
    COMPLAINT,
    UNSUBSCRIBE,
    NewReport,
    Store,
    Taken,
)

_REPLY = 2_000  # characters
_ID = 500
_LATEST_MS = 253_402_300_799_999  # the year 9999
_MATCHED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a kind of report proves, and what it is besides.

    Attributes:
        cause: `resolved_sent` where it shows that a copy went out, whatever came of it.
        event: a type; empty: the step is the event.
        suppresses: a reason; empty: none, or only where the address is dead.
    """

    cause: Cause | None = None
    event: str = ""
    suppresses: str = ""


MEANINGS: Mapping[ReportKind, _Meaning] = {
    ReportKind.QUEUED: _Meaning(Cause.RESOLVED_SENT),
    ReportKind.SENT: _Meaning(Cause.RESOLVED_SENT),
    ReportKind.DEFERRED: _Meaning(Cause.RESOLVED_SENT, DELAY_REPORTED),
    ReportKind.DELIVERED: _Meaning(Cause.DELIVERY_REPORTED),
    ReportKind.BOUNCED: _Meaning(Cause.BOUNCE_REPORTED),
    # Taken, and then not passed on: nobody will get this copy either.
    ReportKind.REJECTED: _Meaning(Cause.BOUNCE_REPORTED),
    ReportKind.COMPLAINED: _Meaning(Cause.RESOLVED_SENT, COMPLAINT_REPORTED, COMPLAINT),
    ReportKind.OPENED: _Meaning(Cause.RESOLVED_SENT, OPEN_REPORTED),
    ReportKind.CLICKED: _Meaning(Cause.RESOLVED_SENT, CLICK_REPORTED),
    ReportKind.UNSUBSCRIBED: _Meaning(Cause.RESOLVED_SENT, UNSUBSCRIBE_REPORTED, UNSUBSCRIBE),
    # Ends no suppression: what somebody asked us for, no third party takes back.
    ReportKind.SUBSCRIBED: _Meaning(None, SUBSCRIBE_REPORTED),
    ReportKind.UNKNOWN: _Meaning(),
}

# The provider refuses whom its own list names: then they belong on ours.
_LISTED: Mapping[RejectReason, str] = {
    RejectReason.SPAM: COMPLAINT,
    RejectReason.UNSUBSCRIBED: UNSUBSCRIBE,
}


class Reporting:
    """What takes reports, whoever brings them: a webhook, a mailbox, a pipe.

    Args:
        readers: who understands the webhooks of which next hop.
    """

    def __init__(
        self, store: Store, readers: Mapping[str, Reports] = MappingProxyType({})
    ) -> None:
        """Take the message log."""
        self._store = store
        self._readers = readers

    def load_reader(self, provider: str) -> Reports:
        """Return who understands the webhooks of a next hop.

        Raises:
            NotFound: there is no such next hop, or it reports nothing.
        """
        reader = self._readers.get(provider)
        if reader is None:
            raise NotFound(f"there is no provider {shorten(provider)} that reports")
        return reader

    async def receive(
        self,
        provider: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        path_secret: str = "",
        now_ms: int,
    ) -> Taken:
        """Take one call of a next hop's webhook.

        What is verified and yet can't be read is kept and logged, and is no fault of the
        caller: it would only repeat itself.

        Args:
            provider: as the path names it.
            headers: by lower-case name.
            body: as it came; signatures are over it.
            path_secret: what the path says after the name.
            now_ms: the wall clock.

        Raises:
            NotFound: nobody of that name reports.
            NotVerified: forged, too old, or signed with another key.
            Unavailable: repeat it later; nothing was taken.
        """
        reader = self.load_reader(provider)
        wanted = reader.path_secret if isinstance(reader, HasSecretPath) else ""
        if not hmac.compare_digest(wanted.encode(), path_secret.encode()):
            raise NotVerified("the secret in its path is missing or wrong")
        if isinstance(reader, AsksBack):
            await reader.prepare(headers, body)
        once = reader.verify(headers, body, now_ms=now_ms)
        if isinstance(reader, AsksBack) and await reader.confirm(body):
            log.log("report.subscription_confirmed", provider=provider)
            return Taken()
        reports: Sequence[Report] = ()
        fault = ""
        try:
            reports = reader.parse(body)
        except Malformed as error:
            fault = str(error) or "malformed"
            log.log("report.malformed", "error", provider=provider, detail=fault)
        return await self.take(
            provider, reports, raw=body, once=once, fault=fault, now_ms=now_ms
        )

    async def take(
        self,
        provider: str,
        reports: Sequence[Report],
        *,
        raw: bytes,
        once: str = "",
        fault: str = "",
        now_ms: int,
    ) -> Taken:
        """Apply verified reports, each once; those about nothing here wait for it (F-WI-03).

        Args:
            provider: the next hop that tells, or who tells for it; event ids are its own.
            reports: what it says.
            raw: as it came; kept for a week.
            once: the signature's token: a second call with it is a replay (F-WI-01).
            fault: why *raw* could not be read: then it is kept all the same.
            now_ms: the wall clock.
        """
        return await self._store.take_reports(
            provider,
            [translate(report) for report in reports],
            raw=raw,
            once=once,
            fault=fault,
            now_ms=now_ms,
        )

    async def match(self, *, now_ms: int) -> int:
        """Try reports again that were about nothing yet; return how many now fitted."""
        return await self._store.match_reports(now_ms=now_ms, limit=_MATCHED_AT_ONCE)


def translate(report: Report) -> NewReport:
    """Say what a report means: its evidence, its event, and whom it suppresses."""
    meaning = MEANINGS[report.kind]
    suppresses = meaning.suppresses
    if meaning.cause is Cause.BOUNCE_REPORTED:
        suppresses = BOUNCE if report.is_hard else ""
        if report.kind is ReportKind.REJECTED and report.reject_reason:
            suppresses = _LISTED.get(report.reject_reason, suppresses)
    data = {"reject_reason": report.reject_reason} if report.reject_reason else {}
    return NewReport(
        event_id=_bound(report.event_id or _identify(report), _ID),
        kind=report.kind,
        at_ms=report.at_ms if 0 <= report.at_ms <= _LATEST_MS else 0,
        recipient=_bound(report.recipient, _ID),
        message_id=parse_public(MESSAGE, report.public_id) if report.public_id else None,
        n=report.n,
        attempt=report.attempt,
        provider_message_id=_bound(report.provider_message_id, _ID),
        cause=meaning.cause,
        event=meaning.event,
        suppresses=suppresses,
        reply=_bound(report.reply, _REPLY),
        data=data,
    )


def _bound(text: str, most: int) -> str:
    """Return text that every store can hold: no endless one, no NUL, no half of a pair."""
    return text[:most].replace("\0", "").encode(errors="replace").decode()


def _identify(report: Report) -> str:
    """Name what its provider did not: the same words are the same report."""
    said = (
        report.kind,
        report.recipient,
        report.at_ms,
        report.public_id,
        report.attempt,
        report.provider_message_id,
        report.reply,
    )
    return blake2b(repr(said).encode(errors="replace"), digest_size=16).hexdigest()
