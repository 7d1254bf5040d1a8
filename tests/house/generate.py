"""Write what is generated from code, or check that it is up to date.

python -m tests.house.generate            (make docs)
python -m tests.house.generate --check    (make check)
"""

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

from daemons.api.openapi import build_document, find_problems
from daemons.api.routes import ROUTES
from emailerctl import errors
from emailerctl.models.lifecycle import STEPS, State
from emailerctl.settings.example import build_example
from tests.house.manual import build_page, build_reference
from tests.house.sources import ROOT

BEGIN = "<!-- life cycle: written by `make docs` from emailerctl/models/lifecycle.py -->"
END = "<!-- end of life cycle -->"


def build_problems(_present: str) -> str:
    """Return docs/problems.md: one section for each problem code."""
    parts = [
        "# Problems\n\n"
        "Every refusal of the API is a problem document (RFC 9457) with one of these codes;\n"
        "the command line says the same sentence and ends with the exit code.\n"
    ]
    for error in find_problems():
        if error is errors.EmailerError:
            continue
        said = inspect.cleandoc(error.__doc__ or "")
        cure = f"\nWhat to do: {error.hint}\n" if error.hint else ""
        parts.append(
            f"## {error.code}\n\n"
            f"**{error.title}** · HTTP {error.status.value} {error.status.phrase} · "
            f"exit code {error.exit_code}\n\n{said}\n{cure}"
        )
    return "\n".join(parts)


def build_life_cycle() -> str:
    """Return the states and what leads from each to which, as text."""
    order = list(State)
    lines = ["```text", "(accepted)  → queued"]
    for state in State:
        ways: dict[State, list[str]] = {}
        for cause, (sources, target) in STEPS.items():
            if state in sources:
                ways.setdefault(target, []).append(cause.value)
        lines.append("")
        for n, target in enumerate(sorted(ways, key=order.index)):
            name = state.value if n == 0 else ""
            lines.append(f"{name:<10}  → {target.value:<9}  {', '.join(ways[target])}")
    lines += ["", "A message's own state is the first of these that a recipient of it has:"]
    lines += [", ".join(order), "```"]
    return "\n".join(lines)


def build_architecture(present: str) -> str:
    """Return ARCHITECTURE.md with the life cycle between its two marks."""
    if BEGIN not in present or END not in present:
        raise SystemExit(f"ARCHITECTURE.md needs the lines\n{BEGIN}\n{END}")
    before, _, rest = present.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{build_life_cycle()}\n{END}{after}"


def build_openapi() -> str:
    """Return docs/openapi.json: what the API says of itself."""
    return json.dumps(build_document(ROUTES), ensure_ascii=False, indent=1) + "\n"


GENERATED: dict[str, Callable[[str], str]] = {
    "ARCHITECTURE.md": build_architecture,
    "docs/cli.md": build_reference,
    "docs/man/emailerctl.1": build_page,
    "docs/openapi.json": lambda _present: build_openapi(),
    "docs/problems.md": build_problems,
    "etc/emailer.toml.example": lambda _present: build_example(),
}


def build(name: str, root: Path = ROOT) -> str | None:
    """Return what the file should be, or None where it is that already."""
    path = root / name
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    wanted = GENERATED[name](present)
    return None if wanted == present else wanted


def main() -> int:
    stale = {name: wanted for name in GENERATED if (wanted := build(name)) is not None}
    if "--check" in sys.argv:
        for name in stale:
            sys.stderr.write(f"{name} is not up to date: make docs\n")
        return 1 if stale else 0
    for name, wanted in stale.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(wanted, encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
