"""Idempotency: the key's hash, and the fingerprint that tells a replay from a conflict.

A fingerprint holds, for each top-level field of the request as it was parsed, before defaults,
its name and a digest of its value, so that a conflict can say which fields differ.  It is
stored with the message and compared by later releases: the encoding below never changes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from emailerctl.errors import IdempotencyKeyInvalid
from emailerctl.models.text import shorten

_KEY_CHARACTERS = 255
_KEY = re.compile(rf"[ -~]{{1,{_KEY_CHARACTERS}}}")
_KEY_HASH_OCTETS = 16
_DIGEST_OCTETS = 8
_NAME_OCTETS = 255

_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
).encode


def check_key(text: str) -> str:
    """Return *text* if it can be an idempotency key: 1 to 255 printable ASCII characters.

    Raises:
        IdempotencyKeyInvalid: it can't.
    """
    if _KEY.fullmatch(text):
        return text
    if len(text) > _KEY_CHARACTERS:
        raise IdempotencyKeyInvalid(f"the key {shorten(text)} has {len(text)} characters")
    if not text:
        raise IdempotencyKeyInvalid("the key is empty")
    raise IdempotencyKeyInvalid(f"the key {shorten(text)} is not printable ASCII")


def hash_key(service: str, key: str) -> bytes:
    """Return the 16 bytes under which the store keeps *key* of *service*."""
    named = service.encode()
    unambiguous = b"%d:%b%b" % (len(named), named, key.encode())
    return blake2b(unambiguous, digest_size=_KEY_HASH_OCTETS).digest()


def fingerprint(fields: Mapping[str, object]) -> bytes:
    """Return name and digest of each of *fields*, whatever their order; null is as absent.

    Each is one octet of length, the name in UTF-8, and eight octets of BLAKE2b over the name, a
    NUL, and the value: text in UTF-8 after a double quote, anything else as canonical JSON.
    Takes whatever JSON is, since it comes before validation.
    """
    parts: list[bytes] = []
    for name in sorted(fields):
        value = fields[name]
        if value is None:
            continue
        text = f'{name}\0"{value}' if isinstance(value, str) else f"{name}\0{_encode(value)}"
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_OCTETS)
        kept = name.encode("utf-8", "surrogatepass")[:_NAME_OCTETS]
        parts += (bytes((len(kept),)), kept, digest.digest())
    return b"".join(parts)


def differing_fields(a: bytes, b: bytes) -> list[str]:
    """Return the names of the fields that differ, were added or were removed, in order."""
    first, second = dict(_read(a)), dict(_read(b))
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )


def _read(encoded: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(encoded):
        name_end = at + 1 + encoded[at]
        end = name_end + _DIGEST_OCTETS
        yield encoded[at + 1 : name_end].decode(errors="replace"), encoded[name_end:end]
        at = end
