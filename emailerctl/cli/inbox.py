"""`emailerctl inbox`: jobs that came through ForestMQ and are no messages (yet)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes
from emailerctl.errors import AmbiguousId, EmailerError, NotFound
from emailerctl.models.ids import INBOX, MESSAGE, parse_prefix, to_public
from emailerctl.models.page import Page
from emailerctl.models.text import shorten
from emailerctl.store.base import InboxFilter, InboxJob

if TYPE_CHECKING:
    from emailerctl.wiring import App

app = Typer(help="Jobs that came through ForestMQ and are no messages: list, show, retry, rm.")

_REFUSED = 65

InboxId = Annotated[str, Argument(metavar="ID", help="Inbox id, or the beginning of one.")]
InboxIds = Annotated[
    list[str],
    Argument(metavar="ID…", help="Inbox ids, or beginnings; - reads them from stdin."),
]


@app.command("list")
def list_(
    ctx: Context,
    state: Annotated[
        Literal["rejected", "waiting"] | None, Option(help="Those only; else both.")
    ] = None,
    code: Annotated[
        str, Option(metavar="CODE", help="Rejected for this: unknown_key, invalid, …")
    ] = "",
    key_id: Annotated[
        str, Option("--key-id", metavar="NAME", help="That claim to be of this service.")
    ] = "",
    topic: Annotated[str, Option(metavar="TOPIC", help="Of this topic.")] = "",
    limit: options.Limit = options.LIMIT,
    cursor: options.Cursor = None,
) -> None:
    """List the jobs that wait or were rejected, newest first; accepted ones are messages.

    Example: emailerctl inbox list --code unknown_key -o id | emailerctl inbox retry -
    """
    filter_ = InboxFilter(
        is_waiting=None if state is None else state == "waiting",
        reason=code,
        key_id=key_id,
        topic=topic,
    )

    async def work(opened: "App") -> tuple[Page[InboxJob], int]:
        page = await opened.store.list_jobs(filter_, cursor=cursor, limit=limit)
        return page, opened.clock.now_ms()

    page, now_ms = session.run(ctx, work)

    def row(job: InboxJob) -> list[Cell]:
        return [
            to_public(INBOX, job.inbox_id),
            Moment(job.received_ms, now_ms),
            job.topic,
            job.service or (f"{job.key_id}?" if job.key_id else ""),
            job.job_id,
            job.reason or "waiting",
            "; ".join(f"{f.pointer or '/'}: {f.detail}" for f in job.faults),
        ]

    output.listing(
        "Inbox",
        ("id", "received", "topic", "service", "job", "reason", "detail"),
        page.data,
        shape=shapes.inbox_shape,
        row=row,
        next_cursor=page.next_cursor,
    )


@app.command()
def show(ctx: Context, inbox_id: InboxId) -> None:
    """Show a job: why it was rejected, and what came.

    Example: emailerctl inbox show inb_1C6K9Q
    """

    async def work(opened: "App") -> InboxJob:
        return await _load(opened, inbox_id)

    job = session.run(ctx, work)
    shape = shapes.inbox_shape(job, with_raw=True)
    lines = [
        f"{shape['id']}  {job.reason or 'waiting'}",
        f"received  {shape['received_at']}  on {job.topic}",
        f"service   {job.service or '(not known)'}"
        + (f", key id {job.key_id}" if job.key_id and not job.service else ""),
        f"job id    {job.job_id or '(none)'}",
        *(f"fault     {f.pointer or '/'}: {f.detail}" for f in job.faults),
        "",
        str(shape["raw"]),
        *_show_content(job),
    ]
    output.result("\n".join(lines), shape)


def _show_content(job: InboxJob) -> list[str]:
    """Return the email in what came, as text, where it can be read."""
    from emailerctl.core.strictjson import load_object
    from emailerctl.models.job import parse_envelope

    try:
        content = parse_envelope(load_object(job.raw)).content
    except EmailerError:
        return []
    return ["", content.decode("utf-8", "replace")] if isinstance(content, bytes) else []


@dataclass(frozen=True, slots=True)
class _Outcome:
    text: str
    shape: shapes.Shape
    is_accepted: bool


@app.command()
def retry(ctx: Context, inbox_ids: InboxIds) -> None:
    """Look at jobs again, after a key was added or a setting changed, and say what came of it.

    Exits 65 if one of them is still rejected.

    Example: emailerctl inbox retry inb_1C6K9Q
    """

    async def work(opened: "App") -> list[_Outcome]:
        jobs = [await _load(opened, one) for one in session.read_ids(inbox_ids)]
        return [await _retry(opened, job) for job in jobs]

    outcomes = session.run(ctx, work)
    for outcome in outcomes:
        output.result(outcome.text, outcome.shape)
    if not all(outcome.is_accepted for outcome in outcomes):
        raise Exit(_REFUSED)


async def _retry(opened: "App", job: InboxJob) -> _Outcome:
    from emailerctl.core.ingest import Accepted
    from emailerctl.models.event import operator
    from emailerctl.store.base import Rejection

    verdict = await opened.ingest.process(job, by_hand=True)
    public = to_public(INBOX, job.inbox_id)
    message_id, reason = None, None
    text = f"{public} waits"
    if isinstance(verdict, Accepted):
        message_id = to_public(MESSAGE, verdict.receipt.message_id)
        earlier = ", accepted earlier under this key" if verdict.receipt.is_replay else ""
        text = f"{public} is {message_id} now{earlier}"
    elif isinstance(verdict, Rejection):
        reason = verdict.reason
        said = "; ".join(f"{f.pointer or '/'}: {f.detail}" for f in verdict.faults)
        text = f"{public} is rejected again ({reason}): {said}"
    shape: shapes.Shape = {
        "id": public,
        "state": "accepted" if message_id else "rejected",
        "message_id": message_id,
        "code": reason,
    }
    await opened.store.record(
        operator("inbox_retry"),
        now_ms=opened.clock.now_ms(),
        data={"actor": session.build_caller().name, "inbox_id": public, **shape},
    )
    return _Outcome(text, shape, message_id is not None)


@app.command("rm")
def remove(
    ctx: Context,
    inbox_ids: InboxIds,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would go.")] = False,
) -> None:
    """Remove jobs for good; they never become messages.

    Example: emailerctl inbox rm inb_1C6K9Q --yes
    """

    async def find(opened: "App") -> list[InboxJob]:
        return [await _load(opened, one) for one in session.read_ids(inbox_ids)]

    jobs = session.run(ctx, find)
    if dry_run:
        _write_removed("would remove", jobs)
        return
    output.ask(f"Remove {len(jobs)} of the inbox for good?")

    async def work(opened: "App") -> list[InboxJob]:
        actor, now_ms = session.build_caller().name, opened.clock.now_ms()
        return [
            job
            for job in jobs
            if await opened.store.remove_job(job.inbox_id, actor=actor, now_ms=now_ms)
        ]

    _write_removed("removed", session.run(ctx, work))


def _write_removed(verb: str, jobs: Sequence[InboxJob]) -> None:
    for job in jobs:
        public = to_public(INBOX, job.inbox_id)
        output.result(f"{verb} {public}", shapes.inbox_shape(job))


async def _load(opened: "App", text: str) -> InboxJob:
    """Return the job that *text* means: its inbox id, or a prefix of no other's.

    Raises:
        NotFound, AmbiguousId.
    """
    bounds = parse_prefix(INBOX, text)
    found = await opened.store.find_jobs(*bounds) if bounds else []
    if not found:
        raise NotFound(
            f"the inbox has no job {shorten(text)}", hint="emailerctl inbox list shows them"
        )
    if len(found) > 1:
        several = ", ".join(to_public(INBOX, job.inbox_id) for job in found)
        raise AmbiguousId(f"{shorten(text)} is the beginning of {several}")
    return found[0]
