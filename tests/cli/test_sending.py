"""`domains`, `messages reschedule`, and what `send` says about when and how."""

from tests.cli.world import World
from tests.nameserver import serve_names


def test_a_domain_signs_from_its_first_record_to_the_next_key(world: World) -> None:
    with serve_names() as names:
        there = {"EMAILER_DNS__SERVERS": names.address}
        added = world.ok("domains", "add", "example.org", "--ed25519", **there)
        remark, line, *_ = added.out.splitlines()
        assert remark.startswith("; em20")
        assert remark.endswith(", pending: publish")
        assert "emailerctl domains verify example.org" in added.err

        early = world.run("domains", "verify", "example.org", **there)
        assert early.code == 69
        assert "there is no record" in early.out
        assert "emailerctl domains dns example.org" in early.out

        for line in added.out.splitlines():
            if not line.startswith(";"):
                names.publish(line)
        seen = world.ok("domains", "verify", "example.org", **there)
        assert seen.err.count("signs from now on") == 2
        assert "v=DMARC1; p=none" in seen.out
        rotated = world.ok("domains", "rotate", "example.org", "-o", "json", **there).json[
            "data"
        ]
        assert [one["state"] for one in rotated] == ["pending", "pending"]

    zone = world.ok("domains", "dns", "example.org").out
    assert (zone.count("active: keep"), zone.count("pending: publish")) == (2, 2)
    gone = world.ok("--yes", "domains", "rm", "example.org")
    assert gone.out.count("removed") == 4


def test_a_time_to_send_and_another_one(world: World) -> None:
    sent = world.ok(
        "send", "--to", "ann@example.net", "--subject", "Later", "--text", "Hi",
        "--send-at", "2027-01-01T09:00:00+01:00", "--priority", "low",
        "--list-unsubscribe", "https://example.org/u", "-o", "id",
    )  # fmt: skip
    public = sent.out.strip()
    moved = world.ok("messages", "reschedule", public, "--send-in", "1h", "-o", "json").json
    shown = world.ok("show", public, "-o", "json").json

    assert moved["changed"] == ["ann@example.net"]
    assert shown["priority"] == "low"
    assert shown["recipients"][0]["waiting_for"] == "send_at"
    assert not shown["recipients"][0]["due_at"].startswith("2027")
