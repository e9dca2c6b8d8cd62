"""What the body does when a job ends one way or another. Needs no Slurm: its commands are stubs."""

import os
import signal
import subprocess

import pytest

from tests.slurm.jobs import make_script, swap_program, write_deck

# Each notes its call; squeue knows the job's own state and two others of its name.
STUBS = {
    "srun": 'shift; exec "$@"',
    "squeue": """case "$*" in
        *--jobs=*) echo "${STATE-RUNNING}" ;;
        *) printf '17 singleton(unfulfilled)\\n18 (null)\\n' ;;
    esac""",
    "scontrol": "exit ${SCONTROL_CODE-0}",
    "scancel": ":",
}
# Ends with $CODE; or waits for USR1, and then finishes a checkpoint if there is $FINISHES.
PROGRAM = """
mkdir -p "$OUT"
[ -z "${CODE-}" ] || exit "$CODE"
trap '[ -z "${FINISHES-}" ] || echo x > "$OUT/checkpoint-final-0.h5"; exit 75' USR1
touch "$OUT/report.json"
echo "the program listens"
while :; do sleep 0.02; done
"""
ENVIRONMENT = {
    "SLURM_JOB_ID": "5",
    "SLURM_JOB_NAME": "job",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_CPUS_PER_TASK": "3",
}


class Script:
    """A script of a site, with another program and stubs of Slurm's commands."""

    def __init__(self, folder, site, decks):
        self.folder, self.environment = folder, {**os.environ, **ENVIRONMENT}
        bin_folder, program = folder / "bin", folder / "program.sh"
        bin_folder.mkdir()
        for name, text in STUBS.items():
            stub = bin_folder / name
            stub.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{text}\n')
            stub.chmod(0o755)
        program.write_text(PROGRAM)
        self.environment["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
        self.environment["OUT"] = str(folder / "job")
        self.path = make_script(folder, decks, site)
        swap_program(self.path, "bash", program)

    def start(self, **environment):
        return subprocess.Popen(
            ["bash", self.path],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **environment):
        """Return the exit code and the output."""
        process = self.start(**environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def signalled(self, number, **environment):
        """The same, the shell being signalled when the program listens."""
        process = self.start(**environment)
        said = ""
        while "the program listens" not in said:
            said += process.stdout.readline()
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        return process.returncode, said + output

    @property
    def calls(self):
        """The calls that change anything."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(("scontrol", "scancel"))]


@pytest.fixture
def make(tmp_path):
    def make(site="generic-cpu", names=("job",)):
        return Script(tmp_path, site, [write_deck(tmp_path, name) for name in names])

    return make


@pytest.mark.parametrize("code", [0, 1, 2, 65, 74, 137])
def test_codes_are_kept_and_only_a_stopped_job_is_requeued(make, code):
    script = make()
    assert script.run(CODE=str(code))[0] == code
    assert script.calls == []


@pytest.mark.parametrize("code", [75, 138, 143])
def test_a_stopped_job_is_requeued(make, code):
    script = make()
    ended, output = script.run(CODE=str(code), SLURM_RESTART_COUNT="3")
    assert (ended, script.calls) == (75, ["scontrol requeue 5"]), output
    assert "start 4 of job 5" in output and "requeued" in output


@pytest.mark.parametrize(
    "environment,reason",
    [
        ({"STATE": "COMPLETING"}, "Slurm ends it (COMPLETING)"),
        ({"STATE": ""}, "it is gone"),
        ({"SLURM_RESTART_COUNT": "100"}, "it was restarted 100 times"),
    ],
)
def test_a_job_that_must_not_come_back(make, environment, reason):
    script = make()
    code, output = script.run(CODE="75", **environment)
    assert (code, script.calls) == (75, []), output
    assert reason in output


def test_a_refused_requeue_is_told(make):
    code, output = make().run(CODE="75", SCONTROL_CODE="1")
    assert code == 75 and "Slurm refuses" in output


@pytest.mark.parametrize(
    "number,finishes,again",
    [
        (signal.SIGUSR1, "yes", True),
        (signal.SIGUSR1, "", False),
        (signal.SIGTERM, "", True),  # preempted early: the next start may have more time
    ],
)
def test_a_time_limit_in_which_nothing_was_finished_is_not_repeated(make, number, finishes, again):
    script = make()
    code, output = script.signalled(number, FINISHES=finishes)
    assert code == 75 and f"received {number.name[3:]}" in output, output
    assert script.calls == (["scontrol requeue 5"] if again else []), output
    assert ("nothing was finished" in output) != again


def test_a_signal_before_srun_is_passed_on_when_it_has_started(make, tmp_path):
    """The shell asks for the date before it starts srun; then the program waits for a signal."""
    script, stub = make(), tmp_path / "bin" / "date"
    stub.write_text('#!/bin/bash\n[ -e "$0.done" ] || kill -TERM $PPID\ntouch "$0.done"\n')
    stub.chmod(0o755)
    code, output = script.run()
    assert (code, script.calls) == (75, ["scontrol requeue 5"]), output


@pytest.mark.parametrize("code,calls", [(0, ["scancel 17"]), (65, ["scancel 17"]), (75, [])])
def test_a_chain_ends_with_its_work(make, code, calls):
    script = make("juelich")
    ended, output = script.run(CODE=str(code))
    assert (ended, script.calls) == (code, calls), output


def test_a_task_of_an_array_requeues_itself_alone(make):
    script = make(names=("one", "job"))
    ended, output = script.run(CODE="75", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="1")
    assert (ended, script.calls) == (75, ["scontrol requeue 5_1"]), output
    srun = (script.folder / "calls").read_text().splitlines()[0]
    assert srun.endswith(f"run {script.folder / 'job.yaml'}")


def test_a_task_of_an_array_leaves_the_chain_to_the_others(make):
    script = make("juelich", ("one", "job"))
    ended, output = script.run(CODE="0", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="0")
    assert (ended, script.calls) == (0, []), output


def test_what_the_ranks_see(make, tmp_path):
    script = make()
    (tmp_path / "program.sh").write_text("env")
    seen = dict(line.split("=", 1) for line in script.run()[1].splitlines() if "=" in line)
    assert seen["SRUN_CPUS_PER_TASK"] == seen["OMP_NUM_THREADS"] == "3"
    assert seen["CUPY_CACHE_DIR"].startswith(seen.get("TMPDIR", "/tmp"))
    assert seen["CUPY_CACHE_DIR"].endswith("-5") and seen["CUPY_TF32"] == "0"
