"""`send`: by hand, through the same rules as the API's."""

import threading
from pathlib import Path

from tests.cli.world import Kind, World


def test_a_message_is_accepted_for_the_service_local(world: World) -> None:
    receipt = world.ok(
        "send", "--to", "Ann <ann@example.org>", "--subject", "Hi", "--text", "x", "-o", "json"
    ).json

    assert set(receipt) == {
        "id", "state", "created_at", "on_unknown", "test", "recipients", "warnings",
    }  # fmt: skip
    assert receipt["state"] == "queued"
    assert world.ok("show", receipt["id"], "-o", "json").json["service"] == "local"


def test_everything_that_can_be_said_arrives(world: World, tmp_path: Path) -> None:
    (tmp_path / "bill.txt").write_text("42")
    public = world.ok(
        "send", "--from", "Büro <office@example.org>", "--to", "ann@example.org",
        "--cc", "bob@example.org", "--bcc", "eve@example.org", "--reply-to", "desk@example.org",
        "--subject", "Grüße", "--html", "<p>x</p>", "--attach", "bill.txt", "--tag", "t",
        "--metadata", "order=7=8", "--header", "X-Shop: a: b", "--provider", "relay",
        "--expires-in", "1h", "--on-unknown", "resend", "-o", "id", "-", stdin="the text\n",
    ).out.strip()  # fmt: skip

    shown = world.ok("show", public, "-o", "json").json
    raw = world.ok("show", public, "--raw").out

    assert [(r["address"], r["kind"]) for r in shown["recipients"]] == [
        ("ann@example.org", "to"), ("bob@example.org", "cc"), ("eve@example.org", "bcc"),
    ]  # fmt: skip
    assert (shown["tags"], shown["metadata"]) == (["t"], {"order": "7=8"})
    assert (shown["provider"], shown["on_unknown"]) == ("relay", "resend")
    assert shown["expires_at"]
    assert "X-Shop: a: b" in raw
    assert "the text" in raw
    assert 'filename="bill.txt"' in raw
    assert "Reply-To: desk@example.org" in raw
    assert "eve@example.org" not in raw


def test_every_fault_is_named_at_once(world: World) -> None:
    refused = world.run("send", "--to", "nonsense", "--tag", "", "--subject", "x")

    assert refused.code == 65
    assert refused.out == ""
    assert "error: 3 faults" in refused.err
    for pointer in ("/to/0: ", "/tags/0: ", "/text: "):
        assert pointer in refused.err


def test_wrong_words_are_explained(world: World) -> None:
    for words, code, said in (
        (("send", "--to", "a@example.org", "--text", "x", "--timeout", "1s"), 2, "--wait"),
        (("send", "--to", "a@example.org", "hello"), 2, "--to"),
        (("send", "--to", "a@example.org", "--text", "x", "-"), 2, "give one of them"),
        (("send", "--to", "a@example.org", "--metadata", "order"), 65, "'='"),
        (("send", "--to", "a@example.org", "--attach", "absent"), 2, "can't read absent"),
        (("send", "--to", "a@example.org", "--text", "x", "--provider", "nope"), 65, "relay"),
    ):
        result = world.run(*words)
        assert (result.code, said in result.err) == (code, True), (words, result.err)
        assert "Traceback" not in result.err


def test_a_key_sends_once(world: World) -> None:
    words = ("send", "--to", "ann@example.org", "--subject", "x", "--text", "x", "--key", "k1")

    first, again = world.ok(*words, "-o", "id"), world.ok(*words)
    other = world.run(*words, "--tag", "other")

    assert first.out.strip() in again.out
    assert "accepted earlier" in again.out
    assert other.code == 65
    assert "tags" in other.err


def test_a_suppressed_recipient_is_a_warning(world: World) -> None:
    world.ok("suppressions", "add", "ann@example.org")

    result = world.ok("send", "--to", "ann@example.org", "--subject", "x", "--text", "x")

    assert "warning: ann@example.org is on the suppression list" in result.err


def test_like_copies_a_message_but_for_what_is_said(world: World) -> None:
    first = world.ok(
        "send", "--from", '"Büro, 2. Stock" <office@example.org>',
        "--to", "Ann Ü <a@example.org>", "--bcc", "eve@example.org",
        "--subject", "Grüße 你好 " * 20, "--text", "a\nb — c\n",
        "--html", "<p>ü</p>", "--header", "X-Shop: ä", "--tag", "t", "--metadata", "k=v",
        "--attach", str(world.file), "-o", "id",
    ).out.strip()  # fmt: skip

    same = world.ok("send", "--like", first, "-o", "id").out.strip()
    other = world.ok("send", "--like", first, "--to", "bob@example.org", "-o", "id").out.strip()

    def strip(public: str) -> list[str]:
        raw = world.ok("show", public, "--raw").out
        boundaries = {line for line in raw.splitlines() if line.startswith("--=_")}
        return [
            line
            for line in raw.splitlines()
            if not line.startswith(("Message-ID", "Date", " boundary"))
            and line not in boundaries
        ]

    assert strip(same) == strip(first)
    shown = world.ok("show", same, "-o", "json").json
    assert [r["address"] for r in shown["recipients"]] == ["a@example.org", "eve@example.org"]
    assert (shown["tags"], shown["metadata"]) == (["t"], {"k": "v"})
    shown = world.ok("show", other, "-o", "json").json
    assert [r["address"] for r in shown["recipients"]] == ["bob@example.org"]


def wait_for(world: World, kind: Kind, reply: str) -> tuple[int, str, str]:
    """Send with --wait while a consumer attempts what comes; return code, output, notes."""
    found: list[tuple[int, str, str]] = []

    def send() -> None:
        result = world.run(
            "send", "--to", "ann@example.org", "--subject", "x", "--text", "x", "--wait",
            LANG="C.UTF-8",  # a process of its own: others are called meanwhile
        )  # fmt: skip
        found.append((result.code, result.out, result.err))

    sending = threading.Thread(target=send)
    sending.start()
    while sending.is_alive():
        ids = world.ok("queue", "list", "-o", "id").lines
        if ids:
            world.attempt(ids[0], kind, reply)
            break
    sending.join()
    return found[0]


def test_wait_returns_when_it_is_sent(world: World) -> None:
    code, out, err = wait_for(world, Kind.ACCEPTED, "250 ok")

    assert (code, out.split()[0]) == (0, "sent")
    assert "handed_over" in err


def test_wait_says_when_it_ended_otherwise(world: World) -> None:
    code, out, err = wait_for(world, Kind.PERMANENT, "550 no \x1b[2J")

    assert (code, out.split()[0]) == (65, "bounced")
    assert "550 no" in err
    assert "\x1b" not in err


def test_wait_ends(world: World) -> None:
    result = world.run(
        "send", "--to", "ann@example.org", "--text", "x", "--wait", "--timeout", "200ms"
    )

    assert result.code == 75
    assert "after 0.2 s it is queued" in result.err
    assert "logs --follow --message msg_" in result.err
