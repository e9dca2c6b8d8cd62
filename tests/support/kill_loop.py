"""SIGKILL for all ranks of a job at random moments of its three phases, again and again."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import yaml

from hpcnk.errors import StorageError
from hpcnk.store import read_all_arrays
from tests.support.fault_matrix import PHASES, drivers, events
from tests.support.folders import digest, finished, predictions, tiles
from tests.support.mpi import HPCNK, Job, hpcnk

FILES = ("kernel.h5", "test_kernel.h5")
POLL = 0.005  # seconds between looks at the log for the phase that is waited for


@dataclass
class Found:
    """Kills by the phase that they hit, those that came too late, runs that came to their end, and
    what went wrong.
    """

    kills: Counter = field(default_factory=Counter)
    late: int = 0
    ends: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        hits = ", ".join(f"{count} in {phase}" for phase, count in sorted(self.kills.items()))
        text = f"{hits} ({self.late} more came after the end); {self.ends} runs to the end, "
        text += "all equal bit for bit, no finished work lost"
        return text if not self.problems else "\n".join(["PROBLEMS", *self.problems])


def kill_loop(folder: Path, kills: int, seed: int) -> Found:
    """Hit a job `kills` times, on 1 to 3 ranks in turn; after each compare all that is finished."""
    return _Loop(folder, random.Random(seed)).run(kills)


class _Loop:
    def __init__(self, folder: Path, moments: random.Random) -> None:
        self._folder, self._moments = folder, moments
        self._data = _images(folder / "images-to-kill.npz")
        whole = self._deck("whole-to-kill", "posix")
        ended = hpcnk(2, "run", whole)
        assert ended.code == 0, ended.output
        self._whole = folder / "whole-to-kill"
        self._tiles = {name: tiles(self._whole / name) for name in FILES}
        self._lengths = _lengths(self._whole)
        self._output = folder / "killed"
        self._known: dict[str, set[int]] = {name: set() for name in FILES}
        self._found = Found()

    def run(self, kills: int) -> Found:
        for number in count():
            if self._found.kills.total() >= kills:
                break
            ranks, driver = 1 + number % 3, drivers()[number % len(drivers())]
            target = PHASES[number % len(PHASES)]
            self._make_ready(target)
            deck = self._deck("killed", driver)
            self._kill(Job(ranks, [*HPCNK, "run", deck]), target)
            self._check(number)
            if number % 10 == 9:
                self._finish(1 + (number + 1) % 3, deck)
        self._finish(3, deck)
        return self._found

    def _make_ready(self, target: str) -> None:
        """Have the phase before it: so that the job comes there soon, and has not passed it."""
        there = {name: (self._output / name).exists() for name in ("kernel.h5", "solution.h5")}
        complete = all(len(self._known[name]) == len(self._tiles[name]) for name in FILES)
        if (target == "kernel") == complete or there["solution.h5"] != (target == "predict"):
            shutil.rmtree(self._output, ignore_errors=True)
            self._known = {name: set() for name in FILES}
            if target != "kernel":
                left_out = ["predictions.h5", *(["solution.h5"] if target == "solve" else [])]
                ignored = shutil.ignore_patterns(*left_out)
                shutil.copytree(self._whole, self._output, ignore=ignored)
                (self._output / "events.jsonl").unlink()

    def _kill(self, job: Job, target: str) -> None:
        """Wait for the phase, then for a random part of its length, and kill all."""
        starts = len(_phases(self._output))
        while job.process.poll() is None and target not in _phases(self._output)[starts:]:
            time.sleep(POLL)
        time.sleep(self._moments.uniform(0, self._lengths[target]))
        ended = job.process.poll() is not None
        job.kill()
        job.wait()
        if ended:
            self._found.late += 1
        else:
            self._found.kills[(_phases(self._output)[starts:] or ["the start"])[-1]] += 1

    def _check(self, number: int) -> None:
        """Compare every finished tile; a checkpoint or a solution that is there must be sound."""
        for name in FILES:
            now = finished(self._output / name)
            if not self._known[name] <= now:
                self._found.problems.append(f"kill {number}: finished tiles of {name} were lost")
            stored = tiles(self._output / name) if now else []
            wrong = [k for k in now if stored[k].tobytes() != self._tiles[name][k].tobytes()]
            if wrong:
                self._found.problems.append(f"kill {number}: tiles {wrong} of {name} are wrong")
            self._known[name] = now
        for path in self._output.glob("*.h5"):
            if path.name not in (*FILES, "variances.h5"):
                try:
                    read_all_arrays(path)
                except StorageError as error:
                    self._found.problems.append(f"kill {number}: {error}")

    def _finish(self, ranks: int, deck: Path) -> None:
        ended = hpcnk(ranks, "run", deck)
        if ended.code != 0:
            self._found.problems.append(ended.output)
            return
        if digest(self._output) != digest(self._whole):
            self._found.problems.append("the kernel's bytes differ at the end")
        one, other = (predictions(f)[0].tobytes() for f in (self._output, self._whole))
        if one != other:
            self._found.problems.append("the predictions' bits differ at the end")
        self._found.ends += 1
        shutil.rmtree(self._output)
        self._known = {name: set() for name in FILES}

    def _deck(self, name: str, driver: str) -> Path:
        layers = [*[{"conv": {"filter": 3}}, "relu"] * 2, "global_avg_pool"]
        deck = {
            "output": str(self._folder / name),
            "data": {"dataset": "arrays", "path": str(self._data)},
            "kernel": {"layers": layers, "dtype": "float64", "tile": 12},
            "solve": {
                "ridge": [1e-10, 1e-7],
                "tolerance": 1e-12,
                "max_iterations": 300,
                "preconditioner": "none",
                "checkpoint": {"iterations": 20},
                "reproducible": True,
            },
            "store": {"driver": driver},
        }
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(deck))
        return path


def _images(path: Path) -> Path:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(700, 8, 8, 1))
    y = np.arange(700) % 2
    np.savez(path, x_train=x[:500], y_train=y[:500], x_test=x[500:], y_test=y[500:])
    return path


def _phases(output: Path) -> list[str]:
    if not (output / "events.jsonl").exists():
        return []
    return [event["phase"] for event in events(output) if event["event"] == "phase"]


def _lengths(output: Path) -> dict[str, float]:
    """Return how long each phase took in an uninterrupted run, in seconds."""
    times = [(e["phase"], e["time"]) for e in events(output) if e["event"] == "phase"]
    times.append(("end", events(output)[-1]["time"]))
    return {
        phase: max(0.05, following - start) for (phase, start), (_, following) in pairwise(times)
    }
