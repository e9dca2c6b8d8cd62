"""Result files, journals and data from strangers: refused with a message, never believed."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hpcnk import store
from hpcnk.data import hdf5 as data_hdf5
from hpcnk.deck import read_deck
from hpcnk.errors import DataError, DeckError, StorageError
from hpcnk.store import attributes, documents, trust
from hpcnk.store.journal import LINE_BYTES
from hpcnk.tiling import TriangleGrid
from tests.unit.deck_trial import check_layers
from tests.unit.reading import refused

ONE = SimpleNamespace(rank=0, size=1)
GRID = TriangleGrid(11, 4)


def refuses(read, *arguments, match):
    with pytest.raises(StorageError, match=match) as caught:
        read(*arguments)
    assert caught.value.advice


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "kernel.h5"
    store.create(path, GRID, "float32", {"kernel.tile": 4})
    return path


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "a.h5"
    store.write_arrays(path, {"x": np.arange(12.0).reshape(3, 4), "none": np.arange(0)}, {"n": 1})
    return path


@pytest.fixture
def variances(tmp_path):
    path = tmp_path / "v.h5"
    store.create_variances(path, {"x_train": 70}, 3, np.dtype("f4"), {})
    return path


# HDF5 files that lead elsewhere or claim too much


def _sound(folder, name):
    """The values as they were before."""
    with h5py.File(folder / "other.h5", "r") as other:
        return other[name][:]


def _external(file, name, folder):
    file[name] = h5py.ExternalLink(folder / "other.h5", name)


def _soft(file, name, folder):
    file[f"{name}_"] = _sound(folder, name)
    file[name] = h5py.SoftLink(f"/{name}_")


def _raw(file, name, folder):
    values = _sound(folder, name)
    parts = [(str(folder / "raw"), 0, values.nbytes)]
    file.create_dataset(name, values.shape, values.dtype, external=parts)


def _virtual(file, name, folder):
    values = _sound(folder, name)
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(folder / "other.h5", name, values.shape)
    file.create_virtual_dataset(name, layout)


def _chunked(file, name, folder):
    file.create_dataset(name, data=_sound(folder, name), chunks=True)


def _never_written(file, name, folder):
    values = _sound(folder, name)
    file.create_dataset(name, values.shape, values.dtype)


def _group(file, name, folder):
    file.create_group(name)


def _typed(dtype):
    def make(file, name, folder):
        file.create_dataset(name, _sound(folder, name).shape, dtype)

    return make


def _nothing(file, name, folder):
    pass


ELSEWHERE = {
    "external link": (_external, "link to another place"),
    "soft link": (_soft, "link to another place|complete_ is no group"),
    "raw file": (_raw, "lie in another file"),
    "virtual": (_virtual, "do not lie in one piece"),
    "chunked": (_chunked, "do not lie in one piece"),
    "never written": (_never_written, r"takes \d+ bytes"),
    "group": (_group, "is no data set"),
    "missing": (_nothing, "is missing"),
    "variable length": (_typed(h5py.vlen_dtype("f4")), "no plain numbers"),
    "region reference": (_typed(h5py.regionref_dtype), "no plain numbers"),
    "reference": (_typed(h5py.ref_dtype), "no plain numbers"),
    "opaque": (_typed(np.dtype("V4")), "no plain numbers"),
    "compound": (_typed(np.dtype([("a", "f4")])), "no plain numbers"),
    "text": (_typed(np.dtype("S4")), "no plain numbers"),
    "enumeration": (_typed(np.dtype(bool)), "no plain numbers"),
    "complex": (_typed(np.dtype("c8")), "no plain numbers"),
}
READERS = {
    "kernel": (store.read_layout, ("tiles", "checksums", "complete")),
    "variances": (store.read_variances_layout, ("x_train/variances", "complete")),
    "arrays": (store.check_arrays, ("x",)),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("which", READERS)
def test_data_sets_that_are_not_plain_numbers_in_the_file_are_refused(which, kind, request):
    path = request.getfixturevalue(which)
    read, names = READERS[which]
    make, match = ELSEWHERE[kind]
    sound = path.read_bytes()
    path.with_name("other.h5").write_bytes(sound)
    path.with_name("raw").write_bytes(bytes(1 << 16))
    read(path)
    for name in names:
        path.write_bytes(sound)
        with h5py.File(path, "r+") as file:
            del file[name]
            make(file, name, path.parent)
        refuses(read, path, match=match)


def test_a_group_that_is_a_link_is_refused(variances):
    with h5py.File(variances, "r+") as file:
        file.move("x_train", "hidden")
        file["x_train"] = h5py.SoftLink("/hidden")
        del file["hidden"]
        file["x_train_"] = h5py.ExternalLink(variances, "x_train")
    refuses(store.read_variances_layout, variances, match="link to another place")


def _claim(path, was, now):
    """Overwrite a length in the headers; the raw data of these files are zeros."""
    content = path.read_bytes()
    assert was.to_bytes(8, "little") in content
    path.write_bytes(content.replace(was.to_bytes(8, "little"), now.to_bytes(8, "little")))


@pytest.mark.parametrize("rows", [10**6, 10**15, 2**62, 2**64 - 1])
def test_more_rows_than_the_file_has_room_for_are_refused(tmp_path, rows):
    path = tmp_path / "a.h5"
    store.write_arrays(path, {"x": np.zeros((1237, 3))}, {})
    _claim(path, 1237, rows)
    for read in (store.check_arrays, lambda path: store.read_rows(path, "x", slice(0, 2))):
        refuses(read, path, match="x, of shape|x has shape|reading")
    store.create(path, TriangleGrid(1237, 619), "float32", {})
    with h5py.File(path, "r+") as file:
        file.attrs["n"] = min(rows, 2**62)
    refuses(store.read_layout, path, match="expected|shape")


def _claims(shape, offset=2048):
    """A data set as HDF5 may describe it, where some versions of HDF5 refuse to."""
    place = SimpleNamespace(get_offset=lambda: offset, get_storage_size=lambda: 0)
    return SimpleNamespace(
        shape=shape, dtype=np.dtype("f8"), id=place, chunks=None, name="x", nbytes=0
    )


@pytest.mark.parametrize(
    "claims",
    [
        _claims((2**62, 0)),
        _claims((2**33, 2**31)),
        _claims((100,), 1 << 30),
        _claims((100,), None),
        _claims(None),
    ],
)
def test_shapes_are_held_against_the_file_in_whole_numbers(arrays, claims):
    refuses(trust._require_within, arrays, "x", claims, match="x has shape|x, of shape")
    if claims.shape and 0 not in claims.shape:
        with pytest.raises(DataError, match="should have"):
            data_hdf5._refuse_incomplete(arrays, claims)


def test_integers_of_fewer_bits_are_refused(arrays):
    odd = h5py.h5t.STD_I16LE.copy()
    odd.set_precision(12)
    with h5py.File(arrays, "r+") as file:
        del file["x"]
        h5py.h5d.create(file.id, b"x", odd, h5py.h5s.create_simple((3,)))
    refuses(store.check_arrays, arrays, match="no plain numbers")


def test_a_file_cut_short_within_its_tiles_is_refused(kernel):
    size = store.read_layout(kernel).tiles_offset + GRID.count * 64
    os.truncate(kernel, size - 1)
    refuses(store.read_layout, kernel, match="reading")


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 13), ("n", 0), ("n", -1), ("n", 11.0), ("n", np.arange(2)), ("tile", 0), ("m", 11)],
)  # fmt: skip
def test_sizes_that_do_not_fit_the_tiles_are_refused(kernel, name, value):
    with h5py.File(kernel, "r+") as file:
        file.attrs[name] = value
    refuses(store.read_layout, kernel, match="reading")


@pytest.mark.parametrize("dtype", ["f2", ">f4", "i4"])
def test_tiles_of_another_type_are_refused(kernel, dtype):
    with h5py.File(kernel, "r+") as file:
        shape = file["tiles"].shape
        del file["tiles"]
        file.create_dataset("tiles", data=np.ones(shape, dtype))
    refuses(store.read_layout, kernel, match="reading")


# Attributes and what they hold


@pytest.mark.parametrize("identity", ["", "0" * 31, "0" * 33, "G" * 32, "../" * 11])
def test_an_id_is_32_hexadecimal_digits(kernel, identity):
    _attribute(kernel, "id", identity)
    refuses(store.read_layout, kernel, match="hexadecimal|printable")


def _attribute(path, name, value):
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        attributes.write_attributes(file, {name: value})


DOCUMENTS = {
    "list": ("[1]", "no JSON mapping"),
    "broken": ("{", "no valid JSON"),
    "deep": ("[" * 100_000, "no valid JSON"),
    "quite deep": ('{"a":' * 300 + "1" + "}" * 300, "nested deeper"),
    "nan": ('{"a": NaN}', "the number nan"),
    "vast": ('{"a": 1e999}', "the number inf"),
    "digits": ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
    "escape": ('{"a": "\\u001b[31m"}', "cannot be printed"),
    "surrogate": ('{"a\\ud800": 1}', "cannot be printed"),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_provenance_is_a_plain_mapping(kernel, kind):
    text, match = DOCUMENTS[kind]
    _attribute(kernel, "provenance", text)
    refuses(store.read_layout, kernel, match=match)


def test_text_in_the_global_heap_is_refused_unread(kernel):
    with h5py.File(kernel, "r+") as file:
        file.attrs["provenance"] = "{}"
    refuses(store.read_layout, kernel, match="not as hpcnk writes it")


def test_attributes_of_other_kinds_are_refused(arrays):
    for value in (np.arange(3), h5py.Empty("f4"), 1.5, np.array([b"{}"])):
        with h5py.File(arrays, "r+") as file:
            file.attrs["facts"] = value
        refuses(store.read_attributes, arrays, match="not as hpcnk writes it")


def test_long_text_goes_into_several_attributes(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "PIECE", 7)
    facts = {"text": "grün" * 20, "many": list(range(50)), "yes": True, "none": None}
    store.write_arrays(tmp_path / "a.h5", {"x": np.ones(2)}, facts)
    assert store.read_attributes(tmp_path / "a.h5") == facts
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file.attrs) > 20


def test_an_array_without_a_checksum_is_refused(arrays):
    with h5py.File(arrays, "r+") as file:
        file.create_dataset("y", data=np.ones(3))
    refuses(store.read_arrays, arrays, "y", match="y has no checksum")


# Paths that are no files, and links


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "text", "empty"])
@pytest.mark.parametrize(
    "read", [store.read_layout, store.check_arrays, store.read_variances_layout, store.read_shape]
)
def test_a_path_that_is_no_hdf5_file_is_refused(tmp_path, kind, read):
    path = tmp_path / "x.h5"
    _make_path(path, kind)
    more = ("x",) if read is store.read_shape else ()
    refuses(read, path, *more, match="no regular file|no HDF5 file")


def _make_path(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("hello, this is no HDF5 file" if kind == "text" else "")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link"])
def test_a_journal_is_a_regular_file(kernel, kind):
    layout = store.read_layout(kernel)
    layout.journal.mkdir()
    line = f"{0:012d} {1:08x} {layout.id}\n"
    (kernel.parent / "elsewhere").write_text(line)
    journal = layout.journal / "1.log"
    if kind == "link":
        journal.symlink_to(kernel.parent / "elsewhere")
    else:
        _make_path(journal, kind)
    refuses(store.read_journals, layout, match="journal")
    store.finished_tiles(layout.journal)


def test_a_journal_with_more_lines_than_tiles_is_refused_unread(kernel):
    layout = store.read_layout(kernel)
    layout.journal.mkdir()
    with open(layout.journal / "1.log", "wb") as file:
        file.truncate(1 << 40)
    refuses(store.read_journals, layout, match="1099511627776 bytes")
    os.truncate(layout.journal / "1.log", 2 * GRID.count * LINE_BYTES)
    assert store.read_journals(replace(layout)) == {}


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "bytes", "list"])
def test_a_document_is_a_small_regular_file(tmp_path, kind, monkeypatch):
    path = tmp_path / "a.json"
    if kind in ("pipe", "device"):
        _make_path(path, kind)
    else:
        path.write_bytes({"large": b'{"a": 1}', "bytes": b'{"\xff": 1}', "list": b"[]"}[kind])
    if kind == "large":
        monkeypatch.setattr(documents, "MOST_BYTES", 5)
    refuses(documents.read_mapping, path, match="a.json failed: it holds")


def test_a_document_keeps_what_it_says(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, None, "é\n"], "b": float("inf")}))
    assert documents.read_mapping(tmp_path / "a.json") == {"a": [1, None, "é\n"], "b": float("inf")}
    with pytest.raises(FileNotFoundError):
        documents.read_mapping(tmp_path / "b.json")


@pytest.mark.parametrize("write", [store.write_text, store.write_arrays])
def test_a_link_under_the_temporary_name_is_not_followed(tmp_path, write):
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("precious")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(victim)
    write(path, *(("text",) if write is store.write_text else ({"x": np.ones(3)}, {})))
    assert victim.read_text() == "precious"
    assert path.is_file() and not path.is_symlink()


def test_variances_of_other_rows_are_refused(variances):
    layout = store.read_variances_layout(variances)
    with store.VariancesReader(layout) as reader:
        refuses(reader.read, "x_test", slice(0, 5), match="lacks the rows to 5 of x_test")
        refuses(reader.read, "x_train", slice(60, 71), match="lacks the rows to 71 of x_train")


# Data and decks


def test_a_data_set_whose_size_overflows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    names = {"x_train": (1237, 1231), "y_train": (1237,), "x_test": (5, 1231), "y_test": (5,)}
    with h5py.File(path, "w") as file:
        for name, shape in names.items():
            file.create_dataset(name, data=np.zeros(shape, "u1"))
    _claim(path, 1237, 2**33)
    _claim(path, 1231, 2**31)
    monkeypatch.setattr(data_hdf5.np, "arange", None)
    refused("should have|cannot be read", "arrays", path)


@pytest.mark.parametrize("growing", [False, True])
def test_chunks_larger_than_their_bytes_can_make_are_refused(tmp_path, growing):
    """HDF5 1.10 reads on behind the unpacked bytes, which ends the process."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, shape in {"x_train": (12, 37), "x_test": (5, 37)}.items():
            most = (None, None) if growing else None
            file.create_dataset(
                name, data=np.ones(shape), chunks=shape, maxshape=most, compression="gzip"
            )
        file["y_train"], file["y_test"] = np.arange(12) % 3, np.arange(5) % 3
    content = path.read_bytes()
    chunks = b"".join(length.to_bytes(4, "little") for length in (12, 37, 8))
    assert chunks in content
    false = b"".join(length.to_bytes(4, "little") for length in (12, 2**24, 8))
    path.write_bytes(content.replace(chunks, false))
    refused("x_train should have|cannot be read", "arrays", path)


def _bomb():
    """2^40 entries when written out, and 40 when stored."""
    bomb = []
    for _ in range(40):
        bomb = [bomb, bomb]
    return bomb


def test_a_label_that_would_never_be_printed(tmp_path):
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {b"labels": [_bomb()], b"data": np.zeros((1, 3072), np.uint8)}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    refused("label of type list", "cifar10", tmp_path)


def test_a_pickle_of_very_many_steps_is_refused(tmp_path):
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / name).write_bytes(b"\x80\x04" + b"\x8f" * 600_000 + b".")
    refused("more than 500000 steps", "cifar10", tmp_path)


def test_a_pickle_changes_nothing_that_outlives_it(tmp_path):
    """BUILD sets attributes of what it is given, here of the stand-in for a function."""
    program = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb."
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / name).write_bytes(program)
    refused("holds no dict", "cifar10", tmp_path)


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_a_data_path_that_is_no_file_is_refused(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "loop":
        path.symlink_to(path)
    else:
        _make_path(path, kind)
    refused("there is no file", "arrays", path)


def test_names_too_long_for_the_system_are_refused(tmp_path):
    refused("there is no file", "arrays", tmp_path / ("x" * 5000 + ".npz"))
    refused("is not a folder", "cifar10", tmp_path / ("x" * 5000))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_deck_is_a_regular_file(tmp_path, kind):
    _make_path(tmp_path / "deck.yaml", kind)
    with pytest.raises(DeckError, match="expected a readable deck file"):
        read_deck(tmp_path / "deck.yaml", check_layers)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        'name: "' + "${A:-" * 20_000 + '"\n',
        "bad: [" + "!x 1, " * 4000 + "]\n" + "".join(f"k{i}: 1\n" for i in range(4000)),
        "a: &a [*a]\n",
        "[" * 100_000,
        "- " * 50_000,
    ],
    ids=["variables", "many problems", "alias of itself", "lists", "nested items"],
)
def test_decks_that_would_take_for_ever_are_refused(tmp_path, text):
    (tmp_path / "deck.yaml").write_text(text)
    with pytest.raises(DeckError):
        read_deck(tmp_path / "deck.yaml", check_layers)
