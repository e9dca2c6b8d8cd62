"""Whether JSON that was read has the shape of what hpcnk writes: one table for each kind.

A shape is a type; [shape] for a list; a mapping from keys to shapes, where a key that ends in `?`
may be missing and ANY stands for all keys; Maybe(shape) where there may be null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANY = "*"
NUMBER = float  # or an integer, or one that is not finite


@dataclass(frozen=True)
class Maybe:
    """A shape, or null."""

    shape: Any


@dataclass(frozen=True)
class Some:
    """A list of this shape that is not empty."""

    shape: Any


class Finite(float):
    """A number that is neither infinite nor NaN."""


_WORDS = {
    str: "text",
    int: "an integer",
    NUMBER: "a number",
    Finite: "a finite number",
    bool: "true or false",
}
_SOLVED = {
    "rows": int,
    "ridge": Finite,
    "ridge_absolute": NUMBER,
    "iterations": Some(int),
    "true_relative_residual": Some(NUMBER),
    "converged": bool,
}
_BEST = {"rows": int, "ridge": Finite}
_METRICS = {"mean_squared_error?": NUMBER, ANY: NUMBER}
_EVIDENCE = {"profile": NUMBER, "standard_error": NUMBER, "amplitude": NUMBER, "unit": NUMBER}
_KERNEL = {
    "pairs": int,
    "pairs_computed_in_this_run": int,
    "seconds": Finite,
    "pairs_per_second": Finite,
    "engine_share?": Maybe({"mean": NUMBER, "max": NUMBER}),
    "train_rows": int,
    "test_rows": int,
    "tile": int,
    "kind": str,
    "dtype": str,
    "backend": str,
    "driver": str,
}
REPORT = {
    "name": str,
    "deck": str,
    "deck_hash": str,
    "versions": {ANY: object},
    "ranks": int,
    "threads": int,
    "warnings": {ANY: [str]},
    "data_hash?": {ANY: str},
    "kernel?": _KERNEL,
    "solve?": Some(_SOLVED),
    "selected_ridge?": Maybe(Finite),
    "selected?": [_BEST],
    "preconditioner_rank?": int,
    "tiles?": {
        **dict.fromkeys(("gpu", "resident", "streamed", "recomputed"), int),
        "read_bytes_per_second": NUMBER,
    },
    "passes?": int,
    "validation?": Maybe(Some(_METRICS)),
    "leave_one_out?": Maybe(Some({"diagonal_error": NUMBER, ANY: NUMBER})),
    "evidence?": Maybe(Some(_EVIDENCE)),
    "test?": Maybe(Some(_METRICS)),
}
RESULTS = {
    "mean_diagonal": Finite,
    "preconditioner_rank": int,
    "passes": int,
    "selected": [_BEST],
    "solve": Some(_SOLVED),
    "selected_ridge": Maybe(Finite),
    "validation": Maybe(Some(_METRICS)),
    "leave_one_out?": Maybe(Some({"diagonal_error": NUMBER, ANY: NUMBER})),
    "evidence?": Maybe(Some(_EVIDENCE)),
    "validation_solve": Maybe(Some(_SOLVED)),
}


def misfit_of_report(report: Mapping[str, Any]) -> str:
    """Say what is wrong with the content of a report.json; empty if nothing is."""
    return misfit(report, REPORT) or _unlike_tables(report)


def misfit_of_results(results: Mapping[str, Any], settings: int) -> str:
    """Say what is wrong with what a solver has said of so many settings; empty if nothing is."""
    if found := misfit(results, RESULTS) or _unlike_tables(results):
        return found
    count = len(results["solve"])
    return "" if count == settings else f"solve has {count} entries, expected {settings}"


def misfit(value: Any, shape: Any, place: str = "") -> str:
    """Say where a value first departs from a shape; empty if it does not."""
    if isinstance(shape, Maybe):
        return "" if value is None else misfit(value, shape.shape, place)
    if isinstance(shape, dict):
        return _misfit_of_mapping(value, shape, place)
    if isinstance(shape, list | Some):
        return _misfit_of_list(value, shape, place)
    return "" if _is(value, shape) else f"{place} is {value!a:.60}, expected {_WORDS[shape]}"


def _misfit_of_mapping(value: Any, shape: dict[str, Any], place: str) -> str:
    if not isinstance(value, dict):
        return f"{place} is {value!a:.60}, expected a mapping"
    for key, inner in shape.items():
        name = key.rstrip("?")
        if key != ANY and name not in value:
            if not key.endswith("?"):
                return f"{_at(place, name)} is missing"
            continue
        for each in value if key == ANY else [name]:
            if found := misfit(value[each], inner, _at(place, each)):
                return found
    return ""


def _misfit_of_list(value: Any, shape: Any, place: str) -> str:
    if not isinstance(value, list) or (isinstance(shape, Some) and not value):
        return f"{place} is {value!a:.60}, expected a list"
    inner = shape.shape if isinstance(shape, Some) else shape[0]
    found = (misfit(item, inner, f"{place}[{index}]") for index, item in enumerate(value))
    return next(filter(None, found), "")


def _is(value: Any, kind: type) -> bool:
    """Tell numbers from truth values, and take integers for reals that hold them."""
    if kind is int:
        return type(value) is int
    if issubclass(kind, float):
        number = type(value) in (int, float)
        return number and (kind is not Finite or math.isfinite(value))
    return isinstance(value, kind)


def _at(place: str, key: str) -> str:
    return f"{place}.{key:.60}" if place else f"{key:.60}"


def _unlike_tables(content: Mapping[str, Any]) -> str:
    """Say which metrics do not go with the ridges that were solved for; empty if all do."""
    solved = len(content.get("solve") or [])
    for name in ("validation", "leave_one_out", "evidence", "test"):
        rows = content.get(name) or []
        if rows and (len(rows) != solved or any(row.keys() != rows[0].keys() for row in rows)):
            return f"{name} does not go with the {solved} entries of solve"
    if content.get("selected_ridge") is not None and not content.get("validation"):
        return "selected_ridge is without validation"
    if solved and "selected_ridge" not in content:
        return "selected_ridge is missing"
    return ""
