"""Public corpora of bad and strange input: where they are, and how they are read.

They are data of others and not part of this repository.  `EMAILER_CORPORA` names their folder,
or they are in `../shared/corpora`; elsewhere their tests are skipped, or fail if `CI` is set.
"""

import json
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "corpora"


@dataclass(frozen=True, slots=True)
class IsemailCase:
    """One address of the isemail suite, with what its author says of it."""

    number: int
    address: str
    category: str
    diagnosis: str


def folder(name: str) -> Path:
    """Return the folder of the corpus *name*; skip the test, or in CI fail it, without one."""
    root = Path(os.environ.get("EMAILER_CORPORA") or _BESIDE)
    if (root / name).is_dir():
        return root / name
    reason = f"no corpus {name!r} in {root}; set EMAILER_CORPORA to its parent folder"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def isemail() -> list[IsemailCase]:
    """Return the addresses of the isemail suite."""
    text = (folder("isemail") / "tests.xml").read_text(encoding="utf-8")
    return [
        IsemailCase(
            number=int(test.get("id", "0")),
            address=_with_controls(test.findtext("address") or ""),
            category=test.findtext("category") or "",
            diagnosis=test.findtext("diagnosis") or "",
        )
        for test in ElementTree.fromstring(text).iter("test")
    ]


def json_documents(prefix: str) -> list[tuple[str, bytes]]:
    """Return name and bytes of the JSONTestSuite documents that begin with *prefix*."""
    paths = sorted((folder("jsontestsuite") / "test_parsing").glob(f"{prefix}*.json"))
    return [(path.name, path.read_bytes()) for path in paths]


@cache
def _naughty(path: Path) -> tuple[str, ...]:
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def naughty_strings() -> tuple[str, ...]:
    """Return the big list of naughty strings."""
    return _naughty(folder("naughty-strings") / "blns.json")


def _with_controls(text: str) -> str:
    """Undo the suite's spelling of control characters: U+2400 stands for U+0000, and so on."""
    return "".join(
        chr(ord(character) - 0x2400) if "\u2400" <= character <= "\u2421" else character
        for character in text
    )
