"""From measurements to rows of the table: derived quantities, judgement, text, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.bench.cases import REFERENCE, Case, Target

Row = dict[str, Any]

QUANTITIES = {
    "peer_ratio": "times Neural Tangents",
    "pairs_per_core": "pairs/s/core",
    "pairs_per_s": "pairs/s",
    "relative_rate": f"times {REFERENCE}'s el-layers/s",
    "product_ratio": "times the GEMM's time",
    "efficiency": "efficiency",
}
HEADINGS = (
    "work",
    "pairs/s",
    "el-layers/s",
    "cycles/el-layer",
    "NT pairs/s",
    "times NT",
    "target",
    "met",
)


def quantities(
    case: Case, row: Row, cores: int, clock: float | None, reference: float | None
) -> dict[str, float | None]:
    """Derive what is printed and judged; None for what was not measured.

    `row` has `pairs_per_s`, `operations`, `peer_pairs_per_s` and `product_pairs_per_s`, the last
    two possibly None; `clock` is in Hz, None on a GPU; `reference` is Myrtle10's el-layers/s.
    """
    pairs = row["pairs_per_s"]
    rate = pairs * row["operations"]
    return {
        "pairs_per_s": pairs,
        "pairs_per_core": pairs / cores,
        "el_layers_per_s": rate,
        "cycles_per_el_layer": clock * cores / rate if clock else None,
        "peer_ratio": ratio(pairs, row["peer_pairs_per_s"]),
        "relative_rate": ratio(rate, rate if case.name == REFERENCE else reference),
        "product_ratio": ratio(row["product_pairs_per_s"], pairs),
    }


def ratio(one: float | None, other: float | None) -> float | None:
    """Divide, where both were measured."""
    return one / other if one and other else None


def judged(targets: Sequence[Target], found: Mapping[str, float | None]) -> list[Row]:
    """Compare with the targets; `met` is None where the quantity was not measured."""
    return [_judgement(target, found.get(target.quantity)) for target in targets]


def _judgement(target: Target, value: float | None) -> Row:
    met = None
    if value is not None:
        met = value >= target.bound if target.at_least else value <= target.bound
    sense = "at least" if target.at_least else "at most"
    return {
        "quantity": target.quantity,
        "sense": sense,
        "bound": target.bound,
        "value": value,
        "met": met,
    }


def table(rows: Sequence[Row]) -> str:
    """Lay out all rows as a Markdown table with columns of even width."""
    lines = [list(HEADINGS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [_line(cells, widths) for cells in lines]
    return "\n".join([text[0], _line(["-" * width for width in widths], widths), *text[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def _cells(row: Row) -> list[str]:
    found = row["found"]
    targets = "; ".join(_target_text(one) for one in row["targets"]) or "report"
    met = "; ".join(_met_text(one) for one in row["targets"]) or "-"
    numbers = (
        found.get("pairs_per_s"),
        found.get("el_layers_per_s"),
        found.get("cycles_per_el_layer"),
        row.get("peer_pairs_per_s"),
        found.get("peer_ratio"),
    )
    return [row["name"], *map(figure, numbers), targets, met]


def figure(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value:.3g}".replace("e+0", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _target_text(target: Row) -> str:
    sign = ">=" if target["sense"] == "at least" else "<="
    return f"{sign} {figure(target['bound'])} {QUANTITIES[target['quantity']]}"


def _met_text(target: Row) -> str:
    if target["met"] is None:
        return "open"
    return f"{'yes' if target['met'] else 'NO'} ({figure(target['value'])})"


def result_path(folder: Path, backend: str, now: datetime) -> Path:
    """Name the file of a run."""
    return folder / f"kernels-{backend}-{now:%Y%m%d-%H%M}.json"


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record; a number that JSON cannot hold is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
