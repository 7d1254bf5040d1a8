"""What an operator does beyond every day: explained, surveyed, asked, written down."""

import csv
import io
import json

import pytest
from typer import Context
from typer.main import get_command

from emailerctl.cli import completion
from emailerctl.cli.main import app
from tests.cli.conftest import Runner
from tests.cli.test_providers_check import point_to
from tests.cli.world import Kind, World, strip_styles
from tests.contract.test_resolver import DnsServer
from tests.smtpd.fixture import SmtpServer

# ESC, C1, BEL, a bidi override, a zero-width space, a NEL, Rich markup, a link.
HOSTILE = (
    "550 \x1b[2Jboo\x9b31m\x07\u202egnp.exe\u200b\x85[bold red]x[/] [link=file:///etc]y[/link]"
)
UNSAFE = ("\x1b", "\x9b", "\x07", "\u202e", "\u200b", "\x85")


@pytest.fixture
def mixed(world: World) -> dict[str, str]:
    """One message for each way that it can go."""
    made = {}
    for name, kind in (
        ("bounced", Kind.PERMANENT),
        ("sent", Kind.ACCEPTED),
        ("unknown", Kind.UNKNOWN),
        ("retrying", Kind.TRANSIENT),
    ):
        made[name] = world.submit(f"{name}@example.org", subject="[bold]Hello[/] =1+1")
        world.attempt(made[name], kind, HOSTILE)
    return made


# explain, wait, status


def test_a_message_explains_itself(cli: Runner, mixed: dict[str, str]) -> None:
    """P7: in words, and in JSON."""
    told = cli.ok("explain", mixed["retrying"]).out

    assert "what happened" in told
    assert "Accepted from the service local" in told
    assert "It is tried again at" in told
    assert f"emailerctl retry {mixed['retrying']}" in told
    shape = cli.ok("explain", mixed["unknown"], "-o", "json").json
    assert (shape["id"], shape["state"]) == (mixed["unknown"], "unknown")
    assert any(one["command"].startswith("emailerctl unknown resolve") for one in shape["can"])
    assert cli("explain", "zzz").code == 66


def test_waiting_ends_as_promised(cli: Runner, mixed: dict[str, str]) -> None:
    for words, code in (
        ((mixed["sent"],), 0),
        ((mixed["sent"], mixed["bounced"], "--for", "sent"), 65),
        ((mixed["bounced"], "--for", "delivered,bounced", "--timeout", "1s"), 65),
        ((mixed["bounced"], "--for", "bounced"), 0),
        ((mixed["retrying"], "--timeout", "50ms"), 75),
        (("-", "--for", "unknown"), 0),
        ((mixed["sent"], "--for", "lost"), 2),
    ):
        assert cli("wait", *words, stdin=f"{mixed['unknown']}\n").code == code, words
    assert "never reports a delivery" in cli("wait", mixed["sent"], "--for", "delivered").err


# orders about many


def test_an_order_about_many_says_first_whom_it_touches(
    cli: Runner, mixed: dict[str, str]
) -> None:
    every = [mixed[name] for name in ("bounced", "sent", "unknown")]

    refused = cli("retry", *every)
    planned = cli.ok("retry", *every, "--dry-run", "-o", "json").json
    done = cli("retry", *every, "--yes")

    assert refused.code == 2
    said = "it fits 1 recipient of 3 messages; left alone: 1 already sent, 1 unknown, 0 others"
    assert said in refused.err
    assert "pass --yes" in refused.err
    assert (planned["recipients"], planned["left"]) == (1, {"unknown": 1, "sent": 1})
    assert done.code == 65
    assert done.out == f"queued {mixed['bounced']}: bounced@example.org\n"
    assert f"emailerctl unknown resend {mixed['unknown']}" in done.err  # never by the way
    assert cli.ok("show", mixed["unknown"], "-o", "json").json["state"] == "unknown"


def test_orders_by_query(cli: Runner, mixed: dict[str, str], world: World) -> None:
    tagged = world.submit("tagged@example.org", tags=["news"])

    def planned(*words: str) -> dict[str, object]:
        return cli.ok(*words, "--dry-run", "-o", "json").json  # type: ignore[no-any-return]

    assert (
        planned("retry", "--bounced", "--since", "1h", "--provider", "relay")["recipients"] == 1
    )
    assert planned("retry", "--failed")["recipients"] == 0
    assert planned("retry", "--bounced", "--until", "1h")["recipients"] == 0
    assert planned("messages", "cancel", "--tag", "news")["data"] == [
        {"id": tagged, "recipients": ["tagged@example.org"]}
    ]
    assert planned("messages", "hold", "--all")["recipients"] == 2
    assert planned("unknown", "resolve", "--outcome", "sent", "--all")["recipients"] == 1
    for words in (
        ("retry",),
        ("retry", mixed["bounced"], "--failed"),
        ("retry", "--since", "1h"),
        ("messages", "cancel"),
        ("unknown", "resend"),
        ("messages", "hold", "--all", "--recipient", "a@example.org"),
    ):
        assert cli(*words).code == 2, words
    assert "it fits nobody" in cli.ok("messages", "release", "--all").out
    done = cli.ok(
        "unknown", "resolve", "--to", "unknown@example.org", "--outcome", "sent", "-y",
        "--reason", "its log",
    )  # fmt: skip
    assert done.out == f"resolved {mixed['unknown']}: unknown@example.org\n"


def test_a_person_is_asked_with_the_numbers_on_a_terminal(
    world: World, mixed: dict[str, str]
) -> None:
    words = ("retry", "--bounced", "--reason", "mailbox was full")
    agreed = world.run_on_terminal(*words, answers={"[y/N]": "y"})

    assert agreed.code == 0
    assert "Queue 1 recipient of 1 message again? [y/N]" in strip_styles(agreed.out)
    assert f"queued {mixed['bounced']}" in strip_styles(agreed.out)


def test_draining_stops_the_queue_and_says_what_is_left(cli: Runner, world: World) -> None:
    drained = cli.ok("queue", "drain", "-o", "json", "--reason", "kernel").json

    assert drained == {"paused": True, "in_flight": 0}
    assert "kernel" in cli.ok("status").out
    cli.ok("queue", "resume")
    world.claim(world.submit())
    late = cli("queue", "drain", "--timeout", "1ms")
    assert late.code == 75
    assert "1 messages are still in flight" in late.err


# taking data out


def test_messages_leave_as_lines_of_json_or_as_a_sheet(
    cli: Runner, mixed: dict[str, str]
) -> None:
    lines = [json.loads(line) for line in cli.ok("messages", "export").lines]
    sheet = cli.ok("messages", "export", "--csv", "--state", "bounced").out

    assert [one["id"] for one in lines] == list(reversed(mixed.values()))
    assert lines[0]["attempts"][0]["reply"] == HOSTILE
    (row,) = csv.DictReader(io.StringIO(sheet, newline=""))
    assert (row["recipient"], row["state"]) == ("bounced@example.org", "bounced")
    assert not any(mark in sheet for mark in UNSAFE)


def test_a_formula_is_disarmed(cli: Runner, world: World) -> None:
    world.submit(subject='=HYPERLINK("http://x","y")')

    assert "'=HYPERLINK" in cli.ok("messages", "export", "--csv").out


def test_a_person_is_taken_out(cli: Runner, world: World, mixed: dict[str, str]) -> None:
    inbox = world.folder / "inbox"
    inbox.mkdir()
    for name, text in (
        ("1-sent@example.org.eml", "x"),
        ("2.eml", "To: SENT@example.org"),
        ("3.eml", "y"),
    ):
        (inbox / name).write_text(text)
    words = ("messages", "redact", "--recipient", "sent@example.org", "--inbox", str(inbox))

    assert cli(*words).code == 2  # asks
    assert cli.ok(*words, "--dry-run", "-o", "json").json["files"] == 2
    done = cli.ok(*words, "--yes", "--reason", "asked for it", "-o", "json").json

    assert (done["redacted"], done["files"], done["open"]) == (1, 2, [])
    assert [path.name for path in inbox.iterdir()] == ["3.eml"]
    for shown in (("show", mixed["sent"]), ("explain", mixed["sent"]), ("logs",)):
        assert "sent@example.org" not in cli.ok(*shown).out
    assert cli.ok("store", "audit", "-o", "id").out == ""
    left = cli("messages", "redact", "--recipient", "unknown@example.org", "--yes")
    assert left.code == 65
    assert mixed["unknown"] in left.err
    assert cli("messages", "redact", "--recipient", "nobody", "--yes").code == 65
    missing = cli("messages", "redact", "--recipient", "a@example.org", "--inbox", "/nowhere")
    assert missing.code == 2


# the store


def test_old_things_are_counted_before_they_go(
    cli: Runner, world: World, mixed: dict[str, str]
) -> None:
    words = ("store", "prune", "--content", "0s")

    planned = cli.ok(*words, "--dry-run", "-o", "json").json
    refused = cli(*words)
    done = cli.ok(*words, "--yes", "-o", "json").json

    assert planned["old"] == {"content": 2, "messages": 0, "events": 0, "audit": 0}
    assert refused.code == 2
    assert done["removed"] == 2
    assert cli.ok(*words, "--yes", "-o", "json").json["removed"] == 0
    assert cli("retry", mixed["bounced"]).code == 65  # content_gone
    assert cli.ok("show", mixed["unknown"], "--raw").out  # what is open keeps its bytes
    assert cli("store", "prune", "--content", "100d").code == 2


def test_a_query_has_every_form(cli: Runner, mixed: dict[str, str]) -> None:
    sql = "SELECT state AS s, count(*), x'00ff' AS b FROM recipients GROUP BY state ORDER BY 1"

    assert cli.ok("store", "query", sql).lines[:2] == ["s\tcount(*)\tb", "bounced\t1\t00ff"]
    rows = cli.ok("store", "query", sql, "--json").json["data"]
    assert rows[0] == {"s": "bounced", "count(*)": 1, "b": "00ff"}
    assert json.loads(cli.ok("store", "query", sql, "-o", "jsonl").lines[-1])["s"] == "unknown"
    assert cli.ok("store", "query", sql, "--csv").lines[0] == "s,count(*),b"
    assert cli.ok("store", "query", "SELECT 1, 2 AS '1'", "-o", "json").json["data"] == [
        {"1": 1, "1_2": 2}
    ]
    few = cli.ok("store", "query", "SELECT n FROM recipients", "--limit", "1", "-o", "id")
    assert (few.lines, "there is more" in few.err) == (["1"], True)
    for wrong in ("DELETE FROM messages", "SELEC 1", "SELECT * FROM nothing", ""):
        refused = cli("store", "query", wrong)
        assert refused.code in {0, 65}
        assert "Traceback" not in refused.err


def test_the_audit_is_bounded_and_goes_on(
    cli: Runner, mixed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emailerctl.store.auditing._CHUNK", 2)
    cut = cli("store", "audit", "--within", "0s")

    assert cut.code == 75
    assert "the time was over after 2 messages" in cut.err
    since = cut.err.rpartition("--since ")[2].strip()
    assert cli.ok("store", "audit", "--since", since).code == 0
    assert "looked at 4 messages" in cli.ok("store", "audit").err


# the trail


def test_every_act_is_written_down_with_who_and_why(
    cli: Runner, world: World, mixed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "eve")
    why = ("--reason", "because")
    for words in (
        ("messages", "hold", mixed["retrying"], *why),
        ("messages", "release", mixed["retrying"], *why),
        ("messages", "cancel", mixed["retrying"], *why),
        ("retry", mixed["bounced"], *why),
        ("unknown", "resolve", mixed["unknown"], "--outcome", "sent", *why),
        ("queue", "pause", *why),
        ("queue", "resume", *why),
        ("providers", "disable", "relay", *why),
        ("providers", "enable", "relay", *why),
        ("suppressions", "add", "x@example.org", "--detail", "because"),
        ("suppressions", "rm", "x@example.org", *why),
        ("tokens", "create", "shop", "--scope", "send", *why),
        ("tokens", "rotate", "shop", *why),
        ("tokens", "revoke", "shop", *why),
        ("store", "prune", "--content", "0s", *why),
        ("messages", "redact", "--recipient", "sent@example.org", *why),
        ("store", "backup", "b.db"),
    ):
        cli.ok(*words, "--yes")

    trail = cli.ok("audit", "list", "--by", "eve", "-o", "json").json["data"]

    assert [one["verb"] for one in reversed(trail)] == [
        "message.hold", "message.release", "message.cancel", "message.retry", "message.resolve",
        "queue.pause", "queue.resume", "provider.disable", "provider.enable",
        "suppression.add", "suppression.remove", "token.create", "token.rotate",
        "token.revoke", "token.revoke", "store.prune", "message.redact", "store.backup",
    ]  # fmt: skip
    assert {one["reason"] for one in trail if one["verb"] != "store.backup"} == {"because"}
    about = cli.ok("audit", "list", "--message", mixed["retrying"], "-o", "json").json["data"]
    assert [one["verb"] for one in about] == [
        "message.cancel",
        "message.release",
        "message.hold",
    ]
    tokens = cli.ok("audit", "list", "--verb", "token", "-o", "id").lines
    assert len(tokens) == 4
    page = cli.ok("audit", "list", "--limit", "3", "-o", "json").json
    more = cli.ok(
        "audit", "list", "--limit", "3", "--cursor", page["next_cursor"], "-o", "json"
    )
    assert page["data"][-1]["id"] > more.json["data"][0]["id"]
    assert cli.ok("audit", "list", "--by", "nobody", "-o", "json").json["data"] == []
    assert cli("audit", "list", "--cursor", "zzz").code == 65


# the surroundings


def test_doctor_names_what_is_bad_with_its_cure(cli: Runner, world: World) -> None:
    """A key that signs here, and whose record is gone, too."""
    cli.ok("domains", "add", "example.org")
    (own,) = cli.ok("domains", "verify", "example.org", "--unchecked", "-o", "json").json[
        "data"
    ]
    records = {
        ("example.org.", "TXT"): ['"v=spf1 -all"'],
        ("s1._domainkey.example.org.", "TXT"): [f'"p={"A" * 200}" "{"A" * 200}"'],
    }
    name_server = DnsServer(records)
    try:
        with SmtpServer() as server:
            point_to(world, server.port)
            found = cli(
                "doctor", "--dns", name_server.address, "--selector", "s1", "-o", "json"
            )
    finally:
        name_server.close()

    assert found.code == 69
    said = {one["name"]: one for one in found.json["data"]}
    verdicts = {name: one["verdict"] for name, one in said.items()}
    assert verdicts["dns example.org SPF"] == "pass"
    assert verdicts["dns example.org DKIM s1"] == "pass"
    assert verdicts["dns example.org DMARC"] == "fail"
    selector = own["name"].partition(".")[0]
    assert verdicts[f"dns example.org DKIM {selector}"] == "fail"
    assert verdicts["dns example.org MX"] == "warn"
    for name in ("settings", "sqlite", "store", "queue", "unknown", "alerts", "next hop relay"):
        assert verdicts[name] == "pass", said[name]
    assert verdicts["consumers"] == "fail"
    assert all(one["cure"] for one in said.values() if one["verdict"] != "pass")
    assert "failed: consumers, dns example.org DKIM" in found.err


def test_doctor_survives_what_it_looks_for(cli: Runner, world: World, bare: World) -> None:
    (world.folder / "emailer.db").write_bytes(b"no database at all")
    broken = cli("doctor", "--offline", "-o", "json")
    assert broken.code == 69
    assert [o["verdict"] for o in broken.json["data"] if o["name"] == "store"] == ["fail"]
    world.file.write_text("[store]\nurll = 1\n")
    wrong = cli("doctor")
    assert wrong.code == 69
    assert "did you mean store.url?" in wrong.out


def test_a_conversation_is_shown_with_its_secrets_masked(cli: Runner, world: World) -> None:
    with SmtpServer() as server:
        point_to(world, server.port)
        text = world.file.read_text()
        world.file.write_text(
            text.replace(
                'tls = "none"', 'tls = "none"\nusername = "me"\npassword = "hush-hush"'
            )
        )
        refused = cli("smtp", "check", "relay", "--transcript")
        world.file.write_text(text)
        talked = cli(
            "smtp", "check", "relay", "--to", "ok@example.org", "--to", "permfail@example.org",
            "--transcript", "-o", "json",
        )  # fmt: skip
        assert server.journal() == []

    assert "hush-hush" not in refused.out + refused.err
    assert talked.code == 69
    lines = talked.json["transcript"]
    assert "> RCPT TO:<ok@example.org>" in lines
    assert lines[-2:] == ["> QUIT", "< 221 2.0.0 bye"]
    goods = {one["name"]: one["good"] for one in talked.json["results"]}
    assert (goods["rcpt ok@example.org"], goods["rcpt permfail@example.org"]) == (True, False)
    assert cli("smtp", "check", "relais").code == 66
    assert cli("smtp", "check", "sandbox").code == 65
    assert cli("smtp", "check", "relay", "--from", "a@example.org").code == 2


# sendmail


def test_sendmail_speaks_sysexits_and_sends_once(cli: Runner, world: World) -> None:
    with world.file.open("a") as file:
        file.write('[sendmail]\naliases = ["root=ops@example.org"]\n')
    mail = "From: root (Cron Daemon)\nTo: root\nSubject: x\n\none\n.\ntwo\n"
    named = f"Message-ID: <a@b>\n{mail}"
    for words, stdin, code in (
        (("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"), mail, 0),
        (("-FCronDaemon", "-i", "-odi", "-oi", "-t"), mail, 0),
        (("-t", "-i"), named, 0),
        (("-t", "-i"), named, 0),
        (("-t",), named, 65),  # cut at the dot: another mail under the same id
        (("-t", "-f", "ann@example.org"), "To: a@example.org\nSubject: y\n\ny", 0),
        (("-bs",), mail, 64),
        (("-t", "-J"), mail, 64),
        ((), mail, 64),
        (("root",), "", 64),
        (("-t",), "To: nobody@@x\n\nx", 65),
    ):
        result = cli("sendmail", *words, stdin=stdin)
        assert result.code == code, (words, result.err)
        assert result.out == ""
    shown = cli.ok("messages", "list", "-o", "json").json["data"]
    assert len(shown) == 4  # two equal reports, one mail with an id, one from ann
    assert shown[0]["from"] == "ann@example.org"
    assert "two" in cli.ok("show", shown[1]["id"], "--raw").out
    (world.folder / "emailer.db").unlink()
    assert cli("sendmail", "-t", stdin=mail).code == 78


# everything that is shown


def test_nothing_hostile_reaches_a_terminal(
    cli: Runner, world: World, mixed: dict[str, str]
) -> None:
    """T-19: replies, subjects and reasons, in every form that is not JSON."""
    cli.ok("messages", "hold", mixed["retrying"], "--reason", "[bold]why[/]")
    for words in (
        ("explain", mixed["bounced"]),
        ("explain", mixed["unknown"]),
        ("show", mixed["bounced"], "--dialogue"),
        ("messages", "list"),
        ("messages", "export", "--csv"),
        ("unknown", "list"),
        ("unknown", "show", mixed["unknown"]),
        ("logs",),
        ("audit", "list"),
        ("status", "--short"),
        (
            "store",
            "query",
            "SELECT reply, subject FROM attempts JOIN messages ON id = message_id",
        ),
        ("wait", mixed["bounced"]),
    ):
        shown = cli(*words)
        assert not any(mark in shown.out + shown.err for mark in UNSAFE), words
    drawn = world.run_on_terminal("explain", mixed["bounced"])
    assert not any(mark in strip_styles(drawn.out) for mark in UNSAFE)
    assert "[bold red]x[/] [link=file:///etc]y[/link]" in strip_styles(drawn.out)


def test_a_shell_is_offered_what_there_is(world: World, mixed: dict[str, str]) -> None:
    ctx = Context(get_command(app))
    ctx.params["config"] = str(world.file)
    words = "emailerctl explain msg_"
    done = world.run(
        _EMAILERCTL_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD="2",
        EMAILER_CONFIG=str(world.file),
    )

    assert done.lines == list(reversed(mixed.values()))
    newest = mixed["retrying"]
    assert [word for word, _said in completion.complete_message(ctx, newest[4:9])]
    [(word, said)] = completion.complete_message(ctx, newest)
    assert (word, said) == (newest, "queued retrying@example.org [bold]Hello[/] =1+1")
    assert completion.complete_hop(ctx, "re") == [("relay", "smtp")]
    assert completion.complete_token(ctx, "") == completion.complete_service(ctx, "") == []
    assert completion.complete_suppressed(ctx, "") == []
    (world.folder / "emailer.db").unlink()
    assert completion.complete_message(ctx, "") == []
