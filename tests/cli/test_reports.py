"""`emailerctl reports ingest`: by hand, and as a mail server would run it."""

from typing import Any

import pytest

from emailerctl.models.ids import parse_public
from emailerctl.models.verp import build_return_path
from tests.cli.world import Kind, World
from tests.desk import connect
from tests.returned_mail import fill


def sign(world: World, message_id: str, *, attempt: int = 1) -> str:
    """Return the return path of a message, as the consumer would have signed it."""

    async def work(opened: Any) -> str:
        signer = await opened.load_signer()
        number = parse_public("msg", message_id)
        return build_return_path(
            "bounces@example.org", signer.sign(number, n=1, attempt=attempt)
        )

    path: str = world.work(work)
    return path


def send(world: World) -> str:
    """Have a message handed over; return its id."""
    message_id = world.submit()
    world.attempt(message_id, Kind.ACCEPTED, "250 ok")
    return message_id


def ingest(world: World, raw: bytes, *args: str, **environment: str) -> Any:
    return world.run("reports", "ingest", *args, stdin=raw.decode("latin-1"), **environment)


def test_a_bounce_is_taken_and_said(world: World) -> None:
    message_id = send(world)
    raw = fill("postfix-failed", path=sign(world, message_id))

    result = ingest(world, raw)

    assert (result.code, result.out) == (0, "")
    assert f"bounce, about {message_id}; ann@example.org: bounced, for good" in result.err
    assert world.ok("show", message_id, "-o", "json").json["state"] == "bounced"
    (entry,) = world.ok("suppressions", "list", "-o", "json").json["data"]
    assert (entry["address"], entry["reason"]) == ("ann@example.org", "bounce")


def test_a_forged_one_is_let_go(world: World) -> None:
    """Exit 0: a mail server must not keep it, nor send it back."""
    message_id = send(world)
    path = build_return_path("bounces@example.org", "a" * 31)

    result = ingest(world, fill("postfix-failed", path=path), "-o", "json")

    assert result.code == 0
    assert "not signed by us" in result.err
    assert (result.json["message_id"], result.json["is_forged"]) == (None, True)
    assert world.ok("show", message_id, "-o", "json").json["state"] == "sent"


@pytest.mark.parametrize("name", ["ORIGINAL_RECIPIENT", "RECIPIENT", "--recipient"])
def test_the_mail_server_knows_whom_it_came_to(world: World, name: str) -> None:
    message_id = send(world)
    path = sign(world, message_id)
    raw = fill("postfix-failed")

    if name.startswith("-"):
        result = ingest(world, raw, name, path, "-o", "id")
    else:
        result = ingest(world, raw, "-o", "id", **{name: path})

    assert (result.code, result.out) == (0, f"{message_id}\n")


def test_a_mailbox_file_has_many(world: World) -> None:
    message_id = send(world)
    bounce = fill("postfix-failed", path=sign(world, message_id))
    from_line = b"From MAILER-DAEMON Tue Nov 24 09:00:03 2026\n"
    mbox = b"".join(
        from_line + one.replace(b"\r\n", b"\n") + b"\n"
        for one in (bounce, fill("person"), bounce, fill("gmail-failed"))
    )

    result = ingest(world, mbox, "--mbox", "-o", "json")

    assert result.code == 0
    assert [
        (one["sort"], one["message_id"], one["repeated"]) for one in result.json["data"]
    ] == [
        ("bounce", message_id, 0),
        ("other", None, 0),
        ("bounce", message_id, 1),
        ("bounce", None, 0),
    ]
    assert "4 messages, 2 about" in ingest(world, mbox, "--mbox").err
    assert ingest(world, mbox, "--mbox", "-o", "id").lines == [message_id] * 2


def test_a_busy_store_has_the_mail_server_keep_it(world: World) -> None:
    """F-WI-04: 75, EX_TEMPFAIL."""
    message_id = send(world)
    raw = fill("postfix-failed", path=sign(world, message_id))

    with connect(world.folder / "emailer.db") as connection:
        connection.execute("BEGIN IMMEDIATE")
        result = ingest(world, raw, EMAILER_STORE__BUSY_TIMEOUT="50ms")
        connection.execute("ROLLBACK")

    assert result.code == 75
    assert "busy" in result.err.lower() or "locked" in result.err.lower()
    assert world.ok("show", message_id, "-o", "json").json["state"] == "sent"


@pytest.mark.parametrize("fault", ["settings", "store"])
def test_no_mail_is_lost_to_a_fault_of_ours(world: World, fault: str) -> None:
    """Any other exit code would have the bounce sent back, or thrown away."""
    if fault == "settings":
        result = ingest(world, fill("person"), EMAILER_STORE__URL="nonsense")
    else:
        (world.folder / "emailer.db").write_bytes(b"no database at all, whatever it was")
        result = ingest(world, fill("person"))

    assert (result.code, result.out) == (75, "")
    assert result.err.startswith("error:")


def test_no_mail_is_lost_to_a_bug_of_ours(world: World) -> None:
    world.work(lambda app: app.store.leave_note("verp_key", "not hexadecimal"))

    result = ingest(world, fill("person"))

    assert (result.code, result.out) == (75, "")
    assert "ValueError" in result.err


def test_more_than_is_looked_at_is_swallowed(world: World) -> None:
    """A pipe that shuts early is a failed delivery to the mail server."""
    result = ingest(world, fill("person") + b"x" * 3_000_000)

    assert result.code == 0
