import os

import pytest

# These run under mpirun, started by test_under_mpirun.py; a plain pytest passes them by.
collect_ignore_glob = [] if "HPCNK_INSIDE" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def comm():
    from hpcnk.comm import world

    return world()
