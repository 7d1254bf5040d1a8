"""What the schema's steps are called, and whether a store has them.

The steps themselves are in `migrations`, apart, since that needs sqlite-utils and every program
asks this at its start.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emailerctl.errors import StoreUnusable
from emailerctl.models.lifecycle import State
from emailerctl.store import sqlite

SET = "emailerctl"  # the name of our set of steps in sqlite-utils' list
STEPS = (
    "0001_message_log",
    "0002_reports",
    "0003_breakers",
    "0005_routes_and_doubts",
    "0009_sending",
)

# Steps are additive: the release before goes on with them, so that an upgrade can be taken back
# without the store.  One that can't be has a name with this end, and older programs refuse it.
BREAKING = "_breaking"

# The rare states, in which people look for messages: an index that the usual life of a message
# (queued, sending, sent, delivered) never touches.
NOTABLE = (State.UNKNOWN, State.HELD, State.FAILED, State.BOUNCED, State.CANCELLED)

_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = :set ORDER BY rowid"
_HAS_LIST = "SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'"


def one_of(column: str, values: Iterable[str]) -> str:
    """Return the condition that *column* is one of *values*.

    Not `IN (…)`: SQLite builds a table for that with every row that it checks, which doubles
    the cost of an INSERT.
    """
    return "(" + " OR ".join(f"{column} = '{value}'" for value in values) + ")"


NOTABLE_SQL = one_of("state", NOTABLE)


@dataclass(frozen=True, slots=True)
class Step:
    """A schema step: its name, its sentence, and whether this store has it."""

    name: str
    sentence: str
    is_applied: bool


def require_current(path: Path) -> None:
    """Refuse a store whose schema is older or newer than this program.

    Raises:
        StoreUnusable: says which steps are pending or unknown, and what to type.
    """
    connection = sqlite.connect(path, is_reader=True)
    try:
        has_list = connection.execute(_HAS_LIST).fetchone() is not None
        rows = connection.execute(_APPLIED, {"set": SET}).fetchall() if has_list else []
    except sqlite.sqlite3.Error as error:
        raise StoreUnusable(
            f"the store at {path} is damaged: {error}",
            hint="restore a backup, then: emailerctl store check",
        ) from error
    finally:
        connection.close()
    applied = [row[0] for row in rows]
    refuse_newer(path, applied)
    pending = [name for name in STEPS if name not in applied]
    if pending:
        raise StoreUnusable(
            f"the store at {path} lacks the schema steps {', '.join(pending)}",
            hint="run: emailerctl store migrate",
        )


def refuse_newer(path: Path, applied: Iterable[str]) -> None:
    """Refuse a store with steps that this program does not know and can't live with.

    Raises:
        StoreUnusable: names them.
    """
    unknown = [name for name in applied if name not in STEPS and name.endswith(BREAKING)]
    if unknown:
        raise StoreUnusable(
            f"a newer version has migrated the store at {path} (it has {', '.join(unknown)})",
            hint="install that version, or restore the backup made before the upgrade",
        )
