"""`emailerctl store prune` and `store query`: remove what is old, and ask with SQL."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.errors import UsageError
from emailerctl.models.clock import duration_to_text, to_ms
from emailerctl.store.base import Deed

if TYPE_CHECKING:
    from emailerctl.store.querying import Value
    from emailerctl.wiring import App

_AT_ONCE = 500
_WITHIN_MS = 60_000
_ROWS = 1_000


def prune(
    ctx: Context,
    content_ms: Annotated[
        int | None,
        Option(
            "--content",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Keep bytes for so long; else [retention] content.",
        ),
    ] = None,
    messages_ms: Annotated[
        int | None,
        Option(
            "--messages",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Keep finished messages for so long; else [retention] messages.",
        ),
    ] = None,
    events_ms: Annotated[
        int | None,
        Option(
            "--events",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Keep events for so long; else [retention] events.",
        ),
    ] = None,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
) -> None:
    """Remove now what retention says: the bytes of finished messages, then messages, events.

    The daemons do it by themselves; this is for a disk that fills up. What waits, is held, sent
    or in doubt is never removed.

    Example: emailerctl store prune --content 1d --dry-run
    """
    kept = session.load_settings(ctx).retention
    ages = {
        "content_ms": to_ms(kept.content) if content_ms is None else content_ms,
        "messages_ms": to_ms(kept.messages) if messages_ms is None else messages_ms,
        "events_ms": to_ms(kept.events) if events_ms is None else events_ms,
        "audit_ms": to_ms(kept.audit),
    }
    if ages["content_ms"] > ages["messages_ms"]:
        raise UsageError(
            "content can't be kept longer than its message",
            hint=f"give --content {duration_to_text(kept.content)} or less, or more --messages",
        )

    async def count(opened: "App") -> dict[str, int]:
        now_ms = opened.clock.now_ms()
        return dict(await opened.store.count_old(now_ms=now_ms, **ages))

    old = session.run(ctx, count)
    total = sum(old.values())
    said = ", ".join(f"{number} {kind}" for kind, number in old.items())
    if dry_run or not total:
        output.result(f"old: {said}; nothing was done", {"old": old, "removed": 0})
        return
    output.note(f"old: {said}")
    output.ask("Remove them for good?")

    async def work(opened: "App") -> int:
        removed = 0
        with output.progress("Pruning") as show:
            while done := await opened.store.retain(
                now_ms=opened.clock.now_ms(), limit=_AT_ONCE, **ages
            ):
                removed += done
                show(removed, max(total, removed))
        actor = session.build_caller().name
        deed = Deed(actor, "store.prune", "store", reason or "", data={"removed": old})
        await opened.store.note_deed(deed, now_ms=opened.clock.now_ms())
        return removed

    removed = session.run(ctx, work)
    output.result(f"removed {removed} rows; the file keeps its size, and uses the room again",
                  {"old": old, "removed": removed})  # fmt: skip


def query(
    ctx: Context,
    statement: Annotated[str, Argument(metavar="SQL", help="A single query.")],
    csv: Annotated[bool, Option("--csv", help="CSV instead of a table.")] = False,
    limit: Annotated[
        int, Option(metavar="N", min=1, help="Rows at the most.", show_default=True)
    ] = _ROWS,
    timeout_ms: Annotated[
        int | None,
        Option(
            "--timeout",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Stop it after that; 60s unless given.",
        ),
    ] = None,
) -> None:
    """Ask the store with SQL of your own; nothing can be changed, whatever it says.

    The views messages_readable, events_readable, work_readable, reports_readable and
    deeds_readable have moments that people can read.

    Example: emailerctl store query "SELECT state, count(*) FROM recipients GROUP BY state"
    """
    from emailerctl.store.querying import Reading

    within_ms = _WITHIN_MS if timeout_ms is None else timeout_ms
    reading = Reading(session.load_settings(ctx).store.path, within_s=within_ms / 1000)
    try:
        found = reading.ask(statement)
        names = _name_apart(found.columns)
        rows = islice(found.rows, limit)
        _write(names, rows, is_csv=csv)
        if next(found.rows, None) is not None:
            output.note(f"there is more: --limit {limit * 10}")
    finally:
        reading.close()


def _write(names: Sequence[str], rows: "Iterator[Sequence[Value]]", *, is_csv: bool) -> None:
    form = output.form()
    if is_csv:
        output.write_csv([names])
        for row in rows:
            output.write_csv([[_to_text(value) for value in row]])
    elif form is Form.TABLE:
        output.table("Rows", names, [[_to_text(value) for value in row] for row in rows])
    elif form is Form.ID:
        for row in rows:
            output.write_text(_to_text(row[0]))
    else:
        found = _to_shapes(names, rows)
        if form is Form.JSON:
            output.write_json(shapes.listing_shape(found))
            return
        for one in found:
            output.write_json(one, is_line=True)


def _to_shapes(
    names: Sequence[str], rows: "Iterable[Sequence[Value]]"
) -> Iterator[shapes.Shape]:
    for row in rows:
        yield {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in zip(names, row, strict=True)
        }


def _to_text(value: "Value") -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "" if value is None else str(value)


def _name_apart(columns: Sequence[str]) -> list[str]:
    """Return the names of columns, told apart where two have the same."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names
