"""An output folder from a stranger: what is put into it, and how it is looked at."""

from __future__ import annotations

import os
import shutil
from functools import cache

import numpy as np
import pytest

from hpcnk import store
from hpcnk.cli import main
from hpcnk.errors import StorageError
from hpcnk.run.provenance import solution_provenance, solver_settings, train_contents
from hpcnk.solve import Limits, Matrix, Problem, all_rows, conjugate_gradient, identity
from tests.support.dense import DenseOperator, kernel_matrix

PRECIOUS = "precious"
KINDS = ("link", "dangling", "pipe", "folder", "device")
DATA = {"validation": 6}  # of the run that the fixture `done` gives


def place(path, kind):
    """Put something else in the place of a file. Return a file that must not change, and where."""
    victim = path.parent.parent / f"victim of {path.name}"
    victim.write_text(PRECIOUS)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        absent = path.parent.parent / "absent"
        path.symlink_to({"link": victim, "dangling": absent, "device": "/dev/zero"}[kind])
    return victim


def untouched(victim):
    assert victim.read_text() == PRECIOUS
    assert not victim.with_name("absent").exists()


def refuses(call, *arguments, match, kind=StorageError):
    with pytest.raises(kind, match=match) as caught:
        call(*arguments)
    assert caught.value.advice
    return caught.value


def ended(capsys, *arguments):
    """Run a command here; return its exit code and what it said."""
    code = main([*map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


def deep(levels):
    return "[" * levels + "]" * levels


def rewrite(path, facts=None, **arrays):
    """Write a file of arrays anew, some of them changed, with checksums that hold."""
    stored, known = store.read_all_arrays(path), store.read_attributes(path)
    merged = {**stored, **{name: np.asarray(array) for name, array in arrays.items()}}
    merged = {name: array for name, array in merged.items() if array.dtype != object}
    known = {key: value for key, value in {**known, **(facts or {})}.items() if value is not None}
    store.write_arrays(path, merged, known)


def origin_of(session, kernel="kernel.h5"):
    layout = store.read_layout(session.folder.path / kernel)
    contents = train_contents(store.read_attributes(session.folder.inputs))
    return solution_provenance(session.deck, layout.id, contents) | solver_settings(session.deck)


MATRICES = [Matrix(0, ridge) for ridge in (1e-3, 1e-3, 1e-6)]


def systems_of_a_solve():
    """Three columns; two of them search together."""
    y = np.random.default_rng(1).normal(size=(30, 3))
    return DenseOperator(kernel_matrix(30)), Problem(y, MATRICES, [all_rows(30)])


@cache
def snapshots():
    """States of a small solve, pass by pass."""
    found = []

    def keep(systems):
        found.append({name: array.copy() for name, array in systems.snapshot().items()})

    conjugate_gradient(*systems_of_a_solve(), identity, Limits(1e-8, 500), keep)
    return found
