import io
import json
import time

import numpy as np
import pytest

from hpcnk.report import (
    EventLog,
    Progress,
    better,
    count,
    duration,
    markdown,
    passes,
    progress,
    score,
    size,
)


def test_classification_metrics():
    predictions = np.array([[0.9, 0.1], [0.2, 0.1], [0.3, 0.6]])
    target = np.array([0, 1, 1])
    encoded = np.eye(2)[target] - 0.5
    metrics = score("classification", predictions, target, encoded, np.ones(2))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["mean_squared_error"] == pytest.approx(np.mean((predictions - encoded) ** 2))
    assert "r2" not in metrics


def test_regression_metrics():
    target = np.array([[1.0], [2.0], [4.0]])
    predictions = np.array([[1.5], [2.0], [3.0]])
    metrics = score("regression", predictions, target, target, np.array([2.0]))
    assert metrics["mean_squared_error"] == pytest.approx(1.25 / 3)
    assert metrics["standardised_squared_error"] == pytest.approx(1.25 / 3 / 4)
    total = np.sum((target - target.mean()) ** 2)
    assert metrics["r2"] == pytest.approx(1 - 1.25 / total)
    assert "r2" not in score("regression", predictions[:1], target[:1], target[:1], np.ones(1))


def test_better_goes_by_accuracy_then_error():
    low = {"accuracy": 0.5, "mean_squared_error": 0.1}
    high = {"accuracy": 0.6, "mean_squared_error": 0.9}
    same = {"accuracy": 0.6, "mean_squared_error": 0.8}
    assert better(high, low) and not better(low, high)
    assert better(same, high) and not better(high, same) and not better(high, high)
    assert better({"mean_squared_error": 1.0}, {"mean_squared_error": 2.0})


def test_the_output_of_the_largest_units_does_not_decide():
    """The first predictions are right but for a hundredth of the first output's spread."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 2)) * [1e6, 1.0]
    near = target + np.array([1e4, 0.0])
    far = target + np.array([0.0, 1.0])
    metrics = [score("regression", p, target, target, target.std(axis=0)) for p in (near, far)]
    assert metrics[0]["mean_squared_error"] > metrics[1]["mean_squared_error"]
    assert better(*metrics) and not better(*reversed(metrics))


def test_units():
    assert [passes(number) for number in (0, 1, 2)] == ["0 passes", "1 pass", "2 passes"]
    assert size(1536) == "1.536 kB" and size(50.2e12) == "50.2 TB" and size(12) == "12 B"
    assert count(3.36e6) == "3.36 million" and count(17) == "17"
    assert duration(12.34) == "12.3 s" and duration(245) == "4 min 05 s"
    assert duration(3 * 3600 + 7 * 60) == "3 h 07 min" and duration(59.99) == "60.0 s"


def test_progress_writes_lines_in_a_log(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    stream, done = io.StringIO(), [2]
    events = tmp_path / "events.jsonl"
    bar = Progress("kernel", 10, 1000, lambda: done[0], EventLog(events), stream)
    done[0] = 4
    end = time.monotonic() + 20  # the watching thread needs a moment
    while "4 of 10 tiles" not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    done[0] = 10
    bar.close()
    lines = stream.getvalue().splitlines()
    assert any("4 of 10 tiles" in line and "pairs/s" in line for line in lines)
    assert "10 of 10 tiles" in lines[-1] and "0.0 s to go" in lines[-1]
    last = json.loads(events.read_text().splitlines()[-1])
    assert last["event"] == "progress" and last["tiles_done"] == 10 and last["eta_seconds"] == 0
    assert last["pairs_per_second"] > 0


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    bar = Progress("kernel", 4, 100, lambda: 2, EventLog(None), stream)
    bar.close()
    assert "[###############...............]" in stream.getvalue() and "\r" in stream.getvalue()


def test_a_log_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    log = EventLog(tmp_path / "missing" / "events.jsonl")
    log.write("start")
    log.write("again")


REPORT = {
    "name": "trial",
    "deck": "trial.yaml",
    "deck_hash": "ab",
    "versions": {"hpcnk": "1"},
    "ranks": 2,
    "threads": 1,
    "warnings": {"kernel": [], "solve": ["ridge 1: not converged"]},
    "solve": [
        {
            "rows": 40,
            "ridge": 0.1,
            "ridge_absolute": 0.25,
            "iterations": [3, 4],
            "true_relative_residual": [1e-9, 2e-9],
            "converged": True,
        }
    ],
    "selected_ridge": None,
    "test": [{"accuracy": 0.5}],
}


def test_the_report_for_people_says_the_same():
    text = markdown(REPORT)
    assert "| 40 | 0.1 | 0.25 | 4 | 2.00e-09 | yes |" in text
    assert "No ridge was selected" in text and "| 40 | 0.1 | 0.5 |" in text
    assert "- ridge 1: not converged" in text
    chosen = {**REPORT, "selected_ridge": 0.1, "validation": [{"accuracy": 0.75}]}
    assert "Selected ridge: **0.1**" in markdown(chosen) and "| 40 | 0.1 | 0.75 |" in markdown(
        chosen
    )


def test_the_report_before_the_solve():
    text = markdown({**REPORT, "solve": None, "test": None})
    assert "## Solve" not in text and "## Test" not in text
