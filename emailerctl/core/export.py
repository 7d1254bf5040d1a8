"""Messages as rows of a spreadsheet: one for each recipient, nothing in them acts."""

from collections.abc import Iterator, Sequence

from emailerctl.models.clock import to_text
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.message import MessageView

COLUMNS: Sequence[str] = (
    "id", "created_at", "service", "from", "subject", "tags", "template", "test", "recipient",
    "kind", "state", "reason", "waiting_for", "due_at", "provider", "attempt", "reply",
    "changed_at",
)  # fmt: skip

# What makes a cell a formula in spreadsheets (OWASP, CSV Injection, read 2026-11-24).
_ACTS = ("=", "+", "-", "@", "\t", "\r")


def to_rows(view: MessageView) -> Iterator[list[str]]:
    """Yield a row for each recipient of a message, in the order of COLUMNS."""
    for one in view.recipients:
        cells = [
            to_public(MESSAGE, view.message_id),
            to_text(view.created_ms),
            view.service,
            view.header_from,
            view.subject,
            " ".join(view.tags),
            view.template,
            "true" if view.is_test else "false",
            one.address,
            one.kind,
            one.state,
            one.reason or "",
            one.waiting_for or "",
            "" if one.due_ms is None else to_text(one.due_ms),
            one.provider,
            str(one.attempt),
            one.reply,
            to_text(one.changed_ms),
        ]
        yield [disarm(cell) for cell in cells]


def disarm(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{cell}" if cell.startswith(_ACTS) else cell
