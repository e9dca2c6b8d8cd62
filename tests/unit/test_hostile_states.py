"""Arrays that one stage hands to the next, from a stranger: misfits are refused or not used."""

import json
import os
import re

import numpy as np
import pytest

from hpcnk import store
from hpcnk.errors import HpcnkError, SolveError
from hpcnk.report import score
from hpcnk.run import solve as solve_stage
from hpcnk.run.checkpoint import PASSES, RANK, Checkpoints
from hpcnk.run.labels import read_targets
from hpcnk.run.predict import _solution as read_solution_of
from hpcnk.run.stored import check_inputs, read_labels, read_solution
from hpcnk.solve import Limits, Spread, conjugate_gradient, identity, misfit_of_snapshot
from tests.support.dense import Single
from tests.support.hostile import (
    KINDS,
    MATRICES,
    deep,
    ended,
    origin_of,
    place,
    refuses,
    rewrite,
    snapshots,
    systems_of_a_solve,
    untouched,
)  # fmt: skip

pytestmark = pytest.mark.timeout(60)
ROWS = Spread(Single(), 30)


@pytest.fixture(scope="module", name="snapshots")
def _snapshots():
    return snapshots()


MISFITS = {
    "rows of x": {"x_train": np.ones((43, 6, 6, 2), "f4")},
    "rank of x": {"x_train": np.ones(44, "f4")},
    "empty x": {"x_test": np.ones((0, 6, 6, 2), "f4")},
    "no features": {"x_test": np.ones((13, 0), "f4"), "x_train": np.ones((44, 0), "f4")},
    "other features": {"x_test": np.ones((13, 6, 6, 3), "f4")},
    "integers": {"x_train": np.ones((44, 6, 6, 2), "i4")},
    "rows of y": {"y_train": np.ones((43, 3))},
    "rank of y": {"y_train": np.ones(44)},
    "outputs": {"y_test": np.ones((13, 2))},
    "type of y": {"y_test": np.ones((13, 3), "f4")},
    "labels": {"target_train": np.ones((44, 3), int)},
    "real labels": {"target_test": np.ones(13)},
    "mean": {"target_mean": np.ones(4)},
    "spread": {"target_std": np.ones((3, 1))},
    "no mean": {"target_mean": np.array(None)},
    "no task": {"facts": {"task": None}},
    "odd task": {"facts": {"task": "guess"}},
    "no contents": {"facts": {"contents of the training data": None}},
    "other contents": {"facts": {"contents of the test data": 3}},
}


@pytest.mark.parametrize("kind", MISFITS)
def test_inputs_that_do_not_fit_together_are_refused(done, kind, capsys):
    inputs = done[1].inputs
    check_inputs(inputs, store.read_attributes(inputs))
    rewrite(inputs, **MISFITS[kind])
    facts = store.read_attributes(inputs)
    refuses(check_inputs, inputs, facts, match="inputs.h5 does not fit|is missing")
    code, said = ended(capsys, "verify", done[1].path)
    assert code == 74 and "inputs.h5" in said, said


def test_values_that_cannot_be_labels_are_refused(done):
    inputs = done[1].inputs
    read_labels(inputs, "train")
    for name in ("y_train", "target_std", "target_train"):
        sound = store.read_all_arrays(inputs)[name]
        bad = sound.copy()
        bad.flat[1] = 7 if name == "target_train" else np.nan
        rewrite(inputs, **{name: bad})
        read = read_targets if name == "target_std" else lambda path: read_labels(path, "train")
        refuses(read, inputs, match=f"{name} holds")
        rewrite(inputs, **{name: sound})


def test_a_prediction_that_overflows_is_an_error():
    labels = np.array([0, 1])
    bad = np.array([[1.0, np.inf], [0.0, 1.0]])
    refuses(
        score, "classification", bad, labels, bad, np.ones(2), match="not finite", kind=SolveError
    )


SOLUTIONS = {
    "rows": {"alpha": np.ones((2, 43, 3))},
    "ridges": {"alpha": np.ones((1, 44, 3))},
    "rank": {"alpha": np.ones((44, 3))},
    "type": {"alpha": np.ones((2, 44, 3), "f4")},
    "nan": {"alpha": np.full((2, 44, 3), np.nan)},
    "absent": {"alpha": np.array(None)},
    "empty": {"results": np.zeros(0, "u1")},
    "no JSON": {"results": np.frombuffer(b"{", "u1")},
    "bytes": {"results": np.full(9, 255, "u1")},
    "deep": {"results": np.frombuffer(deep(10_000).encode(), "u1")},
    "list": {"results": np.frombuffer(b"[1]", "u1")},
    "nothing": {"results": np.frombuffer(b"{}", "u1")},
}


@pytest.mark.parametrize("kind", SOLUTIONS)
def test_a_solution_that_does_not_fit_is_not_used(session, kind):
    path, origin = session.folder.solution, origin_of(session)
    assert solve_stage._solved_before(session, origin)["selected_ridge"]
    assert read_solution_of(session, origin)[0].shape == (2, 44, 3)
    rewrite(path, **SOLUTIONS[kind])
    refuses(read_solution_of, session, origin, match="solution.h5")
    assert solve_stage._solved_before(session, origin) is None
    assert "solved anew" in session.warned[0]


def test_what_a_solver_said_has_all_that_is_asked_for(session):
    path, inputs = session.folder.solution, session.folder.inputs
    _, said = read_solution(path, inputs)
    for change in (
        {"mean_diagonal": 0.0}, {"mean_diagonal": "1"}, {"solve": said["solve"][:1]},
        {"solve": [{}, {}]}, {"selected_ridge": "a"}, {"validation": said["validation"][:1]},
        {"validation": None}, {"validation_solve": 3},
    ):  # fmt: skip
        text = json.dumps(said | change).encode()
        rewrite(path, results=np.frombuffer(text, "u1"))
        refuses(read_solution, path, inputs, match="solution.h5 does not fit")


# Checkpoints


def test_states_of_a_solve_fit(snapshots):
    assert len(snapshots) > 20
    assert {misfit_of_snapshot(snapshot, 30, MATRICES) for snapshot in snapshots} == {""}


STATES = {
    "rows": ("x", lambda a: a[:-1]),
    "columns": ("p", lambda a: a[:, :2]),
    "single": ("basis", lambda a: a.astype("f4")),
    "weights": ("weights", lambda a: a[:2]),
    "weights, nan": ("weights", lambda a: a * np.nan),
    "nan": ("x", lambda a: a * np.nan),
    "infinite": ("basis", lambda a: a + np.inf),
    "relative": ("relative", lambda a: a * np.nan),
    "negative": ("checked", lambda a: np.full_like(a, -1)),
    "gainless": ("gainless", lambda a: a - 1),
    "iterations": ("iterations", lambda a: a - 2**62),
    "group": ("group", lambda a: a + 7),
    "group, gone": ("group", lambda a: a + 1),
    "width": ("width", lambda a: a + 9),
    "code": ("status", lambda a: a * 0 + 4),
    "code below": ("status", lambda a: a * 0 - 2),
    "left": ("left", lambda a: a + 3),
    "left below": ("left", lambda a: a - 1),
    "left twice": ("left", lambda a: np.repeat(a, 2)),
    "left, a table": ("left", lambda a: a[:, None]),
    "nobody left": ("left", lambda a: a[:0]),
    "left, real": ("left", lambda a: a.astype("f8")),
    "history": ("history", lambda a: a[None]),
    "history, nan": ("history", lambda a: a * np.nan),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_is_impossible_is_found(snapshots, kind):
    name, change = STATES[kind]
    snapshot = dict(snapshots[3])
    snapshot[name] = change(snapshot[name])
    assert re.search(name if kind != "nobody left" else "without a status",
                     misfit_of_snapshot(snapshot, 30, MATRICES))  # fmt: skip


@pytest.mark.parametrize(
    "name,value,said",
    [
        ("checking", [7], "not left"),
        ("checking", [0, 0, 1], "not left"),
        ("checking", [0], "both searched for and checked"),
        ("group", [-1, -1, -1], "searched for and checked"),
        ("group", [0, 1, 0], "one matrix"),
        ("group", [1, 1, 2], "one matrix"),
        ("width", [1, 2, 1], "directions"),
        ("width", [3, 3, 1], "directions"),
    ],
)
def test_groups_that_are_impossible_are_found(snapshots, name, value, said):
    snapshot = {**snapshots[3], name: np.array(value)}
    assert said in misfit_of_snapshot(snapshot, 30, MATRICES)


def test_a_group_that_has_ended_is_found(snapshots):
    ended = {"left": np.array([2]), "status": np.array([0, 0, -1])}
    assert "group 0 has ended" in misfit_of_snapshot({**snapshots[3], **ended}, 30, MATRICES)
    rests = {"left": np.array([1, 2]), "status": np.array([0, -1, -1])}
    assert not misfit_of_snapshot({**snapshots[3], **rests}, 30, MATRICES)


def test_a_state_has_all_arrays_and_no_others(snapshots):
    for name in snapshots[0]:
        others = {k: v for k, v in snapshots[0].items() if k != name}
        assert misfit_of_snapshot(others, 30, MATRICES)
    assert misfit_of_snapshot({**snapshots[0], "more": np.ones(3)}, 30, MATRICES)
    assert misfit_of_snapshot(snapshots[0], 31, MATRICES)
    assert misfit_of_snapshot(snapshots[0], 30, [*MATRICES, MATRICES[0]])
    assert "one matrix" in misfit_of_snapshot(snapshots[0], 30, MATRICES[::-1])


def _odd(generator, array):
    """Change an array at random: its values, its shape, its type."""
    if not array.size or generator.random() < 0.2:
        return [array[:1], array[None], np.repeat(array, 2, axis=0)][generator.integers(3)]
    if generator.random() < 0.1:
        return array.astype(["f4", "i4", "u8"][generator.integers(3)])
    odd = array.copy()
    values = [0, 1, 2, 3] if array.dtype.kind in "iu" else [0, -1, 1e300, -1e-300, np.inf]
    odd.flat[generator.integers(odd.size)] = values[generator.integers(len(values))]
    return odd


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_that_is_believed_does_no_harm(snapshots):
    """What passes the check, right or wrong, leads to an end."""
    generator, used = np.random.default_rng(3), 0
    for _ in range(200):
        snapshot = dict(snapshots[generator.integers(len(snapshots))])
        for name in generator.choice(sorted(snapshot), generator.integers(1, 4)):
            with np.errstate(all="ignore"):
                snapshot[name] = _odd(generator, snapshot[name])
        if misfit_of_snapshot(snapshot, 30, MATRICES):
            continue
        used += 1
        try:
            found = conjugate_gradient(
                *systems_of_a_solve(), identity, Limits(1e-8, 60), start=snapshot
            )
        except HpcnkError:
            continue
        assert found.x.shape == (30, 3) and len(found.status) == 3
    assert used > 30


@pytest.fixture
def checkpoints(session, snapshots):
    """Two checkpoints of a solve, the second one newer, and what reads them."""
    origin = origin_of(session)
    found = Checkpoints(session, "all", origin)
    for number, passes in enumerate((4, 8)):
        store.write_arrays(
            found._paths[number], snapshots[passes - 1], {**origin, PASSES: passes, RANK: 3}
        )
    return found


def test_a_checkpoint_that_fits_is_used(checkpoints):
    assert len(checkpoints.newest(ROWS, MATRICES)["history"]) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.ones((30, 4))}, {"status": np.full(3, 99)}, {"left": np.arange(0)},
        {"basis": np.full((30, 3), np.nan)}, {"history": np.ones(7)}, {"more": np.ones(2)},
        {"x": np.array(None)},
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_left_for_the_older_one(checkpoints, session, change):
    rewrite(checkpoints._paths[1], **change)
    assert len(checkpoints.newest(ROWS, MATRICES)["history"]) == 4
    assert "a checkpoint cannot be used" in session.warned[0]


def test_checkpoints_of_other_systems_are_not_used(checkpoints, session):
    assert checkpoints.newest(Spread(Single(), 31), MATRICES) is None and len(session.warned) == 2


@pytest.mark.parametrize("passes", ["8", "x", 8.5, True, None, -1, [8]])
def test_passes_are_a_count(checkpoints, passes):
    rewrite(checkpoints._paths[1], {PASSES: passes})
    assert len(checkpoints.newest(ROWS, MATRICES)["history"]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_are_replaced_not_followed(checkpoints, session, kind):
    for path in checkpoints._paths:
        victim = place(path, kind)
    assert checkpoints.newest(ROWS, MATRICES) is None
    if kind == "folder":
        refuses(checkpoints.remove, match="removing .* failed")
    else:
        checkpoints.remove()
        assert not any(os.path.lexists(path) for path in checkpoints._paths)
    untouched(victim)
