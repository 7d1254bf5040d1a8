"""Every deliberate error: its problem code, HTTP status and exit code, written once.

The API renders a class as problem+json (RFC 9457), the command line as a sentence and an exit
code (sysexits.h); neither has a list of errors of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request: where (RFC 6901 pointer) and what, with its cure."""

    pointer: str
    detail: str


class EmailerError(Exception):
    """What every deliberate error derives from: a sentence for people, numbers for machines."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        hint: str = "",
        retry_after_s: int | None = None,
        **members: object,
    ) -> None:
        """Say *detail* to the caller; *members* are further members of the problem document."""
        super().__init__(detail)
        self.detail = detail
        self.cure = hint or self.hint
        self.retry_after_s = retry_after_s
        self.members: Mapping[str, object] = members


class BadRequest(EmailerError):
    """The request is not well formed: JSON, a header or a query parameter."""

    code, title = "bad_request", "Bad request"
    status, exit_code = HTTPStatus.BAD_REQUEST, 65


class MalformedJson(BadRequest):
    """The body is not a JSON document that we take (RFC 8259, with the limits of T-12)."""

    code, title = "malformed_json", "Malformed JSON"
    hint = "send one JSON object in UTF-8, without duplicate keys, NaN or lone surrogates"


class IdempotencyKeyInvalid(BadRequest):
    """The Idempotency-Key is missing where required, or not 1 to 255 printable ASCII."""

    code, title = "idempotency_key_invalid", "Idempotency key invalid"
    hint = "send Idempotency-Key: 1 to 255 printable ASCII characters, a new one per message"


class Unauthorized(EmailerError):
    """No token, or one that is unknown, expired or revoked."""

    code, title = "unauthorized", "Not authenticated"
    status, exit_code = HTTPStatus.UNAUTHORIZED, 77
    hint = "send Authorization: Bearer <token>; make one with: emailerctl tokens create NAME"


class Forbidden(EmailerError):
    """The token is good, but may not do this."""

    code, title = "forbidden", "Not allowed"
    status, exit_code = HTTPStatus.FORBIDDEN, 77


class NotFound(EmailerError):
    """There is no such thing, or it belongs to another service: the same answer for both."""

    code, title = "not_found", "No such thing"
    status, exit_code = HTTPStatus.NOT_FOUND, 66


class AmbiguousId(EmailerError):
    """The prefix of an id fits more than one message."""

    code, title = "ambiguous_id", "Ambiguous id"
    status, exit_code = HTTPStatus.CONFLICT, 65
    hint = "give more characters of the id"


class MethodNotAllowed(EmailerError):
    """The path exists, the method does not."""

    code, title = "method_not_allowed", "Method not allowed"
    status, exit_code = HTTPStatus.METHOD_NOT_ALLOWED, 65


class Conflict(EmailerError):
    """The present state forbids it."""

    code, title = "conflict", "The state forbids it"
    status, exit_code = HTTPStatus.CONFLICT, 65


class ContentGone(Conflict):
    """The content was removed by retention: there is nothing left to send."""

    code, title = "content_gone", "Content removed"
    hint = "[retention] content says how long it is kept; send the message anew"


class TooEarly(Conflict):
    """A late answer may still come; deciding now could make a second copy."""

    code, title = "too_early", "Too early to decide"
    hint = "wait until the named time, or force it with a reason"


class PayloadTooLarge(EmailerError):
    """The body exceeds the limit; refused while reading."""

    code, title = "payload_too_large", "Body too large"
    status, exit_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 65


class UnsupportedMediaType(EmailerError):
    """The body is not declared as JSON."""

    code, title = "unsupported_media_type", "Unsupported media type"
    status, exit_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 65
    hint = "send Content-Type: application/json"


class Invalid(EmailerError):
    """The request is well formed and wrong: all faults at once."""

    code, title = "invalid", "Validation failed"
    status, exit_code = HTTPStatus.UNPROCESSABLE_ENTITY, 65

    def __init__(self, faults: Iterable[Fault], detail: str = "") -> None:
        """Carry every fault; the sentence names the first few."""
        self.faults: Sequence[Fault] = tuple(faults)
        said = "; ".join(f"{fault.pointer or '/'}: {fault.detail}" for fault in self.faults[:3])
        more = f" (and {len(self.faults) - 3} more)" if len(self.faults) > 3 else ""
        errors = [{"pointer": fault.pointer, "detail": fault.detail} for fault in self.faults]
        super().__init__(detail or said + more, errors=errors)


class IdempotencyKeyReused(EmailerError):
    """The key was used before with a different request body."""

    code, title = "idempotency_key_reused", "Idempotency key reused"
    status, exit_code = HTTPStatus.UNPROCESSABLE_ENTITY, 65
    hint = "use a new key, or send exactly the first body again"


class RecipientRate(EmailerError):
    """The token's rate for one recipient is used up."""

    code, title = "recipient_rate", "Recipient rate exceeded"
    status, exit_code = HTTPStatus.TOO_MANY_REQUESTS, 75


class TooManyRequests(EmailerError):
    """Too many requests or failed authentications from there."""

    code, title = "too_many_requests", "Too many requests"
    status, exit_code = HTTPStatus.TOO_MANY_REQUESTS, 75


class Unavailable(EmailerError):
    """Not now: the same request later is welcome.  Nothing was stored."""

    code, title = "unavailable", "Temporarily unavailable"
    status, exit_code = HTTPStatus.SERVICE_UNAVAILABLE, 75


class Overloaded(Unavailable):
    """More work waits than the process takes on."""

    code, title = "overloaded", "Overloaded"


class StoreBusy(Unavailable):
    """Another process held the store's write lock beyond the time-out.  Nothing was stored."""

    code, title = "store_busy", "Store busy"


class NotQueued(Unavailable):
    """A job is not known to have reached ForestMQ.  Publishing it again, as is, is safe."""

    code, title = "not_queued", "Not known to be queued"
    hint = "publish it again with the same id"


class StorageFull(Unavailable):
    """The disk is full, or nearly: nothing was stored or acknowledged."""

    code, title = "storage_full", "Storage full"
    hint = "free space on the disk of the store, or shorten [retention]"


class OutcomeUnknown(Unavailable):
    """The sync failed: whether the message is stored is known only after a restart."""

    code, title = "outcome_unknown", "Outcome unknown"
    hint = "repeat the request with the same Idempotency-Key: the answer then tells the truth"


class StoreUnusable(EmailerError):
    """The store can't be opened: missing, corrupted, of another program or version."""

    code, title = "store_unusable", "Store unusable"
    status, exit_code = HTTPStatus.SERVICE_UNAVAILABLE, 78


class ConfigurationError(EmailerError):
    """A setting is wrong: names key, file and line or variable."""

    code, title = "configuration", "Configuration error"
    status, exit_code = HTTPStatus.INTERNAL_SERVER_ERROR, 78


class UsageError(EmailerError):
    """The command line's words do not fit together."""

    code, title = "usage", "Usage error"
    status, exit_code = HTTPStatus.BAD_REQUEST, 2


class JobRejected(EmailerError):
    """A job that came through ForestMQ can't become a message; it stays in the inbox."""

    code, title = "job_rejected", "Job rejected"
    status, exit_code = HTTPStatus.UNPROCESSABLE_ENTITY, 65
    hint = "correct it and publish it with a new id; or on the mail host: emailerctl inbox list"


class NextHopRefused(EmailerError):
    """A service that we depend on refused for good."""

    code, title = "next_hop_refused", "Refused by the next hop"
    status, exit_code = HTTPStatus.BAD_GATEWAY, 69


class TimedOut(EmailerError):
    """What was waited for did not come in time; later may be fine."""

    code, title = "timed_out", "Timed out"
    status, exit_code = HTTPStatus.SERVICE_UNAVAILABLE, 75
