"""Decks that are refused: what the message says and where it points."""

import os
import re
from functools import partial

import pytest

from hpcnk.deck import Rows, read_deck
from hpcnk.errors import ArchitectureError, DeckError
from tests.unit.deck_trial import (
    DECKS,
    MINIMAL,
    check_layers,
    problems_of,
    read_text,
    rows_of,
    with_key,
)


@pytest.fixture
def read(tmp_path):
    return partial(read_text, tmp_path)


@pytest.fixture
def problems(tmp_path):
    return partial(problems_of, tmp_path)


SENTENCES = [
    ("data", "train: many", "data.train: expected a number of rows, {start, count} or {per_class, "
     "seed}, got 'many'"),
    ("data", "train: true", "data.train: expected a number of rows, {start, count} or {per_class, "
     "seed}, got true"),
    ("data", "train: {start: 0, seed: 1}", "data.train: expected a number of rows, {start, count} "
     "or {per_class, seed}, got {start: 0, seed: 1}"),
    ("data", "train: {}", "data.train: expected a number of rows, {start, count} or {per_class, "
     "seed}, got {}"),
    ("data", "train: 0", "data.train: expected an integer of at least 1, got 0"),
    ("data", "train: 10.5", "data.train: expected an integer of at least 1, got 10.5, which is not "
     "an integer"),
    ("data", "train: {start: 3}", "data.train.count: expected an integer of at least 1, got "
     "nothing: this key is required"),
    ("data", "test: {seed: 3}", "data.test.per_class: expected an integer of at least 1, got "
     "nothing: this key is required"),
    ("data", "test: {per_clas: 3}", "data.test.per_clas: expected one of start, count, per_class, "
     "seed, got the unknown key 'per_clas'; did you mean 'per_class'?"),
    ("data", "dataset: mnist", "data.dataset: expected digits, cifar10 or arrays, got 'mnist'"),
    ("data", "path: .", "data.path: expected no path for digits, which come inside scikit-learn, "
     "got '.'"),
    ("data", "dataset: cifar10", "data.path: expected the folder of CIFAR-10's batches, got "
     "nothing"),
    ("data", "dataset: arrays", "data.path: expected the .npz or HDF5 file of the arrays, got "
     "nothing"),
    ("data", "validation: -1", "data.validation: expected a share in [0, 1) such as 0.1, or an "
     "integer count of at least 0, got -1"),
    ("data", "validation: 1.5", "data.validation: expected a share in [0, 1) such as 0.1, or an "
     "integer count of at least 0, got 1.5"),
    ("data", "validation: .nan", "data.validation: expected a share in [0, 1) such as 0.1, or an "
     "integer count of at least 0, got nan"),
    ("data", "whitening: 3.0", "data.whitening: expected {regularization: a finite number above "
     "0, fit: selected or all}, got 3.0"),
    ("data", "seed: -1", "data.seed: expected an integer of at least 0 and below 2^32, got -1"),
    ("data", "seed: 4294967296", "data.seed: expected an integer of at least 0 and below 2^32, got "
     "4294967296"),
    ("kernel", "tile: 0", "kernel.tile: expected an integer of at least 1, got 0"),
    ("kernel", "tile: 512.0", "kernel.tile: expected an integer of at least 1, got 512.0, which is "
     "not an integer"),
    ("kernel", "tile: '12'", "kernel.tile: expected an integer of at least 1, got '12', which is "
     "text (write the number without quotes)"),
    ("kernel", "tile: 010", "kernel.tile: expected an integer of at least 1, got '010'"),
    ("kernel", "tile: 8:30", "kernel.tile: expected an integer of at least 1, got '8:30'"),
    ("kernel", "tile: yes", "kernel.tile: expected an integer of at least 1, got true"),
    ("kernel", "tile:", "kernel.tile: expected an integer of at least 1, got nothing"),
    ("kernel", "tile: {a: [1, x]}", "kernel.tile: expected an integer of at least 1, got {a: [1, "
     "'x']}"),
    ("kernel", 'tile: {"a\\nb": 1}', "kernel.tile: expected an integer of at least 1, got "
     "{'a\\nb': 1}"),
    ("kernel", "layers: teleport", "kernel.layers: no layer is called 'teleport' (write relu)"),
    ("kernel", "dtype: float16", "kernel.dtype: expected float32 or float64, got 'float16'"),
    ("kernel", "zzz: 1", "kernel.zzz: expected one of layers, kind, dtype, tile, backend, got the "
     "unknown key 'zzz'"),
    ("kernel", "TILE: 1", "kernel.TILE: expected one of layers, kind, dtype, tile, backend, got "
     "the unknown key 'TILE'; did you mean 'tile'?"),
    ("kernel", "ridge: 1", "kernel.ridge: expected one of layers, kind, dtype, tile, backend, got "
     "the unknown key 'ridge'; it belongs under 'solve'"),
    ("solve", "ridge: -1", "solve.ridge: expected a number from 0 to 1e100, got -1"),
    ("solve", "ridge: .inf", "solve.ridge: expected a number from 0 to 1e100, got inf, which "
     "is not finite"),
    ("solve", "ridge: true", "solve.ridge: expected a number from 0 to 1e100, got true"),
    ("solve", "ridge: '1e-6'", "solve.ridge: expected a number from 0 to 1e100, got '1e-6', which "
     "is text (write the number without quotes)"),
    ("solve", "ridge: []", "solve.ridge: expected at least one number, got an empty list"),
    ("solve", "ridge: [1e-6, 2, 0.000001]", "solve.ridge: expected each number once, got 1e-06 "
     "more than once"),
    ("solve", "ridge: [1, [2]]", "solve.ridge[1]: expected a number from 0 to 1e100, got [2]"),
    ("solve", "tolerance: 0", "solve.tolerance: expected a number above 0 and below 1, such as "
     "1e-8, got 0"),
    ("solve", "tolerance: .nan", "solve.tolerance: expected a number above 0 and below 1, such as "
     "1e-8, got nan"),
    ("solve", "max_iterations: 0", "solve.max_iterations: expected an integer of at least 1, got "
     "0"),
    ("solve", "preconditioner: lu", "solve.preconditioner: expected {kind: pivoted_cholesky, rank: "
     "200} or none, got 'lu'"),
    ("store", "driver: mpi", "store.driver: expected auto, mpio or posix, got 'mpi'"),
    ("store", "divers: mpio", "store.divers: expected one of driver, got the unknown key 'divers'; "
     "did you mean 'driver'?"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "line", "sentence"), SENTENCES)
def test_one_mistake_gives_one_sentence(problems, section, line, sentence):
    text = with_key(section, line)
    rows = text.split("\n")
    key = sentence.split(":")[0].split(".")[-1]
    at = rows.index(f"  {line}") + 1
    if key == "path" and "path" not in text:
        at = rows.index("data:") + 1
    assert problems(text) == [(at, sentence)]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("name: 12", "name: expected text that can name a folder (not empty, no '/'), got 12, "
         "which is not text (put it in quotes)"),
        ("name: ..", "name: expected text that can name a folder (not empty, no '/'), got '..'"),
        ("output: ''", "output: expected a path, got ''"),
        ('output: "a\\0b"', "output: expected a path, got 'a\\x00b'"),
        ('output: "\\ud800"', "output: expected Unicode text, got '\\ud800'"),
        ('name: "\\ud800"', "name: expected Unicode text, got '\\ud800'"),
        ('"\\ud800": 1', "expected Unicode text as a key, got '\\ud800'"),
        ("tile: 12", "tile: expected one of name, output, data, kernel, solve, predict, "
         "compare, store, watchdog, "
         "got the unknown key 'tile'; it belongs under 'kernel'"),
        ("Stroe: {}", "Stroe: expected one of name, output, data, kernel, solve, predict, "
         "compare, store, watchdog, "
         "got the unknown key 'Stroe'; did you mean 'store'?"),
        ("watchdog: 5", "watchdog: expected {minutes: 120} or none, got 5"),
        ("watchdog: {minutes: 0}", "watchdog.minutes: expected a number from 0.01 to 1e6, got 0"),
        ("watchdog: {minutes: .inf}", "watchdog.minutes: expected a number from 0.01 to 1e6, got "
         "inf"),
        ("store: []", "store: expected a mapping {driver}, got []"),
        ("store: !!set {a}", "store: expected no tag, got 'tag:yaml.org,2002:set'"),
        ("name: !python/none x", "name: expected a plain value, got 'x' with the tag "
         "'!python/none'"),
        ("[a]: 3", "expected a word as a key, got a list or a mapping"),
        ("<<: 3", "expected a mapping or a list of mappings after <<"),
    ],
)  # fmt: skip
def test_mistakes_at_the_top(problems, line, sentence):
    assert problems(MINIMAL + line + "\n") == [(4, sentence)]


def test_missing_sections_and_keys(problems):
    assert problems("data: {}\nkernel: {kind: ntk}\n") == [
        (1, "data.dataset: expected digits, cifar10 or arrays, got nothing: this key is required"),
        (1, "solve: expected a mapping {ridge, sizes, method, tolerance, max_iterations, block, "
         "operator, memory, leave_one_out, evidence, preconditioner, reproducible, checkpoint}, "
         "got nothing: this key is required"),
        (2, "kernel.layers: expected a preset such as cv8, {preset: fc, depth: 3}, or a list of "
         "layers, got nothing: this key is required"),
    ]  # fmt: skip


def test_absent_path_says_how_far_it_exists(problems, tmp_path):
    text = with_key("data", "dataset: arrays").replace("arrays\n", "arrays\n  path: no/where.npz\n")
    ((line, sentence),) = problems(text)
    there = os.getcwd()
    assert line == 3
    assert sentence == (
        f"data.path: expected a file or folder that exists, got '{there}/no/where.npz', of which "
        f"only '{there}' exists"
    )


def test_all_mistakes_of_a_deck_at_once():
    file = DECKS / "bad" / "many_mistakes.yaml"
    lines = enumerate(file.read_text().split("\n"), start=1)
    marked = [(n, row.split("# problem: ")[1]) for n, row in lines if "# problem: " in row]
    with pytest.raises(DeckError) as caught:
        read_deck(file, check_layers)
    entries = [re.fullmatch(r"(.*):(\d+): ([^ ]+): .+", row) for row in rows_of(caught.value)]
    assert [(entry[1], int(entry[2]), entry[3]) for entry in entries] == [
        (str(file), line, key) for line, key in marked
    ]
    assert caught.value.exit_code == 2
    assert str(caught.value).split("\n")[-1].startswith("  -> ")


def test_no_jargon_of_pydantic():
    with pytest.raises(DeckError) as caught:
        read_deck(DECKS / "bad" / "many_mistakes.yaml", check_layers)
    for word in [
        "Input should",
        "pydantic",
        "type=",
        "validation error",
        "Extra inputs",
        "Literal",
    ]:
        assert word not in str(caught.value)


def test_only_the_first_fifty_problems_are_printed(problems, read, tmp_path):
    text = MINIMAL + "".join(f"key{n}: 1\n" for n in range(70))
    with pytest.raises(DeckError) as caught:
        read(text)
    assert len(rows_of(caught.value)) == 51
    assert rows_of(caught.value)[-1] == f"{tmp_path / 'trial.yaml'}: and 20 more problems"


def test_duplicate_keys_name_both_lines(problems):
    text = "data:\n  dataset: digits\n  seed: 1\n\n  seed: 2\n" + MINIMAL.split("\n", 1)[1]
    assert problems(text) == [
        (5, "data.seed: expected each key once, got 'seed' again (first on line 3)")
    ]


def test_a_second_merge_is_a_duplicate(problems):
    text = MINIMAL + "store:\n  <<: {driver: posix}\n  <<: {driver: mpio}\n"
    assert problems(text) == [
        (6, "store.'<<': expected each key once, got '<<' again (first on line 5)")
    ]


def test_a_merged_key_is_reported_where_it_stands(problems):
    text = (
        "data:\n  dataset: digits\n  train: &t\n    per_class: 2\n    seed: -1\n"
        "  test: {<<: [*t], per_class: 0}\nkernel: {layers: cv8}\nsolve: {ridge: 1}\n"
    )
    assert [(line, rest.split(":")[0]) for line, rest in problems(text)] == [
        (5, "data.train.seed"),
        (5, "data.test.seed"),
        (6, "data.test.per_class"),
    ]


def test_earlier_merges_win_over_later_ones(read):
    text = (
        "data:\n  dataset: digits\n  train: &a {start: 1, count: 1}\n"
        "  test: {<<: [*a, {start: 2, count: 2}], count: 5}\n" + MINIMAL.split("\n", 1)[1]
    )
    assert read(text).data.test == Rows(start=1, count=5)


def test_the_line_of_a_layer_inside_a_preset_is_that_of_layers(problems):
    text = with_key("kernel", "layers: {preset: teleport}")
    assert problems(text)[0] == (
        4,
        "kernel.layers.preset: no layer is called 'teleport' (write relu)",
    )


def test_a_layer_that_the_deck_does_not_spell_out(tmp_path):
    def check(layers):
        return [ArchitectureError("a pool of 2 on 1 x 1 pixels", (3, "window"))]

    file = tmp_path / "deck.yaml"
    file.write_text(MINIMAL)
    with pytest.raises(DeckError, match=r"deck.yaml:2: kernel.layers: a pool of 2 on 1 x 1"):
        read_deck(file, check)


def test_the_checkpoint_and_the_sums(problems):
    section = "data: {dataset: digits}\nkernel: {layers: cv8}\nsolve:\n  ridge: 1\n"
    assert problems(section + "  checkpoint: {iterations: 0}\n  reproducible: 1\n") == [
        (5, "solve.checkpoint.iterations: expected an integer of at least 1, got 0"),
        (6, "solve.reproducible: expected true or false, got 1"),
    ]
    assert problems(section + "  checkpoint: {minutes: 0}\n") == [
        (5, "solve.checkpoint.minutes: expected a finite number above 0, got 0"),
    ]
    assert problems(section + "  checkpoint: often\n") == [
        (5, "solve.checkpoint: expected {minutes: 10, iterations: 100} or none, got 'often'"),
    ]
