"""What a run refuses to go on with, and what it says."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcnk.engine import device_problem
from tests.support.folders import digest, edit
from tests.support.mpi import hpcnk, launch

PROJECT = Path(__file__).resolve().parents[2]


def incomplete(folder):
    """Take the mark of completeness back, as if the run had been killed before it."""
    from hpcnk.store import read_layout

    for name in ("kernel.h5", "test_kernel.h5"):
        layout = read_layout(folder / name)
        with open(folder / name, "r+b") as file:
            file.seek(layout.complete_offset)
            file.write(b"\0")


TRAINING = [
    ("kernel", {"tile": 16}, "kernel.tile: was 8, is now 16"),
    ("kernel", {"kind": "nngp"}, "kernel.kind: was ntk, is now nngp"),
    (
        "kernel",
        {"layers": {"preset": "fc", "depth": 2}},
        "kernel.layers[4]: was (nothing), is now relu",
    ),
    ("kernel", {"dtype": "float64"}, "kernel.dtype: was float32, is now float64"),
    ("data", {"train": 40}, "data.train: was all"),
    ("data", {"normalize": False}, "data.normalize: was True, is now False"),
    ("data", {"whitening": {"regularization": 1.0}}, "data.whitening.regularization: was None"),
]
TEST = [("data", {"test": 3}, "data.test: was all")]


def refused(deck, folder, named, command, ranks):
    before = digest(folder)
    ended = hpcnk(ranks, command, deck)
    assert ended.code == 65, ended.output
    assert named in ended.output and "Traceback" not in ended.output
    assert ended.output.count("was made from something else") == 1
    assert digest(folder) == before


@pytest.mark.parametrize("section,values,named", TRAINING + TEST)
def test_a_changed_deck(done, section, values, named):
    deck, folder = done
    edit(deck, section, **values)
    refused(deck, folder, named, "run", ranks=0)


def test_a_changed_deck_on_two_ranks_and_in_a_later_stage(done):
    deck, folder = done
    section, values, named = TRAINING[0]
    edit(deck, section, **values)
    for command in ("run", "solve"):
        refused(deck, folder, named, command, ranks=2)


def test_other_ridges_need_no_new_kernel(done):
    deck, folder = done
    before = (folder / "kernel.h5").stat().st_mtime_ns
    edit(deck, "solve", ridge=[0.5])
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0, ended.output
    assert "kernel: complete already" in ended.output
    assert (folder / "kernel.h5").stat().st_mtime_ns == before


def test_changed_data(done, tmp_path):
    deck, _ = done
    path = tmp_path / "arrays.npz"
    arrays = dict(np.load(path))
    arrays["x_train"][0, 0, 0, 0] += 1
    np.savez(path, **arrays)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 65, ended.output
    assert "contents of the training data" in ended.output


@pytest.mark.parametrize("complete", [True, False])
def test_changed_code(done, tmp_path, complete):
    deck, folder = done
    if not complete:
        incomplete(folder)
    shutil.copytree(PROJECT / "hpcnk", tmp_path / "other" / "hpcnk")
    with open(tmp_path / "other" / "hpcnk" / "kernels" / "layers.py", "a") as source:
        source.write("\n# changed\n")
    environment = {"PYTHONPATH": str(tmp_path / "other")}
    arguments = [sys.executable, "-P", "-m", "hpcnk", "run", deck]
    ended = launch(2, arguments, environment=environment, cwd=tmp_path)
    if complete:
        assert ended.code == 0 and "was made by hpcnk" in ended.output, ended.output
    else:
        assert ended.code == 65 and "code: was" in ended.output, ended.output


def test_a_wrong_tile_is_found(done):
    """A tile that was computed wrongly has a good checksum; only computing it anew tells."""
    from hpcnk.store import TileReader, TileWriter, read_layout

    _, folder = done
    good = hpcnk(0, "verify", folder, "--tiles", 100)
    assert good.code == 0 and "all checksums hold" in good.output, good.output
    incomplete(folder)
    layout = read_layout(folder / "kernel.h5")
    with TileReader(layout) as reader:
        tile = np.array(reader.read(4))
    from tests.support.dense import Single

    writer = TileWriter(layout, "posix", Single())
    writer.put(4, tile * np.float32(1.00001))
    writer.close()
    verdict = hpcnk(0, "verify", folder, "--tiles", 100)
    assert verdict.code == 74 and "WRONG: tile 4\n  ->" in verdict.output, verdict.output


def test_a_folder_without_permission(write_deck, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "small").mkdir(mode=0o500)
    ended = hpcnk(2, "run", write_deck())
    assert ended.code == 74 and "Traceback" not in ended.output


def test_a_file_where_the_folder_should_be(write_deck, tmp_path):
    (tmp_path / "small").write_text("in the way")
    ended = hpcnk(2, "run", write_deck())
    assert ended.code == 74, ended.output
    assert "Traceback" not in ended.output


def test_no_output_folder(tmp_path):
    for command in ("status", "verify"):
        ended = hpcnk(0, command, tmp_path)
        assert ended.code == 2 and "Traceback" not in ended.output, ended.output


def test_verify_does_not_mind_entries_near_zero(write_deck, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "vectors.npz"
    arrays = {"x_train": rng.normal(size=(120, 6)), "x_test": rng.normal(size=(20, 6))}
    np.savez(path, y_train=np.arange(120) % 2, y_test=np.arange(20) % 2, **arrays)
    deck = write_deck(data={"path": str(path)}, kernel={"tile": 64})
    assert hpcnk(0, "run", deck).code == 0
    verdict = hpcnk(0, "verify", tmp_path / "small", "--tiles", 100)
    assert verdict.code == 0, verdict.output


def test_a_back_end_that_is_not_there(write_deck):
    problem = device_problem()
    if not problem:
        pytest.skip("there is a GPU here")
    deck = write_deck(kernel={"backend": "gpu"})
    assert hpcnk(0, "check", deck).code == 0  # jobs are planned where there is no GPU
    assert "no usable GPU" in hpcnk(0, "plan", deck).output
    for command in ("run", "kernel"):
        ended = hpcnk(2, command, deck)
        assert ended.code == 1, ended.output
        assert ended.output.count(f"backend gpu: {problem}") == 1, ended.output
        assert "Traceback" not in ended.output


@pytest.fixture
def no_compiler(tmp_path):
    """Variables of a process that finds neither a compiler nor what one made before."""
    return {"CXX": "no-such-compiler", "HPCNK_CACHE": str(tmp_path / "cache")}


@pytest.mark.parametrize("ranks", [0, 2])
def test_no_compiler(ranks, done, no_compiler):
    deck, folder = done
    for command in ("kernel", "run", "solve", "predict"):
        ended = hpcnk(ranks, command, deck, environment=no_compiler)
        assert ended.code == 1, ended.output
        assert ended.output.count("no-such-compiler") == 1, ended.output
        assert "backend: reference" in ended.output and "Traceback" not in ended.output
    for command in ("check", "plan"):
        ended = hpcnk(ranks, command, deck, environment=no_compiler)
        assert ended.code == 0, ended.output
    assert hpcnk(0, "status", folder, environment=no_compiler).code == 0
    ended = hpcnk(0, "verify", folder, environment=no_compiler)
    assert ended.code == 1 and "no-such-compiler" in ended.output, ended.output
    ended = hpcnk(0, "doctor", environment=no_compiler)
    assert ended.code == 1 and "PROBLEM cpu" in ended.output, ended.output


def test_the_reference_needs_no_compiler(write_deck, tmp_path, no_compiler):
    deck = write_deck(kernel={"backend": "reference"})
    for command in ("check", "plan", "run"):
        ended = hpcnk(2, command, deck, environment=no_compiler)
        assert ended.code == 0, ended.output
    assert "back end reference" in ended.output
    assert hpcnk(0, "verify", tmp_path / "small", environment=no_compiler).code == 0


def test_the_compiler_is_started_before_mpi(write_deck, tmp_path):
    """An h5py built with MPI starts it when imported; then the library must be there."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        "#!/bin/sh\n"
        'if grep -qE "/(libmpi|libhdf5)" /proc/$PPID/maps; then echo with MPI >&2; exit 1; fi\n'
        'exec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    environment = {"CXX": str(compiler), "HPCNK_CACHE": str(tmp_path / "cache")}
    ended = hpcnk(3, "run", write_deck(), environment=environment)
    assert ended.code == 0, ended.output
    assert len(list((tmp_path / "cache").rglob("host-*.so"))) == 1


def test_a_reader_that_goes_away(write_deck):
    command = f"{sys.executable} -m hpcnk plan {write_deck()} | true"
    ended = launch(0, ["bash", "-c", command])
    assert "Traceback" not in ended.output and "BrokenPipe" not in ended.output
