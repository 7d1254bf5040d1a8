"""Which next hop, and which after that: the chain of a message, and why it is that one.

The rules of `[[routing.rules]]` in order: the first that matches, else `[routing] default`.
Every attempt asks anew, so that what waits follows changed settings.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from emailerctl.models.address import domain_of
from emailerctl.models.message import MessageView, Priority

SANDBOX = "sandbox"  # where every message of a test token goes, and nothing leaves the host
_ALL = 100.0


class RouteFacts(NamedTuple):
    """What of a message its route depends on.

    Attributes:
        recipients: the addresses of all its recipients, whatever has become of them: its route
            stays the same when some of them are done.
        token: the name of the token that sent it; empty for the local operator.
        provider: the sender's choice, which overrides the rules; or empty.
    """

    message_id: int
    header_from: str
    recipients: Collection[str]
    service: str
    priority: Priority = Priority.NORMAL
    tags: Collection[str] = ()
    template: str = ""
    token: str = ""
    provider: str = ""
    is_test: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One of `[[routing.rules]]`: every condition that it has must hold.

    Attributes:
        number: counted from 1, as in the file.
        percent: of the messages that match it takes so many, chosen by their ids.
    """

    number: int
    chain: tuple[str, ...]
    name: str = ""
    tags: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()
    from_domains: frozenset[str] = frozenset()
    recipient_domains: frozenset[str] = frozenset()
    priorities: frozenset[Priority] = frozenset()
    tokens: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    percent: float = _ALL

    @property
    def label(self) -> str:
        """What people call it."""
        return f"rule {self.number} ({self.name})" if self.name else f"rule {self.number}"

    def find_mismatch(self, facts: RouteFacts) -> str:
        """Return which condition does not hold; empty where the rule matches."""
        for what, wanted, is_met in (
            ("tag", self.tags, not self.tags.isdisjoint(facts.tags)),
            ("template", self.templates, facts.template in self.templates),
            ("service", self.services, facts.service in self.services),
            ("token", self.tokens, facts.token in self.tokens),
            ("priority", self.priorities, facts.priority in self.priorities),
        ):
            if wanted and not is_met:
                return what
        sender = domain_of(facts.header_from)
        if self.from_domains and not is_in_domains(sender, self.from_domains):
            return "from_domain"
        if self.recipient_domains and not all(
            is_in_domains(domain_of(address), self.recipient_domains)
            for address in facts.recipients
        ):
            return "recipient_domain"
        if self.percent < _ALL and not self._is_drawn(facts.message_id):
            return "percent"
        return ""

    def _is_drawn(self, message_id: int) -> bool:
        """Draw by the id: the same in every attempt, process and version."""
        drawn = blake2b(f"{self.name or self.number}:{message_id}".encode(), digest_size=8)
        return int.from_bytes(drawn.digest()) < self.percent / _ALL * 2**64


def is_in_domains(domain: str, patterns: Collection[str]) -> bool:
    """Return whether *domain* is one of *patterns*; `*.example.org` is all below it."""
    domain = domain.lower()
    return domain in patterns or any(
        pattern.startswith("*.") and domain.endswith(pattern[1:]) for pattern in patterns
    )


@dataclass(frozen=True, slots=True)
class Routing:
    """`[routing]`: the default chain, the names that exist, the rules before the default."""

    default: tuple[str, ...]
    names: frozenset[str]
    rules: tuple[Rule, ...] = ()

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """Every chain that a message can have, the default last."""
        return (*(rule.chain for rule in self.rules), self.default)


class Route(NamedTuple):
    """The next hops of a message in order; none where none of them exists any more.

    Attributes:
        reason: why this chain, in a few words: `rule 2 (bulk)`.
        passed: by the rules before it, which condition did not hold.
    """

    chain: tuple[str, ...]
    reason: str
    passed: Mapping[str, str]


def explain_route(routing: Routing, facts: RouteFacts) -> Route:
    """Return the chain of a message and why it is that one."""
    if facts.is_test:
        return Route((SANDBOX,), "test token", {})
    if facts.provider:
        chain = (facts.provider,) if facts.provider in routing.names else ()
        return Route(chain, "named by the sender", {})
    passed: dict[str, str] = {}
    for rule in routing.rules:
        mismatch = rule.find_mismatch(facts)
        if not mismatch:
            return Route(_keep_known(rule.chain, routing), rule.label, passed)
        passed[rule.label] = mismatch
    return Route(_keep_known(routing.default, routing), "default", passed)


def build_facts(view: MessageView) -> RouteFacts:
    """Return what the route of a stored message depends on."""
    return RouteFacts(
        message_id=view.message_id,
        header_from=view.header_from,
        recipients=[recipient.address for recipient in view.recipients],
        service=view.service,
        priority=view.priority,
        tags=view.tags,
        template=view.template,
        token=view.token,
        provider=view.provider,
        is_test=view.is_test,
    )


def _keep_known(chain: tuple[str, ...], routing: Routing) -> tuple[str, ...]:
    return tuple(name for name in chain if name in routing.names)
