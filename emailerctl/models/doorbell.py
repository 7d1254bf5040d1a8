"""Doorbells: what travels through a broker, "look at this message", and what comes instead."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, parse_public, to_public
from emailerctl.models.job import TOPIC

VERSION = 1
FOREIGN = "frn"  # of the public id of a foreign message

_MOST_TEXT = 8_192


def build_doorbell(topic: str, message_id: int) -> dict[str, object]:
    """Return the doorbell of a message: nothing that anybody may not see."""
    return {"topic": topic, "v": VERSION, "id": to_public(MESSAGE, message_id)}


@dataclass(frozen=True, slots=True)
class Doorbell:
    """A doorbell that came; the id may be anybody's invention."""

    topic: str
    message_id: int


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something else that came, and what is strange about it."""

    topic: str
    reason: str
    is_ours: bool  # of one of our topics: a mangled doorbell, no message of somebody else's


def read_doorbell(message: object, topics: Sequence[str]) -> Doorbell | Stranger:
    """Read what a broker handed out; nothing about it is believed."""
    shape: Mapping[str, object] = message if isinstance(message, dict) else {}
    topic = shape.get("topic")
    if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
        return Stranger("", "no topic", is_ours=False)
    if topic not in topics:
        return Stranger(topic, "another topic", is_ours=False)
    version = shape.get("v")
    if not isinstance(version, int) or isinstance(version, bool) or version != VERSION:
        return Stranger(topic, "another version", is_ours=False)
    written = shape.get("id")
    message_id = parse_public(MESSAGE, written) if isinstance(written, str) else None
    if message_id is None or to_public(MESSAGE, message_id) != written:
        return Stranger(topic, "no message id", is_ours=True)
    return Doorbell(topic, message_id)


class Silent(NamedTuple):
    """A due message that no doorbell announces, or whose doorbell must be lost."""

    message_id: int
    due_ms: int
    is_lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignMessage:
    """A message of somebody else's that came to us: taken out, so it is kept.

    Attributes:
        body: as JSON, at most 8 KiB; or what came instead of JSON.
    """

    foreign_id: int
    at_ms: int
    topic: str
    url: str
    reason: str
    body: str

    def shape(self) -> dict[str, object]:
        """Return it as an object for people and programs."""
        return {
            "id": to_public(FOREIGN, self.foreign_id),
            "at": to_text(self.at_ms),
            "topic": self.topic or None,
            "url": self.url,
            "reason": self.reason,
            "body": self.body,
        }


def cut_body(text: str) -> str:
    """Return as much of *text* as is kept of a foreign message."""
    return text[:_MOST_TEXT].replace("\0", "\\0")


@dataclass(slots=True)
class QueueCounts:
    """What a process has seen of its broker since it started: for stats and metrics.

    Attributes:
        rung: doorbells that the broker says it has.
        not_rung: of them nobody knows; left to the sweep.
        held_back: not rung, since enough is queued already.
        taken: messages taken out; `empty`: takes that found nothing.
        take_failed: takes without a readable answer; a doorbell may be lost with each.
        lost: doorbells that were rung and never came; made up for by the sweep.
        direct: messages claimed without a doorbell, since none had come in time.
        repeated: doorbells that came while the same one was waiting.
        stale: for messages that are finished, not due, or somebody else's by now.
        put_aside: no next hop had room; rung again later.
        unknown: with the id of no message; `mangled`: with no id.
        foreign: of another topic or version; parked.
        unparked: foreign, and not kept: the list is full.
        fallbacks: how often the store had to be asked instead.
        jobs_kept: whole jobs of other services that are in the inbox since.
        jobs_accepted: of them messages now; `jobs_replayed`: once more under a known id.
        jobs_unsigned: accepted without a signature, from whoever reaches the broker.
        jobs_rejected: no messages; they stay in the inbox with the reason.
        jobs_take_failed: takes without a readable answer; each may be a lost job.
    """

    rung: int = 0
    not_rung: int = 0
    held_back: int = 0
    taken: int = 0
    empty: int = 0
    take_failed: int = 0
    lost: int = 0
    direct: int = 0
    repeated: int = 0
    stale: int = 0
    put_aside: int = 0
    unknown: int = 0
    mangled: int = 0
    foreign: int = 0
    unparked: int = 0
    fallbacks: int = 0
    jobs_kept: int = 0
    jobs_accepted: int = 0
    jobs_replayed: int = 0
    jobs_unsigned: int = 0
    jobs_rejected: int = 0
    jobs_take_failed: int = 0

    def shape(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)

    def add(self, numbers: Mapping[str, object]) -> None:
        """Add another process's numbers, those that this version knows."""
        for name, number in numbers.items():
            if name in self.__slots__ and isinstance(number, int):
                setattr(self, name, getattr(self, name) + number)


class Use(StrEnum):
    """What a broker carries."""

    DOORBELLS = "doorbells"
    JOBS = "jobs"


@dataclass(slots=True)
class SourceStatus:
    """How a process stands with one broker.

    Attributes:
        trouble: of the last call; empty: none.
        length: how many were queued, by the last answer.
    """

    url: str
    topics: tuple[str, ...]
    trouble: str = ""
    detail: str = ""
    since_ms: int | None = None
    length: int | None = None
    use: str = Use.DOORBELLS

    def shape(self) -> dict[str, object]:
        """Return it as an object."""
        return {
            "url": self.url,
            "use": self.use,
            "topics": list(self.topics),
            "ok": not self.trouble,
            "trouble": self.trouble or None,
            "detail": self.detail or None,
            "since": to_text(self.since_ms) if self.since_ms is not None else None,
            "length": self.length,
        }


@dataclass(slots=True)
class QueueReport:
    """One process's view of the queue: what `queue stats` and `/readyz` show.

    Attributes:
        reporter: `con_…` for a consumer, `api` and its process id.
    """

    reporter: str
    kind: str
    sources: list[SourceStatus] = field(default_factory=list)
    counts: QueueCounts = field(default_factory=QueueCounts)
    is_falling_back: bool = False

    def shape(self) -> dict[str, Any]:
        """Return it as an object."""
        return {
            "reporter": self.reporter,
            "kind": self.kind,
            "fallback": self.is_falling_back,
            "sources": [source.shape() for source in self.sources],
            "counts": self.counts.shape(),
        }
