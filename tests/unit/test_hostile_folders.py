"""An output folder from a stranger: links and pipes are not followed, misfits are told of."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hpcnk import store
from hpcnk.errors import StorageError, UsageError
from hpcnk.report import EventLog, markdown, misfit_of_report, printable
from hpcnk.run import solve as solve_stage
from hpcnk.run import verify as verify_stage
from hpcnk.run.checkpoint import PASSES, RANK
from hpcnk.run.folder import Folder
from hpcnk.run.guard.heartbeat import Heartbeats, Sign, create_heartbeats
from hpcnk.run.guard.lock import FolderLock, read_holder, running_holder
from hpcnk.run.guard.watchdog import STACKS, Watchdog, open_watchdog
from hpcnk.run.kernel import _open as open_tiles
from hpcnk.run.provenance import train_contents
from hpcnk.run.variances import _open as open_variances
from hpcnk.run.work import works
from hpcnk.store import own
from hpcnk.store.attributes import write_attributes
from hpcnk.store.files import published, storage_errors
from hpcnk.store.journal import Journal
from hpcnk.tiling import TriangleGrid
from tests.support.dense import Single
from tests.support.hostile import (
    KINDS,
    PRECIOUS,
    deep,
    ended,
    place,
    refuses,
    rewrite,
    snapshots,
    untouched,
)  # fmt: skip
from tests.support.mpi import hpcnk

pytestmark = pytest.mark.timeout(60)  # a named pipe must not keep anybody waiting

ONE = Single()


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


# What a run writes in place


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_a_regular_file(empty, kind):
    victim = place(empty / "lock", kind)
    for use in (FolderLock(empty).acquire, lambda: read_holder(empty / "lock")):
        refuses(use, match="lock is (a symbolic link to|no regular file)")
    if kind != "dangling":
        refuses(running_holder, empty, match="lock is")
    untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_look_is_not_opened_either(empty, kind, monkeypatch):
    monkeypatch.setattr(own, "require_regular", lambda path: None)
    victim = place(empty / "a", kind)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT):
        with pytest.raises((StorageError, OSError)):
            store.open_own(empty / "a", flags)
    untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_of_events_is_a_regular_file(empty, kind):
    victim = place(empty / "events.jsonl", kind)
    refuses(EventLog, empty / "events.jsonl", match=r"events.jsonl is (a symbolic|no regular)")
    untouched(victim)
    (empty / "events.jsonl").rmdir() if kind == "folder" else (empty / "events.jsonl").unlink()
    log = EventLog(empty / "events.jsonl")
    place(empty / "events.jsonl", kind)
    log.write("start")  # somebody put it there meanwhile: the log ends, not the run
    untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_signs_of_life_are_not_written_elsewhere(empty, kind):
    path = empty / "heartbeat"
    run = create_heartbeats(path, 1)
    victim = place(path, kind)
    signs = Heartbeats(path, run, 0, 1)
    signs.show(Sign(1, "kernel"))
    assert signs.read() == [None]
    untouched(victim)
    if kind == "folder":
        refuses(create_heartbeats, path, 1, match="writing")
    else:
        assert Heartbeats(path, create_heartbeats(path, 1), 0, 1).read() == [None]
        assert path.is_file() and not path.is_symlink()
    untouched(victim)


def test_signs_of_a_file_that_is_too_large_are_not_read(empty):
    run = create_heartbeats(empty / "heartbeat", 1)
    os.truncate(empty / "heartbeat", 1 << 40)
    assert Heartbeats(empty / "heartbeat", run, 0, 1).read() == [None]


def elsewhere(path):
    """Make a folder a link to one outside, and return that."""
    outside = path.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    path.symlink_to(outside)
    return outside


def test_stacks_are_not_written_elsewhere(empty, capsys):
    outside = elsewhere(empty / STACKS)
    refuses(open_watchdog, 1.0, empty, ONE, match="stacks is a symbolic link")
    signs = Heartbeats(empty / "heartbeat", "a-run", 0, 1)
    watchdog = Watchdog(1.0, signs, empty / STACKS)
    watchdog._write_stacks(signs)
    assert list(outside.iterdir()) == []
    (empty / STACKS).unlink()
    watchdog._write_stacks(signs)
    (written,) = (empty / STACKS / "a-run").iterdir()
    assert "test_stacks_are_not_written_elsewhere" in written.read_text()
    victim = place(written, "link")
    watchdog._write_stacks(signs)
    untouched(victim)
    capsys.readouterr()


@pytest.fixture
def tiles(empty):
    """An unfinished tile file outside, and a link to it."""
    store.create(empty.parent / "kernel.h5", TriangleGrid(11, 4), "float32", {})
    (empty / "kernel.h5").symlink_to(empty.parent / "kernel.h5")
    return empty / "kernel.h5"


def test_tiles_are_not_written_through_a_link(tiles):
    before, layout = tiles.read_bytes(), store.read_layout(tiles)
    for driver in ("posix", "mpio") if h5py.get_config().mpi else ("posix",):
        comm = SimpleNamespace(rank=0, size=1)
        refuses(store.TileWriter, layout, driver, comm, match="kernel.h5 is a symbolic link")
    block = np.ones((4, 4), np.float32)
    refuses(store.replace_tile, layout, 0, block, match="is a symbolic link")
    refuses(store.write_tile_bytes, layout, 0, block, match="is a symbolic link")
    refuses(store.mark_complete, layout, np.zeros(6, np.uint32), match="is a symbolic link")
    assert tiles.read_bytes() == before


def test_a_journal_is_not_written_elsewhere(tiles):
    layout = store.read_layout(tiles)
    outside = elsewhere(layout.journal)
    refuses(Journal, layout, 0, match="journal is a symbolic link")
    refuses(store.read_journals, layout, match="journal is a symbolic link")
    assert list(outside.iterdir()) == []
    layout.journal.unlink()
    layout.journal.write_text("")
    refuses(store.read_journals, layout, match="journal is no folder")


def test_variances_are_not_written_through_a_link(empty):
    outside = empty.parent / "v.h5"
    store.create_variances(outside, {"x_train": 5}, 3, np.dtype("f4"), {})
    (empty / "v.h5").symlink_to(outside)
    before, layout = outside.read_bytes(), store.read_variances_layout(empty / "v.h5")
    refuses(store.VariancesWriter, layout, match="is a symbolic link")
    refuses(store.mark_variances_complete, layout, match="is a symbolic link")
    assert outside.read_bytes() == before


def test_a_folder_in_the_way_is_told_of(empty):
    (empty / "a").mkdir()
    refuses(store.write_text, empty / "a", "text", match="writing .* failed")
    (empty / f".b.{os.getpid()}.tmp").mkdir()
    refuses(store.write_text, empty / "b", "text", match="writing .* failed")


def test_an_error_without_words_is_told_of(empty):
    for error in (OSError(), RuntimeError(""), KeyError()):
        with pytest.raises(StorageError, match="Error"), storage_errors("reading", empty / "a"):
            raise error
    with pytest.raises(StorageError, match="full"), published(empty / "b") as temporary:
        temporary.mkdir()
        raise OSError(errno.ENOSPC, "full")


# The report


@pytest.fixture
def reported(finished, empty):
    """A folder with the report of a finished run alone."""
    shutil.copy(finished / "report.json", empty)
    return Folder(empty)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_report_is_a_regular_file(reported, kind, capsys):
    place(reported.report, kind)
    code, said = ended(capsys, "status", reported.path)
    assert code == 74 and "report.json" in said, said
    assert "no regular file" in said or (kind, "Is a directory" in said) == ("folder", True)


CHANGES = {
    "name": [None, 3, ["a"]],
    "ranks": [None, "2", 1.5, True],
    "versions": [None, [], "a"],
    "warnings": [None, [], {"solve": "text"}, {"solve": [3]}, {"solve": None}],
    "data_hash": [[], {"training": 3}],
    "kernel": [None, {}, []],
    "solve": [{}, [], [{}], [None], 3, None],
    "test": [{}, [{}], [{"mean_squared_error": 1.0}], [{"mean_squared_error": "1"}] * 2],
    "validation": [None, {}, [{"mean_squared_error": 1}, {"mean_squared_error": 1, "r2": 2}]],
    "selected_ridge": ["1", float("nan"), [], False],
}
INNER = {
    ("solve", 0, "ridge"): [None, "1", float("inf"), True],
    ("solve", 1, "converged"): [None, "yes", 1],
    ("solve", 0, "iterations"): [[], 3, ["3"], [1.5]],
    ("solve", 0, "true_relative_residual"): [[], None, ["a"]],
    ("kernel", "seconds"): [None, "1", float("nan"), float("inf")],
    ("kernel", "pairs"): [None, 1.5],
    ("kernel", "engine_share"): [3, {"mean": 0.5}],
    ("test", 1, "accuracy"): [None, "high", {}],
}
CASES = [((key,), value) for key, values in CHANGES.items() for value in values]
CASES += [(path, value) for path, values in INNER.items() for value in values]


@pytest.mark.parametrize(("path", "value"), CASES, ids=str)
def test_a_report_of_another_shape_is_refused(reported, path, value, capsys):
    folder = reported
    report = folder.read_report()
    assert not misfit_of_report(report)
    within = report
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = value
    folder.report.write_text(json.dumps(report))
    code, said = ended(capsys, "status", folder.path)
    assert code == 74 and "is no report of hpcnk: " in said, said
    assert str(path[0]) in said or path[0] in ("solve", "validation")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", deep(100_000), '{"warnings": ' + deep(300) + "}", '{"a": "\xff']
)
def test_a_report_that_is_no_mapping_is_refused(reported, text, capsys):
    reported.report.write_bytes(text.encode("latin-1"))
    code, said = ended(capsys, "status", reported.path)
    assert code == 74 and "report.json" in said, said


@pytest.mark.parametrize("key", ["name", "warnings", "ranks", "deck", "selected_ridge"])
def test_a_report_that_lacks_something_is_refused(reported, key, capsys):
    report = reported.read_report()
    del report[key]
    reported.report.write_text(json.dumps(report))
    code, said = ended(capsys, "status", reported.path)
    assert code == 74 and f"{key} is missing" in said, said


def test_text_that_could_steer_a_terminal_is_spelled_out(reported, capsys):
    folder = reported
    report = folder.read_report()
    report["name"] = "\x1b]0;title\x07 \ud800 \u202e ünï\tcode"
    folder.report.write_text(json.dumps(report))
    code, said = ended(capsys, "status", folder.path)
    assert code == 0 and "\\x1b]0;title\\x07 \\ud800 \\u202e ünï\tcode" in said
    folder.update_report(ranks=3)
    assert "\\ud800" in folder.report.with_suffix(".md").read_text(encoding="utf-8")
    odd = folder.path / "\x1b[31m\udcff"
    code, said = ended(capsys, "verify", odd)
    assert code == 2 and "\x1b" not in said and "\\x1b[31m\\udcff" in said
    assert printable("a\nb\x85\u2028c") == "a\nb\\x85\\u2028c"


def test_a_report_grows_from_stage_to_stage(reported):
    report = reported.read_report()
    for key in (("test",), ("validation", "selected_ridge"), ("solve",), ("kernel",)):
        for name in key:
            report[name] = None
            assert name in ("validation", "solve", "kernel") or not misfit_of_report(report)
            if name in ("solve", "kernel"):
                del report[name]
        assert not misfit_of_report(report)
    assert markdown(report).startswith("# small")


# Tile files


def provenance(path, **changes):
    """Change what a tile file says it was made from; None removes a key."""
    with h5py.File(path, "r+") as file:
        made = {**json.loads(file.attrs["provenance"]), **changes}
        made = {key: value for key, value in made.items() if value is not None}
        write_attributes(file, {"provenance": json.dumps(made)})


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel.kind": None}, {"kernel.kind": "magic"}, {"kernel.kind": ["ntk"]},
        {"kernel.layers": None}, {"kernel.layers": "fc"}, {"kernel.layers": []},
        {"kernel.layers": {"preset": "fc", "depth": 10**9}}, {"kernel.layers": ["magic"]},
        {"kernel.layers": ["flatten", {"dense": {"w_std": "a"}}]},
        {"kernel.layers": [{"avg_pool": 50}, "flatten", "dense"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_kernel_of_no_network_is_refused(done, changes, capsys):
    provenance(done[1].kernel, **changes)
    code, said = ended(capsys, "verify", done[1].path)
    assert code == 74 and "kernel.h5 does not fit: it" in said, said


def test_a_kernel_of_an_unknown_back_end_is_computed_anew(done, capsys):
    provenance(done[1].kernel, **{"kernel.backend": None})
    code, said = ended(capsys, "verify", done[1].path)
    assert code == 0, said


def other_tiles(path, n, tile, m=0, dtype="float32"):
    """Put a complete tile file of another grid in the place of one, with the same provenance."""
    known = store.read_layout(path)
    path.unlink()
    grid = TriangleGrid(n, tile) if not m else type(known.grid)(m, n, tile)
    store.create(path, grid, dtype, known.provenance)
    with h5py.File(path, "r+") as file:
        file["complete"][0] = 1
        file["tiles"][...] = 1
        sums = [store.files.checksum(np.ones((tile, tile), dtype))] * grid.count
        file["checksums"][:] = sums
    return known


@pytest.mark.parametrize(("n", "tile", "dtype"), [(43, 8, "f4"), (44, 9, "f4"), (44, 8, "f8")])
def test_a_kernel_of_other_rows_or_tiles_is_refused(session, n, tile, dtype, capsys):
    folder, deck = session.folder, session.deck
    contents = store.read_attributes(folder.inputs)
    complete = solve_stage._complete
    train = train_contents(contents)
    assert complete(session, folder.kernel, train).complete
    other_tiles(folder.kernel, n, tile, dtype=np.dtype(dtype).name)
    refuses(complete, session, folder.kernel, train, match="kernel.h5 does not fit: it holds")
    engine = SimpleNamespace(backend=store.read_layout(folder.kernel).provenance["kernel.backend"])
    work, _ = works(session, engine, contents)
    refuses(open_tiles, session, work, match="kernel.h5 does not fit: it holds")
    assert deck.kernel.tile == 8
    if n != 44:
        code, said = ended(capsys, "verify", folder.path)
        assert code == 74 and "kernel.h5 does not fit" in said, said


def test_tiles_that_do_not_go_into_memory_are_not_read(done, capsys, monkeypatch):
    monkeypatch.setattr(verify_stage, "available_memory", lambda: 1000)
    code, said = ended(capsys, "verify", done[1].path)
    assert code == 2 and "has tiles of 8: checking one needs 2.816 kB of memory" in said, said
    assert ended(capsys, "verify", done[1].path, "--tiles", 0)[0] == 0


def test_a_tile_of_terabytes_in_a_sparse_file_is_refused(empty):
    path = empty / "kernel.h5"
    try:
        store.create(path, TriangleGrid(1_200_000, 1_200_000), "float64", {})
    except StorageError as error:
        pytest.skip(f"no file of 11 TB here: {error}")
    refuses(verify_stage.verify, empty, 2, 0, match="checking one needs", kind=UsageError)


@pytest.mark.parametrize("change", [{"rows": 40}, {"positions": 9}, {"dtype": "f8"}])
def test_variances_of_another_shape_are_made_anew(session, change):
    path, contents = session.folder.variances, store.read_attributes(session.folder.inputs)
    layout = store.read_variances_layout(path)
    backend = layout.provenance["kernel.backend"]
    engine = SimpleNamespace(backend=backend, dtype=np.dtype("f4"))
    assert open_variances(session, engine, contents).complete
    rows = {part: change.get("rows", n) for part, n in layout.rows.items()}
    dtype = np.dtype(change.get("dtype", layout.dtype))
    positions = change.get("positions", layout.positions)
    odd = store.create_variances(path, rows, positions, dtype, layout.provenance)
    store.mark_variances_complete(odd)
    made = open_variances(session, engine, contents)
    assert not made.complete and (made.rows, made.positions) == (layout.rows, layout.positions)


# Whole runs


@pytest.mark.parametrize("name", ["lock", "events.jsonl", "stacks", "kernel.h5.journal"])
def test_a_run_in_a_folder_with_a_link_is_refused(done, name):
    deck, folder = done
    folder.kernel.unlink()
    target = place(folder.path / name, "link")
    if name in ("stacks", "kernel.h5.journal"):
        target.unlink()
        target.mkdir()
    run = hpcnk(0, "run", deck, limit=40)
    assert run.code == 74 and "Traceback" not in run.output, run.output
    assert run.output.count(f"{name} is a symbolic link to {target}") == 1, run.output
    assert not list(target.iterdir()) if target.is_dir() else target.read_text() == PRECIOUS


def test_a_run_with_pipes_for_files_ends(done):
    deck, folder = done
    for path in (folder.solution, folder.predictions, folder.checkpoint("all", 0)):
        place(path, "pipe")
    run = hpcnk(0, "run", deck, limit=40)
    assert run.code == 0 and "solved anew" in run.output, run.output
    assert folder.solution.is_file() and folder.predictions.is_file()


def test_a_stranger_s_checkpoint_and_solution_do_no_harm(done):
    deck, folder = done
    rewrite(folder.solution, alpha=np.ones((2, 3, 4)))
    attributes = store.read_attributes(folder.solution)
    for turn in (0, 1):
        path = folder.checkpoint("all", turn)
        store.write_arrays(path, snapshots()[turn + 2], {**attributes, PASSES: turn + 3, RANK: 3})
    run = hpcnk(0, "run", deck, limit=40)
    assert run.code == 0 and "Traceback" not in run.output, run.output
    assert run.output.count("a checkpoint cannot be used: ") == 2
    assert not list(folder.path.glob("checkpoint-*"))
