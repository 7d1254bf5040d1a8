"""What a row of the table is: figures of every round, a goal, and whether it was reached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound that the median is held against."""

    bound: float
    is_ceiling: bool = False
    unit: str = ""

    def is_reached(self, value: float) -> bool:
        """Return whether *value* keeps the bound."""
        return value <= self.bound if self.is_ceiling else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.is_ceiling else '≥'} {show(self.bound)}{self.unit}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        key: its name in the history.
        values: one for each round: ratios, or what `unit` says.
        ours, peer: the absolute figures behind the ratio, in words.
        cpu: processor time, ours and the peer's, in words.
        skipped: why there are no values.
    """

    key: str
    what: str
    goal: Goal | None
    values: Sequence[float] = ()
    unit: str = ""
    ours: str = ""
    peer: str = ""
    cpu: str = ""
    skipped: str = ""

    @property
    def middle(self) -> float:
        return median(self.values)

    @property
    def result(self) -> str:
        """Return the median, and the least and the greatest."""
        if self.skipped:
            return f"not measured: {self.skipped}"
        low, high = min(self.values), max(self.values)
        spread = f" ({show(low)} to {show(high)})" if len(self.values) > 1 else ""
        return f"{show(self.middle)}{self.unit}{spread}"

    @property
    def mark(self) -> str:
        """Return whether the goal was reached, in a word; empty without a goal or a value."""
        if self.goal is None or self.skipped:
            return ""
        return "reached" if self.goal.is_reached(self.middle) else "NOT reached"


@dataclass
class Rounds:
    """Two contenders, measured in turn; who begins changes with every round."""

    ours: list[Any] = field(default_factory=list)
    peer: list[Any] = field(default_factory=list)

    def measure(self, count: int, ours: Callable[[], Any], peer: Callable[[], Any]) -> "Rounds":
        """Measure both *count* times."""
        sides = [(self.ours, ours), (self.peer, peer)]
        for number in range(count):
            for figures, take in sides if number % 2 == 0 else reversed(sides):
                figures.append(take())
        return self

    def compare(self, attribute: str) -> list[float]:
        """Return ours / peer of each round."""
        pairs = zip(self.ours, self.peer, strict=True)
        return [getattr(a, attribute) / getattr(b, attribute) for a, b in pairs]


def middle(figures: Sequence[Any], attribute: str) -> float:
    """Return the median of one attribute."""
    return float(median(getattr(figure, attribute) for figure in figures))


def show(value: float) -> str:
    """Return a number with the digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show_rates(figures: Sequence[Any]) -> str:
    """Return the median rate in words."""
    return f"{middle(figures, 'rate'):,.0f}/s"
