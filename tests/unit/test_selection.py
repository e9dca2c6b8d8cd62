"""Which rows are taken: first n, ranges, so many of each class, and the validation split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnk.data import validation_rows
from hpcnk.data.select import select
from hpcnk.deck import PerClass, Rows
from hpcnk.errors import DataError

CLASSES = np.array([2, 0, 1, 0, 2, 0, 1, 0, 2, 0])


def choose(wanted, part="train", classes=3):
    return select(wanted, part, len(CLASSES), classes, lambda: CLASSES)


def test_all_first_and_range():
    assert choose(None).tolist() == list(range(10))
    assert choose(Rows(start=0, count=4)).tolist() == [0, 1, 2, 3]
    assert choose(Rows(start=7, count=3)).tolist() == [7, 8, 9]


@pytest.mark.parametrize(("start", "count"), [(0, 11), (8, 3), (10, 1), (200, 5)])
def test_rows_that_do_not_exist_are_refused_with_how_many_there_are(start, count):
    with pytest.raises(DataError, match=r"data\.test .* test set has 10 rows, 0 to 9"):
        choose(Rows(start=start, count=count), part="test")


def test_per_class_is_sorted_seeded_and_even():
    rows = choose(PerClass(per_class=2, seed=5))
    assert np.bincount(CLASSES[rows]).tolist() == [2, 2, 2]
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == choose(PerClass(per_class=2, seed=5)).tolist()
    drawn = {tuple(choose(PerClass(per_class=2, seed=seed))) for seed in range(20)}
    assert len(drawn) > 5


def test_labels_are_read_for_per_class_only():
    def never():
        raise AssertionError("labels were read")

    assert len(select(Rows(count=2), "train", 10, 3, never)) == 2
    assert len(select(None, "train", 10, 3, never)) == 10


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(DataError, match="class 1 has 2, class 2 has 3") as caught:
        choose(PerClass(per_class=4, seed=0))
    assert "at most 2 rows a class" in caught.value.advice
    with pytest.raises(DataError, match="class 3 has 0"):
        choose(PerClass(per_class=1, seed=0), classes=4)


def test_per_class_needs_classes():
    with pytest.raises(DataError, match="real targets"):
        choose(PerClass(per_class=1, seed=0), classes=None)


def test_validation_share_and_count():
    labels = np.repeat(np.arange(5), 20)
    by_share = validation_rows(labels, 0.1, seed=3)
    assert np.bincount(labels[by_share]).tolist() == [2] * 5
    assert by_share.tolist() == validation_rows(labels, 10, seed=3).tolist()
    assert by_share.tolist() != validation_rows(labels, 0.1, seed=4).tolist()
    assert validation_rows(labels, 0, seed=0).size == 0
    assert validation_rows(labels, 0.0, seed=0).size == 0


def test_validation_rounds_by_largest_remainder():
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    # 4 of 10: quotas 2.4, 1.2 and 0.4, so 2, 1 and 0; the equal remainders favour class 0.
    assert np.bincount(labels[validation_rows(labels, 4, 0)], minlength=3).tolist() == [3, 1, 0]


def test_validation_leaves_a_training_row_of_each_class_while_it_can():
    labels = np.repeat([0, 1], [9, 1])
    assert np.bincount(labels[validation_rows(labels, 8, 0)], minlength=2).tolist() == [8, 0]
    assert validation_rows(labels, 9, 0).size == 9


def test_validation_of_real_targets():
    targets = np.linspace(0, 1, 50)[:, np.newaxis]
    rows = validation_rows(targets, 0.2, seed=1)
    assert len(rows) == 10
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() != list(range(10))


@pytest.mark.parametrize("validation", [0.01, 0.99, 20, 21, -1, 1.0, 1.5])
def test_validation_of_nothing_or_everything_is_refused(validation):
    with pytest.raises(DataError, match="of 20 training rows would be held out"):
        validation_rows(np.arange(20) % 2, validation, seed=0)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    held=st.integers(1, 59),
    seed=st.integers(0, 99),
)
def test_validation_is_a_stratified_subset(labels, held, seed):
    if held >= len(labels):
        return
    y = np.array(labels)
    rows = validation_rows(y, held, seed)
    assert len(rows) == held == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    counts, taken = np.bincount(y, minlength=5), np.bincount(y[rows], minlength=5)
    assert (taken <= counts).all()
    if held <= (np.maximum(counts - 1, 0)).sum():
        assert (counts - taken)[counts > 0].min() >= 1
