"""Which next hop, and which after that."""

import pytest

from emailerctl.core.route import SANDBOX, Routing, build_chain

ROUTING = Routing(("relay", "backup"), frozenset({"relay", "backup", "bulk"}))


@pytest.mark.parametrize(
    ("provider", "is_test", "chain"),
    [
        ("", False, ("relay", "backup")),
        ("bulk", False, ("bulk",)),  # the sender's choice overrides the routing
        ("gone", False, ()),
        ("", True, (SANDBOX,)),
        ("bulk", True, (SANDBOX,)),  # whatever a test token names, nothing leaves the host
    ],
)
def test_a_message_has_its_chain(provider: str, is_test: bool, chain: tuple[str, ...]) -> None:
    assert tuple(build_chain(ROUTING, provider=provider, is_test=is_test)) == chain


def test_a_next_hop_that_left_the_settings_leaves_the_chain() -> None:
    routing = Routing(("relay", "old", "backup"), frozenset({"relay", "backup"}))

    assert tuple(build_chain(routing, provider="", is_test=False)) == ("relay", "backup")
