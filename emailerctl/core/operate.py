"""The operator's verbs (product.md §4.1): cancel, hold, release, retry, resolve, reschedule.

What each of them may do in which state is the life cycle's business, and is checked where it is
written.  Here an order is read, with all its faults at once, and the message is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches

from emailerctl.core.fields import parse_instant
from emailerctl.core.mime import build_date_field
from emailerctl.core.submission import find_far
from emailerctl.errors import AmbiguousId, ContentGone, Fault, Forbidden, Invalid, NotFound
from emailerctl.models.address import AddressInvalid, parse_address
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
    Verb.RESCHEDULE: ("send_at", "send_in", "reason"),
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
    resolve `outcome` and, optional, `force`; for reschedule, which is about all recipients,
    `send_at` or `send_in`.  One that is None is as absent.

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
        expires_ms=_read_time(given, "expires", now_ms),
        send_at_ms=_read_time(given, "send", now_ms),
        resolution=Resolution(str(given["outcome"])) if verb is Verb.RESOLVE else None,
        is_forced=given.get("force") is True,
    )
    if order.send_at_ms is not None:
        date_field = build_date_field(max(order.send_at_ms, now_ms))
        order = replace(order, date_field=date_field)
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


async def load_content(
    store: Store, text: str, *, service: str | None
) -> tuple[MessageView, bytes]:
    """Return the message that *text* means, and its bytes.

    Raises:
        NotFound, AmbiguousId: see `resolve_id`.
        ContentGone: retention removed them.
    """
    view = await load_message(store, text, service=service)
    raw = await store.load_raw(view.message_id)
    if raw is None:
        raise ContentGone("the content of this message was removed")
    return view, raw


def parse_recipient(text: str, *, allow_local_domains: bool) -> str:
    """Return an address in the form in which it is stored.

    Raises:
        Invalid: it is none.
    """
    try:
        return parse_address(text, allow_sandbox=True, allow_local_domains=allow_local_domains)
    except AddressInvalid as error:
        raise Invalid([Fault("/address", str(error))]) from error


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
    if verb is Verb.RESCHEDULE:
        yield from _find_faults_of_reschedule(given, now_ms)


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
    yield from _find_faults_of_time(given, "expires", now_ms)
    if "expires_at" in given and "expires_in" not in given:
        with suppress(ValueError):
            expires_ms = parse_instant(given["expires_at"])
            if expires_ms <= now_ms:
                yield Fault(
                    "/expires_at", f"{to_text(expires_ms)} has passed; name a later moment"
                )


def _find_faults_of_reschedule(given: Mapping[str, object], now_ms: int) -> Iterator[Fault]:
    yield from _find_faults_of_time(given, "send", now_ms)
    if "send_at" not in given and "send_in" not in given:
        yield Fault("/send_at", "is missing; say when with send_at or send_in")
    with suppress(ValueError):
        due_ms = _read_time(given, "send", now_ms)
        far = "" if due_ms is None else find_far(due_ms, now_ms)
        if far:
            yield Fault("/send_at" if "send_at" in given else "/send_in", far)


def _find_faults_of_time(
    given: Mapping[str, object], what: str, now_ms: int
) -> Iterator[Fault]:
    """Yield what is wrong with *what*`_at` and *what*`_in`, of which one may be given."""
    if f"{what}_at" in given and f"{what}_in" in given:
        yield Fault(f"/{what}_in", f"is given together with {what}_at; send one of them")
        return
    try:
        moment_ms = _read_time(given, what, now_ms)
    except ValueError as error:
        yield Fault(f"/{what}_at" if f"{what}_at" in given else f"/{what}_in", str(error))
    else:
        if f"{what}_in" in given and moment_ms is not None and moment_ms <= now_ms:
            yield Fault(f"/{what}_in", "is over at once; write a longer one")


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


def _read_time(given: Mapping[str, object], what: str, now_ms: int) -> int | None:
    """Return the moment that *what*`_at` or *what*`_in` says, or None where nothing does.

    Raises:
        ValueError: not a moment, or not a duration.
    """
    if f"{what}_at" in given:
        return parse_instant(given[f"{what}_at"])
    if f"{what}_in" in given:
        value = given[f"{what}_in"]
        if not isinstance(value, str):
            raise ValueError(f'{shorten(value)} is no duration; write for example "1h"')
        return now_ms + to_ms(parse_duration(value))
    return None


def list_fields(verb: Verb) -> Sequence[str]:
    """Return what an order of that verb may say."""
    return _FIELDS[verb]
