"""Files of another run or another time in the folder: nothing is computed from them unnoticed."""

import os

import numpy as np
import pytest

from tests.conftest import small_deck
from tests.support.folders import edit
from tests.support.mpi import hpcnk


def change_data(folder):
    path = folder / "arrays.npz"
    arrays = dict(np.load(path))
    arrays["x_train"][:, 0] += 0.5
    np.savez(path, **arrays)


def test_other_data_under_the_old_kernel(done, tmp_path):
    deck, folder = done
    change_data(tmp_path)
    (folder / "inputs.h5").unlink()
    assert hpcnk(0, "kernel", deck).code == 65  # and the new inputs are there now
    for command in ("solve", "predict"):
        ended = hpcnk(0, command, deck)
        assert ended.code == 65, ended.output
        assert "contents of the training data" in ended.output


def test_other_test_rows_under_the_old_test_kernel(done):
    deck, folder = done
    edit(deck, "data", test={"start": 1, "count": 4})
    (folder / "inputs.h5").unlink()
    assert hpcnk(0, "run", deck).code == 65
    ended = hpcnk(0, "predict", deck)
    assert ended.code == 65 and "data.test" in ended.output, ended.output
    (folder / "test_kernel.h5").unlink()  # as the message says
    ended = hpcnk(0, "run", deck)
    assert ended.code == 0 and "kernel: complete already" in ended.output, ended.output


def test_an_old_solution_for_a_new_kernel(done):
    deck, folder = done
    edit(deck, "kernel", layers="fc2")
    for name in ("kernel.h5", "test_kernel.h5"):
        (folder / name).unlink()
    assert hpcnk(0, "kernel", deck).code == 0
    ended = hpcnk(0, "predict", deck)
    assert ended.code == 65 and "kernel file" in ended.output, ended.output


@pytest.mark.parametrize("name,command", [("inputs.h5", "run"), ("solution.h5", "predict")])
def test_a_changed_byte_in_the_arrays(done, name, command):
    deck, folder = done
    import h5py

    array = {"inputs.h5": "x_train", "solution.h5": "alpha"}[name]
    with h5py.File(folder / name) as file:
        offset = file[array].id.get_offset()
    with open(folder / name, "r+b") as file:
        file.seek(offset + 21)
        file.write(b"\x5a")
    ended = hpcnk(0, command, deck)
    assert ended.code == 74 and f"{array} in" in ended.output, ended.output
    verdict = hpcnk(0, "verify", folder)
    assert verdict.code == 74 and f"{array} in" in verdict.output, verdict.output


def test_a_lost_report(done):
    deck, folder = done
    before = (folder / "report.md").read_text()
    (folder / "report.json").unlink()
    ended = hpcnk(0, "predict", deck)
    assert ended.code == 0, ended.output
    after = (folder / "report.md").read_text()
    assert after.split("## Solve")[1] == before.split("## Solve")[1]
    for text in ("garbage", "[]", "{}"):
        (folder / "report.json").write_text(text)
        for command, argument in (("status", folder), ("predict", deck)):
            ended = hpcnk(0, command, argument)
            assert ended.code == 74 and "Traceback" not in ended.output, ended.output


def test_a_bad_row_is_named_and_ends_one_rank_cleanly(tmp_path, driver):
    deck = small_deck(
        tmp_path, data={"normalize": False}, kernel={"tile": 8}, store={"driver": driver}
    )
    path = tmp_path / "arrays.npz"
    arrays = dict(np.load(path))
    arrays["x_test"][10] = 1e30
    np.savez(path, **arrays)
    for ranks in (0, 2):
        ended = hpcnk(ranks, "run", deck)
        assert ended.code == 65, ended.output
        assert "row 10: its kernel overflows" in ended.output, ended.output
        assert "x_test, counted from its row 0" in ended.output
        assert "Traceback" not in ended.output


def test_journals_removed_during_the_run(done):
    deck, folder = done
    from hpcnk.store import read_layout

    layout = read_layout(folder / "kernel.h5")
    with open(folder / "kernel.h5", "r+b") as file:
        file.seek(layout.complete_offset)
        file.write(b"\0")
    for journal in layout.journal.glob("*.log"):
        os.truncate(journal, journal.stat().st_size // 2)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0, ended.output
