"""Ask the peers, one process each, under their own Python on the same cores."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.tiling import TriangleGrid
from tools.bench.channel import neutral
from tools.bench.client import THREAD_VARIABLES
from tools.bench.machine import ROOT
from tools.bench.systems.kernels import targets

SLACK = 2  # times the limit, after which a peer that does not look at the clock is ended


def square(path: Path, rows: int) -> Path:
    """Return the file of the whole matrix, rows one after the other, made from the tiles."""
    layout = store.read_layout(path)
    grid = TriangleGrid(rows, layout.grid.tile)
    whole = path.with_name(f"square-{rows}.bin")
    if whole.exists():
        return whole
    partial = whole.with_suffix(".partial")
    matrix = np.memmap(partial, layout.dtype, "w+", shape=(rows, rows))
    with store.TileReader(layout) as reader:
        for number in range(grid.count):
            tile = grid.at(number)
            height, width = tile.shape
            entries = reader.read(number)[:height, :width]
            matrix[tile.rows, tile.columns] = entries
            matrix[tile.columns, tile.rows] = entries.T
    matrix.flush()
    partial.rename(whole)
    return whole


def ask_peer(python: str, peer: str, path: Path, rows: int, **options: Any) -> dict[str, Any]:
    """Let a peer solve; what went wrong is its answer's `error`."""
    with tempfile.TemporaryDirectory() as folder:
        y, answer = Path(folder) / "targets.npy", Path(folder) / "answer.json"
        np.save(y, targets(path, rows)[:rows])
        question = {
            "peer": peer,
            "matrix": str(square(path, rows).absolute()),
            "stored": store.read_layout(path).dtype.name,
            "n": rows,
            "targets": str(y),
            **options,
        }
        return _answer(python, question, answer)


def _answer(python: str, question: dict[str, Any], answer: Path) -> dict[str, Any]:
    threads = dict.fromkeys(THREAD_VARIABLES, str(question["threads"]))
    # The path of a virtual environment's Python is a link, which must not be followed.
    command = [os.path.abspath(python), "-m", "tools.bench.systems.peer"]
    try:
        ended = subprocess.run(
            [*command, json.dumps(question), str(answer)],
            cwd=ROOT,
            env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SLACK * question["limit"] + 60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"done": False, "seconds": SLACK * question["limit"], "megabytes": None}
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["nothing said"])[-1]
        return {"error": neutral(f"status {ended.returncode}: {last}")}
    return json.loads(answer.read_text())
