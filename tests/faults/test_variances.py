"""The file of variances: made once, whole or not at all, and never believed unchecked."""

import os
import sys

import h5py
import numpy as np
import pytest

from hpcnk import Kernel
from hpcnk.store import read_variances_layout
from tests.conftest import small_deck
from tests.support.folders import digest, edit
from tests.support.mpi import hpcnk, launch


@pytest.fixture
def many(tmp_path):
    """A deck with more blocks of rows than there are ranks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 7))
    arrays = {"x_train": x[:330], "x_test": x[330:]}
    path = tmp_path / "many.npz"
    np.savez(path, y_train=np.arange(330) % 2, y_test=np.arange(70) % 2, **arrays)
    kernel = {"layers": "fc2", "tile": 100}
    return small_deck(tmp_path, data={"path": str(path)}, kernel=kernel)


def stored(folder):
    with h5py.File(folder / "variances.h5") as file:
        return {
            f"{part}/{name}": file[part][name][:]
            for part in ("x_train", "x_test")
            for name in file[part]
        }


def remove_kernels(folder):
    for name in ("kernel.h5", "test_kernel.h5"):
        (folder / name).unlink()


def test_any_number_of_ranks_finds_what_the_engine_finds_of_all_rows_at_once(many, tmp_path):
    with_ranks = []
    for ranks in (1, 2, 3):
        ended = hpcnk(ranks, "kernel", many)
        assert ended.code == 0 and "variances: 400 rows in" in ended.output, ended.output
        with_ranks.append(stored(tmp_path / "small"))
        for file in (tmp_path / "small").glob("*.h5"):
            if file.name != "inputs.h5":
                file.unlink()
    engine = Kernel("fc2").engine
    with h5py.File(tmp_path / "small" / "inputs.h5") as inputs:
        for part in ("x_train", "x_test"):
            found = engine.describe(inputs[part][:])
            for one in with_ranks:
                np.testing.assert_array_equal(one[f"{part}/variances"], found.variances)
                np.testing.assert_array_equal(one[f"{part}/diagonal"], found.diagonal)
    for one in with_ranks:
        assert [array.tobytes() for array in one.values()] == [
            array.tobytes() for array in with_ranks[0].values()
        ]


def test_a_complete_file_is_used_again(done):
    deck, folder = done
    before, wanted = (folder / "variances.h5").stat(), digest(folder)
    remove_kernels(folder)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "variances:" not in ended.output, ended.output
    after = (folder / "variances.h5").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert digest(folder) == wanted


def test_an_incomplete_file_is_made_anew(done):
    deck, folder = done
    layout, wanted = read_variances_layout(folder / "variances.h5"), digest(folder)
    with open(layout.path, "r+b") as file:
        file.seek(layout.offsets["complete"])
        file.write(b"\0")
        file.seek(layout.offsets["x_train/variances"])
        file.write(b"\x77" * 40)
    assert hpcnk(0, "verify", folder).code == 0  # nobody uses what is in it
    remove_kernels(folder)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "variances: 57 rows in" in ended.output, ended.output
    assert digest(folder) == wanted


@pytest.mark.parametrize(
    "section,values,named",
    [("kernel", {"layers": "fc2"}, "kernel.layers"), ("data", {"test": 3}, "contents of the test")],
)
def test_a_file_of_something_else_is_made_anew(done, section, values, named):
    deck, folder = done
    edit(deck, section, **values)
    remove_kernels(folder)
    if section == "data":
        (folder / "inputs.h5").unlink()
    ended = hpcnk(0, "kernel", deck)
    assert ended.code == 0, ended.output
    assert f"variances: computed anew, for they are of something else: {named}" in ended.output
    assert hpcnk(0, "verify", folder).code == 0


def test_nothing_is_replaced_where_the_tiles_are_refused(done):
    deck, folder = done
    before = (folder / "variances.h5").read_bytes()
    edit(deck, "kernel", layers="fc2")
    assert hpcnk(0, "kernel", deck).code == 65
    assert (folder / "variances.h5").read_bytes() == before


def test_damage_is_found_by_verify_and_by_a_run(done):
    deck, folder = done
    layout = read_variances_layout(folder / "variances.h5")
    with open(layout.path, "r+b") as file:
        file.seek(layout.offsets["x_train/variances"] + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    verdict = hpcnk(0, "verify", folder)
    assert verdict.code == 74 and "variances of x_train" in verdict.output, verdict.output
    remove_kernels(folder)
    for ranks in (0, 2):
        ended = hpcnk(ranks, "run", deck)
        assert ended.code == 74 and "variances of x_train" in ended.output, ended.output
        assert "Traceback" not in ended.output
    layout.path.unlink()  # as the message says
    assert hpcnk(2, "run", deck).code == 0


KILLED = """
import os, signal, sys
from hpcnk.store import VariancesWriter, variances
from hpcnk.run import variances as run
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "before the sync":
    VariancesWriter.sync = die
elif sys.argv[1] == "before the mark":
    run.mark_variances_complete = die
else:
    variances.sync_file = die
from hpcnk.cli import main
main(["run", sys.argv[2]])
"""


@pytest.mark.parametrize("moment", ["before the sync", "before the mark", "after the mark"])
def test_a_kill_while_variances_are_found(many, tmp_path, moment):
    ended = launch(0, [sys.executable, "-c", KILLED, moment, many])
    assert ended.code == -9, ended.output
    layout = read_variances_layout(tmp_path / "small" / "variances.h5")
    assert layout.complete == (moment == "after the mark")
    ended = hpcnk(2, "run", many)
    assert ended.code == 0, ended.output
    assert ("variances:" in ended.output) == (moment != "after the mark")
    whole = many.with_name("whole.yaml")
    whole.write_text(many.read_text().replace(str(tmp_path / "small"), str(tmp_path / "whole")))
    assert hpcnk(0, "run", whole).code == 0
    assert digest(tmp_path / "small") == digest(tmp_path / "whole")
