"""A comparison of approximations as a table and as a plot of test error against cost.

Two panels, with one axis of errors: against the kernel entries that a method needs in all, for its
fit, for the choice of its ridge and for the test rows; and against its total time, which is that of
these entries at the measured rate of the kernel stage, plus the measured seconds of the fits and
predictions. A line joins the items of one method that no other item of that method beats in both
error and cost; all others are points.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcnk.report.metrics import STANDARDISED
from hpcnk.report.shape import ANY, Finite, Maybe, misfit

NUMBERS = ("entries_fit", "entries_choice", "entries_test")
SECONDS = ("seconds_choice", "seconds_fit", "seconds_predict")
COLUMNS = ("method", "rows", "budget", "ridge", "ridge_absolute", "test_error", "iterations")
_ENTRY = {
    "method": str,
    "rows": int,
    "budget": Maybe(int),
    "ridge": Finite,
    "ridge_absolute": Finite,
    "validation": Maybe({ANY: Finite}),
    "test": Maybe({ANY: Finite}),
    "iterations": Maybe(int),
    "entries": {"fit": int, "choice": int, "test": int},
    "seconds": {"choice": Finite, "fit": Finite, "predict": Finite},
}
_COMPARISON = {"name": str, "task": str, "origin": {ANY: str}, "entries": [_ENTRY]}
_LABELS = {
    "cg": "exact, conjugate gradients",
    "dense": "exact, dense",
    "nystrom": "Nyström",
    "subset_of_regressors": "subset of regressors",
    "block_diagonal": "block diagonal",
    "bayesian_committee": "Bayesian committee machine",
}
_MARKERS = dict(zip(_LABELS, "os^vDP", strict=True))

Entry = Mapping[str, Any]
Cost = Callable[[Entry], float]


def misfit_of_comparison(content: Mapping[str, Any]) -> str:
    """Say what is wrong with the content of a compare.json; empty if nothing is."""
    return misfit(content, _COMPARISON)


def comparison_csv(content: Mapping[str, Any], rate: float | None) -> str:
    """Return one line for each entry, with its error and its cost.

    `rate`: kernel entries a second; without it the total time is left empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *NUMBERS, *SECONDS, "seconds_total"])
    for entry in content["entries"]:
        error = _error(entry, content["task"])
        plain = [entry[key] for key in ("method", "rows", "budget", "ridge", "ridge_absolute")]
        counts = [entry["entries"][key.split("_")[1]] for key in NUMBERS]
        seconds = [f"{entry['seconds'][key.split('_')[1]]:.4g}" for key in SECONDS]
        total = f"{_seconds(entry, rate):.4g}" if rate else ""
        writer.writerow([*plain, error, entry["iterations"], *counts, *seconds, total])
    return text.getvalue()


def comparison_plot(content: Mapping[str, Any], rate: float | None, kind: str) -> bytes:
    """Return the plot in a format of matplotlib, such as svg or png."""
    import matplotlib  # takes a second to import, which only the rank that draws should pay for
    from matplotlib.figure import Figure

    # The same content gives the same file: no date, no random names.
    with matplotlib.rc_context({"svg.hashsalt": "hpcnk", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, content, lambda entry: float(sum(entry["entries"].values())))
        _draw(right, content, lambda entry: _seconds(entry, rate))
        left.set_xlabel("kernel entries needed: fit, choice of the ridge, test")
        right.set_xlabel("seconds: kernel entries and solver" if rate else "seconds of the solver")
        left.set_ylabel(_ERROR[content["task"]])
        if left.get_legend_handles_labels()[0]:
            left.legend(fontsize=8, frameon=False)
        figure.suptitle(content["name"].replace("$", r"\$"), fontsize=10)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=110, metadata=metadata)
    return file.getvalue()


_ERROR = {
    "classification": "test error (1 - accuracy)",
    "regression": "standardised squared error on the test rows",
}


def _draw(axes: Any, content: Mapping[str, Any], cost: Cost) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for number, (method, label) in enumerate(_LABELS.items()):
        points = [
            (cost(entry), float(_error(entry, content["task"])))
            for entry in content["entries"]
            if entry["method"] == method and _error(entry, content["task"]) != ""
        ]
        if not points:
            continue
        look = {"color": f"C{number}", "marker": _MARKERS[method]}
        axes.plot(*zip(*points, strict=True), linestyle="", markersize=3.5, alpha=0.35, **look)
        best = undominated(points)
        axes.plot(*zip(*best, strict=True), markersize=4.5, linewidth=1.2, label=label, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, error) that none of lower or equal cost beats, by rising cost."""
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _error(entry: Entry, task: str) -> float | str:
    """Return what is plotted: empty if the item could not be solved, or has no such metric."""
    metrics = entry["test"] or {}
    if task == "classification" and "accuracy" in metrics:
        return round(1 - metrics["accuracy"], 12)
    return metrics.get(STANDARDISED, "") if task == "regression" else ""


def _seconds(entry: Entry, rate: float | None) -> float:
    """Return the total time: of the solver, and of the kernel entries if their rate is known."""
    kernel = sum(entry["entries"].values()) / rate if rate else 0.0
    return float(sum(entry["seconds"].values())) + kernel
