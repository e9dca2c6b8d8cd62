"""Real labels that are missing (NaN): read, encoded, stored and scored on those that are there."""

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error, r2_score

from hpcnk import data, store
from hpcnk.data import label_notes, labelled, require_labels, unlike_leading_rows
from hpcnk.data.labels import fit_targets
from hpcnk.errors import DataError
from hpcnk.report import score
from hpcnk.report.metrics import STANDARDISED
from hpcnk.run.stored import check_inputs, read_labels
from tests.conftest import small_deck
from tests.support.folders import report
from tests.support.hostile import refuses
from tests.support.mpi import hpcnk
from tests.unit.reading import load, refused, section

NAN = np.nan
GENERATOR = np.random.default_rng(3)
HOLES = np.array([[0, 1], [0, 0], [1, 0], [0, 0], [1, 1], [0, 0], [0, 1], [0, 0]], bool)


UNITS = np.array([0.1, 1.0, 10.0])  # standard deviations of outputs


def with_holes(offset=0.0):
    """Labels (8, 2), of which row 4 has none."""
    y = offset + GENERATOR.normal([5, -300], [2, 40], HOLES.shape)
    y[HOLES] = NAN
    return y


def regression(path, y_train, y_test, dtype=float):
    x = np.random.default_rng(1).normal(size=(len(y_train) + len(y_test), 3))
    arrays = {"x_train": x[: len(y_train)], "x_test": x[len(y_train) :]}
    np.savez(path, y_train=y_train.astype(dtype), y_test=y_test.astype(dtype), **arrays)
    return path


def test_missing_labels_are_read_and_infinite_ones_refused(tmp_path):
    y = with_holes()
    path = regression(tmp_path / "a.npz", y, y[:3])
    examples = load("arrays", path)
    np.testing.assert_array_equal(examples.y_train, y)
    assert (labelled(examples.y_train) == ~HOLES).all()
    y[2, 1] = -np.inf
    refused("row 2 of y_train holds infinite", "arrays", regression(path, y, y[:3]), test=2)


def test_the_digest_knows_one_kind_of_nan_and_where_it_stands(tmp_path):
    y = with_holes()
    odd = y.copy()
    odd.view(np.int64)[HOLES] = np.int64(-(2**51) + 7)  # a negative NaN with a payload
    assert np.isnan(odd[HOLES]).all() and odd.tobytes() != y.tobytes()
    moved = y.copy()
    moved[0] = moved[0, ::-1]
    one, same, other = (
        load("arrays", regression(tmp_path / "a.npz", labels, y)).digest_train
        for labels in (y, odd, moved)
    )
    assert one == same != other


@pytest.mark.parametrize("dtype", ["f4", ">f8"])
def test_nan_of_any_width_is_a_missing_label(tmp_path, dtype):
    y = with_holes()
    examples = load("arrays", regression(tmp_path / "a.npz", y, y, dtype))
    assert (labelled(examples.y_test) == ~HOLES).all()


def test_each_output_is_standardised_on_its_own_labels():
    y = with_holes()
    targets = fit_targets(y, np.arange(8), "regression", None)
    for column, known in enumerate(~HOLES.T):
        np.testing.assert_allclose(targets.mean[column], y[known, column].mean(), rtol=1e-14)
        np.testing.assert_allclose(targets.std[column], y[known, column].std(), rtol=1e-14)
    encoded = targets.encode(y)
    assert (np.isnan(encoded) == HOLES).all()
    np.testing.assert_allclose(targets.decode(encoded), y, rtol=1e-12)


def test_complete_labels_are_encoded_bit_by_bit_as_without_holes():
    y = GENERATOR.normal([5, -300], [2, 40], (50, 2))
    targets = fit_targets(y, np.arange(50), "regression", None)
    assert (targets.mean == y.mean(axis=0)).all() and (targets.std == y.std(axis=0)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([NAN, NAN, NAN, NAN], r"column 1 of y_train has no label \(only NaN\) in the 4 training"),
        ([NAN, 2.5, NAN, NAN], r"is 2\.5 in row 11 and .* 0 over the 1 of 4 rows with a label"),
        ([NAN, 2.5, NAN, 2.5], r"is 2\.5 in row 11 and .* 0 over the 2 of 4 rows with a label"),
    ],
)
def test_an_output_with_fewer_than_two_distinct_labels_is_refused(values, message):
    y = np.column_stack([np.arange(4.0), values])
    with pytest.raises(DataError, match=message) as caught:
        fit_targets(y, np.arange(10, 14), "regression", None)
    assert "column" in caught.value.what and caught.value.advice


def test_labelled_of_classes_and_reals():
    assert labelled(np.array([3, 0])).tolist() == [[True], [True]]
    assert labelled(np.array([[NAN, 0.0]])).tolist() == [[False, True]]


def test_notes_tell_of_rows_without_labels():
    full = np.ones((3, 2))
    assert label_notes(full, full) == label_notes(np.arange(3), np.arange(3)) == []
    part = full.copy()
    part[:, 0] = NAN
    assert label_notes(part, part) == []
    part[1] = NAN
    (note,) = label_notes(part, part)
    assert note.startswith("1 of 3 training rows have no label")
    (note,) = label_notes(full, full * NAN)
    assert note.startswith("no test row has a label")


def test_held_out_rows_must_leave_labels_on_both_sides():
    y = with_holes()
    require_labels(y, np.arange(0), [2, 8])
    require_labels(y, np.array([0, 4]), [2, 8])
    require_labels(np.arange(4), np.array([2]), [1, 4])
    require_labels(np.column_stack([y, y[:, 0] * NAN]), np.array([0, 4]), [8])
    with pytest.raises(DataError, match="none of the 1 training rows held out"):
        require_labels(y, np.array([4]), [8])
    with pytest.raises(DataError, match="a label of output 1 are among the 4 rows held"):
        require_labels(y[:6], np.array([1, 2, 3, 5]), [6])


def test_a_size_without_a_label_of_some_output_is_refused():
    y = with_holes()
    with pytest.raises(DataError, match="leading 1 of 8 training rows have no label of output 1"):
        require_labels(y, np.arange(0), [1, 8])
    with pytest.raises(DataError, match="no label of output 1 apart from those held"):
        require_labels(y, np.array([1]), [2, 8])
    with pytest.raises(DataError, match="leading 2 of 4 training rows have no label apart from"):
        require_labels(np.arange(4), np.array([0, 1]), [2, 4])


def test_classes_that_leading_rows_lack_are_named():
    y = np.repeat(np.arange(12), 3)
    assert unlike_leading_rows(y, 36) == unlike_leading_rows(y[::-1], 34) == ""
    said = unlike_leading_rows(y, 30)
    assert "leading 30 of 36 training rows have no label of class 10, 11: set data.shuffle" in said
    assert "class 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1 more" in unlike_leading_rows(y, 2)


def test_outputs_that_leading_rows_lack_are_named():
    y = np.ones((6, 3))
    y[:4, 1] = NAN
    with pytest.raises(DataError, match="have no label of output 1"):
        require_labels(y, np.arange(0), [4])
    require_labels(y, np.arange(0), [5])
    y[:, 1] = NAN  # no size has it
    require_labels(y, np.arange(0), [4])


def test_scores_on_complete_data_are_those_of_scikit_learn():
    target = GENERATOR.normal(size=(40, 3))
    predictions = target + GENERATOR.normal(size=(40, 3)) * [0.1, 1, 10]
    found = score("regression", predictions, target, target, UNITS)
    assert list(found) == ["mean_squared_error", "r2", "standardised_squared_error"]
    errors = mean_squared_error(target, predictions, multioutput="raw_values")
    expected = errors.mean(), r2_score(target, predictions), (errors / UNITS**2).mean()
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-14)


def test_scores_are_taken_output_by_output_over_labelled_rows():
    target = with_holes()
    predictions = GENERATOR.normal([5, -300], [2, 40], target.shape)
    found = score("regression", predictions, target, target, UNITS[:2])
    errors, r2 = [], []
    for y, p, known in zip(target.T, predictions.T, ~HOLES.T, strict=True):
        squares = (y[known] - p[known]) ** 2
        errors.append(squares.mean())
        r2.append(1 - squares.sum() / ((y[known] - y[known].mean()) ** 2).sum())
    assert found["mean_squared_error"] == pytest.approx(np.mean(errors))
    assert found["r2"] == pytest.approx(np.mean(r2))


def test_outputs_with_too_few_labels_are_left_out_of_a_score():
    target = np.array([[1.0, 7.0, NAN], [3.0, NAN, NAN]])
    predictions = np.array([[1.0, 9.0, 50.0], [2.0, 50.0, 50.0]])
    found = score("regression", predictions, target, target, UNITS)
    assert found == {
        "mean_squared_error": (0.5 + 4.0) / 2,
        "r2": 0.5,
        STANDARDISED: pytest.approx((50.0 + 4.0) / 2),
    }
    assert score("regression", predictions[:1], target[:1], target[:1], UNITS).keys() == {
        "mean_squared_error",
        STANDARDISED,
    }
    assert score("regression", predictions, target * NAN, target, UNITS) == {}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A folder after the kernel stage, on data with missing labels, and its labels."""
    folder = tmp_path_factory.mktemp("sparse")
    y = with_holes(offset=10)
    path = regression(folder / "a.npz", y, y[:5])
    deck = small_deck(folder, data={"path": str(path), "validation": 2, "seed": 1})
    ended = hpcnk(0, "kernel", deck)
    assert ended.code == 0, ended.output
    assert "WARNING: 1 of 8 training rows have no label at all" in ended.output
    return deck, folder / "small", y


def test_stored_labels_keep_their_holes(sparse):
    _, folder, y = sparse
    inputs = folder / "inputs.h5"
    check_inputs(inputs, store.read_attributes(inputs))
    encoded, raw = read_labels(inputs, "train")
    np.testing.assert_array_equal(raw, y)
    assert (np.isnan(encoded) == HOLES).all()
    np.testing.assert_allclose(np.nanmean(encoded, axis=0), 0, atol=1e-13)
    np.testing.assert_array_equal(read_labels(inputs, "test")[1], y[:5])


def test_a_folder_with_missing_labels_is_verified_and_resumed(sparse):
    deck, folder, _ = sparse
    ended = hpcnk(0, "verify", folder)
    assert ended.code == 0 and "inputs.h5: all checksums hold" in ended.output, ended.output
    ended = hpcnk(0, "kernel", deck)
    assert ended.code == 0 and "complete already" in ended.output, ended.output
    assert len(report(folder)["warnings"]["prepare"]) == 1


def test_stored_labels_that_cannot_be_are_refused(sparse, tmp_path):
    inputs = sparse[1] / "inputs.h5"
    arrays, facts = store.read_all_arrays(inputs), store.read_attributes(inputs)
    path = tmp_path / "inputs.h5"
    for name, value, said in [
        ("y_train", np.inf, "y_train holds a value that is infinite"),
        ("target_train", -np.inf, "target_train holds a value that is infinite"),
        ("y_train", NAN, "y_train lacks other labels than target_train"),
    ]:
        bad = arrays[name].copy()
        bad[1, 1] = value
        store.write_arrays(path, arrays | {name: bad}, facts)
        refuses(read_labels, path, "train", match=said)
    empty = {name: arrays[name] * [1, NAN] for name in ("y_train", "target_train")}
    store.write_arrays(path, arrays | empty, facts)
    refuses(read_labels, path, "train", match="no label of one of its outputs")


def test_a_split_that_leaves_an_output_without_labels_is_refused_before_the_kernel(tmp_path):
    y = np.column_stack([np.arange(8.0), [1, 2, *[NAN] * 6]])
    path = regression(tmp_path / "a.npz", y, y)
    deck = small_deck(tmp_path, data={"path": str(path), "validation": 7})
    held = data.validation_rows(y, 7, 0)
    assert {0, 1} <= set(held.tolist())
    ended = hpcnk(0, "kernel", deck)
    assert ended.code == 65 and "a label of output 1" in ended.output, ended.output


def test_describing_reads_no_targets(tmp_path):
    y = with_holes()
    assert data.describe(section("arrays", regression(tmp_path / "a.npz", y, y))).outputs == 2
