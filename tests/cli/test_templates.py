"""`templates`: from a folder into the store, into a mail, and back."""

import json
from collections.abc import Iterator
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest

from emailerctl.cli import main, output
from tests.cli.world import Result, World

TOML = '[variables.name]\ntype = "string"\nrequired = true\nexample = "Ann"\n'


class Here:
    """The commands, in this process: most of what they cost otherwise is its start."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = str(world.file)
        self._capsys = capsys

    def run(self, *words: str) -> Result:
        """Run a command."""
        self._capsys.readouterr()
        output._manner = output._Manner()
        code = main.run(["--config", self._config, *words])
        said = self._capsys.readouterr()
        return Result(code, said.out, said.err)

    def ok(self, *words: str) -> Result:
        """Run a command that works."""
        result = self.run(*words)
        assert result.code == 0, result.err
        return result


@pytest.fixture
def here(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    monkeypatch.chdir(world.folder)
    yield Here(world, capsys)
    output._manner = output._Manner()


def write(folder: Path, name: str = "hello", **files: str) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    given = {"template.toml": TOML, "subject.txt": "Hello {{ name }}", "body.txt": "{{ name }}"}
    for file, text in {**given, **{n.replace("__", "."): t for n, t in files.items()}}.items():
        (folder / name / file).write_text(text)
    return folder


def test_init_push_render_send_show(here: Here, tmp_path: Path) -> None:
    """What is pushed is what is sent: read back by two parsers."""
    here.ok("templates", "init", "t")
    pushed = here.ok("templates", "push", "t", "-o", "json").json
    assert {one["name"] for one in pushed["published"]} == {
        *("_shared", "welcome", "verify-email", "password-reset", "invoice", "contact-form"),
        "alert",
    }
    again = here.ok("templates", "push", "t", "-o", "json").json
    assert (again["published"], len(again["unchanged"])) == ([], 7)
    variables = {
        "number": "7",
        "date": "2026-01-02",
        "due": "2026-02-03",
        "name": "?",
        "items": [{"text": "<b>", "quantity": 2, "amount": 3}],
        "pay_url": "https://example.org/pay?a=1&b=2",
    }
    (tmp_path / "v.json").write_text(json.dumps(variables))
    public = here.ok(
        *("send", "--to", "ann@example.org", "--template", "invoice", "--locale", "de-AT"),
        *("--var", "name=Ann & Bob", "--var", "total=1234.5", "--var", "tax=1"),
        *("--vars", "v.json", "-o", "id"),
    ).out.strip()
    shown = here.ok("show", public, "-o", "json").json
    raw = here.ok("show", public, "--raw").out

    mail = message_from_string(raw, policy=default)
    html = mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    old = [part.get_payload(decode=True) for part in message_from_string(raw).walk()]
    assert mail["subject"] == "Invoice 7: €1,234.50, due Feb 3, 2026"
    assert "Hello Ann &amp; Bob" in html
    assert "&lt;b&gt;" in html
    assert 'href="https://example.org/pay?a=1&amp;b=2"' in html
    assert "- <b>: 2 x, €3.00" in text
    assert [one.decode() for one in old if isinstance(one, bytes)] == [text, html]
    assert shown["template"] == "invoice"
    assert shown["template_version"] == next(
        one["version"] for one in pushed["published"] if one["name"] == "invoice"
    )
    assert shown["tags"] == ["invoice"]


def test_push_refuses_all_or_nothing_with_file_and_line(here: Here, tmp_path: Path) -> None:
    write(tmp_path / "t")
    write(tmp_path / "t", "bad", subject__txt="\n{{ nme }}", body__txt="{% if %}")
    refused = here.run("templates", "push", "t")

    assert refused.code == 65
    assert "/bad/subject.txt: line 2: nme is not declared" in refused.err
    assert "/bad/body.txt: line 1:" in refused.err
    assert here.ok("templates", "list", "-o", "json").json["data"] == []
    linted = here.run("templates", "lint", "t", "-o", "jsonl")
    assert linted.code == 65
    assert {json.loads(line)["template"] for line in linted.out.splitlines()} == {"bad"}


def test_diff_pull_rollback_and_rm(here: Here, tmp_path: Path) -> None:
    folder = write(tmp_path / "t")
    here.ok("templates", "push", "t")
    write(folder, body__txt="Dear {{ name }}")
    differing = here.run("templates", "diff", "t", "--check")
    assert differing.code == 65
    assert "-{{ name }}" in differing.out
    assert "+Dear {{ name }}" in differing.out
    would = here.ok("templates", "push", "t", "--dry-run")
    assert "would be published" in would.out
    first, second = (
        here.ok("templates", "put", "hello", "t/hello", "-o", "json").json["published"],
        here.ok("templates", "versions", "hello", "-o", "id").out.split(),
    )
    assert [one["version"] for one in first] == second[:1]
    here.ok("templates", "rollback", "hello")
    refused = here.run("templates", "pull", "t")
    assert refused.code == 2  # it would replace what differs, and nobody can be asked
    here.ok("templates", "pull", "t", "--yes")
    assert (folder / "hello" / "body.txt").read_text() == "{{ name }}"
    assert here.ok("templates", "diff", "t").out == "nothing differs\n"
    rendered = here.ok("templates", "render", "hello", "--var", "name=Bob")
    assert rendered.out == "Subject: Hello Bob\n\nBob\n"
    here.ok("templates", "init", "more")
    here.ok("templates", "push", "more")
    pruned = here.ok("templates", "push", "t", "--prune", "--yes", "-o", "json").json
    assert (len(pruned["removed"]), pruned["unchanged"]) == (7, ["hello"])
    here.ok("templates", "rm", "hello", "--yes")
    absent = here.run("templates", "show", "hello")
    assert absent.code == 66
    here.ok("templates", "rollback", "hello", second[0])
    assert "Dear" in here.ok("templates", "show", "hello").out


def test_wrong_words_are_explained(here: Here, tmp_path: Path) -> None:
    write(tmp_path / "t")
    here.ok("templates", "push", "t")
    for words, code, said in (
        (("templates", "push", "absent"), 2, "there is no folder"),
        (("templates", "init", "t2"), 0, ""),
        (("templates", "render", "helo"), 66, "did you mean hello?"),
        (("templates", "render", "hello", "--dir", "t", "--var", "nme=1"), 65, "not declared"),
        (("templates", "render", "hello", "--var", "name"), 65, "'='"),
        (("templates", "render", "_shared"), 66, "none itself"),
        (("send", "--to", "a@example.org", "--text", "x", "--var", "a=b"), 2, "--template"),
        (("send", "--to", "a@example.org", "--template", "helo"), 65, "did you mean"),
        (("templates", "lint", "t", "nope"), 66, "no template"),
    ):
        result = here.run(*words)
        assert (result.code, said in result.err) == (code, True), (words, result.err)
        assert "Traceback" not in result.err
