"""What the documents name is there, and nothing names the machine it was written on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import ROOT, find_files, name_of

DOCUMENTS = [path for path in find_files() if path.suffix == ".md"]

_CODE = re.compile(r"`([\w./<>*-]+)`(?:[ ,]+([A-Z][A-Za-z_]{2,})\b)?")
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|toml|example|lock))")
# Where this text came from, and where packages come from, is nobody's business.
_MACHINE = re.compile(
    r"/(?:work|root|opt/(?:wheels|pypi))\b|/home/[a-z]|file:///(?!etc)|"
    r"(?:extra-)?index-url|find-links[ =]|files\.pythonhosted"
)


def find_mentions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the paths in backquotes, each with the name that follows it."""
    for match in _CODE.finditer(text):
        if _PATH.fullmatch(match[1]):
            yield match[1], match[2] or ""


def find_path(name: str) -> Path | None:
    """Return what a document means by a path: from the root, the package or the tests."""
    for base in (ROOT, ROOT / "emailerctl", ROOT / "tests"):
        if (base / name).exists():
            return base / name
    return None


def test_the_index_of_the_architecture_names_what_is_there() -> None:
    dead = []
    for name, symbol in find_mentions((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")):
        path = find_path(name)
        if path is None:
            dead.append(name)
        elif symbol and path.suffix == ".py" and symbol not in path.read_text(encoding="utf-8"):
            dead.append(f"{name} {symbol}")

    assert dead == []


def test_a_dead_name_would_be_found() -> None:
    text = "| `store/base.py` Claim | `core/no.py` | `tests/unit/` | `make test` |"

    assert list(find_mentions(text)) == [
        ("store/base.py", "Claim"),
        ("core/no.py", ""),
        ("tests/unit/", ""),
    ]
    assert find_path("core/no.py") is None
    assert find_path("store/base.py") == ROOT / "emailerctl/store/base.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    dead = [
        link
        for link in _LINK.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / link).exists()
    ]

    assert dead == []


def test_no_file_names_a_machine_or_a_package_index() -> None:
    wrong = []
    for path in find_files():
        if path.name == "swagger-ui-bundle.js":  # not ours, and minified
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for n, line in enumerate(text.splitlines(), start=1):
            if _MACHINE.search(line) and path != Path(__file__) and path.name != "Makefile":
                wrong.append(f"{name_of(path)}:{n}: {line.strip()[:80]}")

    assert wrong == []


def test_the_locks_hold_names_and_hashes_alone() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert not re.search(r"^-", text, re.MULTILINE)
