"""`messages`, `show`, `retry`, `queue`, `unknown`: look, and act."""

import pytest

from tests.cli.world import Kind, World, strip_styles

# The shapes of product.md §3.2 and §3.3.
MESSAGE = """id state created_at expires_at on_unknown test service token_id from
envelope_sender subject tags metadata priority provider template template_version size_bytes
content_hash has_content counts recipients"""
RECIPIENT = "address kind state waiting_for reason due_at provider reply attempt changed_at"
ATTEMPT = "n provider route phase outcome code enhanced_status reply started_at ended_at hash"

HOSTILE_REPLY = "550 \x1b[2J\x1b]0;owned\x07 [red]no[/red] \u202egpj.exe \x9b31m"


def test_a_list_has_the_shapes_of_the_api(world: World) -> None:
    first = world.submit("ann@example.org", tags=["a"])
    second = world.submit("bob@example.org")

    listing = world.ok("messages", "list", "-o", "json").json

    assert set(listing) == {"data", "next_cursor"}
    assert [one["id"] for one in listing["data"]] == [second, first]
    assert set(listing["data"][0]) == set(MESSAGE.split())
    assert set(listing["data"][0]["recipients"][0]) == set(RECIPIENT.split())
    assert world.ok("messages", "list", "--json").json == listing
    assert len(world.ok("messages", "list", "-o", "jsonl").lines) == 2
    assert world.ok("messages", "list", "-o", "id").lines == [second, first]
    assert world.ok("-o", "id", "messages", "list", "--tag", "a").lines == [first]


def test_pages_follow_one_another(world: World) -> None:
    ids = [world.submit() for _ in range(3)]

    page = world.ok("messages", "list", "--limit", "2", "-o", "json").json
    rest = world.ok("messages", "list", "--cursor", page["next_cursor"], "-o", "json").json

    assert [one["id"] for one in page["data"] + rest["data"]] == ids[::-1]


def test_a_list_on_a_pipe_is_tab_separated(world: World) -> None:
    world.submit(subject="x" * 300)

    header, row = world.ok("messages", "list").lines

    assert header.split("\t")[:3] == ["id", "state", "accepted"]
    assert "x" * 300 in row.split("\t")


def test_show_has_attempts_and_the_last_reply(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.PERMANENT, "550 5.1.1 nobody here")

    shown = world.ok("show", public[:10], "-o", "json").json
    text = world.ok("show", public, "--dialogue").out
    queued = world.ok("show", world.submit()).out

    assert set(shown) == {*MESSAGE.split(), "attempts"}
    assert set(shown["attempts"][0]) == set(ATTEMPT.split())
    assert shown["state"] == "bounced"
    assert "next hops   relay (default)" in queued
    assert "next hops" not in text
    assert shown["counts"] == {"bounced": 1}
    assert "550 5.1.1 nobody here" in text
    assert "S: 550" in text


def test_show_raw_gives_the_bytes(world: World) -> None:
    public = world.submit(text="It works.")

    raw = world.ok("show", public, "--raw").out

    assert "Subject: Hello" in raw
    assert "It works." in raw


@pytest.mark.parametrize("command", ["messages list", "show {id}", "logs", "unknown list"])
def test_what_a_server_says_does_nothing_to_a_terminal(world: World, command: str) -> None:
    """T-19: escapes, markup, bidirectional overrides in a reply and a subject."""
    public = world.submit(
        subject="[red]Gr\u00fc\u00dfe[/red] [link=http://evil.example]x[/link]"
    )
    other = world.submit()
    world.attempt(public, Kind.PERMANENT, HOSTILE_REPLY)
    world.attempt(other, Kind.UNKNOWN, HOSTILE_REPLY)
    words = command.format(id=public).split()

    on_terminal = strip_styles(world.run_on_terminal(*words).out)
    on_pipe = world.ok(*words).out
    forced = strip_styles(world.ok(*words, FORCE_COLOR="1").out)

    for shown in (on_terminal, on_pipe, forced):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
    if command != "unknown list":
        assert "[red]no[/red]" in on_pipe
    if command == "messages list":
        assert "[red]Grüße[/red] [link=http://evil.example]x[/link]" in on_pipe


def test_an_id_may_be_short_and_must_be_unique(world: World) -> None:
    first, second = world.submit(), world.submit()

    assert world.ok("show", first.lower().removeprefix("msg_"), "-o", "id").lines == [first]
    ambiguous = world.run("show", first[:6])
    assert ambiguous.code == 65
    assert first in ambiguous.err
    assert second in ambiguous.err
    absent = world.run("show", "zzzz")
    assert absent.code == 66
    assert 'error: there is no message "zzzz"' in absent.err


def test_retry_takes_ids_from_stdin_and_goes_on_after_a_failure(world: World) -> None:
    failed, sent, cancelled = world.submit(), world.submit(), world.submit()
    world.attempt(failed, Kind.PERMANENT, "550 no")
    world.attempt(sent, Kind.ACCEPTED, "250 ok")
    world.ok("messages", "cancel", cancelled, "--yes")

    result = world.run(
        "retry", "-", stdin=f"id\tstate\n{failed}\tfailed\n{sent}\nzzz\n{cancelled}"
    )

    assert result.code == 66
    assert [line.split()[:2] for line in result.lines] == [
        ["queued", f"{failed}:"],
        ["queued", f"{cancelled}:"],
    ]
    assert f"emailerctl send --like {sent}" in result.err
    assert "there is no message" in result.err
    assert world.ok("messages", "list", "--state", "queued", "-o", "id").lines == [
        cancelled,
        failed,
    ]


def test_retry_says_in_json_what_changed(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.PERMANENT, "550 no")

    done = world.ok("retry", public, "--reason", "mailbox was full", "-o", "json").json

    assert done["id"] == public
    assert done["changed"] == ["ann@example.org"]
    assert set(done["recipients"][0]) == set(RECIPIENT.split())
    many = world.ok("messages", "hold", public, world.submit(), "-o", "json").json
    assert len(many["data"]) == 2


def test_cancel_asks_and_refuses_without_a_terminal(world: World) -> None:
    public = world.submit()

    refused = world.run("messages", "cancel", public)
    assert refused.code == 2
    assert "--yes" in refused.err
    declined = world.run_on_terminal("messages", "cancel", public, answers={"[y/N]": "n"})
    assert declined.code == 130
    assert "nothing was done" in declined.out
    assert world.ok("show", public, "-o", "json").json["state"] == "queued"
    agreed = world.run_on_terminal("messages", "cancel", public, answers={"[y/N]": "y"})
    assert agreed.code == 0
    assert world.ok("show", public, "-o", "json").json["state"] == "cancelled"
    again = world.run("messages", "cancel", public, "-y")
    assert again.code == 65
    assert "ann@example.org is cancelled" in again.err


def test_hold_and_release(world: World) -> None:
    public = world.submit("ann@example.org", "bob@example.org")

    held = world.ok("messages", "hold", public, "--recipient", "bob@example.org")
    assert "unchanged: ann@example.org is queued" in held.out
    assert world.ok("messages", "release", public, "-o", "id").lines == [public]


def test_the_queue_in_numbers_and_by_name(world: World) -> None:
    waiting, retrying = world.submit(), world.submit()
    world.attempt(retrying, Kind.TRANSIENT, "450 later")

    stats = world.ok("queue", "stats", "-o", "json").json

    assert {
        "ready", "scheduled", "retrying", "waiting", "sending", "unknown", "oldest_due_at",
    } <= set(stats)  # fmt: skip
    assert (stats["ready"], stats["retrying"]) == (1, 1)
    assert world.ok("queue", "list", "-o", "id").lines == [retrying, waiting]
    assert world.ok("queue", "list", "--waiting-for", "retry", "-o", "id").lines == [retrying]
    assert "450 later" in world.ok("queue", "list").out


def test_the_queue_is_paused_and_resumed(world: World) -> None:
    paused = world.ok("queue", "pause", "--for", "30m", "--reason", "relay moves", "-o", "json")
    assert paused.json["until"] > paused.json["since"]
    assert "relay moves" in world.ok("status").out
    assert world.ok("queue", "stats", "-o", "json").json["pause"]["reason"] == "relay moves"
    assert "runs again" in world.ok("queue", "resume").out
    assert "was not paused" in world.ok("queue", "resume").out
    wrong = world.run("queue", "pause", "--for", "soon")
    assert wrong.code == 2
    assert "30s, 5m, 2h or 3d" in wrong.err


def test_an_unknown_is_shown_with_what_can_be_done(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)

    [listed] = world.ok("unknown", "list", "-o", "json").json["data"]
    assert (listed["id"], listed["recipient"], listed["on_unknown"]) == (
        public, "ann@example.org", "ask",
    )  # fmt: skip
    assert f"emailerctl unknown resend {public}" in world.ok("unknown", "show", public).out
    refused = world.run("retry", public)
    assert refused.code == 65
    assert f"emailerctl unknown resend {public}" in refused.err


def test_a_doubt_is_not_ended_lightly(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)

    assert world.run("unknown", "resend", public).code == 2  # asks; there is nobody to ask
    early = world.run("unknown", "resend", public, "--yes")
    assert early.code == 65
    assert "an answer may still come until" in early.err
    forced = world.run("unknown", "resend", public, "--yes", "--force")
    assert forced.code == 65
    assert "reason" in forced.err


def test_a_doubt_ends_with_what_was_found_out(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)

    done = world.ok("unknown", "resolve", public, "--outcome", "sent", "--reason", "relay log")
    assert done.out == f"resolved {public}: ann@example.org\n"
    assert world.ok("show", public, "-o", "json").json["state"] == "sent"
    settled = world.run("unknown", "show", public)
    assert settled.code == 65
    assert "no recipient is in doubt" in settled.err


@pytest.mark.parametrize(
    "words",
    [("resend",), ("resolve", "--outcome", "resend"), ("resolve", "--outcome", "not-sent")],
)
def test_a_second_copy_is_risked_knowingly(world: World, words: tuple[str, ...]) -> None:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)

    world.ok("unknown", *words, public, "--yes", "--force", "--reason", "nothing came")

    assert world.ok("show", public, "-o", "json").json["state"] == "queued"
    assert '"reason":"nothing came"' in world.ok("logs", "-o", "jsonl").out
