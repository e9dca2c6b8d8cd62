"""Normalisation, whitening and label encoding, each against its formula written out."""

import os
from pathlib import Path

import numpy as np
import pytest

from hpcnk import data
from hpcnk.data import normalize as normalize_module
from hpcnk.data import source
from hpcnk.data.labels import fit_targets
from hpcnk.data.normalize import fit_scale
from hpcnk.data.whitening import apply_whitening, covariance_of, fit_whitening
from hpcnk.deck import DataSection
from hpcnk.errors import DataError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
ROWS = np.arange(100, 120)
ORACLE_ROWS = 2000


def normalize(train, train_rows, test, test_rows):
    scale = fit_scale(train)
    return scale.apply(train, train_rows, "x_train"), scale.apply(test, test_rows, "x_test")


def normalized(train, test):
    return normalize(train, ROWS[: len(train)], test, ROWS[: len(test)])


def normalized_examples(examples):
    return normalize(examples.x_train, examples.train_rows, examples.x_test, examples.test_rows)


def test_images_follow_the_formula(monkeypatch):
    monkeypatch.setattr("hpcnk.data.source.BLOCK_BYTES", 1000)  # two images a block
    train, test = normalized(IMAGES[:15], IMAGES[15:])
    scaled = IMAGES / 255
    z = (scaled - scaled[:15].mean((0, 1, 2))) / scaled[:15].std((0, 1, 2))
    z = z.reshape(20, -1) - z.reshape(20, -1).mean(1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(train.reshape(15, -1), z[:15], rtol=0, atol=1e-14)
    np.testing.assert_allclose(test.reshape(5, -1), z[15:], rtol=0, atol=1e-14)
    assert train.dtype == np.float64
    assert train.flags.c_contiguous


@pytest.mark.parametrize("shape", [(6,), (7, 6)])
def test_vectors_and_sequences_follow_the_formula(shape):
    x = GENERATOR.normal(3, 2, (12, *shape)).astype(np.float32)
    train, test = normalized(x[:9], x[9:])
    axes = tuple(range(len(shape)))
    wide = x.astype(np.float64)
    expected = (wide - wide[:9].mean(axes)) / wide[:9].std(axes)
    np.testing.assert_allclose(train, expected[:9], atol=1e-13)
    np.testing.assert_allclose(test, expected[9:], atol=1e-13)


def test_a_feature_that_does_not_vary_is_only_centred():
    x = GENERATOR.normal(size=(9, 3))
    x[:, 1] = 0.1
    other = x.copy()
    other[:, 1] = 2.1
    train, test = normalized(x, other)
    assert (train[:, 1] == 0).all()
    np.testing.assert_allclose(test[:, 1], 2.0)


def test_only_uint8_images_are_divided_by_255():
    as_bytes = normalized(IMAGES, IMAGES)[0]
    as_floats = normalized(IMAGES.astype(np.float32), IMAGES.astype(np.float32))[0]
    np.testing.assert_allclose(as_bytes, as_floats, atol=1e-12)  # the standardisation undoes it


@pytest.mark.parametrize("part", ["x_train", "x_test"])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_without_contrast_is_named(part, value, monkeypatch):
    monkeypatch.setattr("hpcnk.data.source.BLOCK_BYTES", 1000)  # six images a block
    images = {"x_train": IMAGES[:, :, :, :1].copy(), "x_test": IMAGES[:, :, :, :1].copy()}
    images[part][13] = value
    with pytest.raises(DataError, match=rf"row 113 of {part}, an image, has no contrast"):
        normalized(images["x_train"], images["x_test"])


def test_values_too_large_to_square_are_refused():
    with pytest.raises(DataError, match="overflows"):
        normalized(np.array([[1e200], [-1e200]]), np.ones((1, 1)))
    far = IMAGES.astype(np.float64)
    far[3, 0, 0, 0] = 1e200
    with pytest.raises(DataError, match=r"row 103 of x_test.*too large"):
        normalized(IMAGES.astype(np.float64), far)


@pytest.mark.parametrize("regularization", [3.0, 0.1])
def test_whitening_follows_the_formula(monkeypatch, regularization):
    monkeypatch.setattr("hpcnk.data.source.BLOCK_BYTES", 500)
    train = GENERATOR.normal(1, 1, (30, 2, 3, 2)) * np.array([1.0, 5.0])
    test = GENERATOR.normal(1, 1, (7, 2, 3, 2))
    flat = train.reshape(30, 12)
    c = sum(np.outer(row, row) for row in flat) / 30
    s, u = np.linalg.eig(c + regularization * np.trace(c) / 12 * np.eye(12))
    expected = u @ np.diag(s**-0.5) @ np.linalg.inv(u)
    w = fit_whitening(covariance_of([train]), regularization)
    np.testing.assert_allclose(w, expected, atol=1e-13)
    apply_whitening(test_out := test.copy(), w)
    np.testing.assert_allclose(test_out.reshape(7, 12), test.reshape(7, 12) @ expected, atol=1e-12)


def test_a_singular_covariance_without_regularization_is_refused():
    rows = np.ones((5, 2)) * np.arange(1, 6)[:, np.newaxis]
    with pytest.raises(DataError, match="singular"):
        fit_whitening(covariance_of([rows]), 0.0)
    with pytest.raises(DataError, match="overflows"):
        fit_whitening(covariance_of([rows * 1e200]), 0.1)


def test_classes_become_centred_one_hot_rows():
    targets = fit_targets(np.array([0, 2, 1, 3]), np.arange(4), "classification", 4)
    encoded = targets.encode(np.array([2, 0]))
    assert encoded.tolist() == [[-0.25, -0.25, 0.75, -0.25], [0.75, -0.25, -0.25, -0.25]]
    assert (targets.decode(encoded) == encoded).all()
    assert targets.outputs == 4


def test_real_targets_are_standardised_and_come_back():
    y = GENERATOR.normal([5, -300], [2, 40], (50, 2))
    targets = fit_targets(y, np.arange(50), "regression", None)
    encoded = targets.encode(y)
    np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-13)
    np.testing.assert_allclose(encoded.std(0), 1, atol=1e-13)
    np.testing.assert_allclose(targets.decode(encoded), y, rtol=1e-13)


def test_a_constant_target_is_refused():
    y = np.column_stack([np.arange(7.0), np.full(7, 0.1)])
    with pytest.raises(DataError, match=r"column 1 of y_train is 0\.1 .* deviation 0 over 7 rows"):
        fit_targets(y, np.arange(7), "regression", None)
    with pytest.raises(DataError, match="column 0"):
        fit_targets(np.array([[0.0], [1e-200]]), np.arange(2), "regression", None)
    with pytest.raises(DataError, match="column 0"):
        fit_targets(np.array([[1e200], [-1e200]]), np.arange(2), "regression", None)


def test_whitening_fitted_on_all_training_rows(monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 64 * 8 * 100)  # several parts
    few = {"dataset": "digits", "train": 40, "test": 10}
    selected, every = (
        DataSection(**few, whitening={"regularization": 0.1, "fit": fit})
        for fit in ("selected", "all")
    )
    examples = data.load(every)
    assert len(examples.x_fit) == data.describe(every).fit_rows == 1497
    assert examples.digest_train != data.load(selected).digest_train
    scale = fit_scale(examples.x_train)
    fitted = scale.apply(examples.x_fit, examples.fit_rows, "x_train")
    matrix = fit_whitening(covariance_of([fitted]), 0.1)
    train, test = normalized_examples(examples)
    inputs = data.preprocess(examples, every)
    np.testing.assert_allclose(
        inputs.x_train, (train.reshape(40, 64) @ matrix).reshape(train.shape)
    )
    np.testing.assert_allclose(inputs.x_test, (test.reshape(10, 64) @ matrix).reshape(test.shape))


def test_fitted_on_all_is_fitted_on_the_selected_where_all_are_selected():
    whole = DataSection(dataset="digits", test=10, whitening={"regularization": 0.1, "fit": "all"})
    examples = data.load(whole)
    assert examples.x_fit is examples.x_train
    plain = whole.model_copy(
        update={"whitening": whole.whitening.model_copy(update={"fit": "selected"})}
    )
    assert data.load(plain).digest == examples.digest
    one, other = data.preprocess(examples, whole), data.preprocess(data.load(plain), plain)
    assert (one.x_test == other.x_test).all()


def test_preprocess_fits_on_the_training_rows_alone():
    short = DataSection(dataset="digits", train=40, test=10, whitening={"regularization": 0.1})
    long = short.model_copy(update={"test": None})
    inputs = [data.preprocess(data.load(section), section) for section in (short, long)]
    assert (inputs[0].x_train == inputs[1].x_train).all()
    np.testing.assert_allclose(inputs[0].x_test, inputs[1].x_test[:10], atol=1e-13)
    examples = data.load(short)
    train, test = normalized_examples(examples)
    whitened = test.reshape(10, 64) @ fit_whitening(covariance_of([train]), 0.1)
    np.testing.assert_allclose(inputs[0].x_test.reshape(10, 64), whitened, atol=1e-13)
    assert inputs[0].x_train.shape == (40, 8, 8, 1)
    assert inputs[0].y_train.shape == (40, 10)
    assert inputs[0].y_test.shape == (10, 10)
    assert all(a.dtype == np.float64 and a.flags.c_contiguous for a in vars(inputs[0]).values()
               if isinstance(a, np.ndarray))  # fmt: skip


def test_normalisation_can_be_left_out():
    section = DataSection(dataset="digits", train=40, test=10, normalize=False)
    examples = data.load(section)
    inputs = data.preprocess(examples, section)
    assert (inputs.x_train == examples.x_train).all()
    assert inputs.x_train is not examples.x_train
    assert normalize_module.as_float64(examples.x_train).base is None


# The tangent kernel of a fully connected network with three hidden ReLU layers, of rows 0 to 3,
# and the trace over rows 0 to 1999, computed by Neural Tangents in float64 from CIFAR-10
# training rows 0 to 1999 whitened with regularization 0.1.
ORACLE_ABOVE_DIAGONAL = [
    0.6484792767666434,
    0.38341196674942424,
    0.6128707871334871,
    0.3968403484965594,
    0.6391216804580805,
    0.37001792665866956,
]
ORACLE_DIAGONAL = [2.2389712227236345, 2.4344982600986937, 0.7818014422538364, 2.04724895843912]
ORACLE_TRACE = 3867.354648245355


def tangent_kernel(x, y):
    """Reference for x against y, (n, d) and (m, d): w_std sqrt(2), b_std 0.1, three ReLUs."""
    d = x.shape[1]
    s, p, q = x @ y.T / d, (x * x).sum(1) / d, (y * y).sum(1) / d
    t = np.zeros_like(s)
    for _ in range(3):
        s, p, q = 2 * s + 0.01, 2 * p + 0.01, 2 * q + 0.01
        scale = np.sqrt(np.outer(p, q))
        cosine = np.clip(s / scale, -1, 1)
        angle = np.pi - np.arccos(cosine)
        t = (s + 2 * t) * angle / (2 * np.pi)
        s = scale / (2 * np.pi) * (np.sin(angle) + angle * cosine)
        p, q = p / 2, q / 2
    return 2 * s + 0.01 + 2 * t


def tangent_trace(x):
    """Trace of the same kernel; on the diagonal a ReLU halves both covariances exactly."""
    s = (x * x).sum(1) / x.shape[1]
    t = np.zeros_like(s)
    for _ in range(3):
        s = 2 * s + 0.01
        s, t = s / 2, (s + 2 * t) / 2
    return (2 * s + 0.01 + 2 * t).sum()


@pytest.mark.skipif("HPCNK_DATA" not in os.environ, reason="HPCNK_DATA names no data folder")
def test_whitened_cifar10_gives_the_kernel_of_neural_tangents():
    section = DataSection(
        dataset="cifar10",
        path=Path(os.environ["HPCNK_DATA"]),
        train=ORACLE_ROWS,
        test=4,
        whitening={"regularization": 0.1},
    )
    x = data.preprocess(data.load(section), section).x_train.reshape(ORACLE_ROWS, -1)
    corner = tangent_kernel(x[:4], x[:4])
    above = np.triu_indices(4, 1)
    np.testing.assert_allclose(corner[above], ORACLE_ABOVE_DIAGONAL, rtol=1e-12)
    # On the diagonal arccos turns a rounding error e into sqrt(2 e), in the oracle too.
    np.testing.assert_allclose(np.diag(corner), ORACLE_DIAGONAL, rtol=1e-7)
    np.testing.assert_allclose(tangent_trace(x), ORACLE_TRACE, rtol=1e-7)
