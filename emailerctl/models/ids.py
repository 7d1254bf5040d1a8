"""Message ids and other public ids; lease tokens.

A message id is a 63-bit integer: 42 bits of milliseconds since 2020, 21 random bits.  In public
it is `msg_` and 13 Crockford base 32 characters, so that text order is time order.
"""

from random import Random

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)} | {
    "I": 1,
    "L": 1,
    "O": 0,
}
_EPOCH_MS = 1_577_836_800_000  # 2020-01-01T00:00:00Z
_RANDOM_BITS = 21
_CHARACTERS = 13
_BITS = 63
# Three characters at once: an id is written several times for every message.
_TRIPLES = tuple(a + b + c for a in _ALPHABET for b in _ALPHABET for c in _ALPHABET)
_LARGEST: int = (1 << _BITS) - 1

MESSAGE = "msg"
INBOX = "inb"
TOKEN = "tok"  # noqa: S105  (a prefix, not a secret)


def build_message_id(now_ms: int, rng: Random) -> int:
    """Return a new id for a message accepted at *now_ms*; unique but for 21 random bits."""
    return ((now_ms - _EPOCH_MS) << _RANDOM_BITS | rng.getrandbits(_RANDOM_BITS)) & _LARGEST


def first_id_at(moment_ms: int) -> int:
    """Return the smallest id that a message accepted at *moment_ms* can have."""
    return min(max(moment_ms - _EPOCH_MS, 0) << _RANDOM_BITS, _LARGEST)


def find_moment(message_id: int) -> int:
    """Return the millisecond in which a message was accepted, as its id says."""
    return (message_id >> _RANDOM_BITS) + _EPOCH_MS


def build_lease_token(rng: Random) -> int:
    """Return a fencing token; never 0."""
    return rng.getrandbits(_BITS) | 1


def to_public(prefix: str, number: int) -> str:
    """Return the public form: `to_public("msg", n)` is `msg_` and 13 characters."""
    return (
        f"{prefix}_{_ALPHABET[number >> 60]}{_TRIPLES[number >> 45 & 32767]}"
        f"{_TRIPLES[number >> 30 & 32767]}{_TRIPLES[number >> 15 & 32767]}"
        f"{_TRIPLES[number & 32767]}"
    )


def parse_public(prefix: str, text: str) -> int | None:
    """Return the number of a whole public id, or None where *text* is not one."""
    bounds = parse_prefix(prefix, text)
    return bounds[0] if bounds and bounds[0] == bounds[1] else None


def parse_prefix(prefix: str, text: str) -> tuple[int, int] | None:
    """Return the smallest and the largest number whose public id begins with *text*.

    The `msg_` may be left out; case and Crockford's look-alikes do not matter.  None where no
    id can begin so.
    """
    body = text.strip().upper().removeprefix(f"{prefix.upper()}_")
    if not 0 < len(body) <= _CHARACTERS or any(c not in _VALUES for c in body):
        return None
    number = 0
    for character in body:
        number = number << 5 | _VALUES[character]
    free_bits = 5 * (_CHARACTERS - len(body))
    low = number << free_bits
    high = low | ((1 << free_bits) - 1)
    if low >= 1 << _BITS:
        return None
    return low, min(high, _LARGEST)
