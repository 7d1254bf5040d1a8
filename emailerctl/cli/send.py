"""`emailerctl send`: one message by hand, through the same rules as the API's."""

import base64
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Context, Exit, Option

from emailerctl.cli import options, output, session, template_variables
from emailerctl.cli.wait import TIMEOUT_MS, wait_for
from emailerctl.core import shapes
from emailerctl.errors import ContentGone, Fault, Invalid, UsageError
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.wiring import App

_REACHED = frozenset({State.SENT})

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
    template: Annotated[
        str | None, Option(metavar="NAME", help="A published template, with --var.")
    ] = None,
    var: template_variables.Words = None,
    file: template_variables.File = None,
    locale: template_variables.Locale = None,
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
    send_at: Annotated[
        str | None, Option(metavar="WHEN", help="Not before: 2026-12-24T18:00:00+01:00.")
    ] = None,
    send_in: Annotated[
        str | None, Option(metavar="DURATION", help="Not before so long from now: 10m.")
    ] = None,
    priority: Annotated[
        Literal["high", "normal", "low"] | None,
        Option(help="high for what somebody waits for, low for bulk."),
    ] = None,
    list_unsubscribe: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="One-click unsubscribe (RFC 8058): true for a link of ours, or an https URL.",
        ),
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

    Example: emailerctl send --to ann@example.org --template password-reset --var code=483920
    """
    template_variables.require_template(template, var, file, locale)
    if plan and (wait or key is not None):
        raise UsageError(
            "--plan sends and keeps nothing: there is nothing to --wait for, and no --key",
            hint="leave them out",
        )
    if timeout_ms is not None and not wait:
        raise UsageError("--timeout says how long to --wait", hint="give both, or neither")
    given = build_fields(
        source=source,
        sender=sender,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        subject=subject,
        text=text,
        html=html,
        attach=attach,
        tag=tag,
        metadata=metadata,
        header=header,
        provider=provider,
        send_at=send_at,
        send_in=send_in,
        priority=priority,
        list_unsubscribe=list_unsubscribe,
        expires_in=expires_in,
        on_unknown=on_unknown,
    )

    async def read(desk: "Desk") -> dict[str, object]:
        fields = given
        if template is not None:
            use = await _read_use(desk, template, var, file, locale)
            fields = given | {"template": use}
        return fields if like is None else await _read_like(desk, like, fields)

    async def work(desk: "Desk") -> int:
        receipt = await desk.accept(await read(desk), key=key)
        public = to_public(MESSAGE, receipt.message_id)
        for warning in receipt.warnings:
            output.warn(warning.detail)
        earlier = ", accepted earlier under this key" if receipt.is_replay else ""
        said = f"{receipt.state} {public}{earlier}"
        if not wait:
            output.result(said, shapes.receipt_shape(receipt))
            return 0
        output.note(said)
        limit_ms = TIMEOUT_MS if timeout_ms is None else timeout_ms
        return await wait_for(desk, receipt.message_id, _REACHED, limit_ms)

    if plan:
        session.require_local(ctx)
        fields = session.ask(ctx, read)
        session.run(ctx, partial(_show_plan, fields))
        return
    code = session.ask(ctx, work)
    if code:
        raise Exit(code)


def build_fields(
    *,
    source: str | None,
    sender: str | None,
    to: Words,
    cc: Words,
    bcc: Words,
    reply_to: Words,
    subject: str | None,
    text: str | None,
    html: str | None,
    attach: list[Path] | None,
    tag: Words,
    metadata: Words,
    header: Words,
    provider: str | None,
    send_at: str | None,
    send_in: str | None,
    priority: str | None,
    list_unsubscribe: str | None,
    expires_in: str | None,
    on_unknown: str | None,
) -> dict[str, object]:
    """Return the fields of a request, of those options that were given."""
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
        "send_at": send_at,
        "send_in": send_in,
        "priority": priority,
        "list_unsubscribe": True if list_unsubscribe == "true" else list_unsubscribe,
        "expires_in": expires_in,
        "on_unknown": on_unknown,
    }
    return {name: value for name, value in said.items() if value not in (None, [], {})}


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


async def _read_like(desk: "Desk", like: str, given: dict[str, object]) -> dict[str, object]:
    """Return the fields of an earlier message, replaced by those that were given."""
    from emailerctl.core.reread import read_fields

    view = await desk.load_message(like)
    if not view.has_content:
        raise ContentGone("the content of this message was removed: there is nothing to copy")
    raw = await desk.load_raw(to_public(MESSAGE, view.message_id))
    fields = read_fields(raw, view)
    if {"to", "cc", "bcc"} & given.keys():  # other recipients, not more of them
        fields = {name: v for name, v in fields.items() if name not in {"to", "cc", "bcc"}}
    if {"text", "html", "template"} & given.keys():
        fields = {name: v for name, v in fields.items() if name not in {"text", "html"}}
    if "template" in given:
        fields.pop("subject", None)
    return fields | given


async def _read_use(
    desk: "Desk", name: str, var: Words, file: str | None, locale: str | None
) -> dict[str, object]:
    """Return the field `template`; what is wrong with its name is said at acceptance."""
    schema = await desk.find_schema(name)
    variables = template_variables.read_variables(schema, var, file)
    use: dict[str, object] = {"name": name, "variables": variables}
    return use | ({"locale": locale} if locale else {})


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
