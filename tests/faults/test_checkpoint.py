"""A solve that is interrupted goes on; one that is over is not begun again."""

import pytest

from hpcnk.store import read_arrays
from tests.support.fault_matrix import events
from tests.support.folders import edit, predictions, report
from tests.support.mpi import hpcnk

SOLVE = {"ridge": [1e-5, 1e-3], "tolerance": 1e-10, "checkpoint": {"iterations": 3}}
DATA = {"validation": 6}
LATER = {"HPCNK_FAULT": "rank=0,phase=solve,after=8,what=sigusr1"}
GOING_ON = "going on after"


@pytest.fixture
def interrupted(write_deck, tmp_path):
    """A deck whose solve was stopped after 8 passes, and its folder."""
    deck = write_deck(data=DATA, solve=SOLVE)
    ended = hpcnk(2, "run", deck, environment=LATER)
    assert ended.code == 75 and "the state of the solver is stored" in ended.output, ended.output
    return deck, tmp_path / "small"


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*.h5"))


def damage(path):
    """Change one byte in the middle of the file's data."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def test_a_solve_goes_on_and_its_checkpoints_go_at_the_end(interrupted):
    deck, folder = interrupted
    assert len(checkpoints(folder)) == 2
    ended = hpcnk(1, "run", deck)
    assert ended.code == 0 and f"{GOING_ON} 8 passes" in ended.output, ended.output
    assert not checkpoints(folder)
    stored = [event["iteration"] for event in events(folder) if event["event"] == "checkpoint"]
    assert stored[:5] == [3, 6, 8, 11, 14]


def test_a_solve_goes_on_under_another_limit(interrupted):
    deck, _ = interrupted
    edit(deck, "solve", max_iterations=900)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and f"{GOING_ON} 8 passes" in ended.output, ended.output


def test_why_a_checkpoint_is_not_used_is_told(interrupted):
    deck, _ = interrupted
    edit(deck, "solve", tolerance=1e-9)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and GOING_ON not in ended.output, ended.output
    assert "for solve.tolerance: was 1e-10, is now 1e-09" in ended.output, ended.output


def test_the_first_write_after_a_start_spares_the_newest(interrupted):
    deck, _ = interrupted
    torn = {"HPCNK_FAULT": "rank=0,phase=solve,after=0,what=half"}
    assert hpcnk(2, "run", deck, environment=torn).code not in (0, 1)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and f"{GOING_ON} 8 passes" in ended.output, ended.output


def test_a_signal_to_one_rank_stops_all_in_the_solve(write_deck):
    deck = write_deck(data=DATA, solve=SOLVE)
    environment = {"HPCNK_FAULT": "rank=1,phase=solve,after=8,what=sigterm"}
    ended = hpcnk(2, "run", deck, environment=environment)
    assert ended.code == 75 and "the state of the solver is stored" in ended.output, ended.output


def test_the_second_solve_goes_on_without_the_first(write_deck, tmp_path):
    deck = write_deck(data=DATA, solve=SOLVE)
    first = hpcnk(2, "run", deck)
    passes = int(first.output.split(" systems in ")[1].split()[0])  # of the solve that validates
    environment = {"HPCNK_FAULT": f"rank=1,phase=solve,after={passes + 4},what=sigkill"}
    (tmp_path / "small" / "solution.h5").unlink()
    assert hpcnk(2, "run", deck, environment=environment).code not in (0, 1)
    ended = hpcnk(3, "run", deck)
    assert ended.code == 0, ended.output
    assert f"without 6 rows: {GOING_ON} {passes} passes" in ended.output, ended.output
    assert f"all training rows: {GOING_ON} 3 passes" in ended.output, ended.output


@pytest.mark.parametrize(
    "changed", [{"tolerance": 1e-9}, {"preconditioner": {"rank": 3}}, {"ridge": [1e-5, 1e-2]}]
)
def test_a_state_of_other_settings_is_left_alone(interrupted, changed):
    deck, _ = interrupted
    edit(deck, "solve", **changed)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and GOING_ON not in ended.output, ended.output


def test_damage_to_the_newest_costs_the_passes_since_the_other(interrupted):
    deck, folder = interrupted
    newest = max(checkpoints(folder), key=lambda path: path.stat().st_mtime_ns)
    damage(newest)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and f"{GOING_ON} 6 passes" in ended.output, ended.output
    assert any("checkpoint" in text for text in report(folder)["warnings"]["solve"])


def test_damage_to_both_costs_the_solve(interrupted):
    deck, folder = interrupted
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:900])
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and GOING_ON not in ended.output, ended.output


def test_without_checkpoints_a_signal_still_leaves_one(write_deck, tmp_path):
    deck = write_deck(data=DATA, solve={**SOLVE, "checkpoint": "none"})
    assert hpcnk(2, "run", deck, environment=LATER).code == 75
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and f"{GOING_ON} 8 passes" in ended.output, ended.output


def test_time_alone_makes_a_checkpoint_due(write_deck, tmp_path):
    deck = write_deck(solve={**SOLVE, "checkpoint": {"minutes": 1e-9}})
    environment = {"HPCNK_FAULT": "rank=0,phase=solve,after=8,what=sigkill"}
    assert hpcnk(1, "run", deck, environment=environment).code not in (0, 75)
    assert f"{GOING_ON} 7 passes" in hpcnk(1, "run", deck).output


def test_a_finished_job_solves_nothing_again(done):
    deck, folder = done
    before = (folder / "solution.h5").stat().st_mtime_ns, predictions(folder)[0].tobytes()
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "solve: complete already" in ended.output, ended.output
    assert before == (
        (folder / "solution.h5").stat().st_mtime_ns,
        predictions(folder)[0].tobytes(),
    )


def test_a_damaged_solution_is_found_anew(done):
    deck, folder = done
    before = predictions(folder)[0].tobytes()
    path = folder / "solution.h5"
    (alpha,) = read_arrays(path, "alpha")
    content = path.read_bytes()
    assert content.count(alpha.tobytes()) == 1
    path.write_bytes(content.replace(alpha.tobytes(), (alpha + 1e-9).tobytes()))
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "solved anew, for" in ended.output, ended.output
    assert predictions(folder)[0].tobytes() == before
    assert report(folder)["warnings"]["repair"]


@pytest.mark.parametrize(
    "section,changed", [("solve", {"tolerance": 0.5}), ("data", {"seed": 5, "validation": 7})]
)
def test_predictions_of_other_settings_are_refused(done, section, changed):
    deck, _ = done
    edit(deck, section, **changed)
    ended = hpcnk(2, "predict", deck)
    assert ended.code == 2 and "was solved otherwise" in ended.output, ended.output
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "solve: anew, for" in ended.output, ended.output


def test_what_a_kill_left_beside_the_solution_goes_with_the_next_start(done):
    deck, folder = done
    for name in (
        "checkpoint-all-0.h5",
        "checkpoint-validation-1.h5",
        ".solution.h5.77.tmp",
        "stop",
    ):
        (folder / name).write_bytes(b"left over")
    assert hpcnk(2, "run", deck).code == 0
    assert not [path.name for path in folder.iterdir() if path.name[0] == "."]
    assert not checkpoints(folder) and not (folder / "stop").exists()


def test_a_solve_that_failed_stays_so_after_a_start(write_deck, tmp_path):
    """One column reaches its limit and leaves before the other; what is stored says so."""
    deck = write_deck(solve={**SOLVE, "ridge": [1e-6, 10.0], "max_iterations": 12})
    first = hpcnk(1, "run", deck)
    assert first.code == 0 and "max_iterations" in first.output, first.output
    expected = report(tmp_path / "small")["solve"]
    (tmp_path / "small" / "solution.h5").unlink()
    late = {"HPCNK_FAULT": "rank=0,phase=solve,after=13,what=sigusr1"}
    stopped = hpcnk(1, "run", deck, environment=late)
    assert stopped.code == 75, stopped.output
    assert hpcnk(1, "run", deck).code == 0
    assert report(tmp_path / "small")["solve"] == expected
