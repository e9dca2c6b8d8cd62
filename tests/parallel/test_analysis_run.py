"""A deck that asks for all analyses, with missing labels, on 3 ranks, against dense float64."""

import h5py
import numpy as np
import pytest

from hpcnk.engine import make_engine
from hpcnk.kernels import parse
from tests.support.folders import report, whole
from tests.support.mpi import hpcnk

N, M = 100, 12
SIZES, RIDGES = (60, N), (0.1, 0.001)
DECK = """
data: {dataset: arrays, path: data.npz, normalize: false}
kernel: {layers: {preset: fc, depth: 2}, kind: nngp, dtype: float64, tile: 32, backend: reference}
solve:
  ridge: [0.1, 0.001]
  sizes: [60]
  tolerance: 1.0e-10
  preconditioner: {rank: 20}
  leave_one_out: 100
  evidence: 24
predict: {variance: true}
output: run
"""


@pytest.fixture(scope="module")
def data():
    from sklearn.datasets import load_digits

    images = load_digits().images[: N + M, ..., None] - 8.0
    random = np.random.default_rng(0)
    y = np.stack([images.mean(axis=(1, 2, 3)), images[:, 4, 4, 0]], axis=1)
    y += random.normal(size=y.shape)
    holes = random.random((N, 1)) < [[0.0, 0.3]]
    y[:N][holes] = np.nan
    return {"x_train": images[:N], "y_train": y[:N], "x_test": images[N:], "y_test": y[N:]}


@pytest.fixture(scope="module", params=["cg", "dense"])
def method(request):
    return request.param


@pytest.fixture(scope="module")
def folder(data, method, tmp_path_factory):
    path = tmp_path_factory.mktemp("analysis")
    np.savez(path / "data.npz", **data)
    (path / "deck.yaml").write_text(DECK.replace("solve:\n", f"solve:\n  method: {method}\n"))
    ended = hpcnk(3, "run", "deck.yaml", cwd=path)
    assert ended.code == 0, ended.output
    if method == "cg":
        assert "exactly in" in ended.output and "24 random vectors" in ended.output
    else:
        assert ended.output.count("exactly by Cholesky factors") == 2
    return path / "run"


@pytest.fixture(scope="module")
def systems(data, folder):
    """For each setting and output: its rows, K + ridge I on them, and the standardised labels."""
    k, y = whole(folder / "kernel.h5"), data["y_train"]
    encoded = (y - np.nanmean(y, axis=0)) / np.nanstd(y, axis=0)
    found = []
    for size in SIZES:
        for ridge in RIDGES:
            rows = [np.flatnonzero(~np.isnan(column[:size])) for column in y.T]
            matrices = [k[np.ix_(r, r)] for r in rows]
            shifts = [ridge * np.trace(part) / len(part) * np.eye(len(part)) for part in matrices]
            labels = [encoded[r, output] for output, r in enumerate(rows)]
            parts = [part + shift for part, shift in zip(matrices, shifts, strict=True)]
            found.append(list(zip(rows, parts, labels, strict=True)))
    return found


def test_leave_one_out(data, folder, systems):
    """The metric of predictions by fits without the row, in the units of the labels."""
    scale = np.nanstd(data["y_train"], axis=0)
    entries = report(folder)["leave_one_out"]
    for entry, setting in zip(entries, systems, strict=True):
        errors = []
        for (_, a, y), unit in zip(setting, scale, strict=True):
            inverse = np.linalg.inv(a)
            errors.append(np.mean((unit * inverse @ y / inverse.diagonal()) ** 2))
        assert entry["mean_squared_error"] == pytest.approx(np.mean(errors), rel=1e-6)
        assert entry["diagonal_error"] == 0


def test_evidence(folder, method, systems):
    for entry, setting in zip(report(folder)["evidence"], systems, strict=True):
        fit = sum(y @ np.linalg.solve(a, y) for _, a, y in setting)
        volume = sum(np.linalg.slogdet(a)[1] for _, a, _ in setting)
        count = sum(len(y) for _, _, y in setting)
        amplitude = fit / count
        unit = -0.5 * (fit + volume + count * np.log(2 * np.pi))
        profile = -0.5 * (count + volume + count * np.log(2 * np.pi * amplitude))
        assert entry["amplitude"] == pytest.approx(amplitude, rel=1e-6)
        error = entry["standard_error"]
        if method == "dense":
            assert error == 0
            assert (entry["unit"], entry["profile"]) == pytest.approx((unit, profile), rel=1e-9)
            continue
        assert 0 < error < 0.05 * count
        assert abs(entry["unit"] - unit) < 4 * error
        assert abs(entry["profile"] - profile) < 4 * error


def test_variances(data, folder, systems):
    engine = make_engine(parse({"preset": "fc", "depth": 2}), "nngp", "float64", "reference", 1)
    train, test = (engine.prepare(data[f"x_{part}"]) for part in ("train", "test"))
    cross = engine.block(test, train)
    with h5py.File(folder / "predictions.h5", "r") as file:
        for number, setting in enumerate(systems):
            stored = file[f"test/variance/{number}"][:]
            assert stored.shape == (M, 2)
            for output, (rows, a, _) in enumerate(setting):
                k = cross[:, rows]
                expected = test.diagonal - np.einsum("mi,im->m", k, np.linalg.solve(a, k.T))
                unit = np.nanstd(data["y_train"][:, output]) ** 2
                np.testing.assert_allclose(stored[:, output], unit * expected, rtol=1e-6)


def test_the_report_says_so(folder):
    text = (folder / "report.md").read_text()
    assert "## Leave-one-out" in text and "## Log marginal likelihood" in text


def test_variances_with_a_tangent_kernel_are_refused(tmp_path):
    digits = DECK.replace("arrays, path: data.npz", "digits").replace("nngp", "ntk")
    (tmp_path / "deck.yaml").write_text(digits)
    ended = hpcnk(0, "run", "deck.yaml", cwd=tmp_path)
    assert ended.code == 2 and "expected kernel.kind nngp" in ended.output


def test_systems_that_did_not_converge_have_no_analyses(write_deck, tmp_path):
    asked = {"leave_one_out": 100, "evidence": 8, "tolerance": 1e-6, "max_iterations": 4}
    ended = hpcnk(2, "run", write_deck(solve={"ridge": [1e-9, 1e3], **asked}))
    assert ended.code == 0, ended.output
    told = "ridge 1e-09: none, for not all of its systems reached the tolerance"
    for name in ("leave-one-out", "evidence"):
        assert f"{name}: 44 rows, {told}" in ended.output, ended.output
    for name in ("leave_one_out", "evidence"):
        bad, good = report(tmp_path / "small")[name]
        assert all(map(np.isnan, bad.values())) and all(map(np.isfinite, good.values()))


def test_residuals_at_the_rounding_floor_are_told_with_the_tolerance_that_would_do(write_deck):
    solve = {"ridge": 0.1, "method": "dense", "tolerance": 1e-20, "leave_one_out": 9}
    ended = hpcnk(0, "run", write_deck(solve=solve))
    assert ended.code == 1 and "no solution reached the tolerance" in ended.output, ended.output
    assert "; set solve.tolerance above" in ended.output, ended.output
    assert "leave-one-out: 44 rows, ridge 0.1: none" in ended.output, ended.output
