"""Folders of templates: one folder each, `_shared` for what they share (product.md §8)."""

from collections.abc import Mapping
from pathlib import Path

from emailerctl.errors import Fault, Invalid, UsageError

STARTERS = Path(__file__).parent / "starters"

Folders = dict[str, dict[str, str]]


def read_folders(root: Path) -> Folders:
    """Return the files of every template below *root*, by name.

    Hidden files, and the copies that editors leave, are none of them.

    Raises:
        UsageError: there is no such folder, or nothing in it.
        Invalid: a file is no text in UTF-8.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}", hint="name the folder of all templates")
    found = {
        path.name: read_files(path)
        for path in sorted(root.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not found:
        raise UsageError(
            f"no template is in {root}", hint=f"emailerctl templates init {root} makes some"
        )
    return found


def read_files(folder: Path) -> dict[str, str]:
    """Return the files of one template.

    Raises:
        UsageError: there is no such folder.
        Invalid: a file is no text in UTF-8.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    files, faults = {}, []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "#")) or path.name.endswith(("~", ".bak", ".orig")):
            continue
        where = f"/{folder.name}/{path.name}"
        try:
            files[path.name] = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            faults.append(Fault(where, "is no text in UTF-8; only text belongs here"))
        except OSError as error:
            faults.append(Fault(where, f"can't be read: {error.strerror}"))
    if faults:
        raise Invalid(faults)
    return files


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Make *folder* hold *files* and no other file of a template.

    Raises:
        UsageError: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in read_files(folder).keys() - files.keys():
            (folder / name).unlink()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {folder}: {error.strerror}") from error
