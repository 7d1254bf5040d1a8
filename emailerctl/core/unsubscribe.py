"""One-click unsubscribe (RFC 8058): signed links, and what a click does.

A link says for itself whom it is about, since it must work when retention has long removed the
message.  It never ends.  Its key is made once and kept in the store: whoever forges a link can
do no more than take an address off a list.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from emailerctl.errors import NotFound
from emailerctl.models.clock import Clock
from emailerctl.store.base import UNSUBSCRIBE, Store, Suppression

ONE_CLICK = "one-click"  # who entered such a suppression; and `messages.list_unsubscribe`

_KEY = "unsubscribe_key"
_PURPOSE = b"emailerctl unsubscribe 1\0"
_MAC_OCTETS = 16
_ID_OCTETS = 8
_HEAD_OCTETS = _MAC_OCTETS + _ID_OCTETS + 2  # then service and address
_MOST_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a link is about: a recipient of a message, and the service that sent it."""

    message_id: int
    n: int
    service: str
    address: str


class Unsubscribing:
    """What makes links and obeys them.

    Args:
        base: where recipients reach this API: `[api] public_url`.
        make_secret: 32 octets from the operating system.
    """

    def __init__(
        self, store: Store, *, base: str, clock: Clock, make_secret: Callable[[], bytes]
    ) -> None:
        """Take what links need; the key is read when the first is made."""
        self._store = store
        self._base = base
        self._clock = clock
        self._make_secret = make_secret
        self._key: bytes | None = None

    @property
    def is_possible(self) -> bool:
        """Whether recipients can reach this API."""
        return bool(self._base)

    async def load_key(self) -> bytes:
        """Return the key, the same in every process; the first one makes it."""
        if self._key is None:
            kept = await self._store.find_note(_KEY)
            if kept is None:
                kept = await self._store.keep_note(_KEY, self._make_secret().hex())
            self._key = bytes.fromhex(kept)
        return self._key

    def build_url(self, key: bytes, subject: Subject) -> str:
        """Return the link of one recipient."""
        return f"{self._base}/u/{build_link(key, subject)}"

    async def read(self, link: str) -> Subject:
        """Return whom a link is about.

        Raises:
            NotFound: we did not make it.
        """
        subject = parse_link(await self.load_key(), link)
        if subject is None:
            raise NotFound("this link is not one of ours, or a part of it is missing")
        return subject

    async def unsubscribe(self, link: str) -> Subject:
        """Send whom the link is about no more mail of that kind from its service.

        Raises:
            NotFound: we did not make it.
        """
        subject = await self.read(link)
        now_ms = self._clock.now_ms()
        wish = Suppression(
            address=subject.address,
            service=subject.service,
            reason=UNSUBSCRIBE,
            detail="",
            created_ms=now_ms,
            expires_ms=None,
            actor=ONE_CLICK,
            message_id=subject.message_id,
        )
        await self._store.unsubscribe(
            wish, message_id=subject.message_id, n=subject.n, now_ms=now_ms
        )
        return subject


def build_link(key: bytes, subject: Subject) -> str:
    """Return the signed text: letters, digits, `-` and `_`."""
    service = subject.service.encode()
    payload = b"".join(
        (
            subject.message_id.to_bytes(_ID_OCTETS),
            bytes((subject.n, len(service))),
            service,
            subject.address.encode(),
        )
    )
    return base64.urlsafe_b64encode(_sign(key, payload) + payload).rstrip(b"=").decode()


def parse_link(key: bytes, link: str) -> Subject | None:
    """Return what a link says; None where we did not sign exactly this."""
    if len(link) > _MOST_CHARACTERS:
        return None
    try:
        octets = base64.b64decode(link + "=" * (-len(link) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    mac, payload = octets[:_MAC_OCTETS], octets[_MAC_OCTETS:]
    if len(octets) < _HEAD_OCTETS or not hmac.compare_digest(mac, _sign(key, payload)):
        return None
    n, length = payload[_ID_OCTETS], payload[_ID_OCTETS + 1]
    rest = payload[_ID_OCTETS + 2 :]
    return Subject(
        message_id=int.from_bytes(payload[:_ID_OCTETS]),
        n=n,
        service=rest[:length].decode(),
        address=rest[length:].decode(),
    )


def _sign(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + payload, sha256)[:_MAC_OCTETS]
