"""Stores with many finished messages, built once and kept.

A few messages are accepted and delivered by the product itself; one of them is the template
that SQL multiplies, in every table that names a message.  The search tables are filled by the
product.  `store audit` looks at a small store that was built the same way.
"""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench import sinks
from bench.installation import Installation
from emailerctl.settings import load
from emailerctl.store import migrations, sqlite
from emailerctl.wiring import open_app

_CHUNK = 20_000
_SPAN_MS = 3 * 86_400_000  # the messages are spread over the last three days
_INDEX_BATCH = 2_000
_ID_BITS = 21  # random bits below the milliseconds of a message id

_NUMBERS = f"""
    CREATE TEMP TABLE numbers AS
    WITH RECURSIVE counter(i) AS (
        SELECT :first UNION ALL SELECT i + 1 FROM counter WHERE i + 1 < :end)
    SELECT i, ms AS shift_ms, :id + ms * {1 << _ID_BITS} AS id, randomblob(16) AS key
      FROM (SELECT i, (i * {_SPAN_MS}) / :total - {_SPAN_MS} - 60000 AS ms FROM counter)
"""


def find_finished(cache: Path, folder: Path, count: int, say: Callable[[str], None]) -> Path:
    """Return a store with *count* finished messages, from the cache or built now."""
    name = f"finished-{count}-"
    path = cache / f"{name}{_hash_recipe()}.db"
    if not path.exists():
        for old in cache.glob(f"{name}*.db"):
            old.unlink()
        say(f"building a store with {count:,} finished messages in {cache} (once)")
        fresh = _build(folder / f"building-{count}", count)
        fresh.replace(path)
    return path


def _hash_recipe() -> str:
    """Return what changes with the schema and with the way that stores are built here."""
    recipe = b"".join(Path(file).read_bytes() for file in (migrations.__file__, __file__))
    return sha256(recipe).hexdigest()[:12]


def _build(folder: Path, count: int) -> Path:
    cache = folder / "sink"
    cache.mkdir(parents=True, exist_ok=True)
    with sinks.open_journal(cache) as journal:
        site = Installation(folder, sink_port=journal.sink.port).create()
        with site.start_api() as api:
            site.accept(api, count=4, connections=1)
        site.deliver()
    db = sqlite.connect(site.store)
    try:
        _multiply(db, count)
    finally:
        db.close()
    asyncio.run(_index(folder / "emailer.toml"))
    if count <= _CHUNK:
        site.audit()
    return site.settle_files()


def _multiply(db: Any, count: int) -> None:
    """Add *count* copies of the store's newest message."""
    (message_id,) = db.execute("SELECT max(id) FROM messages").fetchone()
    # Nothing is lost by a crash here but the work of a minute.
    db.execute("PRAGMA synchronous=OFF")
    tables = [
        row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    ]
    for first in range(0, count, _CHUNK):
        db.execute("BEGIN IMMEDIATE")
        span = {"first": first, "end": min(first + _CHUNK, count), "total": count}
        db.execute(_NUMBERS, {**span, "id": message_id})
        for table in tables:
            statement = build_copy(db, table)
            if statement:
                db.execute(statement, {"message_id": message_id})
        db.execute("DROP TABLE numbers")
        db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def build_copy(db: Any, table: str) -> str | None:
    """Return what multiplies the template's rows in *table*; None where it has none."""
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    owner = "id" if table == "messages" else "message_id"
    if table == "terms" or owner not in columns:  # terms: the product fills them
        return None
    values = [_copy_column(table, column, owner) for column in columns]
    order = "numbers.i, t.seq" if "seq" in columns else "numbers.i"
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM numbers CROSS JOIN {table} t WHERE t.{owner} = :message_id ORDER BY {order}"
    )


def _copy_column(table: str, column: str, owner: str) -> str:
    if column == owner:
        return "numbers.id"
    if column == "seq":
        return "NULL"  # the next one
    if column == "key_hash" or (table, column) == ("keys", "hash"):
        return "numbers.key"
    if column == "address":
        return "'customer' || numbers.i || '@example.org'"
    if column == "at" or column.endswith("_at"):
        return f"t.{column} + numbers.shift_ms"
    return f"t.{column}"


async def _index(config: Path) -> None:
    async with open_app(load(config, environ={})) as app:
        while await app.store.index(limit=_INDEX_BATCH):
            pass
