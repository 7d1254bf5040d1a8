"""The files of the project, as text and as syntax trees."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def find_modules(*folders: str) -> tuple[Path, ...]:
    """Return every Python file under *folders*."""
    return tuple(sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")))


def our_modules() -> tuple[Path, ...]:
    """Return the product's own Python files."""
    return find_modules("emailerctl", "daemons")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield every string constant that is no docstring, pieces of f-strings included."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
        ):
            yield node


@cache
def find_files() -> tuple[Path, ...]:
    """Return what is in the repository or about to be: neither ignored nor generated."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        listed = subprocess.run(
            [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:  # an unpacked archive
        paths = [
            path
            for path in ROOT.rglob("*")
            if not {".venv", "__pycache__"} & set(path.relative_to(ROOT).parts)
            and not any(part.endswith("_cache") for part in path.parts)
        ]
    return tuple(sorted(path for path in paths if path.is_file()))
