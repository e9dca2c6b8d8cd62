"""Whole jobs under mpirun: the same bytes from every driver and number of ranks."""

import re

import numpy as np
import pytest
from scipy.linalg import solve as dense_solve

from hpcnk import Kernel
from hpcnk.store import read_arrays
from tests.support.folders import digest, predictions, report, tiles, whole
from tests.support.mpi import hpcnk

LAYERS = [
    {"conv": {"filter": 3}},
    "relu",
    {"avg_pool": 2},
    {"conv": {"filter": 3}},
    "relu",
    "global_avg_pool",
    {"dense": {}},
]
KERNEL = {"layers": LAYERS, "dtype": "float64", "tile": 9}
SOLVE = {
    "ridge": [0.01, 0.1],
    "tolerance": 1e-11,
    "preconditioner": {"kind": "pivoted_cholesky", "rank": 10},
}


@pytest.fixture(scope="module")
def first():
    """The digest of the first job; all others must match it."""
    return {}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_bytes_do_not_depend_on_ranks_and_driver(ranks, driver, write_deck, tmp_path, first):
    deck = write_deck(kernel=KERNEL, solve=SOLVE, store={"driver": driver})
    ended = hpcnk(ranks, "run", deck)
    assert ended.code == 0, ended.output
    assert f"store {driver}" in ended.output and f"on {ranks} rank" in ended.output
    folder = tmp_path / "small"
    assert first.setdefault("digest", digest(folder)) == digest(folder)
    found, _ = predictions(folder)
    np.testing.assert_allclose(found, first.setdefault("predictions", found), atol=1e-9)
    assert report(folder)["ranks"] == ranks
    kernel = report(folder)["kernel"]
    assert 0 < kernel["engine_seconds"]["mean"] <= kernel["engine_seconds"]["max"]
    assert kernel["engine_share"]["max"] == kernel["engine_seconds"]["max"] / kernel["seconds"] < 1
    assert "% of the time in the engine" in ended.output


def test_results_are_those_of_a_dense_solve(write_deck, tmp_path):
    deck = write_deck(kernel=KERNEL, solve=SOLVE)
    assert hpcnk(2, "run", deck).code == 0
    data = np.load(tmp_path / "arrays.npz")
    import h5py

    with h5py.File(tmp_path / "small" / "inputs.h5") as file:
        x_train, x_test = file["x_train"][:], file["x_test"][:]
    kernel = Kernel(LAYERS, dtype="float64")
    k, k_test = kernel(x_train), kernel(x_test, x_train)
    np.testing.assert_allclose(whole(tmp_path / "small" / "kernel.h5"), k, rtol=1e-12)
    y = np.eye(3)[data["y_train"]] - 1 / 3
    found, target = predictions(tmp_path / "small")
    np.testing.assert_array_equal(target, data["y_test"])
    summary = report(tmp_path / "small")
    for i, ridge in enumerate(SOLVE["ridge"]):
        absolute = ridge * np.trace(k) / len(k)
        expected = k_test @ dense_solve(k + absolute * np.eye(len(k)), y)
        np.testing.assert_allclose(found[i], expected, rtol=1e-7, atol=1e-8)
        accuracy = np.mean(expected.argmax(1) == data["y_test"])
        assert summary["test"][i]["accuracy"] == accuracy
        assert summary["solve"][i]["ridge"] == ridge
        np.testing.assert_allclose(summary["solve"][i]["ridge_absolute"], absolute)
        assert len(summary["solve"][i]["true_relative_residual"]) == 3
        assert summary["solve"][i]["converged"]
    assert summary["selected_ridge"] is None
    assert summary["kernel"]["pairs"] == 44 * 45 // 2 + 13 * 44


def test_more_ranks_than_tiles(write_deck, tmp_path, driver):
    deck = write_deck(kernel={**KERNEL, "tile": 64}, solve=SOLVE, store={"driver": driver})
    ended = hpcnk(3, "run", deck)
    assert ended.code == 0, ended.output
    assert tiles(tmp_path / "small" / "kernel.h5").shape == (1, 64, 64)


def test_the_stages_one_by_one_are_the_run(write_deck, tmp_path):
    whole_run, staged = write_deck("whole", solve=SOLVE), write_deck("staged", solve=SOLVE)
    assert hpcnk(0, "run", whole_run).code == 0
    for command, ranks in (("kernel", 3), ("solve", 2), ("predict", 1)):
        ended = hpcnk(ranks, command, staged)
        assert ended.code == 0, ended.output
    assert digest(tmp_path / "whole") == digest(tmp_path / "staged")
    np.testing.assert_allclose(
        predictions(tmp_path / "whole")[0], predictions(tmp_path / "staged")[0], atol=1e-9
    )


@pytest.mark.parametrize("command", ["solve", "predict"])
def test_a_stage_without_its_predecessor_says_which(command, write_deck):
    ended = hpcnk(2, command, write_deck())
    assert ended.code == 2, ended.output
    assert "hpcnk kernel" in ended.output and "Traceback" not in ended.output


def test_prediction_without_solution(write_deck):
    deck = write_deck()
    assert hpcnk(2, "kernel", deck).code == 0
    ended = hpcnk(2, "predict", deck)
    assert ended.code == 2 and "hpcnk solve" in ended.output
    assert hpcnk(0, "solve", deck).code == 0
    deck.write_text(deck.read_text().replace("0.001", "0.002"))
    ended = hpcnk(0, "predict", deck)
    assert ended.code == 2 and "hpcnk solve" in ended.output


def test_the_ridge_is_chosen_on_validation_rows(write_deck, tmp_path):
    solve = {**SOLVE, "ridge": [1e-3, 1e-1, 1e3]}
    deck = write_deck(data={"validation": 10, "seed": 3}, solve=solve)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0, ended.output
    summary = report(tmp_path / "small")
    (held,) = read_arrays(tmp_path / "small" / "solution.h5", "validation_rows")
    assert len(held) == 10 and (np.diff(held) > 0).all()
    keep = np.setdiff1d(np.arange(44), held)
    k = whole(tmp_path / "small" / "kernel.h5").astype(float)
    y = np.load(tmp_path / "arrays.npz")["y_train"]
    codes = np.eye(3)[y] - 1 / 3
    errors = []
    for i, ridge in enumerate(solve["ridge"]):
        inner = k[np.ix_(keep, keep)]
        absolute = ridge * np.trace(inner) / len(keep)
        np.testing.assert_allclose(summary["validation_solve"][i]["ridge_absolute"], absolute)
        alpha = dense_solve(inner + absolute * np.eye(len(keep)), codes[keep])
        scores = k[np.ix_(held, keep)] @ alpha
        errors.append(np.mean((scores - codes[held]) ** 2))
        found = summary["validation"][i]
        assert found["accuracy"] == np.mean(scores.argmax(1) == y[held])
        np.testing.assert_allclose(found["mean_squared_error"], errors[-1], rtol=1e-6)
    best = max(summary["validation"], key=lambda m: (m["accuracy"], -m["mean_squared_error"]))
    assert summary["validation"].index(best) == solve["ridge"].index(summary["selected_ridge"])


def test_regression_comes_back_in_its_own_units(write_deck, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = 1000 + 50 * x[:, :2] + 5 * x[:, 1:2] ** 2
    path = tmp_path / "real.npz"
    np.savez(path, x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    deck = write_deck(data={"path": str(path), "validation": 0.2}, solve=SOLVE)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0, ended.output
    found, target = predictions(tmp_path / "small")
    np.testing.assert_array_equal(target, y[45:])
    summary = report(tmp_path / "small")["test"][0]
    np.testing.assert_allclose(summary["mean_squared_error"], np.mean((found[0] - target) ** 2))
    assert summary["r2"] > 0.9 and "accuracy" not in summary
    assert abs(found[0].mean() - 1000) < 50


def test_one_message_for_all_ranks(write_deck):
    deck = write_deck(kernel={"tile": 0})
    ended = hpcnk(2, "run", deck)
    assert ended.code == 2
    assert ended.output.count("kernel.tile") == 1 and "Traceback" not in ended.output


def test_a_failed_solve_is_loud(write_deck, tmp_path):
    deck = write_deck(solve={"ridge": 1e-7, "max_iterations": 2})
    ended = hpcnk(2, "run", deck)
    assert "WARNING" in ended.output and "max_iterations" in ended.output
    summary = report(tmp_path / "small")
    assert not summary["solve"][0]["converged"]
    assert any("do not trust" in text for text in summary["warnings"]["solve"])
    assert ended.code == 1
    again = hpcnk(0, "predict", deck)
    assert again.code == 1 and "do not trust" in again.output
    assert report(tmp_path / "small")["warnings"] == summary["warnings"]


def test_a_ridge_below_rounding_is_warned_of(write_deck):
    for dtype, finer in (("float32", True), ("float64", False)):
        solve = {"ridge": [1e-18, 1e-9, 0.1], "max_iterations": 2}
        ended = hpcnk(0, "run", write_deck(dtype, kernel={"dtype": dtype}, solve=solve))
        low = "1e-18, 1e-09" if finer else "1e-18"
        (warned,) = re.findall(rf"WARNING: ridge {low}: below .*", ended.output)
        assert f"rounding of {dtype} entries" in warned
        assert ("use kernel.dtype float64" in warned) == finer
