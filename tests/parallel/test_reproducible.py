"""`solve.reproducible`: the same bits from any number of ranks and threads."""

import numpy as np
import pytest

from tests.support.folders import predictions, report
from tests.support.mpi import hpcnk

SOLVE = {
    "ridge": [1e-4, 1e-2],
    "preconditioner": {"kind": "pivoted_cholesky", "rank": 20},
    "reproducible": True,
}


@pytest.fixture(scope="module")
def first():
    """The predictions and coefficients of the first job; all others must match them."""
    return {}


@pytest.fixture
def data(tmp_path):
    """More rows than a block of the preconditioner has, so that several ranks have some."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 12))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    np.savez(
        tmp_path / "rows.npz", x_train=x[:700], y_train=y[:700], x_test=x[700:], y_test=y[700:]
    )
    return {"path": str(tmp_path / "rows.npz"), "validation": 50}


@pytest.mark.parametrize("ranks,threads", [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)])
def test_the_bits_do_not_depend_on_ranks(ranks, threads, data, write_deck, tmp_path, first):
    deck = write_deck(data=data, kernel={"tile": 64}, solve=SOLVE)
    ended = hpcnk(ranks, "run", deck, environment={"OMP_NUM_THREADS": str(threads)})
    assert ended.code == 0, ended.output
    found = predictions(tmp_path / "small")[0]
    assert first.setdefault("predictions", found).tobytes() == found.tobytes()
    passes = [entry["iterations"] for entry in report(tmp_path / "small")["solve"]]
    assert first.setdefault("passes", passes) == passes


def test_they_are_those_of_plain_sums_to_the_tolerance(data, write_deck, tmp_path):
    decks = [
        write_deck(
            f"r{reproducible}",
            data=data,
            kernel={"tile": 64},
            solve={**SOLVE, "tolerance": 1e-10, "reproducible": reproducible},
        )
        for reproducible in (True, False)
    ]
    for deck in decks:
        assert hpcnk(2, "run", deck).code == 0
    one, other = (predictions(tmp_path / f"r{r}")[0] for r in (True, False))
    np.testing.assert_allclose(one, other, atol=1e-7)


def test_larger_test_rows_are_added_right(data, write_deck, tmp_path):
    found, scale = {}, 300.0
    arrays = dict(np.load(data["path"]))
    arrays["x_test"] = arrays["x_test"] * scale
    np.savez(data["path"], **arrays)
    for reproducible in (True, False):
        deck = write_deck(
            f"r{reproducible}",
            data={**data, "normalize": False, "validation": 0},
            kernel={"tile": 64},
            solve={**SOLVE, "tolerance": 1e-10, "reproducible": reproducible},
        )
        assert hpcnk(2, "run", deck).code == 0
        found[reproducible] = predictions(tmp_path / f"r{reproducible}")[0]
    np.testing.assert_allclose(found[True], found[False], rtol=1e-5, atol=1e-6 * scale**2)


@pytest.mark.parametrize("scale", [2.0**24, 1e9])
def test_test_rows_of_another_size_are_refused_not_added_wrongly(scale, data, write_deck, tmp_path):
    arrays = dict(np.load(data["path"]))
    arrays["x_test"] = arrays["x_test"] * scale
    np.savez(data["path"], **arrays)
    deck = write_deck(data={**data, "normalize": False}, kernel={"tile": 64}, solve=SOLVE)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 1 and "solve.reproducible" in ended.output, ended.output
    assert "Traceback" not in ended.output
