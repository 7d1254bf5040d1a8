"""`emailerctl send`: one message by hand, through the same rules as the API's."""

import base64
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Context, Exit, Option

from emailerctl.cli import logs, options, output, session
from emailerctl.core import shapes
from emailerctl.errors import ContentGone, Fault, Invalid, NotFound, UsageError
from emailerctl.models.event import GAP
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import FINAL, State
from emailerctl.models.message import MessageView

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

_REACHED = frozenset({State.SENT, State.DELIVERED})
_ENDED_OTHERWISE = 65
_TIMED_OUT = 75
_TIMEOUT_MS = 60_000

Words = list[str] | None


def send(
    ctx: Context,
    source: Annotated[
        str | None, Argument(metavar="[-]", help="- reads the text from standard input.")
    ] = None,
    sender: Annotated[
        str | None, Option("--from", metavar="MAILBOX", help="Else [defaults] from.")
    ] = None,
    to: Annotated[Words, Option(metavar="MAILBOX", help="May be repeated.")] = None,
    cc: Annotated[Words, Option(metavar="MAILBOX", help="May be repeated.")] = None,
    bcc: Annotated[Words, Option(metavar="MAILBOX", help="May be repeated.")] = None,
    reply_to: Annotated[Words, Option(metavar="MAILBOX", help="May be repeated.")] = None,
    subject: Annotated[str | None, Option(metavar="TEXT", help="The subject.")] = None,
    text: Annotated[str | None, Option(metavar="TEXT", help="The text.")] = None,
    html: Annotated[str | None, Option(metavar="HTML", help="The HTML.")] = None,
    attach: Annotated[
        list[Path] | None, Option(metavar="FILE", help="Travels along; may be repeated.")
    ] = None,
    tag: Annotated[Words, Option(metavar="TAG", help="May be repeated.")] = None,
    metadata: Annotated[
        Words, Option(metavar="KEY=VALUE", help="Kept, never sent; may be repeated.")
    ] = None,
    header: Annotated[
        Words, Option(metavar="NAME:VALUE", help="A header field; may be repeated.")
    ] = None,
    provider: Annotated[
        str | None, Option(metavar="NAME", help="Through this next hop.")
    ] = None,
    expires_in: Annotated[
        str | None, Option(metavar="DURATION", help="Never sent later than that: 15m.")
    ] = None,
    on_unknown: Annotated[
        Literal["ask", "resend"] | None,
        Option(help="When nobody knows if it went out: ask, or risk a second copy."),
    ] = None,
    key: Annotated[
        str | None, Option(metavar="KEY", help="Idempotency key: the same one sends once.")
    ] = None,
    like: Annotated[
        str | None,
        Option(metavar="ID", help="As this message, but for what the other options say."),
    ] = None,
    plan: Annotated[
        bool,
        Option("--plan", help="Say where it would go, how, and every trap; send nothing."),
    ] = False,
    wait: Annotated[bool, Option("--wait", help="Until it is sent, or can't be.")] = False,
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="How long to wait; 60s unless given.",
        ),
    ] = None,
) -> None:
    """Send a message as the service "local".

    With --wait it exits 0 when the next hop took it for every recipient, 65 when it ended
    otherwise, 75 when the time is over.

    Example: emailerctl send --to ann@example.org --subject Hello --text "It works." --wait

    Example: uptime | emailerctl send --to ann@example.org --subject load -

    Example: emailerctl send --to ann@example.org --subject Hello --text Hi --plan
    """
    if plan and (wait or key is not None):
        raise UsageError(
            "--plan sends and keeps nothing: there is nothing to --wait for, and no --key",
            hint="leave them out",
        )
    if timeout_ms is not None and not wait:
        raise UsageError("--timeout says how long to --wait", hint="give both, or neither")
    said: dict[str, object] = {
        "from": sender,
        "to": to,
        "cc": cc,
        "bcc": bcc,
        "reply_to": reply_to,
        "subject": subject,
        "text": _read_text(source, text),
        "html": html,
        "attachments": [_read_file(path) for path in attach or ()],
        "tags": tag,
        "metadata": _split(metadata, "=", "metadata"),
        "headers": _split(header, ":", "headers"),
        "provider": provider,
        "expires_in": expires_in,
        "on_unknown": on_unknown,
    }
    given = {name: value for name, value in said.items() if value not in (None, [], {})}

    fields = given if like is None else session.run(ctx, partial(_read_like, like, given))
    if plan:
        session.run(ctx, partial(_show_plan, fields))
        return

    async def work(desk: "Desk") -> int:
        receipt = await desk.accept(fields, key=key)
        public = to_public(MESSAGE, receipt.message_id)
        for warning in receipt.warnings:
            output.warn(warning.detail)
        earlier = ", accepted earlier under this key" if receipt.is_replay else ""
        said = f"{receipt.state} {public}{earlier}"
        if not wait:
            output.result(said, shapes.receipt_shape(receipt))
            return 0
        output.note(said)
        limit_ms = _TIMEOUT_MS if timeout_ms is None else timeout_ms
        return await _wait(desk, receipt.message_id, limit_ms)

    code = session.ask(ctx, work)
    if code:
        raise Exit(code)


async def _show_plan(fields: dict[str, object], opened: "App") -> None:
    """Write what would become of a message."""
    from emailerctl.core.plan import plan_message, write_plan

    providers = {name: hop.provider for name, hop in opened.build_hops().items()}
    try:
        planned = await plan_message(
            opened.acceptance,
            opened.store,
            fields,
            caller=session.build_caller(),
            providers=providers,
            abilities=opened.abilities,
            now_ms=opened.clock.now_ms(),
        )
    finally:
        for provider in providers.values():
            await provider.close()
    output.result("\n".join(write_plan(planned)), planned.shape())
    for warning in planned.warnings:
        output.warn(warning.detail)
    output.note("nothing was sent or kept; the id is an example")


async def _wait(desk: "Desk", message_id: int, limit_ms: int) -> int:
    """Follow a message to its end; return the exit code."""
    import asyncio

    try:
        async with asyncio.timeout(limit_ms / 1000):
            view = await _find_end(desk, message_id)
    except TimeoutError:
        view = await desk.load_message(to_public(MESSAGE, message_id))
    state = view.state
    output.result(f"{state} {to_public(MESSAGE, message_id)}", shapes.message_shape(view))
    if any(r.state not in FINAL for r in view.recipients):
        output.error(
            f"after {limit_ms / 1000:g} s it is {state}",
            hint=f"emailerctl logs --follow --message {to_public(MESSAGE, message_id)}",
        )
        return _TIMED_OUT
    is_reached = all(r.state in _REACHED for r in view.recipients)
    return 0 if is_reached else _ENDED_OTHERWISE


async def _find_end(desk: "Desk", message_id: int) -> MessageView:
    view: MessageView | None = None
    async for event in desk.follow_message(message_id):
        if event is None:
            # Once more after the end was seen: its event may be newer than the last look.
            if view is not None and all(r.state in FINAL for r in view.recipients):
                return view
            view = await desk.load_message(to_public(MESSAGE, message_id))
        elif event.type != GAP:
            output.note("".join(piece for piece, _style in logs.build_line(event)).rstrip())
    raise AssertionError  # following never ends by itself


async def _read_like(like: str, given: dict[str, object], opened: "App") -> dict[str, object]:
    """Return the fields of an earlier message, replaced by those that were given."""
    from emailerctl.core import operate
    from emailerctl.core.reread import read_fields

    message_id = await operate.resolve_id(opened.store, like, service=None)
    view = await opened.store.find_message(message_id)
    if view is None:
        raise NotFound(f"{to_public(MESSAGE, message_id)} was removed by retention")
    raw = await opened.store.load_raw(message_id)
    if raw is None:
        raise ContentGone("the content of this message was removed: there is nothing to copy")
    fields = read_fields(raw, view)
    if {"to", "cc", "bcc"} & given.keys():  # other recipients, not more of them
        fields = {name: v for name, v in fields.items() if name not in {"to", "cc", "bcc"}}
    if {"text", "html"} & given.keys():
        fields = {name: v for name, v in fields.items() if name not in {"text", "html"}}
    return fields | given


def _read_text(source: str | None, text: str | None) -> str | None:
    if source is None:
        return text
    if source != "-":
        raise UsageError(
            f"{source!r} is no option",
            hint="name recipients with --to; - reads the text from stdin",
        )
    if text is not None:
        raise UsageError("- and --text both give the text", hint="give one of them")
    return sys.stdin.read()


def _read_file(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    return {"filename": path.name, "content": base64.b64encode(content).decode()}


def _split(words: Words, mark: str, name: str) -> dict[str, str]:
    faults: list[Fault] = []
    pairs: dict[str, str] = {}
    for word in words or ():
        left, found, right = word.partition(mark)
        if not found or not left:
            faults.append(Fault(f"/{name}", f"{word!r} has no {mark!r} after its name"))
        elif left in pairs:
            faults.append(Fault(f"/{name}", f"{left!r} is given twice"))
        pairs[left] = right.strip()
    if faults:
        raise Invalid(faults)
    return pairs
