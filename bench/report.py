"""The table on the terminal, the history, and the generated part of docs/benchmarks.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Row, show
from bench.processes import ROOT

HISTORY = Path(__file__).with_name("history.jsonl")
DOCUMENT = ROOT / "docs/benchmarks.md"
BEGIN = "<!-- figures: written by `python -m bench --write` -->"
END = "<!-- end of figures -->"

_COLUMNS = ("what", "goal", "median (range)", "", "ours", "beside", "processor, ours / beside")


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print the whole table."""
    table = Table(*_COLUMNS, title="Ratios within one run", title_justify="left", expand=False)
    for row in rows:
        style = {"reached": "green", "NOT reached": "bold red"}.get(row.mark, "")
        mark = f"[{style}]{row.mark}[/]" if style else ""
        table.add_row(row.what, *_cells(row)[:2], mark, row.ours, row.peer, row.cpu)
    console.print(table)


def print_row(console: Console, row: Row) -> None:
    """Print one line as soon as it is known."""
    goal, result = _cells(row)[:2]
    said = [row.what.strip(), result, f"goal {goal}" if goal else "", row.mark, row.ours]
    said += [f"beside {row.peer}" if row.peer else "", row.cpu]
    console.print(
        "  " + " · ".join(part for part in said if part), markup=False, soft_wrap=True
    )


def _cells(row: Row) -> tuple[str, str]:
    return str(row.goal) if row.goal else "", row.result


@dataclass(frozen=True)
class Taken:
    """When, of what, how and where the figures were taken."""

    at: str
    commit: str
    profile: str
    machine: Mapping[str, str]


def build_entry(rows: Sequence[Row], taken: Taken) -> dict[str, Any]:
    """Return a line of the history."""
    return {
        **asdict(taken),
        "figures": {
            row.key: {
                "median": round(row.middle, 4),
                "values": [round(value, 4) for value in row.values],
                "goal": str(row.goal) if row.goal else None,
                "ours": row.ours,
                "beside": row.peer,
                "processor": row.cpu,
            }
            for row in rows
            if not row.skipped
        },
    }


def keep(entry: Mapping[str, Any]) -> None:
    """Add a line to the history."""
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_document(rows: Sequence[Row], taken: Taken) -> None:
    """Write the figures between the two marks of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{DOCUMENT.name} needs the lines\n{BEGIN}\n{END}")
    lines = [
        f"Taken {taken.at[:10]} at commit `{taken.commit}`, profile {taken.profile}.",
        "",
        *(f"- {name}: {value}" for name, value in taken.machine.items() if value),
        "",
        "| what | goal | median (range) | | ours | beside | processor, ours / beside |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        goal, result = _cells(row)
        cells = (row.what.strip(), goal, result, row.mark, row.ours, row.peer, row.cpu)
        lines.append(f"| {' | '.join(cells)} |")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = "\n".join(lines)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{written}\n\n{END}{after}", encoding="utf-8")


def print_change(console: Console, entry: Mapping[str, Any]) -> None:
    """Say what moved since the last line of the history with the same profile."""
    lines = HISTORY.read_text(encoding="utf-8").splitlines() if HISTORY.exists() else []
    earlier = [e for line in lines if (e := json.loads(line))["profile"] == entry["profile"]]
    if not earlier:
        return
    last = earlier[-1]
    moved = [
        f"{key} {show(last['figures'][key]['median'])} → {show(figure['median'])}"
        for key, figure in entry["figures"].items()
        if key in last["figures"]
    ]
    console.print(
        f"Since {last['at'][:16]} ({last['commit']}): " + ", ".join(moved), markup=False
    )
