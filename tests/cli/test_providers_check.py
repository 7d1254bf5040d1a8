"""`providers check` and `send --plan`: what works, and what would be asked, without sending."""

import re

from tests.cli.world import World
from tests.providers_server.dialects.postmark import TOKEN
from tests.providers_server.fixture import ProviderServer, providers  # noqa: F401  (a fixture)
from tests.smtpd.fixture import SmtpServer


def point_to(world: World, port: int, *, kind: str = "smtp", more: str = "") -> None:
    text = world.file.read_text()
    table = f'[providers.relay]\nkind = "{kind}"\n{more}'
    if kind == "smtp":
        table += f'host = "127.0.0.1"\nport = {port}\ntls = "none"\n'
    world.file.write_text(
        re.sub(r"\[providers.relay\].*?(?=\[routing\])", table, text, flags=re.S)
    )


def test_an_smtp_server_that_works(world: World) -> None:
    with SmtpServer() as server:
        point_to(world, server.port)

        seen = world.ok("providers", "check", "relay", "-o", "json").json["data"]

        assert seen
        assert all(one["good"] for one in seen)
        assert server.journal() == []


def test_one_that_is_not_there(world: World) -> None:
    refused = world.run("providers", "check", "relay", "--timeout", "5s")

    assert refused.code == 69
    assert "connect" in refused.err
    assert "Traceback" not in refused.err
    assert "relay" in world.run("providers", "check", "relais").err


def test_a_provider_over_http(world: World, providers: ProviderServer) -> None:  # noqa: F811
    more = f'server_token = "{TOKEN}"\nbase_url = "{providers.url("postmark")}"\n'
    point_to(world, 0, kind="postmark", more=more)

    seen = world.run("providers", "check", "relay", "-o", "json")

    assert {one["name"]: one["good"] for one in seen.json["data"]}["credentials"], seen.out
    assert TOKEN not in seen.out + seen.err


def test_a_plan_says_what_would_be_asked_and_sends_nothing(world: World) -> None:
    words = ("--to", "ann@example.org", "--subject", "Hello", "--text", "Hi")

    planned = world.ok("send", *words, "--plan")

    assert "relay" in planned.out
    assert "ann@example.org" in planned.out
    assert world.ok("messages", "list", "-o", "json").json["data"] == []


def test_a_plan_for_a_provider_shows_its_request_without_secrets(world: World) -> None:
    more = 'server_token = "very-secret-token"\n'
    point_to(world, 0, kind="postmark", more=more)
    words = ("--to", "ann@example.org", "--subject", "Hello", "--text", "Hi")

    planned = world.ok("send", *words, "--provider", "relay", "--plan")

    assert "https://api.postmarkapp.com/email" in planned.out
    assert '"Subject"' in planned.out
    assert "very-secret-token" not in planned.out + planned.err
