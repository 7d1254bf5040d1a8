"""What a request may say besides a message: query parameters and the bodies of administration.

Answers have the shapes of `emailerctl.core.shapes`; the message itself is `core/fields.py`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from emailerctl.errors import BadRequest, Fault, Invalid
from emailerctl.models.address import parse_address
from emailerctl.models.caller import Caller
from emailerctl.models.clock import parse_duration, parse_moment, to_ms
from emailerctl.models.lifecycle import State, WaitingFor
from emailerctl.models.page import PAGE_DEFAULT, PAGE_LIMIT, MessageFilter
from emailerctl.models.text import find_unsafe, parse_line, shorten
from emailerctl.store.base import Blocks, Suppression

Parameters = Mapping[str, list[bytes]]
Parse = Callable[[str], object]

_LONGEST = 512  # of one parameter
_MAX_SEQ = 2**63 - 1
_MOST_BEHIND = 1_000_000


def parse_query(given: Parameters, known: Mapping[str, Parse]) -> dict[str, Any]:
    """Read the parameters of a query, each by its own parser.

    Raises:
        BadRequest: with every fault.
    """
    read: dict[str, Any] = {}
    faults = []
    for name, values in given.items():
        try:
            read[name] = _parse_parameter(name, values, known)
        except ValueError as error:
            faults.append({"parameter": name[:64], "detail": str(error)})
    if faults:
        said = "; ".join(f"{fault['parameter']}: {fault['detail']}" for fault in faults[:3])
        raise BadRequest(said, errors=faults)
    return read


def _parse_parameter(name: str, values: list[bytes], known: Mapping[str, Parse]) -> object:
    if name not in known:
        near = get_close_matches(name.lower()[:40], known, n=1)
        cure = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
        raise ValueError(f"is no parameter here; {cure}")
    if len(values) > 1:
        raise ValueError("is given more than once")
    try:
        text = values[0].decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if len(text) > _LONGEST:
        raise ValueError(f"has {len(text)} characters; send at most {_LONGEST}")
    unsafe = find_unsafe(text)
    if unsafe:
        raise ValueError(f"{shorten(text)} contains {unsafe}; remove it")
    return known[name](text)


class OneOf:
    """Reads one of the words of an enumeration."""

    def __init__(self, kind: type[State] | type[WaitingFor] | type[Blocks]) -> None:
        """Take the enumeration."""
        self.kind = kind

    def __call__(self, text: str) -> object:
        """Return the member that *text* names."""
        try:
            return self.kind(text)
        except ValueError:
            words = ", ".join(self.kind)
            raise ValueError(f"{shorten(text)} is not one of {words}") from None


parse_blocks = OneOf(Blocks)


RAW = "raw"


def parse_form(text: str) -> str:
    """Read in which form content is wanted."""
    if text not in ("json", RAW):
        raise ValueError(f"{shorten(text)} is not json or {RAW}")
    return text


def parse_flag(text: str) -> bool:
    """Read true or false."""
    if text not in ("true", "false"):
        raise ValueError(f"{shorten(text)} is neither true nor false")
    return text == "true"


DRY_RUN: Mapping[str, Parse] = {"dry_run": parse_flag}


def parse_dry_run(given: Parameters) -> bool:
    """Read whether a request is to be tried without keeping anything (`?dry_run=true`).

    Raises:
        BadRequest: with every fault.
    """
    return given != {} and bool(parse_query(given, DRY_RUN).get("dry_run"))


def parse_limit(text: str) -> int:
    """Read how many items a page may have."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= PAGE_LIMIT):
        raise ValueError(f"{shorten(text)} is not a number from 1 to {PAGE_LIMIT}")
    return int(text)


def parse_last(text: str) -> int:
    """Read how many of the newest events are wanted; 0: only where the log stands."""
    return 0 if text == "0" else parse_limit(text)


def parse_behind(text: str) -> int:
    """Read how many events a follower may be behind before it would rather miss some."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= _MOST_BEHIND):
        raise ValueError(f"{shorten(text)} is not a number from 1 to {_MOST_BEHIND}")
    return int(text)


def parse_seq(text: str) -> int:
    """Read a sequence number of the event log."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MAX_SEQ):
        raise ValueError(f"{shorten(text)} is not a sequence number")
    return int(text)


def parse_since(text: str) -> int:
    """Read a moment with an offset."""
    try:
        # In a query a plus sign means a space, unless it is written as %2B.
        return max(parse_moment(text.replace(" ", "+")), 0)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{shorten(text)} is not a moment with an offset; write 2026-11-24T10:00:00Z"
        ) from None


MESSAGE_FILTERS: Mapping[str, Parse] = {
    "state": OneOf(State),
    "waiting_for": OneOf(WaitingFor),
    "to": str,
    "from": str,
    "tag": str,
    "template": str,
    "provider": str,
    "service": str,
    "since": parse_since,
    "until": parse_since,
    "q": str,
    "limit": parse_limit,
    "cursor": str,
}
_DESCRIBED: Mapping[Parse, Mapping[str, object]] = {
    parse_flag: {"type": "string", "enum": ["true", "false"]},
    parse_form: {"type": "string", "enum": ["json", RAW]},
    str: {"type": "string", "maxLength": _LONGEST},
    parse_limit: {
        "type": "integer",
        "minimum": 1,
        "maximum": PAGE_LIMIT,
        "default": PAGE_DEFAULT,
    },
    parse_last: {"type": "integer", "minimum": 0, "maximum": PAGE_LIMIT},
    parse_behind: {"type": "integer", "minimum": 1, "maximum": _MOST_BEHIND},
    parse_seq: {"type": "integer", "minimum": 0, "maximum": _MAX_SEQ},
    parse_since: {"type": "string", "format": "date-time"},
}


def describe_parser(parse: Parse) -> dict[str, object]:
    """Return the JSON Schema of what a parser of a parameter takes."""
    if isinstance(parse, OneOf):
        return {"type": "string", "enum": [word.value for word in parse.kind]}
    return dict(_DESCRIBED.get(parse) or {"type": "string"})


_FIELD_OF = {
    "to": "recipient",
    "from": "header_from",
    "since": "since_ms",
    "until": "until_ms",
}


EVENT_FILTERS: Mapping[str, Parse] = {
    "message": str,
    "state": OneOf(State),
    "tag": str,
    "provider": str,
    "recipient": str,
    "service": str,
}


def parse_event_fields(query: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    """Return what a reader of the event log asks for, and may see; `message` as it was said."""
    return {**query, **narrow(query, caller)}


def parse_ticket(fields: Mapping[str, object]) -> dict[str, Any]:
    """Read what a stream ticket is for: the same fields as in a query, each optional.

    Raises:
        Invalid: with every fault.
    """
    faults: list[Fault] = []
    read: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        try:
            text = parse_line(value)
            read[name] = _parse_parameter(name, [text.encode()], EVENT_FILTERS)
        except ValueError as error:
            faults.append(Fault(f"/{name[:64]}", str(error)))
    if faults:
        raise Invalid(faults)
    return read


def parse_listing(given: Parameters, caller: Caller) -> tuple[MessageFilter, str | None, int]:
    """Read what a listing of messages is narrowed to, its cursor and its limit.

    Raises:
        BadRequest: with every fault.
    """
    query = parse_query(given, MESSAGE_FILTERS)
    cursor, limit = query.pop("cursor", None), query.pop("limit", PAGE_DEFAULT)
    fields = {_FIELD_OF.get(name, name): value for name, value in query.items()}
    return MessageFilter(**fields | narrow(fields, caller)), cursor, limit


def narrow(query: Mapping[str, Any], caller: Caller) -> dict[str, str]:
    """Return whose messages are asked for: never more than the caller may see.

    Raises:
        BadRequest: another service's.
    """
    wanted: str = query.get("service", "")
    if caller.sees is None:
        return {"service": wanted}
    if wanted not in ("", caller.sees):
        raise BadRequest(
            f"service: this token sees the messages of {caller.sees!r} only",
            hint="use a token with the scope read:all",
        )
    return {"service": caller.sees}


def parse_suppression(fields: Mapping[str, object], *, actor: str, now_ms: int) -> Suppression:
    """Read a suppression: `address`, and optional `service`, `reason`, `detail`, `expires_in`.

    Raises:
        Invalid: with every fault.
    """
    faults: list[Fault] = []
    known = _SUPPRESSION_FIELDS
    read: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name not in known:
            faults.append(Fault(f"/{name[:64]}", f"is unknown; known: {', '.join(known)}"))
            continue
        try:
            read[name] = known[name](value)
        except ValueError as error:
            faults.append(Fault(f"/{name}", str(error)))
    if fields.get("address") is None:
        faults.append(Fault("/address", "is missing; name the address to suppress"))
    if faults:
        raise Invalid(faults)
    lifetime_ms = read.get("expires_in")
    return Suppression(
        address=read["address"],
        service=read.get("service", ""),
        reason=read.get("reason") or "manual",
        detail=read.get("detail", "")[:_LONGEST],
        created_ms=now_ms,
        expires_ms=None if lifetime_ms is None else now_ms + lifetime_ms,
        actor=actor,
    )


def _parse_suppressed(value: object) -> str:
    return parse_address(value, allow_sandbox=True, allow_local_domains=True)


def _parse_service(value: object) -> str:
    name = parse_line(value)
    if len(name) > 64:
        raise ValueError(f"{shorten(name)} is no name of a service")
    return name


def _parse_lifetime(value: object) -> int:
    lifetime_ms = to_ms(parse_duration(parse_line(value)))
    if not lifetime_ms:
        raise ValueError("would end at once")
    return lifetime_ms


_SUPPRESSION_FIELDS: Mapping[str, Callable[[object], object]] = {
    "address": _parse_suppressed,
    "service": _parse_service,
    "reason": parse_line,
    "detail": parse_line,
    "expires_in": _parse_lifetime,
}
SUPPRESSION_BODY = {name: {"type": ["string", "null"]} for name in _SUPPRESSION_FIELDS} | {
    "address": {"type": "string"}
}
TICKET_BODY = {name: {"type": ["string", "null"]} for name in EVENT_FILTERS} | {
    "state": {"enum": [*(state.value for state in State), None]}
}
FILES_BODY = {
    "files": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "minProperties": 1,
        "description": "The texts of the files, by their names.",
    }
}
RENDERING_BODY = {
    "variables": {"type": ["object", "null"]},
    "locale": {"type": ["string", "null"]},
}
VERSION_BODY = {"version": {"type": ["string", "null"], "description": "Or its beginning."}}
REASON_BODY = {"reason": {"type": ["string", "null"]}}


def parse_reason(fields: Mapping[str, object]) -> str:
    """Read the optional `reason` of an act of administration.

    Raises:
        Invalid: with every fault.
    """
    faults = [
        Fault(f"/{name[:64]}", "is unknown; known: reason")
        for name in fields
        if name != "reason"
    ]
    reason = ""
    try:
        reason = parse_line(fields.get("reason") or "")
    except ValueError as error:
        faults.append(Fault("/reason", str(error)))
    if faults:
        raise Invalid(faults)
    return reason[:_LONGEST]


def parse_files(fields: Mapping[str, object]) -> dict[str, str]:
    """Read the files of a template: `{"files": {"subject.txt": …}}`.

    Raises:
        Invalid: with every fault.
    """
    faults = [
        Fault(f"/{name[:64]}", "is unknown; known: files") for name in fields if name != "files"
    ]
    files = fields.get("files")
    if not isinstance(files, Mapping) or not files:
        faults.append(Fault("/files", "is missing; send the texts of the files by their names"))
        raise Invalid(faults)
    for name, text in files.items():
        if not isinstance(text, str):
            faults.append(Fault(f"/files/{name[:100]}", f"{shorten(text)} is not text"))
    if faults:
        raise Invalid(faults)
    return dict(files)


def parse_rendering(fields: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """Read what a template is to be rendered with: `variables`, `locale`.

    Raises:
        Invalid: with every fault.
    """
    faults = [
        Fault(f"/{name[:64]}", "is unknown; known: variables, locale")
        for name in fields
        if name not in ("variables", "locale")
    ]
    variables, locale = fields.get("variables") or {}, fields.get("locale") or ""
    if not isinstance(variables, dict):
        faults.append(Fault("/variables", f"{shorten(variables)} is not an object"))
    if not isinstance(locale, str):
        faults.append(Fault("/locale", f"{shorten(locale)} is not a language tag"))
    if faults or not isinstance(variables, dict) or not isinstance(locale, str):
        raise Invalid(faults)
    return variables, locale


def parse_version(fields: Mapping[str, object]) -> str:
    """Read the optional `version` of a template.

    Raises:
        Invalid: with every fault.
    """
    faults = [
        Fault(f"/{name[:64]}", "is unknown; known: version")
        for name in fields
        if name != "version"
    ]
    version = fields.get("version") or ""
    if not isinstance(version, str):
        faults.append(Fault("/version", f"{shorten(version)} is not text"))
    if faults or not isinstance(version, str):
        raise Invalid(faults)
    return version
