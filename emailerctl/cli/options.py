"""Options and arguments of more than one command, and how their values are read."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from typer import Argument, BadParameter, Option

from emailerctl.cli.completion import complete_hop, complete_message, complete_service
from emailerctl.models.clock import parse_duration, parse_moment, to_ms
from emailerctl.models.page import PAGE_DEFAULT, PAGE_LIMIT

Parsed = TypeVar("Parsed")

MessageId = Annotated[
    str,
    Argument(
        metavar="ID",
        help="Message id, or the beginning of one.",
        autocompletion=complete_message,
    ),
]
MessageIds = Annotated[
    list[str],
    Argument(
        metavar="ID…",
        help="Message ids, or beginnings; - reads them from stdin.",
        autocompletion=complete_message,
    ),
]
Recipients = Annotated[
    list[str] | None,
    Option("--recipient", metavar="ADDRESS", help="This recipient only; may be repeated."),
]
Reason = Annotated[str | None, Option(metavar="TEXT", help="Kept with the event.")]
# Which messages an order is about, instead of their ids.
MaybeIds = Annotated[
    list[str] | None,
    Argument(
        metavar="[ID…]",
        help="Message ids, or beginnings; - reads them from stdin.",
        show_default=False,
        autocompletion=complete_message,
    ),
]
To = Annotated[str, Option("--to", metavar="ADDRESS", help="Those for this recipient.")]
Tag = Annotated[str, Option("--tag", metavar="TAG", help="Those with this tag.")]
Provider = Annotated[
    str,
    Option(
        "--provider",
        metavar="NAME",
        help="Those last tried through this next hop.",
        autocompletion=complete_hop,
    ),
]
DryRun = Annotated[
    bool, Option("--dry-run", help="Say how many it would touch, and change nothing.")
]
All = Annotated[bool, Option("--all", help="All that it fits.")]
Service = Annotated[
    str | None,
    Option(metavar="NAME", help="This service only.", autocompletion=complete_service),
]
Limit = Annotated[
    int,
    Option(metavar="N", min=1, max=PAGE_LIMIT, help="Items of one page.", show_default=True),
]
Cursor = Annotated[
    str | None, Option(metavar="CURSOR", help="The next page: next_cursor of the last one.")
]
LIMIT = PAGE_DEFAULT


def _parser(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """Return *parse* whose complaint is one about the command line."""

    def parse_word(word: str) -> Parsed:
        try:
            return parse(word)
        except ValueError as error:
            raise BadParameter(str(error)) from error

    return parse_word


def _read_duration(word: str) -> int:
    return to_ms(parse_duration(word))


def _read_since(word: str) -> int:
    """Return a moment, or a duration as a negative number: so long before now."""
    return parse_moment(word) if "T" in word else -to_ms(parse_duration(word))


parse_duration_ms = _parser(_read_duration)
parse_since = _parser(_read_since)


Since = Annotated[
    int | None,
    Option(
        "--since", metavar="WHEN", parser=parse_since, help="Accepted since: 1h, or RFC 3339."
    ),
]
Until = Annotated[
    int | None,
    Option("--until", metavar="WHEN", parser=parse_since, help="Accepted before: likewise."),
]


def to_moment(since: int | None, now_ms: int) -> int | None:
    """Return the moment that `parse_since` read."""
    return since if since is None or since > 0 else now_ms + since
