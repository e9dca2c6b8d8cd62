import h5py
import pytest

DRIVERS = ("posix", "mpio")


@pytest.fixture(params=DRIVERS)
def driver(request):
    """Both store drivers, as far as this h5py has them."""
    if request.param == "mpio" and not h5py.get_config().mpi:
        pytest.skip("h5py is a serial build: no mpio driver here")
    return request.param
