"""Data sets of the user's own, in .npz and HDF5: every kind, every refusal, random damage."""

import os
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given

from hpcnk import data
from tests.unit.reading import DAMAGE, Evil, cut, damage, load, loads_or_refuses, refused, section

SHAPES = {"vectors": (4,), "sequences": (5, 2), "images": (3, 4, 2)}


def arrays(shape=(4,), regression=False, **changes):
    generator = np.random.default_rng(7)
    content = {
        "x_train": generator.normal(size=(12, *shape)),
        "y_train": generator.normal(size=(12, 2)) if regression else np.arange(12) % 3,
        "x_test": generator.normal(size=(5, *shape)),
        "y_test": generator.normal(size=(5, 2)) if regression else np.arange(5) % 3,
    }
    return content | changes


def write(path, content, **storage):
    if path.suffix == ".npz":
        (np.savez_compressed if storage else np.savez)(path, **content)
        return path
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file.create_dataset(name, data=values, **storage)
    return path


@pytest.fixture(params=["a.npz", "a.h5", "a.hdf5"])
def file(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_arrays_of_each_kind(file, shape, compressed, monkeypatch):
    monkeypatch.setattr("hpcnk.data.source.BLOCK_BYTES", 300)
    content = arrays(shape)
    write(file, content, **({"compression": "gzip"} if compressed else {}))
    chosen = section(
        "arrays", file, train={"per_class": 2, "seed": 2}, test={"start": 1, "count": 3}
    )
    assert data.describe(chosen) == data.Description(shape, 6, 3, 3, "classification")
    examples = data.load(chosen)
    assert (examples.x_train == content["x_train"][examples.train_rows]).all()
    assert (examples.y_train == content["y_train"][examples.train_rows]).all()
    assert (examples.x_test == content["x_test"][1:4]).all()
    assert examples.test_rows.tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "longdouble", "u1", ">i2", "i8", "?"])
def test_arrays_of_each_type(file, dtype):
    values = np.asfortranarray((np.arange(48).reshape(12, 4) % 2).astype(dtype))
    write(file, arrays(x_train=values, x_test=values[:5], y_train=(np.arange(12) % 2).astype("u2")))
    examples = load("arrays", file, train={"start": 3, "count": 4})
    assert (examples.x_train == values[3:7].astype(float)).all()
    assert examples.x_train.dtype.isnative
    assert examples.y_train.dtype == np.int64


def test_real_targets_make_a_regression(file):
    content = arrays(regression=True)
    assert data.describe(section("arrays", write(file, content))).outputs == 2
    examples = load("arrays", file, train=4)
    assert (examples.y_train == content["y_train"][:4]).all()
    assert (examples.task, examples.classes) == ("regression", None)
    write(file, arrays(y_train=np.arange(12.0), y_test=np.arange(5.0)))
    assert load("arrays", file).y_train.shape == (12, 1)


def nan_in(row):
    values = np.ones((12, 4))
    values[row, 2] = np.nan
    return values


BAD_ARRAYS = {
    "complex": ({"x_train": np.ones((12, 4), complex)}, "x_train holds values of type complex"),
    "text": ({"y_train": np.array([b"cat"] * 12)}, r"y_train holds values of type \|S3"),
    "no rows": ({"x_test": np.ones((0, 4)), "y_test": np.ones(0, int)}, "x_test.* shape"),
    "no features": ({"x_train": np.ones((12, 0))}, "x_train.* shape"),
    "flat": ({"x_train": np.ones(12)}, r"x_train.* shape \(12,\)"),
    "five axes": ({"x_train": np.ones((12, 1, 1, 1, 4))}, "x_train.* shape"),
    "lengths": ({"y_train": np.zeros(11, int)}, "x_train has 12 rows and y_train has 11"),
    "widths": ({"x_test": np.ones((5, 3))}, r"x_train has shape \(4,\), of x_test \(3,\)"),
    "bytes and reals": ({"x_test": np.ones((5, 4), np.uint8)}, "x_test of type uint8"),
    "tasks": ({"y_test": np.ones(5)}, "y_train is of type int64 and y_test of type float64"),
    "two-column classes": ({"y_train": np.ones((12, 2), int)}, "real targets are floats"),
    "targets": ({"y_train": np.ones((12, 2)), "y_test": np.ones((5, 3))}, "y_train has shape"),
    "negative": ({"y_train": np.arange(12) - 4}, "row 0 of y_train has class -4"),
    "vast": ({"y_test": np.array([0, 1, 2**60, 0, 0])}, "row 2 of y_test has class 11529"),
    "one class": ({"y_train": np.zeros(12, int), "y_test": np.zeros(5, int)}, "all labels are 0"),
    "nan": ({"x_train": nan_in(7)}, "row 7 of x_train holds NaN"),
    "infinite": ({"x_test": np.full((5, 4), np.inf)}, "row 0 of x_test holds NaN or inf"),
    "infinite target": (
        {"y_train": np.full((12, 1), -np.inf), "y_test": np.ones((5, 1))},
        "row 0 of y_train holds infinite values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_arrays_that_make_no_data_set_are_refused(file, fault):
    changes, message = BAD_ARRAYS[fault]
    refused(message, "arrays", write(file, arrays(**changes)))


def test_bad_values_in_rows_not_asked_for_do_no_harm(file):
    write(file, arrays(x_train=nan_in(7)))
    assert len(load("arrays", file, train=7).x_train) == 7
    refused("row 7 of x_train", "arrays", file, train={"start": 6, "count": 3})


def test_missing_arrays_are_named_with_what_is_there(file):
    content = arrays()
    del content["y_test"]
    refused("lacks y_test; it holds x_test, x_train, y_train|lacks y_test; it holds x_train",
            "arrays", write(file, content))  # fmt: skip


def test_object_arrays_are_not_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    trap = np.array([Evil(os.system, f"touch {tmp_path / 'ran'}")] * 12, dtype=object)
    np.savez(path, allow_pickle=True, **arrays(x_train=trap))
    refused("x_train holds values of type object", "arrays", path)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_none(tmp_path, file):
    refused("there is no file", "arrays", tmp_path / "nowhere.npz")
    refused("needs a path", "arrays", None)
    file.write_bytes(b"hello")
    refused("cannot be read", "arrays", file)
    (tmp_path / "a.csv").write_text("1,2")
    refused("ends in '.csv'", "arrays", tmp_path / "a.csv")


def test_a_shape_larger_than_the_file_is_refused_before_it_is_allocated(tmp_path):
    path = write(tmp_path / "a.npz", arrays())
    vast = (b"(12, 4)", b"(12000000000000, 4)")
    rewrite_member(path, "x_train.npy", lambda raw: raw.replace(*vast, 1))
    refused(r"x_train has \d+ bytes; its shape \(12000000000000, 4\)", "arrays", path)


def rewrite_member(path, name, change):
    """Change one member of a .npz file, checksums made to fit."""
    with zipfile.ZipFile(path) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    content[name] = change(content[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, raw in content.items():
            archive.writestr(member, raw)


def test_a_size_that_these_bytes_cannot_unpack_to_is_refused(tmp_path):
    path = write(tmp_path / "a.npz", arrays())
    vast = b"(90000000, 4), }"
    rewrite_member(path, "x_train.npy", lambda raw: raw.replace(b"(12, 4), }      ", vast, 1))
    with zipfile.ZipFile(path) as archive:
        true = archive.getinfo("x_train.npy").file_size
    false = true - 12 * 4 * 8 + 90000000 * 4 * 8
    content = path.read_bytes()
    path.write_bytes(content.replace(true.to_bytes(4, "little"), false.to_bytes(4, "little")))
    refused("x_train.npy is said to unpack to 2880000128 bytes", "arrays", path)


def test_a_negative_shape_is_refused(tmp_path):
    path = write(tmp_path / "a.npz", arrays())
    change = (b"(12, 4), }  ", b"(-12, -4), }")
    rewrite_member(path, "x_train.npy", lambda raw: raw.replace(*change, 1))
    refused(r"an array of shape \(-12, -4\)", "arrays", path)


def test_a_changed_byte_in_any_row_of_a_npz_is_noticed(tmp_path):
    content = arrays()
    for name in ("x_train", "y_train"):  # longer than what zipfile reads ahead
        content[name] = np.repeat(content[name], 2000, axis=0)
    path = write(tmp_path / "a.npz", content)
    last = content["x_train"][-1].tobytes()
    head, found, tail = path.read_bytes().rpartition(last)
    path.write_bytes(head + found[::-1] + tail)
    refused("Bad CRC-32", "arrays", path, train=2)


def test_hdf5_values_that_were_never_written_are_refused(tmp_path):
    for storage in ({}, {"chunks": (1, 4)}):
        path = write(tmp_path / "a.h5", {k: v for k, v in arrays().items() if k != "x_train"})
        with h5py.File(path, "a") as file:
            dataset = file.create_dataset("x_train", (12, 4), "f8", **storage)
            if storage:
                dataset[:11] = 1
        refused("x_train should have .* bytes", "arrays", path)


@pytest.mark.parametrize("kind", ["external", "soft", "raw", "virtual", "group"])
def test_hdf5_values_that_lie_elsewhere_are_refused(tmp_path, kind):
    write(tmp_path / "other.h5", {"x": np.ones((12, 4))})
    (tmp_path / "raw").write_bytes(bytes(12 * 4 * 8))
    path = write(tmp_path / "a.h5", {k: v for k, v in arrays().items() if k != "x_train"})
    with h5py.File(path, "a") as file:
        if kind == "external":
            file["x_train"] = h5py.ExternalLink(tmp_path / "other.h5", "x")
        elif kind == "soft":
            file["x_train"] = h5py.SoftLink("/x_test")
        elif kind == "raw":
            parts = [(str(tmp_path / "raw"), 0, 384)]
            file.create_dataset("x_train", (12, 4), "f8", external=parts)
        elif kind == "virtual":
            layout = h5py.VirtualLayout((12, 4), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (12, 4))
            file.create_virtual_dataset("x_train", layout)
        else:
            file.create_group("x_train")
    refused("x_train (is a link|lie in other|is no array)", "arrays", path)


@pytest.mark.parametrize("compressed", [False, True])
@DAMAGE
@given(change=damage)
def test_damaged_npz(tmp_path, compressed, change):
    path = tmp_path / "a.npz"
    if not path.exists():
        write(path, arrays((3, 2)), **({"compression": "gzip"} if compressed else {}))
    loads_or_refuses("arrays", path, path, change)


@DAMAGE
@given(change=damage)
def test_damaged_hdf5(tmp_path, change):
    path = tmp_path / "a.h5"
    if not path.exists():
        write(path, arrays((3, 2)))
    loads_or_refuses("arrays", path, path, change)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}], ids=["plain", "compressed"])
def test_hdf5_cut_short(tmp_path, storage):
    path = write(tmp_path / "a.h5", arrays((3, 2)), **storage)
    intact = path.read_bytes()
    for share in np.linspace(0, 0.99, 60):
        path.write_bytes(cut(share)(intact))
        refused("cannot be read|lacks|should have", "arrays", path)


def test_classes_with_wide_gaps_are_refused_as_likely_targets(tmp_path):
    wide = arrays(y_train=500 + np.arange(12), y_test=500 + np.arange(5))
    path = write(tmp_path / "a.npz", wide)
    refused("only 12 of the classes 0 to 511 have a row", "arrays", path)
    path = write(tmp_path / "b.npz", arrays(y_train=2 * (np.arange(12) % 3)))
    assert load("arrays", path).classes == 5
