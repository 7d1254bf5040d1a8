"""What would become of a message, without sending it: its route, each request, every trap."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from emailerctl.core.accept import Acceptance, Prepared, find_traits
from emailerctl.core.check import describe_doubt
from emailerctl.core.shapes import Shape
from emailerctl.models.caller import Caller
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.models.message import EnvelopeRecipient, Notice
from emailerctl.providers.base import (
    Abilities,
    Outgoing,
    Planned,
    Provider,
    find_faults,
    find_losses,
)
from emailerctl.store.base import HopState, NextHop, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class HopPlan:
    """What one next hop of the chain would be asked.

    Attributes:
        is_skipped: it can't carry the message; the next in the chain gets it at once.
    """

    name: str
    kind: str
    is_skipped: bool
    request: Planned
    traps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that can be said beforehand."""

    chain: tuple[str, ...]
    why: str
    recipients: tuple[str, ...]
    hops: tuple[HopPlan, ...]
    warnings: tuple[Notice, ...]

    def shape(self) -> Shape:
        """Return it as JSON says it."""
        return {
            "route": {"chain": list(self.chain), "why": self.why},
            "recipients": list(self.recipients),
            "next_hops": [_hop_shape(hop) for hop in self.hops],
            "warnings": [{"code": n.code, "detail": n.detail} for n in self.warnings],
        }


def _hop_shape(hop: HopPlan) -> Shape:
    request = hop.request
    asked = {
        "target": request.target,
        "head": list(request.head),
        "body": request.body,
        "size_bytes": request.size_bytes,
    }
    return {
        "name": hop.name,
        "kind": hop.kind,
        "skipped": hop.is_skipped,
        "request": None if request.refusal else asked,
        "traps": list(hop.traps),
    }


async def plan_message(
    acceptance: Acceptance,
    store: Store,
    fields: Mapping[str, object],
    *,
    caller: Caller,
    providers: Mapping[str, Provider],
    abilities: Mapping[str, Abilities],
    now_ms: int,
) -> Plan:
    """Say what `accept` and the consumer would do with *fields*; nothing is kept or sent.

    Raises:
        Invalid, Forbidden: it would be refused.
    """
    prepared = await acceptance.prepare(fields, caller=caller)
    message = prepared.message
    suppressed = await store.find_suppressed(
        [r.address for r in message.recipients], service=caller.service, now_ms=now_ms
    )
    standings = {hop.name: hop for hop in await store.list_next_hops()}
    outgoing = _build_outgoing(prepared)
    hops = tuple(
        _plan_hop(
            name,
            providers[name],
            abilities.get(name),
            prepared,
            outgoing,
            standings.get(name, NextHop(name=name, state=HopState.OPEN)),
        )
        for name in prepared.route.chain
    )
    barred = [
        Notice("suppressed", f"{address} is on the suppression list and is not sent to")
        for address in sorted(suppressed)
    ]
    return Plan(
        chain=prepared.route.chain,
        why=prepared.route.reason,
        recipients=tuple(f"{r.kind} {r.address}" for r in message.recipients),
        hops=hops,
        warnings=(*prepared.notices, *barred),
    )


def _build_outgoing(prepared: Prepared) -> Outgoing:
    message = prepared.message
    return Outgoing(
        message_id=message.message_id,
        public_id=to_public(MESSAGE, message.message_id),
        attempt=1,
        envelope_sender=message.envelope_sender,
        recipients=tuple(
            EnvelopeRecipient(n, recipient.address)
            for n, recipient in enumerate(message.recipients, start=1)
        ),
        raw=message.raw,
        needs_smtputf8=message.needs_smtputf8,
        deadline_boot_ms=0,
        tags=message.tags,
        metadata=message.metadata,
    )


def _plan_hop(
    name: str,
    provider: Provider,
    abilities: Abilities | None,
    prepared: Prepared,
    outgoing: Outgoing,
    standing: NextHop,
) -> HopPlan:
    request = provider.plan(outgoing)
    is_skipped = bool(request.refusal)
    traps = [request.refusal] if is_skipped else []
    if standing.state is not HopState.OPEN:
        traps.append(
            f"it is {standing.state} now: the next in the chain takes over, or it waits"
        )
    if not is_skipped:
        traps += [*_find_traps(prepared, abilities), *request.traps]
    return HopPlan(
        name=name,
        kind=provider.kind,
        is_skipped=is_skipped,
        request=request,
        traps=tuple(dict.fromkeys(traps)),
    )


def _find_traps(prepared: Prepared, abilities: Abilities | None) -> Iterator[str]:
    """Yield what a sender may not expect of a next hop that takes the message."""
    if abilities is not None:
        traits = find_traits(prepared.submission, prepared.message)
        yield from find_faults(abilities, traits)
        yield from find_losses(abilities, traits)
        if not abilities.has_raw:
            yield (
                "it writes the message anew from its parts: what arrives is not byte for byte "
                "what was accepted"
            )
        if not abilities.has_envelope:
            yield (
                "who is in To, Cc and Bcc is who gets it: a retry for some of them shows those "
                "alone, and blind copies without anybody in To go one at a time"
            )
        yield from abilities.traps
    yield describe_doubt(abilities)
    if prepared.message.on_unknown is OnUnknown.RESEND:
        yield 'on_unknown = "resend": without an answer it is sent again, perhaps twice'


def write_plan(plan: Plan) -> Sequence[str]:
    """Return a plan as lines for people."""
    lines = [
        f"route       {' → '.join(plan.chain)}",
        f"why         {plan.why}",
        f"recipients  {', '.join(plan.recipients)}",
    ]
    for place, hop in enumerate(plan.hops, start=1):
        lines += ["", f"{place}. {hop.name} ({hop.kind}){' is skipped' * hop.is_skipped}"]
        request = hop.request
        if not request.refusal:
            lines += [f"   {request.target}"]
            lines += [f"   {line}" for line in request.head]
            lines += ["", *(f"   {line}".rstrip() for line in request.body.splitlines())]
            lines += ["", f"   {request.size_bytes} bytes in all"]
        lines += [f"   ! {trap}" for trap in hop.traps]
    return lines
