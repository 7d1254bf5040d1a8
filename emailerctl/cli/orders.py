"""Carrying out orders about one message or many: survey, question, progress, results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typer import Context, Exit

from emailerctl.cli import errors, options, output, session
from emailerctl.cli.output import Form
from emailerctl.core import shapes
from emailerctl.errors import EmailerError, UsageError
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import State
from emailerctl.models.page import MessageFilter
from emailerctl.store.base import OrderResult, Resolution, Verb

if TYPE_CHECKING:
    from emailerctl.cli.desk import Desk
    from emailerctl.core.bulk import Pick, Survey

_DONE = {
    Verb.CANCEL: "cancelled",
    Verb.HOLD: "held",
    Verb.RELEASE: "released",
    Verb.RETRY: "queued",
    Verb.RESOLVE: "resolved",
    Verb.RESCHEDULE: "rescheduled",
}
_OUT = frozenset({State.SENT, State.DELIVERED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which messages an order is about, where they are not named one by one.

    Attributes:
        states: of the recipients that are meant; empty: whatever the order fits.
        is_all: no filter is wanted.
    """

    states: frozenset[State] = frozenset()
    since: int | None = None
    until: int | None = None
    to: str = ""
    tag: str = ""
    provider: str = ""
    service: str = ""
    is_all: bool = False

    @property
    def is_given(self) -> bool:
        """Whether anything of it was said."""
        return self != Query()

    def build_filter(self, now_ms: int) -> MessageFilter:
        """Return the filter of a listing."""
        return MessageFilter(
            recipient=self.to,
            tag=self.tag,
            provider=self.provider,
            service=self.service,
            since_ms=options.to_moment(self.since, now_ms),
            until_ms=options.to_moment(self.until, now_ms),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An order as the command line has it.

    Attributes:
        question: asked of `{whom}`, of many always.
        asks_of_one: of a single message too.
        hint: how to say which messages are meant.
    """

    verb: Verb
    question: str
    hint: str
    resolution: Resolution | None = None
    asks_of_one: bool = False


def act(
    ctx: Context,
    command: Command,
    said: Sequence[str] | None,
    query: Query,
    fields: Mapping[str, object],
    *,
    is_rehearsal: bool = False,
) -> None:
    """Carry out an order about the messages that were named, or that fit *query*.

    Of many it is shown first how many recipients it would touch, and how many of the others
    have been sent to or are in doubt; then it is asked.

    Raises:
        UsageError: neither ids nor a query, or both.
        Exit: the worst exit code, where one was refused.
    """
    if bool(said) == query.is_given:
        both = "ids and a query exclude each other" if said else "which messages?"
        raise UsageError(both, hint=command.hint)
    ids = list(session.read_ids(said)) if said else []
    given = {name: value for name, value in fields.items() if value}
    is_single = len(ids) == 1
    if is_single and not is_rehearsal:
        if command.asks_of_one:
            output.ask(command.question.format(whom=ids[0]))
        picks: Sequence[Pick] = [_pick(ids[0], given)]
    else:
        survey = session.ask(ctx, lambda desk: _survey(desk, command, ids, query, given))
        whom = _count(survey)
        if is_rehearsal:
            said = f"{_describe_survey(survey)}; nothing was done"
            output.result(said, {"dry_run": True, **_shape(survey)})
            return
        output.note(_describe_survey(survey))
        if not survey.touched and not ids:
            output.result("nothing was done: it fits nobody", _shape(survey))
            return
        output.ask(command.question.format(whom=whom))
        picks = survey.picks
    worst = session.ask(ctx, lambda desk: _carry_out(desk, command, picks, given))
    if worst:
        raise Exit(worst)


def _pick(message: str, given: Mapping[str, object]) -> "Pick":
    from emailerctl.core.bulk import Pick

    recipients = given.get("recipients")
    return Pick(message, tuple(recipients) if isinstance(recipients, list) else None)


async def _survey(
    desk: "Desk",
    command: Command,
    ids: Sequence[str],
    query: Query,
    given: Mapping[str, object],
) -> "Survey":
    from emailerctl.core import bulk

    recipients = given.get("recipients")
    if ids:
        return await bulk.survey_ids(
            desk.load_message,
            command.verb,
            ids,
            resolution=command.resolution,
            recipients=recipients if isinstance(recipients, list) else None,
        )
    if recipients:
        raise UsageError("--recipient goes with ids", hint="narrow a query with --to ADDRESS")
    return await bulk.survey_filter(
        desk.walk_messages,
        command.verb,
        query.build_filter(desk.now_ms()),
        query.states or frozenset(State),
        resolution=command.resolution,
    )


async def _carry_out(
    desk: "Desk", command: Command, picks: Sequence["Pick"], given: Mapping[str, object]
) -> int:
    """Carry out one order for each pick, saying what came of it; return the worst exit code."""
    is_single = len(picks) == 1
    results: list[OrderResult] = []
    worst = 0
    with output.progress(command.verb.capitalize()) as show:
        for number, (message, addresses) in enumerate(picks, 1):
            fields = given if addresses is None else {**given, "recipients": [*addresses]}
            try:
                done = await desk.carry_out(command.verb, message, fields)
            except EmailerError as error:
                if is_single:
                    raise
                output.note(f"{message}:")
                worst = max(worst, errors.report(error))
            else:
                results.append(done)
                if output.form() is not Form.JSON:
                    output.result(_describe(command.verb, done), shapes.order_shape(done))
            show(number, len(picks))
    if output.form() is Form.JSON:
        found = [shapes.order_shape(done) for done in results]
        output.write_json(found[0] if is_single else shapes.listing_shape(found))
    return worst


def _describe(verb: Verb, done: OrderResult) -> str:
    changed = [r.address for r in done.recipients if r.n in done.changed]
    others = [f"{r.address} is {r.state}" for r in done.recipients if r.n not in done.changed]
    rest = f"; unchanged: {', '.join(others)}" if others else ""
    return f"{_DONE[verb]} {to_public(MESSAGE, done.message_id)}: {', '.join(changed)}{rest}"


def _count(survey: "Survey") -> str:
    """Return whom an order about many is about."""
    recipients = "1 recipient" if survey.touched == 1 else f"{survey.touched} recipients"
    count = len(survey.picks) - survey.absent
    return f"{recipients} of {'1 message' if count == 1 else f'{count} messages'}"


def _describe_survey(survey: "Survey") -> str:
    out = sum(survey.left.get(state, 0) for state in _OUT)
    doubt = survey.left.get(State.UNKNOWN, 0)
    rest = sum(survey.left.values()) - out - doubt
    absent = f"; ids that mean no message: {survey.absent}" if survey.absent else ""
    return (
        f"it fits {_count(survey)}; left alone: {out} already sent, {doubt} unknown, "
        f"{rest} others{absent}"
    )


def _shape(survey: "Survey") -> shapes.Shape:
    return {
        "messages": len(survey.picks) - survey.absent,
        "recipients": survey.touched,
        "left": {state: survey.left[state] for state in State if survey.left.get(state)},
        "data": [
            {
                "id": pick.message,
                "recipients": None if pick.addresses is None else list(pick.addresses),
            }
            for pick in survey.picks
        ],
    }
