"""Tickets: a browser that has no token follows the event log once, as who asked for the ticket.

An EventSource can't send headers, and no page should have a token.  A platform's server asks
for a ticket and gives it to the page; it is good for one stream that begins within a minute.
"""

from dataclasses import dataclass
from hashlib import sha256
from random import Random

from emailerctl.core.tokens import TokenBook
from emailerctl.models.caller import Caller
from emailerctl.models.clock import Clock
from emailerctl.models.page import EventFilter
from emailerctl.store.base import Store, StreamTicket

LIFETIME_MS = 60_000
_PREFIX = "emt_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHARACTERS = 43  # 256 bits


@dataclass(frozen=True, slots=True)
class Issued:
    """A ticket that was just made: the only time that its text can be seen."""

    text: str
    expires_ms: int


async def issue(
    store: Store, clock: Clock, rng: Random, *, caller: Caller, wanted: EventFilter
) -> Issued:
    """Make a ticket for what *caller* may see, and of that for what is *wanted*."""
    now_ms = clock.now_ms()
    text = _PREFIX + "".join(rng.choice(_ALPHABET) for _ in range(_CHARACTERS))
    ticket = StreamTicket(
        ticket_hash=_hash(text),
        token_id=caller.token_id,
        wanted=wanted,
        expires_ms=now_ms + LIFETIME_MS,
    )
    await store.add_ticket(ticket, now_ms=now_ms)
    return Issued(text, ticket.expires_ms)


async def redeem(
    store: Store, clock: Clock, tokens: TokenBook, text: str, *, remote: str
) -> tuple[Caller, EventFilter]:
    """Use a ticket up; return as whom it was made, and for what.

    Raises:
        Unauthorized: it is unknown, used or expired, or its token has ended.
        TooManyRequests: *remote* has presented too many that were none.
    """
    tokens.check_failures(remote)
    ticket = None
    if text.startswith(_PREFIX) and len(text) == len(_PREFIX) + _CHARACTERS:
        ticket = await store.take_ticket(_hash(text), now_ms=clock.now_ms())
    caller = await tokens.find_caller(ticket.token_id) if ticket else None
    if ticket is None or caller is None:
        tokens.refuse(remote)
    return caller, ticket.wanted


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()
