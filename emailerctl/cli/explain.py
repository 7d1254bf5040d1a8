"""`emailerctl explain`: a message in plain words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from typer import Context

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.models.clock import to_ms
from emailerctl.models.ids import MESSAGE, to_public

if TYPE_CHECKING:
    from emailerctl.core.explain import Explanation, Said
    from emailerctl.wiring import App


def explain(ctx: Context, message: options.MessageId) -> None:
    """Tell what happened to a message, why, what happens next, and what you can do.

    Example: emailerctl explain 1C6K9Q
    """
    from emailerctl.core import explain as explaining
    from emailerctl.core import operate

    async def work(opened: "App") -> "Explanation":
        facts = await explaining.load_circumstances(
            opened.store,
            await operate.resolve_id(opened.store, message, service=None),
            routing=opened.routing,
            hops=opened.describe_hops(),
            reporting=opened.reporting_hops,
            max_age_ms=to_ms(opened.settings.retry.max_age),
            now_ms=opened.clock.now_ms(),
        )
        return explaining.explain(facts)

    found = session.run(ctx, work)
    if output.form() is Form.TABLE:
        _write(found)
    else:
        output.result("", shapes.explanation_shape(found))


def _write(found: "Explanation") -> None:
    public = to_public(MESSAGE, found.message_id)
    output.write_painted(
        [(public, "bold"), ("  ", ""), (found.state, output.COLOURS[found.state])]
    )
    output.write_painted([("what happened", "bold")])
    for said in found.happened:
        at = "" if said.at_ms is None else output.show_time(said.at_ms, "%m-%d %H:%M:%S")
        output.write_painted([(f"  {at:<14}  ", "dim"), (f"{said.text}.", "")])
    _write_sentences("how it stands", found.now)
    _write_sentences("what happens next", found.next)
    if found.advice:
        output.write_painted([("what you can do", "bold")])
    for one in found.advice:
        output.write_painted([(f"  {one.text}: ", ""), (one.command, "cyan")])


def _write_sentences(title: str, sentences: "Sequence[Said]") -> None:
    output.write_painted([(title, "bold")])
    for said in sentences:
        output.write_painted([(f"  {said.text}.", "")])
