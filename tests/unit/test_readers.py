"""Digits and both versions of CIFAR-10: tiny files, every refusal, and random damage."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from hpcnk import data
from tests.unit.reading import DAMAGE, Evil, damage, load, loads_or_refuses, refused, section

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
ROWS = 3  # a batch
GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 10, (6, ROWS), dtype=np.uint8)
PIXELS = GENERATOR.integers(0, 256, (6, ROWS, 3072), dtype=np.uint8)


# Digits


def test_digits_have_a_fixed_split():
    whole = section("digits", None)
    assert data.describe(whole) == data.Description((8, 8, 1), 1497, 300, 10, "classification")
    examples = data.load(whole)
    assert examples.x_train.shape == (1497, 8, 8, 1)
    assert np.bincount(examples.y_test).tolist() == [32, 28, 25, 31, 30, 31, 31, 33, 28, 31]
    assert examples.y_train[:6].tolist() == [1, 2, 3, 4, 5, 7]  # row 6 of the set is a test row
    assert examples.classes == 10


def test_digest_tells_rows_parts_and_labels_apart():
    examples = load("digits", None, train=20, test=10)
    again = load("digits", None, train=20, test=10)
    other = load("digits", None, train=20, test=11)
    assert examples.digest == again.digest
    assert len(examples.digest) == 64
    assert examples.digest_train == other.digest_train
    assert examples.digest_test != other.digest_test
    assert examples.digest != other.digest


def test_digest_covers_the_labels(tmp_path):
    write_binary(tmp_path)
    before = load("cifar10", tmp_path)
    path = tmp_path / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[0] = (content[0] + 1) % 10
    path.write_bytes(content)
    after = load("cifar10", tmp_path)
    assert after.digest_train == before.digest_train
    assert after.digest_test != before.digest_test


# CIFAR-10


def write_binary(folder):
    for name, labels, pixels in zip(BATCHES, LABELS, PIXELS, strict=True):
        records = np.concatenate([labels[:, np.newaxis], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def python_batch(index, **changes):
    content = {
        b"batch_label": b"training batch",
        b"labels": LABELS[index].tolist(),
        b"data": PIXELS[index],
        b"filenames": [b"a.png"] * ROWS,
    }
    return pickle.dumps(content | {k.encode(): v for k, v in changes.items()}, protocol=2)


def write_python(folder):
    for index, name in enumerate(BATCHES):
        (folder / name).write_bytes(python_batch(index))


WRITERS = {"cifar-10-batches-bin": write_binary, "cifar-10-batches-py": write_python}


@pytest.fixture(params=WRITERS)
def cifar10(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    WRITERS[request.param](folder)
    return folder


def test_cifar10_images_and_labels(cifar10, monkeypatch):
    monkeypatch.setattr("hpcnk.data.source.BLOCK_BYTES", 2 * 3073)
    for path in (cifar10, cifar10.parent):
        examples = load("cifar10", path, train={"start": 2, "count": 9})
        assert examples.x_train.shape == (9, 32, 32, 3)
        assert examples.x_train.dtype == np.uint8
        assert examples.y_train.tolist() == LABELS[:5].ravel()[2:11].tolist()
        assert examples.y_test.tolist() == LABELS[5].tolist()
        planes = PIXELS[1, 0].reshape(3, 32, 32)  # row 3 of the set
        assert (examples.x_train[1, :, :, 0] == planes[0]).all()
        assert (examples.x_train[1, 5, 7] == planes[:, 5, 7]).all()


def test_cifar10_is_described(cifar10):
    described = data.describe(section("cifar10", cifar10, train={"start": 4, "count": 3}))
    assert described == data.Description((32, 32, 3), 3, ROWS, 10, "classification")


def test_both_versions_give_the_same_examples(tmp_path):
    digests = set()
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        digests.add(load("cifar10", tmp_path / name).digest)
    assert len(digests) == 1
    refused("holds both", "cifar10", tmp_path)


def test_per_class_reads_the_labels_of_all_batches(cifar10):
    present = np.bincount(LABELS[:5].ravel(), minlength=10)
    lacking = np.flatnonzero(present < 2)[0]
    refused(f"class {lacking} has {present[lacking]}", "cifar10", cifar10, train={"per_class": 2})


def test_missing_batches_are_named(cifar10, tmp_path):
    suffix = ".bin" if cifar10.name.endswith("bin") else ""
    (cifar10 / f"data_batch_4{suffix}").unlink()
    (cifar10 / f"test_batch{suffix}").unlink()
    refused(f"lacks data_batch_4{suffix}, test_batch{suffix}", "cifar10", cifar10)
    (tmp_path / "empty").mkdir()
    refused("holds no CIFAR-10 batch", "cifar10", tmp_path / "empty")
    refused("is not a folder", "cifar10", tmp_path / "nowhere")


def test_a_binary_batch_cut_short_is_named_with_the_byte(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-5])
    refused(r"data_batch_2\.bin has 9214 bytes.* starts at byte 6146", "cifar10", tmp_path)
    path.write_bytes(b"")
    refused(r"data_batch_2\.bin has 0 bytes", "cifar10", tmp_path, train=1)


def test_labels_above_nine_are_named_with_the_row(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[2 * 3073] = 10
    path.write_bytes(content)
    refused(r"row 2 of .*data_batch_2\.bin has label 10", "cifar10", tmp_path)
    refused(
        r"row 2 of .*data_batch_2\.bin has label 10", "cifar10", tmp_path, train={"per_class": 1}
    )
    assert load("cifar10", tmp_path, train=5).y_train.tolist() == LABELS[:2].ravel()[:5].tolist()


def test_an_image_of_zeros_is_named(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[: 2 * 3073 + 1] + bytes(3072))
    refused("row 5 of x_train is an image of zeros", "cifar10", tmp_path)


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"(posix|nt)\.system"), (eval, r"__builtin__\.eval"), (np.load, "numpy.load"),
     (getattr, r"__builtin__\.getattr"), (Path, r"pathlib\.")],
)  # fmt: skip
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(tmp_path, function, name):
    write_python(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "data_batch_3").write_bytes(python_batch(2, extra=Evil(function, f"touch {mark}")))
    refused(rf"data_batch_3 is a pickle that asks for {name}.*only NumPy", "cifar10", tmp_path)
    assert not mark.exists()


def far_slot(content):
    """A memo slot that would take 8 GB of pointers."""
    return content[:-1] + b"r" + (2**30).to_bytes(4, "little") + b"."


def many_bytes(content):
    """The same text turned into bytes again and again: little to store, much to build."""
    call = (
        b"c_codecs\nencode\nq\xf0X\x40\x42\x0f\x00" + b"a" * 10**6 + b"q\xf1X\x06\x00\x00\x00latin1"
    )
    again = b"\x86Rh\xf0h\xf1X\x06\x00\x00\x00latin1"
    return b"\x80\x02" + call + again * 300 + b"\x86R."


BAD_BATCHES = {
    "cut short": (lambda b: b[:-40], "cannot be read"),
    "empty": (lambda b: b"", "cannot be read"),
    "not a pickle": (lambda b: b"hello", "cannot be read"),
    "far slot": (far_slot, "cannot be read: LONG_BINPUT to slot"),
    "many bytes": (many_bytes, "cannot be read: bytes that Python does not write so"),
    "no dict": (lambda b: pickle.dumps([1], 2), "no dict with the entry 'data'"),
    "no labels": (lambda b: pickle.dumps({b"data": PIXELS[0]}, 2), "entry 'labels'"),
    "float pixels": (lambda b: python_batch(0, data=PIXELS[0] / 2), "no table of bytes"),
    "signed pixels": (lambda b: python_batch(0, data=PIXELS[0].view("i1")), "no table of bytes"),
    "narrow": (lambda b: python_batch(0, data=PIXELS[0][:, 1:].copy()), "no table of bytes"),
    "pixel text": (lambda b: python_batch(0, data=b"pixels"), "no table of bytes"),
    "few labels": (lambda b: python_batch(0, labels=[1, 2]), "no list of 3 numbers"),
    "label 10": (lambda b: python_batch(0, labels=[1, 2, 10]), "row 2 of .* has label 10"),
    "label -1": (lambda b: python_batch(0, labels=[1, -1, 9]), "row 1 of .* has label -1"),
    "label 1.5": (lambda b: python_batch(0, labels=[1.5, 1, 9]), "row 0 of .* has label 1.5"),
}


@pytest.mark.parametrize("fault", BAD_BATCHES)
def test_damaged_python_batches_are_refused(tmp_path, fault):
    write_python(tmp_path)
    damage, message = BAD_BATCHES[fault]
    (tmp_path / "data_batch_1").write_bytes(damage(python_batch(0)))
    refused(message, "cifar10", tmp_path)


def test_a_python_batch_too_large_is_not_read(tmp_path, monkeypatch):
    write_python(tmp_path)
    monkeypatch.setattr("hpcnk.data.cifar10_python.LARGEST_BATCH", 9000)
    refused("data_batch_1 has .* bytes", "cifar10", tmp_path)


def test_python_2_arrays_in_column_order_and_text_keys_are_read(tmp_path):
    write_python(tmp_path)
    content = {"labels": LABELS[0].tolist(), "data": np.asfortranarray(PIXELS[0])}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, 2))
    first = load("cifar10", tmp_path, train=ROWS).x_train
    assert (first[1, 0, :, 2] == PIXELS[0, 1].reshape(3, 32, 32)[2, 0]).all()


@DAMAGE
@given(change=damage)
def test_damaged_cifar10(cifar10, change):
    suffix = ".bin" if cifar10.name.endswith("bin") else ""
    loads_or_refuses("cifar10", cifar10, cifar10 / f"data_batch_2{suffix}", change)


# Real files


@pytest.mark.skipif("HPCNK_DATA" not in os.environ, reason="HPCNK_DATA names no data folder")
def test_real_cifar10():
    path = Path(os.environ["HPCNK_DATA"]) / "cifar-10-batches-bin"
    whole = section("cifar10", path)
    assert data.describe(whole) == data.Description((32, 32, 3), 50000, 10000, 10, "classification")
    examples = load("cifar10", path, train={"start": 49000, "count": 3}, test=5)
    assert examples.y_test.tolist() == [3, 8, 8, 0, 6]
    even = load("cifar10", path, train={"per_class": 4}, test=1)
    assert np.bincount(even.y_train).tolist() == [4] * 10
