"""`hpcnk compare` as a whole, on digits."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from hpcnk.cli import main
from hpcnk.report import comparison_csv, comparison_plot
from hpcnk.report.comparison import undominated
from hpcnk.run.compare.fits import inducing_rows
from hpcnk.run.compare.items import LOW_RANK, Item, kernel_entries
from tests.support.dense import Single
from tests.support.mpi import hpcnk
from tests.support.regressions import digits, operator_on

METHODS = ["cg", "nystrom", "subset_of_regressors", "block_diagonal", "bayesian_committee"]
SIZES, BUDGETS = [60, 130], [35, 130]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def write_deck(folder, name="digits", **changed):
    """A small comparison; a section that is given is updated, one that is None left out."""
    deck = {
        "name": name,
        "output": str(folder / name),
        "data": {"dataset": "digits", "train": 130, "test": 40, "validation": 0.1},
        "kernel": {"layers": {"preset": "fc", "depth": 2}, "dtype": "float64", "tile": 32},
        "solve": {"ridge": [1e-3, 1e-1, 10.0], "tolerance": 1e-10, "preconditioner": {"rank": 10}},
        "compare": {"methods": METHODS, "sizes": SIZES, "budgets": BUDGETS},
    }
    for section, values in changed.items():
        deck[section] = {**deck[section], **values}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(deck))
    return path


def compare(ranks, deck):
    return hpcnk(ranks, "compare", deck, environment=ONE_THREAD, limit=280)


def stored(folder):
    return json.loads((folder / "compare.json").read_text())


def by_item(content):
    return {(e["method"], e["rows"], e["budget"]): e for e in content["entries"]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    ended = compare(0, write_deck(folder))
    assert ended.code == 0, ended.output
    return folder / "digits", ended.output


def test_every_item_is_there_with_what_it_cost(compared):
    folder, _ = compared
    content = stored(folder)
    found = by_item(content)
    held = content["entries"][0]["entries"]
    assert held["fit"] == 60 * 61 // 2
    asked = {("cg", rows, None) for rows in SIZES} | {
        (method, rows, budget)
        for method in METHODS[1:]
        for rows in SIZES
        for budget in BUDGETS
        # 13 of 130 rows are held out, and cannot be inducing rows
        if budget <= (rows if method.startswith(("block", "bayes")) else rows * 117 // 130)
    }
    assert found.keys() == asked
    for entry in found.values():
        assert entry["ridge"] in (1e-3, 1e-1, 10.0)
        assert all(value >= 0 for value in entry["seconds"].values())
        assert (
            {"accuracy", "mean_squared_error"} == entry["test"].keys() == entry["validation"].keys()
        )


def test_one_block_of_all_rows_is_the_exact_solution(compared):
    found = by_item(stored(compared[0]))
    exact = found["cg", 130, None]
    for method in ("block_diagonal", "bayesian_committee"):
        one = found[method, 130, 130]
        assert one["ridge"] == exact["ridge"]
        for part in ("validation", "test"):
            assert one[part] == pytest.approx(exact[part], rel=1e-7)
        assert one["entries"]["fit"] == exact["entries"]["fit"] == 130 * 131 // 2


def test_the_chosen_ridge_and_scores_are_those_of_a_dense_solve(compared):
    """Of the leading 60 rows, with the rows held out and the ridge recomputed here."""
    from hpcnk.data import validation_rows
    from hpcnk.store import read_arrays
    from tests.support.folders import whole

    folder, _ = compared
    k = whole(folder / "kernel.h5")
    y, target, y_test, t_test = read_arrays(
        folder / "inputs.h5", "y_train", "target_train", "y_test", "target_test"
    )
    entry = by_item(stored(folder))["cg", 60, None]
    held = validation_rows(target, 0.1, 0)
    kept = np.setdiff1d(np.arange(60), held)
    scores = {}
    for ridge in (1e-3, 1e-1, 10.0):
        shift = ridge * k.diagonal()[kept].mean() * np.eye(len(kept))
        predicted = k[np.ix_(held, kept)] @ np.linalg.solve(k[np.ix_(kept, kept)] + shift, y[kept])
        right = (predicted.argmax(axis=1) == target[held]).mean()
        scores[ridge] = (right, -((predicted - y[held]) ** 2).mean())
    assert entry["ridge"] == max(scores, key=scores.get)
    assert entry["validation"]["accuracy"] == scores[entry["ridge"]][0]
    squared = -scores[entry["ridge"]][1]
    assert entry["validation"]["mean_squared_error"] == pytest.approx(squared, rel=1e-8)
    assert entry["ridge_absolute"] == pytest.approx(entry["ridge"] * k.diagonal()[:60].mean())
    assert len(t_test) == len(y_test) == 40


def test_three_ranks_give_the_same_numbers(compared, tmp_path):
    ended = compare(3, write_deck(tmp_path))
    assert ended.code == 0, ended.output
    one, three = by_item(stored(compared[0])), by_item(stored(tmp_path / "digits"))
    assert one.keys() == three.keys()
    for key, entry in one.items():
        other = three[key]
        assert other["ridge"] == entry["ridge"]
        assert other["entries"] == entry["entries"]
        assert other["test"] == pytest.approx(entry["test"], rel=1e-6), key


def test_table_and_plot(compared):
    folder, _ = compared
    content = stored(folder)
    rows = list(csv.DictReader((folder / "compare.csv").open()))
    assert len(rows) == len(content["entries"])
    rate = json.loads((folder / "report.json").read_text())["kernel"]["pairs_per_second"]
    for row, entry in zip(rows, content["entries"], strict=True):
        assert float(row["test_error"]) == pytest.approx(1 - entry["test"]["accuracy"])
        entries = sum(entry["entries"].values())
        assert int(row["entries_fit"]) == entry["entries"]["fit"]
        seconds = sum(entry["seconds"].values()) + entries / rate
        assert float(row["seconds_total"]) == pytest.approx(seconds, rel=1e-3)
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "compare.svg").read_text()
    assert "Bayesian committee machine" in svg
    assert comparison_plot(content, rate, "svg").decode() == svg  # the same again
    assert not list(folder.glob(".*.tmp"))


def test_finished_items_are_not_computed_again(compared, tmp_path):
    folder = tmp_path / "digits"
    deck = write_deck(tmp_path, compare={"sizes": [60], "budgets": [35]})
    assert compare(0, deck).code == 0
    first = stored(folder)
    marked = {**first, "entries": [{**e, "ridge_absolute": 7.0} for e in first["entries"]]}
    (folder / "compare.json").write_text(json.dumps(marked))
    deck = write_deck(tmp_path, compare={"sizes": [60], "budgets": [35, 50]})
    ended = compare(0, deck)
    assert ended.code == 0, ended.output
    assert "compare: 5 of 9 items are there already" in ended.output
    found = by_item(stored(folder))
    assert sum(entry["ridge_absolute"] == 7.0 for entry in found.values()) == 5
    assert len(found) == 9
    # Another solver setting is another origin: all of it is computed anew.
    deck = write_deck(tmp_path, solve={"ridge": [1e-2]}, compare={"sizes": [60], "budgets": [35]})
    ended = compare(0, deck)
    assert "compare: anew, for solve.ridge" in ended.output
    entries = stored(folder)["entries"]
    assert len(entries) == 5
    assert all(entry["ridge_absolute"] != 7.0 for entry in entries)
    assert all(entry["entries"]["choice"] == 0 for entry in entries)  # one ridge: nothing to choose


@pytest.mark.parametrize("content", ["{", '{"entries": 3}', '{"entries": [{}]}', "[]"])
def test_a_damaged_record_is_computed_anew(tmp_path, capsys, content):
    few = {"methods": ["block_diagonal"], "sizes": [60], "budgets": [35]}
    deck = write_deck(tmp_path, compare=few)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "compare.json").write_text(content)
    assert main(["compare", str(deck)]) == 0
    assert "WARNING: compared anew" in capsys.readouterr().out
    assert stored(tmp_path / "digits")["entries"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"compare": {"sizes": [131]}}, "compare.sizes[0]: expected at most 130"),
        ({"compare": {"sizes": [60], "budgets": [61]}}, "compare.budgets[0]: expected at most 60"),
        ({"compare": {"budgets": [0]}}, "compare.budgets[0]: expected an integer of at least 1"),
        ({"compare": {"methods": ["cg", "cg"]}}, "each method once"),
        ({"compare": {"methods": []}}, "at least one method"),
        ({"compare": {"methods": ["fitc"]}}, "expected one of cg, dense"),
        ({"compare": {"inducing": "best"}}, "expected leading or random"),
        ({"compare": {"size": [3]}}, "size"),
        ({"data": {"validation": 0}}, "set data.validation"),
    ],
)
def test_impossible_sections_are_refused_before_the_kernel(tmp_path, capsys, section, said):
    assert main(["compare", str(write_deck(tmp_path, **section))]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "digits" / "kernel.h5").exists()


def test_too_little_memory_is_refused_before_the_kernel(tmp_path, capsys):
    few = {"methods": ["subset_of_regressors"], "sizes": [130], "budgets": [100]}
    deck = write_deck(tmp_path, compare=few, solve={"memory": 1e-3})
    assert main(["compare", str(deck)]) == 2
    said = capsys.readouterr().err
    assert "subset of regressors, 130 rows, 100 inducing rows needs" in said
    assert "compare.budgets" in said
    assert not (tmp_path / "digits" / "kernel.h5").exists()


def test_outputs_with_missing_labels_are_fitted_on_their_own_rows(tmp_path):
    """Each output alone, on the rows that have a label of it, gives the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = np.stack([np.sin(x[:, 0]), x[:, 1] ** 2, x.sum(axis=1)], axis=1)
    y[rng.random(y.shape) < 0.3] = np.nan
    few = {"methods": METHODS, "sizes": [45], "budgets": [15], "inducing": "random"}
    errors = []
    for columns in ([0, 1, 2], [0], [1], [2]):
        name = "set" + "".join(map(str, columns))
        np.savez(
            tmp_path / f"{name}.npz",
            x_train=x[:45], y_train=y[:45, columns], x_test=x[45:], y_test=y[45:, columns],
        )  # fmt: skip
        data = {"dataset": "arrays", "path": str(tmp_path / f"{name}.npz"), "validation": 0}
        data |= {"train": None, "test": None}
        solve = {"ridge": [0.01]}
        deck = write_deck(tmp_path, name, data=data, solve=solve, compare=few)
        assert main(["compare", str(deck)]) == 0
        found = by_item(stored(tmp_path / name))
        errors.append({key: e["test"]["mean_squared_error"] for key, e in found.items()})
    together, *apart = errors
    assert len(together) == 5
    for key, error in together.items():
        # Squared errors are in the units of each output, so their mean is that over the outputs.
        assert error == pytest.approx(np.mean([alone[key] for alone in apart]), rel=1e-6), key


def test_entries_are_those_of_a_dense_mask():
    """The formulas against sets of entries that each method looks at, for some odd sizes."""
    held = np.array([2, 3, 11, 17, 30, 41])
    tests = 5
    for rows in (7, 23, 40):
        kept = np.setdiff1d(np.arange(rows), held)
        for budget in (1, 5, 6):
            blocks = [set(range(s, min(s + budget, rows))) for s in range(0, rows, budget)]
            inducing = kept[:budget]
            fits = {
                "cg": {(i, j) for i in range(rows) for j in range(i, rows)},
                "nystrom": {(min(i, j), max(i, j)) for i in range(rows) for j in inducing.tolist()},
                "block_diagonal": {(i, j) for b in blocks for i in b for j in b if i <= j},
            }
            fits["subset_of_regressors"] = fits["nystrom"]
            fits["bayesian_committee"] = fits["block_diagonal"]
            for method, fit in fits.items():
                if method in LOW_RANK and budget > len(kept):
                    continue  # such an item is never made
                used = inducing if method == "subset_of_regressors" else kept
                asked = {(min(h, j), max(h, j)) for h in held.tolist() for j in used.tolist()}
                if method == "bayesian_committee":
                    asked |= {(h, h) for h in held.tolist()}
                item = Item(method, rows, None if method == "cg" else budget)
                count = kernel_entries(item, held, tests, random=False)
                assert count["fit"] == len(fit), item
                assert count["choice"] == len(asked - fit), item
                every = budget if method == "subset_of_regressors" else rows
                assert count["test"] == tests * (every + (method == "bayesian_committee"))


@pytest.mark.parametrize("inducing", ["leading", "random"])
def test_rows_held_out_are_no_inducing_rows(inducing):
    """So the columns taken for the fit serve the choice of the ridge too, as the count assumes."""
    operator = operator_on(Single(), digits(90)[0])
    deck = SimpleNamespace(compare=SimpleNamespace(inducing=inducing), data=SimpleNamespace(seed=0))
    held = np.arange(0, 90, 3)
    ground = SimpleNamespace(operator=operator, held=held, session=SimpleNamespace(deck=deck))
    found = inducing_rows(ground, 60, 40)
    assert found.tolist() == np.setdiff1d(np.arange(60), held).tolist()


def test_the_line_joins_what_nothing_beats():
    points = [(3.0, 0.2), (1.0, 0.5), (2.0, 0.6), (4.0, 0.2), (5.0, 0.1), (1.0, 0.4)]
    assert undominated(points) == [(1.0, 0.4), (3.0, 0.2), (5.0, 0.1)]


def test_failed_items_have_no_error_in_table_or_plot():
    entry = {
        "method": "cg", "rows": 5, "budget": None, "ridge": 0.1, "ridge_absolute": 0.1,
        "validation": None, "test": None, "iterations": 3,
        "entries": {"fit": 15, "choice": 0, "test": 5},
        "seconds": {"choice": 0.0, "fit": 0.1, "predict": 0.1},
    }  # fmt: skip
    content = {"name": "x$y", "task": "regression", "origin": {}, "entries": [entry]}
    row = comparison_csv(content, None).splitlines()[1].split(",")
    assert row[5] == row[-1] == ""
    assert comparison_plot(content, None, "png").startswith(b"\x89PNG")
