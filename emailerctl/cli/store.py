"""`emailerctl store`: make it, bring it up to date, look whether it is sound, save it."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import options, output, session, store_upkeep
from emailerctl.core import shapes
from emailerctl.errors import StoreUnusable, TimedOut
from emailerctl.models.clock import SystemClock, to_text
from emailerctl.models.ids import MESSAGE, find_moment, first_id_at, to_public
from emailerctl.store.base import AuditPoint, Breach, Deed

if TYPE_CHECKING:
    from emailerctl.store.copying import Backup
    from emailerctl.store.schema import Step
    from emailerctl.wiring import App

app = Typer(help="The store: migrate, check, audit, backup, restore, prune, query.")

_REFUSED = 65
_CONFIGURATION = 78


@app.command()
def migrate(ctx: Context) -> None:
    """Make the store if there is none, and bring its schema up to date.

    Example: emailerctl store migrate
    """
    from emailerctl.store.migrations import migrate as bring_up_to_date

    session.require_local(ctx)
    settings = session.load_settings(ctx)
    steps = bring_up_to_date(settings.store.path)
    output.result(
        f"{settings.store.path} is up to date: {', '.join(step.name for step in steps)}",
        {"path": str(settings.store.path), "steps": [_shape(step) for step in steps]},
    )


@app.command()
def check(ctx: Context) -> None:
    """Check the file itself, the schema and the SQLite library; exit 78 if something is wrong.

    Example: emailerctl store check
    """
    from emailerctl.store.migrations import list_steps
    from emailerctl.store.sqlite import find_damage
    from emailerctl.wiring import describe_library

    session.require_local(ctx)
    path = session.load_settings(ctx).store.path
    steps = list_steps(path)
    damage = find_damage(path)
    library, is_safe = describe_library()
    pending = [step for step in steps if not step.is_applied]
    if output.form() is output.Form.TABLE:
        output.table(
            "Schema steps",
            ("step", "applied", "what it does"),
            [[step.name, "yes" if step.is_applied else "no", step.sentence] for step in steps],
        )
    else:
        shape = {
            "path": str(path),
            "steps": [_shape(step) for step in steps],
            "damage": damage,
            "library": {"sqlite": library, "safe": is_safe},
        }
        output.result("", shape)
    if not is_safe:
        output.warn(f"SQLite {library} can lose committed data; 3.51.3 or newer can't")
    for line in damage:
        output.error(line)
    if pending:
        output.error(
            f"{len(pending)} schema steps are pending", hint="emailerctl store migrate"
        )
    if damage or pending:
        raise Exit(_CONFIGURATION)
    output.note(f"{path} is sound; SQLite {library}")


@app.command()
def audit(
    ctx: Context,
    limit: Annotated[int, Option(metavar="N", min=1, help="Stop after so many.")] = 100,
    since: Annotated[
        int | None,
        Option(
            metavar="WHEN",
            parser=options.parse_since,
            help="Messages accepted since: 1d, or RFC 3339; else all.",
        ),
    ] = None,
    within_ms: Annotated[
        int | None,
        Option(
            "--within",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Stop after that time (exit 75), and say how to go on.",
        ),
    ] = None,
) -> None:
    """Check the invariants of delivery on a live store; exit 65 if one does not hold.

    It reads, a piece at a time, and holds up nobody.

    Example: emailerctl store audit

    Example: emailerctl store audit --since 1d --within 5m
    """

    async def work(opened: "App") -> tuple[list[Breach], AuditPoint | None, int]:
        now_ms, ends_ms = opened.clock.now_ms(), opened.clock.boot_ms() + (within_ms or 0)
        since_ms = options.to_moment(since, now_ms)
        at: AuditPoint | None = AuditPoint()
        if since_ms is not None:
            at = AuditPoint(first_id_at(since_ms) - 1)
        found: list[Breach] = []
        messages = 0
        with output.progress("Auditing") as show:
            while at is not None and len(found) < limit:
                if messages and within_ms is not None and opened.clock.boot_ms() >= ends_ms:
                    break
                page = await opened.store.audit_page(at, limit=limit)
                found += page.breaches
                at = page.following
                messages = messages if at is None else at.messages
                show(round(page.share * 100), 100)
        return found[:limit], at, messages

    found, rest, messages = session.run(ctx, work)
    output.note(f"looked at {messages} messages")
    output.listing(
        "Invariants that do not hold",
        ("invariant", "message", "what is wrong"),
        found,
        shape=shapes.breach_shape,
        row=lambda breach: [
            breach.invariant,
            None if breach.message_id is None else to_public(MESSAGE, breach.message_id),
            breach.detail,
        ],
        name="message_id",
    )
    if found:
        raise Exit(_REFUSED)
    if rest is not None and rest.key is None:
        since_text = to_text(find_moment(rest.message_id))
        raise TimedOut(
            f"the time was over after {messages} messages; no breach among them",
            hint=f"go on with: emailerctl store audit --since {since_text}",
        )


@app.command()
def backup(
    ctx: Context,
    path: Annotated[Path, Argument(metavar="PATH", help="A new file: none is overwritten.")],
) -> None:
    """Copy the store, as it is at this moment, while the daemons work.

    Example: emailerctl store backup /var/backups/emailer-2026-11-24.db
    """
    from emailerctl.store.copying import back_up

    session.require_local(ctx)
    source = session.load_settings(ctx).store.path
    with output.progress("Backing up", has_octets=True) as progress:
        made = back_up(source, path.absolute(), progress=progress)
    with contextlib.suppress(StoreUnusable):  # one before an upgrade has no trail yet
        _note_backup(ctx, made.path)
    output.result(f"{made.path}: {_describe(made)}", _backup_shape(made))


def _note_backup(ctx: Context, path: Path) -> None:
    async def work(opened: "App") -> None:
        deed = Deed(session.build_caller().name, "store.backup", str(path))
        await opened.store.note_deed(deed, now_ms=opened.clock.now_ms())

    session.run(ctx, work)


@app.command()
def restore(
    ctx: Context,
    path: Annotated[Path, Argument(metavar="PATH", help="What `store backup` made.")],
    fence: Annotated[
        bool,
        Option(
            "--fence/--no-fence",
            help="Put in doubt what was open in the backup: it may have gone out since.",
        ),
    ] = True,
) -> None:
    """Put a backup in the place of the store, once both daemons are stopped.

    The store that was there is kept beside it.  What was queued, sending or held in the backup
    becomes `unknown` and is never sent again by itself, since it may have gone out after the
    backup was made.  With --no-fence it is sent: only where no daemon has run since.

    What the backup doesn't know is gone: messages accepted since and their idempotency keys, so
    that a repeated request is a new message; suppressions; and that a token was revoked.

    Example: emailerctl store restore /var/backups/emailer-2026-11-24.db
    """
    import asyncio

    from emailerctl.store import copying
    from emailerctl.store.migrations import migrate as bring_up_to_date
    from emailerctl.wiring import fence_store, find_actor

    session.require_local(ctx)
    settings = session.load_settings(ctx)
    place = settings.store.path.absolute()
    found = copying.examine(path.absolute())
    output.note(f"{path}: {_describe(found)}")
    now_ms = SystemClock().now_ms()
    aside = place.with_name(f"{place.name}.replaced-{to_text(now_ms)[:19].replace(':', '')}Z")
    if not fence:
        output.warn("what was sent since that backup will be sent again")
    if place.exists() or not fence:
        output.ask(f"Put it in the place of {place}?")
    data = {"actor": find_actor(), "backup": path.name, "backup_last_seq": found.last_seq}
    fenced = 0
    with (
        output.progress("Restoring", has_octets=True) as progress,
        copying.placing(path.absolute(), place, aside=aside, progress=progress) as fresh,
    ):
        bring_up_to_date(fresh)
        if fence:
            fenced = asyncio.run(fence_store(settings, fresh, data=data))
    lines = [f"{place} is the store of that backup now"]
    if aside.exists():
        lines.append(f"what was there is kept: {aside}")
    if fenced:
        lines.append(f"{fenced} recipients are in doubt: emailerctl unknown list")
    if fence:
        lines.append("tokens revoked since that backup are live again: emailerctl tokens list")
    shape = {
        "path": str(place),
        "replaced": str(aside) if aside.exists() else None,
        "fenced": fenced,
        "backup": _backup_shape(found),
    }
    output.result("\n".join(lines), shape)


def _describe(backup: "Backup") -> str:
    at = "no event" if backup.at_ms is None else f"the newest event of {to_text(backup.at_ms)}"
    return f"{backup.messages} messages, {at}, {backup.size_bytes / 1_000_000:.1f} MB"


def _backup_shape(backup: "Backup") -> shapes.Shape:
    return {
        "path": str(backup.path),
        "size_bytes": backup.size_bytes,
        "messages": backup.messages,
        "last_seq": backup.last_seq,
        "at": None if backup.at_ms is None else to_text(backup.at_ms),
    }


def _shape(step: "Step") -> shapes.Shape:
    return {"name": step.name, "applied": step.is_applied, "sentence": step.sentence}


app.command("prune")(store_upkeep.prune)
app.command("query")(store_upkeep.query)
