"""What a message, an attempt, a token … looks like in JSON (product.md §3.2, §3.3).

Written once: the API's answers and the command line's `-o json` are these, and nothing else.
Moments are RFC 3339; what does not apply is null, so that every object has all its members.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from emailerctl.core.answers import (
    AttemptShape,
    BreakerShape,
    FindingShape,
    MessageShape,
    NewRecipientShape,
    NextHopShape,
    OrderShape,
    PauseShape,
    PublicationShape,
    QueueShape,
    RateShape,
    ReceiptShape,
    RecipientShape,
    RenderedShape,
    StoredTemplateShape,
    SuppressionShape,
    TakenShape,
    TemplateShape,
    UnknownShape,
)
from emailerctl.core.bounces import Received
from emailerctl.core.hop_view import HopView
from emailerctl.errors import EmailerError
from emailerctl.models.clock import to_text
from emailerctl.models.ids import INBOX, MESSAGE, TOKEN, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.message import AttemptView, MessageView, Receipt, RecipientView
from emailerctl.models.page import Page
from emailerctl.store.base import (
    Alert,
    Breach,
    Breaker,
    BreakerState,
    Consumer,
    DeedView,
    InboxJob,
    OrderResult,
    Pause,
    QueueStats,
    StoredTemplate,
    Suppression,
    Taken,
    TemplateVersion,
    Token,
    Unknown,
)
from emailerctl.templates.base import Finding, Rendered, decode_head

if TYPE_CHECKING:
    from emailerctl.core.accept import Prepared
    from emailerctl.core.explain import Explanation, Said
    from emailerctl.core.outlook import Outlook
    from emailerctl.core.templates import Publication

Shape = dict[str, object]
Item = TypeVar("Item")


def page_shape(page: Page[Item], of_one: Callable[[Item], Mapping[str, object]]) -> Shape:
    """Return a listing: `{"data", "next_cursor"}`."""
    return listing_shape(map(of_one, page.data), page.next_cursor)


def listing_shape(
    data: Iterable[Mapping[str, object]], next_cursor: str | None = None
) -> Shape:
    """Return a listing of what has its shape already."""
    return {"data": list(data), "next_cursor": next_cursor}


def template_shape(one: TemplateVersion) -> TemplateShape:
    """Return a version of a template, as listings have it."""
    head = decode_head(one.head)
    return {
        "name": one.name,
        "version": one.version,
        "current": one.is_current,
        "published_at": to_text(one.published_ms),
        "actor": one.actor,
        "locale": head.locale if head.variants else None,
        "locales": [locale for locale in head.variants if locale],
        "variables": list(head.schema.get("properties", {})),
    }


def stored_template_shape(stored: StoredTemplate) -> StoredTemplateShape:
    """Return a version of a template with its files and what it wants."""
    head = decode_head(stored.bundle)
    return {
        "name": stored.name,
        "version": stored.version,
        "locale": head.locale if head.variants else None,
        "locales": [locale for locale in head.variants if locale],
        "schema": head.schema,
        "sensitive": head.sensitive,
        "examples": {n: v for n, v in head.examples.items() if n not in head.sensitive},
        "shared": list(stored.uses),
        "files": dict(stored.files),
    }


def publication_shape(publication: "Publication") -> PublicationShape:
    """Return what publishing did."""
    return {
        "published": [
            {"name": name, "version": version}
            for name, version in publication.published.items()
        ],
        "unchanged": list(publication.unchanged),
        "removed": list(publication.removed),
        "findings": [
            finding_shape(name, one)
            for name, found in publication.findings.items()
            for one in found
        ],
    }


def finding_shape(name: str, finding: Finding) -> FindingShape:
    """Return what was noticed in a template."""
    return {
        "template": name,
        "level": finding.level,
        "code": finding.code,
        "file": finding.file,
        "line": finding.line or None,
        "detail": finding.detail,
    }


def rendered_shape(stored: StoredTemplate, rendered: Rendered) -> RenderedShape:
    """Return a rendered template."""
    return {
        "name": stored.name,
        "version": stored.version,
        "subject": rendered.subject,
        "text": rendered.text,
        "html": rendered.html or None,
    }


def receipt_shape(receipt: Receipt) -> ReceiptShape:
    """Return what acceptance answers."""
    return {
        "id": to_public(MESSAGE, receipt.message_id),
        "state": receipt.state,
        "created_at": to_text(receipt.created_ms),
        "on_unknown": receipt.on_unknown,
        "test": receipt.is_test,
        "recipients": list(map(_new_recipient_shape, receipt.recipients)),
        "warnings": [{"code": w.code, "detail": w.detail} for w in receipt.warnings],
    }


def _new_recipient_shape(recipient: RecipientView) -> NewRecipientShape:
    shape: NewRecipientShape = {
        "address": recipient.address,
        "kind": recipient.kind,
        "state": recipient.state,
    }
    if recipient.reason:
        shape["reason"] = recipient.reason
    return shape


def rehearsal_shape(receipt: Receipt, prepared: "Prepared | None") -> Shape:
    """Return what would come of a message; id null: none was made.

    With a key that is known it would be a replay, and says of what.
    """
    shape: Shape = {**receipt_shape(receipt)}
    if prepared is None:
        return shape | {"dry_run": True, "idempotent_replayed": True}
    message = prepared.message
    return shape | {
        "id": None,
        "dry_run": True,
        "idempotent_replayed": False,
        "due_at": to_text(message.due_ms),
        "expires_at": _moment(message.expires_ms),
        "priority": message.priority.name.lower(),
        "size_bytes": len(message.raw),
        "envelope_sender": message.envelope_sender,
        "route": {"chain": list(prepared.route.chain), "why": prepared.route.reason},
    }


def batch_shape(answers: Iterable[Receipt | EmailerError], *, is_dry: bool) -> Shape:
    """Return what became of the messages of a batch, in its order."""
    data = [
        error_shape(answer)
        if isinstance(answer, EmailerError)
        else _accepted_shape(answer, is_dry=is_dry)
        for answer in answers
    ]
    return {"data": data} | ({"dry_run": True} if is_dry else {})


def _accepted_shape(receipt: Receipt, *, is_dry: bool) -> Shape:
    is_new = not receipt.is_replay
    return {
        "status": 202,
        "id": None if is_dry and is_new else to_public(MESSAGE, receipt.message_id),
        "state": receipt.state,
        "idempotent_replayed": receipt.is_replay,
        "warnings": [{"code": w.code, "detail": w.detail} for w in receipt.warnings],
    }


def message_shape(view: MessageView, *, with_attempts: bool = True) -> MessageShape:
    """Return a message; listings leave the attempts out."""
    counts = Counter(recipient.state for recipient in view.recipients)
    shape: MessageShape = {
        "id": to_public(MESSAGE, view.message_id),
        "state": view.state,
        "created_at": to_text(view.created_ms),
        "expires_at": _moment(view.expires_ms),
        "on_unknown": view.on_unknown,
        "test": view.is_test,
        "service": view.service,
        "token_id": to_public(TOKEN, view.token_id) if view.token_id else None,
        "from": view.header_from,
        "envelope_sender": view.envelope_sender,
        "subject": view.subject,
        "tags": list(view.tags),
        "metadata": dict(view.metadata),
        "priority": view.priority.name.lower(),
        "provider": view.provider or None,
        "template": view.template or None,
        "template_version": view.template_version or None,
        "size_bytes": view.size_bytes,
        "content_hash": view.content_hash.hex(),
        "has_content": view.has_content,
        "counts": {state: counts[state] for state in State if counts[state]},
        "recipients": [recipient_shape(recipient) for recipient in view.recipients],
    }
    if with_attempts:
        shape["attempts"] = [attempt_shape(attempt) for attempt in view.attempts]
    return shape


def recipient_shape(recipient: RecipientView) -> RecipientShape:
    """Return a recipient as it stands."""
    return {
        "address": recipient.address,
        "kind": recipient.kind,
        "state": recipient.state,
        "waiting_for": recipient.waiting_for,
        "reason": recipient.reason,
        "due_at": _moment(recipient.due_ms),
        "provider": recipient.provider or None,
        "reply": recipient.reply or None,
        "attempt": recipient.attempt,
        "changed_at": to_text(recipient.changed_ms),
    }


def attempt_shape(attempt: AttemptView) -> AttemptShape:
    """Return one attempt as recorded."""
    return {
        "n": attempt.n,
        "provider": attempt.provider,
        "route": attempt.route or None,
        "phase": attempt.phase,
        "outcome": attempt.outcome,
        "code": attempt.code,
        "enhanced_status": attempt.enhanced_status or None,
        "reply": attempt.reply or None,
        "started_at": to_text(attempt.started_ms),
        "ended_at": _moment(attempt.ended_ms),
        "hash": attempt.content_hash.hex(),
    }


def explanation_shape(explanation: "Explanation") -> Shape:
    """Return a message in sentences."""
    return {
        "id": to_public(MESSAGE, explanation.message_id),
        "state": explanation.state,
        "happened": [_said_shape(said) for said in explanation.happened],
        "now": [_said_shape(said) for said in explanation.now],
        "next": [_said_shape(said) for said in explanation.next],
        "can": [{"text": one.text, "command": one.command} for one in explanation.advice],
    }


def _said_shape(said: "Said") -> Shape:
    return {"at": _moment(said.at_ms), "text": said.text}


def deed_shape(view: DeedView) -> Shape:
    """Return what an operator did."""
    deed = view.deed
    return {
        "id": view.deed_id,
        "at": to_text(view.at_ms),
        "actor": deed.actor,
        "verb": deed.verb,
        "subject": deed.subject,
        "reason": deed.reason or None,
        "data": dict(deed.data),
    }


def order_shape(result: OrderResult) -> OrderShape:
    """Return what came of an operator's order: every recipient, and which of them changed."""
    changed = frozenset(result.changed)
    return {
        "id": to_public(MESSAGE, result.message_id),
        "state": result.state,
        "recipients": [recipient_shape(recipient) for recipient in result.recipients],
        "changed": [r.address for r in result.recipients if r.n in changed],
    }


def unknown_shape(unknown: Unknown, outlook: "Outlook") -> UnknownShape:
    """Return a recipient in doubt, what was answered about it, and what will be asked."""
    return {
        "id": to_public(MESSAGE, unknown.message_id),
        "recipient": unknown.address,
        "service": unknown.service,
        "subject": unknown.subject,
        "provider": unknown.provider or None,
        "attempt": unknown.attempt,
        "since": to_text(unknown.since_ms),
        "open_until": _moment(unknown.open_until_ms),
        "on_unknown": unknown.on_unknown,
        "resend_at": _moment(unknown.resend_at_ms),
        "expires_at": _moment(unknown.expires_ms),
        "expired": unknown.is_expired,
        "asked": unknown.asked,
        "asked_at": _moment(unknown.asked_ms),
        "answer": unknown.answer or None,
        "ask_at": _moment(unknown.ask_at_ms),
        "asks": list(outlook.asks),
        "ask_by": list(outlook.ways),
        "asks_until": _moment(outlook.until_ms),
    }


def token_shape(token: Token) -> Shape:
    """Return a token; its secret is shown once, by whoever made it, and never from here."""
    return {
        "id": to_public(TOKEN, token.token_id),
        "name": token.name,
        "service": token.service,
        "scopes": sorted(token.scopes),
        "test": token.is_test,
        "created_at": to_text(token.created_ms),
        "expires_at": _moment(token.expires_ms),
        "revoked_at": _moment(token.revoked_ms),
        "last_used_at": _moment(token.last_used_ms),
        "limits": dict(token.limits),
    }


def new_token_shape(token: Token, secret: str) -> Shape:
    """Return a token that was just made, with its secret: the one time that it is shown."""
    return {
        "id": to_public(TOKEN, token.token_id),
        "name": token.name,
        "service": token.service,
        "token": secret,
        "scopes": sorted(token.scopes),
        "expires_at": _moment(token.expires_ms),
    }


def received_shape(received: Received) -> Shape:
    """Return what became of a message that came back."""
    return {
        "sort": received.sort,
        "message_id": received.public_id or None,
        "reports": [
            {
                "kind": report.kind,
                "recipient": report.recipient or None,
                "is_hard": report.is_hard,
                "reply": report.reply,
            }
            for report in received.reports
        ],
        "repeated": received.repeated,
        "is_forged": received.is_forged,
    }


def suppression_shape(suppression: Suppression) -> SuppressionShape:
    """Return a suppression; service null means every service."""
    return {
        "address": suppression.address,
        "service": suppression.service or None,
        "reason": suppression.reason,
        "detail": suppression.detail or None,
        "blocks": suppression.blocks,
        "created_at": to_text(suppression.created_ms),
        "expires_at": _moment(suppression.expires_ms),
        "actor": suppression.actor,
        "message_id": (
            None
            if suppression.message_id is None
            else to_public(MESSAGE, suppression.message_id)
        ),
        "provider": suppression.provider or None,
    }


def inbox_shape(job: InboxJob, *, with_raw: bool = False) -> Shape:
    """Return a job of the inbox; what came, as text, only where one is shown."""
    shape: Shape = {
        "id": to_public(INBOX, job.inbox_id),
        "state": "rejected" if job.reason else "waiting",
        "topic": job.topic,
        "received_at": to_text(job.received_ms),
        "due_at": None if job.reason else to_text(job.due_ms),
        "service": job.service or None,
        "key_id": job.key_id or None,
        "job_id": job.job_id or None,
        "code": job.reason or None,
        "errors": [{"pointer": f.pointer, "detail": f.detail} for f in job.faults],
        "size_bytes": len(job.raw),
    }
    if with_raw:
        shape["raw"] = job.raw.decode("utf-8", "backslashreplace")
    return shape


def taken_shape(taken: Taken) -> TakenShape:
    """Return what became of a call with reports."""
    return {
        "replayed": taken.is_replay,
        "new": taken.new,
        "repeated": taken.repeated,
        "unmatched": taken.unmatched,
    }


def next_hop_shape(view: HopView) -> NextHopShape:
    """Return a next hop's standing; kind null: it is no longer in the settings."""
    hop, bounds = view.hop, view.facts.bounds
    rate: RateShape | None = None
    if bounds.rate is not None:
        rate = {"limit": str(bounds.rate), "used_in_a_minute": view.used}
    return {
        "name": hop.name,
        "kind": view.facts.kind,
        "state": hop.state,
        "reason": hop.reason or None,
        "changed_at": _moment(hop.changed_ms or None),
        "actor": hop.actor or None,
        "default": view.facts.is_default,
        "breaker": breaker_shape(view.breaker),
        "rate": rate,
        "domain_rates": {domain: str(rate) for domain, rate in bounds.domain_rates.items()},
    }


def breaker_shape(breaker: Breaker) -> BreakerShape:
    """Return whether a next hop works, by what attempts have met."""
    is_open = breaker.state is BreakerState.OPEN
    return {
        "state": breaker.state,
        "reason": breaker.reason or None,
        "since": _moment(breaker.since_ms or None),
        "until": _moment(breaker.until_ms) if is_open else None,
        "failures": breaker.failures,
    }


def stats_shape(stats: QueueStats) -> QueueShape:
    """Return the queue in numbers."""
    return {
        "ready": stats.ready,
        "scheduled": stats.scheduled,
        "retrying": stats.retrying,
        "waiting": stats.waiting,
        "sending": stats.sending,
        "held": stats.held,
        "unknown": stats.unknown,
        "oldest_due_at": _moment(stats.oldest_due_ms),
        "oldest_unknown_at": _moment(stats.oldest_unknown_ms),
        "pause": pause_shape(stats.pause) if stats.pause else None,
    }


def pause_shape(pause: Pause) -> PauseShape:
    """Return the pause in force."""
    return {
        "since": to_text(pause.since_ms),
        "until": _moment(pause.until_ms),
        "actor": pause.actor,
        "reason": pause.reason or None,
    }


def consumer_shape(consumer: Consumer) -> Shape:
    """Return a consumer that has not ended."""
    return {
        "host": consumer.host,
        "pid": consumer.pid,
        "version": consumer.version,
        "started_at": to_text(consumer.started_ms),
        "heartbeat_at": to_text(consumer.heartbeat_ms),
        "in_flight": consumer.in_flight,
    }


def alert_shape(alert: Alert) -> Shape:
    """Return an alert that is raised."""
    return {"name": alert.name, "detail": alert.detail, "since": to_text(alert.since_ms)}


def breach_shape(breach: Breach) -> Shape:
    """Return an invariant that does not hold."""
    public = None if breach.message_id is None else to_public(MESSAGE, breach.message_id)
    return {"invariant": breach.invariant, "detail": breach.detail, "message_id": public}


def _moment(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else to_text(moment_ms)


def error_shape(error: EmailerError) -> dict[str, object]:
    """Return what is wrong with one message of a batch; pointers are within the message."""
    return {
        "status": error.status.value,
        "code": error.code,
        "detail": error.detail,
        **error.members,
    }
