from hpcnk.run import doctor
from tests.support.mpi import hpcnk


def test_two_mpi_libraries_are_found():
    maps = ["/usr/lib/libmpi.so.40", "/opt/mpich/lib/libmpi.so.12", "/usr/lib/libmpi_cxx.so.40"]
    finding = doctor._libraries(maps)
    assert finding.advice and "2 MPI libraries" in finding.text
    assert not doctor._libraries(maps[:1]).advice
    assert not doctor._libraries(maps[:1] * 2).advice


def test_the_doctor_on_two_ranks_speaks_once():
    ended = hpcnk(2, "doctor")
    assert ended.code == 0, ended.output
    assert ended.output.count("hdf5") == 1 and "2 rank(s)" in ended.output
    assert "PROBLEM" not in ended.output


def test_the_doctor_sees_a_foreign_launcher():
    ended = hpcnk(0, "doctor", environment={"PMI_RANK": "0", "PMI_SIZE": "2"})
    assert ended.code == 1, ended.output
    assert "PROBLEM" in ended.output and "sees 1" in ended.output


def test_the_doctor_names_the_compiler_and_the_width_of_vectors():
    ended = hpcnk(0, "doctor")
    assert "engine built by" in ended.output and "lanes of float32" in ended.output
    line = next(line for line in ended.output.splitlines() if " gpu " in line)
    assert "usable" in line or "not used: " in line
