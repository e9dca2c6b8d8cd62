"""Rows of the solver's table: a quantity, its target, what was predicted; text and judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.bench.results import figure

HEADINGS = ("row", "work", "kernel", "predicted", "measured", "quantity", "found", "target", "")
HOLDS, MISSES, REPORT = "holds", "MISSES", "report"


@dataclass(frozen=True)
class Entry:
    """One row. `found` None: not measured; `bound` None: there is no target.

    `lower_bound`: something did not end in its time, so the true number is larger.
    """

    row: str
    work: str
    kernel: str
    quantity: str
    found: float | None
    bound: float | None = None
    at_least: bool = True
    lower_bound: bool = False
    predicted: str = "-"
    measured: str = "-"
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether the target is met, as the table says it."""
        if self.bound is None or self.found is None:
            return REPORT if self.bound is None else "open"
        good = self.found >= self.bound if self.at_least else self.found <= self.bound
        return HOLDS if good else MISSES

    def cells(self) -> list[str]:
        """Return the texts of the row."""
        found = figure(self.found) if self.found is not None else "-"
        sign = ">=" if self.at_least else "<="
        target = "-" if self.bound is None else f"{sign} {figure(self.bound)}"
        return [
            self.row,
            self.work,
            self.kernel,
            self.predicted,
            self.measured,
            self.quantity,
            f"over {found}" if self.lower_bound else found,
            target,
            self.verdict,
        ]


def layout(entries: Sequence[Entry]) -> str:
    """Lay out all rows as a Markdown table with columns of even width."""
    lines = [list(HEADINGS), *(entry.cells() for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [_line(cells, widths) for cells in lines]
    return "\n".join([text[0], _line(["-" * width for width in widths], widths), *text[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def seconds(value: float | None) -> str:
    """Write a duration."""
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
