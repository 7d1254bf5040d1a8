"""Taking a person out of the store, message by message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emailerctl.core.bulk import walk_messages
from emailerctl.models.clock import Clock
from emailerctl.models.page import MessageFilter
from emailerctl.store.base import Deed, Redaction, Store


@dataclass(frozen=True, slots=True)
class Redacted:
    """What came of it; *left* are messages that may still be sent, and stay as they are."""

    done: int
    left: Sequence[int]


async def find_messages(store: Store, address: str, *, now_ms: int) -> list[int]:
    """Return the messages that have *address* for a recipient."""
    found = walk_messages(store, MessageFilter(recipient=address), now_ms=now_ms)
    return [view.message_id async for view in found]


async def redact(
    store: Store,
    clock: Clock,
    message_ids: Sequence[int],
    address: str,
    *,
    deed: Deed,
    show: Callable[[int, int], None],
) -> Redacted:
    """Take *address* out of these messages; out of all else too, once none is left open."""
    done = 0
    left = []
    for number, message_id in enumerate(message_ids, 1):
        came = await store.redact(message_id, address, deed=deed, now_ms=clock.now_ms())
        done += came is Redaction.DONE
        if came is Redaction.OPEN:
            left.append(message_id)
        show(number, len(message_ids))
    if not left:
        await store.redact_rest(address)
    return Redacted(done, left)
