"""`send --plan`: what would become of a message, by the same rules, keeping nothing."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from emailerctl.core.accept import Acceptance
from emailerctl.core.plan import Plan, plan_message, write_plan
from emailerctl.core.route import Routing
from emailerctl.errors import Invalid
from emailerctl.providers.base import Abilities, Provider
from emailerctl.providers.registry import KINDS
from emailerctl.store.base import HopState, NextHop
from tests.contract.test_store_acceptance import suppression
from tests.desk import Desk
from tests.providers_server.dialects import DIALECTS
from tests.unit.test_accept import CALLER, FIELDS, RULES

TABLES: Mapping[str, Mapping[str, Any]] = {
    "smtp": {"host": "smtp.example.org", "username": "ann", "password": "s3cret"},
    "sandbox": {},
    **{kind: dialect.settings for kind, dialect in DIALECTS.items()},
}


def test_every_kind_is_here() -> None:
    assert set(TABLES) == set(KINDS)


@asynccontextmanager
async def built(desk: Desk) -> AsyncIterator[tuple[dict[str, Provider], dict[str, Abilities]]]:
    """Build a next hop of every kind, named like it."""
    providers = {
        kind: KINDS[kind]
        .build(kind, KINDS[kind].settings.model_validate(table), 1, desk.clock)
        .provider
        for kind, table in TABLES.items()
    }
    abilities = {name: kind.abilities for name, kind in KINDS.items() if kind.abilities}
    try:
        yield providers, abilities
    finally:
        for provider in providers.values():
            await provider.close()


async def plan(desk: Desk, *chain: str, **fields: object) -> Plan:
    async with built(desk) as (providers, abilities):
        routing = Routing(chain, frozenset(TABLES))
        rules = {"routing": routing, "abilities": abilities}
        acceptance = Acceptance(
            desk.store,
            RULES.__class__(**{**_read(RULES), **rules}),
            clock=desk.clock,
            rng=desk.rng,
            is_storage_low=lambda: False,
            backlog=lambda: 0,
        )
        planned = await plan_message(
            acceptance,
            desk.store,
            {**FIELDS, **fields},
            caller=CALLER,
            providers=providers,
            abilities=abilities,
            now_ms=desk.clock.now_ms(),
        )
    assert desk.rows("SELECT 1 FROM messages") == []
    return planned


def _read(rules: Any) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in rules.__dataclass_fields__}


@pytest.mark.parametrize("kind", sorted(TABLES))
async def test_every_kind_shows_its_request_and_no_secret(desk: Desk, kind: str) -> None:
    planned = await plan(desk, kind)
    (hop,) = planned.hops
    text = "\n".join(write_plan(planned)) + str(planned.shape())
    secrets = [v for k, v in TABLES[kind].items() if "key" in k or "token" in k or "pass" in k]

    assert (planned.chain, planned.why) == ((kind,), "default")
    assert (hop.name, hop.kind, hop.is_skipped) == (kind, kind, False)
    assert hop.request.target
    assert hop.request.size_bytes > 0
    assert "ann@example.org" in text
    assert [secret for secret in secrets if str(secret) in text] == []
    assert hop.traps
    if kind in DIALECTS:
        assert hop.request.target.startswith(("POST https://", "PUT https://"))
        assert "msg_" in hop.request.body


async def test_a_chain_is_shown_whole_with_who_is_skipped(desk: Desk) -> None:
    image = {"filename": "a.png", "content": "iVBORw==", "content_id": "logo"}
    more = {"html": '<img src="cid:logo">', "attachments": [image]}
    planned = await plan(desk, "brevo", "smtp", **more)
    skipped, taken = planned.hops

    assert (skipped.is_skipped, taken.is_skipped) == (True, False)
    assert "no inline images" in skipped.traps[0]
    assert planned.shape()["next_hops"][0]["request"] is None  # type: ignore[index]
    assert [warning.code for warning in planned.warnings] == ["not_expressible"]
    assert "1. brevo (brevo) is skipped" in write_plan(planned)


async def test_what_nobody_can_carry_is_refused_as_it_would_be(desk: Desk) -> None:
    with pytest.raises(Invalid, match="no next hop can carry it"):
        await plan(desk, "brevo", headers={"X-Name": "Ä"})
    with pytest.raises(Invalid, match="no provider 'nowhere'"):
        await plan(desk, "smtp", provider="nowhere")


async def test_the_providers_ways_are_traps(desk: Desk) -> None:
    (hop,) = (await plan(desk, "postmark", tags=["a", "b"], bcc=["eve@example.org"])).hops
    said = " / ".join(hop.traps)

    assert "tag b does not travel along" in said
    assert "who is in To, Cc and Bcc is who gets it" in said
    assert "not byte for byte" in said
    assert "waits for a report, an operator" in said

    (hop,) = (await plan(desk, "smtp", on_unknown="resend")).hops
    said = " / ".join(hop.traps)
    assert "waits for an operator" in said
    assert "perhaps twice" in said


async def test_blind_copies_alone_go_one_at_a_time(desk: Desk) -> None:
    blind = ["one@example.org", "two@example.org"]
    (hop,) = (await plan(desk, "mailjet", to=None, bcc=blind)).hops

    assert "two@example.org is for an attempt of its own" in hop.traps


async def test_smtp_shows_the_envelope_and_what_it_needs(desk: Desk) -> None:
    (hop,) = (await plan(desk, "smtp", to="grün@example.org")).hops

    assert hop.request.target == "smtp smtp.example.org:587 (starttls, AUTH as ann)"
    assert hop.request.head[0].startswith("MAIL FROM:<shop@example.com> SIZE=")
    assert hop.request.head[1:] == ("RCPT TO:<grün@example.org>", "DATA")
    assert any("SMTPUTF8" in trap for trap in hop.traps)


async def test_who_is_barred_and_what_is_shut_is_said(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    await desk.store.suppress(suppression("ann@example.org", created_ms=now_ms))
    await desk.store.set_next_hop(
        NextHop(name="smtp", state=HopState.DISABLED, changed_ms=now_ms, actor="eve")
    )
    planned = await plan(desk, "smtp", "mailgun", to=["ann@example.org", "bob@example.org"])

    assert [warning.code for warning in planned.warnings] == ["suppressed"]
    assert "it is disabled now" in planned.hops[0].traps[0]
    assert not any("disabled" in trap for trap in planned.hops[1].traps)
