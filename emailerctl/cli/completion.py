"""What a shell offers after Tab, where it has to be looked up: ids, names, addresses.

It must be quick and silent: whatever goes wrong, or takes longer than a moment, offers nothing.
Templates belong here too, once there are some.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from typer import Context

from emailerctl.cli import output, session
from emailerctl.errors import EmailerError
from emailerctl.models.ids import MESSAGE, to_public

if TYPE_CHECKING:
    from emailerctl.wiring import App

Offer = tuple[str, str]  # the word, and what it is

_WITHIN_S = 0.2
_MOST = 20
_PREFIX = "msg_"


def _look_up(
    ctx: Context, work: "Callable[[App], Awaitable[Sequence[Offer]]]", incomplete: str
) -> list[Offer]:
    import asyncio

    async def bounded(opened: "App") -> Sequence[Offer]:
        async with asyncio.timeout(_WITHIN_S):
            return await work(opened)

    try:
        found = session.run(ctx, bounded)
    except (EmailerError, OSError, TimeoutError):
        return []
    return list(_fit(found, incomplete))


def _fit(found: Iterable[Offer], incomplete: str) -> Iterable[Offer]:
    """Return what begins as the word does; a shell is a terminal too (T-19)."""
    for word, said in found:
        if word.lower().startswith(incomplete.lower()):
            yield output.safe(word), output.safe(said)


def complete_message(ctx: Context, incomplete: str) -> list[Offer]:
    """Offer ids of messages, newest first, with recipient and subject."""
    from emailerctl.models.page import MessageFilter

    has_prefix = incomplete.lower().startswith(_PREFIX) or _PREFIX.startswith(
        incomplete.lower()
    )
    word = incomplete if has_prefix else _PREFIX + incomplete

    async def work(opened: "App") -> list[Offer]:
        q = word if len(word) > len(_PREFIX) else ""
        page = await opened.store.list_messages(MessageFilter(q=q), cursor=None, limit=_MOST)
        return [
            (
                to_public(MESSAGE, view.message_id)[0 if has_prefix else len(_PREFIX) :],
                f"{view.state} {view.recipients[0].address} {view.subject}",
            )
            for view in page.data
        ]

    return _look_up(ctx, work, incomplete)


def complete_hop(ctx: Context, incomplete: str) -> list[Offer]:
    """Offer the next hops of the settings."""

    async def work(opened: "App") -> list[Offer]:
        return [(name, str(facts.kind)) for name, facts in opened.describe_hops().items()]

    return _look_up(ctx, work, incomplete)


def complete_token(ctx: Context, incomplete: str) -> list[Offer]:
    """Offer the names of live tokens."""
    from emailerctl.core.tokens import is_live

    async def work(opened: "App") -> list[Offer]:
        _epoch, known = await opened.store.load_tokens()
        now_ms = opened.clock.now_ms()
        live = [token for token in known if is_live(token, now_ms)]
        return list({token.name: token.service for token in live}.items())

    return _look_up(ctx, work, incomplete)


def complete_service(ctx: Context, incomplete: str) -> list[Offer]:
    """Offer the services that tokens send for."""

    async def work(opened: "App") -> list[Offer]:
        _epoch, known = await opened.store.load_tokens()
        return [(name, "service") for name in sorted({token.service for token in known})]

    return _look_up(ctx, work, incomplete)


def complete_suppressed(ctx: Context, incomplete: str) -> list[Offer]:
    """Offer addresses that are not sent to."""

    async def work(opened: "App") -> list[Offer]:
        page = await opened.store.list_suppressions(
            service=None, address=incomplete, cursor=None, limit=_MOST
        )
        return [(one.address, one.reason) for one in page.data]

    return _look_up(ctx, work, incomplete)
