"""Signed return paths: a bounce comes back to an address that says what it is about.

`bounces+<id>@example.org` (VERP).  The id holds message, recipient and attempt, and a
signature that nobody else can make, so that a forged bounce is known for one.  It is 31 letters
and digits that mean the same in capitals: mailers change the case of local parts.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterator
from typing import NamedTuple

LOCAL_PART_OCTETS = 64  # RFC 5321 4.5.3.1.1
ID_CHARACTERS = 31
_WHOLE = 0  # recipient number 0: the message, whoever it is for
_MESSAGE_OCTETS, _ATTEMPT_OCTETS, _MAC_OCTETS = 8, 2, 8
_CONTENT_OCTETS = _MESSAGE_OCTETS + 1 + _ATTEMPT_OCTETS
_LARGEST_N, _LARGEST_ATTEMPT = 0xFF, 0xFFFF
_PURPOSE = b"return path 1"
_ID = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z2-7]{{{ID_CHARACTERS}}}(?![A-Za-z0-9])")


class ReturnId(NamedTuple):
    """What a bounce is about.

    Attributes:
        n: the recipient's number; None: one of the message's, the address does not say which.
        attempt: None: it does not say.
    """

    message_id: int
    n: int | None
    attempt: int | None


class Signer:
    """Makes and verifies ids of return paths.

    Args:
        key: the store's own; who has it can suppress addresses by mail.
    """

    def __init__(self, key: bytes) -> None:
        """Take the key."""
        self._key = key

    def sign(self, message_id: int, *, n: int | None, attempt: int) -> str:
        """Return the id: lower case letters and the digits 2 to 7."""
        number = _WHOLE if n is None else n
        content = (
            message_id.to_bytes(_MESSAGE_OCTETS)
            + (number if number <= _LARGEST_N else _WHOLE).to_bytes(1)
            + (attempt if attempt <= _LARGEST_ATTEMPT else 0).to_bytes(_ATTEMPT_OCTETS)
        )
        return _encode(content + self._mac(content))

    def verify(self, text: str) -> ReturnId | None:
        """Return what *text* says, or None where we have not written it."""
        if _ID.fullmatch(text) is None:
            return None
        try:
            octets = base64.b32decode(text.upper() + "=")
        except binascii.Error:  # pragma: no cover  (the pattern lets nothing else through)
            return None
        content, mac = octets[:_CONTENT_OCTETS], octets[_CONTENT_OCTETS:]
        if not hmac.compare_digest(mac, self._mac(content)) or _encode(octets) != text.lower():
            return None
        message_id = int.from_bytes(content[:_MESSAGE_OCTETS])
        n, attempt = content[_MESSAGE_OCTETS], int.from_bytes(content[-_ATTEMPT_OCTETS:])
        return ReturnId(message_id, n or None, attempt or None)

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + content, "sha256")[:_MAC_OCTETS]


def _encode(octets: bytes) -> str:
    return base64.b32encode(octets).decode().rstrip("=").lower()


def build_return_path(base: str, return_id: str) -> str:
    """Return the address under *base* that carries *return_id*: `local+id@domain`."""
    local, _, domain = base.rpartition("@")
    return f"{local}+{return_id}@{domain}"


def find_ids(text: str) -> Iterator[str]:
    """Yield what may be an id, wherever it stands in *text*."""
    for match in _ID.finditer(text):
        yield match[0]
