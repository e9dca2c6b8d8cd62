"""What Slurm makes of the shipped headers: accepted as they are, and GPUs handed out."""

import sys
from pathlib import Path

import pytest

from hpcnk.run.slurm.site import site_names
from tests.conftest import PROJECT
from tests.slurm.jobs import logs, make_script, submit, swap_program, write_deck

HERE = Path(__file__).parent


@pytest.mark.parametrize("site", site_names())
def test_slurm_understands_the_header(slurm, tmp_path, site):
    number = slurm.submit(make_script(tmp_path, [write_deck(tmp_path)], site), "--hold")
    job = slurm.job(number)
    slurm("scancel", number)
    assert job.fields["JobName"].startswith("job")
    assert job.fields["NumNodes"] == "1-1"
    assert job.fields["Requeue"] == ("0" if site == "juelich" else "1")
    assert ("gpu" in job.fields.get("TresPerNode", "")) == (site != "generic-cpu")


def test_slurm_reads_no_option_in_a_path(slurm, tmp_path):
    folder = tmp_path / "a b'; $(exit 3)\n#SBATCH --comment=other\n"
    folder.mkdir()
    number = slurm.submit(make_script(folder, [write_deck(folder)], "generic-cpu"), "--hold")
    job = slurm.job(number)
    slurm("scancel", number)
    assert job.fields["NumNodes"] == "1-1" and "Comment" not in job.fields


@pytest.mark.parametrize(
    "gpus,ranks,taken", [(4, 4, ["0", "1", "2", "3"]), (2, 4, ["0", "1", "0", "1"])]
)
def test_each_rank_takes_the_gpu_of_its_number(slurm, tmp_path, monkeypatch, gpus, ranks, taken):
    """The allocation is real, the GPUs are device files: the program stops after opening one."""
    script = make_script(tmp_path, [write_deck(tmp_path)], "generic-gpu", ranks_per_node=ranks)
    swap_program(script, sys.executable, HERE / "open_device.py")
    monkeypatch.setenv("PYTHONPATH", f"{HERE / 'fake'}:{PROJECT}")
    job = slurm.wait(submit(slurm, script, f"--gpus-per-node={gpus}"))
    assert job.state == "COMPLETED", logs(tmp_path)
    visible = [str(number) for number in range(gpus)]
    for rank, gpu in enumerate(taken):
        assert f"rank {rank} takes GPU {gpu} of {visible}" in logs(tmp_path)
