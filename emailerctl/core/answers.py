"""What JSON objects look like: the types behind `core/shapes.py`, and the schemas of the API.

Every member is there in every object unless it is `NotRequired`; what does not apply is null.
The type checker compares these with what `core/shapes.py` builds, and `daemons/api/openapi.py`
writes the schemas of answers from them.
"""

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from emailerctl.models.lifecycle import OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import RecipientKind
from emailerctl.store.base import Blocks, BreakerState, HopState

Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
MessageId = Annotated[str, Meta(pattern="^msg_[0-9A-HJKMNP-TV-Z]{13}$")]


class WarningShape(TypedDict):
    """Something worth knowing about a message that was accepted."""

    code: str
    detail: str


class NewRecipientShape(TypedDict):
    """A recipient of a message that was accepted."""

    address: str
    kind: RecipientKind
    state: State
    reason: NotRequired[Reason]


class ReceiptShape(TypedDict):
    """What acceptance answers."""

    id: MessageId
    state: State
    created_at: Moment
    on_unknown: OnUnknown
    test: bool
    recipients: list[NewRecipientShape]
    warnings: list[WarningShape]


class RecipientShape(TypedDict):
    """A recipient as it stands."""

    address: str
    kind: RecipientKind
    state: State
    waiting_for: WaitingFor | None
    reason: Reason | None
    due_at: Moment | None
    provider: str | None
    reply: str | None
    attempt: int
    changed_at: Moment


class AttemptShape(TypedDict):
    """One attempt as recorded; `hash` is the SHA-256 of the bytes that were sent."""

    n: int
    provider: str
    route: str | None
    phase: str
    outcome: str
    code: int | None
    enhanced_status: str | None
    reply: str | None
    started_at: Moment
    ended_at: Moment | None
    hash: str


_WithSender = TypedDict("_WithSender", {"from": str})
_WithSteps = TypedDict("_WithSteps", {"from": State | None, "to": State | None})


class MessageShape(_WithSender):
    """A message; listings leave the attempts out."""

    id: MessageId
    state: State
    created_at: Moment
    expires_at: Moment | None
    on_unknown: OnUnknown
    test: bool
    service: str
    token_id: str | None
    subject: str
    envelope_sender: str
    tags: list[str]
    metadata: dict[str, str]
    priority: str
    provider: str | None
    template: str | None
    template_version: str | None
    size_bytes: int
    content_hash: str
    has_content: bool
    counts: dict[str, int]
    recipients: list[RecipientShape]
    attempts: NotRequired[list[AttemptShape]]


class OrderShape(TypedDict):
    """What came of an order: every recipient, and the addresses of those that changed."""

    id: MessageId
    state: State
    recipients: list[RecipientShape]
    changed: list[str]


class UnknownShape(TypedDict):
    """A recipient in doubt; before `open_until` a late answer may still come."""

    id: MessageId
    recipient: str
    service: str
    subject: str
    provider: str | None
    attempt: int
    since: Moment
    open_until: Moment | None
    on_unknown: OnUnknown
    resend_at: Moment | None
    expires_at: Moment | None
    expired: bool
    asked: int
    asked_at: Moment | None
    answer: str | None
    ask_at: Moment | None
    asks: list[str]
    ask_by: list[str]
    asks_until: Moment | None


class SuppressionShape(TypedDict):
    """An address that is not sent to; service null means every service."""

    address: str
    service: str | None
    reason: str
    detail: str | None
    blocks: Blocks
    created_at: Moment
    expires_at: Moment | None
    actor: str
    message_id: MessageId | None
    provider: str | None


class TakenShape(TypedDict):
    """What became of a call with reports, in numbers of reports."""

    replayed: bool
    new: int
    repeated: int
    unmatched: int


class RateShape(TypedDict):
    """How fast a next hop is sent to, and how much of that was used within a minute."""

    limit: str
    used_in_a_minute: int


class BreakerShape(TypedDict):
    """Whether a next hop works, by what attempts have met."""

    state: BreakerState
    reason: str | None
    since: Moment | None
    until: Moment | None
    failures: int


class NextHopShape(TypedDict):
    """A next hop's standing; kind null: it is no longer in the settings."""

    name: str
    kind: str | None
    state: HopState
    reason: str | None
    changed_at: Moment | None
    actor: str | None
    default: bool
    breaker: BreakerShape
    rate: RateShape | None
    domain_rates: dict[str, str]


class PauseShape(TypedDict):
    """The pause in force."""

    since: Moment
    until: Moment | None
    actor: str
    reason: str | None


class QueueShape(TypedDict):
    """The queue in numbers: messages, but for `unknown`, which counts recipients."""

    ready: int
    scheduled: int
    retrying: int
    waiting: int
    sending: int
    held: int
    unknown: int
    oldest_due_at: Moment | None
    oldest_unknown_at: Moment | None
    pause: PauseShape | None


class EventShape(_WithSteps):
    """One row of the event log."""

    seq: int
    type: str
    at: Moment
    message_id: MessageId | None
    recipient: str | None
    attempt: int | None
    provider: str | None
    service: str | None
    reply: str | None
    data: dict[str, Any]


class HealthShape(TypedDict):
    """The loop turns."""

    status: str


class ConsumersShape(TypedDict):
    """The consumers, in short."""

    alive: int
    last_heartbeat_at: Moment | None


class AlertNameShape(TypedDict):
    """An alert that is raised; what it says is for those with a token."""

    name: str
    since: Moment


class ReadinessShape(TypedDict):
    """Whether messages can be accepted, and what else is worth knowing."""

    ready: bool
    disk: str
    stopping: bool
    store: str
    unknown: NotRequired[int]
    queue: NotRequired[QueueShape]
    consumers: NotRequired[ConsumersShape]
    alerts: NotRequired[list[AlertNameShape]]


class RouteShape(TypedDict):
    """The next hops of a message, in order, and why."""

    chain: list[str]
    why: str


class RehearsalShape(TypedDict):
    """What would come of a message; id null: none was made."""

    id: MessageId | None
    state: State
    created_at: Moment
    on_unknown: OnUnknown
    test: bool
    recipients: list[NewRecipientShape]
    warnings: list[WarningShape]
    dry_run: bool
    idempotent_replayed: bool
    due_at: NotRequired[Moment]
    expires_at: NotRequired[Moment | None]
    priority: NotRequired[str]
    size_bytes: NotRequired[int]
    envelope_sender: NotRequired[str]
    route: NotRequired[RouteShape]


class BatchItemShape(TypedDict):
    """What became of one message of a batch: 202, or a problem; pointers are within it."""

    status: int
    id: NotRequired[MessageId | None]
    state: NotRequired[State]
    idempotent_replayed: NotRequired[bool]
    warnings: NotRequired[list[WarningShape]]
    code: NotRequired[str]
    detail: NotRequired[str]
    errors: NotRequired[list[dict[str, str]]]


class BatchShape(TypedDict):
    """What became of the messages of a batch, in its order."""

    data: list[BatchItemShape]
    dry_run: NotRequired[bool]


class TicketShape(TypedDict):
    """Lets one stream begin, within a minute."""

    ticket: str
    expires_at: Moment
    url: str


class TemplateShape(TypedDict):
    """A version of a template."""

    name: str
    version: str
    current: bool
    published_at: Moment
    actor: str
    locale: str | None
    locales: list[str]
    variables: list[str]


class StoredTemplateShape(TypedDict):
    """A version of a template with its files and what it wants."""

    name: str
    version: str
    locale: str | None
    locales: list[str]
    schema: dict[str, Any]
    sensitive: list[str]
    examples: dict[str, Any]
    shared: list[str]
    files: dict[str, str]


class TemplateNameShape(TypedDict):
    """A version of a template, by name."""

    name: str
    version: str


class FindingShape(TypedDict):
    """What was noticed in a template."""

    template: str
    level: str
    code: str
    file: str
    line: int | None
    detail: str


class PublicationShape(TypedDict):
    """What publishing did."""

    published: list[TemplateNameShape]
    unchanged: list[str]
    removed: list[str]
    findings: list[FindingShape]


class RenderedShape(TypedDict):
    """A rendered template."""

    name: str
    version: str
    subject: str
    text: str
    html: str | None


class JobFaultShape(TypedDict):
    """What is wrong with a job."""

    pointer: str
    detail: str


class JobShape(TypedDict):
    """What became of a job that a service published: accepted or rejected."""

    id: str
    state: str
    message_id: MessageId | None
    code: str | None
    errors: list[JobFaultShape]
