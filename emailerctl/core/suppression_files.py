"""Suppression lists as CSV: ours, and what providers let one download.

Read line by line, since such a list may be larger than the memory; nothing is opened here.

    Mailgun     address, created_at, and of bounces code, error, of unsubscribes tags
                https://documentation.mailgun.com/docs/mailgun/api-reference (read 2026-11-24)
    Postmark    EmailAddress, SuppressionReason, Origin, CreatedAt
                https://postmarkapp.com/developer/api/suppressions-api (read 2026-11-24)
    Amazon SES  EmailAddress, Reason (BOUNCE, COMPLAINT), LastUpdateTime
                https://docs.aws.amazon.com/ses/latest/APIReference-V2/
                API_SuppressedDestinationSummary.html (read 2026-11-24)
    SendGrid    email, created, and of bounces, blocks, invalid addresses also reason, status:
                no file says which list it is
                https://www.twilio.com/docs/sendgrid/api-reference (read 2026-11-24)
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from emailerctl.errors import Fault, Invalid
from emailerctl.models.address import AddressInvalid, parse_address
from emailerctl.models.clock import parse_moment, to_ms, to_text
from emailerctl.models.ids import MESSAGE, parse_public, to_public
from emailerctl.models.text import find_unsafe, shorten
from emailerctl.store.base import BOUNCE, COMPLAINT, UNSUBSCRIBE, Suppression

REASONS = (BOUNCE, COMPLAINT, UNSUBSCRIBE, "manual")
LONGEST_LINE = 64 * 1024  # characters; who reads a file need read no more of a line
COLUMNS = (
    "address",
    "service",
    "reason",
    "detail",
    "created_at",
    "expires_at",
    "actor",
    "message_id",
    "provider",
)

_DELIMITERS = ",;\t"
_ADDRESSES = ("address", "email", "emailaddress")
_MOMENTS = ("createdat", "created", "lastupdatetime")
_WORDS: Mapping[str, str] = {
    "bounce": BOUNCE,
    "hardbounce": BOUNCE,
    "complaint": COMPLAINT,
    "spamcomplaint": COMPLAINT,
    "unsubscribe": UNSUBSCRIBE,
    "manual": "manual",
}
_LONGEST_WORD = 64
_DETAIL = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_999  # the year 9999

# What a spreadsheet would take for a formula (OWASP, "CSV Injection"); and the apostrophe, so
# that what was put before can be taken away again.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no suppression: its number, from 1, and what is wrong."""

    number: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a list is to be read.

    Attributes:
        reason: of every line; empty: as the file says.
        service: of every line; None: as the file says, else all services.
        actor: who imports it.
    """

    actor: str
    now_ms: int
    reason: str = ""
    service: str | None = None
    allow_local_domains: bool = False


Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the header says: the columns, and how a line tells its reason."""

    delimiter: str
    columns: tuple[str, ...]
    tell_reason: Callable[[Row], str] | None
    is_ours: bool = False


def read_suppressions(
    lines: Iterable[str], reading: Reading
) -> Iterator[Suppression | BadLine]:
    """Yield what each line of a list is, with its line ends as they came.

    Raises:
        Invalid: the header is of no list that is known, or no line says why.
    """
    counted = _Counted(lines)
    try:
        header = next(counted, "")
    except csv.Error as error:
        raise Invalid([Fault("/line/1", f"is no header of a list: {error}")]) from error
    layout = _recognise(header, reading)
    reader = csv.reader(counted, delimiter=layout.delimiter, strict=True)
    while True:
        number = counted.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadLine(number, f"is no CSV: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        try:
            yield _read_line(cells, layout, reading)
        except ValueError as error:
            yield BadLine(number, str(error))


class _Counted:
    """Lines with their number; one that is too long for a suppression is refused."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.number = 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if len(line) >= LONGEST_LINE:
            raise csv.Error(f"it has more than {LONGEST_LINE} characters")
        return line


def _recognise(header: str, reading: Reading) -> _Layout:
    """Return what the first line says about the others.

    Raises:
        Invalid: it is no header that is known.
    """
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue
        columns = tuple(re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in cells)
        if any(name in columns for name in _ADDRESSES):
            return _find_layout(delimiter, columns, reading)
    raise Invalid(
        [
            Fault(
                "/line/1",
                f"{shorten(header.strip())} is no header of a list; it must name a column "
                "address, email or EmailAddress",
            )
        ]
    )


def _find_layout(delimiter: str, columns: tuple[str, ...], reading: Reading) -> _Layout:
    names = set(columns)
    doubled = next((name for name in columns if name and columns.count(name) > 1), "")
    if doubled:
        raise Invalid([Fault("/line/1", f"names the column {doubled} twice")])
    if {"address", "reason", "actor"} <= names:
        return _Layout(delimiter, columns, _tell_ours, is_ours=True)
    if {"emailaddress", "suppressionreason"} <= names:
        return _Layout(delimiter, columns, _tell_postmark)
    if {"emailaddress", "reason"} <= names:
        return _Layout(delimiter, columns, _tell_word)
    if {"address", "code", "error"} <= names:
        return _Layout(delimiter, columns, lambda _row: BOUNCE)
    if {"address", "tags"} <= names:
        return _Layout(delimiter, columns, lambda _row: UNSUBSCRIBE)
    if not reading.reason:
        raise Invalid(
            [
                Fault(
                    "/line/1",
                    "the file does not say why its addresses are suppressed; give --reason "
                    + ", ".join(REASONS),
                )
            ]
        )
    return _Layout(delimiter, columns, None)


def _tell_ours(row: Row) -> str:
    word = row["reason"]
    unsafe = find_unsafe(word)
    if not word or unsafe or len(word) > _LONGEST_WORD:
        raise ValueError(f"reason {shorten(word)} is no word")
    return word


def _tell_word(row: Row) -> str:
    word = row.get("reason", "")
    reason = _WORDS.get(word.strip().lower())
    if reason is None:
        raise ValueError(f"Reason {shorten(word)} is not one of BOUNCE, COMPLAINT")
    return reason


def _tell_postmark(row: Row) -> str:
    word = row["suppressionreason"].strip().lower()
    if word == "manualsuppression":
        # By the recipient it is an unsubscribe, else somebody of the sender's entered it.
        is_theirs = row.get("origin", "").strip().lower() == "recipient"
        return UNSUBSCRIBE if is_theirs else "manual"
    if word not in ("hardbounce", "spamcomplaint"):
        raise ValueError(
            f"SuppressionReason {shorten(word)} is not one of HardBounce, SpamComplaint, "
            "ManualSuppression"
        )
    return _WORDS[word]


def _read_line(cells: Sequence[str], layout: _Layout, reading: Reading) -> Suppression:
    """Return what a line says.

    Raises:
        ValueError: what is wrong with it.
    """
    if len(cells) > len(layout.columns) and any(cells[len(layout.columns) :]):
        raise ValueError(f"has {len(cells)} cells; the header has {len(layout.columns)}")
    values = [_unshield(cell) if layout.is_ours else cell for cell in cells]
    row = dict(zip(layout.columns, values, strict=False))
    row = {name: row.get(name, "") for name in layout.columns}
    address = _read_address(row, reading)
    reason = reading.reason or (layout.tell_reason(row) if layout.tell_reason else "")
    moment = next((row[name] for name in _MOMENTS if row.get(name)), "")
    created_ms = _read_moment(moment) if moment else reading.now_ms
    expires = row.get("expiresat", "") if layout.is_ours else ""
    service = reading.service
    if service is None:
        service = _read_name(row.get("service", "")) if layout.is_ours else ""
    message_id = None
    if layout.is_ours and row.get("messageid"):
        message_id = parse_public(MESSAGE, row["messageid"])
        if message_id is None:
            raise ValueError(f"message_id {shorten(row['messageid'])} is no message id")
    return Suppression(
        address=address,
        service=service,
        reason=reason,
        detail=_read_detail(row, layout),
        created_ms=created_ms,
        expires_ms=_read_moment(expires) if expires else None,
        actor=reading.actor,
        message_id=message_id,
        provider=_read_name(row.get("provider", "")) if layout.is_ours else "",
    )


def _read_address(row: Row, reading: Reading) -> str:
    text = next((row[name] for name in _ADDRESSES if name in row), "").strip()
    if not text:
        raise ValueError("has no address")
    if "\ufffd" in text:
        raise ValueError(f"{shorten(text)} is not UTF-8")
    try:
        return parse_address(
            text, allow_sandbox=True, allow_local_domains=reading.allow_local_domains
        )
    except AddressInvalid as error:
        raise ValueError(str(error)) from error


def _read_name(text: str) -> str:
    name = text.strip()
    if find_unsafe(name) or len(name) > _LONGEST_WORD:
        raise ValueError(f"{shorten(name)} is no name")
    return name


def _read_detail(row: Row, layout: _Layout) -> str:
    if layout.is_ours:
        said = row.get("detail", "")
    elif layout.tell_reason is None:
        said = f"{row.get('status', '')} {row.get('reason', '')}"
    else:
        said = f"{row.get('code', '')} {row.get('error', '')}"
    said = "".join(c if c.isprintable() else " " for c in said[: 2 * _DETAIL])
    return said.strip()[:_DETAIL]


def _read_moment(text: str) -> int:
    """Read the forms that occur: RFC 3339, RFC 5322, seconds since 1970, a date with a time."""
    text = text.strip()
    moment_ms = _try_moment(text)
    if moment_ms is None or not 0 <= moment_ms <= _LATEST_MS:
        raise ValueError(f"{shorten(text)} is no moment; write 2026-11-24T10:00:00Z")
    return moment_ms


def _try_moment(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", text):
        return round(float(text) * 1000)
    try:
        return parse_moment(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, IndexError, TypeError, OverflowError):
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return to_ms(moment - _EPOCH)


# The other way


def write_suppression(one: Suppression) -> list[str]:
    """Return the cells of a line; none of them is a formula to a spreadsheet."""
    public = "" if one.message_id is None else to_public(MESSAGE, one.message_id)
    expires = "" if one.expires_ms is None else to_text(one.expires_ms)
    cells = (
        one.address,
        one.service,
        one.reason,
        one.detail,
        to_text(one.created_ms),
        expires,
        one.actor,
        public,
        one.provider,
    )
    return [_shield(cell) for cell in cells]


def _shield(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unshield(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
