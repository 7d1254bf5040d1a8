"""Schema steps: ordered, additive, each with a sentence; applied by `emailerctl store migrate`.

sqlite-utils keeps the list of what was applied.  `messages` is the outbox; `work` has a row
only while a recipient is queued or sending, so that a million finished messages change nothing
for claiming.  Moments are integer milliseconds since 1970 UTC, but `lease_until`, which is on
the boot clock.  Readable times come from the views.
"""

import os
import secrets
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from emailerctl.errors import StoreUnusable
from emailerctl.models.dkim import Algorithm, KeyState
from emailerctl.models.lifecycle import Reason, State
from emailerctl.models.message import RecipientKind
from emailerctl.store import sqlite
from emailerctl.store.base import BreakerState
from emailerctl.store.schema import (
    NOTABLE_SQL,
    SET,
    STEPS,
    Step,
    one_of,
    refuse_newer,
)

_MIGRATIONS = Migrations(SET)

_FIRST = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    token_id INTEGER NOT NULL,
    state TEXT NOT NULL CHECK ({one_of("state", State)}),
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    send_at INTEGER,
    expires_at INTEGER,
    priority INTEGER NOT NULL,
    on_unknown TEXT NOT NULL,
    provider TEXT NOT NULL DEFAULT '',
    is_test INTEGER NOT NULL DEFAULT 0,
    envelope_sender TEXT NOT NULL,
    header_from TEXT NOT NULL,
    subject TEXT NOT NULL,
    tags TEXT,
    metadata TEXT,
    template TEXT NOT NULL DEFAULT '',
    template_version TEXT NOT NULL DEFAULT '',
    list_unsubscribe TEXT NOT NULL DEFAULT '',
    needs_smtputf8 INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    key_hash BLOB,
    fingerprint BLOB
) STRICT;
CREATE INDEX messages_notable ON messages (state, id) WHERE {NOTABLE_SQL};

CREATE TABLE contents (
    message_id INTEGER PRIMARY KEY,
    raw BLOB NOT NULL,
    dkim TEXT
) STRICT;

CREATE TABLE recipients (
    message_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK ({one_of("kind", RecipientKind)}),
    address TEXT NOT NULL,
    state TEXT NOT NULL CHECK ({one_of("state", State)}),
    reason TEXT CHECK ({one_of("reason", Reason)}),
    attempt INTEGER NOT NULL DEFAULT 0,
    provider TEXT NOT NULL DEFAULT '',
    reply TEXT NOT NULL DEFAULT '',
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (message_id, n)
) WITHOUT ROWID, STRICT;
CREATE INDEX recipients_unknown ON recipients (message_id, n) WHERE state = 'unknown';

CREATE TABLE work (
    message_id INTEGER PRIMARY KEY,
    next_hop TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    waiting_for TEXT NOT NULL,
    chain_index INTEGER NOT NULL DEFAULT 0,
    schedule_step INTEGER NOT NULL DEFAULT 0,
    age_from INTEGER NOT NULL,
    lease_token INTEGER,
    lease_owner INTEGER,
    lease_until INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    marked_at INTEGER,
    open_until_at INTEGER,
    is_alone INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX work_due ON work (next_hop, priority, due_at)
    WHERE lease_token IS NULL AND is_alone = 0;
CREATE INDEX work_alone ON work (due_at) WHERE lease_token IS NULL AND is_alone = 1;
CREATE INDEX work_leased ON work (lease_owner) WHERE lease_token IS NOT NULL;

CREATE TABLE timers (
    message_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    what TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (message_id, n, what)
) WITHOUT ROWID, STRICT;
CREATE INDEX timers_at ON timers (at);

CREATE TABLE attempts (
    message_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    provider TEXT NOT NULL,
    phase TEXT NOT NULL,
    outcome TEXT NOT NULL,
    code INTEGER,
    enhanced_status TEXT NOT NULL DEFAULT '',
    reply TEXT NOT NULL DEFAULT '',
    provider_message_id TEXT NOT NULL DEFAULT '',
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    open_until_at INTEGER,
    hash BLOB NOT NULL,
    recipients TEXT,
    dialogue TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (message_id, n)
) WITHOUT ROWID, STRICT;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    at INTEGER NOT NULL,
    message_id INTEGER,
    n INTEGER,
    from_state TEXT,
    to_state TEXT,
    attempt INTEGER,
    provider TEXT,
    reply TEXT,
    data TEXT
) STRICT;
CREATE INDEX events_message ON events (message_id) WHERE message_id IS NOT NULL;

CREATE TABLE keys (
    hash BLOB PRIMARY KEY,
    message_id INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE terms (
    term TEXT NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (term, message_id)
) WITHOUT ROWID, STRICT;
CREATE INDEX terms_message ON terms (message_id);

CREATE TABLE consumers (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    in_flight INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER
) STRICT;

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    scopes TEXT NOT NULL,
    limits TEXT NOT NULL,
    is_test INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER
) STRICT;

CREATE TABLE recipient_rates (
    token_id INTEGER NOT NULL,
    address TEXT NOT NULL,
    at INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (token_id, address, at, message_id)
) WITHOUT ROWID, STRICT;
CREATE INDEX recipient_rates_at ON recipient_rates (at);

CREATE TABLE suppressions (
    address TEXT NOT NULL,
    service TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    actor TEXT NOT NULL,
    PRIMARY KEY (address, service)
) WITHOUT ROWID, STRICT;

CREATE TABLE next_hops (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    settings_hash TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID, STRICT;

CREATE TABLE alerts (
    name TEXT PRIMARY KEY,
    detail TEXT NOT NULL,
    since_at INTEGER NOT NULL,
    notified_at INTEGER
) WITHOUT ROWID, STRICT;

CREATE VIEW messages_readable AS
SELECT id, service, state, header_from, subject, size_bytes, tags, is_test,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created,
       strftime('%Y-%m-%dT%H:%M:%fZ', changed_at / 1000.0, 'unixepoch') AS changed
  FROM messages;
CREATE VIEW events_readable AS
SELECT seq, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, type, message_id,
       n, from_state, to_state, attempt, provider, reply, data
  FROM events;
CREATE VIEW work_readable AS
SELECT message_id, next_hop, priority, waiting_for,
       strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1000.0, 'unixepoch') AS due,
       schedule_step, lease_owner, is_alone, lost
  FROM work;
"""


@_MIGRATIONS(name=STEPS[0])
def _message_log(db: Database) -> None:
    """Create the message log: messages, recipients, work, attempts, events, keys, tokens."""
    for statement in _FIRST.split(";"):
        if statement.strip():
            db.execute(statement)


# `suppressed` has the heir of `suppressions`: an address may be on the list twice, once against
# all mail and once against what has `list_unsubscribe`, and each ends by itself.
_SECOND = """
CREATE TABLE report_calls (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    once TEXT,
    received_at INTEGER NOT NULL,
    raw BLOB NOT NULL,
    fault TEXT NOT NULL DEFAULT '',
    UNIQUE (provider, once)
) STRICT;

CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    call_id INTEGER NOT NULL,
    provider TEXT NOT NULL,
    event_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    message_id INTEGER,
    n INTEGER,
    attempt INTEGER,
    provider_message_id TEXT NOT NULL,
    cause TEXT,
    event TEXT NOT NULL,
    suppresses TEXT NOT NULL,
    reply TEXT NOT NULL,
    data TEXT,
    received_at INTEGER NOT NULL,
    matched_at INTEGER,
    next_at INTEGER,
    UNIQUE (provider, event_id)
) STRICT;
CREATE INDEX reports_unmatched ON reports (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX attempts_provider_message ON attempts (provider_message_id)
    WHERE provider_message_id <> '';

CREATE TABLE suppressed (
    address TEXT NOT NULL,
    service TEXT NOT NULL,
    blocks TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    actor TEXT NOT NULL,
    message_id INTEGER,
    provider TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (address, service, blocks)
) WITHOUT ROWID, STRICT;
INSERT INTO suppressed (address, service, blocks, reason, detail, created_at, expires_at, actor)
SELECT address, service,
       CASE WHEN reason IN ('complaint', 'unsubscribe') THEN 'lists' ELSE 'all' END,
       reason, detail, created_at, expires_at, actor
  FROM suppressions;

CREATE VIEW reports_readable AS
SELECT id, provider, kind, recipient, message_id, n, attempt, cause, reply,
       strftime('%Y-%m-%dT%H:%M:%fZ', received_at / 1000.0, 'unixepoch') AS received,
       strftime('%Y-%m-%dT%H:%M:%fZ', matched_at / 1000.0, 'unixepoch') AS matched
  FROM reports;
"""


@_MIGRATIONS(name=STEPS[1])
def _reports(db: Database) -> None:
    """Add what next hops report, and suppressions against lists only."""
    for statement in _SECOND.split(";"):
        if statement.strip():
            db.execute(statement)


_BREAKERS = f"""
CREATE TABLE breakers (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK ({one_of("state", BreakerState)}),
    version INTEGER NOT NULL,
    reason TEXT NOT NULL,
    since_at INTEGER NOT NULL,
    until_at INTEGER NOT NULL,
    openings INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    owner INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE paces (
    next_hop TEXT NOT NULL,
    domain TEXT NOT NULL,
    free_us INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    used INTEGER NOT NULL,
    used_before INTEGER NOT NULL,
    PRIMARY KEY (next_hop, domain)
) WITHOUT ROWID, STRICT;
CREATE INDEX work_parked ON work (due_at)
    WHERE lease_token IS NULL AND waiting_for = 'next_hop'
"""


@_MIGRATIONS(name=STEPS[2])
def _breakers(db: Database) -> None:
    """Add the breakers and the pace of next hops, and find what waits for one."""
    for statement in _BREAKERS.split(";"):
        db.execute(statement)


_ROUTES_AND_DOUBTS = (
    "ALTER TABLE attempts ADD COLUMN route TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE attempts ADD COLUMN boot_id TEXT",
    "ALTER TABLE attempts ADD COLUMN marked_boot_at INTEGER",
    "ALTER TABLE attempts ADD COLUMN asked INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN replayed_boot_at INTEGER",
)


@_MIGRATIONS(name=STEPS[3])
def _routes_and_doubts(db: Database) -> None:
    """Note with each attempt why it went there, and how its doubt is being resolved."""
    for statement in _ROUTES_AND_DOUBTS:
        db.execute(statement)


# The work of a lane is found by service, so that each has its share of it (T-30).
_SENDING = f"""
ALTER TABLE work ADD COLUMN service TEXT NOT NULL DEFAULT '';
UPDATE work SET service = coalesce(
    (SELECT service FROM messages WHERE messages.id = work.message_id), '');
CREATE INDEX work_due_in_turn ON work (next_hop, priority, service, due_at)
    WHERE lease_token IS NULL AND is_alone = 0;
DROP INDEX work_due;
CREATE TABLE domain_keys (
    domain TEXT NOT NULL,
    selector TEXT NOT NULL,
    algorithm TEXT NOT NULL CHECK ({one_of("algorithm", Algorithm)}),
    state TEXT NOT NULL CHECK ({one_of("state", KeyState)}),
    public TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    PRIMARY KEY (domain, selector)
) WITHOUT ROWID, STRICT
"""


@_MIGRATIONS(name=STEPS[4])
def _sending(db: Database) -> None:
    """Find what is due by service, and add the DKIM keys of domains."""
    for statement in _SENDING.split(";"):
        db.execute(statement)


def migrate(path: Path) -> list[Step]:
    """Create the store if there is none, apply what is pending, and return all steps.

    Raises:
        StoreUnusable: not ours, of a newer version, or not writable.
    """
    old_umask = os.umask(0o077)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        db = Database(sqlite.connect(path), execute_plugins=False)
        try:
            refuse_newer(path, (step.name for step in _MIGRATIONS.applied(db)))
            _MIGRATIONS.apply(db)
            return _steps(db)
        finally:
            db.close()
    except OSError as error:
        raise StoreUnusable(
            f"the store can't be created at {path}: {error.strerror}",
            hint="check the folder's permissions, or correct [store] url",
        ) from error
    except sqlite.sqlite3.Error as error:
        raise StoreUnusable(
            f"the store at {path} can't be migrated: {error}; the step was taken back",
            hint="if the daemons are running stop them, then: emailerctl store migrate",
        ) from error
    finally:
        os.umask(old_umask)


def list_steps(path: Path) -> list[Step]:
    """Return the schema steps and which of them the store at *path* has."""
    db = Database(sqlite.connect(path), execute_plugins=False)
    try:
        return _steps(db)
    finally:
        db.close()


def _create(path: Path) -> None:
    """Make an empty store beside *path* and move it there whole: no half one is seen."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    connection = sqlite.sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before anything is written
        connection.execute(f"PRAGMA application_id={sqlite.APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    try:
        os.link(fresh, path)  # fails, instead of replacing, where somebody was faster
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _steps(db: Database) -> list[Step]:
    applied = {step.name for step in _MIGRATIONS.applied(db)}
    return [
        Step(name=step.name, sentence=step.fn.__doc__ or "", is_applied=step.name in applied)
        for step in _MIGRATIONS.pending(Database(memory=True))
    ]
