"""`emailerctl messages export` and `redact`: take data out to use it, or for good."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option

from emailerctl.cli import options, output, session
from emailerctl.core import shapes
from emailerctl.errors import UsageError
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.page import MessageFilter
from emailerctl.store.base import Deed

if TYPE_CHECKING:
    from emailerctl.core.redact import Redacted
    from emailerctl.wiring import App

_REFUSED = 65


def export(
    ctx: Context,
    csv: Annotated[
        bool,
        Option("--csv", help="CSV, a row for each recipient; else JSON, one message a line."),
    ] = False,
    state: Annotated[State | None, Option(help="In this state.")] = None,
    to: options.To = "",
    sender: Annotated[str, Option("--from", metavar="ADDRESS", help="From this address.")] = "",
    tag: options.Tag = "",
    provider: options.Provider = "",
    service: options.Service = None,
    since: options.Since = None,
    until: options.Until = None,
) -> None:
    """Write messages to standard output as they are read, newest first, however many they are.

    In CSV, what a spreadsheet would take for a formula has an apostrophe before it.

    Example: emailerctl messages export --since 7d > week.jsonl

    Example: emailerctl messages export --csv --state bounced > bounced.csv
    """
    from emailerctl.core.bulk import walk_messages
    from emailerctl.core.export import COLUMNS, to_rows

    async def work(opened: "App") -> int:
        now_ms = opened.clock.now_ms()
        filter_ = MessageFilter(
            state=state,
            recipient=to,
            header_from=sender,
            tag=tag,
            provider=provider,
            service=service or "",
            since_ms=options.to_moment(since, now_ms),
            until_ms=options.to_moment(until, now_ms),
        )
        count = 0
        if csv:
            output.write_csv([COLUMNS])
        async for view in walk_messages(opened.store, filter_, now_ms=now_ms):
            count += 1
            if csv:
                output.write_csv(to_rows(view))
                continue
            whole = await opened.store.find_message(view.message_id, now_ms=now_ms)
            if whole is not None:  # retention may have been faster
                output.write_json(shapes.message_shape(whole), is_line=True)
        return count

    output.note(f"{session.run(ctx, work)} messages")


def redact(
    ctx: Context,
    recipient: Annotated[
        str, Option("--recipient", metavar="ADDRESS", help="Whom to take out of the store.")
    ],
    inbox: Annotated[
        list[Path] | None,
        Option(
            metavar="DIR",
            help="Remove the mails that name it from this inbox folder too; may be repeated.",
        ),
    ] = None,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
) -> None:
    """Take a recipient out of everything that is kept: address, content, replies, dialogues.

    What is left of its messages counts and proves, and names nobody: ids, states, moments,
    codes, hashes. Messages that may still be sent are left alone and named (exit 65): cancel or
    resolve them first. A suppression of the address stays, else it would be written to again.

    Example: emailerctl messages redact --recipient ann@example.org --reason "asked for it"
    """
    from emailerctl.core import redact as redacting
    from emailerctl.core.operate import parse_recipient

    for folder in inbox or ():
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder", hint="name the folder of an inbox")
    files = [path for folder in inbox or () for path in _find_mails(folder, recipient)]

    async def find(opened: "App") -> tuple[str, list[int]]:
        local = opened.settings.limits.allow_local_domains
        address = parse_recipient(recipient, allow_local_domains=local)
        now_ms = opened.clock.now_ms()
        return address, await redacting.find_messages(opened.store, address, now_ms=now_ms)

    address, ids = session.run(ctx, find)
    shape: shapes.Shape = {"messages": len(ids), "files": len(files), "redacted": 0, "open": []}
    if dry_run:
        said = f"{len(ids)} messages and {len(files)} files name {address}; nothing was done"
        output.result(said, {"dry_run": True, **shape})
        return
    output.note(f"{len(ids)} messages and {len(files)} files name {address}")
    output.ask(f"Take {address} out of them for good? There is no way back.")

    async def work(opened: "App") -> "Redacted":
        deed = Deed(session.build_caller().name, "message.redact", "", reason or "")
        with output.progress("Redacting") as show:
            done = await redacting.redact(
                opened.store, opened.clock, ids, address, deed=deed, show=show
            )
        await opened.driver.checkpoint()
        return done

    done = session.run(ctx, work)
    left = [to_public(MESSAGE, message_id) for message_id in done.left]
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    text = f"redacted {done.done} messages, removed {len(files)} files"
    output.result(text, {**shape, "redacted": done.done, "open": left})
    if left:
        output.error(
            f"{', '.join(left)} may still be sent: left as they are",
            hint="emailerctl messages cancel ID, or emailerctl unknown resolve ID; then again",
        )
        raise Exit(_REFUSED)


def _find_mails(folder: Path, address: str) -> list[Path]:
    """Return the mails in *folder* that name *address*, in their names or inside."""
    needle = address.lower()
    return [
        path
        for path in sorted(folder.glob("*.eml"))
        if needle in path.name.lower() or needle.encode() in path.read_bytes().lower()
    ]
