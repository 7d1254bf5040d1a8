"""What is written from code is what the code says."""

from pathlib import Path

import pytest

from tests.house.generate import GENERATED, build, build_architecture
from tests.house.sources import ROOT


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).exists()
    assert build(name) is None, "make docs"


@pytest.mark.parametrize("name", sorted(GENERATED.keys() - {"ARCHITECTURE.md"}))
def test_a_file_that_was_edited_by_hand_is_found(name: str, tmp_path: Path) -> None:
    good = (ROOT / name).read_text(encoding="utf-8")
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(good + "by hand\n", encoding="utf-8")

    assert build(name, tmp_path) == good


def test_what_stands_around_the_life_cycle_stays() -> None:
    present = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    changed = present.replace("→ sending", "→ limbo")

    assert build_architecture(f"before{changed}after") == f"before{present}after"
    assert changed != present
