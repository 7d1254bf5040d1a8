"""SQL of one's own: it reads, and whatever it says, it writes nothing."""

from pathlib import Path

import pytest

from emailerctl.errors import BadRequest, TimedOut
from emailerctl.store.querying import Reading
from tests.desk import Desk

WRITES = (
    "DELETE FROM messages",
    "UPDATE messages SET subject = 'x'",
    "INSERT INTO meta VALUES ('a', 'b')",
    "WITH a AS (SELECT 1) DELETE FROM messages",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x (a)",
    "DROP TABLE messages",
    "ALTER TABLE messages ADD COLUMN x",
    "VACUUM",
    "VACUUM INTO '{folder}/copy.db'",
    "ATTACH '{folder}/other.db' AS other",
    "PRAGMA user_version = 7",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA query_only = OFF",
    "REINDEX",
    "ANALYZE",
    "BEGIN IMMEDIATE",
    "SELECT load_extension('x')",
    "SELECT 1; DELETE FROM messages",
)


@pytest.fixture
async def file(desk: Desk) -> Path:
    await desk.add(subject="Hello \x1b[2J")
    return desk.path


@pytest.mark.parametrize("statement", WRITES)
async def test_nothing_is_written_whatever_is_asked(file: Path, statement: str) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.glob("*.db")}
    reading = Reading(file, within_s=5)
    try:
        with pytest.raises(BadRequest) as refused:
            list(reading.ask(statement.format(folder=file.parent)).rows)
    finally:
        reading.close()

    assert "the query is refused" in refused.value.detail
    assert {path.name: path.read_bytes() for path in file.parent.glob("*.db")} == before


async def test_even_without_the_authorizer_the_file_is_read_only(file: Path) -> None:
    """The belt under the braces."""
    reading = Reading(file, within_s=5)
    try:
        reading._db.conn.set_authorizer(None)
        for statement in WRITES[:3]:
            with pytest.raises(BadRequest, match="readonly"):
                reading.ask(statement)
    finally:
        reading.close()


async def test_it_reads_tables_views_and_plans(file: Path) -> None:
    reading = Reading(file, within_s=5)
    try:
        for statement, columns in (
            ("SELECT id, subject FROM messages_readable", ("id", "subject")),
            ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3) "
             "SELECT sum(i) AS i FROM n", ("i",)),
            ("PRAGMA index_list(terms)", ("seq", "name", "unique", "origin", "partial")),
            ("EXPLAIN QUERY PLAN SELECT 1", ("id", "parent", "notused", "detail")),
        ):  # fmt: skip
            found = reading.ask(statement)
            assert tuple(found.columns) == columns
            assert list(found.rows)
    finally:
        reading.close()


async def test_a_query_without_end_is_stopped(file: Path) -> None:
    reading = Reading(file, within_s=0.05)
    try:
        with pytest.raises(TimedOut, match=r"longer than 0\.05 s"):
            list(
                reading.ask(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                    "SELECT count(*) FROM n"
                ).rows
            )
    finally:
        reading.close()
