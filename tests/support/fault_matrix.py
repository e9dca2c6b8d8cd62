"""Faults in every phase, by both drivers, resumed on other numbers of ranks: what is lost, and
whether the results are those of a run that nothing happened to. `tools/faults.py` runs all of it.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import yaml

from hpcnk.store import read_journals, read_layout
from hpcnk.store.journal import LINE_BYTES
from tests.support.folders import digest, predictions, report
from tests.support.mpi import hpcnk

PHASES = ("kernel", "solve", "predict")
AT_A_STEP = ("sigkill", "sigterm", "sigusr1", "raise", "memory", "hang")
AT_A_WRITE = ("half", "full", "error", "flip")
CLEAN = {"sigterm": 75, "sigusr1": 75, "raise": 1, "memory": 1, "hang": 1, "full": 74, "error": 74,
         "flip": 0}  # fmt: skip
KILLED = ("sigkill", "half")  # the code is the launcher's
SAID = {
    "memory": "out of memory",
    "hang": "no progress on any",
    "full": "full",
    "error": "Input/output error",
    "flip": "had changed on the disk",
}
EVERY = 3  # passes between two checkpoints
STALL = 0.1  # minutes without progress; a busy machine may take seconds to import a module
TOLERANCE = 1e-6  # of predictions that other numbers of ranks found, each by a solve to 1e-10
LAYERS = [{"conv": {"filter": 3}}, "relu", {"avg_pool": 2}, "global_avg_pool"]


@dataclass(frozen=True)
class Case:
    """One fault, the number of ranks it meets, and that of the start that follows."""

    what: str
    phase: str
    driver: str
    before: int
    after: int
    reproducible: bool


@dataclass(frozen=True)
class Row:
    """What came out: `problem` is empty when all is as it should be."""

    case: Case
    code: int
    lost: str
    equal: str
    problem: str


def all_cases(drivers: tuple[str, ...]) -> list[Case]:
    """Every fault in every phase; in the solve also on the same ranks with plain sums."""
    cases = []
    for phase in PHASES:
        for what in AT_A_STEP + AT_A_WRITE:
            for driver in drivers:
                base = Case(what, phase, driver, 2, 3, True)
                cases += [base, replace(base, before=3, after=2, reproducible=False)]
                if phase == "solve":
                    cases.append(replace(base, after=2, reproducible=False))
    return cases


class Matrix:
    """Runs cases in a folder of their own, each from a copy of what the phases before it made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = _images(folder / "images.npz")
        self._whole: dict[bool, Path] = {}

    def run(self, case: Case) -> Row:
        """Let the fault happen, start again, compare."""
        whole = self._uninterrupted(case.reproducible)
        output = self._folder / "case"
        _begin(whole, output, case.phase)
        fault = f"rank={_rank(case)},phase={case.phase},after={_after(case)},what={case.what}"
        watchdog = {"minutes": STALL} if case.what == "hang" else "none"
        deck = self._deck("case", case.driver, case.reproducible, watchdog)
        first = hpcnk(case.before, "run", deck, environment={"HPCNK_FAULT": fault})
        lost, problem = _lost(case, output), _problem_of_fault(case, first)
        deck = self._deck("case", case.driver, case.reproducible)
        second = hpcnk(case.after, "run", deck)
        if second.code != 0:
            return Row(case, first.code, lost, "", f"the second start: {second.output}")
        if case.phase == "solve" and case.what != "flip":
            lost, excess = _passes_lost(case, second.output)
            problem = problem or excess
        equal, difference = _compare(case, output, whole)
        if case.what == "flip" and not report(output)["warnings"].get("repair"):
            problem = "the report does not tell of the damage"
        return Row(case, first.code, lost, equal, problem or difference)

    def _uninterrupted(self, reproducible: bool) -> Path:
        if reproducible not in self._whole:
            name = f"whole-{reproducible}"
            ended = hpcnk(2, "run", self._deck(name, "posix", reproducible))
            assert ended.code == 0, ended.output
            self._whole[reproducible] = self._folder / name
        return self._whole[reproducible]

    def _deck(self, name: str, driver: str, reproducible: bool, watchdog: object = "none") -> Path:
        """All decks differ in what may differ between two starts, and in the output, alone."""
        deck = {
            "output": str(self._folder / name),
            "data": {"dataset": "arrays", "path": str(self._data)},
            "kernel": {"layers": LAYERS, "dtype": "float64", "tile": 20},
            "solve": {
                "ridge": [1e-2, 1e-1],
                "tolerance": 1e-10,
                "preconditioner": {"kind": "pivoted_cholesky", "rank": 10},
                "checkpoint": {"iterations": EVERY},
                "reproducible": reproducible,
            },
            "store": {"driver": driver},
            "watchdog": watchdog,
        }
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(deck))
        return path


def _images(path: Path) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8, 8, 1))
    y = np.arange(420) % 3
    x = centres[y] + 1.5 * rng.normal(size=(420, 8, 8, 1))
    np.savez(path, x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    return path


def _begin(whole: Path, output: Path, phase: str) -> None:
    """Copy what an uninterrupted run has before the phase begins."""
    shutil.rmtree(output, ignore_errors=True)
    if phase == "kernel":
        return
    left_out = ["predictions.h5", *(["solution.h5"] if phase == "solve" else [])]
    shutil.copytree(whole, output, ignore=shutil.ignore_patterns(*left_out))


def _rank(case: Case) -> int:
    """Rank 0 writes what the later phases write, and reads the first tile."""
    return 0 if case.phase != "kernel" and case.what in AT_A_WRITE else 1


def _after(case: Case) -> int:
    if case.what in AT_A_WRITE:
        return {"kernel": 10, "solve": 2, "predict": 0}[case.phase] if case.what != "flip" else 1
    return {"kernel": 20, "solve": 10, "predict": 10}[case.phase]


def _problem_of_fault(case: Case, ended) -> str:
    expected = CLEAN.get(case.what)
    if ended.code == 0 and case.what != "flip":
        return f"the fault did not happen: {ended.output}"
    if expected is not None and ended.code != expected:
        return f"exit code {ended.code}, expected {expected}: {ended.output}"
    if "Traceback" in ended.output and case.what != "raise":
        return f"a traceback: {ended.output}"
    if SAID.get(case.what, "") not in ended.output:
        return f"no word of {SAID[case.what]!r}: {ended.output}"
    return ""


def _lost(case: Case, output: Path) -> str:
    """Say what the second start must do again, of what the failing rank had done."""
    if case.what == "flip":
        return "1 tile"
    if case.phase == "predict":
        return "the phase"
    if case.phase == "solve":
        return "to the last checkpoint"
    computed = _after(case)
    kept = max(
        (p.stat().st_size // LINE_BYTES for p in _journals_of(output, _rank(case))), default=0
    )
    finished = len(read_journals(read_layout(output / "kernel.h5")))
    return f"{max(0, computed - kept)} tiles of {computed}; {finished} kept in all"


def _journals_of(output: Path, rank: int) -> list[Path]:
    return list((output / "kernel.h5.journal").glob(f"*-{rank:06d}.log"))


def _passes_lost(case: Case, said: str) -> tuple[str, str]:
    """Return the passes that were made twice, by what the second start says, and if too many."""
    found = re.findall(r"going on after (\d+) passes", said)
    made = EVERY * (_after(case) + 1) if case.what in AT_A_WRITE else _after(case)
    # A signal may be seen a pass later than it came.
    lost = max(0, made - int(found[0])) if found else made
    most = 0 if case.what in ("sigterm", "sigusr1") else EVERY
    text = f"{lost} passes of {made}"
    return text, f"{text} were lost, expected at most {most}" if lost > most else ""


def _compare(case: Case, output: Path, whole: Path) -> tuple[str, str]:
    """Return what is equal, and what is not although it should be."""
    if digest(output) != digest(whole):
        return "", "the kernel's bytes differ"
    found, expected = predictions(output)[0], predictions(whole)[0]
    bits = found.tobytes() == expected.tobytes()
    if bits:
        return "bits", ""
    if case.reproducible or case.before == case.after:
        return "", "the predictions' bits differ"
    worst = np.abs(found - expected).max()
    return (
        (f"{worst:.0e}", "") if worst <= TOLERANCE else ("", f"predictions differ by {worst:.1e}")
    )


def drivers() -> tuple[str, ...]:
    """Both, as far as this h5py has them."""
    return ("posix", "mpio") if h5py.get_config().mpi else ("posix",)


def events(output: Path) -> list[dict]:
    """The log of an output folder; a last line that is torn is left out."""
    lines = (output / "events.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
