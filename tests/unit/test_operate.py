"""The operator's verbs: what an order says, whose message it is about, what comes of it."""

import pytest

from emailerctl.core import operate
from emailerctl.errors import (
    AmbiguousId,
    Conflict,
    EmailerError,
    Forbidden,
    Invalid,
    NotFound,
    TooEarly,
)
from emailerctl.models.caller import Caller, Scope, build_local_caller
from emailerctl.models.clock import boot_id
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.store.base import Consumer, OrderResult, Verb
from emailerctl.wiring import App
from tests.fakes import FakeClock

ME = build_local_caller("ann")
BODY = {"from": "shop@example.org", "to": ["a@example.net", "b@example.net"], "text": "x"}
FINAL_REPLY_MS = 600_000


def caller(service: str, *scopes: Scope) -> Caller:
    return Caller(token_id=1, name=f"{service}-ops", service=service, scopes=frozenset(scopes))


async def accept(app: App, *, service: str = "local", **fields: object) -> str:
    sender = Caller(token_id=0, name=service, service=service, scopes=frozenset(Scope))
    receipt = await app.acceptance.accept({**BODY, **fields}, caller=sender)
    return to_public(MESSAGE, receipt.message_id)


async def doubt(app: App, public: str) -> None:
    """Let a consumer die between the mark and the answer."""
    now_ms, boot_ms = app.clock.now_ms(), app.clock.boot_ms()
    await app.store.register(
        Consumer(
            consumer_id=7,
            host="h",
            pid=1,
            boot_id=boot_id(),
            version="0",
            started_ms=now_ms,
            heartbeat_ms=now_ms,
            lease_until_ms=boot_ms + 60_000,
        )
    )
    message_id = await operate.resolve_id(app.store, public, service=None)
    (claim,) = await app.store.claim([message_id], consumer_id=7, now_ms=now_ms)
    assert await app.store.mark(
        claim,
        [recipient.n for recipient in claim.recipients],
        provider="relay",
        now_ms=now_ms,
        boot_ms=boot_ms,
        final_reply_ms=FINAL_REPLY_MS,
    )
    await app.store.void(
        7, is_dead=True, now_ms=now_ms, boot_ms=boot_ms, resend_after_ms=FINAL_REPLY_MS
    )


async def order(
    app: App, verb: Verb, public: str, who: Caller = ME, **fields: object
) -> OrderResult:
    return await operate.carry_out(app.store, app.clock, who, verb, public, fields)


def pointers(error: Invalid) -> set[str]:
    return {fault.pointer for fault in error.faults}


@pytest.mark.parametrize(
    ("before", "verb", "state"),
    [
        ([], Verb.CANCEL, State.CANCELLED),
        ([Verb.HOLD], Verb.CANCEL, State.CANCELLED),
        ([], Verb.HOLD, State.HELD),
        ([Verb.HOLD], Verb.RELEASE, State.QUEUED),
        ([], Verb.RETRY, State.QUEUED),
        ([Verb.CANCEL], Verb.RETRY, State.QUEUED),
    ],
)
async def test_verb_fits_its_states(
    app: App, before: list[Verb], verb: Verb, state: State
) -> None:
    public = await accept(app)
    for earlier in before:
        await order(app, earlier, public)
    result = await order(app, verb, public)

    assert result.state is state
    assert result.changed == (1, 2)


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        ([Verb.CANCEL], Verb.CANCEL),
        ([Verb.CANCEL], Verb.HOLD),
        ([], Verb.RELEASE),
        ([Verb.HOLD], Verb.RETRY),
    ],
)
async def test_verb_that_does_not_fit_names_the_states(
    app: App, before: list[Verb], verb: Verb
) -> None:
    public = await accept(app)
    for earlier in before:
        await order(app, earlier, public)

    with pytest.raises(Conflict) as refusal:
        await order(app, verb, public)
    assert len(refusal.value.members["recipients"]) == 2  # type: ignore[arg-type]


async def test_named_recipients_only(app: App) -> None:
    public = await accept(app)
    result = await order(app, Verb.HOLD, public, recipients=["B@example.net"])

    assert result.changed == (2,)
    assert [one.state for one in result.recipients] == [State.QUEUED, State.HELD]


async def test_none_is_as_absent(app: App) -> None:
    public = await accept(app)

    result = await order(app, Verb.HOLD, public, recipients=None, reason=None)
    assert result.changed == (1, 2)


@pytest.mark.parametrize(
    ("verb", "fields", "wrong"),
    [
        (Verb.HOLD, {"recipients": []}, {"/recipients"}),
        (Verb.HOLD, {"recipients": "a@example.net"}, {"/recipients"}),
        (Verb.HOLD, {"recipients": [1]}, {"/recipients"}),
        (Verb.HOLD, {"recipients": ["eve@example.net"]}, {"/recipients"}),
        (Verb.HOLD, {"reason": 5}, {"/reason"}),
        (Verb.HOLD, {"reason": "a\x1b[31m"}, {"/reason"}),
        (Verb.HOLD, {"reason": "x" * 501}, {"/reason"}),
        (Verb.HOLD, {"expires_in": "1h"}, {"/expires_in"}),
        (Verb.HOLD, {"resaon": "x", "outcome": "sent"}, {"/resaon", "/outcome"}),
        (Verb.RETRY, {"expires_in": 60}, {"/expires_in"}),
        (Verb.RETRY, {"expires_in": "0s"}, {"/expires_in"}),
        (Verb.RETRY, {"expires_at": "tomorrow"}, {"/expires_at"}),
        (Verb.RETRY, {"expires_at": "2020-01-01T00:00:00Z"}, {"/expires_at"}),
        (Verb.RETRY, {"expires_at": "x", "expires_in": "1h"}, {"/expires_in"}),
        (Verb.RESOLVE, {}, {"/outcome"}),
        (Verb.RESOLVE, {"outcome": ["sent"]}, {"/outcome"}),
        (Verb.RESOLVE, {"outcome": "sent", "force": "yes"}, {"/force"}),
        (Verb.RESOLVE, {"outcome": "resend", "force": True}, {"/reason"}),
    ],
)
async def test_wrong_orders_name_the_field(
    app: App, verb: Verb, fields: dict[str, object], wrong: set[str]
) -> None:
    public = await accept(app)

    with pytest.raises(Invalid) as refusal:
        await order(app, verb, public, **fields)
    assert pointers(refusal.value) == wrong


async def test_expired_message_needs_a_new_expiry(app: App, clock: FakeClock) -> None:
    public = await accept(app, expires_in="1m")
    await order(app, Verb.CANCEL, public)
    clock.advance(m=2)

    with pytest.raises(Conflict, match="expired"):
        await order(app, Verb.RETRY, public)
    assert (await order(app, Verb.RETRY, public, expires_in="1h")).state is State.QUEUED
    view = await operate.load_message(app.store, public, service=None)
    assert view.expires_ms == clock.now_ms() + 3_600_000


async def test_unknown_is_not_retried_but_resent(app: App) -> None:
    """P3: retry would make a second copy without saying so."""
    public = await accept(app)
    await doubt(app, public)

    with pytest.raises(Conflict) as refusal:
        await order(app, Verb.RETRY, public)
    assert "unknown resend" in refusal.value.cure


@pytest.mark.parametrize("outcome", ["not_sent", "resend"])
async def test_too_early_to_send_again(app: App, clock: FakeClock, outcome: str) -> None:
    """A late answer may still come."""
    public = await accept(app)
    await doubt(app, public)

    with pytest.raises(TooEarly, match="2026-11-24T10:1"):
        await order(app, Verb.RESOLVE, public, outcome=outcome)
    clock.advance(ms=FINAL_REPLY_MS + 60_001)
    result = await order(app, Verb.RESOLVE, public, outcome=outcome)
    assert result.state is State.QUEUED


async def test_forced_with_a_reason(app: App) -> None:
    public = await accept(app)
    await doubt(app, public)
    result = await order(
        app, Verb.RESOLVE, public, outcome="resend", force=True, reason="the code expires"
    )

    assert result.state is State.QUEUED


async def test_resolved_sent_at_once(app: App) -> None:
    public = await accept(app)
    await doubt(app, public)

    assert (await order(app, Verb.RESOLVE, public, outcome="sent")).state is State.SENT


# whose message


async def test_operating_needs_its_scope(app: App) -> None:
    public = await accept(app, service="shop")

    with pytest.raises(Forbidden, match="operate"):
        await order(app, Verb.HOLD, public, caller("shop", Scope.SEND, Scope.READ))
    result = await order(app, Verb.HOLD, public, caller("shop", Scope.OPERATE))
    assert result.state is State.HELD


async def test_foreign_and_absent_are_the_same(app: App) -> None:
    """T-02."""
    public = await accept(app, service="shop")
    other = caller("other", Scope.OPERATE)
    said = set()
    for text in (public, "msg_0000000000000"):
        with pytest.raises(NotFound) as refusal:
            await order(app, Verb.HOLD, text, other)
        said.add(refusal.value.detail.replace(text, ""))

    assert len(said) == 1


async def test_prefix_is_unique_among_ones_own(app: App) -> None:
    own = await accept(app, service="shop")
    foreign = await accept(app, service="other")
    prefix = own[:8]
    assert foreign.startswith(prefix)

    found = await operate.resolve_id(app.store, prefix, service="shop")
    assert to_public(MESSAGE, found) == own
    with pytest.raises(AmbiguousId) as refusal:
        await operate.resolve_id(app.store, prefix, service=None)
    assert refusal.value.members["candidates"] == sorted([own, foreign])


@pytest.mark.parametrize("text", ["", "msg_", "msg_!", "é", "x" * 100, "msg_ZZZZZZZZZZZZZ"])
async def test_what_is_no_id_is_not_found(app: App, text: str) -> None:
    with pytest.raises(NotFound):
        await operate.resolve_id(app.store, text, service=None)
    with pytest.raises(EmailerError):
        await operate.load_message(app.store, text, service=None)
