"""`publish`: one email into ForestMQ, as a service would."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.forestmq.fixture import ForestMq

SECRET = "0123456789abcdef0123456789abcdef"
MAIL = ("--to", "ann@example.org", "--subject", "Hello", "--text", "100% of it")


@pytest.fixture(scope="module")
def forestmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForestMq]:
    server = ForestMq(folder=tmp_path_factory.mktemp("forestmq"))
    yield server
    server.end()


@pytest.fixture
def shop(world: World, forestmq: ForestMq) -> World:
    """A world whose settings know the ForestMQ and the key."""
    with world.file.open("a") as file:
        file.write(f'[ingest.forestmq.keys]\nshop = "{SECRET}"\n')
        file.write(f'[ingest.forestmq.topics]\n"email.job" = "{forestmq.url}"\n')
    world.file.chmod(0o600)
    return world


def test_what_was_published_is_said(shop: World) -> None:
    told = shop.ok("publish", *MAIL, "--id", "j-1", "-o", "json").json

    assert told == {
        "id": "j-1",
        "topic": "email.job",
        "published": 1,
        "queue_length": told["queue_length"],
        "message_id": None,
    }
    assert told["queue_length"] >= 1
    assert shop.ok("publish", *MAIL, "-o", "id").out.count("-") == 4  # a new one


def test_a_host_without_settings_names_everything(
    tmp_path: Path, bare: World, forestmq: ForestMq
) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    (tmp_path / "mail.json").write_text(json.dumps({"to": "a@example.org", "text": "x"}))

    said = bare.ok(
        "publish", "--url", forestmq.url, "--key-id", "shop", "--secret-file", str(key),
        "--json", "mail.json", "--subject", "over it",
    ).out  # fmt: skip
    assert said.startswith("published ")
    said = bare.ok(
        "publish",
        "--url",
        forestmq.url,
        "--unsigned",
        "--json",
        "-",
        stdin='{"to":"a@b.example"}',
    ).out
    assert said.startswith("published ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*MAIL,), "whose key signs? [ingest.forestmq.keys] has none"),
        ((*MAIL, "--key-id", "news"), "is no key of [ingest.forestmq.keys]"),
        ((*MAIL, "--key-id", "s", "--secret-file", "absent"), "can't read absent"),
        ((*MAIL, "--timeout", "5s"), "give both, or neither"),
        (("-", "--json", "-"), "both read stdin"),
        ((*MAIL, "--unsigned", "--confirm", "--api", "http://h"), "set EMAILER_TOKEN"),
    ],
)
def test_what_is_missing_is_said_with_its_cure(
    world: World, words: tuple[str, ...], said: str
) -> None:
    refused = world.run("publish", "--url", "http://127.0.0.1:9", *words)

    assert refused.code == 2
    assert said in refused.err


def test_where_it_goes_must_be_known(world: World) -> None:
    refused = world.run("publish", *MAIL, "--unsigned")

    assert refused.code == 2
    assert "[ingest.forestmq.topics] has none" in refused.err


def test_what_ends_it_has_its_exit_code(shop: World, forestmq: ForestMq) -> None:
    assert shop.run("publish", *MAIL, "--url", "http://127.0.0.1:9").code == 75
    large = shop.run("publish", "--to", "a@example.org", "-", stdin="x" * 4000)
    assert large.code == 65
    assert "at most 3500 go through ForestMQ" in large.err
    assert shop.run("publish", "--json", "-", stdin="{").code == 65
    late = shop.run("publish", *MAIL, "--confirm", "--timeout", "300ms")
    assert late.code == 75
    assert "is not known yet" in late.err


def test_nobody_can_confirm_without_a_store_or_an_api(bare: World) -> None:
    refused = bare.run(
        "publish", *MAIL, "--url", "http://127.0.0.1:9", "--unsigned", "--confirm"
    )

    assert refused.code == 2
    assert "nobody to ask: there is no store" in refused.err
