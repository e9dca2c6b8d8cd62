"""The shipped jobscripts under a real Slurm: to the end, stopped and gone on, refused, arrays."""

import re

import pytest

from tests.conftest import PROJECT
from tests.slurm.jobs import Held, logs, make_script, print_script, submit, write_deck
from tests.support.folders import digest, report
from tests.support.mpi import hpcnk


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The digest of the tiles that one process computes, without Slurm."""
    folder = tmp_path_factory.mktemp("whole")
    ended = hpcnk(0, "run", write_deck(folder))
    assert ended.code == 0, ended.output
    return digest(folder / "job")


def test_a_run_to_the_end(slurm, tmp_path, uninterrupted):
    script = print_script(tmp_path, write_deck(tmp_path), "--ranks-per-node", 4)
    job = slurm.wait(submit(slurm, script))
    assert (job.state, job.code) == ("COMPLETED", 0), logs(tmp_path)
    assert report(tmp_path / "job")["ranks"] == 4
    assert digest(tmp_path / "job") == uninterrupted
    assert "jobscript: done" in logs(tmp_path)


def test_a_job_whose_time_is_up_goes_on_by_itself(slurm, tmp_path, uninterrupted):
    script = make_script(tmp_path, [write_deck(tmp_path)], time=60)
    number = submit(slurm, script)
    held = Held(slurm, number, tmp_path / "job")
    slurm.until(lambda: "received USR1" in logs(tmp_path), "warning before the time is up", 70)
    held.release()
    slurm.until(lambda: "requeued" in logs(tmp_path), "requeueing")
    slurm("scontrol", "update", f"JobId={number}", "TimeLimit=30")  # once is enough here
    job = slurm.wait(number)
    assert (job.state, job.fields["Restarts"]) == ("COMPLETED", "1"), logs(tmp_path)
    assert_it_went_on(logs(tmp_path))
    assert digest(tmp_path / "job") == uninterrupted


def assert_it_went_on(log):
    """The second start found tiles of the first, and both wrote to one log."""
    assert [f"start {n} of job" in log for n in (1, 2, 3)] == [True, True, False], log
    done, count = map(int, re.search(r"(\d+) of (\d+) tiles are there, resuming", log).groups())
    assert 0 < done < count, log


def test_a_preempted_job_makes_room_and_goes_on(slurm, tmp_path, uninterrupted):
    script = make_script(tmp_path, [write_deck(tmp_path)])
    number = submit(slurm, script, "--mem=400G")
    held = Held(slurm, number, tmp_path / "job")
    other = slurm("sbatch", "--parsable", "--partition=urgent", "--mem=400G", "--wrap=true")
    slurm.until(lambda: slurm.job(number).fields["PreemptTime"] != "None", "preemption")
    held.release()
    assert slurm.wait(other).state == "COMPLETED"
    job = slurm.wait(number)
    assert (job.state, job.fields["Restarts"]) == ("COMPLETED", "1"), logs(tmp_path)
    assert_it_went_on(logs(tmp_path))
    assert digest(tmp_path / "job") == uninterrupted


def test_scancel_in_the_middle_and_a_fresh_submission(slurm, tmp_path, uninterrupted):
    script = make_script(tmp_path, [write_deck(tmp_path)])
    number = submit(slurm, script)
    held = Held(slurm, number, tmp_path / "job")
    slurm("scancel", number)  # continues what is stopped
    assert slurm.wait(number).state == "CANCELLED"
    slurm.until(lambda: not slurm.ranks(number), "end of the ranks")
    assert "requeued," not in logs(tmp_path) and held.tiles > 0, logs(tmp_path)
    job = slurm.wait(submit(slurm, script))
    assert (job.state, job.fields["Restarts"]) == ("COMPLETED", "0"), logs(tmp_path)
    assert f"{held.tiles} of" in logs(tmp_path) or "tiles are there" in logs(tmp_path)
    assert digest(tmp_path / "job") == uninterrupted


def test_two_jobs_on_one_folder(slurm, tmp_path, uninterrupted):
    script = make_script(tmp_path, [write_deck(tmp_path)])
    first = submit(slurm, script)
    held = Held(slurm, first, tmp_path / "job")
    second = slurm.wait(submit(slurm, script))
    assert (second.state, second.code) == ("FAILED", 2), logs(tmp_path)
    refusal = (tmp_path / f"job-{second.fields['JobId']}.out").read_text()
    assert "another run is at work" in refusal and "failed with code 2" in refusal
    assert any(f"process {rank}" in refusal for rank in held.processes), refusal
    held.release()
    assert slurm.wait(first).state == "COMPLETED", logs(tmp_path)
    assert digest(tmp_path / "job") == uninterrupted


def test_an_array_of_two_decks_of_which_one_is_stopped(slurm, tmp_path, uninterrupted):
    decks = [write_deck(tmp_path, name) for name in ("one", "job")]
    script = make_script(tmp_path, decks, at_once=1)
    number = submit(slurm, script)
    held = Held(slurm, f"{number}_1", tmp_path / "job")
    slurm("scancel", "--batch", "--signal=USR1", f"{number}_1")
    slurm.until(lambda: "received USR1" in logs(tmp_path), "signal")
    held.release()
    jobs = [slurm.wait(f"{number}_{task}") for task in (0, 1)]
    assert [job.state for job in jobs] == ["COMPLETED"] * 2, logs(tmp_path)
    assert [job.fields["Restarts"] for job in jobs] == ["0", "1"], "that task alone starts again"
    assert {digest(tmp_path / name) for name in ("one", "job")} == {uninterrupted}
    assert_it_went_on((tmp_path / f"one-{number}_1.out").read_text())


def test_a_chain_where_requeueing_is_not_used(slurm, tmp_path, uninterrupted):
    shipped = (PROJECT / "jobscripts" / "generic-cpu.sh").read_text()
    header = tmp_path / "chained.sh"
    header.write_text(shipped.replace("requeue=yes", "requeue=no"))
    script = print_script(tmp_path, write_deck(tmp_path), site=header)
    first, second, third = (submit(slurm, script, "--dependency=singleton") for _ in range(3))
    held = Held(slurm, first, tmp_path / "job")
    slurm("scancel", "--batch", "--signal=USR1", first)
    slurm.until(lambda: "received USR1" in logs(tmp_path), "signal")
    held.release()
    ended = slurm.wait(first)
    assert (ended.code, ended.fields["Restarts"]) == (75, "0"), logs(tmp_path)
    assert slurm.wait(second).state == "COMPLETED", logs(tmp_path)
    assert slurm.wait(third).state == "CANCELLED", "nothing is left for it"
    assert "tiles are there, resuming" in logs(tmp_path)
    assert digest(tmp_path / "job") == uninterrupted
