"""`tokens`, `suppressions`, `providers`, `store`, `status`."""

import re
import stat

from tests.cli.world import Kind, World, strip_styles


def test_a_token_is_shown_once(world: World) -> None:
    made = world.ok(
        "tokens", "create", "shop", "--service", "web", "--scope", "send", "--scope", "read",
        "--expires-in", "90d", "-o", "json",
    ).json  # fmt: skip

    assert set(made) == {"id", "name", "service", "token", "scopes", "expires_at"}
    assert (made["name"], made["service"], made["scopes"]) == ("shop", "web", ["read", "send"])
    assert re.fullmatch(r"emk_[0-9A-Z]{13}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", made["token"])
    secret = made["token"].split("_")[2]
    for words in (
        ("tokens", "list"),
        ("tokens", "list", "-o", "json"),
        ("logs", "-o", "jsonl"),
    ):
        assert secret not in world.ok(*words).out


def test_a_token_alone_is_on_stdout(world: World) -> None:
    result = world.ok("tokens", "create", "t", "--scope", "send", "--test")

    assert re.fullmatch(r"emk_test_\S+\n", result.out)
    assert "it is not shown again" in result.err
    assert world.ok("-q", "tokens", "create", "u", "--scope", "send").err == ""


def test_the_limits_of_a_token_are_kept(world: World) -> None:
    world.ok(
        "tokens", "create", "form", "--scope", "send", "--fixed-to", "office@example.org",
        "--from-domain", "example.org", "--recipient", "*@example.org", "--require-key",
        "--recipient-rate", "5/1h", "--network", "10.0.0.0/8", "--templates-only",
    )  # fmt: skip

    [token] = world.ok("tokens", "list", "-o", "json").json["data"]

    assert token["limits"] == {
        "fixed_to": ["office@example.org"],
        "from_domains": ["example.org"],
        "recipients": ["*@example.org"],
        "requires_key": True,
        "recipient_rate": "5/1h",
        "networks": ["10.0.0.0/8"],
        "templates_only": True,
    }
    assert "recipient_rate 5/1h" in world.ok("tokens", "list").out


def test_every_fault_of_a_token_is_named(world: World) -> None:
    refused = world.run(
        "tokens", "create", "Shop!", "--scope", "sned", "--recipient-rate", "often"
    )

    assert refused.code == 65
    for said in ("/name: ", 'did you mean "send"?', "/limits/recipient_rate: "):
        assert said in refused.err


def test_rotation_leaves_the_old_one_for_a_while(world: World) -> None:
    old = world.ok("tokens", "create", "shop", "--scope", "send", "-o", "json").json
    assert world.run("tokens", "create", "shop", "--scope", "send").code == 65

    fresh = world.ok("tokens", "rotate", "shop", "--overlap", "2h", "-o", "json").json

    assert fresh["token"] != old["token"]
    listed = {t["id"]: t for t in world.ok("tokens", "list", "-o", "json").json["data"]}
    assert listed[old["id"]]["expires_at"]
    assert listed[fresh["id"]]["revoked_at"] is None


def test_revocation_asks_and_ends_all_of_a_name(world: World) -> None:
    world.ok("tokens", "create", "shop", "--scope", "send")
    world.ok("tokens", "rotate", "shop")

    assert world.run("tokens", "revoke", "shop").code == 2
    assert len(world.ok("tokens", "list", "-o", "id").lines) == 2
    ended = world.ok("tokens", "revoke", "shop", "--yes", "-o", "json").json
    assert all(token["revoked_at"] for token in ended["data"])
    assert world.ok("tokens", "list", "-o", "id").lines == []
    assert len(world.ok("tokens", "list", "--all", "-o", "id").lines) == 2
    assert world.run("tokens", "revoke", "nobody", "-y").code == 66
    again = world.run("tokens", "revoke", "shop", "-y")
    assert again.code == 65
    assert "has ended already" in again.err


def test_suppressions_come_and_go(world: World) -> None:
    world.ok(
        "suppressions", "add", "Ann@Example.ORG", "--detail", "asked \x1b[2J", "--for", "30d"
    )
    world.ok("suppressions", "add", "bob@example.org", "--service", "shop")

    listed = world.ok("suppressions", "list", "-o", "json").json["data"]
    shown = strip_styles(world.run_on_terminal("suppressions", "list").out)

    assert [(one["address"], one["service"]) for one in listed] == [
        ("ann@example.org", None),
        ("bob@example.org", "shop"),
    ]
    assert "\x1b" not in shown
    assert world.ok("suppressions", "list", "ann", "-o", "id").lines == ["ann@example.org"]
    assert world.run("suppressions", "rm", "ann@example.org").code == 2
    world.ok("suppressions", "rm", "ann@example.org", "--yes")
    absent = world.run("suppressions", "rm", "bob@example.org", "--yes")
    assert absent.code == 66
    assert "emailerctl suppressions list bob@example.org" in absent.err
    world.ok("suppressions", "rm", "bob@example.org", "--service", "shop", "-y")
    wrong = world.run("suppressions", "add", "nonsense")
    assert wrong.code == 65
    assert "nonsense" in wrong.err


def test_next_hops_are_disabled_and_enabled(world: World) -> None:
    world.ok("providers", "disable", "relay", "--reason", "moves tonight")

    listed = {p["name"]: p for p in world.ok("providers", "list", "-o", "json").json["data"]}

    assert (listed["relay"]["kind"], listed["relay"]["state"]) == ("smtp", "disabled")
    assert (listed["relay"]["reason"], listed["relay"]["default"]) == ("moves tonight", True)
    assert listed["sandbox"]["state"] == "open"
    assert "moves tonight" in world.ok("status").out
    assert world.ok("providers", "enable", "relay").out == "relay is open\n"
    wrong = world.run("providers", "enable", "relya")
    assert wrong.code == 66
    assert "did you mean relay?" in wrong.err


def test_a_store_is_made_by_migrate_alone(bare: World) -> None:
    for words in (
        ("status",),
        ("logs",),
        ("store", "check"),
        ("send", "--to", "a@example.org"),
    ):
        refused = bare.run(*words)
        assert refused.code == 78
        assert "emailerctl store migrate" in refused.err
    store = bare.folder / "emailer.db"
    assert not store.exists()

    assert bare.ok("store", "migrate").out.startswith(f"{store} is up to date")
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    made = bare.ok("store", "migrate", "-o", "json").json
    assert all(step["applied"] for step in made["steps"])


def test_a_store_is_checked_and_audited(world: World) -> None:
    world.submit()

    checked = world.ok("store", "check", "-o", "json").json

    assert checked["damage"] == []
    assert checked["library"]["safe"] is True
    assert "is sound" in world.ok("store", "check").err
    assert world.ok("store", "audit", "-o", "json").json["data"] == []


def test_damage_is_found_and_said(world: World) -> None:
    store = world.folder / "emailer.db"
    for _ in range(30):
        world.submit(text="x" * 3000)
    octets = bytearray(store.read_bytes())
    for page in range(3, len(octets) // 4096):
        octets[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    store.write_bytes(octets)

    result = world.run("store", "check")

    assert result.code == 78
    assert "error: " in result.err
    assert "Traceback" not in result.err


def test_another_file_is_no_store(bare: World) -> None:
    (bare.folder / "emailer.db").write_bytes(b"not a database" * 100)

    result = bare.run("status")

    assert result.code == 78
    assert "Traceback" not in result.err


def test_status_is_one_screen(world: World) -> None:
    public = world.submit()
    world.attempt(public, Kind.UNKNOWN)

    text = world.ok("status").out
    picture = world.ok("status", "-o", "json").json
    short = world.ok("status", "--short").out

    assert short.startswith("ok ready=0 ")
    assert " unknown=1 " in short
    for said in (
        "queue",
        "in doubt",
        "1 recipients: emailerctl unknown list",
        "relay",
        "here pid 1",
    ):
        assert said in text
    assert len(text.splitlines()) < 24
    assert set(picture) == {"queue", "next_hops", "consumers", "alerts", "inbox"}
    assert picture["queue"]["unknown"] == 1
    assert set(picture["consumers"][0]) == {
        "host", "pid", "version", "started_at", "heartbeat_at", "in_flight",
    }  # fmt: skip


def test_status_says_that_nothing_is_delivered(world: World) -> None:
    assert "start one: emailerctl consume" in world.ok("status").out
    short = world.run("status", "--short")

    assert short.code == 69
    assert short.out == (
        "trouble ready=0 scheduled=0 retrying=0 waiting=0 sending=0 held=0 unknown=0 late_s=0 "
        "paused=0 consumers=0 alerts=- shut=-\n"
    )


BOUNCES = (
    "address,code,error,created_at\nAnn@Example.ORG,550,5.1.1 nobody,\nbob@example.org,,,\n"
)


def test_a_list_is_imported_once(world: World) -> None:
    file = world.folder / "bounces.csv"
    file.write_text(BOUNCES, encoding="utf-8")

    rehearsed = world.ok("suppressions", "import", str(file), "--dry-run", "-o", "json").json
    assert rehearsed == {
        "good": 2, "bad": 0, "reasons": {"bounce": 2}, "added": 0, "dry_run": True,
    }  # fmt: skip
    assert world.ok("suppressions", "list", "-o", "id").lines == []

    assert world.ok("suppressions", "import", str(file), "-o", "json").json["added"] == 2
    again = world.ok("suppressions", "import", "-", stdin=BOUNCES)

    assert again.out == "added 0 of 2; the others were there already\n"
    [ann, _bob] = world.ok("suppressions", "list", "-o", "json").json["data"]
    assert (ann["reason"], ann["detail"]) == ("bounce", "550 5.1.1 nobody")


def test_nothing_is_imported_where_a_line_is_bad(world: World) -> None:
    stdin = BOUNCES + "nonsense,,,\n\x1b[2J@example.org,,,\ncid@example.org,,,\n"

    refused = world.run("suppressions", "import", "-", stdin=stdin)

    assert refused.code == 65
    assert "line 4: " in refused.err
    assert "line 5: " in refused.err
    assert "2 of 5 lines are bad; nothing was imported" in refused.err
    assert "\x1b" not in refused.err
    assert world.ok("suppressions", "list", "-o", "id").lines == []
    done = world.ok("suppressions", "import", "-", "--skip-bad", "-o", "json", stdin=stdin).json
    assert (done["added"], done["bad"]) == (3, 2)


def test_a_list_needs_a_reason_and_a_file(world: World) -> None:
    stdin = "email,created\nann@example.org,\n"
    assert "give --reason" in world.run("suppressions", "import", "-", stdin=stdin).err
    wrong = world.run("suppressions", "import", "-", "--reason", "whim", stdin=stdin)
    assert wrong.code == 2
    assert world.run("suppressions", "import", "nowhere.csv").code == 66
    assert world.run("suppressions", "import", str(world.folder)).code == 65
    world.ok("suppressions", "import", "-", "--reason", "complaint", stdin=stdin)
    [one] = world.ok("suppressions", "list", "-o", "json").json["data"]
    assert (one["reason"], one["blocks"]) == ("complaint", "lists")


def test_spreadsheets_write_utf_16(world: World) -> None:
    file = world.folder / "list.csv"
    for encoding in ("utf-16", "utf-8-sig"):
        file.write_bytes("email\tcreated\nzoë@example.org\t\n".encode(encoding))
        done = world.ok(
            "suppressions", "import", str(file), "--reason", "manual", "-o", "json"
        ).json
        assert done["good"] == 1


def test_an_export_is_an_import(world: World) -> None:
    """Every page of it, with formulas made harmless."""
    lines = "".join(f"={n}@example.org,550,=cmd(),\n" for n in range(2_500))
    world.ok("suppressions", "import", "-", stdin="address,code,error,created_at\n" + lines)
    world.ok("suppressions", "add", "+ann@example.org", "--service", "shop", "--for", "30d")

    exported = world.ok("suppressions", "export").out

    assert len(exported.splitlines()) == 2_502
    assert not any(line.startswith(("=", "+")) for line in exported.splitlines())
    before = world.ok("suppressions", "list", "--limit", "200", "-o", "json").json
    again = world.ok("suppressions", "import", "-", "-o", "json", stdin=exported).json
    assert (again["good"], again["added"]) == (2_501, 0)
    world.ok("suppressions", "rm", "+ann@example.org", "--service", "shop", "-y")
    restored = world.ok("suppressions", "import", "-", "-o", "json", stdin=exported).json
    assert restored["added"] == 1
    after = world.ok("suppressions", "list", "--limit", "200", "-o", "json").json
    assert after["data"][0]["address"] == before["data"][0]["address"] == "+ann@example.org"
    assert after["data"][0]["expires_at"] == before["data"][0]["expires_at"]
    only = world.ok("suppressions", "export", "--service", "shop").out
    assert len(only.splitlines()) == 2_502  # what is for all services is for this one


def test_a_terminal_sees_how_far_an_import_is(world: World) -> None:
    file = world.folder / "list.csv"
    file.write_text("email\n" + "".join(f"a{n}@example.org\n" for n in range(5_000)))

    shown = world.run_on_terminal("suppressions", "import", str(file), "--reason", "manual")

    assert shown.code == 0
    assert "importing" in shown.out
    assert "added 5000 of 5000" in shown.out


def test_an_address_lives_again_and_its_owner_stays_unsubscribed(world: World) -> None:
    for reason in ("bounce", "unsubscribe"):
        world.ok("suppressions", "add", "ann@example.org", "--reason", reason)

    world.ok("suppressions", "rm", "ann@example.org", "--blocks", "all", "-y")

    [left] = world.ok("suppressions", "list", "-o", "json").json["data"]
    assert left["reason"] == "unsubscribe"
