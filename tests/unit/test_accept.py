"""Acceptance: a request becomes a committed message, or is refused with all its faults."""

from collections.abc import Mapping
from dataclasses import replace
from email import message_from_bytes, policy
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from emailerctl.core.accept import Acceptance, AcceptRules
from emailerctl.core.deliver import find_route
from emailerctl.core.fields import Limits
from emailerctl.core.route import Routing, Rule
from emailerctl.errors import (
    EmailerError,
    Forbidden,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    Invalid,
    OutcomeUnknown,
    Overloaded,
    RecipientRate,
    StorageFull,
    Unauthorized,
)
from emailerctl.models.caller import Caller, Scope, TokenLimits
from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import OnUnknown, State, WaitingFor
from emailerctl.models.message import Mailbox, NewMessage, Receipt, RecipientKind
from emailerctl.providers.base import Abilities
from emailerctl.store.base import Verb
from emailerctl.store.sqlite import sqlite3
from tests.contract.test_store_acceptance import suppression, token
from tests.desk import Desk

RULES = AcceptRules(
    limits=Limits(),
    routing=Routing(("relay", "backup"), frozenset({"relay", "backup", "bulk", "sandbox"})),
    doubtful_hops=frozenset({"relay"}),
)
CALLER = Caller(token_id=0, name="web", service="shop", scopes=frozenset({Scope.SEND}))
FIELDS: Mapping[str, object] = {
    "from": "Shop <shop@example.com>",
    "to": ["Ann Example <ann@example.org>"],
    "subject": "Your order",
    "text": "It is on its way.\n",
}


class Counter:
    """An acceptance over the store of a desk, and what it is told about the machine."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.is_storage_low = False
        self.backlog = 0

    async def accept(
        self,
        more: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        limits: Mapping[str, Any] | None = None,
        caller: Caller = CALLER,
        rng: Random | None = None,
        **rules: Any,
    ) -> Receipt:
        acceptance = Acceptance(
            self.desk.store,
            replace(RULES, **rules),
            clock=self.desk.clock,
            rng=rng or self.desk.rng,
            is_storage_low=lambda: self.is_storage_low,
            backlog=lambda: self.backlog,
        )
        fields = {
            name: value for name, value in {**FIELDS, **(more or {})}.items() if value != ...
        }
        if limits is not None:
            caller = replace(caller, limits=TokenLimits(**limits))
        return await acceptance.accept(fields, caller=caller, key=key)

    async def count(self) -> int:
        return len(self.desk.rows("SELECT 1 FROM messages"))


@pytest.fixture
async def counter(desk: Desk) -> Counter:
    return Counter(desk)


# what is committed


async def test_what_was_asked_for_is_committed(counter: Counter) -> None:
    now_ms = counter.desk.clock.now_ms()
    receipt = await counter.accept(
        {
            "cc": "bob@example.org",
            "bcc": "cid@example.org",
            "tags": ["a"],
            "metadata": {"k": "v"},
            "on_unknown": "resend",
            "expires_in": "2h",
            "provider": "bulk",
        }
    )

    view = await counter.desk.load(receipt.message_id)
    assert (receipt.state, receipt.is_replay, receipt.warnings) == (State.QUEUED, False, ())
    assert [(r.address, r.kind) for r in view.recipients] == [
        ("ann@example.org", RecipientKind.TO),
        ("bob@example.org", RecipientKind.CC),
        ("cid@example.org", RecipientKind.BCC),
    ]
    assert (view.service, view.provider, view.on_unknown) == (
        "shop",
        "bulk",
        OnUnknown.RESEND,
    )
    assert (view.tags, view.metadata, view.subject) == (("a",), {"k": "v"}, "Your order")
    assert view.expires_ms == now_ms + 7_200_000
    assert (view.envelope_sender, view.header_from) == ("shop@example.com", "shop@example.com")
    assert await counter.desk.due(bulk=9) == (receipt.message_id,)
    assert view.recipients[0].waiting_for is WaitingFor.READY


async def test_the_bytes_are_built_once_and_hashed(counter: Counter) -> None:
    receipt = await counter.accept({"bcc": "cid@example.org"})

    raw = await counter.desk.store.load_raw(receipt.message_id)
    assert raw is not None
    view = await counter.desk.load(receipt.message_id)
    assert view.content_hash == sha256(raw).digest()
    parsed = message_from_bytes(raw, policy=policy.default)
    public = to_public(MESSAGE, receipt.message_id)
    assert parsed["Message-ID"] == f"<{public}@example.com>"
    assert parsed["Date"].datetime.timestamp() * 1000 == view.created_ms
    assert parsed["Bcc"] is None
    assert b"cid@example.org" not in raw


async def test_a_default_sender_and_an_envelope_sender_come_from_the_settings(
    counter: Counter,
) -> None:
    receipt = await counter.accept(
        {"from": ...},
        default_from=Mailbox("no-reply@example.net", "Example"),
        envelope_sender="bounces@example.net",
    )

    view = await counter.desk.load(receipt.message_id)
    assert (view.header_from, view.envelope_sender) == (
        "no-reply@example.net",
        "bounces@example.net",
    )


async def test_the_default_policy_comes_from_the_settings(counter: Counter) -> None:
    by_default = await counter.accept(default_on_unknown=OnUnknown.RESEND)
    asked = await counter.accept({"on_unknown": "ask"}, default_on_unknown=OnUnknown.RESEND)

    assert (by_default.on_unknown, asked.on_unknown) == (OnUnknown.RESEND, OnUnknown.ASK)


async def test_an_id_that_is_taken_is_built_again(counter: Counter) -> None:
    first = await counter.accept(rng=Random(5))
    second = await counter.accept(rng=Random(5))

    assert first.message_id != second.message_id
    raw = await counter.desk.store.load_raw(second.message_id)
    assert raw is not None
    assert to_public(MESSAGE, second.message_id).encode() in raw


async def test_a_test_message_goes_to_the_sandbox_whatever_it_names(counter: Counter) -> None:
    receipt = await counter.accept(
        {"to": "delivered@sandbox.test", "provider": "relay"},
        caller=replace(CALLER, is_test=True),
    )

    assert receipt.is_test
    assert await counter.desk.due(sandbox=9) == (receipt.message_id,)


async def test_all_faults_are_told_at_once(counter: Counter) -> None:
    with pytest.raises(Invalid) as refusal:
        await counter.accept({"to": ["nobody", "ann@example.org"], "subject": 5, "colour": 1})

    assert {fault.pointer for fault in refusal.value.faults} == {"/to/0", "/subject", "/colour"}
    assert await counter.count() == 0


@pytest.mark.parametrize(
    ("rules", "provider", "words"),
    [
        ({}, "nowhere", "there is no provider.*known: backup, bulk, relay, sandbox"),
        ({"routing": Routing((), frozenset())}, "nowhere", "known: none"),
        ({"routing": Routing((), frozenset({"bulk"}))}, ..., "default names no provider"),
    ],
)
async def test_a_message_that_nobody_could_send_is_refused(
    counter: Counter, rules: dict[str, Any], provider: object, words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        await counter.accept({"provider": provider}, **rules)

    assert await counter.count() == 0


# idempotency


async def test_a_repeated_request_gives_the_same_message_as_it_stands(
    counter: Counter,
) -> None:
    first = await counter.accept(key="k1")
    await counter.desk.order(Verb.HOLD, first.message_id)

    again = await counter.accept(dict(reversed(FIELDS.items())), key="k1")

    assert (again.message_id, again.is_replay, again.state) == (
        first.message_id,
        True,
        State.HELD,
    )
    assert await counter.count() == 1


async def test_the_same_key_with_another_body_names_the_fields(counter: Counter) -> None:
    """F-IN-12."""
    first = await counter.accept(key="k1")

    with pytest.raises(IdempotencyKeyReused) as refusal:
        await counter.accept({"subject": "Other", "text": ..., "html": "<p>"}, key="k1")

    assert refusal.value.members["message_id"] == to_public(MESSAGE, first.message_id)
    errors: Any = refusal.value.members["errors"]
    assert [error["pointer"] for error in errors] == ["/html", "/subject", "/text"]
    assert await counter.count() == 1


async def test_keys_belong_to_a_service(counter: Counter) -> None:
    first = await counter.accept(key="k1")
    other = await counter.accept(key="k1", caller=replace(CALLER, service="blog"))
    rotated = await counter.accept(key="k1", caller=replace(CALLER, name="web-2"))

    assert other.message_id != first.message_id
    assert rotated.message_id == first.message_id


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve", "a\n", "\x7f"])
async def test_a_key_that_is_none_is_refused(counter: Counter, key: str) -> None:
    with pytest.raises(IdempotencyKeyInvalid):
        await counter.accept(key=key)

    assert await counter.count() == 0


@pytest.mark.parametrize(
    ("rules", "limits"), [({"requires_key": True}, {}), ({}, {"requires_key": True})]
)
async def test_a_key_may_be_required(
    counter: Counter, rules: dict[str, Any], limits: dict[str, Any]
) -> None:
    with pytest.raises(IdempotencyKeyInvalid, match="is required here"):
        await counter.accept(limits=limits, **rules)

    await counter.accept(limits=limits, key="k1", **rules)


CHANGED_RULES: dict[str, dict[str, Any]] = {
    "a limit of the token": {"limits": {"from_domains": ("example.net",)}},
    "its scope": {"caller": replace(CALLER, scopes=frozenset())},
    "the routing": {"routing": Routing((), frozenset())},
    "the limits of size": {"limits_": True},
}


@pytest.mark.parametrize("what", CHANGED_RULES)
async def test_a_replay_is_a_replay_whatever_changed_since(counter: Counter, what: str) -> None:
    """P4: recognised before everything that depends on the state or the settings."""
    changed = dict(CHANGED_RULES[what])
    if changed.pop("limits_", False):
        changed["limits"] = None
    first = await counter.accept(key="k1")

    if what == "the limits of size":
        acceptance = Acceptance(
            counter.desk.store,
            replace(RULES, limits=Limits(recipients=0)),
            clock=counter.desk.clock,
            rng=counter.desk.rng,
            is_storage_low=lambda: False,
            backlog=lambda: 0,
        )
        again = await acceptance.accept(FIELDS, caller=CALLER, key="k1")
    else:
        again = await counter.accept(key="k1", **changed)
        with pytest.raises(EmailerError):
            await counter.accept(**changed)

    assert (again.message_id, again.is_replay) == (first.message_id, True)


async def test_a_conflict_is_a_conflict_also_if_the_new_body_is_wrong(counter: Counter) -> None:
    await counter.accept(key="k1")

    with pytest.raises(IdempotencyKeyReused):
        await counter.accept({"to": "nobody"}, key="k1")


async def test_a_replay_after_its_expiry_is_a_replay(counter: Counter) -> None:
    """P4: a client that repeats late is told what became of it."""
    expires = to_text(counter.desk.clock.now_ms() + 1_000)
    first = await counter.accept({"expires_at": expires}, key="k1")
    counter.desk.clock.advance(s=2)

    again = await counter.accept({"expires_at": expires}, key="k1")

    assert (again.message_id, again.is_replay) == (first.message_id, True)


# warnings


async def test_suppressed_recipients_are_warned_of(counter: Counter) -> None:
    await counter.desk.store.suppress(suppression("ann@example.org"))

    receipt = await counter.accept({"cc": "bob@example.org"})

    (warning,) = receipt.warnings
    assert warning.code == "suppressed"
    assert "ann@example.org" in warning.detail
    assert [r.state for r in receipt.recipients] == [State.FAILED, State.QUEUED]


@pytest.mark.parametrize(
    ("fields", "rules", "is_warned"),
    [
        ({"expires_in": "1h"}, {}, True),
        ({"expires_in": "61m"}, {}, False),
        ({}, {}, False),
        ({"expires_in": "1h", "on_unknown": "resend"}, {}, False),
        ({"expires_in": "1h", "provider": "bulk"}, {}, False),
        ({"expires_in": "1h"}, {"doubtful_hops": frozenset({"backup"})}, True),
        ({"expires_in": "1h"}, {"doubtful_hops": frozenset()}, False),
    ],
)
async def test_a_doubt_that_would_come_too_late_is_warned_of(
    counter: Counter, fields: dict[str, object], rules: dict[str, Any], is_warned: bool
) -> None:
    receipt = await counter.accept(fields, **rules)

    expected = ["may_wait_for_operator"] if is_warned else []
    assert [warning.code for warning in receipt.warnings] == expected


# limits of the token


@pytest.mark.parametrize(
    ("limits", "fields", "words"),
    [
        (
            {"from_domains": ("example.net", "a.example")},
            {},
            "sends from example.net, a.example",
        ),
        ({"recipients": ("*@example.net",)}, {}, r"sends to \*@example.net only, not to ann@"),
        ({"recipients": ("*@example.org",)}, {"bcc": "x@example.net"}, "not to x@example.net"),
        ({"fixed_to": ("desk@example.com",)}, {}, "fixed recipients only, not ann@example.org"),
        (
            {"fixed_to": ("ann@example.org",)},
            {"cc": "spy@example.net"},
            "fixed recipients only, not spy@",
        ),
        ({"templates_only": True}, {}, "templates only"),
    ],
)
async def test_a_limit_of_the_token_is_named(
    counter: Counter, limits: dict[str, Any], fields: dict[str, object], words: str
) -> None:
    with pytest.raises(Forbidden, match=words):
        await counter.accept(fields, limits=limits)

    assert await counter.count() == 0


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        ({"from_domains": ("example.com",)}, {"from": "shop@EXAMPLE.com"}),
        ({"recipients": ("*@Example.ORG", "bob@*")}, {"cc": "bob@example.net"}),
        ({"recipients": ("a??@example.org",)}, {}),
        ({"fixed_to": ("Ann@example.org",)}, {}),
    ],
)
async def test_what_is_within_the_limits_is_accepted(
    counter: Counter, limits: dict[str, Any], fields: dict[str, object]
) -> None:
    assert (await counter.accept(fields, limits=limits)).state is State.QUEUED


@pytest.mark.parametrize("to", [..., [], None])
async def test_a_contact_form_names_no_recipient_and_gets_its_own(
    counter: Counter, to: object
) -> None:
    receipt = await counter.accept(
        {"to": to}, limits={"fixed_to": ("desk@example.com", "boss@example.com")}
    )

    assert [r.address for r in receipt.recipients] == ["desk@example.com", "boss@example.com"]


async def test_a_token_without_the_scope_does_not_send(counter: Counter) -> None:
    with pytest.raises(Forbidden, match="lacks the scope send"):
        await counter.accept(caller=replace(CALLER, scopes=frozenset({Scope.READ})))


async def test_the_rate_of_the_token_is_checked_in_the_commit(counter: Counter) -> None:
    limits = {"recipient_rate": (1, 60_000)}
    await counter.accept(limits=limits)

    with pytest.raises(RecipientRate):
        await counter.accept(limits=limits)
    assert await counter.count() == 1


async def test_a_token_revoked_in_flight_is_refused_in_the_commit(counter: Counter) -> None:
    """F-IN-14."""
    await counter.desk.store.add_token(token())
    caller = replace(CALLER, token_id=7, epoch=await counter.desk.store.token_epoch())
    await counter.desk.store.end_token(7, at_ms=counter.desk.clock.now_ms())

    with pytest.raises(Unauthorized):
        await counter.accept(caller=caller)
    assert await counter.count() == 0


# staging


async def test_in_staging_everything_goes_to_one_address(counter: Counter) -> None:
    receipt = await counter.accept(
        {"cc": "bob@example.org"}, redirect_all_to="staging@example.com"
    )

    assert [(r.address, r.kind) for r in receipt.recipients] == [
        ("staging@example.com", RecipientKind.TO)
    ]
    raw = await counter.desk.store.load_raw(receipt.message_id)
    parsed = message_from_bytes(raw or b"", policy=policy.default)
    assert parsed["X-Emailer-Original-To"] == "ann@example.org, bob@example.org"
    assert parsed["To"] == "Ann Example <ann@example.org>"


async def test_the_limits_of_a_token_are_about_whom_it_meant(counter: Counter) -> None:
    with pytest.raises(Forbidden):
        await counter.accept(
            redirect_all_to="staging@example.com", limits={"recipients": ("*@example.com",)}
        )


# no room


async def test_a_disk_that_is_nearly_full_accepts_nothing(counter: Counter) -> None:
    """F-IN-05: so that outcomes can still be written."""
    counter.is_storage_low = True

    with pytest.raises(StorageFull) as refusal:
        await counter.accept()
    assert refusal.value.retry_after_s == 60
    assert await counter.count() == 0


async def test_too_much_work_is_refused_early(counter: Counter) -> None:
    """F-IN-16."""
    counter.backlog = 99
    await counter.accept(max_backlog=100)
    counter.backlog = 100

    with pytest.raises(Overloaded) as refusal:
        await counter.accept(max_backlog=100)
    assert refusal.value.retry_after_s == 1


async def test_an_unknown_outcome_names_the_message(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-IN-06: 503 with its id, so that the truth can be asked for after the restart."""
    asked: list[NewMessage] = []
    real = counter.desk.store.add

    async def add(message: NewMessage, *, now_ms: int) -> Receipt:
        asked.append(message)
        await real(message, now_ms=now_ms)
        raise OutcomeUnknown(str(sqlite3.OperationalError("disk I/O error")))

    monkeypatch.setattr(counter.desk.store, "add", add)

    with pytest.raises(OutcomeUnknown) as refusal:
        await counter.accept()

    assert refusal.value.members["id"] == to_public(MESSAGE, asked[0].message_id)


# what the next hops can express (P6)

NARROW = Abilities(recipients=1, has_smtputf8=True)
TWO = {"to": ["ann@example.org", "bob@example.org"]}


async def test_what_no_next_hop_can_carry_is_refused(counter: Counter) -> None:
    both = {"relay": NARROW, "backup": NARROW}
    with pytest.raises(Invalid, match="no next hop can carry it: relay: 2 recipients"):
        await counter.accept(TWO, abilities=both)
    assert await counter.count() == 0

    assert (await counter.accept(abilities=both)).warnings == ()


async def test_a_next_hop_that_is_skipped_is_named(counter: Counter) -> None:
    routing = Routing(("narrow", "relay"), frozenset({"narrow", "relay"}))

    receipt = await counter.accept(TWO, routing=routing, abilities={"narrow": NARROW})

    (warning,) = receipt.warnings
    assert warning.code == "not_expressible"
    assert "narrow: 2 recipients" in warning.detail


async def test_a_rule_decides_who_must_be_able_to_carry_it(counter: Counter) -> None:
    """P6: the chain of the rule that matches, not the default."""
    names = frozenset({"relay", "bulk"})
    rules = (Rule(number=1, name="news", chain=("bulk",), tags=frozenset({"news"})),)
    routing = Routing(("relay",), names, rules)
    abilities = {"bulk": NARROW}

    receipt = await counter.accept(TWO, routing=routing, abilities=abilities)
    with pytest.raises(Invalid, match="no next hop can carry it: bulk: 2 recipients"):
        await counter.accept({**TWO, "tags": ["news"]}, routing=routing, abilities=abilities)
    news = await counter.accept({"tags": ["news"]}, routing=routing, abilities=abilities)

    said = {
        event.message_id: (event.data["next_hop"], event.data["route"])
        for event in await counter.desk.events()
        if event.type == "message.accepted"
    }
    assert said == {
        receipt.message_id: ("relay", "default"),
        news.message_id: ("bulk", "rule 1 (news)"),
    }
    due = {"relay": 9, "bulk": 9}
    assert set(await counter.desk.due(**due)) == {receipt.message_id, news.message_id}


async def test_a_rule_knows_the_token_and_the_redirected_recipients(counter: Counter) -> None:
    names = frozenset({"relay", "bulk", "new"})
    rules = (
        Rule(number=1, chain=("bulk",), recipient_domains=frozenset({"staging.example.com"})),
        Rule(number=2, chain=("new",), tokens=frozenset({"web"})),
    )
    routing = Routing(("relay",), names, rules)
    await counter.desk.store.add_token(token(7, "web"))
    web = replace(CALLER, token_id=7, epoch=(await counter.desk.store.token_epoch()))

    by_token = await counter.accept(routing=routing, caller=web)
    by_operator = await counter.accept(routing=routing)
    redirected = await counter.accept(
        routing=routing, caller=web, redirect_all_to="all@staging.example.com"
    )

    hops = dict(counter.desk.rows("SELECT message_id, next_hop FROM work"))
    assert [hops[r.message_id] for r in (by_token, by_operator, redirected)] == [
        "new",
        "relay",
        "bulk",
    ]
    await counter.desk.register(1)
    claim = await counter.desk.claim(by_token.message_id)
    assert find_route(routing, claim).reason == "rule 2"
