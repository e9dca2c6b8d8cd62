"""Where the output may be: each place works, or is refused in words."""

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml

from hpcnk.engine.build import built_library
from hpcnk.errors import StorageError, UsageError
from hpcnk.run.folder import Folder
from hpcnk.run.guard.output import require_apart
from hpcnk.run.status import status
from hpcnk.run.verify import verify
from tests.conftest import small_deck
from tests.support.folders import digest
from tests.support.mpi import HPCNK, hpcnk, launch, mpirun

# A root that may not do what the permissions of files forbid.
ORDINARY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def deck_for(folder, output, **options):
    """A small deck with this text as its output."""
    deck = small_deck(folder, **options)
    content = yaml.safe_load(deck.read_text())
    deck.write_text(yaml.safe_dump({**content, "output": str(output)}, allow_unicode=True))
    return deck


def refused(code, *words, command="run", ranks=0, argument, **options):
    """Run a command that must end with this code and say these words, once."""
    ended = hpcnk(ranks, command, argument, **options)
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert ended.output.count(word) == 1, ended.output


@contextmanager
def mounted(folder):
    """A small file system of its own at this folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "hpcnk-test", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@pytest.mark.parametrize("place", ["Läufe 1/日本 ñ", "a:b/nfs:c", "x/../y//", "%d $x 'q' \"\\"])
def test_odd_names(tmp_path, place, driver):
    folder = tmp_path / "Versuch é {1}"
    folder.mkdir()
    deck = deck_for(folder, folder / place, name="Größe 2", store={"driver": driver})
    text = deck.read_text().replace("$", "$$")  # a deck's own dollar sign
    deck.write_text(text, encoding="utf-8")
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0, ended.output
    output = os.path.normpath(folder / place)
    assert hpcnk(0, "verify", output, "--tiles", "0").code == 0
    told = hpcnk(0, "status", output)
    assert told.code == 0 and "Größe 2" in told.output, told.output


def test_a_relative_path_is_relative_to_the_working_directory_of_rank_0(tmp_path):
    deck = deck_for(tmp_path, "runs/deep/one/")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = (
        ["-n", "1", "-wdir", tmp_path / name, *HPCNK, "run", deck] for name in ("here", "there")
    )
    if mpirun() is None:
        pytest.skip("no mpirun")
    ended = launch(0, [mpirun(), *here, ":", *there])
    assert ended.code == 0, ended.output
    assert (tmp_path / "here" / "runs" / "deep" / "one" / "predictions.h5").exists()
    assert not list((tmp_path / "there").iterdir())
    told = hpcnk(0, "status", "runs/deep/one", cwd=tmp_path / "here")
    assert told.code == 0 and "on 2 rank(s)" in told.output, told.output


def test_the_home_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "HPCNK_CACHE": str(built_library().parent)}
    ended = hpcnk(0, "run", deck_for(tmp_path, "~/runs"), environment=environment)
    assert ended.code == 0, ended.output
    assert (home / "runs" / "predictions.h5").exists()


def test_a_working_directory_that_is_gone(tmp_path):
    deck = deck_for(tmp_path, "runs")
    script = f'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@" run {deck}'
    ended = launch(0, ["sh", "-c", script, *HPCNK], cwd=tmp_path)
    assert ended.code == 74 and "working directory, which is gone" in ended.output, ended.output
    assert "Traceback" not in ended.output


def test_a_link_to_a_folder_on_another_file_system(write_deck, tmp_path, driver):
    with mounted(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        (tmp_path / "small").symlink_to(disk / "run")
        deck = write_deck(store={"driver": driver})
        ended = hpcnk(2, "run", deck)
        assert ended.code == 0, ended.output
        whole = digest(disk / "run")
        read_only(disk)
        assert digest(tmp_path / "small") == whole
        assert hpcnk(0, "status", tmp_path / "small").code == 0
        assert hpcnk(0, "verify", tmp_path / "small", "--tiles", "0").code == 0
        refused(74, "the file system is read-only; choose", argument=deck, ranks=2)


def test_what_stands_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    link = f"{tmp_path}/dangling is a symbolic link to {tmp_path}/nowhere, which is no folder"
    ways = {
        "file": f"{tmp_path}/file is a file",
        "file/below": f"{tmp_path}/file is a file",
        "dangling": link,
        "dangling/below": link,
        "loop": "loop is a symbolic link to",
        "e" * 300: "too long; choose a shorter `output`",
        "/".join(["d" * 200] * 21): "too long; choose a shorter `output`",
    }
    for place, words in ways.items():
        with pytest.raises(StorageError, match=re.escape(words)):
            Folder(tmp_path / place).make()
        expected = StorageError if "long" in words else UsageError
        with pytest.raises(expected):
            status(tmp_path / place)
        with pytest.raises(expected):
            verify(tmp_path / place, 0, 0)
    for place in ("file", "e" * 300):
        refused(74, ways[place], argument=deck_for(tmp_path, tmp_path / place), ranks=2)
        code = 2 if place == "file" else 74
        refused(code, str(tmp_path / place), command="status", argument=tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_is_too_long_for_mpi_io(tmp_path, driver):
    long = tmp_path / "/".join(["d" * 100] * 4)
    deck = deck_for(tmp_path, long, store={"driver": driver})
    if driver == "mpio" and "Open MPI" in hpcnk(0, "doctor").output:
        refused(2, "choose a shorter `output`, or store.driver: posix", argument=deck, ranks=2)
        environment = {"OMPI_MCA_io": "^ompio"}
    else:
        environment = {}
    ended = hpcnk(2, "run", deck, environment=environment)
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("ranks", [0, 2])
def test_without_permission(tmp_path, ranks):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to be an ordinary user for one command")
    closed, hidden = tmp_path / "closed", tmp_path / "hidden"
    for folder, mode in ((closed, 0o555), (hidden, 0o000)):
        folder.mkdir()
        folder.chmod(mode)

    def ordinary(command, argument):
        start = [mpirun(), "-n", str(ranks)] if ranks else []
        ended = launch(0, [*ORDINARY, *start, *HPCNK, command, argument])
        assert ended.code == 74, ended.output
        assert ended.output.count("Permission denied") == 1, ended.output
        assert "check who may read and write there" in ended.output
        assert "Traceback" not in ended.output

    ordinary("run", deck_for(tmp_path, closed))
    ordinary("run", deck_for(tmp_path, hidden / "run"))
    if not ranks:
        ordinary("run", deck_for(tmp_path, closed / "run"))
        ordinary("solve", deck_for(tmp_path, hidden))
        for command in ("status", "verify"):
            ordinary(command, hidden)
    hidden.chmod(0o755)
    assert not list(closed.iterdir()) and not list(hidden.iterdir())


def test_a_folder_that_may_be_read_alone(done):
    deck, folder = done
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to be an ordinary user for one command")
    for path in folder.iterdir():
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    ended = launch(0, [*ORDINARY, *HPCNK, "run", deck])
    assert ended.code == 74 and "Permission denied" in ended.output, ended.output
    assert "Traceback" not in ended.output
    for command in ("status", "verify"):
        ended = launch(0, [*ORDINARY, *HPCNK, command, folder])
        assert ended.code == 0, ended.output


def test_results_in_the_place_of_the_data_are_refused(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    rng = np.random.default_rng(0)
    data = folder / "predictions.h5"
    with h5py.File(data, "w") as file:
        for part, n in (("train", 20), ("test", 5)):
            file[f"x_{part}"] = rng.normal(size=(n, 4))
            file[f"y_{part}"] = np.arange(n) % 2
    before = data.read_bytes()
    deck = small_deck(tmp_path, data={"path": str(data)})
    refused(2, "has the place of one that the run writes", argument=deck, ranks=2)
    assert data.read_bytes() == before and list(folder.iterdir()) == [data]


def test_the_folder_of_the_data_is_refused_under_any_name(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    deck = SimpleNamespace(data=SimpleNamespace(path=tmp_path / "data"))
    require_apart(deck, Folder(tmp_path / "data" / "runs"))
    with pytest.raises(UsageError, match="is the folder of the data"):
        require_apart(deck, Folder(tmp_path / "link"))
    require_apart(SimpleNamespace(data=SimpleNamespace(path=None)), Folder(tmp_path / "data"))
