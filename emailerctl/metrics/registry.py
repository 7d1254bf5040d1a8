"""Every metric: its name, once, with its help text, its labels and its buckets.

To add one: write it here and into `METRICS`, then count it where it happens (`Meter.add`,
`Meter.observe`), set it once a second (`Meter.set`), or read it from the store
(`daemons/figures.py`).  The webhooks' belong here, too.

Labels are bounded: every value is one of ours or the name of a next hop in the settings.  No
address, recipient domain, tag, service or message is ever a label, however useful: a hundred
thousand domains would be a hundred thousand series.  The event log answers such questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum

from emailerctl.models import event as events
from emailerctl.models.doorbell import QueueCounts, Use
from emailerctl.models.lifecycle import WaitingFor
from emailerctl.models.message import Priority
from emailerctl.models.outcome import Kind

OTHER = "other"  # a value that nobody foresaw counts as this


class Shape(StrEnum):
    """What kind of number it is, in the words of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric.

    Attributes:
        labels: the values of each label; None: the names of the next hops.
        buckets: upper bounds of a histogram.
        is_read: from the store at each look, not kept in memory.
    """

    name: str
    shape: Shape
    help: str
    labels: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    is_read: bool = False


LANES = {priority: priority.name.lower() for priority in Priority}

_LANES = tuple(LANES.values())
_OUTCOMES = tuple(kind.value for kind in Kind)
_WAITING = (*(one.value for one in WaitingFor if one is not WaitingFor.PAUSE), "sending")
_EVENTS = (
    events.MESSAGE_ACCEPTED,
    *events.RECIPIENT.values(),
    events.RECIPIENT_EXPIRED,
    events.COMPLAINT_REPORTED,
    events.OPEN_REPORTED,
    events.CLICK_REPORTED,
    events.UNSUBSCRIBE_REPORTED,
    events.SUBSCRIBE_REPORTED,
    events.DELAY_REPORTED,
)

ACCEPTED, REPLAYED = "accepted", "replayed"
# What else a request to accept can meet, by its problem code (docs/problems.md).
_REFUSALS = (
    "bad_request",
    "error",  # a bug: 500
    "forbidden",
    "idempotency_key_invalid",
    "idempotency_key_reused",
    "invalid",
    "malformed_json",
    "outcome_unknown",
    "overloaded",
    "payload_too_large",
    "recipient_rate",
    "storage_full",
    "store_busy",
    "too_many_requests",
    "unauthorized",
    "unavailable",
    "unsupported_media_type",
)

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0),
)
_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_UNITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


# The API

ACCEPTANCES = Metric(
    "emailer_acceptances_total",
    Shape.COUNTER,
    "Answers to POST /v1/messages: accepted, replayed (a known key), or the problem's code.",
    {"outcome": (ACCEPTED, REPLAYED, *_REFUSALS)},
)
ACCEPTANCE_SECONDS = Metric(
    "emailer_acceptance_seconds",
    Shape.HISTOGRAM,
    "From a whole request to its 202, commit and sync included.",
    buckets=_FAST_S,
)
REQUESTS = Metric("emailer_api_requests", Shape.GAUGE, "Requests under way, streams included.")
FOLLOWERS = Metric("emailer_event_followers", Shape.GAUGE, "Open event streams.")
STREAM_BYTES = Metric(
    "emailer_event_stream_bytes_total", Shape.COUNTER, "Written to event streams."
)
STREAM_SKIPS = Metric(
    "emailer_event_stream_skips_total",
    Shape.COUNTER,
    "Gaps told to followers who were further behind than they wanted to be.",
)
REPORTS = Metric(
    "emailer_reports_total",
    Shape.COUNTER,
    "What next hops told of copies: new, repeated, unmatched (about nothing known yet, and one "
    "of the new), replayed or refused (whole calls).",
    {
        "next_hop": None,
        "result": ("new", "repeated", "unmatched", "replayed", "refused"),
    },
)

# The consumer

ATTEMPTS = Metric(
    "emailer_attempts_total",
    Shape.COUNTER,
    "Outcomes of attempts, one for each recipient.",
    {"next_hop": None, "outcome": _OUTCOMES},
)
ATTEMPT_SECONDS = Metric(
    "emailer_attempt_seconds",
    Shape.HISTOGRAM,
    "One attempt, from its begin to the next hop's answer.",
    {"next_hop": None},
    buckets=_CALL_S,
)
HANDOVER_SECONDS = Metric(
    "emailer_handover_seconds",
    Shape.HISTOGRAM,
    "From acceptance (or send_at) to the next hop's 2xx, all retries included.",
    {"lane": _LANES, "next_hop": None},
    buckets=_SLOW_S,
)
IN_FLIGHT = Metric(
    "emailer_claims_in_flight",
    Shape.GAUGE,
    "Messages that a consumer has claimed and not settled.",
    {"next_hop": None},
)
CONNECTIONS = Metric(
    "emailer_connections",
    Shape.GAUGE,
    "Open connections to a next hop.",
    {"next_hop": None},
)

# Every process

COMMIT_UNITS = Metric(
    "emailer_commit_units",
    Shape.HISTOGRAM,
    "Pieces of work that shared a commit and its sync.",
    buckets=_UNITS,
)
COMMIT_SECONDS = Metric(
    "emailer_commit_seconds",
    Shape.HISTOGRAM,
    "One COMMIT: writing the log and the fsync.",
    buckets=_FAST_S,
)
STORE_BACKLOG = Metric(
    "emailer_store_backlog", Shape.GAUGE, "Pieces of work that wait for the next commit."
)
EVENTS = Metric(
    "emailer_events_total",
    Shape.COUNTER,
    "Events committed by this daemon.",
    {"type": _EVENTS},
)
PROCESSES = Metric("emailer_processes", Shape.GAUGE, "Processes of this daemon that run.")
RESIDENT_BYTES = Metric(
    "emailer_resident_memory_bytes", Shape.GAUGE, "Memory in use by all processes."
)
LOG_DROPPED = Metric(
    "emailer_log_dropped_lines", Shape.GAUGE, "Log lines dropped: nobody read the output."
)

# Read from the store, by the API

QUEUE = Metric(
    "emailer_queue_messages",
    Shape.GAUGE,
    "Messages in the queue by lane and by what they wait for; ready: due now.",
    {"lane": _LANES, "waiting_for": _WAITING},
    is_read=True,
)
QUEUE_OLDEST = Metric(
    "emailer_queue_oldest_seconds",
    Shape.GAUGE,
    "How long the longest-waiting ready message has been due; 0: none is.",
    {"lane": _LANES},
    is_read=True,
)
QUEUE_PAUSED = Metric(
    "emailer_queue_paused_seconds",
    Shape.GAUGE,
    "For how long the queue has been paused; 0: it is not.",
    is_read=True,
)
HELD = Metric("emailer_held_messages", Shape.GAUGE, "Messages that are held.", is_read=True)
UNKNOWN_OPEN = Metric(
    "emailer_unknown_recipients",
    Shape.GAUGE,
    "Recipients who may or may not have been sent to, and whose message has not expired.",
    is_read=True,
)
UNKNOWN_OLDEST = Metric(
    "emailer_unknown_oldest_seconds",
    Shape.GAUGE,
    "Age of the oldest of those; 0: there is none.",
    is_read=True,
)
BREAKER = Metric(
    "emailer_breaker_state",
    Shape.GAUGE,
    "1 for the state in which a next hop's breaker is: closed, half_open or open.",
    {"next_hop": None, "state": ("closed", "half_open", "open")},
    is_read=True,
)
NEXT_HOP = Metric(
    "emailer_next_hop_state",
    Shape.GAUGE,
    "1 for what a next hop is: open, paused (credentials refused) or disabled (by a person).",
    {"next_hop": None, "state": ("open", "paused", "disabled")},
    is_read=True,
)
CONSUMERS = Metric(
    "emailer_consumers",
    Shape.GAUGE,
    "Consumers with a heartbeat in the last 30 s.",
    is_read=True,
)
HEARTBEAT = Metric(
    "emailer_consumer_heartbeat_seconds",
    Shape.GAUGE,
    "Since the newest heartbeat of any consumer; absent: there is none.",
    is_read=True,
)
ALERTS = Metric(
    "emailer_alert",
    Shape.GAUGE,
    "1 while a built-in alert is raised (docs/operations.md).",
    {"name": ()},
    is_read=True,
)
LAST_SEQ = Metric(
    "emailer_last_event_seq", Shape.GAUGE, "Number of the newest event.", is_read=True
)
DISK_LOW = Metric(
    "emailer_disk_low",
    Shape.GAUGE,
    "1 while the disk is below [store] low_water_bytes: nothing is accepted.",
    is_read=True,
)
BUILD = Metric(
    "emailer_build_info",
    Shape.GAUGE,
    "1, with the version of this program and of its SQLite.",
    {"version": (), "sqlite": ()},
    is_read=True,
)

# The broker; absent where there is none.

BROKER_UP = Metric(
    "emailer_broker_up",
    Shape.GAUGE,
    "1 while every ForestMQ that carries this answers, as the processes see it.",
    {"use": tuple(Use)},
    is_read=True,
)
BROKER_QUEUED = Metric(
    "emailer_broker_queued_messages",
    Shape.GAUGE,
    "How many the brokers had, by their last answer.",
    {"use": tuple(Use)},
    is_read=True,
)
BROKER_FALLBACK = Metric(
    "emailer_broker_fallback",
    Shape.GAUGE,
    "1 while a consumer asks the store instead of the broker.",
    is_read=True,
)
BROKER_SEEN = Metric(
    "emailer_broker_seen_in_a_day",
    Shape.GAUGE,
    "What all processes of the last day have seen of the broker: rung, taken, lost, repeated, "
    "foreign (docs/forestmq.md).",
    {"what": tuple(one.name for one in fields(QueueCounts))},
    is_read=True,
)
FOREIGN = Metric(
    "emailer_foreign_messages",
    Shape.GAUGE,
    "Foreign messages that are kept (emailerctl queue foreign).",
    is_read=True,
)
INBOX_JOBS = Metric(
    "emailer_inbox_jobs",
    Shape.GAUGE,
    "Jobs of other services that are no messages: they wait, or were rejected.",
    {"state": ("waiting", "rejected")},
    is_read=True,
)
OF_BROKER: tuple[Metric, ...] = (
    BROKER_UP,
    BROKER_QUEUED,
    BROKER_FALLBACK,
    BROKER_SEEN,
    FOREIGN,
    INBOX_JOBS,
)

METRICS: tuple[Metric, ...] = (
    *(
        ACCEPTANCES,
        ACCEPTANCE_SECONDS,
        REQUESTS,
        FOLLOWERS,
        STREAM_BYTES,
        STREAM_SKIPS,
        REPORTS,
    ),
    *(ATTEMPTS, ATTEMPT_SECONDS, HANDOVER_SECONDS, IN_FLIGHT, CONNECTIONS),
    *(COMMIT_UNITS, COMMIT_SECONDS, STORE_BACKLOG, EVENTS),
    *(PROCESSES, RESIDENT_BYTES, LOG_DROPPED),
    *(QUEUE, QUEUE_OLDEST, QUEUE_PAUSED, HELD, UNKNOWN_OPEN, UNKNOWN_OLDEST),
    *(BREAKER, NEXT_HOP, CONSUMERS, HEARTBEAT, ALERTS, LAST_SEQ, DISK_LOW, BUILD),
    *OF_BROKER,
)


def series_of(metric: Metric) -> tuple[str, ...]:
    """Return the names under which a metric's numbers are asked for."""
    if metric.shape is Shape.HISTOGRAM:
        return tuple(f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))
    return (metric.name,)
