"""Training rows in a random order: the same data, other places, and told apart in the folder."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcnk import data
from hpcnk.data.select import shuffled_order
from hpcnk.deck import DataSection, read_deck
from hpcnk.errors import MismatchError
from hpcnk.kernels import find_problems
from hpcnk.run.provenance import inputs_provenance, require_same
from tests.conftest import small_deck
from tests.support.folders import edit, whole
from tests.support.mpi import hpcnk

FEW = {"dataset": "digits", "train": {"start": 5, "count": 40}, "test": 10}


def loaded(**keys):
    return data.load(DataSection(**FEW | keys))


def test_rows_and_labels_keep_together_in_another_order():
    plain, mixed = loaded(), loaded(shuffle=True)
    assert (plain.train_rows == np.arange(5, 45)).all()
    assert mixed.train_rows.tolist() != plain.train_rows.tolist() == sorted(mixed.train_rows)
    assert (mixed.x_train == plain.x_train[mixed.train_rows - 5]).all()
    assert (mixed.y_train == plain.y_train[mixed.train_rows - 5]).all()
    assert (mixed.test_rows == plain.test_rows).all() and (mixed.x_test == plain.x_test).all()
    assert mixed.digest_test == plain.digest_test and mixed.digest_train != plain.digest_train


def test_the_order_follows_the_seed_alone():
    orders = [loaded(shuffle=True, seed=seed).train_rows.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert loaded(seed=1).train_rows.tolist() == loaded().train_rows.tolist()


def test_the_order_is_drawn_apart_from_the_validation_rows():
    same = np.random.default_rng(0).permutation(40)
    assert shuffled_order(40, 0).tolist() != same.tolist()
    assert sorted(shuffled_order(40, 0)) == list(range(40))


@pytest.mark.parametrize("train", [None, 40])
def test_whitening_on_all_rows_does_not_depend_on_the_order(train):
    whitening = {"regularization": 0.1, "fit": "all"}
    sections = [
        DataSection(dataset="digits", train=train, test=5, whitening=whitening, shuffle=mixed)
        for mixed in (False, True)
    ]
    examples = [data.load(section) for section in sections]
    assert (examples[1].x_fit is examples[1].x_train) == (train is None)
    assert len(examples[1].x_fit) == len(examples[1].fit_rows) == 1497
    plain, mixed = map(data.preprocess, examples, sections)
    order = examples[1].train_rows
    np.testing.assert_allclose(mixed.x_train, plain.x_train[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(mixed.x_test, plain.x_test, rtol=0, atol=1e-9)


@pytest.fixture
def made(tmp_path):
    """Return a function: what inputs depend on, as the attributes of their file keep it."""

    def of(**keys):
        deck = read_deck(small_deck(tmp_path, data=keys), find_problems)
        return {key: str(value) for key, value in inputs_provenance(deck).items()}

    return of


def test_a_folder_from_before_the_key_goes_on_in_the_published_order(made, tmp_path):
    assert "data.shuffle" not in made()
    assert made() == made(shuffle=False, seed=3)
    assert require_same(tmp_path, made(shuffle=True), made(shuffle=True), complete=True) == ""


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({}, {"shuffle": True}, r"data\.shuffle: was \(nothing\), is now true"),
        ({"shuffle": True}, {}, r"data\.shuffle: was true, by data\.seed 0, is now \(nothing\)"),
        ({"shuffle": True}, {"shuffle": True, "seed": 4}, r"data\.shuffle: was .*0, is now .*4"),
    ],
)
def test_another_order_is_another_folder(made, tmp_path, was, now, said):
    with pytest.raises(MismatchError, match=said):
        require_same(tmp_path, made(**was), made(**now), complete=True)


def test_a_kernel_of_shuffled_rows(tmp_path):
    folders = SimpleNamespace()
    for name, mixed in (("plain", False), ("mixed", True)):
        deck = small_deck(tmp_path, name, data={"shuffle": mixed, "normalize": False})
        ended = hpcnk(0, "kernel", deck)
        assert ended.code == 0, ended.output
        setattr(folders, name, whole(tmp_path / name / "kernel.h5"))
    order = shuffled_order(44, 0)
    np.testing.assert_allclose(folders.mixed, folders.plain[np.ix_(order, order)], rtol=1e-6)
    edit(deck, "data", shuffle=False)
    ended = hpcnk(0, "solve", deck)
    assert ended.code == 65 and "data.shuffle: was true" in ended.output, ended.output
