"""The operator's verbs (product.md §4.1): cancel, hold, release, retry, resolve.

What each of them may do in which state is the life cycle's business, and is checked where it is
written.  Here an order is read, with all its faults at once, and the message is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from emailerctl.core.fields import parse_instant
from emailerctl.errors import AmbiguousId, Fault, Forbidden, Invalid, NotFound
from emailerctl.models.caller import Caller, Scope
from emailerctl.models.clock import Clock, parse_duration, to_ms, to_text
from emailerctl.models.ids import MESSAGE, parse_prefix, parse_public, to_public
from emailerctl.models.message import MessageView
from emailerctl.models.text import parse_line, shorten
from emailerctl.store.base import Order, OrderResult, Resolution, Store, Verb

_CANDIDATES = 5  # that an ambiguous id names
_MOST_RECIPIENTS = 1_000
_REASON_CHARACTERS = 500
_FIELDS: Mapping[Verb, Sequence[str]] = {
    Verb.CANCEL: ("recipients", "reason"),
    Verb.HOLD: ("recipients", "reason"),
    Verb.RELEASE: ("recipients", "reason"),
    Verb.RETRY: ("recipients", "reason", "expires_at", "expires_in"),
    Verb.RESOLVE: ("recipients", "reason", "outcome", "force"),
}


async def carry_out(
    store: Store,
    clock: Clock,
    caller: Caller,
    verb: Verb,
    message: str,
    fields: Mapping[str, object],
) -> OrderResult:
    """Carry out an operator's order about *message*, an id or a prefix of no other message's.

    *fields* are optional `recipients` and `reason`; for retry `expires_at` or `expires_in`; for
    resolve `outcome` and, optional, `force`.  One that is None is as absent.

    Raises:
        Forbidden: the caller may not operate.
        Invalid: with every fault of *fields*.
        NotFound, AmbiguousId: see `resolve_id`.
        Conflict, TooEarly, ContentGone: the state forbids it.
    """
    if Scope.OPERATE not in caller.scopes:
        raise Forbidden(f"this token lacks the scope {Scope.OPERATE}")
    now_ms = clock.now_ms()
    given = {name: value for name, value in fields.items() if value is not None}
    faults = list(_find_faults(verb, given, now_ms))
    if faults:
        raise Invalid(faults)
    order = Order(
        verb=verb,
        message_id=await resolve_id(store, message, service=caller.sees),
        actor=caller.name,
        service=caller.sees,
        reason=str(given.get("reason", "")),
        addresses=_addresses(given),
        expires_ms=_expiry(given, now_ms),
        resolution=Resolution(str(given["outcome"])) if verb is Verb.RESOLVE else None,
        is_forced=given.get("force") is True,
    )
    return await store.order(order, now_ms=now_ms)


async def resolve_id(store: Store, text: str, *, service: str | None) -> int:
    """Return the id of the message that *text* means: its id, or a prefix of no other's.

    Args:
        store: where to look.
        text: `msg_` may be left out.
        service: whose messages there are for the caller; None: everyone's.

    Raises:
        NotFound: there is none, or it is another service's: the same answer.
        AmbiguousId: several; names some.
    """
    bounds = parse_prefix(MESSAGE, text)
    found = []
    if bounds is not None:
        found = await store.find_ids(*bounds, service=service, limit=_CANDIDATES + 1)
    if not found:
        raise NotFound(f"there is no message {shorten(text)}")
    if len(found) > 1:
        candidates = [to_public(MESSAGE, message_id) for message_id in found[:_CANDIDATES]]
        more = " and more" if len(found) > _CANDIDATES else ""
        raise AmbiguousId(
            f"{shorten(text)} begins the ids {', '.join(candidates)}{more}",
            candidates=candidates,
        )
    return found[0]


async def load_message(
    store: Store, text: str, *, service: str | None, now_ms: int | None = None
) -> MessageView:
    """Return the message that *text* means, with its recipients and attempts.

    Raises:
        NotFound, AmbiguousId: see `resolve_id`.
    """
    message_id = parse_public(MESSAGE, text)
    if message_id is None:
        message_id = await resolve_id(store, text, service=service)
    view = await store.find_message(message_id, service=service, now_ms=now_ms)
    if view is None:
        raise NotFound(f"there is no message {shorten(text)}")
    return view


def _find_faults(verb: Verb, given: Mapping[str, object], now_ms: int) -> Iterator[Fault]:
    known = _FIELDS[verb]
    for name in given:
        if name not in known:
            near = get_close_matches(name.lower()[:40], known, n=1)
            cure = f'did you mean "{near[0]}"?' if near else f"{verb} takes {', '.join(known)}"
            yield Fault(f"/{name[:64]}", f"is unknown; {cure}")
    yield from _find_faults_of_all(given)
    if verb is Verb.RETRY:
        yield from _find_faults_of_retry(given, now_ms)
    if verb is Verb.RESOLVE:
        yield from _find_faults_of_resolve(given)


def _find_faults_of_all(given: Mapping[str, object]) -> Iterator[Fault]:
    recipients = given.get("recipients")
    if recipients is not None and (
        not isinstance(recipients, list | tuple)
        or not 0 < len(recipients) <= _MOST_RECIPIENTS
        or not all(isinstance(address, str) for address in recipients)
    ):
        yield Fault("/recipients", f"{shorten(recipients)} is not a list of addresses")
    try:
        reason = parse_line(given.get("reason", ""))
    except ValueError as error:
        yield Fault("/reason", str(error))
    else:
        if len(reason) > _REASON_CHARACTERS:
            detail = f"has {len(reason)} characters; write at most {_REASON_CHARACTERS}"
            yield Fault("/reason", detail)


def _find_faults_of_retry(given: Mapping[str, object], now_ms: int) -> Iterator[Fault]:
    if "expires_at" in given and "expires_in" in given:
        yield Fault("/expires_in", "is given together with expires_at; send one of them")
        return
    try:
        expires_ms = _expiry(given, now_ms)
    except ValueError as error:
        yield Fault("/expires_at" if "expires_at" in given else "/expires_in", str(error))
    else:
        if expires_ms is not None and expires_ms <= now_ms:
            detail = f"{to_text(expires_ms)} has passed; name a later moment"
            yield Fault("/expires_at" if "expires_at" in given else "/expires_in", detail)


def _find_faults_of_resolve(given: Mapping[str, object]) -> Iterator[Fault]:
    outcomes = [resolution.value for resolution in Resolution]
    outcome = given.get("outcome")
    if outcome is None:
        yield Fault("/outcome", f"is missing; one of {', '.join(outcomes)}")
    elif outcome not in outcomes:
        yield Fault("/outcome", f"{shorten(outcome)} is not one of {', '.join(outcomes)}")
    force = given.get("force", False)
    if not isinstance(force, bool):
        yield Fault("/force", f"{shorten(force)} is neither true nor false")
    elif force and not given.get("reason"):
        yield Fault("/reason", "is missing; forcing needs a reason, which is kept")


def _addresses(given: Mapping[str, object]) -> Sequence[str] | None:
    recipients = given.get("recipients")
    if not isinstance(recipients, list | tuple):
        return None
    return [str(address) for address in recipients]


def _expiry(given: Mapping[str, object], now_ms: int) -> int | None:
    """Return when the message shall expire, or None where nothing is said.

    Raises:
        ValueError: not a moment, or not a duration.
    """
    if "expires_at" in given:
        return parse_instant(given["expires_at"])
    if "expires_in" in given:
        value = given["expires_in"]
        if not isinstance(value, str):
            raise ValueError(f'{shorten(value)} is no duration; write for example "1h"')
        return now_ms + to_ms(parse_duration(value))
    return None


def list_fields(verb: Verb) -> Sequence[str]:
    """Return what an order of that verb may say."""
    return _FIELDS[verb]
