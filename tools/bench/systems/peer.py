"""What others do with a stored matrix: SciPy's cg, KernelRidge, and linear_operator's CG.

Runs under the Python of the peers, without hpcnk: `peer.py QUESTION ANSWER`, one peer a process, so
that its memory can be told. The matrix is there as rows of one file; what it takes to read them is
not counted.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 256  # rows read at once
MOST_ITERATIONS = 2000  # twice linear_operator's default; it looks at no clock


class OutOfTime(Exception):
    """The limit has passed."""


class Task:
    """The systems (K + ridge I) X = Y for some ridges, and how exactly they are to be solved."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.dtype = np.dtype(asked["dtype"])
        self.k = _read(Path(asked["matrix"]), asked["n"], np.dtype(asked["stored"]), self.dtype)
        self.y = np.load(asked["targets"])
        scale = float(self.k.diagonal().astype(float).mean())
        self.ridges = [ridge * scale for ridge in asked["ridges"]]
        self.tolerance = asked["tolerance"]
        self.options = asked

    def start(self) -> None:
        """Start the clock: what was read and imported before does not count."""
        self.began = time.perf_counter()
        self.end = self.began + self.options["limit"]

    def check_time(self, *_: object) -> None:
        """Raise OutOfTime when the limit has passed."""
        if time.perf_counter() > self.end:
            raise OutOfTime

    def residual(self, ridge: float, x: np.ndarray) -> float:
        """Return the largest relative residual of the columns, in float64."""
        left = self.y - ridge * x
        for start in range(0, len(self.k), CHUNK):
            rows = slice(start, start + CHUNK)
            left[rows] -= self.k[rows].astype(float) @ x
        return float((np.linalg.norm(left, axis=0) / np.linalg.norm(self.y, axis=0)).max())


def _read(path: Path, n: int, stored: np.dtype, wanted: np.dtype) -> np.ndarray:
    """Read the matrix piece by piece, so that no second copy counts as the peer's memory."""
    k = np.empty((n, n), wanted)
    with open(path, "rb") as file:
        for start in range(0, n, CHUNK):
            rows = k[start : start + CHUNK]
            rows[...] = np.fromfile(file, stored, rows.size).reshape(rows.shape)
    return k


def scipy_cg(task: Task) -> dict[str, Any]:
    """Column by column, as its documentation has it."""
    from scipy.sparse.linalg import LinearOperator, cg

    worst, iterations = 0.0, 0
    task.start()

    def count(_: object) -> None:
        nonlocal iterations
        iterations += 1
        task.check_time()

    for ridge in task.ridges:
        matrix = LinearOperator(task.k.shape, lambda v: task.k @ v + ridge * v, dtype=float)  # noqa: B023
        solved = np.empty_like(task.y)
        for column in range(task.y.shape[1]):
            b = task.y[:, column]
            x, _ = cg(matrix, b, rtol=task.tolerance, maxiter=100_000, callback=count)
            solved[:, column] = x
        worst = max(worst, task.residual(ridge, solved))
    return {"residual": worst, "iterations": iterations}


def kernel_ridge(task: Task) -> dict[str, Any]:
    """All outputs at once, by Cholesky; one fit a ridge."""
    from sklearn.kernel_ridge import KernelRidge

    worst = 0.0
    task.start()
    for ridge in task.ridges:
        task.check_time()
        fitted = KernelRidge(kernel="precomputed", alpha=ridge).fit(task.k, task.y)
        worst = max(worst, task.residual(ridge, np.asarray(fitted.dual_coef_, float)))
    return {"residual": worst, "iterations": 0}


def linear_operator_cg(task: Task) -> dict[str, Any]:
    """All outputs at once; its tolerance is one on the mean, so it is lowered until all do."""
    import linear_operator
    import torch
    from linear_operator.operators import (
        AddedDiagLinearOperator,
        ConstantDiagLinearOperator,
        DenseLinearOperator,
    )

    torch.set_num_threads(task.options["threads"])
    settings, worst, solved = linear_operator.settings, 0.0, []
    k, y = torch.from_numpy(task.k), torch.from_numpy(task.y.astype(task.dtype))
    task.start()
    for ridge in task.ridges:
        tolerance, found = task.tolerance / 2, np.inf  # of the mean: all columns want less
        while found > task.tolerance:
            task.check_time()
            diagonal = ConstantDiagLinearOperator(torch.tensor([ridge], dtype=k.dtype), len(k))
            matrix = AddedDiagLinearOperator(DenseLinearOperator(k), diagonal)
            with (
                torch.no_grad(),
                settings.fast_computations(True, True, True),
                settings.max_cholesky_size(0),
                settings.min_preconditioning_size(1),
                settings.max_preconditioner_size(task.options["rank"]),
                settings.cg_tolerance(tolerance),
                settings.max_cg_iterations(MOST_ITERATIONS),
            ):
                x = matrix.solve(y)
            last, found = found, task.residual(ridge, x.numpy().astype(float))
            solved.append({"ridge": ridge, "tolerance": tolerance, "residual": found})
            if not found < 0.9 * last:
                break  # rounding holds it: float64 is what helps, or nothing does
            tolerance /= 4
        worst = max(worst, found)
    return {"residual": worst, "solved": solved}


PEERS = {peer.__name__: peer for peer in (scipy_cg, kernel_ridge, linear_operator_cg)}


def main(question: str, answer: str) -> None:
    """Do what is asked and leave the answer in a file."""
    asked = json.loads(question)
    task = Task(asked)
    try:
        found = PEERS[asked["peer"]](task) | {"done": True}
    except OutOfTime:
        found = {"done": False, "residual": None, "iterations": None}
    seconds = time.perf_counter() - task.began
    Path(answer).write_text(json.dumps({**found, "seconds": seconds, "megabytes": peak()}))


def peak() -> float:
    """Return this process's largest resident memory so far, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main(*sys.argv[1:])
