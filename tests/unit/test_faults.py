"""HPCNK_FAULT, read and refused."""

import pytest

from hpcnk.errors import UsageError
from hpcnk.run.guard.faults import PHASES, STEPS, WRITES, Fault, Faults, parse_fault
from tests.support.fault_matrix import AT_A_STEP, AT_A_WRITE, Case, all_cases
from tests.support.mpi import hpcnk


def test_a_fault_is_read():
    assert parse_fault("rank=1,phase=kernel,after=3,what=sigkill") == Fault(
        1, "kernel", 3, "sigkill"
    )


@pytest.mark.parametrize(
    "text",
    [
        "sigkill",
        "rank=1,phase=kernel,after=3",
        "rank=1,phase=kernel,after=3,what=boom",
        "rank=1,phase=lunch,after=3,what=hang",
        "rank=x,phase=kernel,after=3,what=hang",
        "rank=1,phase=kernel,after=,what=hang",
        "rank=1,phase=kernel,after=3,what=hang,and=more",
    ],
)
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(UsageError, match="expected rank=NUMBER"):
        parse_fault(text)


def test_a_wrong_variable_ends_a_job_with_one_message(write_deck):
    ended = hpcnk(2, "run", write_deck(), environment={"HPCNK_FAULT": "all=bad"})
    assert ended.code == 2 and ended.output.count("HPCNK_FAULT: expected") == 1, ended.output


def test_only_its_rank_phase_and_step_fail():
    text = {"HPCNK_FAULT": "rank=2,phase=solve,after=2,what=raise"}
    other, failing = Faults(1, text), Faults(2, text)
    for _ in range(9):
        other.step("solve")
        failing.step("kernel")
    failing.step("solve")
    failing.step("solve")
    with pytest.raises(RuntimeError, match="HPCNK_FAULT"):
        failing.step("solve")
    failing.step("solve")  # it happens once


def test_the_matrix_has_every_fault_in_every_phase():
    assert set(AT_A_STEP) == set(STEPS) and set(AT_A_WRITE) == set(WRITES)
    cases = all_cases(("posix", "mpio"))
    assert len(cases) == len(set(cases)) == 140
    for phase in PHASES:
        for what in STEPS + WRITES:
            for driver in ("posix", "mpio"):
                assert Case(what, phase, driver, 2, 3, True) in cases
                assert Case(what, phase, driver, 3, 2, False) in cases
