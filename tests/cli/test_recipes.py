"""docs/recipes and docs/client.md, followed to the letter: each block does as is said."""

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emailerctl.cli import main, output
from emailerctl.client import Refused
from emailerctl.core import accept
from emailerctl.core.fields import FIELDS
from emailerctl.settings.loading import known_keys
from tests.cli.installation import split_commands
from tests.house.sources import ROOT

if TYPE_CHECKING:
    from emailerctl.testing import Outbox

pytest_plugins = ["emailerctl.testing"]

RECIPES = sorted(path.name for path in (ROOT / "docs/recipes").glob("*.md"))
_BLOCK = re.compile(r"^```(sh|python|csv)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w-]+\.csv)`")
_TOKEN = re.compile(r"export EMAILER_TOKEN=\$\((.*)\)")


@pytest.fixture
def follow(
    outbox: "Outbox",
    emailer_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], dict[str, Any]]:
    """Do what a document says; return what its Python has defined."""
    monkeypatch.chdir(tmp_path)

    def type_(command: str) -> str:
        monkeypatch.setattr(output, "_manner", output._Manner())
        program, *words = shlex.split(command)
        assert program == "emailerctl"
        code = main.run(["--config", str(emailer_server.file), *words])
        said = capsys.readouterr()
        assert code == 0, f"{command}: {said.err}"
        return said.out

    def follow(document: str) -> dict[str, Any]:
        text = (ROOT / "docs" / document).read_text(encoding="utf-8")
        defined: dict[str, Any] = {}
        for block in _BLOCK.finditer(text):
            language, content = block.groups()
            if language == "csv":
                names = _FILE.findall(text[: block.start()])
                Path(names[-1]).write_text(content, encoding="utf-8")
            elif language == "python":
                exec(compile(content, document, "exec"), defined)
            for command in split_commands(content) if language == "sh" else ():
                made = _TOKEN.fullmatch(command)
                if made:
                    monkeypatch.setenv("EMAILER_TOKEN", type_(made[1]).strip())
                else:
                    defined["said"] = type_(command)
        return defined

    return follow


Follow = Callable[[str], dict[str, Any]]


def test_the_contact_form(follow: Follow, outbox: "Outbox") -> None:
    send = follow("recipes/contact-form.md")["send_contact"]

    assert send("6f1c", "Ann", "ann@example.net", "Do you deliver to Graz?")
    [sent] = outbox.messages
    assert sent.recipients == ("office@example.org",)
    assert str(sent.message["From"]) == "Website <website@example.org>"
    assert str(sent.message["Reply-To"]) == "Ann <ann@example.net>"
    assert send("6f1d", "Ann", "nobody", "text") is False
    assert send("6f1e", "Ann\r\nBcc: eve@example.net", "ann@example.net", "text") is False
    assert len(outbox) == 1


def test_the_password_reset(follow: Follow, outbox: "Outbox") -> None:
    send = follow("recipes/password-reset.md")["send_reset"]

    assert send("4711", "ann@example.org", "https://example.org/reset/9b1d") == outbox[0].id
    message = outbox.client.load(outbox[0].id)
    assert (message["on_unknown"], message["tags"]) == ("resend", ["password-reset"])
    assert message["expires_at"]
    for number in range(4):
        send(f"other-{number}", "ann@example.org", "https://example.org")
    with pytest.raises(Refused) as refused:
        send("other", "ann@example.org", "https://example.org")
    assert refused.value.code == "recipient_rate"


def test_the_invoices(follow: Follow, outbox: "Outbox") -> None:
    defined = follow("recipes/invoices.md")

    [sent] = outbox.messages
    [attachment] = sent.message.iter_attachments()
    assert attachment.get_filename() == "invoice-2026-0042.pdf"
    assert defined["find_troubles"]() == []
    with pytest.raises(Refused) as refused:
        defined["send_invoice"]("2026-0042", "bob@example.org", b"%PDF")
    assert refused.value.code == "idempotency_key_reused"


def test_staging(follow: Follow, outbox: "Outbox") -> None:
    trial = follow("recipes/staging.md")["trial"]

    assert outbox[0].id == trial.id
    assert trial.data["test"] is True
    text = (ROOT / "docs/recipes/staging.md").read_text(encoding="utf-8")
    [settings] = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert ("defaults", *tomllib.loads(settings)["defaults"]) in known_keys()
    assert f"`{accept._ORIGINAL_TO}`" in text


def test_moving(follow: Follow) -> None:
    """The columns of each vendor's export, all of it imported."""
    listed = follow("recipes/moving.md")["said"].splitlines()

    assert [line.split("\t")[0] for line in listed[1:]] == [
        f"mailgun.{what}@example.net" for what in ("bounced", "complained", "left")
    ]
    assert [line.split("\t")[2] for line in listed[1:]] == [
        "bounce",
        "complaint",
        "unsubscribe",
    ]


def test_the_client(follow: Follow, outbox: "Outbox") -> None:
    accepted = follow("client.md")["accepted"]

    assert outbox[0].id == accepted.id
    assert outbox.client.load(accepted.id)["state"] == "cancelled"


def test_every_recipe_is_followed_and_names_fields_that_exist() -> None:
    followed = re.findall(r'follow\("recipes/([\w.-]+)"\)', Path(__file__).read_text())
    assert sorted([*followed, "README.md"]) == RECIPES

    table = (ROOT / "docs/recipes/moving.md").read_text().partition("## Fields")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", table.partition("Of the vendors'")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert named - {"Idempotency", "content", "content_id"} <= set(FIELDS)
