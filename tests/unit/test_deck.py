"""Decks that are taken: their values, defaults, variables, and the manual."""

import os
import pickle
import re
from functools import partial
from pathlib import Path

import pydantic
import pytest

from hpcnk.deck import Deck, PerClass, Preconditioner, Rows, Whitening, manual, read_deck
from hpcnk.deck.environment import expand
from tests.unit.deck_trial import DECKS, MINIMAL, check_layers, problems_of, read_text, with_key


@pytest.fixture
def read(tmp_path):
    return partial(read_text, tmp_path)


@pytest.fixture
def problems(tmp_path):
    return partial(problems_of, tmp_path)


def test_defaults(read):
    deck = read(MINIMAL)
    assert deck.flat() == {
        "name": "trial",
        "output": "runs/trial",
        "data.dataset": "digits",
        "data.path": None,
        "data.train": None,
        "data.test": None,
        "data.shuffle": False,
        "data.validation": 0,
        "data.whitening": None,
        "data.seed": 0,
        "data.normalize": True,
        "kernel.layers": "cv8",
        "kernel.kind": "ntk",
        "kernel.dtype": "float32",
        "kernel.tile": 512,
        "kernel.backend": "auto",
        "solve.ridge": [1e-6],
        "solve.sizes": [],
        "solve.method": "cg",
        "solve.tolerance": 1e-8,
        "solve.max_iterations": 1000,
        "solve.block": True,
        "solve.operator": "auto",
        "solve.memory": None,
        "solve.leave_one_out": None,
        "solve.evidence": None,
        "solve.preconditioner": {"kind": "random_cholesky", "rank": "auto", "seed": 0},
        "solve.reproducible": False,
        "solve.checkpoint": {"minutes": 10.0, "iterations": None},
        "predict.variance": False,
        "compare.methods": [
            "cg", "nystrom", "subset_of_regressors", "block_diagonal", "bayesian_committee",
        ],
        "compare.sizes": [],
        "compare.budgets": [],
        "compare.inducing": "leading",
        "store.driver": "auto",
        "watchdog.minutes": 120.0,
    }  # fmt: skip
    assert deck.source.name == "trial.yaml"


def test_full_deck(monkeypatch, tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    monkeypatch.setenv("DECK_TEST_DATA", str(tmp_path))
    deck = read_deck(DECKS / "good" / "full.yaml", check_layers)
    assert deck.data.path == tmp_path / "cifar-10-batches-bin"
    assert deck.data.train == Rows(start=0, count=2000)
    assert deck.data.test == Rows(start=10000, count=3000)
    assert deck.data.whitening == Whitening(regularization=3.0)
    assert deck.data.normalize is False
    assert deck.kernel.layers[0] == {"conv": {"filter": 3, "w_std": 1.2}}
    assert deck.solve.ridge == (1e-6, 1e-4, 1e-2, 0.0)
    assert deck.solve.preconditioner == Preconditioner(kind="pivoted_cholesky", rank=20)
    assert deck.store.driver == "posix"


def test_anchors_and_merges():
    deck = read_deck(DECKS / "good" / "shared_parts.yaml", check_layers)
    assert deck.data.train == PerClass(per_class=128, seed=3)
    assert deck.data.test == PerClass(per_class=16, seed=3)
    assert deck.solve.preconditioner is None
    assert deck.solve.ridge == (0.0,)


@pytest.mark.parametrize("text", ["1.0e-6", "1e-6", "1E-6", "1.E-6", ".1e-5", "0.000001", "+1e-06"])
def test_every_way_to_write_a_ridge(read, text):
    assert read(with_key("solve", f"ridge: {text}")).solve.ridge == (1e-6,)


def test_numbers_inside_layers_are_numbers(read):
    deck = read(with_key("kernel", "layers: [dense: {w_std: 1e-1, b_std: 2E0}]"))
    assert deck.kernel.layers == [{"dense": {"w_std": 0.1, "b_std": 2.0}}]


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", 0.1), ("0.0", 0.0), ("0", 0), ("1", 1), ("200", 200)]
)
def test_validation_is_a_share_or_a_count(read, text, value):
    validation = read(with_key("data", f"validation: {text}")).data.validation
    assert (validation, type(validation)) == (value, type(value))


@pytest.mark.parametrize("text", ["none", "null", "~", ""])
def test_no_preconditioner(read, text):
    assert read(with_key("solve", f"preconditioner: {text}")).solve.preconditioner is None


@pytest.mark.parametrize("text", ["none", "null", "~", ""])
def test_no_watchdog(read, text):
    assert read(MINIMAL + f"watchdog: {text}\n").watchdog is None
    assert read(MINIMAL + "watchdog: {minutes: 30}\n").watchdog.minutes == 30


def test_deck_is_frozen(read):
    deck = read(with_key("data", "train: 5"))
    for part, key in [
        (deck, "name"),
        (deck.data, "seed"),
        (deck.data.train, "count"),
        (deck.kernel, "tile"),
        (deck.solve, "ridge"),
        (deck.solve.preconditioner, "rank"),
        (deck.store, "driver"),
    ]:
        with pytest.raises(pydantic.ValidationError):
            setattr(part, key, getattr(part, key))
    with pytest.raises((AttributeError, pydantic.ValidationError)):
        deck.source = Path()


def test_deck_survives_pickling(read):
    deck = read(MINIMAL)
    copy = pickle.loads(pickle.dumps(deck))
    assert copy == deck
    assert copy.source == deck.source


def test_a_later_problem_has_file_and_line(tmp_path):
    file = tmp_path / "deck.yaml"
    file.write_text(with_key("kernel", "layers:\n    - relu\n    - avg_pool: 9"))
    deck = pickle.loads(pickle.dumps(read_deck(file, check_layers)))
    error = deck.error_at(("kernel", "layers", 1), "a pool of 9 on 8 x 8 pixels", "take 8")
    assert error.what == f"{file}:6: kernel.layers[1]: a pool of 9 on 8 x 8 pixels (take 8)"


def test_decks_are_equal_wherever_they_stand(read):
    assert read(MINIMAL) == read("\n" + MINIMAL)
    assert read(MINIMAL) != read(with_key("data", "train: 9"))


def test_flat_shows_what_changed(read):
    before, after = read(MINIMAL).flat(), read(with_key("data", "train: 9")).flat()
    assert {key for key in before if before[key] != after[key]} == {"data.train"}
    assert after["data.train"] == {"start": 0, "count": 9}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a${X}b${X}", "a1b1"),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${X:-d}", "1"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${X}", "${X}"),
        ("$$$${X}$$", "$${X}$"),
        ("${NESTED}", "${X}"),
    ],
)
def test_expansion(text, result):
    assert expand(text, {"X": "1", "EMPTY": "", "NESTED": "${X}"}) == (result, [])


@pytest.mark.parametrize("text", ["$X", "a$", "${", "${X", "${1}", "${X-d}", "${}"])
def test_what_is_no_variable_is_refused(text):
    assert expand(text, {"X": "1"})[1]


def test_numbers_from_the_environment(read, monkeypatch):
    monkeypatch.setenv("DECK_TEST_TILE", "64")
    monkeypatch.setenv("DECK_TEST_RIDGE", "1e-3")
    text = with_key("kernel", "tile: ${DECK_TEST_TILE}").replace("1e-6", "${DECK_TEST_RIDGE}")
    deck = read(text)
    assert (deck.kernel.tile, deck.solve.ridge) == (64, (1e-3,))


def test_a_tag_makes_text_of_a_number(read):
    assert read(MINIMAL + "name: !!str 12\n").name == "12"


def test_quoted_variables_stay_text(read, monkeypatch):
    monkeypatch.setenv("DECK_TEST_JOB", "123")
    assert read(MINIMAL + 'name: "${DECK_TEST_JOB}"\n').name == "123"


def test_a_gpu_does_not_go_with_reproducible_sums(problems):
    (problem,) = problems(with_key("solve", "operator: gpu") + "  reproducible: true\n")
    assert "solve.reproducible: expected false where solve.operator is gpu" in problem[1]


def test_a_variable_with_broken_bytes_is_refused(problems, monkeypatch):
    monkeypatch.setenv("DECK_TEST_BROKEN", os.fsdecode(b"\xff"))
    assert problems(MINIMAL + "name: ${DECK_TEST_BROKEN}\n") == [
        (4, "name: expected Unicode text, got '\\udcff'")
    ]


def test_an_empty_variable_is_not_allrows_of(problems, monkeypatch):
    monkeypatch.setenv("DECK_TEST_ROWS", "")
    (problem,) = problems(with_key("data", "train: ${DECK_TEST_ROWS}"))
    assert problem[1].endswith("got ''")


def test_unset_variables_are_named_with_the_other_mistakes(problems):
    text = with_key("kernel", "tile: 0") + "output: ${DECK_TEST_A}/${DECK_TEST_B}\n"
    found = problems(text)
    assert [(line, rest.split(":")[0]) for line, rest in found] == [
        (5, "kernel.tile"),
        (8, "output"),
        (8, "output"),
    ]
    assert "DECK_TEST_A" in found[1][1]
    assert "DECK_TEST_B" in found[2][1]


def _keys(model, above=""):
    for key, info in model.model_fields.items():
        yield above + key, info


def test_manual_has_every_key_with_a_meaning():
    text = manual()
    listed = [line.split(" ")[0] for line in text.split("\n") if line[:1].isalpha()][1:]
    sections = ["data", "kernel", "solve", "store"]
    for section in sections:
        for key, info in _keys(Deck.model_fields[section].annotation, f"{section}."):
            assert key in listed
            assert info.description
    assert {"name", "output", "data.train.per_class", "solve.preconditioner.rank"} <= set(listed)
    assert len(set(listed)) == len(listed)
    assert max(map(len, text.split("\n"))) <= 132


def test_manual_shows_defaults():
    rows = {line.split(" ")[0]: line for line in manual().split("\n")}
    assert re.search(r" 512 ", rows["kernel.tile"])
    assert re.search(r" required ", rows["solve.ridge"])
    assert re.search(r" runs/<name> ", rows["output"])
    assert re.search(r" all rows ", rows["data.train"])
