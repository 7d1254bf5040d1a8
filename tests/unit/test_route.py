"""Which next hop, and which after that, and why."""

from dataclasses import replace
from typing import Any

import pytest

from emailerctl.core.route import SANDBOX, RouteFacts, Routing, Rule, explain_route
from emailerctl.models.message import Priority

NAMES = frozenset({"relay", "backup", "bulk", "new"})
ROUTING = Routing(("relay", "backup"), NAMES)
FACTS = RouteFacts(
    message_id=1,
    header_from="shop@mail.example.com",
    recipients=("ann@example.org", "bob@EXAMPLE.net"),
    service="shop",
    priority=Priority.NORMAL,
    tags=("order", "reset"),
    template="welcome",
    token="web",
)


def rule(number: int = 1, chain: tuple[str, ...] = ("bulk",), **conditions: Any) -> Rule:
    sets = {
        name: frozenset(value) if isinstance(value, set) else value
        for name, value in conditions.items()
    }
    return Rule(number=number, chain=chain, **sets)


@pytest.mark.parametrize(
    ("provider", "is_test", "chain", "reason"),
    [
        ("", False, ("relay", "backup"), "default"),
        ("bulk", False, ("bulk",), "named by the sender"),
        ("gone", False, (), "named by the sender"),
        ("", True, (SANDBOX,), "test token"),
        ("bulk", True, (SANDBOX,), "test token"),  # nothing of a test token leaves the host
    ],
)
def test_a_message_has_its_chain(
    provider: str, is_test: bool, chain: tuple[str, ...], reason: str
) -> None:
    """The sender's choice overrides every rule, a test token that."""
    routing = replace(ROUTING, rules=(rule(services={"shop"}, chain=("new",)),))
    facts = FACTS._replace(provider=provider, is_test=is_test)
    if reason == "default":
        facts = facts._replace(service="crm")

    route = explain_route(routing, facts)

    assert (route.chain, route.reason) == (chain, reason)


def test_a_next_hop_that_left_the_settings_leaves_the_chain() -> None:
    routing = Routing(("relay", "old", "backup"), NAMES, (rule(tags={"x"}, chain=("old",)),))

    assert explain_route(routing, FACTS).chain == ("relay", "backup")
    assert explain_route(routing, FACTS._replace(tags=("x",))).chain == ()


@pytest.mark.parametrize(
    ("conditions", "mismatch"),
    [
        ({"tags": {"reset", "code"}}, ""),
        ({"tags": {"code"}}, "tag"),
        ({"templates": {"welcome"}}, ""),
        ({"templates": {"bye"}}, "template"),
        ({"from_domains": {"mail.example.com"}}, ""),
        ({"from_domains": {"*.example.com"}}, ""),
        ({"from_domains": {"example.com"}}, "from_domain"),  # exactly that one
        ({"from_domains": {"*.ple.com"}}, "from_domain"),
        ({"recipient_domains": {"example.org", "example.net"}}, ""),
        ({"recipient_domains": {"example.org"}}, "recipient_domain"),  # not all of them
        ({"priorities": {Priority.NORMAL}}, ""),
        ({"priorities": {Priority.HIGH, Priority.LOW}}, "priority"),
        ({"tokens": {"web"}}, ""),
        ({"tokens": {"shop"}}, "token"),
        ({"services": {"shop"}}, ""),
        ({"services": {"web"}}, "service"),
        ({"tags": {"reset"}, "services": {"web"}}, "service"),  # each must hold
        ({"tags": {"reset"}, "services": {"shop"}}, ""),
    ],
)
def test_a_rule_matches_where_all_its_conditions_hold(
    conditions: dict[str, Any], mismatch: str
) -> None:
    route = explain_route(replace(ROUTING, rules=(rule(name="x", **conditions),)), FACTS)

    assert route.reason == ("default" if mismatch else "rule 1 (x)")
    assert route.passed == ({"rule 1 (x)": mismatch} if mismatch else {})


def test_the_local_operator_has_no_token() -> None:
    """And a message without a template matches no rule that wants one."""
    routing = replace(
        ROUTING, rules=(rule(tokens={"web"}), rule(2, templates={"welcome"}, chain=("new",)))
    )

    assert explain_route(routing, FACTS._replace(token="", template="")).reason == "default"


def test_the_first_rule_that_matches_wins() -> None:
    rules = (
        rule(1, tags={"other"}),
        rule(2, tags={"reset"}, chain=("new", "relay")),
        rule(3, services={"shop"}),
    )

    route = explain_route(replace(ROUTING, rules=rules), FACTS)

    assert route.chain == ("new", "relay")
    assert (route.reason, route.passed) == ("rule 2", {"rule 1": "tag"})


def test_a_part_of_the_messages_is_chosen_by_their_ids() -> None:
    """Retries, restarts and other processes choose the same; the rest goes on."""
    rules = (
        rule(1, tags={"reset"}, percent=5, name="canary", chain=("new",)),
        rule(2, tags={"reset"}, chain=("bulk",)),
    )
    routing = replace(ROUTING, rules=rules)
    ids = [1_000_000_007 * n for n in range(20_000)]

    routes = {id_: explain_route(routing, FACTS._replace(message_id=id_)) for id_ in ids}

    chosen = {id_ for id_, route in routes.items() if route.reason == "rule 1 (canary)"}
    assert 850 < len(chosen) < 1150
    assert {routes[id_].reason for id_ in ids if id_ not in chosen} == {"rule 2"}
    again = {
        id_
        for id_ in ids
        if explain_route(routing, FACTS._replace(message_id=id_, tags=("reset",))).chain
        == ("new",)
    }
    assert again == chosen
    # What it chooses is part of the contract: a restart with a newer version chooses the same.
    assert sorted(chosen)[:3] == [2_000_000_014, 22_000_000_154, 25_000_000_175]


def test_a_larger_part_contains_the_smaller_one() -> None:
    """Raising the share of a canary moves nobody back."""

    def choose(percent: float) -> set[int]:
        routing = replace(ROUTING, rules=(rule(name="canary", percent=percent),))
        return {
            id_
            for id_ in range(5_000)
            if explain_route(routing, FACTS._replace(message_id=id_)).reason != "default"
        }

    assert choose(1) < choose(5) < choose(50) < choose(100) == set(range(5_000))


def test_two_canaries_choose_independently() -> None:
    rules = (rule(1, name="a", percent=50), rule(2, name="b", percent=50, chain=("new",)))
    routing = replace(ROUTING, rules=rules)

    seen = [explain_route(routing, FACTS._replace(message_id=n)).reason for n in range(4_000)]

    assert 800 < seen.count("default") < 1200


def test_every_chain_is_known_to_who_watches_them() -> None:
    routing = replace(ROUTING, rules=(rule(tags={"x"}),))

    assert routing.chains == (("bulk",), ("relay", "backup"))
