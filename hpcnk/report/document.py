"""report.md: what report.json says, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpcnk.report.units import count, duration


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown. Stages that have not run yet are left out."""
    sections = [f"# {report['name']}", ""]
    sections += _facts(report)
    if "kernel" in report:
        sections += _kernel(report["kernel"])
    if report.get("solve"):
        sections += _solve(report)
    sections += _analysis(report)
    if report.get("test"):
        sections += _metrics("Test", report["solve"], report["test"])
    warnings = [text for texts in report["warnings"].values() for text in texts]
    if warnings:
        sections += ["## Warnings", "", *(f"- {text}" for text in warnings), ""]
    return "\n".join(sections)


def _facts(report: Mapping[str, Any]) -> list[str]:
    rows = [f"- {key}: {value}" for key, value in report["versions"].items()]
    rows += [
        f"- ranks: {report['ranks']}, threads a rank: {report['threads']}",
        f"- deck: {report['deck']} (sha256 {report['deck_hash']})",
    ]
    digests = report.get("data_hash", {}).items()
    rows += [f"- {name} data: sha256 {digest}" for name, digest in digests]
    return [*rows, ""]


def _kernel(kernel: Mapping[str, Any]) -> list[str]:
    return [
        "## Kernel",
        "",
        f"{kernel['train_rows']} training and {kernel['test_rows']} test rows, "
        f"{kernel['kind']} in {kernel['dtype']}, tiles of {kernel['tile']}, "
        f"back end {kernel['backend']}, store driver {kernel['driver']}.",
        "",
        f"{count(kernel['pairs'])} pairs; the last run to compute any made "
        f"{count(kernel['pairs_computed_in_this_run'])} in {duration(kernel['seconds'])}: "
        f"{count(kernel['pairs_per_second'])} pairs/s.{_share(kernel.get('engine_share'))}",
        "",
    ]


def _share(share: Mapping[str, float] | None) -> str:
    """Say how busy the engine was; a report of an earlier version does not know."""
    if share is None:
        return ""
    return (
        f" The engine computed in {100 * share['mean']:.1f} % of that time (mean over the ranks; "
        f"the busiest {100 * share['max']:.1f} %)."
    )


def _solve(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            str(entry["rows"]),
            f"{entry['ridge']:g}",
            f"{entry['ridge_absolute']:.6g}",
            str(max(entry["iterations"])),
            f"{max(entry['true_relative_residual']):.2e}",
            "yes" if entry["converged"] else "NO",
        ]
        for entry in report["solve"]
    ]
    heads = ["rows", "ridge", "absolute", "iterations", "worst true residual", "converged"]
    lines = ["## Solve", "", *_table(heads, rows), ""]
    if report["selected_ridge"] is None:
        lines += ["No ridge was selected: the deck sets no validation rows aside.", ""]
    else:
        lines += _metrics("Validation", report["solve"], report["validation"])
        lines += _selected(report)
    return lines


def _analysis(report: Mapping[str, Any]) -> list[str]:
    """Show leave-one-out errors and log marginal likelihoods, where the deck asked for them."""
    lines: list[str] = []
    if report.get("leave_one_out"):
        lines += _metrics("Leave-one-out", report["solve"], report["leave_one_out"])
    if report.get("evidence"):
        lines += _metrics("Log marginal likelihood", report["solve"], report["evidence"])
        lines += [
            "All outputs together; profile: at the best amplitude, unit: at an amplitude of 1.",
            "",
        ]
    return lines


def _selected(report: Mapping[str, Any]) -> list[str]:
    """Name the best ridge, and those of smaller training sets."""
    smaller = [f"{b['ridge']:g} with {b['rows']} rows" for b in report.get("selected", [])[:-1]]
    more = f" ({', '.join(smaller)})" if smaller else ""
    return [f"Selected ridge: **{report['selected_ridge']:g}**{more}", ""]


def _metrics(
    title: str, solve: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, float]]
) -> list[str]:
    names = list(metrics[0])
    rows = [
        [str(entry["rows"]), f"{entry['ridge']:g}", *(f"{values[name]:.6g}" for name in names)]
        for entry, values in zip(solve, metrics, strict=True)
    ]
    return [f"## {title}", "", *_table(["rows", "ridge", *names], rows), ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    lines += [" | ".join(row) for row in rows]
    return [f"| {line} |" for line in lines]
