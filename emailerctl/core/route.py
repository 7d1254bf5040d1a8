"""Which next hop, and which after that: the chain of a message."""

from collections.abc import Sequence
from dataclasses import dataclass

SANDBOX = "sandbox"  # where every message of a test token goes, and nothing leaves the host


@dataclass(frozen=True, slots=True)
class Routing:
    """`[routing]`: the default chain, and the names that exist."""

    default: tuple[str, ...]
    names: frozenset[str]


def build_chain(routing: Routing, *, provider: str, is_test: bool) -> Sequence[str]:
    """Return the next hops of a message in order; empty where none of them exists any more.

    *provider* is the sender's choice and overrides the routing.
    """
    if is_test:
        return (SANDBOX,)
    wanted = (provider,) if provider else routing.default
    return tuple(name for name in wanted if name in routing.names)
