"""Bits that flip on the disk: found by `verify` and before use, and that tile alone made anew."""

import json
import sys

import h5py
import numpy as np
import pytest
import yaml

from hpcnk.store import read_layout
from hpcnk.store.attributes import write_attributes
from hpcnk.store.files import checksum
from tests.support.folders import digest, predictions, report
from tests.support.mpi import hpcnk, launch


def flip(path, number, byte=17):
    """Flip one bit of a stored tile."""
    layout = read_layout(path)
    _flip_at(path, layout.tiles_offset + number * layout.tile_bytes + byte)


def _flip_at(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        bits = file.read(1)[0]
        file.seek(place)
        file.write(bytes([bits ^ 4]))


@pytest.fixture
def unsolved(done):
    """A small run whose kernels are there, its deck and folder; no solution."""
    deck, folder = done
    (folder / "solution.h5").unlink()
    return deck, folder


@pytest.mark.parametrize(
    "ranks,name,damaged",
    [
        (0, "kernel.h5", [3]),
        (2, "kernel.h5", [0, 4, 20]),
        (3, "kernel.h5", [0, 4, 20]),
        (0, "test_kernel.h5", [1, 11]),
        (3, "test_kernel.h5", [1, 11]),
    ],
)
def test_damaged_tiles_are_made_anew(unsolved, ranks, name, damaged):
    deck, folder = unsolved
    before, expected = digest(folder), predictions(folder)[0]
    for number in damaged:
        flip(folder / name, number)
    verdict = hpcnk(0, "verify", folder)
    listed = f"tile{'s' if len(damaged) > 1 else ''} {', '.join(map(str, damaged))}"
    assert verdict.code == 74 and f"{name}: " in verdict.output
    assert f"DAMAGED, by their checksums: {listed};" in verdict.output, verdict.output
    ended = hpcnk(ranks, "run", deck)
    assert ended.code == 0, ended.output
    assert f"{name}: {listed} had changed on the disk" in ended.output
    assert listed in " ".join(report(folder)["warnings"]["repair"])
    assert digest(folder) == before
    np.testing.assert_allclose(predictions(folder)[0], expected, atol=1e-6)
    assert hpcnk(0, "verify", folder).code == 0


def test_a_damaged_checksum_is_put_right(unsolved):
    deck, folder = unsolved
    before, layout = digest(folder), read_layout(folder / "kernel.h5")
    _flip_at(folder / "kernel.h5", layout.checksums_offset + 4 * 7)
    ended = hpcnk(2, "solve", deck)
    assert ended.code == 0 and "tile 7 had changed" in ended.output, ended.output
    assert digest(folder) == before


def test_a_tile_of_another_back_end_is_not_mixed_in(unsolved):
    deck, folder = unsolved
    with h5py.File(folder / "kernel.h5", "r+") as file:
        made = json.loads(file.attrs["provenance"])
        write_attributes(file, {"provenance": json.dumps({**made, "kernel.backend": "gpu"})})
    flip(folder / "kernel.h5", 5)
    ended = hpcnk(2, "solve", deck)
    assert ended.code == 74 and "was made by the back end gpu" in ended.output, ended.output
    assert "Traceback" not in ended.output


def test_damage_is_found_while_the_kernel_is_unfinished(write_deck, tmp_path):
    """A tile of a first start is damaged before the second one ends the kernel."""
    whole, deck = write_deck("whole"), write_deck("flipped")
    assert hpcnk(2, "run", whole).code == 0
    fault = {"HPCNK_FAULT": "rank=1,phase=kernel,after=6,what=sigterm"}
    assert hpcnk(2, "run", deck, environment=fault).code == 75
    flip(tmp_path / "flipped" / "kernel.h5", 1)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "tile 1 had changed on the disk" in ended.output, ended.output
    assert digest(tmp_path / "flipped") == digest(tmp_path / "whole")


@pytest.mark.parametrize("command,name", [("solve", "kernel.h5"), ("predict", "test_kernel.h5")])
def test_a_disk_that_fails_again_ends_the_job(done, command, name):
    """What is written comes out damaged once more."""
    deck, folder = done
    if command == "solve":
        (folder / "solution.h5").unlink()
    flip(folder / name, 3)
    program = (
        "import hpcnk.run.repair as repair, sys; from hpcnk.cli import main;"
        "repair.replace_tile = lambda *tile: None; sys.exit(main(sys.argv[1:]))"
    )
    ended = launch(2, [sys.executable, "-c", program, command, deck])
    assert ended.code == 74, ended.output
    assert ended.output.count("tile 3 of") == 1 and "is damaged again" in ended.output
    assert "Traceback" not in ended.output


def test_a_tile_is_not_made_from_damaged_inputs(unsolved):
    deck, folder = unsolved
    with h5py.File(folder / "inputs.h5", "r") as file:
        place = file["x_train"].id.get_offset()
    _flip_at(folder / "inputs.h5", place + 3)
    flip(folder / "kernel.h5", 0)
    before = (folder / "kernel.h5").read_bytes()
    ended = hpcnk(2, "solve", deck)
    assert ended.code == 74 and "x_train in" in ended.output, ended.output
    assert (folder / "kernel.h5").read_bytes() == before
    verdict = hpcnk(0, "verify", folder)  # tells of all that is damaged, not of the first alone
    assert verdict.code == 74 and "x_train in" in verdict.output, verdict.output
    assert "DAMAGED, by their checksums: tile 0;" in verdict.output


@pytest.mark.parametrize("same", [True, False])
def test_tiles_of_two_codes_are_not_mixed(unsolved, same):
    """Other code may repair a tile if it computes the bytes that were there."""
    deck, folder = unsolved
    with h5py.File(folder / "kernel.h5", "r+") as file:
        made = json.loads(file.attrs["provenance"])
        write_attributes(file, {"provenance": json.dumps({**made, "code": "0.0.1+old"})})
    flip(folder / "kernel.h5", 5)
    if not same:
        layout = read_layout(folder / "kernel.h5")
        _flip_at(folder / "kernel.h5", layout.checksums_offset + 4 * 5)
    ended = hpcnk(2, "solve", deck)
    assert ended.code == (0 if same else 74), ended.output
    assert same or "was made by hpcnk 0.0.1+old" in ended.output, ended.output


@pytest.mark.parametrize("solver", ["random_cholesky", "nystrom", "dense"])
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_number_that_is_none_is_refused_though_its_checksum_is_right(unsolved, ranks, solver):
    deck, folder = unsolved
    layout = read_layout(folder / "kernel.h5")
    with h5py.File(layout.path, "r+") as file:
        tile = file["tiles"][2]
        tile[0, 1] = np.nan
        file["tiles"][2] = tile
        file["checksums"][2] = checksum(tile)
    text = deck.read_text()
    chosen = {"method": "dense"} if solver == "dense" else {"preconditioner": {"kind": solver}}
    asked = yaml.safe_load(text)
    asked["solve"] = {**asked["solve"], **chosen}
    deck.write_text(yaml.safe_dump(asked))
    ended = hpcnk(ranks, "solve", deck)
    assert ended.code == 74, ended.output
    assert "tile 2 of" in ended.output and "not finite" in ended.output
    assert "Traceback" not in ended.output
