"""`emailerctl store`: make it, bring it up to date, look whether it is sound."""

from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option, Typer

from emailerctl.cli import output, session
from emailerctl.core import shapes
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.store.base import Breach

if TYPE_CHECKING:
    from emailerctl.store.schema import Step
    from emailerctl.wiring import App

app = Typer(help="The store: migrate, check, audit.")

_REFUSED = 65
_CONFIGURATION = 78


@app.command()
def migrate(ctx: Context) -> None:
    """Make the store if there is none, and bring its schema up to date.

    Example: emailerctl store migrate
    """
    from emailerctl.store.migrations import migrate as bring_up_to_date

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
) -> None:
    """Check the invariants of delivery on a live store; exit 65 if one does not hold.

    Example: emailerctl store audit
    """

    async def work(opened: "App") -> list[Breach]:
        return await opened.store.audit(limit=limit)

    found = session.run(ctx, work)
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


def _shape(step: "Step") -> shapes.Shape:
    return {"name": step.name, "applied": step.is_applied, "sentence": step.sentence}
