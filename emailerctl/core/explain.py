"""What happened to a message, why, and what happens next: in sentences (promise P7).

`explain` is pure: it reads what the store holds and says it.  Texts from outside (replies,
reasons, names) are quoted as they are; whoever shows the sentences makes them safe.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from shlex import quote
from typing import Any, NamedTuple

from emailerctl.core.doctor import SILENT_MS
from emailerctl.core.hop_view import HopFacts, HopView, list_hop_views
from emailerctl.core.route import Route, Routing, build_facts, explain_route
from emailerctl.errors import NotFound
from emailerctl.models.clock import to_text
from emailerctl.models.event import (
    CLICK_REPORTED,
    COMPLAINT_REPORTED,
    DELAY_REPORTED,
    GAP,
    MESSAGE_ACCEPTED,
    OPEN_REPORTED,
    RECIPIENT,
    RECIPIENT_EXPIRED,
    SUBSCRIBE_REPORTED,
    UNSUBSCRIBE_REPORTED,
    Event,
)
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, OnUnknown, Reason, State, WaitingFor
from emailerctl.models.message import MessageView, RecipientView
from emailerctl.models.page import EventFilter
from emailerctl.store.base import BreakerState, HopState, Pause, Store

_MOST_EVENTS = 2_000
_NAMED = 2  # recipients in a sentence; of more, so many and a number


class Said(NamedTuple):
    """One sentence, and the moment that it is about, where there is one."""

    text: str
    at_ms: int | None = None


class Advice(NamedTuple):
    """What an operator can do, and what to type for it."""

    text: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A message in sentences."""

    message_id: int
    state: State
    happened: Sequence[Said]
    now: Sequence[Said]
    next: Sequence[Said]
    advice: Sequence[Advice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What an explanation is made of.

    Attributes:
        events: of the message, in order, led by a `gap` where retention removed some.
        route: where it goes if it goes now.
        hops: every next hop's standing, by its name.
        resends: when policy `resend` sends a doubtful recipient again, by its number.
        reporting: names of the next hops that report what became of a message.
        consumers: how many are alive.
        max_age_ms: how long it is tried.
    """

    view: MessageView
    events: Sequence[Event]
    route: Route
    hops: Mapping[str, HopView] = field(default_factory=dict)
    pause: Pause | None = None
    resends: Mapping[int, int] = field(default_factory=dict)
    reporting: frozenset[str] = frozenset()
    consumers: int = 1
    max_age_ms: int = 0
    now_ms: int = 0


async def load_circumstances(
    store: Store,
    message_id: int,
    *,
    routing: Routing,
    hops: Mapping[str, HopFacts],
    reporting: frozenset[str],
    max_age_ms: int,
    now_ms: int,
) -> Circumstances:
    """Read what an explanation is made of.

    Raises:
        NotFound: there is no such message.
    """
    view = await store.find_message(message_id, now_ms=now_ms)
    if view is None:
        raise NotFound(f"there is no message {to_public(MESSAGE, message_id)}")
    filter_ = EventFilter(message_id=message_id)
    views = await list_hop_views(store, hops, now_ms=now_ms)
    beats = [one.heartbeat_ms for one in await store.list_consumers()]
    return Circumstances(
        view=view,
        events=await store.list_events(filter_, after_seq=0, limit=_MOST_EVENTS),
        route=explain_route(routing, build_facts(view)),
        hops={one.hop.name: one for one in views},
        pause=await store.find_pause(now_ms=now_ms),
        resends=await store.find_resends(message_id),
        reporting=reporting,
        consumers=sum(now_ms - beat <= SILENT_MS for beat in beats),
        max_age_ms=max_age_ms,
        now_ms=now_ms,
    )


def explain(facts: Circumstances) -> Explanation:
    """Say what happened to a message, how it stands, what comes next, and what can be done."""
    return Explanation(
        message_id=facts.view.message_id,
        state=facts.view.state,
        happened=list(_tell_past(facts)),
        now=list(_tell_present(facts)),
        next=list(_tell_future(facts)),
        advice=list(dict.fromkeys(_advise(facts))),
    )


# What happened


def _tell_past(facts: Circumstances) -> Iterator[Said]:
    first = next((e for e in facts.events if e.type != GAP), None)
    if first is None or first.type != MESSAGE_ACCEPTED:
        yield _tell_acceptance(facts)
        yield Said(
            "Retention removed events of it: what is not told here is not known any more"
        )
    routes: list[str] = []
    for _key, group in groupby(facts.events, key=_key_of):
        events = list(group)
        event = events[0]
        if event.type == MESSAGE_ACCEPTED:
            yield _tell_acceptance(facts, event)
            continue
        tell = _PAST.get(event.type)
        if tell is None:
            continue
        whom = _name([e.recipient or "" for e in events])
        said = tell(event, whom)
        if event.attempt and event.type == RECIPIENT[Cause.MARKED]:
            route = _find_route(facts.view, event.attempt)
            if route and route not in routes:
                routes.append(route)
                said += f"; that next hop was chosen by {route}"
        if (
            event.from_state is not None
            and event.from_state is event.to_state
            and (event.type in _STEPPING)
        ):
            said += f"; this changed nothing: it was {event.from_state} already"
        yield Said(said, event.at_ms)


def _key_of(event: Event) -> tuple[object, ...]:
    """Tell apart what can't be said in one sentence."""
    return (
        event.type, event.at_ms, event.attempt, event.provider, event.reply,
        event.from_state, event.to_state, str(event.data),
    )  # fmt: skip


def _find_route(view: MessageView, attempt: int) -> str:
    return next((a.route for a in view.attempts if a.n == attempt), "")


def _tell_acceptance(facts: Circumstances, event: Event | None = None) -> Said:
    view = facts.view
    if view.token:
        who = f"from the token {view.token} of the service {view.service}"
    elif view.token_id:
        who = f"from a token of the service {view.service}"
    else:
        who = f"from the service {view.service}, at this machine"
    test = ", as a test: nothing of it leaves this host" if view.is_test else ""
    count = len(view.recipients)
    whom = "1 recipient" if count == 1 else f"{count} recipients"
    way = ""
    if event is not None and event.data.get("next_hop"):
        rule = event.data.get("route")
        way = f", to go through {event.data['next_hop']}" + (f" ({rule})" if rule else "")
    text = f"Accepted {who}, {view.size_bytes} bytes for {whom}{way}{test}"
    return Said(text, view.created_ms)


def _via(event: Event) -> str:
    return event.provider or "the next hop"


def _in_attempt(event: Event) -> str:
    return f" (attempt {event.attempt})" if event.attempt else ""


def _said(event: Event) -> str:
    return f": “{event.reply}”" if event.reply else ""


def _by(event: Event) -> str:
    actor = event.data.get("actor")
    return f"{actor}" if actor else "The program"


def _why(event: Event) -> str:
    reason = event.data.get("reason")
    return f": {reason}" if reason else ""


def _tell_failed(event: Event, whom: str) -> str:
    reason = event.data.get("reason")
    told = {
        Reason.EXHAUSTED: f"It was given up for {whom}: it had been tried for as long as "
        "[retry] max_age says",
        Reason.EXPIRED: f"It was given up for {whom}: the sender did not want it any later",
        Reason.REJECTED: f"{_via(event)} refused the message itself for good, so that {whom} "
        f"did not get it{_in_attempt(event)}",
        Reason.SUPPRESSED: f"It was not sent to {whom}: the address is on the suppression list",
    }
    said = told.get(Reason(str(reason))) if reason in set(Reason) else None
    return (said or f"It was given up for {whom}") + _said(event)


def _tell_accepted_recipient(event: Event, whom: str) -> str:
    if event.to_state is State.FAILED:
        return f"It was not even tried for {whom}: the address is on the suppression list"
    return f"Queued for {whom}"


def _tell_deferred(event: Event, whom: str) -> str:
    if event.attempt:
        return f"{_via(event)} did not take it for {whom} yet{_in_attempt(event)}{_said(event)}"
    return f"It was put off for {whom}{_said(event)}"


def _tell_resent(event: Event, whom: str) -> str:
    who = "The policy resend" if event.data.get("actor") == "policy" else _by(event)
    return f"{who} queued it for {whom} again, accepting a second copy{_why(event)}"


_PAST: Mapping[str, Callable[[Event, str], str]] = {
    GAP: lambda e, _w: f"Retention removed the events up to {e.data.get('to_seq')}",
    RECIPIENT[Cause.ACCEPTED]: _tell_accepted_recipient,
    RECIPIENT[Cause.MARKED]: lambda e, w: (
        f"{_via(e)} was about to get the last byte for {w}{_in_attempt(e)}"
    ),
    RECIPIENT[Cause.HANDED_OVER]: lambda e, w: (
        f"{_via(e)} took it for {w}{_in_attempt(e)}{_said(e)}"
    ),
    RECIPIENT[Cause.DEFERRED]: _tell_deferred,
    RECIPIENT[Cause.REFUSED]: lambda e, w: (
        f"{_via(e)} refused {w} for good{_in_attempt(e)}{_said(e)}"
    ),
    RECIPIENT[Cause.ABANDONED]: _tell_failed,
    RECIPIENT[Cause.UNANSWERED]: lambda e, w: (
        f"{_via(e)} did not answer after the last byte for {w}{_in_attempt(e)}: "
        f"it may or may not have taken it{_said(e)}"
    ),
    RECIPIENT[Cause.INTERRUPTED]: lambda e, w: (
        f"The consumer ended between the last byte for {w} and the answer of "
        f"{_via(e)}{_in_attempt(e)}: it may or may not have been taken"
    ),
    RECIPIENT[Cause.FENCED]: lambda e, w: (
        f"{_by(e)} restored a backup: {w} may have been sent to since it was made"
    ),
    RECIPIENT[Cause.RESOLVED_SENT]: lambda e, w: (
        f"{_by(e) if e.data.get('actor') else _via(e)} said that it went out "
        f"to {w}{_in_attempt(e)}{_why(e)}{_said(e)}"
    ),
    RECIPIENT[Cause.RESOLVED_NOT_SENT]: lambda e, w: (
        f"{_by(e) if e.data.get('actor') else _via(e)} said that it did not go out "
        f"to {w}{_in_attempt(e)}: queued again{_why(e)}{_said(e)}"
    ),
    RECIPIENT[Cause.RESENT]: _tell_resent,
    RECIPIENT[Cause.DELIVERY_REPORTED]: lambda e, w: (
        f"{_via(e)} reported that the server of {w} took it{_said(e)}"
    ),
    RECIPIENT[Cause.BOUNCE_REPORTED]: lambda e, w: (
        f"{_via(e)} reported that {w} was refused for good{_said(e)}"
    ),
    RECIPIENT[Cause.HELD]: lambda e, w: f"{_by(e)} held it for {w}{_why(e)}",
    RECIPIENT[Cause.RELEASED]: lambda e, w: f"{_by(e)} released it for {w}{_why(e)}",
    RECIPIENT[Cause.CANCELLED]: lambda e, w: f"{_by(e)} cancelled it for {w}{_why(e)}",
    RECIPIENT[Cause.RETRIED]: lambda e, w: f"{_by(e)} queued it for {w} again{_why(e)}",
    RECIPIENT_EXPIRED: lambda _e, w: (
        f"Its expiry passed; for {w} it is still not known whether it went out"
    ),
    COMPLAINT_REPORTED: lambda e, w: f"{w} called it spam, as {_via(e)} reported",
    OPEN_REPORTED: lambda e, w: f"{w} opened it, as {_via(e)} reported",
    CLICK_REPORTED: lambda e, w: f"{w} followed a link in it, as {_via(e)} reported",
    UNSUBSCRIBE_REPORTED: lambda _e, w: f"{w} unsubscribed",
    SUBSCRIBE_REPORTED: lambda _e, w: f"{w} subscribed again",
    DELAY_REPORTED: lambda e, w: f"{_via(e)} reported that {w} has to wait{_said(e)}",
}
_STEPPING = frozenset(RECIPIENT[c] for c in Cause) - {RECIPIENT[Cause.DEFERRED],
                                                     RECIPIENT[Cause.RETRIED]}  # fmt: skip


# How it stands


_STANDS: Mapping[State, str] = {
    State.UNKNOWN: "may or may not have it: nobody can know",
    State.SENDING: "is being sent to: the last byte may have left",
    State.QUEUED: "waits",
    State.HELD: "is held",
    State.FAILED: "was given up",
    State.BOUNCED: "was refused for good",
    State.SENT: "was handed over: the next hop took responsibility",
    State.DELIVERED: "has it, as was reported",
    State.CANCELLED: "was cancelled",
}


def _tell_present(facts: Circumstances) -> Iterator[Said]:
    for (state, reason), group in _group(facts.view.recipients, lambda r: (r.state, r.reason)):
        why = f" ({reason})" if reason else ""
        yield Said(f"{_name([r.address for r in group])} {_STANDS[state]}{why}")


# What comes next


def _tell_future(facts: Circumstances) -> Iterator[Said]:
    for state, group in _group(facts.view.recipients, lambda r: r.state):
        whom = _name([r.address for r in group])
        if state is State.QUEUED:
            yield from _tell_queued(facts, group[0])
        elif state is State.SENDING:
            yield _tell_sending(facts, whom)
        elif state is State.UNKNOWN:
            yield from _tell_doubt(facts, group, whom)
        elif state is State.HELD:
            until = facts.view.expires_ms
            end = f", or until it is given up at {_show(until)}" if until else ""
            yield Said(f"For {whom} nothing until an operator releases it{end}", until)
        elif state is State.SENT:
            yield _tell_sent(facts, group, whom)
    if all(r.state in _OVER for r in facts.view.recipients):
        yield Said("Nothing more happens by itself")


_OVER = frozenset({State.FAILED, State.BOUNCED, State.DELIVERED, State.CANCELLED})


def _tell_queued(facts: Circumstances, one: RecipientView) -> Iterator[Said]:
    chain = ", then ".join(facts.route.chain)
    via = f"through {chain} ({facts.route.reason})" if chain else ""
    due = _show(one.due_ms) if one.due_ms is not None else "now"
    pause = facts.pause
    if not chain:
        yield Said(
            "No next hop takes it: the ones that it is for are not in the settings any more "
            f"({facts.route.reason})"
        )
    elif pause is not None:
        end = (
            f"until {_show(pause.until_ms)}" if pause.until_ms else "until somebody resumes it"
        )
        why = f": {pause.reason}" if pause.reason else ""
        yield Said(f"The queue is paused {end}, by {pause.actor}{why}", pause.until_ms)
        yield Said(f"Then it is sent {via}")
    elif one.waiting_for is WaitingFor.NEXT_HOP:
        shut = [said for name in facts.route.chain if (said := _tell_shut(facts, name))]
        told = "; ".join(shut) or "each of its next hops, or its share of them, is busy"
        yield Said(f"It waits for a next hop: {told}")
        yield Said(f"It is looked at again at {due}, and goes {via}", one.due_ms)
    elif one.waiting_for is WaitingFor.RETRY:
        yield Said(f"It is tried again at {due}, {via}", one.due_ms)
    elif one.waiting_for is WaitingFor.SEND_AT:
        yield Said(f"It is not sent before {due}; then {via}", one.due_ms)
    else:
        yield Said(f"It is due: a consumer sends it {via}")
    if not facts.consumers:
        yield Said("No consumer is running: nothing is sent until one is started")
    end_ms = _find_end(facts)
    if end_ms is not None:
        yield Said(f"It is given up at {_show(end_ms)}, if it was not taken by then", end_ms)


def _find_end(facts: Circumstances) -> int | None:
    """Return when it is given up: its expiry, or its age since the last order about it."""
    view = facts.view
    orders = ("operator.retry", "operator.release", "operator.resolve")
    from_ms = max((e.at_ms for e in facts.events if e.type in orders), default=view.created_ms)
    ends = [view.expires_ms] if view.expires_ms is not None else []
    if facts.max_age_ms:
        ends.append(from_ms + facts.max_age_ms)
    return min(ends, default=None)


def _tell_shut(facts: Circumstances, name: str) -> str:
    view = facts.hops.get(name)
    if view is None:
        return f"{name} is not in the settings"
    hop, breaker = view.hop, view.breaker
    if hop.state is not HopState.OPEN:
        by = f" by {hop.actor}" if hop.actor else ""
        return f"{name} is {hop.state}{by}" + (f" ({hop.reason})" if hop.reason else "")
    if breaker.state is BreakerState.CLOSED:
        return ""
    until = f" until {_show(breaker.until_ms)}" if breaker.state is BreakerState.OPEN else ""
    return f"the breaker of {name} is {breaker.state}{until} ({breaker.reason})"


def _tell_sending(facts: Circumstances, whom: str) -> Said:
    return Said(
        f"The answer for {whom} is awaited; if none comes, or the consumer ends, it is unknown "
        "whether it went out, and it is not sent again by itself"
        + (" before policy resend says so" if facts.view.on_unknown is OnUnknown.RESEND else "")
    )


def _tell_doubt(
    facts: Circumstances, group: Sequence[RecipientView], whom: str
) -> Iterator[Said]:
    view, now_ms = facts.view, facts.now_ms
    open_ms = _find_open_until(view)
    if open_ms > now_ms:
        yield Said(f"A late answer may still come until {_show(open_ms)}, and would settle it",
                   open_ms)  # fmt: skip
    reports = {r.provider for r in group} & facts.reporting
    if reports:
        yield Said(f"A report of {_name(sorted(reports))} would settle it too")
    again = [facts.resends[r.n] for r in group if r.n in facts.resends]
    if view.on_unknown is OnUnknown.RESEND and again:
        at_ms = min(again)
        yield Said(
            f"Its policy is resend: it is sent to {whom} again at {_show(at_ms)}, which "
            "may make a second copy",
            at_ms,
        )
    elif view.on_unknown is OnUnknown.RESEND:
        yield Said(
            f"Its policy is resend, but its time is over: it is not sent to {whom} again"
        )
    else:
        yield Said(
            f"Its policy is ask: it is never sent to {whom} again unless an operator says so"
        )


def _find_open_until(view: MessageView) -> int:
    return max((a.open_until_ms or 0 for a in view.attempts), default=0)


def _tell_sent(facts: Circumstances, group: Sequence[RecipientView], whom: str) -> Said:
    hops = sorted({r.provider for r in group if r.provider})
    reporting = [name for name in hops if name in facts.reporting]
    if reporting:
        return Said(
            f"{_name(reporting)} may report later whether {whom} got it; nothing else happens"
        )
    return Said(f"Nothing more is heard of it for {whom}, unless a bounce comes back")


# What can be done


def _advise(facts: Circumstances) -> Iterator[Advice]:
    view = facts.view
    public = to_public(MESSAGE, view.message_id)
    states = {r.state for r in view.recipients}
    if State.QUEUED in states:
        yield from _advise_waiting(facts, public)
    if State.HELD in states:
        yield Advice("let it go", f"emailerctl messages release {public}")
        yield Advice("withdraw it", f"emailerctl messages cancel {public}")
    if State.UNKNOWN in states:
        yield from _advise_in_doubt(facts, public)
    if states & {State.FAILED, State.BOUNCED, State.CANCELLED}:
        yield from _advise_retry(facts, public)
    if states & {State.SENT, State.DELIVERED} and view.has_content:
        yield Advice("send the same once more, as a new message",
                     f"emailerctl send --like {public}")  # fmt: skip


def _advise_waiting(facts: Circumstances, public: str) -> Iterator[Advice]:
    waiting = {r.waiting_for for r in facts.view.recipients if r.state is State.QUEUED}
    if facts.pause is not None:
        yield Advice("go on at once", "emailerctl queue resume")
    for name in facts.route.chain if WaitingFor.NEXT_HOP in waiting else ():
        if _tell_shut(facts, name) and name in facts.hops:
            yield Advice(f"see what {name} lacks", f"emailerctl providers check {name}")
            yield Advice(f"open {name} at once", f"emailerctl providers enable {name}")
    if not facts.consumers:
        yield Advice("start a consumer", "emailerctl consume")
    if waiting & {WaitingFor.RETRY, WaitingFor.NEXT_HOP}:
        yield Advice("try it now", f"emailerctl retry {public}")
    yield Advice("withdraw it", f"emailerctl messages cancel {public}")
    yield Advice("park it", f"emailerctl messages hold {public}")


def _advise_in_doubt(facts: Circumstances, public: str) -> Iterator[Advice]:
    yield Advice("see what was said", f"emailerctl unknown show {public}")
    yield Advice(
        "it went out, as you found", f"emailerctl unknown resolve {public} --outcome sent"
    )
    open_ms = _find_open_until(facts.view)
    after = f", from {_show(open_ms)} on" if open_ms > facts.now_ms else ""
    yield Advice(
        f"it did not{after}", f"emailerctl unknown resolve {public} --outcome not-sent"
    )
    yield Advice(
        f"nobody can know, and a second copy does no harm{after}",
        f"emailerctl unknown resend {public}",
    )


def _advise_retry(facts: Circumstances, public: str) -> Iterator[Advice]:
    view = facts.view
    if not view.has_content:
        return  # retention removed the bytes: there is nothing to send
    for recipient in view.recipients:
        if recipient.reason is Reason.SUPPRESSED:
            yield Advice(
                f"send to {recipient.address} again, if that is wanted",
                f"emailerctl suppressions rm {quote(recipient.address)}",
            )
    is_over = view.expires_ms is not None and view.expires_ms <= facts.now_ms
    more = " --expires-in 1h" if is_over else ""
    yield Advice("queue it again", f"emailerctl retry {public}{more}")


# Words


def _group(
    recipients: Sequence[RecipientView], key: Callable[[RecipientView], object]
) -> list[tuple[Any, list[RecipientView]]]:
    groups: dict[object, list[RecipientView]] = {}
    for recipient in recipients:
        groups.setdefault(key(recipient), []).append(recipient)
    return list(groups.items())


def _name(names: Sequence[str]) -> str:
    """Return names as a sentence has them: a, b and 3 others."""
    more = len(names) - _NAMED
    if more > 1:
        return f"{', '.join(names[:_NAMED])} and {more} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _show(moment_ms: int | None) -> str:
    """Return a moment as people write it, in UTC."""
    if moment_ms is None:
        return "no time"
    return f"{to_text(moment_ms)[:19].replace('T', ' ')} UTC"
