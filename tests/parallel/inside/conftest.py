import os

import pytest

# These run under mpirun, started by test_under_mpirun.py; a plain pytest passes them by.
collect_ignore_glob = [] if os.environ.get("HPCNK_INSIDE") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def comm():
    from hpcnk.comm import world

    return world()
