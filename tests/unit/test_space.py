"""What a job's files take, and which file systems will do."""

import os
from pathlib import Path

import numpy as np
import pytest

from hpcnk.deck import read_deck
from hpcnk.errors import DiskFull, StorageError, UsageError
from hpcnk.kernels import find_problems
from hpcnk.run.folder import Folder
from hpcnk.run.needs import space
from hpcnk.run.needs.filesystem import FileSystem, file_system, find_mount, nearest
from hpcnk.run.needs.space import Need, Rows, allocated, check_coherence, check_space, job_needs
from hpcnk.store import TileWriter, create, mark_complete, read_layout
from hpcnk.store.journal import LINE_BYTES
from hpcnk.tiling import TriangleGrid
from tests.conftest import small_deck
from tests.support.dense import Single

ROWS = Rows(train=100, test=20, input_shape=(6, 6, 2), outputs=3)
TILE = 64
TILE_BYTES = TILE**2 * 8

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2,hard
31 22 0:41 / /scratch rw,noatime shared:3 master:1 - lustre 10.0.0.1@o2ib:/s rw,localflock
32 22 0:42 / /a\040b\134c rw - xfs /dev/sdb rw
33 30 0:43 / /home/me/local rw - tmpfs none rw,size=10k
34 22 0:44 / /scratch rw - ext4 /dev/sdc rw
""".strip().splitlines()


@pytest.fixture
def deck(tmp_path):
    kernel = {"tile": TILE, "dtype": "float64"}
    return read_deck(small_deck(tmp_path, kernel=kernel), find_problems)


def need(needs, name):
    return next(one for one in needs if one.name == name)


def test_needs_are_those_of_the_plan(deck, tmp_path):
    needs = job_needs(Folder(tmp_path / "small"), deck, ROWS)
    assert need(needs, "kernel.h5").missing == 3 * (TILE_BYTES + LINE_BYTES + 4)
    assert need(needs, "test_kernel.h5").missing == 2 * (TILE_BYTES + LINE_BYTES + 4)
    systems = 3 * 2  # outputs, ridges
    assert need(needs, "results").missing == (120 * systems + 20 * 3) * 8
    # x, r and p: two files in turn and a third while it is written; with validation one more
    files = 4 if deck.data.validation else 3
    assert need(needs, "the solver's checkpoints").missing == files * 3 * 100 * systems * 8
    # fc: one variance a layer and the diagonal of each row, and a checksum every 64 rows
    assert need(needs, "variances.h5").missing > 120 * 8


def test_only_what_is_missing_counts(deck, tmp_path):
    folder = Folder(tmp_path / "small")
    folder.make()
    create(folder.kernel, TriangleGrid(100, TILE), "float64", {})
    layout = read_layout(folder.kernel)
    empty = need(job_needs(folder, deck, ROWS), "kernel.h5")
    assert empty.there < TILE_BYTES, "a sparse file has nothing yet"
    with TileWriter(layout, "posix", Single()) as writer:
        writer.put(1, np.ones((TILE, TILE)))
    one = need(job_needs(folder, deck, ROWS), "kernel.h5")
    assert TILE_BYTES <= one.there - empty.there < 2 * TILE_BYTES
    mark_complete(layout, np.zeros(3, np.uint32))
    assert need(job_needs(folder, deck, ROWS), "kernel.h5").missing == 0


def test_tiles_on_a_disk_that_compresses_count_in_full(deck, tmp_path, monkeypatch):
    folder = Folder(tmp_path / "small")
    folder.make()
    create(folder.kernel, TriangleGrid(100, TILE), "float64", {})
    with TileWriter(read_layout(folder.kernel), "posix", Single()) as writer:
        for number in (0, 2):
            writer.put(number, np.ones((TILE, TILE)))
    monkeypatch.setattr(space, "allocated", lambda path: 512)
    one = need(job_needs(folder, deck, ROWS), "kernel.h5")
    assert one.missing == TILE_BYTES + LINE_BYTES + 4


def test_holes_are_not_counted(tmp_path):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"x" * 100_000)
        os.fsync(file.fileno())
    assert 100_000 <= allocated(path) < 1 << 20
    assert allocated(tmp_path / "none") == 0


def test_the_numbers_in_the_message(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free_bytes", lambda place: 700_000_000)
    needs = [Need("kernel.h5", 3_000_000_000, 2_500_000_000), Need("results", 300_000_000)]
    with pytest.raises(StorageError) as caught:
        check_space(tmp_path / "not" / "there", needs)
    assert "write 800 MB (500 MB kernel.h5, 300 MB results), and 700 MB is free on" in str(
        caught.value
    )
    assert str(file_system(tmp_path)) in caught.value.what
    assert caught.value.what.endswith(": 100 MB is missing")
    check_space(tmp_path, [Need("kernel.h5", 3_000_000_000, 2_500_000_000)])
    monkeypatch.setattr(space, "free_bytes", lambda place: None)
    check_space(tmp_path, needs)  # a file system that does not tell
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_the_file_system_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free_bytes", lambda place: 1 << 80)
    with pytest.raises(StorageError, match=r"kernel.h5 will have .* cannot hold so large a file"):
        check_space(tmp_path, [Need("results", 1), Need("kernel.h5", (1 << 63) - (1 << 25))])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_its_own_and_stays_agreed(monkeypatch):
    monkeypatch.setattr(space, "_lack", lambda session: "; 3 GB is missing")
    for agreed in (False, True):
        error = DiskFull("writing failed", "free space")
        error.agreed = agreed
        with pytest.raises(DiskFull) as caught, space.full_disk_explained(None):
            raise error
        assert str(caught.value) == "writing failed; 3 GB is missing\n  -> free space"
        assert caught.value.agreed == agreed and caught.value.exit_code == 74


@pytest.mark.parametrize(
    "path,mount,kind",
    [
        ("/var/x", "/", "ext4"),
        ("/home/me/x", "/home", "nfs4"),
        ("/home/me/local/x", "/home/me/local", "tmpfs"),
        ("/home/me/locally", "/home", "nfs4"),
        ("/a b\\c/x", "/a b\\c", "xfs"),
        ("/scratch", "/scratch", "ext4"),  # the last one hides the others
    ],
)
def test_mounts(path, mount, kind):
    found = find_mount(Path(path), MOUNTS)
    assert (found.mount, found.kind) == (mount, kind)


def test_locks_and_caches_of_file_systems():
    lustre = find_mount(Path("/scratch"), MOUNTS[:-1])
    assert lustre.kind == "lustre" and lustre.locks_are_local and not lustre.cached_by_host
    nfs = find_mount(Path("/home"), MOUNTS)
    assert nfs.cached_by_host and not nfs.locks_are_local
    assert FileSystem("/", "nfs", frozenset({"local_lock=all"})).locks_are_local


def test_posix_from_several_hosts_is_refused_where_hosts_cache():
    nfs = find_mount(Path("/home"), MOUNTS)
    with pytest.raises(UsageError, match=r"from 2 hosts to one file on /home \(nfs4\)"):
        check_coherence(nfs, "posix", 2)
    check_coherence(nfs, "posix", 1)
    check_coherence(nfs, "mpio", 2)
    check_coherence(find_mount(Path("/scratch"), MOUNTS), "posix", 2)


def test_this_machine_knows_its_file_systems(tmp_path):
    found = file_system(tmp_path / "a" / "b")
    assert found.kind and nearest(tmp_path / "a" / "b") == tmp_path
    assert file_system(Path("/proc/self")).kind == "proc"


def test_the_length_of_a_path_under_open_mpi(monkeypatch):
    monkeypatch.setattr(space, "library_version", lambda: "Open MPI v4.1.4")
    monkeypatch.delenv("OMPI_MCA_io", raising=False)
    long = Path("/" + "é" * 121)  # bytes count
    with pytest.raises(UsageError, match="has 243 bytes"):
        space.check_path(long, "mpio")
    space.check_path(long, "posix")
    space.check_path(Path("/" + "e" * 239), "mpio")
    monkeypatch.setenv("OMPI_MCA_io", "^ompio")
    space.check_path(long, "mpio")
    monkeypatch.delenv("OMPI_MCA_io")
    monkeypatch.setattr(space, "library_version", lambda: "MPICH Version: 4.2")
    space.check_path(long, "mpio")
